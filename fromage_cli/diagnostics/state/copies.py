"""From a checkpoint to whether the copies of what it stores more than once agree."""

from collections.abc import Callable, Sequence
from pathlib import Path

from fromage_cli.checkpoints import Checkpoint
from fromage_cli.checkpoints.checkpoint import Replica
from fromage_cli.checkpoints.names.naming import chosen_names
from fromage_cli.checkpoints.reading.replicas import comparable, compare_replicas
from fromage_cli.diagnostics.state.result import ReplicaState
from fromage_cli.errors import FromageError, InputError
from fromage_cli.missing import Missing, Why

OTHER_SHAPES = Missing(Why.NOT_DEFINED, "the copies have other shapes")
NOT_FINITE = Missing(Why.ZERO_OR_NOT_FINITE, "one of the copies holds NaN or infinite entries")


def stored_copies(
    checkpoint: Checkpoint, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> tuple[tuple[Replica, ...], tuple[str, ...]]:
    """What a checkpoint stores more than once, and a note where a file of copies cannot be opened.

    The globs choose tensors.
    """
    chosen = chosen_names(checkpoint.entries, include, exclude)
    try:
        replicas = [one for one in checkpoint.replicas if one.kind == "setting" or one.name in chosen]
    except FromageError as error:
        return (), (not_compared(error),)
    return comparable(replicas), ()


def compared(
    replicas: Sequence[Replica], advance: Callable[[float, str], None] = lambda elements, doing: None
) -> tuple[tuple[ReplicaState, ...], tuple[str, ...]]:
    """Whether the copies agree, or a note where one of them cannot be read."""
    found = []
    try:
        pairs = compare_replicas(replicas, advance)
    except InputError as error:
        return (), (not_compared(error),)
    for one in pairs:
        difference = one.difference
        largest = None if difference is None else difference.largest
        found.append(
            ReplicaState(
                name=one.replica.name,
                kind=one.replica.kind,
                files=tuple(map(short_name, one.files)),
                entries=one.replica.copies[0].tensor.numel(),
                differ=OTHER_SHAPES if difference is None else difference.differ,
                largest=OTHER_SHAPES if largest is None else NOT_FINITE if largest == float("inf") else largest,
            )
        )
    return tuple(found), ()


def not_compared(error: FromageError) -> str:
    """Why copies were not compared."""
    return f"Copies in several files were not compared: {error.message}"


def short_name(file: Path) -> str:
    """A file with its directory, by which ranks may be told apart."""
    return "/".join(file.parts[-2:])
