"""All findings together, and the verdict that the gravest makes."""

from collections.abc import Sequence
from dataclasses import replace

from fromage_cli.counting import counted
from fromage_cli.diagnostics.check.comparisons import Answered, judge_together
from fromage_cli.diagnostics.check.result import OutOfLine, Verdict
from fromage_cli.findings import Finding

ORDER = ("fail", "warn", "info")
OPENINGS: dict[Verdict, str] = {"stop": "Stop", "look": "Look at this", "go": "Go on"}
USUAL_IN_WARM_UP = ("no-better-than-guessing",)
"""Codes that are for information while the learning rate rises from one checkpoint to the next."""
TOO_SHARP = (
    {"above-threshold", "rate-not-stable"},
    {f"quadratic-model-{word}" for word in ("spikes", "rises", "diverges")},
)
"""Warnings of too large steps by curvature, and by the quadratic model: one without the other is for information.

Either alone blames 9 of 71 healthy runs, both together 1 (docs/run-study.md, docs/early-warning.md).
"""
DOUBTFUL = ("rate-rises-again",)
"""Codes that are for information here: schedules with restarts do it on purpose."""
FAR, FAR_ALONE = "norm-far-from-first", 9.0
"""Growth of a norm that is for information, if the network was looked at and nothing else warns.

A healthy recurrent layer has 7.2 at the rate that trains best, and a healthy head 8.4 after large batches. Runs with a
stale second moment begin at 9.7 (docs/early-warning.md).
"""
LEFT_OUT = ("scale-invariance-untested", "schedule-mismatch")
"""What the commands say of their own reach and forecasts, which is no verdict on the run."""


def judge(answered: Answered, out_of_line: Sequence[OutOfLine], told: Sequence[Finding]) -> tuple[Finding, ...]:
    """All findings, the gravest first; `told`: those of the commands. What two of them say of one layer stands once."""
    together = judge_together(answered, out_of_line)
    every: dict[tuple[str, str | None], Finding] = {}
    for one in (*together, *told):
        every.setdefault((one.code, one.layer), one)
    alarms = {one.code for one in every.values() if one.severity != "info"}
    alone = set().union(*TOO_SHARP) if not all(alarms & codes for codes in TOO_SHARP) else set()
    early = USUAL_IN_WARM_UP if answered.warms_up else ()
    lowered = {*alone, *early, *DOUBTFUL}
    far = [one.value or 0.0 for one in every.values() if one.code == FAR]
    if answered.in_network and alarms - lowered <= {FAR, *LEFT_OUT} and all(1.0 < by < FAR_ALONE for by in far):
        lowered.add(FAR)
    weighed = [replace(one, severity="info") if one.code in lowered else one for one in every.values()]
    return in_order([one for one in weighed if one.code not in LEFT_OUT])


def in_order(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """The findings, the gravest first."""
    return tuple(sorted(findings, key=lambda one: ORDER.index(one.severity)))


def verdict_of(findings: Sequence[Finding]) -> Verdict:
    """What the gravest finding means for the run."""
    gravest = findings[0].severity if findings else "info"
    return "stop" if gravest == "fail" else "look" if gravest == "warn" else "go"


def sentence(verdict: Verdict, findings: Sequence[Finding], looked: int, *, known: bool = False) -> str:
    """The verdict in one sentence; `known`: the baseline has problems that are still there."""
    if verdict == "go":
        return f"Go on: {counted(looked, 'command')} found nothing {'new' if known else 'wrong'}."
    first = findings[0]
    place = f"{first.layer}: " if first.prefix else ""
    return f"{OPENINGS[verdict]}: {place}{first.message.removesuffix('…').rstrip()}."
