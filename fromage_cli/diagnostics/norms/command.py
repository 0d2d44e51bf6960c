"""`fromage-diag norms`."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from fromage_cli.intake import Intake, checkpoint_record, declared_by, given_settings, open_run
from fromage_cli.missing import found_of
from fromage_cli.terminal import session
from fromage_cli.terminal.answer import Answer, Estimate, PageStyle, Provenance, Table, estimate_answer, records
from fromage_cli.terminal.optimizer_options import OptimizerOptions, check_decoupled
from fromage_cli.terminal.options import (
    BatchOptions,
    ModelOptions,
    NameOptions,
    OutputOptions,
    RunArgument,
    RunOptions,
    diagnostic,
)
from fromage_cli.terminal.progress import progress

if TYPE_CHECKING:
    from rich.console import RenderableType

    from fromage_cli.checkpoints import Checkpoint


@diagnostic(tables=("layers", "steps"), estimate=True)
def command(
    ckpt: RunArgument,
    *,
    decoupled: Annotated[
        bool, typer.Option("--decoupled", rich_help_panel="Optimizer", help="Weight decay of lars past the gradient.")
    ] = False,
    steps_per_epoch: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, rich_help_panel="Optimizer", help="To tell future steps in epochs too."),
    ] = None,
    optimizer: OptimizerOptions,
    model: ModelOptions,
    batch: BatchOptions,
    tensors: NameOptions,
    run: RunOptions,
    output: OutputOptions,
) -> Answer:
    """Which layers' norms grow along a run, how fast, and when does it hurt? --model tests scale invariance too."""
    optimizer.check()

    from fromage_cli.checkpoints.layers import lasting_layers
    from fromage_cli.checkpoints.runs.gathering import gather_series
    from fromage_cli.diagnostics.norms.findings import judge
    from fromage_cli.diagnostics.norms.measure import measure
    from fromage_cli.diagnostics.norms.settings import find_run_settings
    from fromage_cli.problem.conditions.budget import Budget

    budget = Budget(run.time_limit, run.max_memory)
    gathered = gather_series(ckpt, model.key, model.ema, model.optimizer_state)
    checkpoints, last = gathered.checkpoints, gathered.checkpoints[-1]
    names, changed = lasting_layers(checkpoints, *tensors.globs)
    declared = declared_by(last, model.trust)
    settings = find_run_settings(
        checkpoints,
        names,
        given_settings(optimizer),
        declared,
        decoupled=decoupled,
        steps_per_epoch=steps_per_epoch,
        typed=session.typed,
    )
    optimizer.check_for(settings.optimizer)
    check_decoupled(decoupled, settings.optimizer)
    intake = open_run(last, model, batch, run)
    layers, untrained = intake.trained_layers(names) if intake is not None else ({}, ())
    names = tuple(layers) or names
    if run.estimate:
        return _estimate(checkpoints, names, intake)
    tests, limit = None, None
    if intake is not None:
        from fromage_cli.diagnostics.norms.invariance import examine_layers

        with progress("scale invariance", total=len(layers)) as advance_layer:
            tests, limit = found_of(examine_layers(intake.problem, layers, advance_layer))
    elements = sum(last.entries[name].elements for name in names)
    with progress("norms", total=len(checkpoints) * elements) as advance:

        def done(elements: float) -> None:
            advance(elements)
            if tests is None:  # norms are read whole where the test has used up the time
                budget.check()

        result = measure(checkpoints, names, settings, tests, done)

    def page(style: PageStyle) -> "RenderableType":
        from fromage_cli.diagnostics.norms.render import render  # brings rich

        return render(result, style)

    def steps() -> Table:
        from fromage_cli.diagnostics.norms.render import curve

        return curve(result)

    answer = Answer(
        result=result,
        page=page,
        tables={"layers": lambda: records(result.layers), "steps": steps},
        findings=judge(result),
        provenance=Provenance(device="cpu", dtype="float64"),
        notes=settings.notes,
        settings=settings.flags,
        error=limit,
    )
    answer = intake.complete(answer) if intake is not None else answer
    notes = dict.fromkeys((*gathered.notes, *declared.notes, *answer.notes, *changed, *untrained))
    return replace(answer, notes=tuple(notes), checkpoints=tuple(map(checkpoint_record, checkpoints)))


def _estimate(checkpoints: Sequence["Checkpoint"], names: Sequence[str], intake: Intake | None) -> Answer:
    """The reading of every checkpoint, and with a model a gradient and the forward passes of every layer."""
    from fromage_cli.checkpoints.reading.reading_cost import reduction_cost

    reading = reduction_cost(checkpoints, names)
    if intake is None:
        return estimate_answer(Estimate(0.0, reading.bytes, reading.seconds))

    from fromage_cli.probes.cost import measure_cost
    from fromage_cli.probes.structure.invariance import gradients_of_tests

    cost = measure_cost(intake.problem)
    gradients = gradients_of_tests(len(names))
    memory = max(cost.memory(copies=2), reading.bytes)  # the base gradient, and the layer that is scaled
    return intake.complete(estimate_answer(Estimate(gradients, memory, reading.seconds + cost.time(gradients))))
