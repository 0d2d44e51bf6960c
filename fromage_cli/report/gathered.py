"""The answers of a page, by command and step."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from fromage_cli.findings import Finding, Severity
from fromage_cli.report.opening import Envelope
from fromage_cli.report.runs import place_of, runs_of, same_place, short_names, step_of
from fromage_cli.report.told import as_number, at, entries_at, text_at

SEVERITIES: tuple[Severity, ...] = ("fail", "warn", "info")


@dataclass(frozen=True)
class Answered:
    """What one command found at one checkpoint."""

    command: str
    step: int | None
    place: str
    """The path of the checkpoint."""
    run: str
    """The directory of its run; empty where it is not known."""
    result: Mapping[str, Any]

    @property
    def label(self) -> str:
        """The step, or the name of the file where it is not known."""
        return self.place.rpartition("/")[2] if self.step is None else str(self.step)

    def is_of_checkpoint(self, other: "Answered") -> bool:
        """Whether both are about one checkpoint, of which one may tell the whole path and the other its end."""
        return self.step == other.step and same_place(self.place, other.place)


class Gathered:
    """All answers; one of `check` stands for those of the commands that it asked as well."""

    def __init__(self, answers: Sequence[Envelope]) -> None:
        self.answers = answers

    @cached_property
    def answered(self) -> list[Answered]:
        """Every result, in the order of steps, those without a step first."""
        runs = runs_of(self.answers)
        found = [one for envelope, run in zip(self.answers, runs, strict=True) for one in _answered(envelope, run)]
        return sorted(found, key=lambda one: -1 if one.step is None else one.step)

    @cached_property
    def shown_run(self) -> str:
        """The directory of the run of the last checkpoint, which sections show; empty where it is not known."""
        return next((one.run for one in reversed(self.answered) if one.run), "")

    def along(self, command: str) -> list[Answered]:
        """What a command found in one run, one answer a checkpoint, first to last.

        That is the shown run, or where the command has no answer about it, the run of its last answer. Answers whose
        run is not known count as of it.
        """
        own = [one for one in self.answered if one.command == command]
        runs = [one.run for one in own if one.run]
        run = self.shown_run if self.shown_run in runs else next(reversed(runs), "")
        found: list[Answered] = []
        for one in own:
            if one.run in (run, ""):
                found = [*(other for other in found if not one.is_of_checkpoint(other)), one]
        return found

    def last(self, command: str) -> Mapping[str, Any] | None:
        """What a command found at the last checkpoint that it looked at."""
        found = self.along(command)
        return found[-1].result if found else None

    @cached_property
    def runs(self) -> dict[str, str]:
        """The short name of each run, by its directory; one at most where all answers are about one run."""
        return short_names([run for run in dict.fromkeys(runs_of(self.answers)) if run])

    @cached_property
    def findings(self) -> list[Finding]:
        """Those of all answers, the gravest first; of the same about the same layer of a run the latest.

        One of an earlier checkpoint than the last says its step, and of several runs each says its own.
        """
        told: dict[tuple[str, str | None, str], Finding] = {}
        runs = runs_of(self.answers) if len(self.runs) > 1 else [""] * len(self.answers)
        steps = [(step_of(envelope), run, envelope) for run, envelope in zip(runs, self.answers, strict=True)]
        last: dict[str, int] = {}
        for step, run, _ in steps:
            last |= {} if step is None else {run: max(step, last.get(run, step))}
        for step, run, envelope in sorted(steps, key=lambda each: -1 if each[0] is None else each[0], reverse=True):
            for entry in entries_at(envelope, "findings"):
                finding = _finding(entry)
                if finding is not None and (finding.code, finding.layer, run) not in told:
                    earlier = f" (step {step})" if step is not None and step != last[run] else ""
                    whose = f" ({self.runs[run]})" if run else ""
                    told[finding.code, finding.layer, run] = replace(
                        finding, message=f"{finding.message}{earlier}{whose}"
                    )
        return sorted(told.values(), key=lambda one: SEVERITIES.index(one.severity))


def _answered(envelope: Envelope, run: str) -> Iterator[Answered]:
    where = (step_of(envelope), place_of(envelope), run)
    command, result = text_at(envelope, "command"), envelope.get("result")
    if not isinstance(result, Mapping):
        return
    yield Answered(command, *where, result)
    if command == "check":
        held = at(result, "results")
        for name, inner in held.items() if isinstance(held, Mapping) else ():
            if isinstance(inner, Mapping):
                yield Answered(str(name), *where, inner)


def _finding(entry: Mapping[str, Any]) -> Finding | None:
    """A finding as it was written; None where it is none."""
    code, message, severity = text_at(entry, "code"), text_at(entry, "message"), entry.get("severity")
    if not code or severity not in SEVERITIES:
        return None
    layer = text_at(entry, "layer") or None
    numbers = {key: as_number(entry.get(key)) for key in ("value", "limit")}
    return Finding(code, severity, message, layer=layer, hint=text_at(entry, "hint"), **numbers)
