"""`fromage-diag inspect`."""

import shlex
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from fromage_cli.errors import FromageError, UsageError
from fromage_cli.intake import checkpoint_record, short_place
from fromage_cli.terminal.answer import Answer, Estimate, Provenance, Table, estimate_answer, records
from fromage_cli.terminal.options import CheckpointOptions, OutputOptions, diagnostic
from fromage_cli.terminal.progress import Advance, progress

if TYPE_CHECKING:
    from fromage_cli.checkpoints import Checkpoint
    from fromage_cli.diagnostics.inspect.comparison import Inspected

Item = TypeVar("Item")
Made = TypeVar("Made")


@diagnostic(tables=("tensors", "groups", "dtypes", "safety", "logs", "also-holds", "summary"), estimate=True)
def command(
    ckpt: Annotated[
        list[str], typer.Argument(metavar="CKPT…", help="Checkpoints: files or directories. - reads a list from stdin.")
    ],
    *,
    headers: Annotated[
        bool, typer.Option("--headers", help="Show names, dtypes and shapes only. No weights are read, so it is fast.")
    ] = False,
    spectrum: Annotated[
        bool,
        typer.Option("--spectrum", help="Also compute spectral norm, stable rank and condition number of each matrix."),
    ] = False,
    safety: Annotated[
        bool, typer.Option("--safety", help="Show what torch.load would run. Weights are not read.")
    ] = False,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Print the cost in bytes and seconds, then stop.")
    ] = False,
    checkpoint: CheckpointOptions,
    output: OutputOptions,
) -> list[Answer | FromageError]:
    """What is in this file, and is anything wrong with it: NaN, Inf, tensors of zeros, code that would run?"""
    if headers and spectrum:
        raise UsageError("--headers reads no data, --spectrum needs it.", hint="give one of them")

    if safety:
        if headers or spectrum:
            raise UsageError("--safety reads no tensors.", hint="leave --headers and --spectrum out")
        if estimate:
            return [_estimate([], headers=True, spectrum=False)]  # as cheap as names alone
        with progress("looking at what its pickles name"):
            return _each(ckpt, _survey)

    from fromage_cli.checkpoints.opening import LEFT_ASIDE

    if checkpoint.optimizer_state not in (None, LEFT_ASIDE) and len(ckpt) > 1:
        raise UsageError(f"--optimizer-state belongs to one checkpoint, {len(ckpt)} are given.", hint="Name one.")
    chosen = {"optimizer_state": checkpoint.optimizer_state, "optimizer_key": checkpoint.optimizer_key}
    opened = _each(ckpt, lambda path: _open(path, checkpoint.key, ema=checkpoint.ema, **chosen))
    readable = [one for one in opened if not isinstance(one, FromageError)]
    if estimate:
        return [one for one in opened if isinstance(one, FromageError)] or [_estimate(readable, headers, spectrum)]
    digested, work = len(readable) > 1 and not headers, None
    if not headers:
        from fromage_cli.diagnostics.inspect.spectrum import spectrum_work

        entries = [entry for checkpoint in readable for entry in checkpoint.entries.values()]
        work = sum(entry.elements + (spectrum_work(entry) if spectrum else 0.0) for entry in entries)
    with progress("reading", work) as advance:
        inspected = _each(opened, lambda checkpoint: _inspect(checkpoint, headers, spectrum, digested, advance))

    from fromage_cli.diagnostics.inspect.comparison import compare

    compared = compare(inspected)
    last = next((one for one in reversed(compared) if not isinstance(one, FromageError)), None)
    return _each(compared, lambda one: _answer(one, brief=len(ckpt) > 1, last=one is last))


def _each(items: Sequence[Item | FromageError], function: Callable[[Item], Made]) -> list[Made | FromageError]:
    """What the function makes of each item, or why it makes nothing; an error among the items stays one."""
    made: list[Made | FromageError] = []
    for item in items:
        try:
            made.append(item if isinstance(item, FromageError) else function(item))
        except FromageError as error:
            made.append(error)
    return made


def _open(path: str, key: str | None, **chosen: Any) -> "Checkpoint":
    """The checkpoint, or an optimizer's state in a file of its own as one without tensors."""
    from fromage_cli.checkpoints.nested.choosing import OptimizerAlone
    from fromage_cli.checkpoints.opening import open_checkpoint, open_optimizer

    try:
        return open_checkpoint(path, key, **chosen)
    except OptimizerAlone:
        if not Path(path).is_file():
            raise
        return open_optimizer(Path(path))


def _survey(path: str) -> Answer:
    from fromage_cli.checkpoints.storage.remote import printable_url
    from fromage_cli.diagnostics.inspect.findings import judge_safety
    from fromage_cli.diagnostics.inspect.render import render_safety, safety_header, safety_headline
    from fromage_cli.diagnostics.inspect.safety import survey

    result = survey(path)
    return Answer(
        result=result,
        page=lambda style: render_safety(result, style),
        tables={"safety": lambda: records(result.safety), "summary": lambda: safety_headline(result)},
        findings=judge_safety(result),
        header=safety_header(result, printable_url(path)),
        advice="Other loaders can open this file without running its code.",
    )


def _inspect(checkpoint: "Checkpoint", headers: bool, spectrum: bool, digested: bool, advance: Advance) -> "Inspected":
    """What is in the checkpoint, with digests of its tensors where they are to be compared."""
    from fromage_cli.diagnostics.inspect.comparison import Inspected
    from fromage_cli.diagnostics.inspect.logs import describe_logs
    from fromage_cli.diagnostics.inspect.measure import measure

    digests: dict[str, bytes] | None = {} if digested else None
    logs, notes = ((), ()) if headers else describe_logs(checkpoint)
    result = measure(checkpoint, headers=headers, spectrum=spectrum, logs=logs, digests=digests, advance=advance)
    return Inspected(checkpoint, result, digests or {}, notes)


def _answer(inspected: "Inspected", brief: bool, last: bool) -> Answer:
    """What was found in one checkpoint; of several a `brief` page each, and what to do now below the `last`."""
    from fromage_cli.diagnostics.inspect.also_holds import flattened
    from fromage_cli.diagnostics.inspect.findings import judge
    from fromage_cli.diagnostics.inspect.render import header, headline, render

    checkpoint, result = inspected.checkpoint, inspected.result
    record = checkpoint_record(checkpoint)
    single = "with the network and a batch, suggest-lr tells which rate to train at; sharpness judges yours."
    if not checkpoint.entries:
        from fromage_cli.checkpoints.finding.directory import own_weights

        home, state = checkpoint.path.parent, shlex.quote(str(checkpoint.path))
        single = f"name its weights too: fromage-diag inspect CKPT --optimizer-state {state}"
        if own_weights(home) is not None:
            single = f"fromage-diag inspect {shlex.quote(str(home))} shows the weights that it belongs to."
    several = "fromage-diag norms, with the same files, shows which layers grow; distance compares two of them."
    return Answer(
        result=result,
        page=lambda style: render(result, style, brief),
        tables={
            "tensors": lambda: records(result.tensors),
            "groups": lambda: records(result.optimizer.groups if result.optimizer else ()),
            "dtypes": lambda: records(result.totals.dtypes),
            "safety": lambda: records(result.safety),
            "logs": lambda: records(result.logs),
            "also-holds": lambda: Table(("name", "value"), tuple(flattened(result.also_holds))),
            "summary": lambda: headline(result),
        },
        findings=judge(result),
        header=(short_place(record), *header(result)),
        advice=(several if brief else single) if last else "",
        checkpoints=(record,),
        provenance=Provenance(device="cpu", dtype="float64"),
        notes=(*checkpoint.notes, *inspected.notes),
        details=checkpoint.picked,
    )


def _estimate(opened: list["Checkpoint"], headers: bool, spectrum: bool) -> Answer:
    """What every checkpoint takes, one after another."""
    from fromage_cli.checkpoints.reading.reading_cost import PROGRAM_BYTES, reduction_cost
    from fromage_cli.checkpoints.reading.reductions import measure_magnitudes

    if headers:
        return estimate_answer(Estimate(0.0, PROGRAM_BYTES, 0.0))
    digests: dict[str, bytes] | None = {} if len(opened) > 1 else None
    reduce = partial(measure_magnitudes, digests=digests)
    costs = [reduction_cost([checkpoint], reduce=reduce) for checkpoint in opened]
    seconds, memory = sum(cost.seconds for cost in costs), max(cost.bytes for cost in costs)
    if spectrum:
        from fromage_cli.diagnostics.inspect.spectrum import spectrum_cost

        more = [spectrum_cost(checkpoint) for checkpoint in opened]
        seconds, memory = seconds + sum(cost[0] for cost in more), max(memory, *(cost[1] for cost in more))
    return estimate_answer(Estimate(0.0, memory, seconds))
