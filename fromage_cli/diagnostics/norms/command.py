"""`fromage-diag norms`."""

from fromage_cli.intake import gather_run, given_settings, trained_by
from fromage_cli.missing import found_of
from fromage_cli.terminal import session
from fromage_cli.terminal.answer import Answer, Provenance, records
from fromage_cli.terminal.optimizer_options import TrainingOptions
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


@diagnostic(tables=("layers", "steps", "summary"), estimate=True, ranks=True)
def command(
    ckpt: RunArgument,
    *,
    plot: PlotArgument = None,
    optimizer: TrainingOptions,
    model: ModelOptions,
    batch: BatchOptions,
    tensors: NameOptions,
    run: RunOptions,
    output: OutputOptions,
) -> Answer:
    """Which layers grow along a run, how fast, and when does it hurt?

    A scale-invariant layer need not grow: with --model the layers are tested for that too.
    """
    optimizer.check()
    check_plot(plot, output.force, (output.output, *ckpt, batch.batch))

    from fromage_cli.checkpoints.reading.reading_cost import reduction_cost
    from fromage_cli.diagnostics.norms.findings import judge
    from fromage_cli.diagnostics.norms.measure import examine_layers, measure, vectors_left_out
    from fromage_cli.diagnostics.norms.plot import draw
    from fromage_cli.diagnostics.norms.settings import find_run_settings
    from fromage_cli.problem.conditions.budget import Budget

    budget = Budget(run.time_limit, run.max_memory)
    series = gather_run(ckpt, model, tensors, steps_per_epoch=optimizer.steps_per_epoch)
    settings = find_run_settings(
        series.checkpoints,
        series.names,
        given_settings(optimizer),
        series.declared,
        decoupled=optimizer.decoupled,
        steps_per_epoch=optimizer.steps_per_epoch,
        typed=session.typed,
    )
    optimizer.check_found(settings.optimizer)
    series = series.in_model(model, batch, run)
    if run.estimate:
        reading = reduction_cost(series.checkpoints, series.names)
        # as large as the weights: the base gradient, and the layer that is scaled
        return series.estimate(reading.bytes, reading.seconds, copies=2)
    tests, limit = None, None
    with series.progress() as advance:
        if series.intake is not None:
            tests, limit = found_of(examine_layers(series.intake.problem, series.layers, advance))

        def done(elements: float, doing: str) -> None:
            advance(elements, doing)
            if tests is None:  # norms are read whole where the test has used up the time
                budget.check()

        result = measure(series.checkpoints, series.names, settings, tests, done)

    from fromage_cli.diagnostics.norms.render import RESIZABLE, TOLD, advise, render
    from fromage_cli.diagnostics.norms.tables import curve, headline

    findings = judge(result)
    answer = Answer(
        result=result,
        page=lambda style: render(result, style, findings),
        tables={
            "layers": lambda: records(result.layers),
            "steps": lambda: curve(result),
            "summary": lambda: headline(result, findings),
        },
        header=trained_by(settings.flags),
        advice=advise(result, findings, series.with_model(RESIZABLE)),
        findings=findings,
        told=TOLD,
        provenance=Provenance(device="cpu", dtype="float64"),
        details=(*settings.notes, *vectors_left_out(series.checkpoints[-1], *tensors.globs)),
        settings=settings.flags,
        error=limit,
    )
    return with_plot(series.complete(answer), lambda *how: draw(result, *how), plot, output.force)
