"""64 ranks in one process: with real numbers by torch's local-tensor mode, and with shapes alone by its fake tensors.

What the program computes is what one process does, and what it holds and sends is what a formula and `--estimate` say.
"""

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed._local_tensor import LocalTensorMode
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore

from fromage_cli import ranks
from fromage_cli.probes.cost import measure_cost
from fromage_cli.problem.evaluation.curvature_operators import along
from fromage_cli.problem.networks.gathering import gather_in_forward
from fromage_cli.problem.networks.recomputation import recompute_activations
from fromage_cli.shards import contiguous_strides, own_rows, whole

RANKS = 64
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
LOSS = 2 * 8
"""Bytes of the loss and its count, which ranks add up in every pass."""


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalTensorMode]:
    """Each tensor made within it is one for each rank; the ranks agree by construction, and are not asked."""
    distributed.init_process_group("fake", rank=0, world_size=RANKS, store=FakeStore())
    monkeypatch.setattr(ranks.Ranks, "require_next", lambda *_: None)
    try:
        with ranks.scope(), LocalTensorMode(RANKS) as mode:
            yield mode
    finally:
        distributed.destroy_process_group()


def network(dtype: torch.dtype) -> nn.Sequential:
    """Of 5 tokens; 70 rows fall to 35 ranks, two to each, and 3 rows to three ranks."""
    layers = [nn.Embedding(5, 3), nn.Linear(3, 70), nn.Tanh(), nn.LayerNorm(70), nn.Linear(70, 3)]
    return nn.Sequential(*layers).to(dtype)


def loss_gradient_and_product(model: nn.Module, rows: Tensor, vectors: list[Tensor]) -> list[Tensor]:
    """Of the sum over rows of the squared outputs; the product is that of its Hessian with the vectors."""
    weights = list(model.parameters())
    loss = model(rows).square().sum()
    gradients = torch.autograd.grad(loss, weights, create_graph=True)
    products = torch.autograd.grad(along(gradients, vectors), weights)
    return [loss.detach(), *[gradient.detach() for gradient in gradients], *products]


@pytest.mark.parametrize(
    ("dtype", "within", "recompute"),
    [(torch.float64, 1e-12, False), (torch.float64, 1e-12, True), (torch.float32, 1e-6, False)],
    ids=["float64", "recompute", "float32"],
)
def test_64_ranks_compute_what_one_does(
    simulated: LocalTensorMode, dtype: torch.dtype, within: float, recompute: bool
) -> None:
    with simulated.disable():
        model, rows = network(dtype), torch.randint(5, (RANKS, 2))
        vectors = [torch.randn_like(parameter) for parameter in model.parameters()]
        expected = loss_gradient_and_product(model, rows, vectors)
    mesh = init_device_mesh("cpu", (RANKS,))

    def spread(tensor: Tensor) -> Tensor:
        count = tensor.shape[0]
        own = simulated.rank_map(lambda rank: tensor.detach()[slice(*own_rows(count, RANKS, rank))].clone())
        stride = contiguous_strides(tensor.shape)
        return DTensor.from_local(own, mesh, [Shard(0)], run_check=False, shape=tensor.shape, stride=stride)

    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(spread(parameter))
    if recompute:
        recompute_activations(model)
    own = simulated.rank_map(lambda rank: rows[rank : rank + 1])
    with gather_in_forward(model).left_out_of_graphs():
        loss, *parts = loss_gradient_and_product(model, own, [spread(vector) for vector in vectors])
    distributed.all_reduce(loss)
    found = [loss, *[whole(part) for part in parts]]
    for one, other in zip(found, expected, strict=True):
        same_on_all = one.reconcile()  # type: ignore[attr-defined]  # raises where a rank has another
        assert float((same_on_all - other).norm()) <= within * float(other.norm())


@pytest.fixture(scope="module")
def plan() -> Iterator[ModuleType]:
    """benchmarks/scaling_plan.py as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("scaling_plan")


@pytest.mark.parametrize(("layers", "width", "tokens", "length"), [(4, 256, 256, 64)])
def test_memory_and_traffic_of_a_rank_are_those_of_the_plan(
    plan: ModuleType, layers: int, width: int, tokens: int, length: int
) -> None:
    shape = plan.Shape(layers, width, 7 * width // 2, heads=8, key_heads=2, tokens=tokens)
    with plan.simulated_rank(RANKS):
        problem = plan.problem_of(shape, RANKS, length)
        assert sum(tensor.parameter.numel() for tensor in problem.trainable) == shape.parameters
        gradient, product = (plan.traced(problem, run) for run in (plan.gradient, plan.product))
        cost = measure_cost(problem, products=True)
    for traced, again in ((gradient, False), (product, True)):
        assert traced.weights == 4 * shape.parameters / RANKS
        assert traced.gathered == 4 * shape.gathers(again)
        assert traced.added_up == 4 * shape.sums(again) + LOSS
        estimated = traced.weights + cost.memory(0.0, products=again) - cost.resident
        assert estimated == pytest.approx(traced.total, rel=0.1)
    assert gradient.total == pytest.approx(shape.gradient_peak(RANKS, length), rel=0.02)


def test_traffic_is_the_same_under_autocast_and_more_where_blocks_are_recomputed(plan: ModuleType) -> None:
    shape = plan.Shape(2, 256, 896, heads=8, key_heads=2, tokens=256)
    blocks = shape.linear - shape.embedding  # without the output layer
    for settings, further in (({"autocast": True}, (0, 0)), ({"recompute": True}, (1, 2))):
        with plan.simulated_rank(RANKS):
            problem = plan.problem_of(shape, RANKS, 64, **settings)
            gradient, product = (plan.traced(problem, run) for run in (plan.gradient, plan.product))
        for traced, again in ((gradient, False), (product, True)):
            assert traced.gathered == 4 * (shape.gathers(again) + further[again] * blocks)
            assert traced.added_up == 4 * shape.sums(again) + LOSS
