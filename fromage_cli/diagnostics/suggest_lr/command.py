"""`fromage-diag suggest-lr`."""

from dataclasses import replace

from fromage_cli.diagnostics.suggest_lr.options import RateOptions, untold
from fromage_cli.diagnostics.suggest_lr.plot import draw
from fromage_cli.intake import find_schedule, given_settings, open_problem
from fromage_cli.missing import found_of
from fromage_cli.terminal.answer import Answer, estimate_answer, records
from fromage_cli.terminal.optimizer_options import OptimizerOptions, ScheduleOptions
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
from fromage_cli.terminal.progress import Work, progress
from fromage_cli.terminal.words import number

USUAL_STEPS = 1000
"""Of a run whose schedule has an end that nothing tells."""


@diagnostic(
    tables=("estimates", "layers", "groups", "points", "alternatives", "summary"), estimate=True, ranks=True, shard=True
)
def command(
    ckpt: CheckpointArgument = None,
    *,
    asked: RateOptions,
    plot: PlotArgument = None,
    optimizer: OptimizerOptions,
    schedule: ScheduleOptions,
    model: ModelOptions,
    batch: BatchOptions,
    tensors: TensorOptions,
    run: RunOptions,
    output: OutputOptions,
) -> Answer:
    """How far may the next step go, and which learning rate should I train at?"""
    optimizer.check()
    schedule.check()
    asked.check(output)
    check_plot(plot, output.force, (output.output, ckpt, batch.batch, schedule.schedule))
    intake = open_problem(ckpt, model, batch, run, spare=asked.further_batches).as_trained()

    from fromage_cli.checkpoints.runs.saved_schedule import updates_made
    from fromage_cli.diagnostics.suggest_lr.cost import advise_on_cost, estimate, expected_work
    from fromage_cli.diagnostics.suggest_lr.facts import headline, said_by_page, trained_at
    from fromage_cli.diagnostics.suggest_lr.findings import judge
    from fromage_cli.diagnostics.suggest_lr.measure import measure
    from fromage_cli.diagnostics.suggest_lr.render import advise, render
    from fromage_cli.probes.cost import gradients
    from fromage_cli.probes.lines.direction import moving_tensors
    from fromage_cli.problem.evaluation.streamed_hessian import fit_products

    checkpoints = [] if intake.checkpoint is None else [intake.checkpoint]
    course = find_schedule(checkpoints, schedule, intake.declared, usual_steps=USUAL_STEPS)
    state = intake.checkpoint.optimizer if intake.checkpoint is not None else None
    rule = intake.optimizer(optimizer)
    if rule.name is None:
        asked.check_without_optimizer()
    made = (updates_made(intake.checkpoint) or 0) if intake.checkpoint is not None else None
    request = replace(
        asked.request(optimizer.train_batch_size or intake.declared.train_batch_size, intake.rebuilt, course, made),
        rate=optimizer.lr,
        given=given_settings(optimizer),
        declared=intake.declared.optimizer,
        trained=intake.trained,
    )
    chosen = tensors.tensors or "all"
    moving, _ = moving_tensors(intake.problem, chosen, *tensors.globs)
    if run.estimate:
        told = estimate_answer(whole := estimate(intake.problem, moving, rule, request))
        return intake.complete(replace(told, advice=advise_on_cost(intake.problem, rule, request, whole)))
    if request.sharpness:
        fit_products(intake.problem)
    evaluations = intake.problem.evaluations
    work = Work(lambda: gradients(evaluations), lambda: evaluations.doing)
    with progress("measuring", expected_work(intake.problem, rule, request), work) as advance:
        notes = [*course.notes, *untold(course)] if request.probe != "none" or request.verify else []
        result, error = found_of(
            measure(intake.problem, moving, rule, state, request=request, advance=advance, note=notes.append)
        )
    answer = Answer(
        result=result,
        page=lambda style: render(result, style),
        tables={
            "estimates": lambda: records(result.estimates),
            "layers": lambda: records(result.layers),
            "groups": lambda: records(result.optimizer.groups),
            "points": lambda: records(result.points),
            "alternatives": lambda: records(result.alternatives),
            "summary": lambda: headline(result),
        },
        findings=judge(result),
        header=(trained_at(result), f"loss {number(result.loss)}"),
        advice=advise(result),
        details=tuple(notes),
        told=said_by_page(result),
        settings={"tensors": chosen, **rule.flags},
        error=error,
    )
    if asked.value is not None:
        answer = replace(answer, **asked.alone(result, error))
    return with_plot(intake.complete(answer), lambda *how: draw(result, *how), plot, output.force)
