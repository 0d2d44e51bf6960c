"""The rules that look over all commands, and the verdict that the gravest finding makes."""

from collections.abc import Sequence

from fromage_cli.counting import counted
from fromage_cli.diagnostics.check.result import OutOfLine, Verdict
from fromage_cli.findings import Finding, layer_out_of_line
from fromage_cli.theory.siblings import WEIGHT_FACTOR

ORDER = ("fail", "warn", "info")
OPENINGS: dict[Verdict, str] = {"stop": "Stop", "look": "Look at this", "go": "Go on"}


def judge(out_of_line: Sequence[OutOfLine], told: Sequence[Finding]) -> tuple[Finding, ...]:
    """All findings, the gravest first; `told`: those of the commands. What two of them say of one layer stands once."""
    odd = (layer_out_of_line(one.name, "weights are", one.factor, WEIGHT_FACTOR) for one in out_of_line)
    every = {(one.code, one.layer): one for one in (*odd, *told)}
    return tuple(sorted(every.values(), key=lambda one: ORDER.index(one.severity)))


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
