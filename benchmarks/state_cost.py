"""What `state` costs on a large checkpoint, beside `norms` on the same tensors.

    python benchmarks/state_cost.py [--gigabytes 4] [--directory DIR] [--repeats 3] [--dtypes WEIGHTS-MOMENTS,…]
                                    [--formats torch,safetensors]

Writes weights with AdamW's state, as one torch file and as a directory of `model.safetensors` and `optimizer.pt`. A
second file of the same format holds weights and moments all as weights, for `norms`, which reads no state. Both
programs run turn and turn about, each in a process of its own. Prints the ratio of the fastest of each, the median of
the ratios of neighbours, the ratio of the processor's time, and the peak resident memory. The files are removed.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

ROWS, COLUMNS = 4096, 1024
SLOTS = ("exp_avg", "exp_avg_sq")
CHILD = """
import resource, sys
from pathlib import Path
from fromage_cli.cli import main
try:
    main(sys.argv[1:])
finally:
    assert "torch" not in sys.modules
    used = resource.getrusage(resource.RUSAGE_SELF)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(used.ru_utime + used.ru_stime, int(status["VmHWM"].split()[0]) * 1024, file=sys.stderr)
"""


def tensors_of(weights: torch.dtype, moments: torch.dtype, size: int) -> dict[str, torch.Tensor]:
    """Weights and moments of about `size` bytes: small normal numbers, v above m squared."""
    generator = torch.Generator().manual_seed(0)
    count = max(size // (ROWS * COLUMNS * (weights.itemsize + len(SLOTS) * moments.itemsize)), 1)
    tensors = {}
    for index in range(count):
        drawn, other = (torch.randn(ROWS, COLUMNS, generator=generator) for _ in range(2))
        name = f"layers.{index}.weight"
        tensors[name] = (0.02 * drawn).to(weights)
        tensors[f"{name}.exp_avg"] = (1e-4 * other).to(moments)
        tensors[f"{name}.exp_avg_sq"] = (1e-7 * (other.square() + drawn.square())).to(moments)
    return tensors


def optimizer_state(tensors: dict[str, torch.Tensor], names: list[str]) -> dict[str, object]:
    """What AdamW's `state_dict` holds of the named weights."""
    step = torch.tensor(1000.0)
    state = {
        number: {"step": step, **{slot: tensors[f"{name}.{slot}"] for slot in SLOTS}}
        for number, name in enumerate(names)
    }
    settings = {"lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1, "amsgrad": False}
    return {"state": state, "param_groups": [{**settings, "decoupled_weight_decay": True, "params": [*state]}]}


def write(folder: Path, form: str, tensors: dict[str, torch.Tensor]) -> tuple[Path, Path]:
    """A checkpoint with its state, and the same tensors as weights."""
    names = [name for name in tensors if name.endswith("weight")]
    weights, optimizer = {name: tensors[name] for name in names}, optimizer_state(tensors, names)
    if form == "torch":
        trained, plain = folder / "trained.pt", folder / "plain.pt"
        torch.save({"model": weights, "optimizer": optimizer}, trained)
        torch.save(tensors, plain)
        return trained, plain
    trained, plain = folder / "trained", folder / "plain.safetensors"
    trained.mkdir()
    save_file(weights, trained / "model.safetensors")
    torch.save(optimizer, trained / "optimizer.pt")
    save_file(tensors, plain)
    return trained, plain


def run(command: str, path: Path) -> tuple[float, float, int]:
    """Seconds, the processor's seconds, and the peak resident memory in bytes."""
    start = time.perf_counter()
    words = [sys.executable, "-c", CHILD, command, str(path)]
    done = subprocess.run(words, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        sys.exit(done.stderr)
    busy, peak = done.stderr.splitlines()[-1].split()
    return seconds, float(busy), int(peak)


def main() -> None:
    """Measure and print one line per kind of checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--directory", default=None)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtypes", default="float32-float32,bfloat16-float32,bfloat16-bfloat16")
    parser.add_argument("--formats", default="torch,safetensors")
    given = parser.parse_args()
    size = int(given.gigabytes * 1e9)
    print("dtypes\tformat\tbytes\tnorms_seconds\tstate_seconds\tratio\tmedian_ratio\tbusy_ratio\tpeak_megabytes")
    for dtypes in given.dtypes.split(","):
        weights, moments = (getattr(torch, name) for name in dtypes.split("-"))
        for form in given.formats.split(","):
            with tempfile.TemporaryDirectory(dir=given.directory) as folder:
                if shutil.disk_usage(folder).free < 2.2 * size:
                    sys.exit(f"{folder} has no room for 2 x {size} bytes; name another --directory")
                trained, plain = write(Path(folder), form, tensors_of(weights, moments, size))
                runs = [(*run("norms", plain), *run("state", trained)) for _ in range(given.repeats + 1)][1:]
                norms, norms_busy, state, state_busy = (min(one[place] for one in runs) for place in (0, 1, 3, 4))
                median = statistics.median(one[3] / one[0] for one in runs)
                ratios = f"{state / norms:.2f}\t{median:.2f}\t{state_busy / norms_busy:.2f}"
                peak = max(one[5] for one in runs)
                line = f"{plain.stat().st_size}\t{norms:.3f}\t{state:.3f}\t{ratios}\t{peak / 1e6:.0f}"
                print(f"{dtypes}\t{form}\t{line}", flush=True)


if __name__ == "__main__":
    main()
