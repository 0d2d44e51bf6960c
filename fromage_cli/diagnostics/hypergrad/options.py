"""What can be asked of `hypergrad` beside the options that commands share."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import typer

from fromage_cli.errors import UsageError
from fromage_cli.terminal import parsing
from fromage_cli.terminal.optimizer_options import require
from fromage_cli.terminal.options import PlotArgument
from fromage_cli.terminal.words import nearest

METHODS = ("unroll", "gauss-newton", "hessian", "source", "delta-stn")
TAKEN = ("model", "batch", "dropout")
"""Names that `--hyper` cannot have: the first two of every loss, and the network's own dropout."""
STEPS = 50
"""Further training steps that are looked at."""


@dataclass(frozen=True)
class HypergradOptions:
    """Which hyperparameters, on which validation rows, and how far ahead."""

    val_batch: Annotated[
        str | None,
        typer.Option("--val-batch", metavar="SPEC", help="Validation rows, in any form that --batch takes."),
    ] = None
    val_loss: Annotated[
        str | None,
        typer.Option("--val-loss", metavar="SPEC", help="Loss of these rows. Default: --loss, unregularised."),
    ] = None
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            metavar="unroll:N|gauss-newton|hessian|source:T|delta-stn",
            help="unroll:N takes N further steps (default 50). The others say where training would settle.",
        ),
    ] = None
    hyper: Annotated[
        list[str] | None,
        typer.Option(
            "--hyper",
            metavar="NAME=VALUE",
            parser=parsing.assignment,
            help="A keyword of your --loss, as l1=0.01. Repeatable.",
        ),
    ] = None
    label_smoothing: Annotated[
        float | None,
        typer.Option("--label-smoothing", metavar="S", help="Label smoothing now, as 0.1. Default: 0."),
    ] = None
    dropout: Annotated[
        float | None,
        typer.Option("--dropout", metavar="P", help="Dropout now, as 0.1, wherever the network drops."),
    ] = None
    dropout_by_module: Annotated[
        bool,
        typer.Option("--dropout-by-module", help="Move the dropout of each layer by itself too; eight runs for each."),
    ] = False
    damping: Annotated[
        str,
        typer.Option(
            "--damping", metavar="auto|X", help="Added to the curvature, in multiples of its mean eigenvalue."
        ),
    ] = "auto"
    plot: PlotArgument = None

    def check(self) -> None:
        """Raises UsageError for a number out of range, an unknown method, or no validation rows."""
        if self.val_batch is None:
            raise UsageError(
                "hypergrad asks what lowers the loss of validation rows, and none were given.",
                "Give --val-batch FILE or file.py:function, rows that training does not see.",
            )
        for flag, value in (("--label-smoothing", self.label_smoothing), ("--dropout", self.dropout)):
            require(flag, value, value is None or 0.0 <= value < 1.0, "a number from 0 to below 1")
        _ = self.kind, self.horizon, self.scalars, self.damping_factor

    @property
    def kind(self) -> str | None:
        """The method without its number; None where none was named. Raises UsageError for an unknown one."""
        if self.method is None:
            return None
        name = self.method.partition(":")[0].lower()
        if name not in METHODS:
            raise UsageError(
                f"Unknown --method {self.method!r}; expected unroll:N, gauss-newton, hessian, source:T or delta-stn.",
                nearest(name, METHODS).strip(),
            )
        return name

    @property
    def horizon(self) -> int:
        """The number of steps behind the method's name, by default 50. Raises UsageError."""
        name, colon, number = (self.method or "").partition(":")
        if not colon:
            return STEPS
        counts = name.lower() in ("unroll", "source") and number.isdigit() and 0 < int(number) < 10**9
        require("--method", self.method, counts, "a whole number of steps behind unroll: or source:")
        return int(number)

    @property
    def scalars(self) -> dict[str, float]:
        """`--hyper` as numbers by name. Raises UsageError."""
        found = {}
        for text in self.hyper or ():
            name, _, number = text.partition("=")
            try:
                value = float(number)
            except ValueError:
                value = math.nan
            require("--hyper", text, math.isfinite(value), "NAME=NUMBER, as l1=0.01")
            require("--hyper", text, name.strip() not in TAKEN, f"a name other than {', '.join(TAKEN)}")
            found[name.strip()] = value
        return found

    @property
    def damping_factor(self) -> float | Literal["auto"]:
        """`auto`, or a number of 0 or more. Raises UsageError."""
        if self.damping.lower() == "auto":
            return "auto"
        try:
            value = float(self.damping)
        except ValueError:
            value = math.nan
        require("--damping", self.damping, 0.0 <= value < math.inf, "auto, or a number, 0 or above")
        return value
