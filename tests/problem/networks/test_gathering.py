"""Weights that are gathered where a network uses them."""

import gc
import time
import weakref
from contextlib import nullcontext
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from fromage_cli.problem.evaluation.curvature_operators import along
from fromage_cli.problem.networks.gathering import GatheredWeights, gather_in_forward, whole_numbers
from fromage_cli.problem.networks.layers import named_weights, trainable_tensors
from fromage_cli.problem.networks.sharding import spread
from fromage_cli.shards import part_as, whole
from tests.forked_ranks import run_ranks

ROWS = torch.linspace(-1.0, 1.0, 12, dtype=torch.float64).view(3, 4)


class Everything(nn.Module):
    """Weights as modules use them: by a product, a look-up, a convolution, a part of one, and a parameter alone."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.3))
        self.table, self.first = nn.Embedding(5, 4), nn.Linear(4, 6)
        self.convolution = nn.Conv1d(1, 2, 3)
        self.normed = parametrizations.weight_norm(nn.Linear(8, 4, bias=False))
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, 5)
        self.head.weight = self.table.weight

    def forward(self, inputs: Tensor) -> Tensor:
        """Scores, (rows, 5)."""
        hidden = self.scale * inputs + self.table(torch.arange(len(inputs)) % 5)
        hidden = self.first(hidden).tanh()
        hidden = self.convolution(hidden[:, None]).flatten(1)
        hidden = self.normed(hidden)[:, None]
        return self.head(
            self.attention(hidden, hidden, hidden)[0][:, 0] + functional.linear(inputs, self.first.weight[:4])
        )


def made(sharded: bool) -> tuple[nn.Module, GatheredWeights | None]:
    torch.manual_seed(0)
    model = Everything().double()
    if not sharded:
        return model, None
    spread(model, torch.device("cpu"))
    return model, gather_in_forward(model)


def derivatives(sharded: bool, rows: Tensor) -> dict[str, list[float]]:
    """The gradient and two products of the Hessian with it, by name."""
    model, weights = made(sharded)
    tensors = trainable_tensors(model)
    parameters = [tensor.parameter for tensor in tensors]
    with weights.left_out_of_graphs() if weights else nullcontext():
        loss = model(rows).square().sum()
        gradients = torch.autograd.grad(loss, parameters, create_graph=True)
        products = [part_as(p, 0.1 + torch.arange(p.numel(), dtype=p.dtype).view(p.shape)) for p in parameters]
        for _ in range(2):
            products = list(torch.autograd.grad(along(gradients, products), parameters, retain_graph=True))
    return {
        tensor.name: [*whole(gradient.detach()).flatten().tolist(), *whole(product).flatten().tolist()]
        for tensor, gradient, product in zip(tensors, gradients, products, strict=True)
    }


@pytest.mark.parametrize("count", [2, 3])
def test_gradients_and_products_are_those_of_whole_weights(count: int) -> None:
    """Each rank has the same rows, so that sums over ranks are so many times as large: squared for two products."""
    alone = derivatives(False, ROWS)
    for found in run_ranks(count, derivatives, True, ROWS):
        assert list(found) == list(alone)
        for name, values in found.items():
            half = len(values) // 2
            expected = [count * x for x in alone[name][:half]] + [count**2 * x for x in alone[name][half:]]
            assert values == pytest.approx(expected, rel=1e-11, abs=1e-11), name


def test_names_and_their_order_are_those_of_the_plain_model() -> None:
    def named() -> list[str]:
        model, _ = made(sharded=True)
        return [name for name, _ in named_weights(model, remove_duplicate=False)]

    plain = [name for name, _ in made(sharded=False)[0].named_parameters(remove_duplicate=False)]
    assert run_ranks(2, named) == [plain] * 2


def test_graphs_hold_no_whole_weights() -> None:
    """What the graph of a gradient with its graph keeps is as large as the data, however large the weights are."""

    def largest() -> int:
        model = nn.Sequential(*(nn.Linear(64, 64) for _ in range(4)))
        spread(model, torch.device("cpu"))
        weights, alive = gather_in_forward(model), []
        gather = weights.gather

        def watched(parameter: Tensor, dtype: torch.dtype | None = None) -> Tensor:
            found = gather(parameter, dtype)
            alive.append(weakref.ref(found.untyped_storage()))
            return found

        def held() -> int:
            gc.collect()
            until = time.monotonic() + 5.0  # the thread that has made a collective lets go of it a moment later
            while any(each() is not None for each in alive) and time.monotonic() < until:
                time.sleep(0.01)
            return sum(each() is not None for each in alive)

        weights.gather = watched  # type: ignore[method-assign]
        with weights.left_out_of_graphs():
            output = model(torch.ones(2, 64))
            after_forward = held()
            gradients = torch.autograd.grad(output.square().sum(), list(model.parameters()), create_graph=True)
            del output
            assert all(gradient.requires_grad for gradient in gradients)
            return after_forward + held()

    assert run_ranks(2, largest) == [0, 0]


def test_a_number_that_is_read_is_that_of_the_whole() -> None:
    """Without this torch reads what this rank's part alone gives."""

    def check() -> list[object]:
        parameter = nn.Linear(2, 5, bias=False)
        parameter.weight = nn.Parameter(torch.arange(10.0).view(5, 2))
        spread(parameter, torch.device("cpu"))
        its = parameter.weight.detach()
        with whole_numbers():
            return [
                float(its.sum()),
                its.square().sum().item(),
                bool((its > 8.5).any()),
                int(its.max()),
                its[:, 0].tolist(),
            ]

    assert run_ranks(2, check) == [[45.0, 285.0, True, 9, [0.0, 2.0, 4.0, 6.0, 8.0]]] * 2


def test_so_it_is_in_a_backward_pass_and_where_a_block_is_computed_again() -> None:
    def check() -> list[float]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
        plain = deepcopy(model)
        spread(model, torch.device("cpu"))
        weights, seen = gather_in_forward(model), []
        for parameter in model.parameters():
            parameter.register_hook(lambda gradient: seen.append(float(gradient.square().sum())))
        with weights.left_out_of_graphs(), whole_numbers():
            checkpoint(model, ROWS[:, :3], use_reentrant=False).square().sum().backward()
        plain(ROWS[:, :3]).square().sum().backward()
        expected = [
            2.0**2 * float(parameter.grad.square().sum())
            for parameter in plain.parameters()
            if parameter.grad is not None
        ]
        return [found - other for found, other in zip(sorted(seen), sorted(expected), strict=True)]

    assert run_ranks(2, check) == [pytest.approx([0.0] * 4, abs=1e-10)] * 2


def test_a_weight_that_is_detached_or_was_written_into_is_no_parameter() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, inputs: Tensor) -> Tensor:
            hidden = self.a(inputs).tanh()
            changed = self.a.weight * 1.0
            hidden = hidden + functional.linear(hidden, self.a.weight.detach())
            return hidden + functional.linear(hidden, changed.mul_(2.0))

    def gradient(sharded: bool) -> list[float]:
        torch.manual_seed(0)
        model = Twice().double()
        if sharded:
            spread(model, torch.device("cpu"))
        weights = gather_in_forward(model) if sharded else None
        with weights.left_out_of_graphs() if weights else nullcontext():
            found = torch.autograd.grad(model(ROWS).square().sum(), list(model.parameters()))
        return [float(x) for each in found for x in whole(each).flatten()]

    expected = [2.0 * x for x in gradient(sharded=False)]
    assert run_ranks(2, gradient, True) == [pytest.approx(expected, rel=1e-12)] * 2
