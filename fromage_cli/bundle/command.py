"""`fromage-diag bundle`."""

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fromage_cli.errors import InputError, UsageError
from fromage_cli.intake import open_problem
from fromage_cli.terminal.answer import Answer, Table, records, summary
from fromage_cli.terminal.options import BatchOptions, ModelOptions, OutputOptions, RunOptions, diagnostic
from fromage_cli.terminal.progress import progress
from fromage_cli.terminal.session import typed

if TYPE_CHECKING:
    from fromage_cli.bundle.contents import BundleContents


@diagnostic(tables=("files", "batch", "losses", "summary"), estimate=False)
def command(
    action: Annotated[Literal["create", "info"], typer.Argument(metavar="create|info", help="What to do.")],
    path: Annotated[str, typer.Argument(metavar="PATH", help="create: the checkpoint. info: the bundle.")],
    into: Annotated[Path | None, typer.Argument(metavar="DIR", help="create: the directory of the new bundle.")] = None,
    *,
    check: Annotated[bool, typer.Option("--check", help="info: run the graph, and compare its loss.")] = False,
    model: ModelOptions,
    batch: BatchOptions,
    run: RunOptions,
    output: OutputOptions,
) -> Answer:
    """Write or look at a bundle: weights, network, loss and batch in one directory of data."""
    if (action == "create") is not (into is not None):
        words = (
            "bundle create takes a checkpoint and a directory" if action == "create" else "bundle info takes one path"
        )
        example = (
            "bundle create model.pt my-bundle/ --model net.py:build" if action == "create" else "bundle info my-bundle/"
        )
        raise UsageError(f"{words}.", f"For example: fromage-diag {example}.")
    if into is None:
        refuse_typed("info", "It reads the bundle alone.", ModelOptions, BatchOptions)
        return _info(Path(path), run, check)
    if check:
        raise UsageError("bundle create takes no --check.", f"Then run: fromage-diag bundle info {into} --check.")
    if batch.batches > 1:
        raise UsageError(f"A bundle keeps one batch, and --batches is {batch.batches}.", "Leave --batches out.")
    if typed("mode"):
        raise UsageError("bundle create takes no --mode: a bundle has a graph for each.", "Leave --mode out.")
    return _create(path, into, model, batch, run)


def refuse_typed(action: str, why: str, *groups: type[Any]) -> None:
    """Raise UsageError where one of these options stands on the command line: it would do nothing."""
    for name in [entry.name for group in groups for entry in fields(group)]:
        if typed(name):
            raise UsageError(f"bundle {action} takes no --{name.replace('_', '-')}. {why}", "Leave it out.")


def _create(path: str, into: Path, model: ModelOptions, batch: BatchOptions, run: RunOptions) -> Answer:
    """Writes a bundle of what a command would measure."""
    intake = open_problem(path, model, batch, run)

    from fromage_cli.bundle.saving import Snapshot, write_bundle
    from fromage_cli.problem.losses.summed_loss import SummedLoss

    problem, checkpoint = intake.problem, intake.checkpoint
    loss = problem.loss.loss if isinstance(problem.loss, SummedLoss) else problem.loss
    snapshot = Snapshot(
        live=problem.model,
        rows=problem.batch,
        loss=loss,
        optimizer=checkpoint.optimizer if checkpoint is not None else None,
        step=checkpoint.step if checkpoint is not None else None,
        factory=model.model,
        autocast="bfloat16" if problem.autocast else None,
    )
    with progress("making the graph"):
        write_bundle(into, snapshot)
    return intake.complete(_answer(into, _contents(into, None)))


def _info(path: Path, run: RunOptions, check: bool) -> Answer:
    from fromage_cli.checkpoints.formats.bundle import is_bundle
    from fromage_cli.checkpoints.storage.files import quoted, status_of

    status_of(path)
    if not is_bundle(path):
        raise InputError(
            f"{quoted(path)} is no bundle: it has no bundle.json.",
            "fromage-diag inspect looks into other checkpoints.",
        )
    return _answer(path, _contents(path, run if check else None))


def _contents(path: Path, run: RunOptions | None) -> "BundleContents":
    """What a bundle holds; with options its loss is computed again."""
    from fromage_cli.bundle.contents import look_into
    from fromage_cli.checkpoints import open_checkpoint
    from fromage_cli.checkpoints.formats.bundle import read_bundle

    bundle = read_bundle(path)
    state = open_checkpoint(path).optimizer
    kind = state.kind or "unknown" if state is not None else None
    if run is None or not bundle.has_graph:
        return look_into(bundle, kind)

    def loss(mode: str) -> float:
        options = BatchOptions(mode=mode)  # type: ignore[arg-type]
        return open_problem(str(path), ModelOptions(), options, run).problem.value()

    return look_into(bundle, kind, loss)


def _answer(path: Path, contents: "BundleContents") -> Answer:
    from fromage_cli.bundle.findings import judge
    from fromage_cli.bundle.render import render

    def headline() -> Table:
        return summary([("rows", contents.rows, "rows"), ("bytes", sum(one.bytes for one in contents.files), "bytes")])

    return Answer(
        result=contents,
        page=lambda style: render(contents, style),
        tables={
            "files": lambda: records(contents.files),
            "batch": lambda: records(contents.batch),
            "losses": lambda: records(contents.losses),
            "summary": headline,
        },
        findings=judge(contents),
        header=(str(path), f"step {contents.step}" if isinstance(contents.step, int) else ""),
        advice=f"fromage-diag check {path}" if contents.modes else "",
    )
