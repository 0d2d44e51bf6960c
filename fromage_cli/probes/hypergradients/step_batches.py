"""Which rows each further training step sees."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from fromage_cli.counting import counted
from fromage_cli.problem.data.batches import Batch
from fromage_cli.problem.data.pytrees import map_tensors


@dataclass(frozen=True)
class StepBatches:
    """One batch for each step."""

    batches: tuple[Batch, ...]
    source: str
    """Where they come from, as a sentence ends."""


def step_batches(
    available: Sequence[Batch], steps: int, *, size: int | None = None, seed: int = 0, draw: int = 0
) -> StepBatches:
    """Takes the batches in turn, or draws rows of the only one, anew for each pass over them.

    `size`: rows of a training batch; None, or more than there are, takes the batch whole. Rows left over at the end of
    a pass wait for the next. Another `draw` takes the same batches in another order, or draws other rows.
    """
    generator = torch.Generator().manual_seed(seed + draw)
    if len(available) > 1:
        used = available[:steps]
        order = torch.randperm(len(used), generator=generator).tolist() if draw else range(len(used))
        taken = tuple(used[order[step % len(used)]] for step in range(steps))
        number = f"{len(used)} batches" if len(used) > 1 else "a batch"
        return StepBatches(taken, f"on {number} of {counted(used[0].size, 'row')}{' in turn' * (len(used) > 1)}")
    whole = available[0]
    if size is None or size >= whole.size:
        return StepBatches((whole,) * steps, f"each on all {whole.size} rows")
    rows, taken_rows = torch.empty(0, dtype=torch.int64), []
    for _ in range(steps):
        if len(rows) < size:
            rows = torch.randperm(whole.size, generator=generator)
        taken_rows.append(rows[:size])
        rows = rows[size:]
    drawn = tuple(_picked(whole, rows, step * size) for step, rows in enumerate(taken_rows))
    return StepBatches(drawn, f"each on {size} of {whole.size} rows, drawn without repeats")


def _picked(whole: Batch, rows: torch.Tensor, first: int) -> Batch:
    """Some rows of a batch, numbered from `first`, so that each step draws random numbers of its own."""
    data = map_tensors(whole.data, lambda tensor: tensor[rows.to(tensor.device)])
    return replace(whole, data=data, size=len(rows), first=first)
