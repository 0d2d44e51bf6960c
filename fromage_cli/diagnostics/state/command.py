"""`fromage-diag state`."""

from dataclasses import replace
from typing import Annotated

import typer

from fromage_cli.errors import InputError
from fromage_cli.intake import checkpoint_record, short_place
from fromage_cli.terminal.answer import Answer, Provenance, estimate_answer, records
from fromage_cli.terminal.optimizer_options import StepsPerEpochOption
from fromage_cli.terminal.options import (
    CheckpointOptions,
    NameOptions,
    OutputOptions,
    PlotArgument,
    RunArgument,
    diagnostic,
)
from fromage_cli.terminal.pictures import check_plot, with_plot
from fromage_cli.terminal.progress import progress


@diagnostic(tables=("layers", "groups", "files", "continuity", "summary"), estimate=True)
def command(
    ckpt: RunArgument,
    *,
    steps_per_epoch: StepsPerEpochOption = None,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Print the cost in bytes and seconds, then stop.")
    ] = False,
    plot: PlotArgument = None,
    checkpoint: CheckpointOptions,
    tensors: NameOptions,
    output: OutputOptions,
) -> Answer:
    """What does the optimizer's state say: how far each layer moves, and moments that cannot be?

    Nothing is needed but the checkpoint. Of several, each is held against the one before.
    """
    check_plot(plot, output.force, (output.output, *ckpt, checkpoint.optimizer_state))

    from fromage_cli.checkpoints.runs.gathering import gather_series
    from fromage_cli.diagnostics.state.continuity import Links
    from fromage_cli.diagnostics.state.copies import compared, stored_copies
    from fromage_cli.diagnostics.state.findings import judge
    from fromage_cli.diagnostics.state.measure import measure, trained_tensors
    from fromage_cli.diagnostics.state.plot import draw
    from fromage_cli.diagnostics.state.render import advise, header, headline, is_over, render, told_above
    from fromage_cli.optimizers.settings import ANOTHER_RATE

    chosen = (checkpoint.key, checkpoint.ema, checkpoint.optimizer_state, checkpoint.optimizer_key)
    gathered = gather_series(ckpt, *chosen, steps_per_epoch=steps_per_epoch)
    checkpoints = gathered.checkpoints
    last, state = checkpoints[-1], checkpoints[-1].optimizer
    if state is None:
        raise InputError(
            f"{last.place!r} holds no optimizer state.",
            "Save optimizer.state_dict() beside the weights, or name its file with --optimizer-state. Of weights alone "
            "norms and inspect tell what there is to tell.",
        )
    names = trained_tensors(last, *tensors.globs)
    links = Links.of(checkpoints, names)
    if estimate:
        from fromage_cli.diagnostics.state.cost import estimate as cost

        with progress("reading"):
            return estimate_answer(cost(links))
    copies, unread = stored_copies(last, *tensors.globs)
    elements = float(sum(last.entries[name].elements for name in names) * len(checkpoints))
    with progress("reading", elements + sum(one.elements for one in copies)) as advance:
        result = measure(links, state, advance)
        replicas, unreadable = compared(copies, advance)
    result = replace(result, replicas=replicas)
    findings, record = judge(result), checkpoint_record(last)
    answer = Answer(
        result=result,
        page=lambda style: render(result, style, findings),
        tables={
            "layers": lambda: records(result.layers),
            "groups": lambda: records(result.groups),
            "files": lambda: records(result.files),
            "continuity": lambda: records(result.continuity),
            "summary": lambda: headline(result),
        },
        findings=findings,
        header=(short_place(record), *header(result)),
        advice=advise(findings, over=is_over(result)),
        told=told_above(findings),
        checkpoints=tuple(map(checkpoint_record, checkpoints)),
        provenance=Provenance(device="cpu", dtype="float64"),
        notes=(*gathered.notes, *unread, *unreadable),
        details=tuple(note.removesuffix(ANOTHER_RATE) for note in links.settings.notes),
    )
    return with_plot(answer, lambda *how: draw(result, *how), plot, output.force, last=True)
