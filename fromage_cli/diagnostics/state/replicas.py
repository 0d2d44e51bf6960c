"""What copies that differ mean for the user, in a finding and on the page."""

from collections.abc import Iterator, Sequence

from fromage_cli.counting import counted
from fromage_cli.diagnostics.state.result import ReplicaState
from fromage_cli.diagnostics.state.words import entries
from fromage_cli.findings import Finding, about_names
from fromage_cli.missing import known
from fromage_cli.terminal.page import Fact


def replica_findings(replicas: Sequence[ReplicaState]) -> Iterator[Finding]:
    """Copies that should be equal and are not, by what they are copies of."""
    apart = [one for one in replicas if one.differ != 0]
    if tensors := [one for one in apart if one.kind == "tensor"]:
        yield about_names(
            "replicas-differ",
            "warn",
            [one.name for one in tensors],
            f"copies of {counted(len(tensors), 'tensor')} differ{_by_how_much(tensors)}",
            f"Resume from an earlier checkpoint, and find the rank that went apart. {_where(tensors[0])}",
            limit=0.0,
        )
    if settings := [one for one in apart if one.kind == "setting"]:
        yield about_names(
            "replicas-differ",
            "warn",
            [one.name for one in settings],
            f"{counted(len(settings), 'number')} of the optimizer's settings "
            f"{'differs' if len(settings) == 1 else 'differ'} by rank",
            f"Resume every rank from one and the same checkpoint. {_where(settings[0])}",
            limit=0.0,
        )
    if buffers := [one for one in apart if one.kind == "buffer"]:
        yield about_names(
            "replicas-differ",
            "info",
            [one.name for one in buffers],
            f"copies of {counted(len(buffers), 'buffer')} differ{_by_how_much(buffers)}",
            f"Usual where ranks do not exchange what a buffer counts. {_where(buffers[0])}",
            limit=0.0,
        )


def _by_how_much(apart: Sequence[ReplicaState]) -> str:
    counts = [count for one in apart if (count := known(one.differ)) is not None]
    return f" in {entries(sum(counts))}" if counts else " in shape"


def _where(one: ReplicaState) -> str:
    first, last = one.files[0], one.files[-1]  # a copy may be cut over several files
    return f"Compare {first} with {last}." if first != last else f"All copies lie in {first}."


def replica_facts(replicas: Sequence[ReplicaState]) -> list[Fact]:
    """How many tensors are stored more than once, and whether their copies agree; nothing without any."""
    tensors = [one for one in replicas if one.kind != "setting"]
    if not tensors:
        return []
    apart = sum(one.differ != 0 for one in tensors)
    agree = f"those of {apart} differ" if apart else "all copies agree"
    are = "is" if len(tensors) == 1 else "are"
    return [Fact("Stored copies", counted(len(tensors), "tensor"), f"{are} stored more than once; {agree}")]
