"""Tables of the study of `state`, from its results alone.

python benchmarks/state_report.py [--results FILE]
"""

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "state_study.jsonl"
IMPOSSIBLE = {"moments-impossible", "moments-not-finite"}
PRESENT = {"update-counts-differ", "updates-lost", "decay-lost", "layer-does-not-move"}
"""What warns of one checkpoint and is no impossible moment; every other warning is of the way to it."""
Line = dict[str, Any]
Found = list[dict[str, Any]]


def warned(found: Iterable[dict[str, Any]]) -> Found:
    """The findings above `info`."""
    return [one for one in found if one["severity"] != "info"]


def kind(code: str) -> str:
    """`impossible moments`, `not continued` or `others`."""
    return "impossible moments" if code in IMPOSSIBLE else "others" if code in PRESENT else "not continued"


def affected(asked: Iterable[Found], which: str) -> str:
    """How many of the answers have a warning of a kind, and its codes."""
    answers = [{one["code"] for one in warned(found) if kind(one["code"]) == which} for found in asked]
    codes = sorted(set().union(*answers))
    count = sum(bool(answer) for answer in answers)
    return f"{count} ({', '.join(f'`{code}`' for code in codes)})" if count else "0"


def healthy_table(lines: Sequence[Line]) -> None:
    """Print a row for each healthy run that has a warning, and one for all."""
    head = ("run", "checkpoints", "pairs", "impossible moments", "not continued", "others")
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    kinds = ("impossible moments", "not continued", "others")
    for name, group in [*((line["healthy"], [line]) for line in lines), ("all", list(lines))]:
        single, pairs = ([found for line in group for found in line[key]] for key in ("single", "pairs"))
        cells = [affected([*single, *pairs, *(line["series"] for line in group)], which) for which in kinds]
        if name == "all" or any(cell != "0" for cell in cells):
            print(f"| {' | '.join((name, str(len(single)), str(len(pairs)), *cells))} |")


def naming(line: Line, clean: Line, asked: str) -> Found:
    """The warnings of a faulty checkpoint that must name its fault, and that the clean one does not have."""
    before = [(one["code"], one["message"]) for one in warned(clean[asked])]
    new = [one for one in warned(line[asked]) if (one["code"], one["message"]) not in before]
    return [one for one in new if one["code"] in line["named"]]


def names_a_layer(found: Found, layers: Sequence[str]) -> bool:
    """Whether a finding names one of the changed tensors."""
    return any(layer in f"{one['layer']} {one['message']}" for one in found for layer in layers)


def share(found: Sequence[bool]) -> str:
    """How many of how many."""
    return f"{sum(found)} of {len(found)}" if found else "–"


def fault_table(lines: Sequence[Line]) -> None:
    """Print a row for each fault: what must name it, how often that is found, and where it is not."""
    clean = {(line["run"], line["spacing"]): line for line in lines if line["fault"] == "none"}
    head = ("fault", "must be named by", "in the file alone", "beside those before", "layer named", "not found in")
    print(f"\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    groups: dict[str, list[Line]] = {}
    for line in lines:
        groups.setdefault(line["fault"], []).append(line)
    for name, told in groups.items():
        if name == "none":
            continue
        alone, series = (
            [naming(line, clean[line["run"], line["spacing"]], asked) for line in told]
            for asked in ("single", "series")
        )
        missed = [f"{line['run']} {line['spacing']}" for line, found in zip(told, series, strict=True) if not found]
        layers = [(found, line["layers"]) for line, found in zip(told, series, strict=True) if found and line["layers"]]
        cells = (
            name,
            ", ".join(f"`{code}`" for code in told[0]["named"]) or "–",
            share([bool(found) for found in alone]),
            share([bool(found) for found in series]),
            share([names_a_layer(*pair) for pair in layers]),
            ", ".join(missed) or "–",
        )
        print(f"| {' | '.join(cells)} |")


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    lines = [json.loads(line) for line in parser.parse_args().results.read_text(encoding="utf-8").splitlines()]
    healthy_table([line for line in lines if "healthy" in line])
    fault_table([line for line in lines if "fault" in line])


if __name__ == "__main__":
    main()
