"""Checkpoints of one run from whatever names them: files, patterns, directories; sorted by step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fromage_cli.checkpoints.checkpoint import Checkpoint
from fromage_cli.checkpoints.finding.complete import check_complete
from fromage_cli.checkpoints.finding.directory import own_weights, weights_in
from fromage_cli.checkpoints.finding.series import read_series
from fromage_cli.checkpoints.opening import open_checkpoint
from fromage_cli.checkpoints.storage.files import quoted, status_of
from fromage_cli.checkpoints.storage.remote import is_url
from fromage_cli.errors import InputError, UsageError


@dataclass(frozen=True)
class Gathered:
    """The checkpoints of a series, first to last, and what has to be said about them."""

    checkpoints: tuple[Checkpoint, ...]
    notes: tuple[str, ...]


def gather_series(
    names: Sequence[str], key: str | None = None, ema: bool | None = None, optimizer_state: str | None = None
) -> Gathered:
    """Open every complete checkpoint that the names stand for; incomplete ones are left out, and a note says so.

    `optimizer_state`: a file with the optimizer's state, which is that of the last one. Raises InputError where a
    checkpoint does not exist or none is complete, UsageError where steps are unknown or not distinct.
    """
    notes: list[str] = []
    urls = [name for name in names if is_url(name)]
    local = [name for name in names if name not in urls]
    paths = {path.resolve(): path for name in local for path in _expanded(name, notes)}
    faults = {path: fault for path in paths.values() if (fault := _fault(path))}
    complete = [path for path in paths.values() if path not in faults]
    if not complete and not urls:
        raise next(iter(faults.values()))
    notes += [f"Skipped {quoted(path)}: {fault.message}" for path, fault in faults.items()]
    everything: list[str | Path] = [*complete, *urls]
    opened = [open_checkpoint(path, key, ema=ema) for path in everything]
    if len(opened) > 1:
        _check_steps(opened)
    last = max(range(len(opened)), key=lambda index: opened[index].step or 0)
    if optimizer_state is not None:
        opened[last] = open_checkpoint(everything[last], key, ema=ema, optimizer_state=optimizer_state)
        if len(opened) > 1:
            notes.append(f"The optimizer's state that was named counts for step {opened[last].step} alone.")
    ordered = sorted(opened, key=lambda checkpoint: checkpoint.step or 0)
    notes += dict.fromkeys(note for checkpoint in ordered for note in checkpoint.notes)
    return Gathered(tuple(ordered), tuple(notes))


def _expanded(name: str, notes: list[str]) -> Iterator[Path]:
    """The checkpoints that a file, a directory or a pattern stands for."""
    path = Path(name)
    if path.exists() or not set("*?[") & set(name):
        yield from _members(path, notes)
        return
    matches = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
    if not matches:
        raise InputError(f"No file matches {name!r}.", hint="Correct the pattern, or name the run's directory.")
    for match in matches:
        yield from _members(match, notes)


def _members(path: Path, notes: list[str]) -> Iterator[Path]:
    status_of(path)
    if not path.is_dir() or own_weights(path):
        yield path
        return
    series = read_series(path)
    notes += series.notes
    yield from (step.path for step in series.steps)


def _fault(path: Path) -> InputError | None:
    """Why a checkpoint cannot be used, where it is not completely written."""
    try:
        check_complete((weights_in(path) or path) if path.is_dir() else path)
    except InputError as error:
        return error
    return None


def _check_steps(opened: Sequence[Checkpoint]) -> None:
    by_step: dict[int, Checkpoint] = {}
    for checkpoint in opened:
        if checkpoint.step is None:
            raise UsageError(
                f"The step of {checkpoint.place!r} is not known.",
                hint="A series needs it in the names (step-000400.pt), in the metadata or beside the weights.",
            )
        first = by_step.setdefault(checkpoint.step, checkpoint)
        if first is not checkpoint:
            raise UsageError(
                f"{first.place!r} and {checkpoint.place!r} are both of step {checkpoint.step}.",
                hint="Name the checkpoints of one run.",
            )
