"""What `--estimate` prints instead of computing: the cost in gradients, bytes and seconds."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fromage_cli.terminal.answer import Answer, PageStyle, Table, records

if TYPE_CHECKING:
    from rich.console import RenderableType


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

    def page(style: PageStyle) -> "RenderableType":
        from fromage_cli.terminal.tables import Column, house_table  # brings rich

        columns = [Column("gradients"), Column("bytes"), Column("seconds")]
        return house_table(columns, [(estimate.gradients, estimate.bytes, estimate.seconds)], style)

    return Answer(EstimateResult(estimate), page=page, tables={"estimate": table})
