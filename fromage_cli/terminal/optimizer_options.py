"""The options that name an optimizer and its settings, refused where no optimizer takes them."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fromage_cli.errors import InputError, UsageError
from fromage_cli.optimizers.rule import FROMAGE, RULES, having, listed
from fromage_cli.terminal import session
from fromage_cli.theory.schedules import SHAPES, Schedule, parse_table

if TYPE_CHECKING:
    OptimizerName = str
else:
    OptimizerName = Literal[tuple(RULES)]


RELATIVE = [rule for rule in RULES.values() if rule.relative]
MAY_DECOUPLE = [rule.name for rule in RULES.values() if rule.may_decouple]
DECOUPLED = [rule for rule in RULES.values() if rule.decay in ("decoupled", "rescaled")]


def _option(*names: str, help: str, **settings: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel="Optimizer", **settings)


StepsPerEpochOption = Annotated[
    int | None,
    _option("--steps-per-epoch", metavar="N", min=1, help="Tell times in epochs too; read names that tell epochs."),
]


@dataclass(frozen=True)
class OptimizerOptions:
    """Which optimizer trains, and with which settings; what is not given is read from the checkpoint's state."""

    optimizer: Annotated[
        OptimizerName | None,
        _option("--optimizer", metavar="NAME", help=f"{', '.join(RULES)}. Default: as saved."),
    ] = None
    lr: Annotated[
        float | None,
        _option(
            "--lr", metavar="RATE", help=f"Learning rate, as 0.001 (of {listed(RELATIVE)} relative). Default: as saved."
        ),
    ] = None
    momentum: Annotated[
        float | None,
        _option("--momentum", metavar="M", help=f"Momentum of {listed(having('momentum'))}, as 0.9."),
    ] = None
    nesterov: Annotated[bool, _option("--nesterov", help="Use Nesterov momentum.")] = False
    betas: Annotated[
        str | None, _option("--betas", metavar="B1,B2", help=f"Betas of {listed(having('betas'))}, as .9,.999.")
    ] = None
    weight_decay: Annotated[
        float | None,
        _option(
            "--weight-decay",
            metavar="WD",
            help=f"Weight decay, as 0.1: direct for {listed(DECOUPLED)}, else in the gradient.",
        ),
    ] = None
    train_batch_size: Annotated[
        int | None,
        _option("--train-batch-size", metavar="N", min=1, help="Rows of a training batch. Default: those of --batch."),
    ] = None

    def check(self) -> None:
        """Raises UsageError for a number out of range, or a setting that the optimizer named does not have."""
        require("--lr", self.lr, self.lr is None or 0.0 < self.lr < math.inf, "a number above 0")
        momentum, decay = self.momentum, self.weight_decay
        require("--momentum", momentum, momentum is None or 0.0 <= momentum < 1.0, "a number from 0 to below 1")
        require("--weight-decay", decay, decay is None or 0.0 <= decay < math.inf, "a number, 0 or above")
        self.check_for(self.optimizer)
        _ = self.beta_pair
        if self.nesterov and self.momentum == 0.0:
            raise UsageError(
                "--nesterov without momentum is plain descent.", "Give --momentum above 0, or leave it out."
            )

    def check_for(self, optimizer: str | None) -> None:
        """Raises UsageError for a setting typed that this optimizer, named or found in the checkpoint, does not have.

        One from the environment or the project's file may be meant for other optimizers: this one does not use it.
        """
        rule = RULES.get(optimizer or "")
        for setting in ("momentum", "nesterov", "betas"):
            given = getattr(self, setting) not in (None, False)
            if given and rule is not None and not rule.has(setting) and session.typed(setting):
                raise UsageError(
                    f"--{setting} is no setting of {optimizer}.", "Leave it out, or choose another --optimizer."
                )
        refuse_decay(self.weight_decay, optimizer)

    @property
    def beta_pair(self) -> tuple[float, float] | None:
        """`.9,.95` as two numbers from 0 to below 1; raises UsageError."""
        if self.betas is None:
            return None
        try:
            first, second = (float(part) for part in self.betas.split(","))
        except ValueError:
            first = second = math.nan
        fits = 0.0 <= first < 1.0 and 0.0 <= second < 1.0
        require("--betas", self.betas, fits, "two numbers from 0 to below 1, as .9,.999")
        return first, second


@dataclass(frozen=True)
class TrainingOptions(OptimizerOptions):
    """The same for a run of many steps."""

    decoupled: Annotated[
        bool,
        _option(
            "--decoupled", help=f"Weight decay of {' or '.join(MAY_DECOUPLE)} shrinks weights directly, as in adamw."
        ),
    ] = False
    steps_per_epoch: StepsPerEpochOption = None

    def check_found(self, optimizer: str | None) -> None:
        """Raises UsageError for a setting typed that the optimizer found does not have, or that changes nothing."""
        self.check_for(optimizer)
        if self.decoupled and optimizer not in MAY_DECOUPLE and session.typed("decoupled"):
            raise UsageError(
                f"--decoupled changes nothing for {optimizer or 'an optimizer that is not known'}.",
                f"It is for {' and '.join(MAY_DECOUPLE)}; {listed(DECOUPLED)} are decoupled as they are.",
            )


LARGEST_TABLE = 20_000_000
"""Bytes of a table of rates: more than its most lines take."""


@dataclass(frozen=True)
class ScheduleOptions:
    """How the learning rate goes along the run; `--lr` is then its peak."""

    schedule: Annotated[
        str | None,
        _option(
            "--schedule",
            metavar="SHAPE|FILE",
            help="constant, linear, cosine, or a CSV of step,learning_rate. Default: as saved.",
        ),
    ] = None
    warmup_steps: Annotated[
        int | None, _option("--warmup-steps", metavar="N", min=0, help="Steps of linear warm-up from 0, as 100.")
    ] = None
    total_steps: Annotated[
        int | None, _option("--total-steps", metavar="N", min=1, help="Steps of the run. Default: as saved.")
    ] = None

    def check(self) -> None:
        """Raises UsageError where the three contradict each other."""
        warmup, total = self.warmup_steps or 0, self.total_steps
        require("--warmup-steps", warmup, total is None or warmup < total, f"fewer than the run's {total} steps")
        if warmup and self.schedule is not None and self.schedule.lower() not in SHAPES:
            raise UsageError("--warmup-steps goes with a shape; a table holds its own warm-up.", "Leave it out.")

    def given(self) -> tuple[Schedule | None, float | None]:
        """The schedule that was named, and the peak where a table tells it; None where none was.

        Raises InputError where a table cannot be read, UsageError for a name that is neither a shape nor a file.
        """
        if self.schedule is None:
            return (
                None if self.warmup_steps is None else Schedule("constant", self.warmup_steps, self.total_steps)
            ), None
        if self.schedule.lower() in SHAPES:
            return Schedule(self.schedule.lower(), self.warmup_steps or 0, self.total_steps), None
        path, peak = Path(self.schedule), None
        if not path.is_file():
            raise UsageError(
                f"--schedule {self.schedule}: there is no such file; expected {', '.join(SHAPES)}, or a table.",
                "A table is CSV: step,learning_rate in the first line, then a line for each point.",
            )
        try:
            with path.open("rb") as file:
                text = file.read(LARGEST_TABLE + 1)
            if len(text) > LARGEST_TABLE:
                raise InputError(f"--schedule {path}: it is larger than {LARGEST_TABLE} bytes.", "Leave lines out.")
            found, peak = parse_table(text.decode("utf-8-sig"), self.schedule)
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            raise InputError(f"--schedule {path}: {reason}; expected a CSV table.", "Give a file of rates.") from error
        return (found if self.total_steps is None else replace(found, total=self.total_steps)), peak


def spelled(betas: tuple[float, float] | None) -> str | None:
    """Two betas as `--betas` takes them."""
    return None if betas is None else ",".join(f"{beta:g}" for beta in betas)


def refuse_decay(decay: float | None, optimizer: str | None) -> None:
    """Raises UsageError for a weight decay above 0 with Fromage."""
    if decay and optimizer == FROMAGE.name:
        raise UsageError(
            f"--weight-decay {decay:g}: Fromage has no weight decay; it divides by √(1+η²) instead, which keeps norms.",
            "Leave it out, or choose another --optimizer.",
        )


def require(flag: str, value: object, fits: bool, expected: str) -> None:
    """Raises UsageError where a flag's value does not fit."""
    if not fits:
        raise UsageError(f"{flag} {value}: expected {expected}.", f"Give {flag} another value.")
