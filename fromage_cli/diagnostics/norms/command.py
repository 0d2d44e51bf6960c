"""`fromage-diag norms`."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fromage_cli.errors import UsageError
from fromage_cli.intake import checkpoint_record
from fromage_cli.terminal.answer import Answer, Provenance, records
from fromage_cli.terminal.options import CheckpointOptions, OutputOptions, shared_options
from fromage_cli.terminal.progress import progress

if TYPE_CHECKING:
    from fromage_cli.checkpoints import Checkpoint
    from fromage_cli.problem.beside import Declared

Optimizer = Literal["fromage", "lars", "lamb", "sgd", "adam", "adamw", "lion"]


@shared_options(tables=("layers", "steps"))
def command(
    ckpt: Annotated[
        list[str],
        typer.Argument(metavar="CKPT…", help="Checkpoints of one run: files, patterns, or the run's directory."),
    ],
    *,
    optimizer: Annotated[
        Optimizer | None, typer.Option("--optimizer", help="What trained it, where the checkpoints do not say.")
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option("--lr", metavar="X", min=0.0, help="Learning rate; relative for fromage, lars and lamb."),
    ] = None,
    weight_decay: Annotated[
        float | None, typer.Option("--weight-decay", metavar="X", min=0.0, help="Decoupled weight decay.")
    ] = None,
    include: Annotated[
        list[str] | None, typer.Option("--include", metavar="GLOB", help="Only tensors whose name matches; repeatable.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option("--exclude", metavar="GLOB", help="No tensor whose name matches; repeatable.")
    ] = None,
    checkpoint: CheckpointOptions,
    output: OutputOptions,
) -> Answer:
    """Which layers' norms grow along a run, how fast, and when does it hurt?"""
    from fromage_cli.checkpoints.gathering import gather_series
    from fromage_cli.diagnostics.norms.findings import judge
    from fromage_cli.diagnostics.norms.measure import layer_names, measure
    from fromage_cli.diagnostics.norms.render import curve, render
    from fromage_cli.diagnostics.norms.settings import find_settings

    gathered = gather_series(ckpt, checkpoint.key, checkpoint.ema, checkpoint.optimizer_state)
    settings = find_settings(
        gathered.checkpoints, lambda: _declared(gathered.checkpoints[-1]), optimizer, lr, weight_decay
    )
    names, left_out = layer_names(gathered.checkpoints, include or (), exclude or ())
    if not names:
        raise UsageError(
            "No layer is left: none has two dimensions, one shape in every checkpoint and a name that was asked for.",
            hint="Name checkpoints of one run, and see inspect for what they hold.",
        )
    entries = gathered.checkpoints[-1].entries
    with progress("norms", total=len(gathered.checkpoints) * sum(entries[name].elements for name in names)) as advance:
        result = measure(gathered.checkpoints, names, settings, advance)
    changed = f"Left out {len(left_out)} layers that not every checkpoint has in one shape: {', '.join(left_out[:3])}."
    return Answer(
        command="norms",
        result=result,
        page=lambda style: render(result, style),
        tables={"layers": lambda: records(result.layers), "steps": lambda: curve(result)},
        findings=judge(result),
        checkpoints=tuple(checkpoint_record(checkpoint) for checkpoint in gathered.checkpoints),
        provenance=Provenance(device="cpu", dtype="float64"),
        notes=(*gathered.notes, *((changed,) if left_out else ())),
    )


def _declared(checkpoint: "Checkpoint") -> "Declared":
    """What stands beside the checkpoint; only asked where it is needed, for it brings torch."""
    from fromage_cli.problem.beside import declared_beside

    return declared_beside(checkpoint.path, checkpoint.metadata, opened=checkpoint.weights)
