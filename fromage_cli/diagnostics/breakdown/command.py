"""`fromage-diag breakdown`."""

from dataclasses import replace
from functools import partial
from typing import Annotated

import typer

from fromage_cli.diagnostics.breakdown.direction_option import (
    NAMES,
    check_direction,
    decay_left_out,
    make_direction,
    moved_by_default,
)
from fromage_cli.diagnostics.breakdown.grid import DEFAULT, eta_grid
from fromage_cli.diagnostics.breakdown.plot import draw
from fromage_cli.intake import open_problem
from fromage_cli.missing import found_of
from fromage_cli.optimizers.rule import FROMAGE, RULES
from fromage_cli.terminal import session
from fromage_cli.terminal.answer import Answer, estimate_answer, records
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
from fromage_cli.terminal.parsing import choice_or_name
from fromage_cli.terminal.pictures import check_plot, with_plot
from fromage_cli.terminal.progress import Work, progress
from fromage_cli.terminal.words import number

DirectionOption = Annotated[
    str,
    typer.Option(
        metavar="fromage|sgd|adam|random|to:CKPT",
        parser=choice_or_name(*NAMES, *RULES),
        help="Direction of the step: fromage moves every layer by the same relative step.",
    ),
]
EtaOption = Annotated[
    str,
    typer.Option(
        metavar="MIN:MAX:COUNT|LIST", help="Relative steps to try: a log-spaced range, or a list with commas."
    ),
]
ReloadOption = Annotated[bool, typer.Option(help="Save memory: read the weights from disk again for each step.")]


@diagnostic(tables=("layers", "curve", "summary"), estimate=True, ranks=True, shard=True)
def command(
    ckpt: CheckpointArgument = None,
    *,
    direction: DirectionOption = FROMAGE.name,
    eta: EtaOption = DEFAULT,
    plot: PlotArgument = None,
    reload: ReloadOption = False,
    model: ModelOptions,
    batch: BatchOptions,
    tensors: TensorOptions,
    run: RunOptions,
    output: OutputOptions,
) -> Answer:
    """How far may a step go before a layer's gradient no longer holds?"""
    check_direction(direction)
    etas = eta_grid(eta)
    check_plot(plot, output.force, (output.output, ckpt, batch.batch, direction.removeprefix("to:")))
    intake = open_problem(ckpt, model, batch, run)
    if reload:
        intake.reload_weights()

    from fromage_cli.diagnostics.breakdown.cost import estimate, expected_work
    from fromage_cli.diagnostics.breakdown.findings import judge
    from fromage_cli.diagnostics.breakdown.measure import measure, measure_batches
    from fromage_cli.diagnostics.breakdown.render import advise, render
    from fromage_cli.diagnostics.breakdown.tables import curve, headline
    from fromage_cli.probes.cost import gradients
    from fromage_cli.probes.lines.direction import moving_tensors
    from fromage_cli.problem.evaluation.streamed_hessian import fit_products

    problem, checkpoint = intake.problem, intake.checkpoint
    if run.estimate:
        return intake.complete(estimate_answer(estimate(problem, direction, len(etas), reload, checkpoint)))
    fit_products(problem)
    chosen = tensors.tensors or moved_by_default(direction)
    moving, skipped = moving_tensors(problem, chosen, *tensors.globs)
    declared = intake.declared.optimizer
    line_on = partial(make_direction, direction, tensors=moving, checkpoint=checkpoint, declared=declared)
    vectors, evaluations = tensors.tensors == "all", problem.evaluations
    work = Work(lambda: gradients(evaluations), lambda: evaluations.doing)
    with progress("measuring", expected_work(problem, direction, len(etas), checkpoint), work) as advance:
        line = line_on(problem)
        whole = measure(problem, line, etas, show_vectors=vectors, skipped=skipped, advance=advance, last=True)
        result, error = found_of(whole)
        if problem.further and error is None:
            batches, error = found_of(measure_batches(problem, line_on, etas, advance))
            result = replace(result, batches=batches)
    result = replace(result, decay_left_out=decay_left_out(direction, checkpoint, declared))
    answer = Answer(
        result=result,
        page=lambda style: render(result, style),
        tables={
            "layers": lambda: records(result.layers),
            "curve": lambda: curve(result),
            "summary": lambda: headline(result),
        },
        findings=judge(result),
        header=(f"loss {number(result.loss)}",),
        advice=advise(result, ckpt, session.typed_problem()),
        details=line.notes,
        settings={"tensors": chosen},
        error=error,
    )
    return with_plot(intake.complete(answer), lambda *how: draw(result, *how), plot, output.force)
