"""`fromage-diag intrinsic-lr`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fromage_cli.errors import UsageError
from fromage_cli.intake import Intake, checkpoint_record, declared_by, given_settings, open_run
from fromage_cli.missing import found_of, known
from fromage_cli.terminal import session
from fromage_cli.terminal.answer import Answer, Provenance, records
from fromage_cli.terminal.estimate import Estimate, estimate_answer
from fromage_cli.terminal.optimizer_options import OptimizerOptions, spelled
from fromage_cli.terminal.options import (
    BatchOptions,
    ModelOptions,
    NameOptions,
    OutputOptions,
    RunArgument,
    RunOptions,
    diagnostic,
)
from fromage_cli.terminal.parsing import output_file
from fromage_cli.terminal.pictures import check_plot, with_plot
from fromage_cli.terminal.progress import progress

if TYPE_CHECKING:
    from fromage_cli.checkpoints import Checkpoint
    from fromage_cli.diagnostics.intrinsic_lr.result import Evidence, IntrinsicResult
    from fromage_cli.diagnostics.intrinsic_lr.settings import Training
    from fromage_cli.problem.networks.layers import TrainableTensor


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
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.svg|png", parser=output_file, help="Draw the courses after --drop (needs the extra plot)."
        ),
    ] = None,
    optimizer: OptimizerOptions,
    model: ModelOptions,
    batch: BatchOptions,
    tensors: NameOptions,
    run: RunOptions,
    output: OutputOptions,
) -> Answer:
    """Where is each layer against its equilibrium norm and rotation, and how long until it gets there?"""
    optimizer.check()
    _check(drop, plot)
    if plot is not None:
        check_plot(plot, output.force, (output.output, *ckpt, batch.batch))

    from fromage_cli.checkpoints.layers import lasting_layers
    from fromage_cli.checkpoints.runs.gathering import gather_series
    from fromage_cli.diagnostics.intrinsic_lr.measure import measure, needs_gradients
    from fromage_cli.diagnostics.intrinsic_lr.settings import find_training
    from fromage_cli.problem.conditions.budget import Budget

    budget = Budget(run.time_limit, run.max_memory)
    gathered = gather_series(ckpt, model.key, model.ema, model.optimizer_state)
    checkpoints = gathered.checkpoints
    names, changed = lasting_layers(checkpoints, tensors.include or (), tensors.exclude or ())
    intake = open_run(checkpoints[-1], model, batch, run)
    layers, untrained = intake.trained_layers(names) if intake is not None else ({}, ())
    names = tuple(layers) or names
    training = find_training(
        checkpoints,
        names,
        given_settings(optimizer),
        intake.declared if intake is not None else declared_by(checkpoints[-1], model.trust),
        shapes=_shapes(intake, checkpoints[-1]),
        steps_per_epoch=steps_per_epoch,
        decoupled=decoupled,
    )
    optimizer.check_for(training.optimizer)
    _check_decoupled(decoupled, training.optimizer)
    if run.estimate:
        return _estimate(intake, checkpoints, names, needs_gradients(training))
    evidence = _evidence(intake, layers, needs_gradients(training), optimizer.train_batch_size)
    elements = sum(checkpoints[-1].entries[name].elements for name in names)
    with progress("intrinsic-lr", total=elements * len(checkpoints)) as advance:
        result, stopped = found_of(
            measure(checkpoints, names, training, evidence, drop=drop, advance=advance, check=budget.check)
        )
    answer = replace(_answer(result, training, (*training.notes, *changed, *untrained)), error=stopped)
    answer = answer if intake is None else intake.complete(answer)
    own = tuple(note for note in answer.notes if note not in gathered.notes)
    files = tuple(checkpoint_record(checkpoint) for checkpoint in checkpoints)
    answer = replace(answer, notes=(*gathered.notes, *own), checkpoints=files)
    return answer if plot is None else _drawn(answer, result, plot, output.force)


def _answer(result: "IntrinsicResult", training: "Training", notes: tuple[str, ...]) -> Answer:
    from fromage_cli.diagnostics.intrinsic_lr.findings import judge
    from fromage_cli.diagnostics.intrinsic_lr.render import courses, render, rotations

    return Answer(
        result=result,
        page=lambda style: render(result, style),
        tables={
            "layers": lambda: records(result.layers),
            "rotations": lambda: rotations(result),
            "drop": lambda: courses(result),
        },
        findings=judge(result),
        provenance=Provenance(device="cpu", dtype="float64"),
        notes=notes,
        settings=_settings(result, training),
    )


def _settings(result: "IntrinsicResult", training: "Training") -> dict[str, object]:
    """What the flags became; of several layers' rates and decays the largest."""
    rates = [rate for layer in result.layers if (rate := known(layer.learning_rate)) is not None]
    decays = [decay for layer in result.layers if (decay := known(layer.weight_decay)) is not None]
    found: dict[str, object] = {
        "optimizer": training.optimizer,
        "lr": max(rates, default=None),
        "momentum": training.momentum,
        "nesterov": training.nesterov,
        "betas": spelled(training.betas),
        "weight_decay": max(decays, default=None),
        "decoupled": training.decoupled,
        "steps_per_epoch": training.steps_per_epoch,
    }
    if result.train_batch_size is not None:
        found["train_batch_size"] = result.train_batch_size
    return found


def _drawn(answer: Answer, result: "IntrinsicResult", plot: Path, force: bool) -> Answer:
    """With the picture of what a drop does from the last checkpoint on, after which it is called."""
    from fromage_cli.diagnostics.intrinsic_lr.plot import draw

    of_last = replace(answer, checkpoints=answer.checkpoints[-1:])
    drawn = with_plot(of_last, lambda subject, format: draw(result, subject, format), plot, force)
    return replace(drawn, checkpoints=answer.checkpoints)


def _check(drop: float | None, plot: Path | None) -> None:
    """Raises UsageError for options that do not go together."""
    if drop is not None and not 1.0 < drop < float("inf"):
        raise UsageError(f"--drop {drop:g}: expected a number above 1.", "10 divides the rate by ten.")
    if plot is not None and drop is None:
        raise UsageError("--plot draws what a drop of the rate does.", "Give --drop FACTOR too.")


def _check_decoupled(decoupled: bool, optimizer: str) -> None:
    """Raises UsageError where the rule's decay is not one or the other."""
    from fromage_cli.diagnostics.intrinsic_lr.settings import MAY_DECOUPLE

    if decoupled and optimizer not in MAY_DECOUPLE and session.typed("decoupled"):
        raise UsageError(
            f"--decoupled changes nothing for {optimizer}.", "It is for lars and adam; adamw is decoupled as it is."
        )


def _shapes(intake: Intake | None, checkpoint: "Checkpoint") -> "Mapping[str, tuple[int, ...]] | None":
    """Those of the tensors that the model trains, where there is one."""
    if intake is None:
        return None
    from fromage_cli.diagnostics.intrinsic_lr.evidence import checkpoint_shapes

    return checkpoint_shapes(intake.problem, checkpoint)


def _evidence(
    intake: Intake | None, layers: Mapping[str, "TrainableTensor"], gradients: bool, batch_size: int | None
) -> "Evidence":
    from fromage_cli.diagnostics.intrinsic_lr.result import Evidence

    if intake is None:
        return Evidence()
    from fromage_cli.diagnostics.intrinsic_lr.evidence import gather_evidence

    with progress("scale invariance", total=len(layers)) as advance:
        return gather_evidence(intake.problem, layers, gradients=gradients, batch_size=batch_size, advance=advance)


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
    estimate = Estimate(gradients=count, bytes=bytes + cost.memory(copies=3.0), seconds=seconds + cost.time(count))
    return intake.complete(estimate_answer(estimate))
