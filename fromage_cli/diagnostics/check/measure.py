"""Every diagnostic in turn, the cheapest first, each as its command answers by itself."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fromage_cli.diagnostics.check.result import Sibling, Skipped
from fromage_cli.diagnostics.check.siblings import compare_siblings
from fromage_cli.errors import FromageError, MismatchError, ResourceError
from fromage_cli.findings import Finding
from fromage_cli.terminal.answer import Answer, Answers, Estimate, EstimateResult

FILES = ("inspect", "state", "norms")
"""Commands that need files alone."""
NETWORK = ("sharpness", "breakdown")
"""Commands that need the network and a batch."""
OUT_OF_TIME = "The time limit was reached before."

Run = Callable[[str], Answers]
"""A command by its name, with the inputs of this run."""


@dataclass
class Examination:
    """What the diagnostics have answered so far."""

    answers: dict[str, Answer] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)
    error: FromageError | None = None
    """A network or batch that was named and does not fit, or the limit that cut a measurement."""

    def look(self, commands: Sequence[str], run: Run, *, named: bool) -> None:
        """Ask each command; `named`: whether the user named the network or the batch, so that a misfit is an error."""
        for command in commands:
            if isinstance(self.error, ResourceError):
                self.skipped.append(Skipped(command, OUT_OF_TIME))
                continue
            try:
                answers = run(command)
            except FromageError as error:
                self.skipped.append(Skipped(command, error.message))
                if isinstance(error, ResourceError) or (named and isinstance(error, MismatchError)):
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
        return tuple(one for answer in self.answers.values() for one in answer.findings)

    @property
    def siblings(self) -> tuple[Sibling, ...]:
        """Each layer beside those like it in other blocks, from the sizes that `inspect` has read."""
        inspected = self.answers.get("inspect")
        tensors: Sequence[Any] = () if inspected is None else getattr(inspected.result, "tensors", ())
        sizes = ((one.name, tuple(one.shape), one.rms) for one in tensors if isinstance(one.rms, float))
        return tuple(compare_siblings(sizes))

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
