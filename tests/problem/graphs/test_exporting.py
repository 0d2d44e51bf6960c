"""A graph gives the loss and every gradient of its network, bit for bit."""

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.errors import MismatchError
from fromage_cli.problem.conditions.evaluation import Conditions, Mode
from fromage_cli.problem.data.batches import as_batch
from fromage_cli.problem.evaluation.curvature_operators import WeightSpace, gauss_newton, hessian
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.graphs.encoding import NotExportable
from fromage_cli.problem.graphs.exporting import export
from fromage_cli.problem.graphs.graph import read_graph
from fromage_cli.problem.graphs.network import build_network, describe_network
from fromage_cli.problem.graphs.program import Program
from fromage_cli.problem.losses.losses import resolve_loss
from fromage_cli.problem.networks.models import converted
from fromage_cli.problem.networks.weights import load_weights


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.mix = nn.LayerNorm(width), nn.Linear(width, 3 * width)
        self.out, self.drop, self.skip = nn.Linear(width, width), nn.Dropout(0.1), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        rows, length, width = x.shape
        parts = self.mix(self.norm(x)).split(width, -1)
        query, key, value = (part.view(rows, length, 2, width // 2).transpose(1, 2) for part in parts)
        mixed = functional.scaled_dot_product_attention(
            query, key, value, dropout_p=0.2 if self.training else 0.0, is_causal=True
        )
        return x + self.drop(self.skip(self.out(mixed.transpose(1, 2).reshape(rows, length, width))))


class Transformer(nn.Module):
    """A language model whose head is tied to its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.blocks = nn.Embedding(32, 16), nn.ModuleList([Block(16), Block(16)])
        self.head = nn.Linear(16, 32, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("scale", torch.full((1,), 0.5), persistent=False)

    def forward(self, x: Tensor) -> dict[str, Any]:
        hidden = self.embed(x)
        for block in self.blocks:
            hidden = block(hidden)
        return {"logits": self.head(hidden) * self.scale, "other": 3, "none": None}


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.LSTM(4, 6, 2, batch_first=True, bidirectional=True, dropout=0.2)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x)[0][:, -1])


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1)
        self.head = nn.utils.parametrizations.weight_norm(nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x).mean(1))


class Twice(nn.Module):
    """One module that is called three times, twice of them inside another."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Dropout(0.3))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(self.inner(x)) + self.inner[0](x))


class Regions(nn.Module):
    """Parts without a gradient and without autocast, with modules inside."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.drop = nn.Linear(4, 4), nn.Linear(4, 3), nn.Dropout(0.4)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            centre = self.drop(self.first(x)).mean(0)
        with torch.autocast("cpu", enabled=False):
            hidden = self.first(x).tanh()
        return self.second(self.drop(hidden - centre))


def convolutional() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Identity(), nn.MaxPool2d(2), nn.Dropout(0.3)),
        *(nn.Flatten(), nn.Linear(36, 5)),
    )


def weighed_loss(model: nn.Module, x: Tensor, y: Tensor, *, smoothing: float, decay: float) -> tuple[Tensor, Tensor]:
    """A sum and its count, with a penalty on the weights and settings by keyword."""
    each = functional.cross_entropy(model(x), y, reduction="none", label_smoothing=smoothing)
    kept = y != 0
    penalty = decay * sum(parameter.square().sum() for parameter in model.parameters())
    return each[kept].sum() + penalty, kept.sum()


def of_network(model: nn.Module, *tensors: Tensor) -> Any:
    return model(*tensors)


def number(found: Any) -> Tensor:
    """A scalar that depends on every entry of what was returned."""
    if isinstance(found, tuple):
        return found[0] / found[1]
    output = found["logits"] if isinstance(found, dict) else found
    return output.sin().sum()


def images() -> list[Tensor]:
    return [torch.randn(6, 3, 8, 8), torch.tensor([0, 1, 2, 3, 4, 1])]


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], list[Tensor]], Callable[..., Any]]] = {
    "transformer": (Transformer, lambda: [torch.randint(0, 32, (6, 5))], of_network),
    "convolutional": (convolutional, lambda: images()[:1], of_network),
    "recurrent": (Recurrent, lambda: [torch.randn(6, 5, 4)], of_network),
    "encoder": (Encoder, lambda: [torch.randn(6, 5, 8)], of_network),
    "twice": (Twice, lambda: [torch.randn(6, 4)], of_network),
    "regions": (Regions, lambda: [torch.randn(6, 4)], of_network),
    "loss": (convolutional, images, partial(weighed_loss, smoothing=0.1, decay=0.01)),
}
ROUNDING = 1e-6
"""Relative gap of products, whose sums run in another order; gradients have none."""
MODES: tuple[Mode, ...] = ("eval", "auto", "train")


@dataclass
class Pair:
    """A network and what was built from its graphs."""

    live: nn.Module
    built: nn.Module
    program: Program
    tensors: list[Tensor]
    call: Callable[..., Any]
    fixed: Mapping[str, str]
    build: Callable[[], tuple[nn.Module, Program]]

    def again(self) -> "Pair":
        """The same, with tensors of its own."""
        return replace(
            self, **dict(zip(("built", "program"), self.build(), strict=True)), live=copy.deepcopy(self.live)
        )

    def evaluated(
        self, which: nn.Module, tensors: Sequence[Tensor], mode: Mode, *, seed: int = 7
    ) -> tuple[Tensor, dict[str, Tensor | None]]:
        """The number and its gradients by name."""
        with Conditions(which).comparable(mode, seed):
            if which is self.live or self.call is of_network:
                found = number(self.call(which, *tensors))
            else:
                found = number(self.program.run(tensors, {}))
            names, weights = zip(*which.named_parameters(), strict=True)
            gradients = torch.autograd.grad(found, weights, allow_unused=True)
        return found.detach(), dict(zip(names, gradients, strict=True))


def exported(name: str, folder: Path) -> Pair:
    torch.manual_seed(3)
    make, data, call = CASES[name]
    live, tensors = make(), data()
    conditions = Conditions(live)
    modes = [mode for mode in MODES if mode != "auto" or conditions.batch_norms or conditions.recurrent]
    graphs, constants, fixed = {}, {}, {}
    for mode in modes:
        with conditions.steady(mode):
            found = export(live, call, tensors)
        graphs[mode] = read_graph(json.loads(json.dumps(found.graph)), "the graph")
        constants |= found.constants
        fixed[mode] = found.fixed
    described = json.loads(json.dumps(describe_network(live)))
    weights = {key: value.clone() for key, value in live.state_dict().items() if key not in described["ties"]}
    save_file(weights, folder / "w.safetensors")
    shapes = [tuple(tensor.shape[1:]) for tensor in tensors]
    buffers = {key: value.clone() for key, value in live.named_buffers()}

    def build() -> tuple[nn.Module, Program]:
        program = Program(graphs, torch.float32, constants, aliases=described["ties"], inputs=shapes)
        built = build_network(described, program, buffers, "the network")
        load_weights(built, open_checkpoint(str(folder / "w.safetensors")))
        return built, program

    return Pair(live, *build(), tensors, call, fixed, build)


@pytest.fixture(scope="module")
def pair_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pair]:
    """Makes each pair once."""
    made: dict[str, Pair] = {}

    def get(name: str) -> Pair:
        if name not in made:
            made[name] = exported(name, tmp_path_factory.mktemp("pair"))
        return made[name]

    return get


def require_equal(first: tuple[Tensor, dict[str, Any]], second: tuple[Tensor, dict[str, Any]]) -> None:
    assert torch.equal(first[0], second[0])
    assert list(first[1]) == list(second[1])
    for name, gradient in first[1].items():
        other = second[1][name]
        assert (gradient is None) == (other is None), name
        assert gradient is None or torch.equal(gradient, other), name


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradients_are_those_of_the_network_bit_for_bit(
    pair_of: Callable[[str], Pair], name: str, mode: Mode
) -> None:
    pair = pair_of(name)
    for rows in (6, 2, 5):
        tensors = [tensor[:rows] for tensor in pair.tensors]
        require_equal(*(pair.evaluated(each, tensors, mode) for each in (pair.live, pair.built)))


@pytest.mark.parametrize("name", CASES)
def test_a_graph_holds_for_any_number_of_rows(pair_of: Callable[[str], Pair], name: str) -> None:
    pair = pair_of(name)
    assert not any(pair.fixed.values())
    for rows in (1, 12):  # of one row, and of more than the graph was made with
        tensors = [torch.cat([tensor, tensor])[-rows:] for tensor in pair.tensors]
        require_equal(*(pair.evaluated(each, tensors, "eval") for each in (pair.live, pair.built)))


@pytest.mark.parametrize("name", ["transformer", "convolutional", "recurrent", "encoder", "twice", "regions"])
def test_random_numbers_follow_the_seed(pair_of: Callable[[str], Pair], name: str) -> None:
    pair = pair_of(name)
    losses = []
    for seed in (1, 2):
        found = [pair.evaluated(each, pair.tensors, "train", seed=seed) for each in (pair.live, pair.built)]
        require_equal(*found)
        losses.append(float(found[0][0]))
    assert losses[0] != losses[1]


@pytest.mark.parametrize("name", ["transformer", "convolutional", "recurrent", "encoder", "regions", "loss"])
def test_in_float64_too(pair_of: Callable[[str], Pair], name: str) -> None:
    pair = pair_of(name).again()
    converted(pair.live, torch.float64)
    converted(pair.built, torch.float64)
    wide = [tensor.double() if tensor.is_floating_point() else tensor for tensor in pair.tensors]
    for mode in MODES:
        found = [pair.evaluated(each, wide, mode) for each in (pair.live, pair.built)]
        assert found[1][0].dtype == torch.float64
        require_equal(*found)


def test_running_statistics_move_as_the_network_moves_them(pair_of: Callable[[str], Pair]) -> None:
    pair = pair_of("convolutional").again()
    before = pair.live[1].running_mean.clone()
    for network in (pair.live, pair.built):
        network.train()
        network(*pair.tensors)
    assert not torch.equal(before, pair.live[1].running_mean)
    for (name, live), (_, built) in zip(pair.live.named_buffers(), pair.built.named_buffers(), strict=True):
        assert torch.equal(live, built), name


def test_outputs_keep_their_arrangement(pair_of: Callable[[str], Pair]) -> None:
    pair = pair_of("transformer")
    found = pair.built.eval()(*pair.tensors)
    assert list(found) == ["logits", "other", "none"]
    assert (found["other"], found["none"]) == (3, None)


def test_hooks_see_what_the_network_shows_them(pair_of: Callable[[str], Pair]) -> None:
    """Each module is called with the tensors that it is called with live, in the same order."""
    pair = pair_of("transformer")

    def note(calls: list[tuple[str, Tensor]], name: str, _module: nn.Module, given: Any, _result: Any) -> None:
        calls.append((name, given[0].clone()))

    seen: list[list[tuple[str, Tensor]]] = []
    for network in (pair.live, pair.built):
        network.eval()
        calls: list[tuple[str, Tensor]] = []
        hooks = [
            module.register_forward_hook(partial(note, calls, name)) for name, module in network.named_modules() if name
        ]
        network(*pair.tensors)
        for hook in hooks:
            hook.remove()
        seen.append(calls)
    assert [name for name, _ in seen[0]] == [name for name, _ in seen[1]]
    assert all(torch.equal(first, second) for (_, first), (_, second) in zip(*seen, strict=True))


@pytest.mark.parametrize(("name", "mode"), [("encoder", "eval"), ("convolutional", "train"), ("recurrent", "auto")])
def test_curvature_products_are_those_of_the_network(pair_of: Callable[[str], Pair], name: str, mode: Mode) -> None:
    pair = pair_of(name)
    batch = as_batch({"x": pair.tensors[0], "y": torch.tensor([0, 1, 2, 2, 1, 0])}, "test data")
    products = []
    for network in (pair.live, pair.built):
        problem = Problem(network, resolve_loss("cross-entropy", network, batch), batch, mode=mode)
        space = WeightSpace(problem.receiving)
        vector = torch.linspace(-1, 1, sum(weight.numel() for weight in space.weights), dtype=torch.float64)
        for operator in (hessian, gauss_newton):
            with operator(problem, space) as product:
                products.append(product(vector))
    for live, built in zip(products[:2], products[2:], strict=True):
        assert (live - built).norm() <= ROUNDING * live.norm() > 0


def test_a_graph_with_a_size_from_the_rows_alone_is_fixed() -> None:
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([self.layer(x[row]) for row in range(x.shape[0])]).sum()

    found = export(Loop().eval(), of_network, [torch.randn(3, 2)])
    assert found.fixed


def test_a_choice_by_values_is_refused() -> None:
    class Choice(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if x.sum() > 0 else x

    with pytest.raises(NotExportable, match=r"torch\.export cannot make a graph") as raised:
        export(Choice(2, 2), of_network, [torch.randn(3, 2)])
    assert isinstance(raised.value, MismatchError)


def test_an_operator_outside_of_the_list_is_refused() -> None:
    class Odd(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return torch.special.airy_ai(super().forward(x))

    with pytest.raises(NotExportable, match="special_airy_ai"):
        export(Odd(2, 2), of_network, [torch.randn(3, 2)])
