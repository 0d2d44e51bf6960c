"""Matches without an order against the networks that the state belongs to."""

from typing import Any

import pytest
import torch
from torch import nn

from fromage_cli.checkpoints.optimizers.certain_matching import certain_numbers, differ_in_numbers, numbers_in
from fromage_cli.checkpoints.optimizers.saved_optimizer import parse_optimizer


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.output = (nn.Linear(width, width) for _ in range(3))
        self.up, self.down = nn.Linear(width, 3 * width), nn.Linear(3 * width, width)
        self.norm = nn.LayerNorm(width)


class Network(nn.Module):
    def __init__(self, blocks: int = 12, width: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, width)
        self.layers = nn.ModuleList(Block(width) for _ in range(blocks))
        self.head = nn.Linear(width, 5, bias=False)


def state_of(model: nn.Module, *, grouped: bool, **settings: Any) -> tuple[Any, dict[str, int]]:
    """The state without names after a step, and the true number of each tensor."""
    parameters = dict(model.named_parameters())
    decayed = [name for name, value in parameters.items() if value.dim() > 1]
    rest = [name for name in parameters if name not in decayed]
    groups = [(decayed, 0.1), (rest, 0.0)] if grouped else [(list(parameters), 0.1)]
    optimizer = torch.optim.AdamW(
        [{"params": [parameters[name] for name in names], "weight_decay": decay} for names, decay in groups], **settings
    )
    for value in parameters.values():
        value.grad = torch.ones_like(value)
    optimizer.step()
    order = [name for names, _ in groups for name in names]
    return parse_optimizer(optimizer.state_dict()), {name: number for number, name in enumerate(order)}


def sorted_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in sorted(model.named_parameters())}


@pytest.mark.parametrize("grouped", [False, True])
def test_what_is_matched_is_right(grouped: bool) -> None:
    model = Network()
    state, true = state_of(model, grouped=grouped)
    found = certain_numbers(state, sorted_shapes(model))
    assert found == {name: true[name] for name in found}
    expected = {"embedding.weight", "head.weight"}
    expected |= {f"layers.{block}.{kind}" for block in range(12) for kind in ("up.weight", "down.weight", "up.bias")}
    assert set(found) == expected


def test_square_layers_in_a_row_are_told_by_their_numbers() -> None:
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(12)))
    state, true = state_of(model, grouped=False)
    assert certain_numbers(state, sorted_shapes(model)) == true


def test_experts_stand_in_the_order_of_both_numbers() -> None:
    model = nn.ModuleList(nn.ModuleList(nn.Linear(3, 2, bias=False) for _ in range(11)) for _ in range(11))
    state, true = state_of(model, grouped=False)
    assert certain_numbers(state, sorted_shapes(model)) == true


def test_other_tensors_than_the_states_are_not_matched() -> None:
    model = Network(2)
    state, _ = state_of(model, grouped=False)
    assert certain_numbers(state, {name: (*shape, 1) for name, shape in sorted_shapes(model).items()}) == {}
    frozen = {"extra.weight": (3, 3), "layers.2.up.weight": (12, 4), **sorted_shapes(model)}
    found = certain_numbers(state, frozen)
    assert "layers.0.up.weight" not in found and "head.weight" in found


def test_alike_names() -> None:
    assert differ_in_numbers(["h.0.a", "h.10.a"]) and not differ_in_numbers(["h.0.a", "h.0.b"])
    assert not differ_in_numbers(["conv1.weight", "conv2.weight"])
    assert numbers_in("h.10.experts.2.w1") == (10, 2) and numbers_in(f"h.{'9' * 20}.w") == ()
