"""Bundles: one line in a training loop writes all that a diagnosis needs, as data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer


def save(  # noqa: PLR0917 - one line in a training loop
    directory: str | Path,
    model: nn.Module,
    batch: Any,
    loss: str | Callable[..., Any] = "auto",
    optimizer: Optimizer | Sequence[Optimizer] | None = None,
    step: int | None = None,
    *,
    module: nn.Module | None = None,
    factory: str | None = None,
    strict: bool = False,
) -> Path | None:
    """Write a bundle: weights, batch, optimizer state, and network and loss as graphs.

    `batch`: tensors in dicts, lists and tuples, whose first dimension counts the rows. `loss`: a name as `--loss` takes
    it, or a module or function of torch that takes outputs and targets. Or it is `function(model, batch)`, which
    returns a mean over rows or `(sum, count)`. `module`: the plain network on the meta device, where `model` is sharded
    by FSDP2. `factory`: where the network can be built again, as `--model` takes it. A directory with an earlier bundle
    is replaced when the new one is complete.

    The first call in a process makes the graphs, which takes seconds; later ones use them again while the network keeps
    its structure. The run is left as it was: weights, gradients, optimizer, modes, buffers and random numbers. What
    fails is a warning, so that the run goes on, and an exception under `strict`. Of several ranks the first one writes;
    all have to call. Gives the directory, or None where nothing was written or another rank writes.
    """
    from fromage_cli.bundle.saving import save_from_loop

    further = {"optimizer": optimizer, "step": step, "module": module, "factory": factory}
    return save_from_loop(Path(directory), model, batch, loss, strict=strict, **further)
