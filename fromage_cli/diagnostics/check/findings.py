"""The rules that look over all commands, and the verdict that the gravest finding makes."""

from collections.abc import Sequence

from fromage_cli.counting import counted
from fromage_cli.diagnostics.check.result import Sibling, Verdict
from fromage_cli.findings import Finding
from fromage_cli.terminal.words import number

UNLIKE = 4.0
"""Times its siblings' root mean square, from which on a layer is out of line: 27 healthy files reach 1.6 at most."""
ORDER = ("fail", "warn", "info")
OPENINGS: dict[Verdict, str] = {"stop": "Stop", "look": "Look at this", "go": "Go on"}


def judge(siblings: Sequence[Sibling], told: Sequence[Finding]) -> tuple[Finding, ...]:
    """All findings, the gravest first; `told`: those of the commands. What two of them say of one layer stands once."""
    every = {(one.code, one.layer): one for one in (*told, *map(unlike, filter(out_of_line, siblings)))}
    return tuple(sorted(every.values(), key=lambda one: ORDER.index(one.severity)))


def out_of_line(layer: Sibling) -> bool:
    """Whether a layer is far larger or smaller than its siblings."""
    return not 1.0 / UNLIKE <= layer.factor <= UNLIKE


def unlike(layer: Sibling) -> Finding:
    """A layer that is out of line with its siblings."""
    times, size = (layer.factor, "large") if layer.factor > 1.0 else (1.0 / layer.factor, "small")
    return Finding(
        "layer-unlike-siblings",
        "warn",
        f"its weights are {number(times)} times as {size} as those of {layer.siblings} like it in other blocks",
        layer=layer.name,
        value=layer.factor,
        limit=UNLIKE,
        hint="Look at its initialisation, its learning rate, and whether it was loaded from elsewhere.",
    )


def verdict_of(findings: Sequence[Finding]) -> Verdict:
    """What the gravest finding means for the run."""
    gravest = findings[0].severity if findings else "info"
    return "stop" if gravest == "fail" else "look" if gravest == "warn" else "go"


def sentence(verdict: Verdict, findings: Sequence[Finding], looked: int) -> str:
    """The verdict in one sentence."""
    if verdict == "go":
        return f"Go on: {counted(looked, 'command')} found nothing wrong."
    first = findings[0]
    place = f"{first.layer}: " if first.prefix else ""
    return f"{OPENINGS[verdict]}: {place}{first.message.removesuffix('…').rstrip()}."
