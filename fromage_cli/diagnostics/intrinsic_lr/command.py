"""`fromage-diag intrinsic-lr`."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from fromage_cli.errors import UsageError
from fromage_cli.intake import Intake, checkpoint_record, declared_by, given_settings, open_run
from fromage_cli.missing import Interrupted, found_of
from fromage_cli.terminal.answer import Answer, Estimate, Provenance, estimate_answer, records
from fromage_cli.terminal.optimizer_options import OptimizerOptions, check_decoupled
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
from fromage_cli.terminal.progress import progress

if TYPE_CHECKING:
    from fromage_cli.checkpoints import Checkpoint


@diagnostic(tables=("layers", "rotations", "drop"), estimate=True)
def command(
    ckpt: RunArgument,
    *,
    steps_per_epoch: Annotated[
        int | None, typer.Option(metavar="N", min=1, rich_help_panel="Optimizer", help="To tell times in epochs too.")
    ] = None,
    decoupled: Annotated[
        bool,
        typer.Option(
            "--decoupled", rich_help_panel="Optimizer", help="Weight decay of lars or adam past the gradient."
        ),
    ] = False,
    drop: Annotated[
        float | None,
        typer.Option("--drop", metavar="FACTOR", help="What dividing the rate by FACTOR does to the effective rate."),
    ] = None,
    plot: PlotArgument = None,
    optimizer: OptimizerOptions,
    model: ModelOptions,
    batch: BatchOptions,
    tensors: NameOptions,
    run: RunOptions,
    output: OutputOptions,
) -> Answer:
    """Where is each layer against its equilibrium norm and rotation, and how long until it gets there?"""
    optimizer.check()
    if drop is not None and not 1.0 < drop < math.inf:
        raise UsageError(f"--drop {drop:g}: expected a number above 1.", "10 divides the rate by ten.")
    if plot is not None and drop is None:
        raise UsageError("--plot draws what a drop of the rate does.", "Give --drop FACTOR too.")
    if plot is not None:
        check_plot(plot, output.force, (output.output, *ckpt, batch.batch))

    from fromage_cli.checkpoints.layers import lasting_layers
    from fromage_cli.checkpoints.runs.gathering import gather_series
    from fromage_cli.diagnostics.intrinsic_lr.findings import judge
    from fromage_cli.diagnostics.intrinsic_lr.measure import measure
    from fromage_cli.diagnostics.intrinsic_lr.plot import draw
    from fromage_cli.diagnostics.intrinsic_lr.render import courses, render, rotations
    from fromage_cli.diagnostics.intrinsic_lr.result import Evidence
    from fromage_cli.diagnostics.intrinsic_lr.settings import find_training
    from fromage_cli.problem.conditions.budget import Budget

    budget = Budget(run.time_limit, run.max_memory)
    gathered = gather_series(ckpt, model.key, model.ema, model.optimizer_state)
    checkpoints, last = gathered.checkpoints, gathered.checkpoints[-1]
    names, changed = lasting_layers(checkpoints, *tensors.globs)
    intake = open_run(last, model, batch, run)
    shapes = None
    untrained: tuple[str, ...] = ()
    if intake is not None:
        from fromage_cli.diagnostics.intrinsic_lr.evidence import checkpoint_shapes, gather_evidence

        shapes = checkpoint_shapes(intake.problem, last)
        layers, untrained = intake.trained_layers(names)
        names = tuple(layers) or names
    declared = intake.declared if intake is not None else declared_by(last, model.trust)
    training = find_training(
        checkpoints,
        names,
        given_settings(optimizer),
        declared,
        shapes=shapes,
        steps_per_epoch=steps_per_epoch,
        decoupled=decoupled,
    )
    optimizer.check_for(training.optimizer)
    check_decoupled(decoupled, training.optimizer)
    if run.estimate:
        return _estimate(intake, checkpoints, names, training.takes_gradients)
    evidence: Evidence | Interrupted[Evidence] = Evidence()
    if intake is not None:
        with progress("scale invariance", total=len(layers)) as advance_layer:
            evidence = gather_evidence(
                intake.problem,
                layers,
                gradients=training.takes_gradients,
                batch_size=optimizer.train_batch_size,
                advance=advance_layer,
            )
    elements = sum(last.entries[name].elements for name in names)
    with progress("intrinsic-lr", total=elements * len(checkpoints)) as advance:
        result, stopped = found_of(
            measure(checkpoints, names, training, evidence, drop=drop, advance=advance, check=budget.check)
        )
    answer = Answer(
        result=result,
        page=lambda style: render(result, style),
        tables={
            "layers": lambda: records(result.layers),
            "rotations": lambda: rotations(result),
            "drop": lambda: courses(result),
        },
        findings=judge(result),
        provenance=Provenance(device="cpu", dtype="float64"),
        notes=(*training.notes, *changed, *untrained),
        settings={**training.flags, **({"train_batch_size": size} if (size := result.train_batch_size) else {})},
        error=stopped,
    )
    if intake is not None:
        answer = intake.complete(answer)
    notes = tuple(dict.fromkeys((*gathered.notes, *declared.notes, *answer.notes)))
    answer = replace(answer, notes=notes, checkpoints=(checkpoint_record(last),))
    if plot is not None:  # what a drop does from the last checkpoint on, after which the picture is called
        answer = with_plot(answer, lambda *how: draw(result, *how), plot, output.force)
    return replace(answer, checkpoints=tuple(map(checkpoint_record, checkpoints)))


def _estimate(
    intake: Intake | None, checkpoints: "Sequence[Checkpoint]", names: Sequence[str], gradients: bool
) -> Answer:
    """The base gradient, those of the parts, and the tests of every layer; without a model reading alone."""
    from fromage_cli.checkpoints.reading.reading_cost import reading_cost

    bytes, seconds = reading_cost(checkpoints, names)
    if intake is None:
        return estimate_answer(Estimate(gradients=0.0, bytes=bytes, seconds=seconds))
    from fromage_cli.probes.cost import measure_cost
    from fromage_cli.probes.structure.invariance import gradients_of_tests

    cost, count = measure_cost(intake.problem), gradients_of_tests(len(names)) + gradients
    copies = 3.0  # as large as the weights: the base gradient, that of one part, and the sum of the parts
    estimate = Estimate(gradients=count, bytes=bytes + cost.memory(copies=copies), seconds=seconds + cost.time(count))
    return intake.complete(estimate_answer(estimate))
