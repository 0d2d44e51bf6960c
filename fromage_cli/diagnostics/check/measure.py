"""Every diagnostic in turn, the cheapest first, each as its command answers by itself."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from fromage_cli.diagnostics.check.result import Number, Skipped
from fromage_cli.errors import FromageError, MismatchError, NotFiniteError, ResourceError
from fromage_cli.findings import Finding
from fromage_cli.terminal.answer import Answer, Answers, Estimate, EstimateResult
from fromage_cli.terminal.words import in_seconds

OUT_OF_TIME = "The time limit was reached before."

Run = Callable[[str], Answers]
"""A command by its name, with the inputs of this run."""
Price = Callable[[str], Estimate | None]
"""What a command takes, by its name; None where it does not tell."""


@dataclass
class Examination:
    """What the diagnostics have answered so far."""

    time_left: Callable[[], float | None] = lambda: None
    """Seconds until the time limit; None without one."""
    answers: dict[str, Answer] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)
    failures: list[Finding] = field(default_factory=list)
    """What ended a command and is the run's own fault: a loss or a gradient that is not finite."""
    error: FromageError | None = None
    """Why a network or batch that was named could not be used, or the limit that cut a measurement."""

    def look(
        self, commands: Sequence[str], run: Run, price: Price = lambda command: None, *, named: bool = False
    ) -> None:
        """Ask each command, but those that would take longer than the time that is left.

        `named`: the user named what they need, so that it has to be usable.
        """
        for command in commands:
            left = self.time_left()
            if isinstance(self.error, ResourceError) or (left is not None and left <= 0.0):
                self.skip([command], OUT_OF_TIME, limited=True)
                continue
            takes = price(command) if left is not None else None
            if left is not None and takes is not None and takes.seconds is not None and takes.seconds > left:
                rest = in_seconds(left)
                reason = f"It takes about {in_seconds(takes.seconds)}; {rest} of --time-limit are left."
                self.skip([command], reason, limited=True)
                continue
            try:
                self._keep(command, run(command))
            except FromageError as error:
                self.miss([command], error, named)

    def miss(self, commands: Sequence[str], error: FromageError, named: bool = False) -> None:
        """These cannot look; `named`: the user named what they need, so that it has to be usable.

        Weights, a loss or a gradient that are not finite are a failure of the run.
        """
        self.skip(commands, in_full(error), limited=isinstance(error, ResourceError))
        if isinstance(error, NotFiniteError):
            message = error.message.removesuffix(".")
            self.failures.append(Finding("loss-not-finite", "fail", message, hint=error.hint))
        elif named or isinstance(error, ResourceError):
            self.error = self.error or error

    def skip(self, commands: Sequence[str], reason: str, *, limited: bool = False) -> None:
        """These do not look, for this reason; `limited`: it is a limit on time or memory."""
        self.skipped += [Skipped(command, reason, limited) for command in commands]

    def _keep(self, command: str, answers: Answers) -> None:
        """The answer about the last checkpoint, partial or not."""
        last = answers if isinstance(answers, Answer) else answers[-1]
        if isinstance(last, FromageError):
            self.skip([command], in_full(last), limited=isinstance(last, ResourceError))
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
    def numbers(self) -> Iterator[Number]:
        """The numbers of all summaries."""
        for command, answer in self.answers.items():
            for name, value, unit in answer.numbers:
                if isinstance(value, int | float) and math.isfinite(value):
                    yield Number(command, name, float(value), unit)

    @property
    def cost(self) -> Estimate:
        """What all commands take, where each has told its own."""
        told = [one.result.estimate for one in self.answers.values() if isinstance(one.result, EstimateResult)]
        return Estimate.of_all(told)

    @property
    def results(self) -> Mapping[str, object]:
        """What each command found."""
        return {command: answer.result for command, answer in self.answers.items()}


def in_full(error: FromageError) -> str:
    """What an error says, and what to do about it where model, batch and checkpoint do not fit together."""
    return f"{error.message} {error.hint}" if isinstance(error, MismatchError) and error.hint else error.message
