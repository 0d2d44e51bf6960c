"""What can be asked of `suggest-lr` beside the options that commands share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fromage_cli.errors import FromageError, NumericalError, ResourceError, UsageError
from fromage_cli.missing import Missing
from fromage_cli.optimizers.rule import NAME_IT
from fromage_cli.terminal.options import OutputOptions
from fromage_cli.theory.schedules import Schedule

if TYPE_CHECKING:
    from fromage_cli.diagnostics.suggest_lr.partial_measurement import Request
    from fromage_cli.diagnostics.suggest_lr.result import SuggestedRates
    from fromage_cli.intake import RunSchedule
    from fromage_cli.problem.evaluation.problem import Problem

TRAINING_BATCHES, STEPS_OF_A_BATCH = 9, 75
"""Batches at least, and the steps of a budget for each further one."""
UNRELIABLE = 10
"""Exit code of a value that is printed but not reliable."""
NO_RATE_TO_TRAIN_AT = (
    "limit: up to here one step is sure to lower the loss of these rows. It is no rate to train at; --value "
    "recommended gives that."
)
NOT_CLOSED = "the search ended before it was exact to 5 %, or the state tells no rate for some tensors"


def untold(schedule: "RunSchedule") -> tuple[str, ...]:
    """A note on the constant rate of runs whose schedule nothing tells; none where it is told."""
    if schedule.told:
        return ()
    why = "none is known" if schedule.doubt is None else schedule.doubt
    return (f"schedule: {why}. Short runs keep the rate constant; --schedule cosine, linear or FILE gives yours.",)


@dataclass(frozen=True)
class RateOptions:
    """Which of the rates is asked for, and how far it is measured."""

    value: Annotated[
        Literal["recommended", "limit"] | None,
        typer.Option(
            "--value",
            metavar="WHICH",
            help="recommended or limit: print that rate alone. Exit 10: it is a guess, 6: there is none.",
        ),
    ] = None
    probe: Annotated[
        Literal["auto", "init", "checkpoint", "none"],
        typer.Option(
            "--probe",
            metavar="FROM",
            help="Short training runs: from new weights (init), these (checkpoint), auto, or none (fastest).",
        ),
    ] = "auto"
    probe_budget: Annotated[
        int | None,
        typer.Option(
            "--probe-budget",
            metavar="N",
            min=1,
            help="Training steps of all short runs, as 360. Default: what ten minutes allow, at most 400.",
        ),
    ] = None
    verify: Annotated[
        int | None,
        typer.Option(
            "--verify",
            metavar="N",
            min=1,
            help="Train N steps at 1/3 of the rate, at it and at 3 × it.",
        ),
    ] = None
    sharpness: Annotated[
        bool | None,
        typer.Option(
            "--sharpness/--no-sharpness",
            help="Is your rate stable by today's curvature? Default: on, off with --value limit.",
            show_default=False,
        ),
    ] = None
    warm: Annotated[
        int,
        typer.Option(
            "--warm",
            metavar="N",
            min=2,
            help="Without optimizer state, build momentum and Adam moments from N minibatch gradients.",
        ),
    ] = 16

    def check(self, output: OutputOptions) -> None:
        """Raises UsageError for a value alone in a format that has more to say."""
        if self.value is not None and (output.json or output.format != "auto" or output.table is not None):
            raise UsageError(
                "--value prints a number alone, in no other format.",
                "Leave out --value, or --json, --format and --table.",
            )

    def check_without_optimizer(self) -> None:
        """Raises UsageError for what only one optimizer can answer, and not the tables of all of them."""
        asked = {
            "--value": self.value is not None,
            "--verify": self.verify is not None,
            "--sharpness": bool(self.sharpness),
            f"--probe {self.probe}": self.probe in ("init", "checkpoint"),
        }
        flag = next((flag for flag, given in asked.items() if given), None)
        if flag is not None:
            raise UsageError(
                f"{flag} needs the optimizer, and no checkpoint tells which it is.",
                f"{NAME_IT}. Without {flag} all of them are shown.",
            )

    @property
    def further_batches(self) -> int:
        """Taken from an iterator beside the diagnostic batch for short runs; longer ones need more."""
        return max(TRAINING_BATCHES, (self.probe_budget or 0) // STEPS_OF_A_BATCH) if self.trains else 0

    @property
    def trains(self) -> bool:
        """Whether training steps are taken."""
        return self.verify is not None or (self.probe != "none" and self.value != "limit")

    def request(
        self,
        batch_size: int | None,
        fresh: "Callable[[int], Problem | None]",
        schedule: "RunSchedule",
        made: int | None,
    ) -> "Request":
        """What the measurement is to do; the limit alone needs no short runs.

        `made`: updates before the checkpoint, None where there is none.
        """
        from fromage_cli.diagnostics.suggest_lr.partial_measurement import Request

        probe = "none" if self.value == "limit" else self.probe
        sharpness = self.value != "limit" if self.sharpness is None else self.sharpness
        return Request(
            batch_size=batch_size,
            chunks=self.warm,
            sharpness=sharpness,
            probe=probe,
            verify=self.verify or 0,
            fresh=fresh,
            budget=self.probe_budget,
            schedule=schedule.schedule or Schedule(),
            new=made is None,
            made=made or 0,
            peak=schedule.peak,
        )

    def alone(self, result: "SuggestedRates", error: FromageError | None) -> dict[str, Any]:
        """What of an answer the value alone changes.

        Raises NumericalError, or the limit that was reached, where there is no such value.
        """
        found = result.limit if self.value == "limit" else result.recommended
        if not isinstance(found.learning_rate, Missing):
            notes = [NO_RATE_TO_TRAIN_AT] if self.value == "limit" else []
            if not found.reliable:
                reason = NOT_CLOSED if self.value == "limit" else result.recommended.reason
                notes.append(f"{self.value}: a guess (exit {UNRELIABLE}): {reason}.")
            code = 0 if found.reliable else UNRELIABLE
            return {"alone": f"{found.learning_rate:.6g}", "code": code, "notes": tuple(notes)}
        if isinstance(error, ResourceError):
            raise error
        reason = "no step size is sure to lower the loss, and none was seen to raise it"
        if self.value == "recommended":
            reason = result.recommended.reason
        raise NumericalError(
            f"There is no {self.value} learning rate: {reason}.", "Look at the whole answer, without --value."
        )
