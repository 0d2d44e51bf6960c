"""Whether two trees of this package compute the same numbers: every command on every sample, compared field by field.

    python benchmarks/same_numbers.py record OUT_DIR [--tree DIR]
    python benchmarks/same_numbers.py compare BEFORE_DIR AFTER_DIR [--tolerance 1e-6] [--words]

`record` runs each case below in a process of its own, with the tree's own package and samples on one thread of the CPU,
and writes the exit code and the JSON answer, an error's too, to OUT_DIR/NAME.json; it takes about six minutes.
`compare` takes fractional numbers for the same within the tolerance; whole ones, flags, null, keys, lengths and exit
codes have to be equal, and what differs is listed and makes it exit 1. Changed words are listed apart and are no
difference unless `--words` is given.
"""

import argparse
import json
import math
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

RENAMED: tuple[tuple[str | None, str | None], ...] = (
    *((f"{command}.result.absent", None) for command in ("distance", "sharpness", "intrinsic-lr")),
    ("norms.result.no_law", None),
    ("norms.result.assumed", None),
    *((None, f"*.result{'.*' * depth}.missing") for depth in range(5)),
    *((None, f"norms.settings.{flag}") for flag in ("nesterov", "train_batch_size")),
    (None, "suggest-lr.result.alternatives.8"),
)
"""Fields that were renamed or moved on purpose: path before, path after; None where a field went or was added.

Paths begin with the command, `*` is any one step (a key or a place in a list), and what lies below moves along. The
first entry that fits a field counts. Examples:

    ("suggest-lr.result.limit", "suggest-lr.result.bounds.limit"),  # moved, with all it holds
    ("breakdown.result.layers.*.trust_eta", "breakdown.result.layers.*.trust_step"),  # renamed in every layer
    ("*.settings.reload", None),  # went, in every command
    (None, "sharpness.result.effort"),  # was added
"""
LEFT_OUT = ("*.tool.version", "*.tool.seconds", "*.tool.peak_memory", "*.tool.peak_device_memory")
"""Fields, as in RENAMED, that differ between two runs of the same numbers."""
CHANGED = {
    "intrinsic-lr.result.layers.*.effective_learning_rate": "Muon has one",
    "intrinsic-lr.result.momentum": "Muon has a default",
    "intrinsic-lr.result.betas": "LAMB has a default",
    "*.settings.momentum": "a default that is taken is shown",
    "*.settings.betas": "a default that is taken is shown",
    "*.settings.nesterov": "a default that is taken is shown",
    "suggest-lr.tool.forward_evaluations": "a ninth optimizer is tried where none is known",
}
"""Fields, as in RENAMED, whose values were changed on purpose, and why; listed apart, they are no difference."""
ABSOLUTE_TOLERANCE = 1e-12
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
"""Sums over several threads are taken in an order of their own."""

MLP_2 = "sample_checkpoints/mlp-2"
MLP_16 = "sample_checkpoints/mlp-16"
RESMLP = "sample_checkpoints/resmlp-16"
LARS = "sample_checkpoints/convnet-lars"
FROMAGE = "sample_checkpoints/convnet-fromage"
GPT = "sample_checkpoints/char-gpt"
CONVNET = "--model sample_checkpoints/models.py:convnet"
CHAR_GPT = "--model sample_checkpoints/models.py:char_gpt"
FEW = "--eta 1e-4:1:5"
EXACT = "--dtype float64"
"""Where gradients are subtracted, or a rise of the loss is sought: float32 shows its rounding there."""
DECAY = "--lr 0.01 --weight-decay 0.01"
NESTEROV = "--optimizer sgd --lr 0.1 --momentum 0.9 --nesterov"

CASES = {
    # What is in a file.
    "inspect-mlp-2": f"inspect {MLP_2}",
    "inspect-mlp-16": f"inspect {MLP_16}",
    "inspect-resmlp-16": f"inspect {RESMLP}",
    "inspect-convnet-lars": f"inspect {LARS}",
    "inspect-convnet-fromage": f"inspect {FROMAGE}",
    "inspect-char-gpt": f"inspect {GPT}",
    "inspect-spectrum": f"inspect {LARS} --spectrum",
    "inspect-headers": f"inspect {MLP_2} --headers",
    "inspect-safety": f"inspect {GPT} --safety",
    "inspect-nothing": "inspect sample_checkpoints/no-such-file.pt",
    # How far a gradient holds: every sample, then every direction.
    "breakdown-mlp-2": f"breakdown {MLP_2}",
    "breakdown-mlp-16": f"breakdown {MLP_16}",
    "breakdown-resmlp-16": f"breakdown {RESMLP}",
    "breakdown-convnet-lars": f"breakdown {LARS} {CONVNET} {FEW}",
    "breakdown-convnet-fromage": f"breakdown {FROMAGE} {CONVNET} {FEW}",
    "breakdown-char-gpt": f"breakdown {GPT} {CHAR_GPT} {FEW}",
    "breakdown-all-tensors": f"breakdown {MLP_2} --tensors all --micro-batch 128 --dtype float64",
    "breakdown-sgd": f"breakdown {MLP_16}/step-000440.safetensors --direction sgd",
    "breakdown-adam-minibatches": f"breakdown {MLP_2} --direction adam",
    "breakdown-adam-moments": f"breakdown {GPT} {CHAR_GPT} --direction adam {FEW} {EXACT}",
    "breakdown-random": f"breakdown {RESMLP} --direction random",
    "breakdown-to": f"breakdown {MLP_2}/step-000022.safetensors --direction to:{MLP_2}/step-000440.safetensors",
    "breakdown-no-model": f"breakdown {LARS}",
    # Which rate is safe: every sample, then every optimizer.
    "suggest-lr-mlp-2": f"suggest-lr {MLP_2}",
    "suggest-lr-mlp-16": f"suggest-lr {MLP_16}",
    "suggest-lr-resmlp-16": f"suggest-lr {RESMLP}",
    "suggest-lr-convnet-lars": f"suggest-lr {LARS} {CONVNET} --probe none",
    "suggest-lr-convnet-fromage": f"suggest-lr {FROMAGE} {CONVNET} --probe none",
    "suggest-lr-char-gpt": f"suggest-lr {GPT} {CHAR_GPT} --probe none {EXACT}",
    "suggest-lr-fromage": f"suggest-lr {MLP_2} --optimizer fromage --lr 0.01 --probe none",
    "suggest-lr-lars": f"suggest-lr {LARS} {CONVNET} --optimizer lars --momentum 0.9 --probe none",
    "suggest-lr-lamb": f"suggest-lr {MLP_2} --optimizer lamb {DECAY} --probe none",
    "suggest-lr-sgd": f"suggest-lr {MLP_2} --optimizer sgd --lr 0.1 --probe none",
    "suggest-lr-momentum": f"suggest-lr {MLP_2} --optimizer sgd {DECAY} --momentum 0.9 --probe none",
    "suggest-lr-nesterov": f"suggest-lr {MLP_2} {NESTEROV} --probe none",
    "suggest-lr-adam": f"suggest-lr {MLP_2} --optimizer adam {DECAY} --betas 0.9,0.99 --probe none {EXACT}",
    "suggest-lr-adamw": f"suggest-lr {MLP_2} --optimizer adamw {DECAY} --probe none",
    "suggest-lr-lion": f"suggest-lr {MLP_2} --optimizer lion {DECAY} --probe none",
    "suggest-lr-muon": f"suggest-lr {MLP_2} --optimizer muon --lr 0.02 --momentum 0.95 --probe none",
    "suggest-lr-probe-init": f"suggest-lr {MLP_2}/step-000000.safetensors --optimizer sgd --lr 0.1",
    "suggest-lr-probe-checkpoint": f"suggest-lr {MLP_2} --optimizer adam --lr 1e-3 --probe checkpoint",
    "suggest-lr-sharpness": f"suggest-lr {MLP_2} --optimizer sgd --lr 0.1 --sharpness --probe none",
    "suggest-lr-warm": f"suggest-lr {MLP_2} --optimizer adam --lr 1e-3 --warm 4 --probe none",
    "suggest-lr-verify": f"suggest-lr {RESMLP} --optimizer adam --lr 1e-3 --verify 3 --probe none",
    "suggest-lr-train-batch": f"suggest-lr {MLP_2} --optimizer sgd --lr 0.1 --train-batch-size 64 --probe none",
    # Whether the rate is stable.
    "sharpness-mlp-2": f"sharpness {MLP_2}",
    "sharpness-mlp-16": f"sharpness {MLP_16} --optimizer sgd --lr 0.01 --simulate 4",
    "sharpness-resmlp-16": f"sharpness {RESMLP} --optimizer adam --lr 1e-3 --simulate 4",
    "sharpness-convnet-lars": f"sharpness {LARS} {CONVNET} --optimizer lars --simulate 2",
    "sharpness-convnet-fromage": f"sharpness {FROMAGE} {CONVNET} {NESTEROV} --simulate 2",
    "sharpness-char-gpt": f"sharpness {GPT} {CHAR_GPT} --simulate 1 --tolerance 0.1 {EXACT}",
    "sharpness-sgd": f"sharpness {MLP_2} --optimizer sgd --lr 0.1 --train-batch-size 64",
    "sharpness-momentum": f"sharpness {MLP_2} --optimizer sgd --lr 0.1 --momentum 0.9 --simulate 4",
    "sharpness-adam": f"sharpness {MLP_2} --optimizer adam --lr 1e-3",
    "sharpness-adamw": f"sharpness {MLP_2} --optimizer adamw {DECAY} --simulate 4",
    "sharpness-blocks": f"sharpness {MLP_2} --top 3 --blocks --simulate 0 --dtype float64",
    "sharpness-too-few": f"sharpness {MLP_2} --max-iterations 2 --simulate 0",
    # Whether norms grow along the run.
    "norms-mlp-2": f"norms {MLP_2}",
    "norms-mlp-16": f"norms {MLP_16}",
    "norms-resmlp-16": f"norms {RESMLP}",
    "norms-convnet-lars": f"norms {LARS}",
    "norms-convnet-fromage": f"norms {FROMAGE}",
    "norms-char-gpt": f"norms {GPT}",
    "norms-momentum": f"norms {LARS} --optimizer lars --momentum 0.9 {DECAY} --decoupled",
    "norms-model-mlp-2": f"norms {MLP_2} --model auto --optimizer fromage",
    "norms-model-mlp-16": f"norms {MLP_16} --model auto --optimizer lamb --lr 0.01",
    "norms-model-resmlp-16": f"norms {RESMLP} --model auto --optimizer sgd --lr 0.1",
    "norms-model-convnet-lars": f"norms {LARS} {CONVNET} --optimizer lars",
    "norms-model-convnet-fromage": f"norms {FROMAGE} {CONVNET} --optimizer fromage",
    "norms-model-char-gpt": f"norms {GPT} {CHAR_GPT}",
    # Whether layers have settled.
    "intrinsic-lr-mlp-2": f"intrinsic-lr {MLP_2} --optimizer lion {DECAY}",
    "intrinsic-lr-resmlp-16": f"intrinsic-lr {RESMLP} --optimizer sgd {DECAY} --model auto",
    "intrinsic-lr-convnet-lars": f"intrinsic-lr {LARS} {CONVNET} --optimizer lars {DECAY} --train-batch-size 64",
    "intrinsic-lr-convnet-fromage": f"intrinsic-lr {FROMAGE} {CONVNET} --optimizer sgd {DECAY} --train-batch-size 64",
    "intrinsic-lr-char-gpt": f"intrinsic-lr {GPT} --drop 10",
    "intrinsic-lr-model-char-gpt": f"intrinsic-lr {GPT} {CHAR_GPT}",
    "intrinsic-lr-sgd": f"intrinsic-lr {MLP_16} --optimizer sgd {DECAY}",
    "intrinsic-lr-nesterov": f"intrinsic-lr {MLP_16} --optimizer sgd {DECAY} --momentum 0.9 --nesterov",
    "intrinsic-lr-lars": f"intrinsic-lr {MLP_16} --optimizer lars {DECAY} --momentum 0.9",
    "intrinsic-lr-lars-decoupled": f"intrinsic-lr {MLP_16} --optimizer lars {DECAY} --decoupled --drop 4",
    "intrinsic-lr-lamb": f"intrinsic-lr {MLP_16} --optimizer lamb {DECAY}",
    "intrinsic-lr-adam": f"intrinsic-lr {MLP_16} --optimizer adam {DECAY}",
    "intrinsic-lr-adam-decoupled": f"intrinsic-lr {MLP_16} --optimizer adam {DECAY} --decoupled",
    "intrinsic-lr-adamw": f"intrinsic-lr {MLP_16} --optimizer adamw {DECAY} --betas 0.9,0.95",
    "intrinsic-lr-muon": f"intrinsic-lr {MLP_16} --optimizer muon {DECAY}",
    "intrinsic-lr-fromage": f"intrinsic-lr {MLP_16} --optimizer fromage --lr 0.01",
    "intrinsic-lr-fromage-decay": f"intrinsic-lr {MLP_16} --optimizer fromage {DECAY}",
    # How far apart two networks are.
    "distance-mlp-2": f"distance {MLP_2}/step-000000.safetensors {MLP_2}/step-000440.safetensors --model auto",
    "distance-mlp-16": f"distance {MLP_16}/step-000440.safetensors {MLP_16}/step-001760.safetensors --model auto",
    "distance-resmlp-16": f"distance {RESMLP}/step-000022.safetensors {RESMLP} --tensors all",
    "distance-convnet-lars": f"distance {LARS}/step-000000.safetensors {LARS} --no-spectrum",
    "distance-convnets": f"distance {LARS} {FROMAGE} {CONVNET}",
    "distance-char-gpt": f"distance {GPT}/step-000100.pt {GPT} {CHAR_GPT}",
    "distance-mismatch": f"distance {MLP_2} {MLP_16}",
}
"""By name, what is asked; `--json` is added to each."""

Steps = tuple[str, ...]
"""The way to a field: the command, then the keys and the places in lists."""
Fields = dict[Steps, object]
Renames = dict[Steps, Steps | None]
"""What becomes of the fields below a path; None where they are left out."""


def record(folder: Path, tree: Path) -> None:
    """Writes the tree's answer to every case."""
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        sys.exit(f"{folder} is not empty; name another, or remove what is in it")
    if not (tree / "fromage_cli").is_dir():
        sys.exit(f"{tree} holds no fromage_cli")
    started = time.monotonic()
    for name, line in CASES.items():
        before = time.monotonic()
        kept = ask(name, shlex.split(line), tree)
        (folder / f"{name}.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        print(f"{name:32} exit {kept['exit_code']}  {time.monotonic() - before:5.1f} s", flush=True)
    print(f"{len(CASES)} cases in {time.monotonic() - started:.0f} s")


def ask(name: str, arguments: list[str], tree: Path) -> dict[str, object]:
    """The exit code and the answer of one case, without the tree's own place in the paths that it names."""
    command = [sys.executable, "-m", "fromage_cli", *arguments, "--json"]
    done = subprocess.run(
        command, cwd=tree, env=environment(tree), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    try:
        answer = json.loads(done.stdout.replace(json.dumps(f"{tree}/")[1:-1], ""))
    except json.JSONDecodeError:
        sys.exit(f"{name}: exit {done.returncode} without a JSON answer\n{done.stderr}")
    return {"command": arguments[0], "exit_code": done.returncode, "answer": answer}


def environment(tree: Path) -> dict[str, str]:
    """Our own environment, with the tree's package, one thread, no accelerator and no settings of the tool."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FROMAGE_DIAG_")}
    return kept | ONE_THREAD | {"PYTHONPATH": str(tree), "CUDA_VISIBLE_DEVICES": ""}


@dataclass
class Comparison:
    """What came of holding two recordings against each other."""

    tolerance: float
    numbers: int = 0
    gap: float = 0.0
    """The largest |before − after| / max(|before|, |after|) of two fractional numbers."""
    widest: str = "nowhere"
    """Where it is."""
    differences: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    """On purpose."""
    words: list[str] = field(default_factory=list)

    def compare_cases(self, before: Mapping[str, Fields], after: Mapping[str, Fields]) -> None:
        """Compares all cases; one that only one recording has is a difference."""
        for case in sorted(before.keys() | after.keys()):
            if case in before and case in after:
                self.compare_fields(case, before[case], after[case])
            else:
                self.differences.append(f"{case}: only {'before' if case in before else 'after'}")

    def compare_fields(self, case: str, before: Fields, after: Fields) -> None:
        """Compares all fields of a case; one that only one answer has is a difference."""
        for path in dict.fromkeys([*before, *after]):
            where = f"{case}: {'.'.join(path[1:])}"
            listed = self.changed if any(begins_with(path, split(place)) for place in CHANGED) else self.differences
            if path in before and path in after:
                self.compare_values(where, before[path], after[path], listed)
            else:
                listed.append(f"{where}: {shown(before, path)} -> {shown(after, path)}")

    def compare_values(self, where: str, before: object, after: object, differences: list[str]) -> None:
        """Compares two values that stand in the same place; where they differ, they are listed."""
        line = f"{where}: {json.dumps(before)} -> {json.dumps(after)}"
        self.numbers += type(before) is type(after) and type(before) in (int, float)
        if isinstance(before, float) and isinstance(after, float):
            if differences is self.differences:
                self.note_gap(line, before, after)
            same = math.isclose(before, after, rel_tol=self.tolerance, abs_tol=ABSOLUTE_TOLERANCE)
        else:
            same = type(before) is type(after) and before == after
        if not same:
            spoken = isinstance(before, str) and isinstance(after, str)
            (self.words if spoken else differences).append(line)

    def note_gap(self, line: str, before: float, after: float) -> None:
        """Remembers the largest relative gap and where it is."""
        gap = abs(before - after) / max(abs(before), abs(after)) if before != after else 0.0
        if gap > self.gap:
            self.gap, self.widest = gap, line


def shown(fields: Fields, path: Steps) -> str:
    """The value of a field, as JSON, or that there is none."""
    return json.dumps(fields[path]) if path in fields else "nothing"


def load_recording(folder: Path, renames: Renames) -> dict[str, Fields]:
    """By case, its fields under their new names."""
    files = sorted(folder.glob("*.json"))
    if not files:
        sys.exit(f"{folder} holds no recording")
    return {file.stem: fields_of(json.loads(file.read_text(encoding="utf-8")), renames) for file in files}


def fields_of(kept: Mapping[str, object], renames: Renames) -> Fields:
    """All fields of a case by the way to them; raises ValueError where two would get the same name."""
    command = str(kept["command"])
    found: Fields = {(command, "exit_code"): kept["exit_code"]}
    for path, value in leaves(kept["answer"], (command,)):
        place = new_place(path, renames)
        if place in found:
            raise ValueError(f"two fields would be {'.'.join(place)}; one is {'.'.join(path)}")
        if place is not None:
            found[place] = value
    return found


def leaves(value: object, path: Steps) -> Iterator[tuple[Steps, object]]:
    """Every number, word, flag, null and empty collection below a value, with the way to it."""
    if isinstance(value, dict | list) and value:
        for step, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, (*path, str(step)))
    else:
        yield path, value


def new_place(path: Steps, renames: Renames) -> Steps | None:
    """Where a field is after the renames, None where it is left out."""
    for before, after in renames.items():
        if begins_with(path, before):
            return None if after is None else moved(path, before, after)
    return path


def begins_with(path: Steps, beginning: Steps) -> bool:
    """Whether a path lies at or below a beginning, in which `*` is any one step."""
    return len(path) >= len(beginning) and all(p in ("*", step) for p, step in zip(beginning, path, strict=False))


def moved(path: Steps, before: Steps, after: Steps) -> Steps:
    """The path with its beginning replaced, each `*` by the step that it stood for."""
    steps = [step for part, step in zip(before, path, strict=False) if part == "*"]
    return tuple(steps.pop(0) if part == "*" else part for part in after) + path[len(before) :]


def renames_before() -> Renames:
    """What happens to the fields of the recording from before: renamed, moved or left out."""
    went: Renames = {split(before): split(after) if after else None for before, after in RENAMED if before}
    return {split(path): None for path in LEFT_OUT} | went


def renames_after() -> Renames:
    """What happens to the fields of the recording from after: those that were added are left out."""
    added = [after for before, after in RENAMED if after and not before]
    return {split(path): None for path in (*LEFT_OUT, *added)}


def split(path: str) -> Steps:
    """The steps of a path as it is written in the tables."""
    return tuple(path.split("."))


def compare(before: Path, after: Path, tolerance: float, words: bool) -> None:
    """Prints what differs between two recordings, and exits 1 where something does."""
    found = Comparison(tolerance)
    answers = load_recording(before, renames_before()), load_recording(after, renames_after())
    found.compare_cases(*answers)
    for line in found.differences:
        print(line)
    if found.changed:
        print("changed on purpose:", *found.changed, sep="\n")
    if found.words:
        print("words changed:", *found.words, sep="\n")
    print(f"{len(answers[0].keys() & answers[1].keys())} cases, {found.numbers} numbers compared")
    print(f"largest relative gap {found.gap:.3g} ({found.widest})")
    print(f"{len(found.differences)} differences, {len(found.changed)} on purpose, {len(found.words)} words changed")
    sys.exit(1 if found.differences or (words and found.words) else 0)


def main() -> None:
    """Records a tree's numbers or compares two recordings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_subparsers(dest="what", required=True)
    recording = what.add_parser("record", help="run every case and keep the answers")
    recording.add_argument("folder", metavar="OUT_DIR", type=Path)
    recording.add_argument("--tree", metavar="DIR", type=Path, default=Path(__file__).parents[1], help="default: this")
    comparing = what.add_parser("compare", help="compare two recordings field by field")
    comparing.add_argument("before", metavar="BEFORE_DIR", type=Path)
    comparing.add_argument("after", metavar="AFTER_DIR", type=Path)
    comparing.add_argument("--tolerance", type=float, default=1e-6, help="relative, of fractional numbers")
    comparing.add_argument("--words", action="store_true", help="changed words are differences too")
    given = parser.parse_args()
    if given.what == "record":
        record(given.folder, given.tree.resolve())
    else:
        compare(given.before, given.after, given.tolerance, given.words)


if __name__ == "__main__":
    main()
