import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fromage_cli.problem.conditions.evaluation import Conditions


def dropout_stack(first: float) -> nn.Module:
    return nn.Sequential(nn.Dropout(first), nn.Linear(6, 6, bias=False), nn.Dropout(0.5))


def output(model: nn.Module, mode: str, seed: int = 0) -> torch.Tensor:
    with Conditions(model).comparable(mode, seed), torch.no_grad():  # type: ignore[arg-type]
        return model(torch.ones(4, 6))


def test_training_behaviour_draws_the_same_masks_every_time() -> None:
    torch.manual_seed(0)
    model = dropout_stack(0.5)
    first = output(model, "train")
    torch.manual_seed(99)
    assert torch.equal(first, output(model, "train"))
    assert not torch.equal(first, output(model, "train", seed=1))


def test_a_layer_that_draws_nothing_does_not_shift_later_masks() -> None:
    torch.manual_seed(0)
    model = dropout_stack(0.5)
    masks = []
    for probability in (0.5, 0.0):
        model[0].p = probability
        masks.append(output(model, "train") == 0)
    assert torch.equal(masks[0], masks[1])


def test_functional_dropout_after_a_child_is_not_shifted_either() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.child = nn.Dropout(0.5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.dropout(self.child(x).abs() + 1, 0.5, self.training)

    model = Block()
    masks = []
    for probability in (0.5, 0.0):
        model.child.p = probability
        masks.append(output(model, "train") == 0)
    assert torch.equal(masks[0], masks[1])


def test_a_module_called_twice_draws_two_masks() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop = nn.Dropout(0.5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([self.drop(x), self.drop(x)])

    first, second = output(Twice(), "train").chunk(2)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("mode", ["auto", "eval"])
def test_dropout_is_off_outside_training_behaviour(mode: str) -> None:
    assert torch.equal(output(nn.Dropout(0.5), mode), torch.ones(4, 6))


def test_auto_normalises_by_the_batch_and_eval_by_the_running_statistics() -> None:
    model = nn.BatchNorm1d(6)
    rows = torch.randn(16, 6, generator=torch.Generator().manual_seed(0)) * 3 + 1
    with Conditions(model).comparable("auto", 0), torch.no_grad():
        by_batch = model(rows)
    with Conditions(model).comparable("eval", 0), torch.no_grad():
        by_statistics = model(rows)
    assert by_batch.mean(0).abs().max() < 1e-5
    assert torch.allclose(by_statistics, rows, rtol=1e-4, atol=1e-4)


def test_running_statistics_modes_and_generators_are_left_as_found() -> None:
    model = nn.Sequential(nn.BatchNorm1d(6), nn.Dropout(0.5))
    model[0].eval()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    random_state = torch.get_rng_state()
    output(model, "train")
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    assert [module.training for module in model.modules()] == [True, False, True]
    assert torch.equal(random_state, torch.get_rng_state())
    assert not model[1]._forward_hooks
    assert not model[1]._forward_pre_hooks


def test_a_buffer_that_a_forward_pass_registers_is_taken_away_again() -> None:
    class Lazy(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if not hasattr(self, "calls"):
                self.register_buffer("calls", torch.zeros(()))
            self.calls += 1
            return x * self.calls

    model, x = Lazy(), torch.ones(2)
    for _ in range(4):
        with Conditions(model).comparable("auto", 0), torch.no_grad():
            assert torch.equal(model(x), x)
    assert not hasattr(model, "calls")


def test_losses_may_draw_from_numpy_and_python() -> None:
    class Noisy(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + float(np.random.randn()) + random.random()

    np.random.seed(3)
    random.seed(3)
    expected = np.random.randn(), random.random()
    np.random.seed(3)
    random.seed(3)
    assert torch.equal(output(Noisy(), "auto"), output(Noisy(), "auto"))
    assert (np.random.randn(), random.random()) == expected


def test_a_buffer_that_is_replaced_is_put_back() -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls = self.calls + 1
            return x

    model = Counter()
    buffer = model.calls
    output(model, "auto")
    assert model.calls is buffer
    assert float(buffer) == 0


@pytest.mark.parametrize("mode", ["auto", "train", "eval"])
def test_scripted_modules_behave_as_what_they_were_scripted_from(mode: str) -> None:
    plain = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)).eval()
    scripted = torch.jit.script(plain)
    assert torch.equal(output(plain, mode), output(scripted, mode))
    assert torch.equal(scripted.state_dict()["1.running_mean"], torch.zeros(4))
    assert not any(module.training for module in scripted.modules())


def test_masks_of_scripted_dropout_are_the_same_every_time() -> None:
    scripted = torch.jit.script(dropout_stack(0.5))
    assert torch.equal(output(scripted, "train"), output(scripted, "train"))


def test_the_power_iteration_of_spectral_norm_does_not_advance() -> None:
    torch.manual_seed(0)
    model = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 6))
    assert torch.equal(output(model, "train"), output(model, "train"))


def test_everything_is_put_back_when_the_block_raises() -> None:
    model = nn.Sequential(nn.BatchNorm1d(6), nn.Dropout(0.5)).eval()
    with pytest.raises(KeyboardInterrupt), Conditions(model).comparable("train", 0):
        model(torch.randn(4, 6))
        raise KeyboardInterrupt
    assert float(model[0].num_batches_tracked) == 0
    assert not any(module.training for module in model.modules())


def test_recurrent_dropout_is_off_in_auto_and_back_afterwards() -> None:
    model = nn.LSTM(6, 5, num_layers=2, dropout=0.5)
    with Conditions(model).comparable("auto", 0):
        assert model.dropout == 0.0
    assert model.dropout == 0.5


@pytest.mark.parametrize("reentrant", [True, False])
def test_blocks_recomputed_in_the_backward_pass_draw_the_same_masks(reentrant: bool) -> None:
    class Recomputed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(6, 6)
            self.block = nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5), nn.Tanh())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.utils.checkpoint.checkpoint(self.block, self.first(x), use_reentrant=reentrant).square().sum()

    torch.manual_seed(0)
    model, x = Recomputed().double(), torch.randn(8, 6, dtype=torch.float64)
    with Conditions(model).comparable("train", 0):
        model(x).backward()
    weight, step = model.block[0].weight, 1e-6
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            weight[2, 3] += sign * step
            with Conditions(model).comparable("train", 0):
                values.append(float(model(x)))
            weight[2, 3] -= sign * step
    assert float(weight.grad[2, 3]) == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-6)


def test_modes_and_generators_that_are_held_are_set_once_and_put_back_at_the_end() -> None:
    class Counts(nn.Sequential):
        calls = 0

        def train(self, mode: bool = True) -> nn.Module:
            type(self).calls += 1
            return super().train(mode)

    model = Counts(nn.BatchNorm1d(6), nn.Dropout(0.5))
    model.eval()
    random_state, python_state, numpy_state = torch.get_rng_state(), random.getstate(), np.random.get_state()[1]
    expected = output(model, "train")
    Counts.calls = 0
    conditions = Conditions(model)
    with conditions.steady("train"):
        for _ in range(3):
            with conditions.comparable("train", 0, generators_kept=True), torch.no_grad():
                assert torch.equal(model(torch.ones(4, 6)), expected)
        assert [module.training for module in model.modules()] == [True] * 3
    assert Counts.calls == 1
    assert [module.training for module in model.modules()] == [False] * 3
    assert torch.equal(torch.get_rng_state(), random_state)
    assert random.getstate() == python_state
    assert np.array_equal(np.random.get_state()[1], numpy_state)


def test_a_mode_that_the_model_changes_itself_is_set_again() -> None:
    class Wanders(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop = nn.Dropout(0.5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            mixed = self.drop(x)
            self.train(not self.training)
            return mixed

    model = Wanders()
    conditions = Conditions(model)
    with conditions.steady("eval"):
        for _ in range(2):
            with conditions.comparable("eval", 0, generators_kept=True):
                assert torch.equal(model(torch.ones(4, 6)), torch.ones(4, 6))
    assert model.training
    assert model.drop.training


class Draws(nn.Module):
    def __init__(self, draw: Callable[[], object]) -> None:
        super().__init__()
        self.inner, self.draw = nn.Identity(), draw

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.draw()
        return self.inner(x)


@pytest.mark.parametrize("mode", ["auto", "train"])
@pytest.mark.parametrize(
    "draw", [lambda: torch.rand(()), np.random.rand, random.random, lambda: torch.rand(5).exponential_()]
)
def test_draws_of_every_generator_are_noticed(mode: str, draw: Callable[[], object]) -> None:
    for drawing, drew in ((draw, True), (lambda: None, False)):
        conditions = Conditions(nn.Sequential(Draws(drawing), nn.Tanh()))
        assert conditions.drew is None
        with conditions.comparable(mode, 0):  # type: ignore[arg-type]
            conditions.model(torch.ones(2, 3))
        assert conditions.drew is drew


@pytest.mark.parametrize(("mode", "drew"), [("train", True), ("auto", False), ("eval", False)])
def test_dropout_draws_in_training_behaviour_alone(mode: str, drew: bool) -> None:
    conditions = Conditions(dropout_stack(0.5))
    with conditions.comparable(mode, 0):  # type: ignore[arg-type]
        conditions.model(torch.ones(4, 6))
    assert conditions.drew is drew


def test_nothing_is_compiled() -> None:
    compiled = []

    def backend(graph: Any, inputs: Any) -> Any:
        compiled.append(graph)
        return graph.forward

    class Compiled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.whole, self.inside = torch.compile(nn.Linear(6, 6), backend=backend), nn.Linear(6, 6)
            self.inside.compile(backend=backend)
            self.function = torch.compile(torch.sin, backend=backend)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.as_tensor(self.function(self.inside(self.whole(x))))

    model = Compiled()
    output(model, "auto")
    conditions = Conditions(model)
    with conditions.steady("train"), conditions.comparable("train", 0, generators_kept=True):
        model(torch.ones(4, 6)).sum().backward()
    assert not compiled
    model(torch.ones(4, 6))
    assert compiled
