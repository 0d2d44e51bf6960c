"""`fromage-diag breakdown`."""

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from fromage_cli.diagnostics.breakdown.direction_option import (
    check_direction,
    decay_left_out,
    gradient_count,
    make_direction,
    moved_by_default,
    weight_copies,
)
from fromage_cli.diagnostics.breakdown.grid import DEFAULT, eta_grid
from fromage_cli.diagnostics.breakdown.plot import draw
from fromage_cli.intake import Intake, open_problem
from fromage_cli.missing import found_of
from fromage_cli.optimizers.rule import FROMAGE
from fromage_cli.terminal.answer import Answer, Estimate, estimate_answer, records
from fromage_cli.terminal.options import (
    BatchOptions,
    CheckpointArgument,
    ModelOptions,
    OutputOptions,
    PlotArgument,
    RunOptions,
    TensorOptions,
    diagnostic,
)
from fromage_cli.terminal.pictures import check_plot, with_plot
from fromage_cli.terminal.progress import progress

if TYPE_CHECKING:
    from fromage_cli.probes.lines.direction import Direction
    from fromage_cli.problem.evaluation.problem import Problem

STEP_SHARE = 1.08
"""A gradient with its step and its reductions, in bare gradients."""


@diagnostic(tables=("layers", "curve"), estimate=True)
def command(
    ckpt: CheckpointArgument = None,
    *,
    direction: Annotated[
        str,
        typer.Option(
            metavar="fromage|sgd|adam|random|to:CKPT",
            help="How the weights move; fromage: every layer by the same relative step.",
        ),
    ] = FROMAGE.name,
    eta: Annotated[
        str, typer.Option(metavar="MIN:MAX:COUNT|LIST", help="Relative steps: log-spaced, or comma-separated.")
    ] = DEFAULT,
    plot: PlotArgument = None,
    reload: Annotated[
        bool, typer.Option(help="Read weights from the checkpoint at each step instead of keeping a copy.")
    ] = False,
    model: ModelOptions,
    batch: BatchOptions,
    tensors: TensorOptions,
    run: RunOptions,
    output: OutputOptions,
) -> Answer:
    """How fast does each layer's gradient break down when all layers move by a relative step η?"""
    check_direction(direction)
    etas = eta_grid(eta)
    if plot is not None:
        check_plot(plot, output.force, (output.output, ckpt, batch.batch, direction.removeprefix("to:")))
    intake = open_problem(ckpt, model, batch, run)
    if reload:
        intake.reload_weights()

    from fromage_cli.diagnostics.breakdown.findings import judge
    from fromage_cli.diagnostics.breakdown.measure import measure, measure_batches
    from fromage_cli.diagnostics.breakdown.render import curve, render
    from fromage_cli.probes.lines.direction import moving_tensors

    problem = intake.problem
    alone = len(problem.batches) if problem.further else 0
    if run.estimate:
        return _estimate(intake, len(etas), direction, reload)
    chosen = tensors.tensors or moved_by_default(direction)
    moving, skipped = moving_tensors(problem, chosen, *tensors.globs)

    def line_on(problem: "Problem") -> "Direction":
        return make_direction(direction, problem, moving, intake.checkpoint, intake.declared.optimizer)

    line = line_on(problem)
    with progress("breakdown", total=(len(etas) + 1) * (1 + alone)) as advance:
        whole = measure(
            problem, line, etas, show_vectors=tensors.tensors == "all", skipped=skipped, advance=advance, last=True
        )
        result, error = found_of(whole)
        if alone and error is None:
            batches, error = found_of(measure_batches(problem, line_on, etas, advance))
            result = replace(result, batches=batches)
    left_out = decay_left_out(direction, intake.checkpoint, intake.declared.optimizer)
    result = replace(result, decay_left_out=left_out)
    answer = Answer(
        result=result,
        page=lambda style: render(result, style),
        tables={"layers": lambda: records(result.layers), "curve": lambda: curve(result)},
        findings=judge(result),
        notes=line.notes,
        settings={"tensors": chosen},
        error=error,
    )
    answer = intake.complete(answer)
    return answer if plot is None else with_plot(answer, lambda *how: draw(result, *how), plot, output.force)


def _estimate(intake: Intake, points: int, direction: str, reload: bool) -> Answer:
    """The gradients that are counted; in time, also the product for the slope and the pass that tells the depth."""
    from fromage_cli.probes.cost import measure_cost, timed
    from fromage_cli.probes.structure.depth import measure_depth

    problem, products = intake.problem, direction != "random"
    cost, rounds = measure_cost(problem, products), 2 if problem.further else 1
    depth = timed(problem, lambda: measure_depth(problem))
    gradients = gradient_count(direction, points, problem, intake.checkpoint)
    copies = weight_copies(direction, reload, bool(problem.further), intake.checkpoint)
    estimate = Estimate(
        gradients=gradients,
        bytes=cost.memory(copies=copies, products=products),
        seconds=cost.time(STEP_SHARE * gradients, products=rounds) + rounds * depth,
    )
    return intake.complete(estimate_answer(estimate))
