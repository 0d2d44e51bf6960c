"""The logits that a loss takes the cross entropy of: how far they are from normalised, and how sure they are."""

import math
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional

from fromage_cli.probes.forward_pass.seen_calls import looked_at, widened
from fromage_cli.problem.conditions.replaced_calls import ReplacedCalls

LARGEST_PART = 1 << 22
"""Logits that are looked at in one go: 16 MB in float32, and a few copies."""


@dataclass(frozen=True)
class LogitsCall:
    """The logits of one call of `cross_entropy`, over the rows that it does not ignore."""

    rows: int
    """Predictions: rows, or rows × places."""
    classes: int
    log_z_mean: float
    """The mean of log Z = ln Σ exp(logits)."""
    log_z_spread: float
    """Its standard deviation over the rows."""
    largest_logit: float
    """The largest |logit|; logits of −∞, which rule a class out, are left out."""
    entropy: float
    """The mean entropy of the prediction, nats; ln(classes) for guessing."""


class LogitsWatcher:
    """Within the block, each call of `cross_entropy` leaves what its logits are like in `calls`.

    With micro-batches there is a call for each. A loss by `nll_loss`, or by a kernel of its own, is not seen.
    """

    def __init__(self) -> None:
        self.calls: list[LogitsCall] = []
        self._block = ExitStack()

    def __enter__(self) -> Self:
        seen = looked_at(functional.cross_entropy, self._look)
        self._block.enter_context(ReplacedCalls({functional.cross_entropy: seen}))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._block.close()

    def _look(
        self,
        input: Tensor,
        target: Tensor,
        weight: Any = None,
        size_average: Any = None,
        ignore_index: int = -100,
        *_: Any,
        **named: Any,
    ) -> None:
        """Takes the arguments of `cross_entropy`; targets that are probabilities ignore no row."""
        logits = input if input.dim() > 1 else input[None]
        counts = None if target.is_floating_point() else (target != ignore_index).reshape(len(logits), -1)
        step = max(1, LARGEST_PART // max(1, logits[:1].numel()))
        log_z, entropies, largest = [], [], []
        for start in range(0, len(logits), step):
            rows = widened(logits[start : start + step]).movedim(1, -1).flatten(0, -2)  # rows and places × classes
            if counts is not None:
                rows = rows[counts[start : start + step].reshape(-1)]
            if rows.numel():
                log_z.append(rows.logsumexp(1))
                entropies.append(torch.special.entr(rows.softmax(1)).sum(1))
                largest.append(rows.abs().masked_fill(rows == -math.inf, 0.0).amax())
        if log_z:
            each = torch.cat(log_z).double()
            self.calls.append(
                LogitsCall(
                    rows=len(each),
                    classes=logits.shape[1],
                    log_z_mean=each.mean().item(),
                    log_z_spread=each.std(correction=0).item(),
                    largest_logit=torch.stack(largest).amax().item(),
                    entropy=torch.cat(entropies).double().mean().item(),
                )
            )
