"""64 ranks in one process, by torch's local-tensor mode: real numbers of weights of which each rank holds its rows."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed._local_tensor import LocalTensorMode
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore

from fromage_cli import ranks
from fromage_cli.problem.evaluation.curvature_operators import along
from fromage_cli.problem.networks.gathering import gather_in_forward
from fromage_cli.shards import contiguous_strides, own_rows, whole

RANKS = 64


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


@pytest.mark.parametrize(("dtype", "within"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_64_ranks_compute_what_one_does(simulated: LocalTensorMode, dtype: torch.dtype, within: float) -> None:
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
    own = simulated.rank_map(lambda rank: rows[rank : rank + 1])
    with gather_in_forward(model).left_out_of_graphs():
        loss, *parts = loss_gradient_and_product(model, own, [spread(vector) for vector in vectors])
    distributed.all_reduce(loss)
    found = [loss, *[whole(part) for part in parts]]
    for one, other in zip(found, expected, strict=True):
        same_on_all = one.reconcile()  # type: ignore[attr-defined]  # raises where a rank has another
        assert float((same_on_all - other).norm()) <= within * float(other.norm())
