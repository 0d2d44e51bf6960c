"""Networks of every kind: each curve against gradients of the moved network, computed in float64 by other means."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrizations

from fromage_cli.diagnostics.breakdown.direction_option import make_direction, moved_by_default
from fromage_cli.diagnostics.breakdown.measure import measure
from fromage_cli.missing import found_of, known
from fromage_cli.optimizers.settings import Given
from fromage_cli.probes.lines.direction import moving_tensors
from fromage_cli.problem.evaluation.problem import Problem

Maker = Callable[..., Problem]
ETAS = (1e-3, 1e-2, 1e-1)


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.recurrent = kind(6, 5, num_layers=2, batch_first=True, bidirectional=True)
        self.output = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.recurrent(x.unflatten(1, (4, 6)))[0][:, -1])


class Decoder(nn.Module):
    """Two pre-norm blocks on tokens, the embedding tied to the output."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(11, 8), nn.Embedding(6, 8)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, activation="gelu", batch_first=True, norm_first=True)
            for _ in range(2)
        )
        self.output = nn.Linear(8, 11, bias=False)
        if tied:
            self.output.weight = self.tokens.weight

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.tokens(x) + self.positions(torch.arange(x.shape[1]))
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], dtype=hidden.dtype)
        for block in self.blocks:
            hidden = block(hidden, src_mask=mask)
        return self.output(hidden)


class Experts(nn.Module):
    """A mixture of four experts in stacked tensors; with few rows some expert may receive none."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(24, 4)
        self.up = nn.Parameter(torch.randn(4, 24, 8) * 0.2)
        self.down = nn.Parameter(torch.randn(4, 8, 3) * 0.3)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.gate(x).softmax(-1)
        chosen = weights * (weights >= weights.topk(2, -1).values[:, -1:])
        hidden = torch.einsum("bi,eih->ebh", x, self.up).relu()
        return torch.einsum("ebh,eho,be->bo", hidden, self.down, chosen)


class Reused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.output = nn.Linear(24, 24), nn.Linear(24, 3)
        self.never = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = torch.tanh(self.inner(x))
        return self.output(x)


class OwnLoss(nn.Module):
    """Returns a dictionary with its own loss, as many libraries do."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.body(inputs)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def flat(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Unflatten(1, (6, 2, 2)), *layers, nn.Flatten(), nn.LazyLinear(3))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "convolution and BatchNorm": lambda: flat(nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
    "depthwise convolution": lambda: flat(nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.ReLU(), nn.Conv2d(6, 4, 1)),
    "transposed convolution": lambda: flat(nn.ConvTranspose2d(6, 4, 2), nn.SiLU()),
    "GroupNorm": lambda: flat(nn.Conv2d(6, 8, 1), nn.GroupNorm(2, 8), nn.SiLU()),
    "InstanceNorm": lambda: flat(nn.Conv2d(6, 8, 1), nn.InstanceNorm2d(8, affine=True), nn.Tanh()),
    "LayerNorm": lambda: nn.Sequential(nn.Linear(24, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 3)),
    "RMSNorm": lambda: nn.Sequential(nn.Linear(24, 8), nn.RMSNorm(8), nn.SiLU(), nn.Linear(8, 3)),
    "weight norm": lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(24, 8)), nn.ReLU(), nn.Linear(8, 3)),
    "spectral norm": lambda: nn.Sequential(
        parametrizations.spectral_norm(nn.Linear(24, 8)), nn.ReLU(), nn.Linear(8, 3)
    ),
    "LSTM": lambda: Recurrent(nn.LSTM),
    "GRU": lambda: Recurrent(nn.GRU),
    "experts": Experts,
    "a matrix used three times": Reused,
}


def rows() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(7)
    return {"x": torch.randn(20, 24, generator=generator), "y": torch.randint(3, (20,), generator=generator)}


def tokens() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(7)
    drawn = torch.randint(11, (5, 7), generator=generator)
    return {"x": drawn[:, :-1], "y": drawn[:, 1:]}


def exact_changes(model: nn.Module, direction: Any, data: dict[str, Tensor], eta: float) -> dict[str, Tensor]:
    """Gradients in float64 at W + eta d, batch statistics in use and dropout off."""
    model = copy.deepcopy(model).double().eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            module.train()
    parameters = {name: value.detach().clone() for name, value in model.named_parameters()}
    for move in direction.moves:
        step = eta * move.coefficient * direction.source(move.tensor).double()
        parameters[move.tensor.name] = parameters[move.tensor.name] + step
    parameters = {name: value.requires_grad_() for name, value in parameters.items()}
    x = data["x"].double() if data["x"].is_floating_point() else data["x"]
    with sdpa_kernel(SDPBackend.MATH):
        outputs = functional_call(model, parameters, (x,), tie_weights=True)
    loss = nn.functional.cross_entropy(outputs.flatten(0, -2), data["y"].flatten())
    moved = {move.tensor.name: parameters[move.tensor.name] for move in direction.moves}
    return dict(zip(moved, torch.autograd.grad(loss, list(moved.values())), strict=True))


def agree(make_problem: Maker, model: nn.Module, data: dict[str, Tensor], name: str) -> None:
    problem = make_problem(model, data, "cross-entropy")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    tensors, _ = moving_tensors(problem, moved_by_default(name))
    direction = make_direction(name, problem, tensors, None, Given())
    result = found_of(measure(problem, direction, ETAS, show_vectors=True))[0]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    base = exact_changes(model, direction, data, 0.0)
    for index, eta in enumerate(ETAS):
        moved = exact_changes(model, direction, data, eta)
        for layer in result.layers:
            if layer.name in result.noise:  # its gradient is zero in exact arithmetic
                assert float(base[layer.name].norm()) < 1e-12
                continue
            exact = float((moved[layer.name] - base[layer.name]).norm() / base[layer.name].norm())
            if exact > 1e-3:
                assert layer.breakdown[index] == pytest.approx(exact, rel=0.01), (layer.name, eta)


@pytest.mark.parametrize("direction", ["fromage", "sgd", "adam", "random"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_curve_of_every_kind_of_network_is_exact(make_problem: Maker, name: str, direction: str) -> None:
    torch.manual_seed(0)
    model = NETWORKS[name]()
    model(rows()["x"])
    agree(make_problem, model, rows(), direction)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_the_curve_of_a_decoder_is_exact(make_problem: Maker, tied: bool) -> None:
    torch.manual_seed(0)
    model = Decoder(tied)
    agree(make_problem, model, tokens(), "sgd")
    problem = make_problem(model, tokens())
    result = found_of(measure(problem, make_direction("fromage", problem, problem.layers, None, Given()), ETAS))[0]
    assert ("output.weight" in [layer.name for layer in result.layers]) == (not tied)
    assert known(result.linear_trust_eta) is not None
    assert known(result.depth.path) is not None
    assert result.depth.path >= 9


def test_a_model_that_returns_its_own_loss_in_a_dictionary_is_measured(make_problem: Maker) -> None:
    torch.manual_seed(0)
    model = OwnLoss()
    data = {"inputs": rows()["x"], "labels": rows()["y"]}
    problem = make_problem(model, data)
    plain = make_problem(model.body, rows())
    assert problem.base.loss == pytest.approx(plain.base.loss, rel=1e-6)
    for name, gradient in plain.base.gradients.items():
        torch.testing.assert_close(problem.base.gradients[f"body.{name}"], gradient)


def test_parameters_without_gradient_are_named(make_problem: Maker) -> None:
    torch.manual_seed(0)
    problem = make_problem(Reused(), rows())
    assert [skipped.name for skipped in moving_tensors(problem, "all")[1]] == ["never.weight", "never.bias"]


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_model_gives_the_names_and_the_curve_of_the_plain_one(make_problem: Maker, backend: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(24, 8), nn.Tanh(), nn.Linear(8, 3))
    results = []
    for network in (model, torch.compile(model, backend=backend)):
        problem = make_problem(network, rows())
        results.append(
            found_of(measure(problem, make_direction("fromage", problem, problem.layers, None, Given()), ETAS))[0]
        )
    plain, compiled = results
    assert compiled.linear_trust_eta == pytest.approx(plain.linear_trust_eta, rel=1e-4)
    assert [layer.name for layer in compiled.layers] == [layer.name for layer in plain.layers]
    for first, second in zip(plain.layers, compiled.layers, strict=True):
        assert second.breakdown == pytest.approx(first.breakdown, rel=1e-3)
