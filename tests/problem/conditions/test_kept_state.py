"""What networks keep between calls: after an evaluation it is what it was, so that every call answers the same."""

import random
from collections import Counter, deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fromage_cli.problem.conditions.evaluation import Conditions


class Keeper(nn.Module):
    """A network that changes what it holds, as `change` says, and answers by what it found."""

    def __init__(self, held: Any, change: Callable[["Keeper"], float]) -> None:
        super().__init__()
        self.held, self.change = held, change

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.change(self)


def take(iterator: list[float] | deque[float]) -> float:
    iterator.append(len(iterator))
    return iterator[-1]


def replaced(model: Keeper) -> float:
    model.held = model.held + 1
    return float(model.held)


def written(model: Keeper) -> float:
    model.held += 1
    return float(model.held[0])


def written_unseen(model: Keeper) -> float:
    model.held.data.add_(1)
    model.held.numpy()[:] += 1
    return float(model.held[0])


def first_time(model: Keeper) -> float:
    model.calls = getattr(model, "calls", 0) + 1
    return float(model.calls)


def in_a_dict(model: Keeper) -> float:
    model.held["calls"] = model.held.get("calls", 0) + 1
    model.held["deeper"][0].add_(1)
    return float(model.held["calls"] + model.held["deeper"][0])


def in_an_object(model: Keeper) -> float:
    model.held.h = (model.held.h[0] + 1,)
    return float(model.held.h[0])


def in_a_set(model: Keeper) -> float:
    model.held.add(len(model.held))
    return float(len(model.held))


def counted(model: Keeper) -> float:
    model.held["seen"] += 1
    return float(model.held["seen"])


def beside(model: Keeper) -> float:
    """In a module that is not registered."""
    model.held[0].running_mean.add_(1)
    return float(model.held[0].running_mean[0])


KEEPERS: dict[str, tuple[Any, Callable[[Keeper], float]]] = {
    "number": (1.0, replaced),
    "tensor replaced": (torch.ones(()), replaced),
    "tensor written": (torch.ones(3), written),
    "integers written": (torch.ones(3, dtype=torch.long), written),
    "view written": (torch.ones(6)[:3], written),
    "memory of numpy": (torch.from_numpy(np.ones(3)), written),
    "written behind torch's back": (torch.ones(3), written_unseen),
    "array written": (np.ones(3), written),
    "list": ([1.0], lambda model: take(model.held)),
    "deque": (deque([1.0], maxlen=3), lambda model: take(model.held)),
    "set": ({7}, in_a_set),
    "dict": ({"deeper": (torch.zeros(()),)}, in_a_dict),
    "counter": (Counter(), counted),
    "object": (SimpleNamespace(h=(torch.zeros(()),)), in_an_object),
    "attribute that is new": (None, first_time),
    "module in a list": ([nn.BatchNorm1d(2)], beside),
    "generator of torch": (torch.Generator().manual_seed(5), lambda m: float(torch.rand((), generator=m.held))),
    "generator of Python": (random.Random(5), lambda model: model.held.random()),
    "generator of numpy": (np.random.default_rng(5), lambda model: model.held.random()),
    "old generator of numpy": (np.random.RandomState(5), lambda model: model.held.rand()),
}


@pytest.mark.parametrize("kind", KEEPERS)
def test_what_a_module_holds_is_put_back(kind: str) -> None:
    model = Keeper(*KEEPERS[kind])
    inner, conditions = nn.ModuleList([model]), Conditions(nn.Sequential(model))
    before = dict(vars(model))
    found = set()
    for _ in range(3):
        with conditions.comparable("auto", 0):
            found.add(float(inner[0](torch.ones(()))))
    assert len(found) == 1
    assert vars(model).keys() == before.keys() and model.held is before["held"]


def test_a_function_that_a_module_made_on_its_first_call_stays() -> None:
    """It may have taken a minute to compile."""
    made = []

    def compiled(x: torch.Tensor) -> torch.Tensor:
        return x

    class Lazy(nn.Module):
        kernel: Any = None

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.kernel is None:
                made.append(1)
                self.kernel = compiled
            return torch.as_tensor(self.kernel(x))

    model = Lazy()
    for _ in range(2):
        with Conditions(model).comparable("auto", 0):
            model(torch.ones(2))
    assert len(made) == 1


GENERATOR = np.random.default_rng(0)


def draws_beside(model: nn.Module, batch: Any) -> float:
    return float(GENERATOR.random())


def test_a_generator_in_the_file_of_the_loss_is_seeded_like_the_global_ones_and_put_back() -> None:
    conditions, state = Conditions(nn.Linear(1, 1), draws_beside), GENERATOR.bit_generator.state
    found = []
    for seed in (0, 0, 1):
        with conditions.comparable("auto", seed):
            found.append(draws_beside(conditions.model, None))
    assert found[0] == found[1] != found[2]
    assert conditions.drew
    assert GENERATOR.bit_generator.state == state


class Criterion(nn.Module):
    """A loss that is a module with a memory."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))
        self.inside = nn.BatchNorm1d(1)

    def forward(self, model: nn.Module, batch: Any) -> torch.Tensor:
        self.seen += 1
        self.inside.running_mean.add_(1)
        return torch.as_tensor(self.seen + self.inside.running_mean.sum())

    def method(self, model: nn.Module, batch: Any) -> torch.Tensor:
        return self(model, batch)


@pytest.mark.parametrize("method", [False, True])
def test_what_a_loss_holds_is_put_back(method: bool) -> None:
    loss = Criterion()
    conditions = Conditions(nn.Linear(1, 1), loss.method if method else loss)
    for _ in range(2):
        with conditions.comparable("auto", 0), torch.no_grad():
            assert float(loss(conditions.model, None)) == 2.0


def test_tensors_are_not_copied_before_they_are_written_into() -> None:
    model = Keeper(torch.ones(5), lambda model: float(model.held.sum()))
    with Conditions(model).comparable("auto", 0):
        model(torch.ones(()))
        assert torch._C._is_cow_tensor(model.held)  # type: ignore[attr-defined]
