"""What a network computes on its batch, and how far that moves when weights do."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fromage_cli.problem.data.batches import Batch
from fromage_cli.problem.data.pytrees import named_tensors
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.theory.accumulation import distance, norm

MOST_COMPARED = 1 << 22
"""Entries of one output that are compared; of more, every so many-th."""


@dataclass(frozen=True)
class Response:
    """How far a network has moved."""

    outputs: float
    """Largest ‖f − f₀‖ / ‖f₀‖ over the outputs; that of the loss where the model's outputs cannot be seen."""
    loss: float
    """|L − L₀| / |L₀|."""


class Outputs:
    """The outputs that the loss uses at the current weights; what the loss leaves alone does not count."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self._used: list[int] = []
        """Which of the tensors that the model returns reach the loss; a scalar only where there is nothing else."""
        first: Batch = problem.chunks()[0]
        with problem.evaluation(first), torch.enable_grad(), self._recorded() as recorded:
            total = problem.loss(problem.model, first).total
            places = [place for place, tensor in enumerate(recorded) if tensor.requires_grad]
            if places and total.requires_grad:
                found = torch.autograd.grad(total, [recorded[place] for place in places], allow_unused=True)
                problem.evaluations.forwards += first.size / problem.rows
                used = [place for place, gradient in zip(places, found, strict=True) if gradient is not None]
                self._used = [place for place in used if recorded[place].dim() > 0] or used
        self._base, self._loss = self._evaluate()

    def response(self) -> Response:
        """How far outputs and loss are from where they were when this was made; one forward pass.

        An output counts all chunks, of all ranks, together; entries that were not finite before are passed over. Its
        change is infinite where it has become not finite, or of another shape.
        """
        found, loss = self._evaluate()
        change = _relative(abs(loss - self._loss), abs(self._loss))
        changes, ranks = [], self.problem.ranks
        for place in range(len(self._used)):
            pairs = [(first[place], second[place : place + 1]) for first, second in zip(self._base, found, strict=True)]
            if ranks.any(any(not after or after[0].shape != before.shape for before, after in pairs)):
                changes.append(math.inf)
                continue
            whole = math.hypot(*(norm(_finite(before, before)) for before, _ in pairs))
            parts = (distance(_finite(after[0], before), _finite(before, before)) for before, after in pairs)
            moved = math.hypot(*ranks.of_each(math.hypot(*parts)))
            changes.append(_relative(moved, math.hypot(*ranks.of_each(whole))))
        return Response(max(changes, default=change), change)

    def _evaluate(self) -> tuple[list[list[Tensor]], float]:
        """The used outputs of every chunk of this rank's rows, and the loss of all."""
        problem = self.problem
        problem.budget.check()
        chunks = [problem.conditions.without_graph(partial(self._of_chunk, chunk)) for chunk in problem.own_chunks()]
        problem.evaluations.forwards += 1
        own = [terms for _, terms in chunks]
        total, count = problem.ranks.sums([sum(total for total, _ in own), sum(count for _, count in own)])
        return [outputs for outputs, _ in chunks], total / count if count else math.nan

    def _of_chunk(self, chunk: Batch) -> tuple[list[Tensor], tuple[float, float]]:
        """The same of one, its loss as total and count."""
        with self.problem.evaluation(chunk), self._recorded() as recorded:
            terms = self.problem.loss(self.problem.model, chunk)
            flat = [recorded[place].detach().reshape(-1) for place in self._used if place < len(recorded)]
            # an odd stride does not fall in step with a dimension
            outputs = [tensor[:: -(-tensor.numel() // MOST_COMPARED) | 1].clone() for tensor in flat]
            return outputs, (float(terms.total.detach()), terms.count)

    @contextmanager
    def _recorded(self) -> Iterator[list[Tensor]]:
        """The floating tensors that the model returns, as it returns them."""
        recorded: list[Tensor] = []

        def record(module: Any, arguments: Any, output: Any) -> None:
            if is_dataclass(output) and not isinstance(output, type | dict):
                output = {entry.name: getattr(output, entry.name) for entry in fields(output)}
            recorded.extend(tensor for _, tensor in named_tensors(output) if tensor.is_floating_point())

        try:
            handle = self.problem.model.register_forward_hook(record)
        except RuntimeError:  # a scripted module may take no hook
            handle = None
        try:
            yield recorded
        finally:
            if handle is not None:
                handle.remove()


def _finite(tensor: Tensor, reference: Tensor) -> Tensor:
    """The tensor with zeros where the reference is not finite."""
    known = torch.isfinite(reference)
    return tensor if bool(known.all()) else tensor.where(known, 0.0)


def _relative(moved: float, whole: float) -> float:
    if math.isnan(moved):
        return math.inf
    if whole > 0.0:
        return moved / whole
    return math.inf if moved > 0.0 else 0.0
