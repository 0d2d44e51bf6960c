"""`fromage-diag distance`."""

from dataclasses import replace
from typing import Annotated

import typer

from fromage_cli.counting import counted
from fromage_cli.errors import UsageError
from fromage_cli.intake import checkpoint_record, declared_by, likely_problem, names_network, open_problem, short_place
from fromage_cli.missing import found_of
from fromage_cli.terminal import session
from fromage_cli.terminal.answer import Answer, Provenance, estimate_answer, records
from fromage_cli.terminal.options import (
    CHECKPOINT_HELP,
    BatchOptions,
    ModelOptions,
    OutputOptions,
    PlotArgument,
    RunOptions,
    TensorOptions,
    diagnostic,
)
from fromage_cli.terminal.pictures import check_plot, with_plot
from fromage_cli.terminal.progress import progress

NoSpectrumOption = Annotated[
    bool,
    typer.Option(
        "--no-spectrum", help="Leave singular values out: faster, without spectral distance and condition numbers."
    ),
]


@diagnostic(tables=("layers", "summary"), estimate=True, ranks=True)
def command(
    first: Annotated[str, typer.Argument(metavar="A", help=CHECKPOINT_HELP)],
    second: Annotated[str, typer.Argument(metavar="B", help="Another checkpoint of the same architecture.")],
    *,
    no_spectrum: NoSpectrumOption = False,
    plot: PlotArgument = None,
    model: ModelOptions,
    batch: BatchOptions,
    tensors: TensorOptions,
    run: RunOptions,
    output: OutputOptions,
) -> Answer:
    """How far apart are two networks: each layer's weights and, with --model and --batch, the outputs?"""
    # where it stands in the configuration it may be meant for other commands
    if session.current().origins.get("optimizer_state") == session.COMMAND_LINE:
        raise UsageError("--optimizer-state: no optimizer plays a part in a distance.", "Leave it out.")

    check_plot(plot, output.force, (output.output, first, second, batch.batch))

    from fromage_cli.checkpoints import open_checkpoint
    from fromage_cli.diagnostics.distance.findings import judge
    from fromage_cli.diagnostics.distance.measure import measure, work_of
    from fromage_cli.diagnostics.distance.pairing import pair_tensors
    from fromage_cli.diagnostics.distance.plot import draw
    from fromage_cli.diagnostics.distance.render import advise, headline, render, training_steps
    from fromage_cli.problem.conditions.budget import Budget

    budget = Budget(run.time_limit, run.max_memory)
    opened = (open_checkpoint(first, model.key, ema=model.ema), open_checkpoint(second, model.key, ema=model.ema))
    chosen = tensors.tensors or "matrices"
    pairing = pair_tensors(*opened, chosen, *tensors.globs)
    asked = names_network(opened[0], model, batch)
    intake = open_problem(opened[0], model, batch, run) if asked else None
    if run.estimate:
        from fromage_cli.diagnostics.distance.cost import estimate

        problem = None if intake is None else intake.problem
        priced = estimate_answer(estimate(problem, opened, pairing.names, not no_spectrum))
        return priced if intake is None else intake.complete(priced)
    layers = [opened[0].entries[name] for name in pairing.names]
    passes = sum(entry.elements for entry in layers) if intake is not None else 0.0  # as long as reading takes
    with progress("reading", passes + sum(work_of(entry, not no_spectrum) for entry in layers)) as advance:
        measured = measure(*opened, pairing, spectrum=not no_spectrum, advance=advance, check=budget.check)
        result, error = found_of(measured)
        notes = [f"{label}: {note}" for label, one in zip("AB", opened, strict=True) for note in one.notes]
        if intake is not None and error is None:
            from fromage_cli.diagnostics.distance.function import with_function

            advance(doing="the outputs of both networks on the batch")
            filled, said = with_function(result, intake.problem, *opened)
            result, error = found_of(filled)
            notes = [f"B: {note}" for note in said]
    likely = likely_problem(opened[0], declared_by(opened[0], model.trust))
    answer = Answer(
        result=result,
        page=lambda style: render(result, style),
        tables={"layers": lambda: records(result.layers), "summary": lambda: headline(result)},
        findings=judge(result),
        advice=advise(result, first, second, session.typed_problem(), likely),
        provenance=Provenance(device="cpu", dtype="float64"),
        notes=tuple(notes),
        details=tuple(f"{label}: {note}" for label, one in zip("AB", opened, strict=True) for note in one.picked),
        settings={"tensors": chosen},
        error=error,
    )
    answer = answer if intake is None else intake.complete(answer)
    pair, steps = tuple(checkpoint_record(checkpoint) for checkpoint in opened), training_steps(result)
    ends = [short_place(record) for record in pair]
    within = ends[1].removeprefix(f"{ends[0].rpartition('/')[0]}/")  # the directory of both is said once
    between = "" if steps is None else counted(steps, "step")
    compared = (counted(len(result.layers), "layer"),) if intake is None else intake.header[1:]
    answer = replace(answer, checkpoints=pair, header=(f"{ends[0]} → {within}", between, *compared))
    return with_plot(answer, lambda *how: draw(result, *how), plot, output.force)
