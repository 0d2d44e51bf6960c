"""The steps of a run: numbered files and directories, sorted, incomplete ones left out and named."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fromage_cli.checkpoints.finding.directory import SUFFIXES, may_be_weights, own_weights, weights_in, without_weights
from fromage_cli.checkpoints.formats.content import kind_of
from fromage_cli.checkpoints.formats.distributed import check_shards
from fromage_cli.checkpoints.formats.distributed_metadata import read_metadata
from fromage_cli.checkpoints.formats.distributed_safetensors import files_of_ranks, is_shard_of_rank
from fromage_cli.checkpoints.formats.safetensors_file import read_header
from fromage_cli.checkpoints.formats.sharded import is_index, read_index
from fromage_cli.checkpoints.formats.zip_directory import read_directory
from fromage_cli.checkpoints.names.library_files import METADATA
from fromage_cli.checkpoints.names.naming import listed
from fromage_cli.checkpoints.names.steps import order_in_name, words_in
from fromage_cli.checkpoints.storage.files import names_in, opened, quoted, status_of
from fromage_cli.checkpoints.storage.sources import Source
from fromage_cli.counting import counted
from fromage_cli.errors import InputError

ARCHIVE = b"PK\x03\x04"
"""How a ZIP archive begins."""


@dataclass(frozen=True)
class Step:
    """One member of a series."""

    number: int  # the step, or the epoch where names have only epochs
    counts: str  # "step" or "epoch"
    path: Path  # a weights file, or a directory that is itself a checkpoint
    weights: Path


@dataclass(frozen=True)
class Series:
    """The complete steps of a run, first to last, and what has to be said about the others."""

    paths: tuple[Path, ...]
    notes: tuple[str, ...] = ()


def find_series(path: Path) -> Series:
    """Return all complete steps of a run's directory, sorted by step; a single checkpoint is a series of one.

    Raises InputError where there is none.
    """
    status_of(path)
    if not path.is_dir():
        return Series((path,))
    if own_weights(path):
        return Series((path,), _steps_below(path))
    candidates, notes = one_each(numbered_steps(path))
    faults = {step.path: fault for step in candidates if (fault := _fault(step))}
    if len(faults) == len(candidates):
        raise without_weights(path, tuple(faults.values()))
    return Series(tuple(step.path for step in candidates if step.path not in faults), (*notes, *faults.values()))


def _steps_below(directory: Path) -> tuple[str, ...]:
    """Return a note on the steps in a directory that has weights of its own, as trainers leave it after a run."""
    steps = [step.path for step in numbered_steps(directory) if step.path.is_dir()]
    if not steps:
        return ()
    patterns = dict.fromkeys(str(directory / re.sub("[0-9].*", "*", step.name)) for step in steps)
    return (
        f"Took the weights of {quoted(directory)} itself, not the {counted(len(steps), 'checkpoint')} of a run in it: "
        f"{listed([step.name for step in steps])}. To read those, give {' '.join(map(repr, patterns))}.",
    )


def highest_step(directory: Path) -> tuple[Step, tuple[str, ...], tuple[str, ...]]:
    """Return the last complete step of a run's directory, with notes on a choice among several and on skipped ones.

    Raises InputError when there is none.
    """
    candidates, _ = one_each(numbered_steps(directory))
    faults: list[str] = []
    for step in reversed(candidates):
        if fault := _fault(step):
            faults.append(fault)
            continue
        picked = f"Took {step.path.name!r}, the highest complete {step.counts} of {len(candidates)} in "
        return step, (f"{picked}{quoted(directory)}.",) if len(candidates) > 1 else (), tuple(faults)
    raise without_weights(directory, tuple(faults))


def numbered_steps(directory: Path) -> list[Step]:
    """Return all members with a number in their name; epochs only where no name tells a step."""
    members = []
    known: dict[Path, Path | None] = {}  # many links may lead to one directory, even to this one
    for name in sorted(names_in(directory)):
        path = directory / name
        is_directory = path.is_dir()
        order = order_in_name(name if is_directory else path.stem)
        if order is None or name.startswith("."):
            continue
        if is_directory:
            real = path.resolve()
            found = known[real] if real in known else known.setdefault(real, weights_in(real))
            weights = path / found.relative_to(real) if found else None
        else:
            weights = path if any(may_be_weights(name, suffixes) for suffixes in SUFFIXES) else None
        if weights is not None:
            members.append(Step(order[1], order[0], path, weights))
    steps = [member for member in members if member.counts == "step"]
    return steps or members


def one_each(members: Iterable[Step]) -> tuple[list[Step], tuple[str, ...]]:
    """Return one member per number, in numerical order: safetensors before others, plain weights before averages."""

    def preference(member: Step) -> tuple[bool, int, str]:
        averaged = bool({"ema", "swa", "averaged"} & set(words_in(member.path.stem)))
        formats = (rank for rank, suffixes in enumerate(SUFFIXES) if member.weights.suffix in suffixes)
        return averaged, next(formats, 0), member.path.name

    chosen: dict[int, Step] = {}
    notes = []
    for member in sorted(members, key=preference):
        first = chosen.setdefault(member.number, member)
        if first is not member:
            notes.append(f"Left out {member.path.name!r}: {first.path.name!r} has the same {member.counts}.")
    return [chosen[number] for number in sorted(chosen)], tuple(notes)


def _fault(step: Step) -> str:
    """Return why a step cannot be used, or nothing when it is complete."""
    error = why_incomplete(step.weights)
    return f"Skipped {step.path.name!r}: {error.message}" if error else ""


def why_incomplete(path: Path) -> InputError | None:
    """Return what is wrong with a weights file that is not completely written; None where it is."""
    try:
        check_complete(path)
    except InputError as error:
        return error
    return None


def check_complete(path: Path) -> None:
    """Raise InputError when a weights file, or a shard that an index names, is missing or cut off.

    A PyTorch file is complete when its table of contents, which is written last, can be read; files in the older format
    that has none are taken as complete.
    """
    if is_index(path):
        for shard in read_index(path).shards:
            check_complete(shard)
    elif path.name == METADATA:
        check_shards(path, read_metadata(path))
    elif is_shard_of_rank(path):
        for file in files_of_ranks(path):
            read_header(file)
    elif kind_of(path) == "safetensors":
        read_header(path)


def check_not_cut_off(path: Path) -> None:
    """Raise InputError when any file of a checkpoint, weights or not, is empty or shorter than it says itself.

    Only metadata, archives and safetensors files say it.
    """
    if path.name == METADATA:
        check_shards(path, read_metadata(path))
    elif path.suffix == ".safetensors":
        read_header(path)
    elif path.suffix in (".pt", ".pth", ".bin", ".ckpt", ".npz"):
        source = Source.of_file(path)
        with opened(path) as file:
            archive = file.read(len(ARCHIVE)) == ARCHIVE
        if archive:
            read_directory(source)
