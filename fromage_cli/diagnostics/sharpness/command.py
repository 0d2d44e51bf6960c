"""`fromage-diag sharpness`."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fromage_cli.diagnostics.sharpness.numbers import check_numbers, pair_of_betas
from fromage_cli.intake import Intake, open_problem
from fromage_cli.terminal.answer import Answer, records
from fromage_cli.terminal.estimate import Estimate, estimate_answer
from fromage_cli.terminal.options import (
    BatchOptions,
    ModelOptions,
    OutputOptions,
    RunOptions,
    TensorOptions,
    shared_options,
)
from fromage_cli.terminal.progress import progress

if TYPE_CHECKING:
    from fromage_cli.probes.optimizer import Optimizer

TYPICAL_PRODUCTS = 12
"""Hessian-vector products for one eigenvalue to a residual of 1e-3."""
PANEL = "Optimizer"


@shared_options(tables=("eigenvalues",))
def command(
    ckpt: Annotated[
        str | None, typer.Argument(metavar="CKPT", help="Checkpoint: a file, or a directory of one or of a run.")
    ] = None,
    *,
    optimizer: Annotated[
        Literal["sgd", "adam", "adamw"] | None,
        typer.Option(rich_help_panel=PANEL, help="Update rule; default: the one whose state the checkpoint holds."),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option("--lr", metavar="RATE", rich_help_panel=PANEL, help="Learning rate; default: the checkpoint's."),
    ] = None,
    momentum: Annotated[
        float | None, typer.Option(metavar="M", rich_help_panel=PANEL, help="Momentum of sgd, 0 to below 1.")
    ] = None,
    nesterov: Annotated[
        bool, typer.Option("--nesterov", rich_help_panel=PANEL, help="Nesterov's form of momentum.")
    ] = False,
    betas: Annotated[
        str | None, typer.Option(metavar="B1,B2", rich_help_panel=PANEL, help="Decay of Adam's moments.")
    ] = None,
    weight_decay: Annotated[
        float | None,
        typer.Option(metavar="WD", rich_help_panel=PANEL, help="Weight decay: decoupled for adamw, else coupled."),
    ] = None,
    train_batch_size: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, rich_help_panel=PANEL, help="Rows of a training batch, for the batch sharpness."
        ),
    ] = None,
    top: Annotated[int, typer.Option("--top", metavar="K", min=1, help="Eigenvalues of the Hessian.")] = 1,
    tolerance: Annotated[
        float, typer.Option(metavar="T", help="Residual, relative to the eigenvalue, at which iterations stop.")
    ] = 1e-3,
    max_iterations: Annotated[int, typer.Option(metavar="N", min=1, help="Products with each operator at most.")] = 200,
    model: ModelOptions,
    batch: BatchOptions,
    tensors: TensorOptions,
    run: RunOptions,
    output: OutputOptions,
) -> Answer:
    """Lazy, catapult, edge of stability or divergent at my learning rate?"""
    check_numbers(
        optimizer=optimizer,
        lr=lr,
        momentum=momentum,
        nesterov=nesterov,
        betas=betas,
        weight_decay=weight_decay,
        tolerance=tolerance,
    )
    pair = pair_of_betas(betas)
    intake = open_problem(ckpt, model, batch, run)

    from fromage_cli.diagnostics.sharpness.course import Effort
    from fromage_cli.diagnostics.sharpness.findings import judge
    from fromage_cli.diagnostics.sharpness.measure import measure
    from fromage_cli.diagnostics.sharpness.render import render
    from fromage_cli.probes.direction import moving_tensors
    from fromage_cli.probes.optimizer import Given, optimizer_of

    state = intake.checkpoint.optimizer if intake.checkpoint is not None else None
    rule = optimizer_of(Given(optimizer, lr, momentum, nesterov, pair, weight_decay), state, intake.declared)
    if run.estimate:
        return _estimate(intake, rule, top)
    chosen = tensors.tensors or "all"
    moving, _ = moving_tensors(intake.problem, chosen, tensors.include or (), tensors.exclude or ())
    effort = Effort(top, tolerance, max_iterations, train_batch_size)
    with progress("sharpness", total=_products(rule, top)) as advance:
        measured = measure(
            intake.problem, moving, rule, state, trained=_trained(intake), effort=effort, advance=advance
        )
    result = measured.result
    answer = Answer(
        command="sharpness",
        result=result,
        page=lambda style: render(result, style),
        tables={"eigenvalues": lambda: records(result.eigenvalues)},
        findings=judge(result),
        notes=measured.notes,
        settings={
            "tensors": chosen,
            "optimizer": rule.name,
            "lr": rule.learning_rate,
            "momentum": rule.momentum,
            "nesterov": rule.nesterov,
            "betas": ",".join(f"{beta:g}" for beta in rule.betas),
            "weight_decay": rule.weight_decay,
        },
        error=measured.error,
    )
    return intake.complete(answer)


def _trained(intake: Intake) -> bool:
    """Whether the checkpoint is past its initialisation; one that does not tell its step counts as trained."""
    from fromage_cli.probes.next_step import steps_taken

    if intake.checkpoint is None:
        return False
    if intake.checkpoint.step is None:
        return intake.checkpoint.optimizer is None or steps_taken(intake.checkpoint.optimizer) > 0
    return intake.checkpoint.step > 0


def _products(rule: "Optimizer", top: int) -> int:
    """Hessian-vector products that are to be expected."""
    return TYPICAL_PRODUCTS * (top + 1 + rule.adaptive)


def _estimate(intake: Intake, rule: "Optimizer", top: int) -> Answer:
    """The products, the base gradient and those of the small batches, and ten forward passes."""
    from fromage_cli.probes.cost import measure_cost

    cost, products = measure_cost(intake.problem, products=True), _products(rule, top) + 1
    estimate = Estimate(
        gradients=2 + 10 / 3 + cost.equivalent(products),
        bytes=cost.memory(copies=TYPICAL_PRODUCTS * top + 4.0, products=True),
        seconds=cost.time(2 + 10 / 3, products=products),
    )
    return intake.complete(estimate_answer("sharpness", estimate))
