import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from fromage_cli.checkpoints import TensorEntry, open_checkpoint
from fromage_cli.errors import MismatchError
from fromage_cli.problem.networks.perceptron import build_perceptron
from fromage_cli.problem.networks.weights import load_weights
from fromage_cli.problem.user_code.declared import ACTIVATIONS, Declared


def entries(**shapes: tuple[int, ...]) -> dict[str, TensorEntry]:
    return {name: TensorEntry(name, "float32", shape) for name, shape in shapes.items()}


def rebuilt(folder: Path, source: nn.Module, declared: Declared) -> nn.Module:
    save_file({name: value.contiguous() for name, value in source.state_dict().items()}, folder / "m.safetensors")
    checkpoint = open_checkpoint(folder / "m.safetensors")
    model, _ = build_perceptron(checkpoint.entries, declared)
    assert all(parameter.is_meta for parameter in model.parameters())
    load_weights(model, checkpoint)
    assert {name for name, _ in model.named_parameters()} == {name for name, _ in source.named_parameters()}
    return model


def test_a_sequential_with_more_than_ten_layers(tmp_path: Path) -> None:
    layers = [layer for _ in range(14) for layer in (nn.Linear(6, 6), nn.Tanh())]
    source = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), *layers, nn.Linear(6, 3))
    model, x = rebuilt(tmp_path, source, Declared(activation="tanh")), torch.randn(5, 4)
    assert torch.equal(model(x), source(x))
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in source.named_parameters()]


MODULES = {
    "relu": nn.ReLU(),
    "leaky_relu": nn.LeakyReLU(),
    "tanh": nn.Tanh(),
    "gelu": nn.GELU(),
    "silu": nn.SiLU(),
    "sigmoid": nn.Sigmoid(),
    "elu": nn.ELU(),
    "identity": nn.Identity(),
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(tmp_path: Path, activation: str) -> None:
    source = nn.Sequential(nn.Linear(4, 6), MODULES[activation], nn.Linear(6, 3))
    model, x = rebuilt(tmp_path, source, Declared(activation=activation)), torch.randn(5, 4)
    assert torch.equal(model(x), source(x))


@pytest.mark.parametrize(
    ("norm", "module"), [("layernorm", nn.LayerNorm), ("batchnorm", nn.BatchNorm1d), ("rmsnorm", nn.RMSNorm)]
)
@pytest.mark.parametrize("training", [True, False])
def test_every_norm(tmp_path: Path, norm: str, module: type[nn.Module], training: bool) -> None:
    source = nn.Sequential(
        nn.Linear(4, 6, bias=False), module(6), nn.ReLU(), nn.Linear(6, 6), module(6), nn.ReLU(), nn.Linear(6, 3)
    )
    source(torch.randn(64, 4))  # running statistics that are not those of the beginning
    model, x = rebuilt(tmp_path, source, Declared(activation="relu", norm=norm)).train(training), torch.randn(5, 4)
    assert torch.equal(model(x), source.train(training)(x))


class Residual(nn.Module):
    """x + relu(Wx) in the square layers."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3, self.out = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.fc1(x))
        x = x + functional.relu(self.fc2(x))
        x = x + functional.relu(self.fc3(x))
        return self.out(x)


def test_skip_connections_go_around_square_hidden_layers(tmp_path: Path) -> None:
    source = Residual()
    with torch.no_grad():
        source.out = nn.Linear(6, 5)
    model, x = rebuilt(tmp_path, source, Declared(activation="relu", residual=True)), torch.randn(5, 4)
    assert torch.equal(model(x), source(x))


def test_images_are_flattened_and_copies_stand_alone(tmp_path: Path) -> None:
    source = nn.Sequential(nn.Linear(12, 3), nn.ReLU(), nn.Linear(3, 2))
    model, x = rebuilt(tmp_path, source, Declared(activation="relu")), torch.randn(5, 1, 3, 4)
    assert torch.equal(model(x), source(x.flatten(1)))
    other = copy.deepcopy(model)
    with torch.no_grad():
        next(other.parameters()).zero_()
    assert not torch.equal(other(x), model(x))


@pytest.mark.parametrize(
    ("shapes", "declared", "description"),
    [
        ({"fc.weight": (2, 3)}, Declared(), "perceptron 3-2 (1 weight matrix, no biases)"),
        (
            {"a.0.weight": (4, 3), "a.0.bias": (4,), "a.1.weight": (2, 4)},
            Declared(activation="gelu", residual=True),
            "perceptron 3-4-2 (2 weight matrices, gelu, residual)",
        ),
        (
            {f"layers.{index}.weight": (64 if index < 15 else 10, 64) for index in range(16)},
            Declared(activation="relu"),
            "perceptron 64-64-…-10 (16 weight matrices, relu, no biases)",
        ),
        (
            {"0.weight": (4, 3), "1.weight": (4,), "3.weight": (2, 4)},
            Declared(activation="relu", norm="rmsnorm"),
            "perceptron 3-4-2 (2 weight matrices, relu, rmsnorm, no biases)",
        ),
    ],
)
def test_what_was_inferred_is_said(shapes: dict[str, tuple[int, ...]], declared: Declared, description: str) -> None:
    assert build_perceptron(entries(**shapes), declared)[1] == description


def test_an_activation_that_nobody_declared_is_asked_for() -> None:
    with pytest.raises(MismatchError, match="perceptron 3-4-2, but no file says which activation") as caught:
        build_perceptron(entries(**{"0.weight": (4, 3), "2.weight": (2, 4)}), Declared())
    assert "fromage.toml" in caught.value.hint
    assert "--model" in caught.value.hint


def test_a_name_that_modules_use_themselves_is_refused() -> None:
    with pytest.raises(MismatchError, match="name cannot be used for a module"):
        build_perceptron(entries(**{"forward.weight": (4, 3)}), Declared())
