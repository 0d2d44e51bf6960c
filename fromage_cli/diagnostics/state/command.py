"""`fromage-diag state`."""

from typing import Annotated

import typer

from fromage_cli.errors import InputError
from fromage_cli.intake import checkpoint_record, short_place
from fromage_cli.terminal.answer import Answer, Provenance, estimate_answer, records
from fromage_cli.terminal.options import CheckpointOptions, NameOptions, OutputOptions, RunArgument, diagnostic
from fromage_cli.terminal.progress import progress


@diagnostic(tables=("layers", "groups", "summary"), estimate=True)
def command(
    ckpt: RunArgument,
    *,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Print the cost in bytes and seconds, then stop.")
    ] = False,
    checkpoint: CheckpointOptions,
    tensors: NameOptions,
    output: OutputOptions,
) -> Answer:
    """What does the optimizer's state say: how far each layer moves, and moments that cannot be?

    Nothing is needed but the checkpoint; of several the last one is read.
    """
    from fromage_cli.checkpoints.runs.gathering import gather_series
    from fromage_cli.checkpoints.runs.layer_settings import run_settings
    from fromage_cli.diagnostics.state.findings import judge
    from fromage_cli.diagnostics.state.measure import measure, trained_tensors
    from fromage_cli.diagnostics.state.render import advise, header, headline, render
    from fromage_cli.optimizers.settings import Given

    chosen = (checkpoint.key, checkpoint.ema, checkpoint.optimizer_state, checkpoint.optimizer_key)
    gathered = gather_series(ckpt, *chosen)
    last = gathered.checkpoints[-1]
    count, state = len(gathered.checkpoints), last.optimizer
    later = (f"The last of {count} checkpoints is read: {last.place!r}.",) if count > 1 else ()
    if state is None:
        raise InputError(
            f"{last.place!r} holds no optimizer state.",
            "Save optimizer.state_dict() beside the weights, or name its file with --optimizer-state. Of weights alone "
            "norms and inspect tell what there is to tell.",
        )
    names = trained_tensors(last, *tensors.globs)
    settings = run_settings([last], names, Given(), Given())
    if estimate:
        from fromage_cli.diagnostics.state.cost import estimate as cost

        with progress("reading"):
            return estimate_answer(cost(last, state, names, settings))
    elements = float(sum(last.entries[name].elements for name in names))
    with progress("reading", elements) as advance:
        result = measure(last, state, names, settings, advance)
    findings, record = judge(result), checkpoint_record(last)
    return Answer(
        result=result,
        page=lambda style: render(result, style, findings),
        tables={
            "layers": lambda: records(result.layers),
            "groups": lambda: records(result.groups),
            "summary": lambda: headline(result),
        },
        findings=findings,
        header=(short_place(record), *header(result)),
        advice=advise(findings),
        checkpoints=(record,),
        provenance=Provenance(device="cpu", dtype="float64"),
        notes=(*gathered.notes, *later),
        details=settings.notes,
    )
