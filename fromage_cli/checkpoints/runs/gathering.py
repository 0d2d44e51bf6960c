"""Checkpoints of one run from whatever names them: files, patterns, directories; sorted by step."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fromage_cli.checkpoints.checkpoint import Checkpoint
from fromage_cli.checkpoints.finding.directory import weights_in
from fromage_cli.checkpoints.finding.series import find_series, why_incomplete
from fromage_cli.checkpoints.names.steps import epoch_in_name
from fromage_cli.checkpoints.opening import LEFT_ASIDE, open_checkpoint
from fromage_cli.checkpoints.runs.saved_schedule import updates_made
from fromage_cli.checkpoints.storage.files import is_pattern, matching, quoted
from fromage_cli.checkpoints.storage.remote import is_url
from fromage_cli.errors import InputError, UsageError


@dataclass(frozen=True)
class Gathered:
    """The checkpoints of a series, first to last, and what has to be said about them."""

    checkpoints: tuple[Checkpoint, ...]
    notes: tuple[str, ...]


def gather_series(
    names: Sequence[str],
    key: str | None = None,
    ema: bool | None = None,
    optimizer_state: str | None = None,
    optimizer_key: str | None = None,
    *,
    steps_per_epoch: int | None = None,
) -> Gathered:
    """Open every complete checkpoint that the names stand for; incomplete ones are left out, and a note says so.

    `optimizer_state`: a file with the optimizer's state, which is that of the last one, or LEFT_ASIDE of all;
    `optimizer_key`: its dotted path in each file; `steps_per_epoch` turns names that tell epochs into steps. Raises
    InputError where a checkpoint does not exist or none is complete, UsageError where steps are unknown or not
    distinct.
    """
    notes: list[str] = []
    urls = [name for name in names if is_url(name)]
    paths = list(_checkpoints([name for name in names if name not in urls], notes))
    weights = {path: (weights_in(path) or path) if path.is_dir() else path for path in paths}
    faults = {path: fault for path in paths if (fault := why_incomplete(weights[path]))}
    complete = [path for path in paths if path not in faults]
    if not complete and not urls:
        raise next(iter(faults.values()))
    notes += [f"Skipped {quoted(path)}: {fault.message}" for path, fault in faults.items()]
    everything: list[str | Path] = [*complete, *urls]
    aside = LEFT_ASIDE if optimizer_state == LEFT_ASIDE else None
    opened = [
        open_checkpoint(path, key, ema=ema, optimizer_state=aside, optimizer_key=optimizer_key) for path in everything
    ]
    if len(opened) > 1:
        opened = with_steps(opened, steps_per_epoch, notes)
        _check_steps(opened)
    last = max(range(len(opened)), key=lambda index: opened[index].step or 0)
    if optimizer_state not in (None, LEFT_ASIDE):
        step = opened[last].step
        opened[last] = open_checkpoint(
            everything[last], key, ema=ema, optimizer_state=optimizer_state, optimizer_key=optimizer_key
        )
        opened[last] = replace(opened[last], step=step)
        if len(opened) > 1:
            notes.append(f"The given optimizer state is used for step {opened[last].step} only.")
    ordered = sorted(opened, key=lambda checkpoint: checkpoint.step or 0)
    notes += dict.fromkeys(note for checkpoint in ordered for note in checkpoint.notes)
    return Gathered(tuple(ordered), tuple(notes))


def _checkpoints(names: Sequence[str], notes: list[str]) -> Iterator[Path]:
    """Yield the checkpoints that files, directories and patterns stand for; `notes` takes what is said about them."""
    seen: set[Path] = set()
    for name in names:
        path = Path(name)
        matches = [path]
        if not path.exists() and is_pattern(name):
            matches = matching(name)
            if not matches:
                raise InputError(f"No file matches {name!r}.", hint="Correct the pattern, or name the run's directory.")
        places: dict[str, Path] = {}  # links may lead to one and the same directory
        for match in matches:
            places.setdefault(os.path.realpath(match), match)
        for match in places.values():
            series = find_series(match)
            notes += series.notes
            yield from (path for path in series.paths if path.resolve() not in seen)
            seen.update(path.resolve() for path in series.paths)


def with_steps(opened: list[Checkpoint], steps_per_epoch: int | None, notes: list[str]) -> list[Checkpoint]:
    """Return the checkpoints with steps, where files tell none: as optimizers count, else by the epochs in names."""
    if all(one.step is not None for one in opened):
        return opened
    counts = [updates_made(one) for one in opened]
    if None not in counts and len({*counts}) == len(counts):
        notes.append("Some files tell no step. The updates that their optimizers count stand in.")
        return [replace(one, step=count) for one, count in zip(opened, counts, strict=True)]
    epochs = [epoch_in_name(one.path.stem) for one in opened]
    if steps_per_epoch is None or None in epochs:
        return opened
    notes.append(f"The names tell epochs, of {steps_per_epoch} steps each.")
    steps = [steps_per_epoch * (epoch or 0) for epoch in epochs]
    return [replace(one, step=step) for one, step in zip(opened, steps, strict=True)]


def _check_steps(opened: Sequence[Checkpoint]) -> None:
    """Raise UsageError unless every checkpoint has a step of its own."""
    by_step: dict[int, Checkpoint] = {}
    for checkpoint in opened:
        if checkpoint.step is None:
            by_epoch = epoch_in_name(checkpoint.path.stem) is not None
            raise UsageError(
                f"The step of {checkpoint.place!r} is not known.",
                hint="Its name tells an epoch. Give --steps-per-epoch N."
                if by_epoch
                else "Several checkpoints need their steps: in the names (step-000400.pt), in the metadata or beside "
                "the weights.",
            )
        first = by_step.setdefault(checkpoint.step, checkpoint)
        if first is not checkpoint:
            raise UsageError(
                f"{first.place!r} and {checkpoint.place!r} are both of step {checkpoint.step}.",
                hint="Name the checkpoints of one run.",
            )
