"""`fromage-diag norms`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from fromage_cli.errors import FromageError
from fromage_cli.intake import Intake, checkpoint_record, declared_by, given_settings, open_run
from fromage_cli.missing import found_of
from fromage_cli.terminal import session
from fromage_cli.terminal.answer import Answer, PageStyle, Provenance, Table, records
from fromage_cli.terminal.estimate import Estimate, estimate_answer
from fromage_cli.terminal.optimizer_options import OptimizerOptions, check_decoupled, spelled
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
    from fromage_cli.diagnostics.norms.measure import LayerTest
    from fromage_cli.diagnostics.norms.settings import Settings
    from fromage_cli.problem.networks.layers import TrainableTensor


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
    from fromage_cli.diagnostics.norms.settings import find_run_settings

    check_limits = _limits(run)
    gathered = gather_series(ckpt, model.key, model.ema, model.optimizer_state)
    last = gathered.checkpoints[-1]
    names, changed = lasting_layers(gathered.checkpoints, tensors.include or (), tensors.exclude or ())
    declared = declared_by(last, model.trust)
    settings = find_run_settings(
        gathered.checkpoints,
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
        return _estimate(gathered.checkpoints, names, intake)
    tests, limit = _tests(intake, layers) if intake is not None else (None, None)
    answer = replace(_answer(gathered.checkpoints, names, settings, tests, check_limits), error=limit)
    answer = intake.complete(answer) if intake is not None else answer
    files = tuple(checkpoint_record(checkpoint) for checkpoint in gathered.checkpoints)
    notes = dict.fromkeys((*gathered.notes, *declared.notes, *answer.notes, *changed, *untrained))
    return replace(answer, notes=tuple(notes), checkpoints=files)


def _limits(run: RunOptions) -> Callable[[], None]:
    """What raises ResourceError when a limit of the user's is reached."""
    from fromage_cli.problem.conditions.budget import Budget

    return Budget(run.time_limit, run.max_memory).check


def _answer(
    checkpoints: Sequence["Checkpoint"],
    names: Sequence[str],
    settings: "Settings",
    tests: "Mapping[str, LayerTest] | None",
    check_limits: Callable[[], None],
) -> Answer:
    """What the files tell, and the model where there is one."""
    from fromage_cli.diagnostics.norms.findings import judge
    from fromage_cli.diagnostics.norms.measure import measure

    with progress("norms", total=len(checkpoints) * _elements(checkpoints[-1], names)) as advance:

        def done(elements: float) -> None:
            advance(elements)
            if tests is None:  # norms are read whole where the test has used up the time
                check_limits()

        result = measure(checkpoints, names, settings, tests, done)

    def page(style: PageStyle) -> "RenderableType":
        from fromage_cli.diagnostics.norms.render import render  # brings rich

        return render(result, style)

    def curve() -> Table:
        from fromage_cli.diagnostics.norms.render import curve

        return curve(result)

    return Answer(
        result=result,
        page=page,
        tables={"layers": lambda: records(result.layers), "steps": curve},
        findings=judge(result),
        provenance=Provenance(device="cpu", dtype="float64"),
        notes=settings.notes,
        settings=_settings(settings),
    )


def _settings(settings: "Settings") -> dict[str, object]:
    """What the flags became: the rate at the last step."""
    return {
        "optimizer": settings.optimizer,
        "lr": settings.learning_rates[-1],
        "momentum": settings.momentum,
        "betas": spelled(settings.betas),
        "weight_decay": settings.weight_decay,
        "steps_per_epoch": settings.steps_per_epoch,
    }


def _tests(
    intake: Intake, layers: Mapping[str, "TrainableTensor"]
) -> tuple[dict[str, "LayerTest"], FromageError | None]:
    from fromage_cli.diagnostics.norms.invariance import examine_layers

    with progress("scale invariance", total=len(layers)) as advance:
        return found_of(examine_layers(intake.problem, layers, advance))


def _elements(checkpoint: "Checkpoint", names: Sequence[str]) -> int:
    return sum(checkpoint.entries[name].elements for name in names)


def _estimate(checkpoints: Sequence["Checkpoint"], names: Sequence[str], intake: Intake | None) -> Answer:
    """The reading of every checkpoint, and with a model a gradient and the forward passes of every layer."""
    from fromage_cli.checkpoints.reading.reduction_cost import reduction_cost

    reading = reduction_cost(checkpoints, names)
    if intake is None:
        return estimate_answer(Estimate(0.0, reading.bytes, reading.seconds))

    from fromage_cli.probes.cost import measure_cost
    from fromage_cli.probes.structure.invariance import gradients_of_tests

    cost = measure_cost(intake.problem)
    gradients = gradients_of_tests(len(names))
    memory = max(cost.memory(copies=2), reading.bytes)
    return intake.complete(estimate_answer(Estimate(gradients, memory, reading.seconds + cost.time(gradients))))
