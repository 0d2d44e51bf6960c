"""`fromage-diag sharpness`."""

from fromage_cli.diagnostics.sharpness.options import CurvatureOptions
from fromage_cli.diagnostics.sharpness.plot import draw
from fromage_cli.intake import open_problem
from fromage_cli.missing import found_of
from fromage_cli.terminal.answer import Answer, estimate_answer, records
from fromage_cli.terminal.optimizer_options import OptimizerOptions
from fromage_cli.terminal.options import (
    BatchOptions,
    CheckpointArgument,
    ModelOptions,
    OutputOptions,
    RunOptions,
    TensorOptions,
    diagnostic,
)
from fromage_cli.terminal.pictures import check_plot, with_plot
from fromage_cli.terminal.progress import Work, progress
from fromage_cli.terminal.words import number


@diagnostic(tables=("eigenvalues", "blocks", "summary"), estimate=True, ranks=True, shard=True)
def command(
    ckpt: CheckpointArgument = None,
    *,
    asked: CurvatureOptions,
    optimizer: OptimizerOptions,
    model: ModelOptions,
    batch: BatchOptions,
    tensors: TensorOptions,
    run: RunOptions,
    output: OutputOptions,
) -> Answer:
    """Is my learning rate stable for this network's curvature?"""
    optimizer.check()
    asked.check(output)
    check_plot(asked.plot, output.force, (output.output, ckpt, batch.batch))
    intake = open_problem(ckpt, model, batch, run).as_trained()

    from fromage_cli.diagnostics.sharpness.conclusion import advise, optimizer_at_rate
    from fromage_cli.diagnostics.sharpness.cost import estimate, expected_work
    from fromage_cli.diagnostics.sharpness.findings import TOLD, judge
    from fromage_cli.diagnostics.sharpness.measure import measure
    from fromage_cli.diagnostics.sharpness.render import headline, render
    from fromage_cli.probes.cost import gradients
    from fromage_cli.probes.lines.direction import moving_tensors
    from fromage_cli.problem.evaluation.streamed_hessian import fit_products

    rule, saved = intake.optimizer(optimizer), intake.checkpoint
    state = saved.optimizer if saved is not None else None
    request = asked.request(optimizer.train_batch_size or intake.declared.train_batch_size)
    chosen = tensors.tensors or "all"
    moving, _ = moving_tensors(intake.problem, chosen, *tensors.globs)
    if run.estimate:
        return intake.complete(estimate_answer(estimate(intake.problem, moving, rule, request)))
    fit_products(intake.problem)
    evaluations = intake.problem.evaluations
    work = Work(lambda: gradients(evaluations), lambda: evaluations.doing)
    with progress("measuring", expected_work(intake.problem, moving, rule, request), work) as advance:
        notes = [*rule.notes, *rule.common_notes]
        measured = measure(
            intake.problem,
            moving,
            rule,
            state,
            trained=intake.trained,
            request=request,
            advance=advance,
            note=notes.append,
        )
    result, error = found_of(measured)
    answer = Answer(
        result=result,
        page=lambda style: render(result, style),
        tables={
            "eigenvalues": lambda: records(result.eigenvalues),
            "blocks": lambda: records(result.layers),
            "summary": lambda: headline(result),
        },
        findings=judge(result),
        header=(optimizer_at_rate(result), f"loss {number(result.loss)}"),
        advice=advise(result),
        told=TOLD,
        details=tuple(notes),
        settings={"tensors": chosen, **rule.flags},
        error=error,
    )
    return with_plot(intake.complete(answer), lambda *how: draw(result, *how), asked.plot, output.force)
