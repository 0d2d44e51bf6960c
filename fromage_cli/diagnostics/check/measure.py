"""Every diagnostic in turn, the cheapest first, each as its command answers by itself."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fromage_cli.diagnostics.check.result import OutOfLine, Skipped
from fromage_cli.errors import FromageError, NumericalError, ResourceError
from fromage_cli.findings import Finding
from fromage_cli.missing import known
from fromage_cli.terminal.answer import Answer, Answers, Estimate, EstimateResult
from fromage_cli.theory.siblings import WEIGHT_FACTOR, out_of_line, sibling_groups

FILES = ("inspect", "state", "norms")
"""Commands that need files alone."""
NETWORK = ("forward-pass", "sharpness", "breakdown")
"""Commands that need the network and a batch."""
OUT_OF_TIME = "The time limit was reached before."

Run = Callable[[str], Answers]
"""A command by its name, with the inputs of this run."""


@dataclass
class Examination:
    """What the diagnostics have answered so far."""

    answers: dict[str, Answer] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)
    failures: list[Finding] = field(default_factory=list)
    """What ended a command and is the run's own fault: a loss or a gradient that is not finite."""
    error: FromageError | None = None
    """Why a network or batch that was named could not be used, or the limit that cut a measurement."""

    def look(self, commands: Sequence[str], run: Run, *, named: bool) -> None:
        """Ask each command; `named`: whether the user named the network or the batch, so that it has to be usable."""
        for command in commands:
            if isinstance(self.error, ResourceError):
                self.skipped.append(Skipped(command, OUT_OF_TIME))
                continue
            try:
                answers = run(command)
            except NumericalError as error:
                self.skipped.append(Skipped(command, error.message))
                message = error.message.removesuffix(".")
                self.failures.append(Finding("loss-not-finite", "fail", message, hint=error.hint))
                continue
            except FromageError as error:
                self.skipped.append(Skipped(command, error.message))
                if named or isinstance(error, ResourceError):
                    self.error = self.error or error
                continue
            self._keep(command, answers)

    def _keep(self, command: str, answers: Answers) -> None:
        """The answer about the last checkpoint, partial or not."""
        last = answers if isinstance(answers, Answer) else answers[-1]
        if isinstance(last, FromageError):
            self.skipped.append(Skipped(command, last.message))
            return
        self.answers[command] = last
        if isinstance(last.error, ResourceError):
            self.error = self.error or last.error

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Those of all commands, in the order in which they looked."""
        told = (one for answer in self.answers.values() for one in answer.findings)
        return (*self.failures, *told)

    @property
    def out_of_line(self) -> tuple[OutOfLine, ...]:
        """The matrices that differ from those like them in other blocks, by the sizes that `inspect` has read."""
        inspected = self.answers.get("inspect")
        tensors: Sequence[Any] = () if inspected is None else getattr(inspected.result, "tensors", ())
        sizes = {one.name: one for one in tensors if len(one.shape) > 1 and (known(one.rms) or 0.0) > 0.0}
        groups = sibling_groups({name: tuple(one.shape) for name, one in sizes.items()})
        found = ((names, out_of_line([sizes[name].rms for name in names], WEIGHT_FACTOR)) for names in groups)
        return tuple(OutOfLine(names[place], factor) for names, odd in found for place, factor in odd.items())

    @property
    def cost(self) -> Estimate:
        """What all commands take, where each has told its own."""
        told = [one.result.estimate for one in self.answers.values() if isinstance(one.result, EstimateResult)]
        return Estimate(
            gradients=sum(one.gradients for one in told),
            bytes=max((one.bytes for one in told if one.bytes is not None), default=None),
            seconds=sum(one.seconds or 0.0 for one in told),
        )

    @property
    def results(self) -> Mapping[str, object]:
        """What each command found."""
        return {command: answer.result for command, answer in self.answers.items()}
