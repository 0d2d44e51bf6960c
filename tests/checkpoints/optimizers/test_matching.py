"""Which tensors an optimizer moved, where some were frozen."""

from typing import Any

import pytest
import torch
from torch import nn

from fromage_cli.checkpoints import match_parameters
from fromage_cli.checkpoints.optimizers.optimizer_state import together
from fromage_cli.checkpoints.optimizers.saved_optimizer import parse_optimizer
from fromage_cli.errors import MismatchError

Shapes = dict[str, tuple[int, ...]]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4), nn.Linear(4, 2))


def shapes(model: nn.Module) -> Shapes:
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def state_without(model: nn.Module, *frozen: str, named: bool = False, groups: bool = False) -> Any:
    """Of AdamW that was never given the parameters of the frozen modules."""
    moved = [(n, p) for n, p in model.named_parameters() if n not in frozen and n.split(".")[0] not in frozen]
    given: Any = moved if named else [p for _, p in moved]
    if groups:
        given = [
            {"params": [p for _, p in moved if (p.dim() > 1) == matrix], "weight_decay": 0.1 * matrix}
            for matrix in (True, False)
        ]
    optimizer = torch.optim.AdamW(given, lr=1e-3)
    model(torch.randn(3, 5)).square().mean().backward()
    optimizer.step()
    return parse_optimizer(optimizer.state_dict())


@pytest.mark.parametrize("how", [{}, {"named": True}, {"groups": True}])
@pytest.mark.parametrize("frozen", ["0", "2", "4"])
def test_tensors_that_were_frozen_have_no_number(frozen: str, how: dict[str, bool]) -> None:
    model = network()
    numbers = match_parameters(state_without(model, frozen, **how), shapes(model))
    moved = [name for name in shapes(model) if not name.startswith(frozen)]
    assert list(numbers) == moved
    if not how.get("groups"):
        assert list(numbers.values()) == list(range(len(moved)))


def test_of_equal_shapes_a_whole_module_was_frozen() -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3), nn.Linear(3, 4))
    numbers = match_parameters(state_without(model, "1"), shapes(model))
    assert list(numbers) == ["0.weight", "0.bias", "2.weight", "2.bias"]


def test_what_shapes_do_not_tell_is_refused_with_what_to_do() -> None:
    biased = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    plain = nn.Sequential(nn.Linear(5, 5, bias=False), nn.Linear(5, 5, bias=False))
    for model, frozen, words in (
        (
            biased,
            "2",
            "By its shapes, the state lacks 2 of these: '0.bias', '1.weight', '1.bias' …. If they were frozen in",
        ),
        (
            plain,
            "0",
            "By its shapes, the state lacks 1 of these: '0.weight', '1.weight'. If they were frozen in training",
        ),
    ):
        state = state_without(model, frozen)
        with pytest.raises(
            MismatchError, match=r"has [14] parameters, but the model has [26] trainable tensors"
        ) as found:
            match_parameters(state, shapes(model))
        assert (found.value.hint or "").startswith(words)
        assert "give --optimizer-state none" in (found.value.hint or "")
        with pytest.raises(MismatchError) as other:
            match_parameters(state, dict.fromkeys(shapes(model), (7, 7)))
        assert (other.value.hint or "").startswith(
            "The state belongs to another model, or to one with other frozen tensors."
        )


def test_of_two_networks_with_the_same_shapes_in_another_order_the_own_state_is_taken() -> None:
    there, back = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 5)), nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 4))
    states = {}
    for name, model in (("there", there), ("back", back)):
        optimizer = torch.optim.Adam(model.parameters())
        model(torch.randn(3, model[0].in_features)).square().mean().backward()
        optimizer.step()
        states[(name,)] = parse_optimizer(optimizer.state_dict())
    both = together(states)  # type: ignore[arg-type]
    assert both is not None
    for model, first in ((there, 0), (back, 4)):  # numbers of the second are counted on
        assert list(match_parameters(both, shapes(model)).values()) == list(range(first, first + 4))
