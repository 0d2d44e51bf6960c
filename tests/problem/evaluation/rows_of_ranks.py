"""Run as one of several ranks, or alone: prints a problem's loss, gradient and curvature products as JSON."""

import json
import os
import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from fromage_cli import ranks
from fromage_cli.problem.data.batches import Batch
from fromage_cli.problem.evaluation.curvature_operators import WeightSpace, gauss_newton, hessian
from fromage_cli.problem.evaluation.fitting import fitted
from fromage_cli.problem.evaluation.linearised_loss import linearised_losses
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.evaluation.streamed_hessian import visit_hessian_vector_product
from fromage_cli.problem.losses.losses import resolve_loss


class Tied(nn.Module):
    """An embedding that is its own head, beside one that only rows below the third use."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 5)
        self.rare = nn.Linear(5, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        """Scores of all tokens, (rows, 7)."""
        hidden = self.table(tokens)
        if (tokens == 0).any():  # a rank without such a row has no gradient of this layer
            hidden = hidden + self.rare(hidden) * (tokens == 0)[:, None]
        return functional.linear(hidden.tanh(), self.table.weight)


class SmallMemory(nn.Linear):
    """A layer that fails on one rank above so many rows."""

    def forward(self, x: Tensor) -> Tensor:
        """Scores, (rows, 6)."""
        if os.environ.get("RANK") == "1" and len(x) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB")
        return super().forward(x)


def problem_of(case: str) -> Problem:
    """The problem of a case, in float64."""
    torch.manual_seed(0)
    rows = {"uneven": 8, "one row": 1}.get(case, 10)
    network: nn.Module = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    inputs, targets = torch.randn(rows, 4, dtype=torch.float64), torch.randint(3, (rows,))
    if case == "memory":
        network = nn.Sequential(SmallMemory(4, 6), nn.Tanh(), nn.Linear(6, 3))
    if case == "ignored":
        targets[:6] = -100
    if case == "tied":
        network, inputs, targets = Tied(), torch.tensor([0, 1, 2, 0, 3, 4, 5, 6, 1, 2]), torch.randint(7, (rows,))
    network.double()
    batch = Batch((inputs, targets), rows, "here")
    further: tuple[Batch, ...] = ()
    if case == "two batches":
        batch, further = batch.rows(0, 3), (batch.rows(3, 10),)
    loss = resolve_loss("cross-entropy", network, batch)
    found = Problem(network, loss, batch, further=further, micro_batch=2 if case == "micro-batches" else None)
    fitted(found, found.require_steadiness)
    if case == "memory" and found.ranks.several:
        assert found.micro_batch == 2
    return found


def numbers(problem: Problem) -> dict[str, list[float]]:
    """Everything that is summed over rows."""
    space = WeightSpace(problem.receiving)
    generator = torch.Generator().manual_seed(1)
    size = sum(weight.numel() for weight in space.weights)
    vectors = [torch.randn(size, generator=generator, dtype=torch.float64) for _ in range(2)]
    found = {"value": [problem.value()], "loss": [problem.base.loss]}
    found["gradient"] = space.flat([problem.base.gradients[t.name] for t in problem.receiving]).tolist()
    for name, operator in (("hessian", hessian), ("gauss-newton", gauss_newton)):
        with operator(problem, space) as product:
            found[name] = [float(x) for vector in vectors for x in product(vector)]
    parts = dict(zip([t.name for t in problem.receiving], space.split(vectors[0]), strict=True))
    streamed: dict[str, Tensor] = {}
    visit: Callable[..., None] = lambda tensor, part: streamed.__setitem__(tensor.name, part.clone())  # noqa: E731
    visit_hessian_vector_product(problem, problem.receiving, lambda tensor, _: parts[tensor.name], visit)
    found["streamed"] = space.flat([streamed[t.name] for t in problem.receiving]).tolist()
    linear = linearised_losses(problem, space, [0.1 * vector for vector in vectors], [problem.loss] * 2)
    found["linearised"] = [x for total, slope in linear for x in (total, *slope.tolist())]
    with problem.steady():
        found["steady"] = [problem.value()]
    return found


if __name__ == "__main__":
    with ranks.scope():
        place = ranks.Place.found(os.environ)
        if place is not None:
            ranks.join(place)
        sys.stdout.write(json.dumps(numbers(problem_of(sys.argv[1]))))
