"""Numbers and tables of the study of `state`, from its results alone.

python benchmarks/state_report.py [--results FILE] [--write PAGE]

They are printed, or put into a page between the comments that name them.
"""

import argparse
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "state_study.jsonl"
IMPOSSIBLE = {"moments-impossible", "moments-not-finite"}
PRESENT = {"update-counts-differ", "updates-lost", "decay-lost", "layer-does-not-move", "layer-frozen"}
"""What warns of one checkpoint and is no impossible moment; every other warning is of the way to it."""
KINDS = ("impossible moments", "not continued", "others")
Line = dict[str, Any]
Found = list[dict[str, Any]]


def warned(found: Iterable[dict[str, Any]]) -> Found:
    """The findings above `info`."""
    return [one for one in found if one["severity"] != "info"]


def kind(code: str) -> str:
    """One of KINDS."""
    return KINDS[0] if code in IMPOSSIBLE else KINDS[2] if code in PRESENT else KINDS[1]


def codes(found: Found, which: str) -> set[str]:
    """The warnings of a kind in one answer."""
    return {one["code"] for one in warned(found) if kind(one["code"]) == which}


def answers(lines: Iterable[Line]) -> list[Found]:
    """What was said of single checkpoints and of pairs."""
    return [found for line in lines for found in (*line["single"], *line["pairs"])]


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """In Markdown."""
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in (head, ["---"] * len(head), *rows))


def healthy_table(lines: Sequence[Line]) -> str:
    """A row for each healthy run that has a warning, and one for all."""
    rows = []
    for name, group in [*((line["healthy"], [line]) for line in lines), ("all", lines)]:
        cells = []
        for which in KINDS:
            told = [found for one in answers(group) if (found := codes(one, which))]
            named = ", ".join(f"`{code}`" for code in sorted(set().union(*told)))
            cells.append(f"{len(told)} ({named})" if told else "0")
        if name == "all" or any(cell != "0" for cell in cells):
            checkpoints = sum(len(line["single"]) for line in group)
            rows.append((name, checkpoints, sum(len(line["pairs"]) for line in group), *cells))
    return table(("run", "checkpoints", "pairs", *KINDS), rows)


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


def clean_lines(lines: Sequence[Line]) -> dict[tuple[str, str], Line]:
    """Those without a fault, by run and spacing."""
    return {(line["run"], line["spacing"]): line for line in lines if line["fault"] == "none"}


def fault_table(lines: Sequence[Line]) -> str:
    """A row for each fault: what must name it, how often that is found, and where it is not."""
    clean, rows = clean_lines(lines), []
    for name in dict.fromkeys(line["fault"] for line in lines if line["fault"] != "none"):
        told = [line for line in lines if line["fault"] == name]
        alone, series = (
            [naming(line, clean[line["run"], line["spacing"]], asked) for line in told]
            for asked in ("single", "series")
        )
        missed = [f"{line['run']} {line['spacing']}" for line, found in zip(told, series, strict=True) if not found]
        layers = [(found, line["layers"]) for line, found in zip(told, series, strict=True) if found and line["layers"]]
        cells = (
            name,
            ", ".join(f"`{code}`" for code in told[0]["named"]) or "nothing",
            share([bool(found) for found in alone]),
            share([bool(found) for found in series]),
            share([names_a_layer(*pair) for pair in layers]),
            ("all" if len(missed) == len(told) else ", ".join(missed)) or "–",
        )
        rows.append(cells)
    head = ("fault", "must be named by", "in the file alone", "beside those before", "layer named", "not found in")
    return table(head, rows)


def summary(healthy: Sequence[Line], faulty: Sequence[Line]) -> str:
    """The numbers of the study in four sentences."""
    said, clean = answers(healthy), clean_lines(faulty)
    impossible, broken = (sum(bool(codes(found, which)) for found in said) for which in KINDS[:2])
    runs = sum(any(codes(found, KINDS[1]) for found in answers([line])) for line in healthy)
    told = [line for line in faulty if line["named"]]
    named = {
        adam: [
            bool(naming(line, clean[line["run"], line["spacing"]], "series"))
            for line in told
            if line["run"].startswith("adam") is adam
        ]
        for adam in (True, False)
    }
    checkpoints, pairs = (sum(len(line[key]) for line in healthy) for key in ("single", "pairs"))
    return (
        f"{len(healthy)} healthy runs gave {checkpoints} checkpoints and {pairs} pairs of consecutive ones. "
        f"Moments were called impossible in {impossible} of these {len(said)} answers. "
        f"Something was said not to continue in {broken} of them, in {runs} of the runs.\n\n"
        f"Faults were put into the last of three checkpoints. "
        f"Under Adam and AdamW the finding that must name them came in {share(named[True])} cases. "
        f"Under SGD with momentum and Lion it came in {share(named[False])}."
    )


def main() -> None:
    """Print the parts, or put them into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--write", type=Path, metavar="PAGE")
    asked = parser.parse_args()
    lines = [json.loads(line) for line in asked.results.read_text(encoding="utf-8").splitlines()]
    healthy, faulty = ([line for line in lines if key in line] for key in ("healthy", "fault"))
    parts = {"summary": summary(healthy, faulty), "healthy": healthy_table(healthy), "faults": fault_table(faulty)}
    if asked.write is None:
        print("\n\n".join(parts.values()))
        return
    page = asked.write.read_text(encoding="utf-8")
    for name, text in parts.items():
        page = re.sub(rf"(<!-- {name} -->\n).*?(<!-- end -->)", rf"\g<1>{text}\n\g<2>", page, flags=re.DOTALL)
    asked.write.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
