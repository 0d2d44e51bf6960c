"""Problems whose rows are split over ranks, and everything that is summed over rows."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from fromage_cli import ranks
from fromage_cli.problem.data.batches import Batch
from fromage_cli.problem.evaluation.curvature_operators import WeightSpace, gauss_newton, hessian
from fromage_cli.problem.evaluation.fitting import fitted
from fromage_cli.problem.evaluation.gradient_pullback import GradientGraph, gradient_by_scalars, pull_back_gradient
from fromage_cli.problem.evaluation.linearised_loss import linearised_losses
from fromage_cli.problem.evaluation.output_expansion import expand_outputs, model_gradient, model_loss
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.evaluation.streamed_hessian import visit_hessian_vector_product
from fromage_cli.problem.losses.hyperparameters import LABEL_SMOOTHING, leaves, training_loss
from fromage_cli.problem.losses.losses import resolve_loss
from fromage_cli.problem.networks.sharding import share_weights, spread
from fromage_cli.shards import whole


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


class Residual(nn.Module):
    """Two branches, each added to what it reads, and a vector that is added to every row."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
        self.shift, self.head = nn.Parameter(torch.randn(1, 4)), nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        """Scores, (rows, 3)."""
        hidden = inputs + self.shift
        for branch in self.branches:
            hidden = hidden + branch(hidden).tanh()
        return self.head(hidden)


class SmallMemory(nn.Linear):
    """A layer that fails on the second rank above so many rows."""

    def forward(self, x: Tensor) -> Tensor:
        """Scores, (rows, 6)."""
        if ranks.current().index == 1 and len(x) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB")
        return super().forward(x)


def problem_of(case: str, dtype: torch.dtype = torch.float64, *, sharded: bool = False) -> Problem:
    """The problem of a case."""
    torch.manual_seed(0)
    rows = {"uneven": 8, "one row": 1, "hundred": 100}.get(case, 10)
    network: nn.Module = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    inputs, targets = torch.randn(rows, 4, dtype=dtype), torch.randint(3, (rows,))
    if case == "one layer":
        network = nn.Linear(4, 3)
    if case == "residual":
        network = Residual()
    if case == "memory":
        network = nn.Sequential(SmallMemory(4, 6), nn.Tanh(), nn.Linear(6, 3))
    if case == "ignored":
        targets[:6] = -100
    if case.startswith("tied"):
        network, inputs, targets = Tied(), torch.tensor([0, 1, 2, 0, 3, 4, 5, 6, 1, 2]), torch.randint(7, (rows,))
        inputs = inputs.clamp(min=1) if case == "tied, one way" else inputs
    network.to(dtype)
    if sharded:
        spread(network, torch.device("cpu"))
        share_weights(network)
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
    vectors = [space.draw(generator) for _ in range(2)]

    def listed(vector: Tensor) -> list[float]:
        return [float(x) for part in space.split(vector) for x in whole(part).flatten()]

    found = {"value": [problem.value()], "loss": [problem.base.loss]}
    found["gradient"] = listed(space.flat([problem.base.gradients[t.name] for t in problem.receiving]))
    for name, operator in (("hessian", hessian), ("gauss-newton", gauss_newton)):
        with operator(problem, space) as product:
            found[name] = [x for vector in vectors for x in listed(product(vector))]
    parts = dict(zip([t.name for t in problem.receiving], space.split(vectors[0]), strict=True))
    streamed: dict[str, Tensor] = {}
    visit: Callable[..., None] = lambda tensor, part: streamed.__setitem__(tensor.name, part.clone())  # noqa: E731
    visit_hessian_vector_product(problem, problem.receiving, lambda tensor, _: parts[tensor.name], visit)
    found["streamed"] = listed(space.flat([streamed[t.name] for t in problem.receiving]))
    linear = linearised_losses(problem, space, [0.1 * vector for vector in vectors], [problem.loss] * 2)
    found["linearised"] = [x for total, slope in linear for x in (total, *listed(slope))]
    with problem.steady():
        found["steady"] = [problem.value()]
    displacement = space.split(0.1 * vectors[0])
    found["expanded"] = [model_loss(problem, expand_outputs(problem, space, displacement), 0.7)]
    value, parts_of_model = model_gradient(problem, space, displacement)
    found["expanded gradient"] = [value, *listed(space.flat(parts_of_model))]
    return found if problem.ranks.sharded else found | pulled_back(problem, space)


def pulled_back(problem: Problem, space: WeightSpace) -> dict[str, list[float]]:
    """What is pulled back through the gradient of a loss with label smoothing, on the first batch."""
    part, in_loss = problem.on(problem.batch), leaves({LABEL_SMOOTHING: 0.1}, problem.device)
    part.loss, tensors = training_loss(problem.loss, in_loss), space.tensors

    def adjoint(gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: 2.0 * gradient + gradient.square() for name, gradient in gradients.items()}

    found = {"pulled back": pull_back_gradient(part, tensors, in_loss, adjoint)}
    by_scalar = gradient_by_scalars(part, tensors, in_loss)
    found["by scalar"] = by_scalar[LABEL_SMOOTHING]
    if part.micro_batch is None:
        fresh = leaves({LABEL_SMOOTHING: 0.1}, problem.device)
        part.loss = training_loss(problem.loss, fresh)
        graph = GradientGraph(part, tensors, {t.name: t.parameter for t in tensors}, fresh)
        found["graph"] = list(graph.gradients.values())
        found["graph pulled back"] = graph.pull_back(adjoint(graph.gradients))
    return {name: [float(x) for each in values for x in each.flatten()] for name, values in found.items()}
