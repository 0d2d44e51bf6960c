"""Units that no row switches on: networks whose units are known to be 0 on every row."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fromage_cli.probes.forward_pass.units import ActivationUnits, UnitWatcher


def watched(model: nn.Module, *passes: Tensor) -> tuple[ActivationUnits, ...]:
    watcher = UnitWatcher(model)
    for rows in passes:
        with watcher:
            model(rows)
    return watcher.units


def with_off(layer: Any, units: int) -> Any:
    """The layer with its first units at -100, far below what any row makes up for, and the others on for most rows."""
    with torch.no_grad():
        layer.bias[:units], layer.bias[units:] = -100.0, 1.0
    return layer


class Calls(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def test_units_that_are_off_are_counted_with_their_layer() -> None:
    model = nn.Sequential(with_off(nn.Linear(8, 16), 5), nn.ReLU(), with_off(nn.Linear(16, 4), 4), nn.ReLU())
    rows = torch.randn(64, 8)
    on = (model[0](rows) > 0.0).sum(0)
    assert watched(model, rows) == (
        ActivationUnits("1", "0", 16, 5, 5 / 16, 64, float(on[on > 0].double().median())),
        ActivationUnits("3", "2", 4, 4, 1.0, 64, None),
    )


@pytest.mark.parametrize(
    "activation",
    [
        nn.ReLU(),
        nn.ReLU(inplace=True),
        nn.ReLU6(),
        Calls(functional.relu),
        Calls(functional.relu_),
        Calls(functional.relu6),
        Calls(torch.relu),
        Calls(torch.relu_),
        Calls(lambda x: x.relu()),
        Calls(lambda x: x.relu_()),
        Calls(lambda x: x.clamp(min=0)),
        Calls(lambda x: x.clamp_(0.0)),
        Calls(lambda x: torch.clamp_min(x, 0.0)),
        Calls(lambda x: torch.relu(x).square()),
    ],
)
def test_every_rectifier_is_seen(activation: nn.Module) -> None:
    (found,) = watched(nn.Sequential(with_off(nn.Linear(8, 16), 3), activation), torch.randn(64, 8))
    assert (found.name, found.units, found.dead) == ("1", 16, 3)


@pytest.mark.parametrize(
    "activation",
    [nn.GELU(), nn.SiLU(), nn.LeakyReLU(), nn.Tanh(), nn.Hardtanh(), Calls(lambda x: x.clamp(min=-1.0))],
)
def test_what_has_no_exact_zero_is_none(activation: nn.Module) -> None:
    assert watched(nn.Sequential(with_off(nn.Linear(8, 16), 3), activation), torch.randn(64, 8)) == ()


@pytest.mark.parametrize(
    ("layers", "shape", "values"),
    [
        ([with_off(nn.Conv2d(3, 6, 3), 2)], (4, 3, 8, 8), 4 * 36),
        ([with_off(nn.Conv1d(3, 6, 3), 2)], (4, 3, 8), 4 * 6),
        ([nn.Conv2d(3, 6, 3, bias=False), with_off(nn.BatchNorm2d(6), 2)], (4, 3, 8, 8), 4 * 36),
        ([with_off(nn.Linear(3, 6), 2)], (4, 7, 3), 4 * 7),
        ([with_off(nn.Linear(3, 6), 2)], (4, 6, 3), 4 * 6),
        ([with_off(nn.Linear(3, 6), 2)], (4, 5, 7, 3), 4 * 35),
        ([with_off(nn.Conv1d(3, 6, 3), 2), Calls(lambda x: x.transpose(1, 2))], (4, 3, 9), 4 * 7),
        ([with_off(nn.Conv2d(3, 6, 3, padding=1), 2), nn.MaxPool2d(2)], (4, 3, 8, 8), 4 * 16),
    ],
)
def test_the_units_are_where_the_layer_before_has_them(
    layers: list[nn.Module], shape: tuple[int, ...], values: int
) -> None:
    """Channels stand second in what convolutions and BatchNorm return, features last in what linear layers do."""
    (found,) = watched(nn.Sequential(*layers, nn.ReLU()), torch.randn(shape))
    assert (found.units, found.dead, found.values) == (6, 2, values)


def test_a_unit_is_off_only_where_no_pass_switches_it_on() -> None:
    layer = nn.Linear(4, 4, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(4))
    model, first = nn.Sequential(layer, nn.ReLU()), torch.tensor([[1.0, -1.0, 0.0, -1.0]])
    assert watched(model, first)[0].dead == 3
    assert watched(model, first, torch.tensor([[-1.0, 2.0, 0.0, -1.0]]))[0] == ActivationUnits(
        "1", "0", 4, 2, 0.5, 2, 1.0
    )


def test_an_activation_of_several_layers_counts_for_each() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.relu = with_off(nn.Linear(4, 4), 1), with_off(nn.Linear(4, 4), 2), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(3):
                x = self.relu(self.second(self.relu(self.first(x))))
            return x

    found = watched(Block(), 50.0 * torch.randn(64, 4))
    assert [(one.name, one.after, one.dead, one.values) for one in found] == [
        ("relu", "first", 1, 192),
        ("relu", "second", 2, 192),
    ]


def test_what_is_no_number_counts_as_on_and_what_the_loss_calls_does_not_count() -> None:
    model, watcher = nn.Sequential(nn.Linear(4, 4), nn.ReLU()), UnitWatcher(nn.Sequential())
    (found,) = watched(model, torch.full((8, 4), torch.nan))
    assert found.dead == 0
    with watcher:
        torch.relu(torch.randn(3, 3))
    assert watcher.units == ()


def test_a_module_that_fails_within_another_leaves_the_names_right() -> None:
    class Fails(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError

    class Tries(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Fails()

        def forward(self, x: Tensor) -> Tensor:
            try:
                return self.inner(x)  # type: ignore[no-any-return]
            except ValueError:
                return x

    (found,) = watched(nn.Sequential(Tries(), nn.ReLU()), torch.randn(8, 4))
    assert found.name == "1"


def test_the_activation_inside_a_transformer_layer_is_seen() -> None:
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    with_off(model.linear1, 7)
    with torch.no_grad():
        (found,) = watched(model, torch.randn(4, 5, 8))
    assert (found.name, found.after, found.units, found.dead) == ("", "linear1", 16, 7)


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel])
def test_a_wrapped_network_has_the_names_of_its_weights(wrap: Callable[[nn.Module], Any]) -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.relu = with_off(nn.Linear(8, 16), 3), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.relu(torch.relu(self.layer(x)) - 1.0)  # type: ignore[no-any-return]

    with torch.compiler.set_stance("force_eager"):
        first, second = watched(wrap(Functional()), torch.randn(64, 8))
    assert (first.name, first.after, first.dead) == ("", "layer", 3)
    assert (second.name, second.after) == ("relu", "layer")


def test_no_hook_stays() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    watched(model, torch.randn(3, 4))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
