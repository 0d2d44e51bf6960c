"""`fromage-diag intrinsic-lr`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from fromage_cli.errors import UsageError
from fromage_cli.intake import find_schedule, gather_run, given_settings, trained_by
from fromage_cli.missing import Interrupted, found_of
from fromage_cli.terminal.answer import Answer, Provenance, records
from fromage_cli.terminal.optimizer_options import ScheduleOptions, TrainingOptions
from fromage_cli.terminal.options import (
    BatchOptions,
    ModelOptions,
    NameOptions,
    OutputOptions,
    PlotArgument,
    RunArgument,
    RunOptions,
    diagnostic,
)
from fromage_cli.terminal.pictures import check_plot, with_plot


@dataclass(frozen=True)
class FutureOptions:
    """How the rate goes on after the last checkpoint, and where that is drawn."""

    drop: Annotated[
        float | None,
        typer.Option(
            "--drop",
            metavar="FACTOR",
            help="Show how the effective rate goes on where the learning rate is divided by FACTOR, as 10.",
        ),
    ] = None
    plot: PlotArgument = None

    def check(self, force: bool, others: Sequence[str | Path | None]) -> None:
        """Raises UsageError for a number out of range, and as `check_plot` does."""
        if self.drop is not None and not 1.0 < self.drop < math.inf:
            raise UsageError(f"--drop {self.drop:g}: expected a number above 1.", "10 divides the rate by ten.")
        if self.plot is not None and self.drop is None:
            raise UsageError("--plot draws what a drop of the rate does.", "Give --drop FACTOR too, as --drop 10.")
        check_plot(self.plot, force, others)


@diagnostic(tables=("layers", "rotations", "drop", "forecast", "norms", "summary"), estimate=True)
def command(
    ckpt: RunArgument,
    *,
    future: FutureOptions,
    optimizer: TrainingOptions,
    schedule: ScheduleOptions,
    model: ModelOptions,
    batch: BatchOptions,
    tensors: NameOptions,
    run: RunOptions,
    output: OutputOptions,
) -> Answer:
    """How long do norms take to settle under weight decay, and where is each layer now?

    A layer is at its equilibrium norm where weight decay takes off what the updates add. This holds for scale-invariant
    layers, which --model tests for.
    """
    optimizer.check()
    schedule.check()
    future.check(output.force, (output.output, *ckpt, batch.batch))

    from fromage_cli.checkpoints.reading.reading_cost import reading_cost
    from fromage_cli.diagnostics.intrinsic_lr.findings import judge
    from fromage_cli.diagnostics.intrinsic_lr.measure import measure
    from fromage_cli.diagnostics.intrinsic_lr.plot import draw
    from fromage_cli.diagnostics.intrinsic_lr.render import TOLD, advise, render
    from fromage_cli.diagnostics.intrinsic_lr.result import Evidence
    from fromage_cli.diagnostics.intrinsic_lr.settings import find_training
    from fromage_cli.diagnostics.intrinsic_lr.tables import courses, forecasts, headline, norms, rotations
    from fromage_cli.problem.conditions.budget import Budget

    budget = Budget(run.time_limit, run.max_memory)
    series = gather_run(ckpt, model, tensors, steps_per_epoch=optimizer.steps_per_epoch)
    if model.model is None:
        series.declared.check("model")
    series = series.in_model(model, batch, run)
    training = find_training(
        series.checkpoints,
        series.names,
        given_settings(optimizer),
        series.declared,
        shapes=series.shapes,
        steps_per_epoch=optimizer.steps_per_epoch,
        decoupled=optimizer.decoupled,
        schedule=find_schedule(series.checkpoints, schedule, series.declared, optimizer.steps_per_epoch),
    )
    optimizer.check_found(training.optimizer)
    if run.estimate:
        # entries that were never updated are found by squares in the state, and their weights are read once more
        squares = any("exp_avg_sq" in slot for slot in training.slots.values())
        again = series.checkpoints[-1:] if squares else ()
        cost = reading_cost((*series.checkpoints, *again), series.names)
        # as large as the weights: the base gradient, that of one part, and the sum of the parts
        return series.estimate(*cost, gradients=int(training.takes_gradients), copies=3, beside=True)
    evidence: Evidence | Interrupted[Evidence] = Evidence()
    with series.progress(int(training.takes_gradients)) as advance:
        if series.intake is not None:
            from fromage_cli.diagnostics.intrinsic_lr.evidence import gather_evidence

            evidence = gather_evidence(
                series.intake.problem,
                series.layers,
                gradients=training.takes_gradients,
                batch_size=optimizer.train_batch_size or series.declared.train_batch_size,
                advance=advance,
            )
        result, stopped = found_of(
            measure(
                series.checkpoints,
                series.names,
                training,
                evidence,
                drop=future.drop,
                advance=advance,
                check=budget.check,
            )
        )
    batch_size = {"train_batch_size": result.train_batch_size} if result.train_batch_size else {}
    answer = Answer(
        result=result,
        findings=judge(result, series.with_model("to which layers this applies")),
        provenance=Provenance(device="cpu", dtype="float64"),
        header=trained_by(training.flags),
        advice=advise(result),
        told=TOLD,
        details=training.notes,
        settings=training.flags | batch_size,
        error=stopped,
        page=lambda style: render(result, style),
        tables={
            "layers": lambda: records(result.layers),
            "rotations": lambda: rotations(result),
            "drop": lambda: courses(result),
            "forecast": lambda: forecasts(result),
            "norms": lambda: norms(result),
            "summary": lambda: headline(result),
        },
    )
    return with_plot(series.complete(answer), lambda *how: draw(result, *how), future.plot, output.force, last=True)
