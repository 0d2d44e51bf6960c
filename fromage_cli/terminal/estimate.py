"""What `--estimate` prints instead of computing: the cost in gradients, bytes and seconds."""

from dataclasses import dataclass

from fromage_cli.terminal.answer import Answer, Table, records
from fromage_cli.terminal.tables import Column, house_table


@dataclass(frozen=True)
class Estimate:
    """The cost of an answer."""

    gradients: float
    """Gradients of the whole batch, or what takes as long."""
    bytes: int | None
    """Memory held at most."""
    seconds: float | None
    """On this device."""


@dataclass(frozen=True)
class EstimateResult:
    """What a command answers under `--estimate`."""

    estimate: Estimate


def estimate_answer(estimate: Estimate) -> Answer:
    """The answer of a command under `--estimate`."""

    def table() -> Table:
        return records([estimate])

    columns = [Column("gradients"), Column("bytes"), Column("seconds")]
    row = (estimate.gradients, estimate.bytes, estimate.seconds)
    return Answer(
        EstimateResult(estimate),
        page=lambda style: house_table(columns, [row], style),
        tables={"estimate": table},
    )
