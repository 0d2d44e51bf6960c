import weakref
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.errors import MismatchError, ResourceError
from fromage_cli.problem.conditions.budget import Budget
from fromage_cli.problem.conditions.evaluation import Mode
from fromage_cli.problem.data.batches import as_batch
from fromage_cli.problem.evaluation import problem as problem_module
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.losses.reported_losses import OutputLoss
from fromage_cli.problem.networks.layers import TrainableTensor
from fromage_cli.problem.networks.weights import load_weights, weight_reader

Maker = Callable[..., Problem]


def plain_gradients(model: nn.Module, data: dict[str, torch.Tensor]) -> tuple[float, dict[str, torch.Tensor]]:
    loss = nn.functional.cross_entropy(model(data["x"]), data["y"])
    names, parameters = zip(*model.named_parameters(), strict=True)
    return float(loss.detach()), dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


def test_base_is_the_loss_and_gradient_that_autograd_gives(
    make_problem: Maker, perceptron: nn.Module, classification: dict[str, torch.Tensor]
) -> None:
    loss, gradients = plain_gradients(perceptron, classification)
    base = make_problem(perceptron, classification).base
    assert base.loss == pytest.approx(loss, rel=1e-6)
    assert list(base.gradients) == list(gradients)
    for name, gradient in gradients.items():
        torch.testing.assert_close(base.gradients[name], gradient)


def test_base_is_computed_once(
    make_problem: Maker, perceptron: nn.Module, classification: dict[str, torch.Tensor]
) -> None:
    problem = make_problem(perceptron, classification)
    assert problem.base is problem.base
    assert problem.evaluations.gradients == 1


def test_gradients_left_on_the_model_are_not_added_to(
    make_problem: Maker, perceptron: nn.Module, classification: dict[str, torch.Tensor]
) -> None:
    _, gradients = plain_gradients(perceptron, classification)
    for parameter in perceptron.parameters():
        parameter.grad = torch.full_like(parameter, 1e3)
    problem = make_problem(perceptron, classification)
    torch.testing.assert_close(problem.base.gradients["0.weight"], gradients["0.weight"])
    assert all(parameter.grad is None for parameter in perceptron.parameters())


def test_a_visited_gradient_is_freed_before_the_next_arrives(
    make_problem: Maker, perceptron: nn.Module, classification: dict[str, torch.Tensor]
) -> None:
    problem = make_problem(perceptron, classification)
    held: list[int] = []
    problem.visit_gradient(lambda *_: held.append(sum(p.grad is not None for p in perceptron.parameters())))
    assert held == [0] * 6


@pytest.mark.parametrize("small", [0, 1 << 18], ids=["with hooks", "without"])
@pytest.mark.parametrize("micro_batch", [None, 8])
def test_passes_in_a_row_hand_over_the_same_gradients_and_leave_nothing(
    make_problem: Maker,
    perceptron: nn.Module,
    classification: dict[str, torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
    small: int,
    micro_batch: int | None,
) -> None:
    monkeypatch.setattr(problem_module, "SMALL", small)
    problem = make_problem(perceptron, classification, micro_batch=micro_batch)
    exact = problem.base.gradients
    with problem.steady(), problem.steady():  # the inner one changes nothing
        for _ in range(2):
            seen: dict[str, torch.Tensor] = {}
            problem.visit_gradient(lambda tensor, gradient, seen=seen: seen.__setitem__(tensor.name, gradient.clone()))
            assert all(torch.equal(seen[name], gradient) for name, gradient in exact.items())
    assert not any(parameter._post_accumulate_grad_hooks for parameter in perceptron.parameters())
    assert all(parameter.grad is None for parameter in perceptron.parameters())


@pytest.mark.parametrize("size", [1, 5, 32, 100])
def test_chunks_give_the_gradient_of_the_whole(
    make_problem: Maker, perceptron: nn.Module, classification: dict[str, torch.Tensor], size: int
) -> None:
    classification["y"][:7] = -100
    whole = make_problem(perceptron, classification).base
    problem = make_problem(perceptron, classification, micro_batch=size)
    assert problem.base.loss == pytest.approx(whole.loss, rel=1e-5)
    for name, gradient in whole.gradients.items():
        torch.testing.assert_close(problem.base.gradients[name], gradient, rtol=1e-5, atol=1e-7)
    assert problem.evaluations.gradients == 1
    seen: dict[str, torch.Tensor] = {}
    problem.visit_gradient(lambda tensor, gradient: seen.__setitem__(tensor.name, gradient.clone()))
    for name, gradient in whole.gradients.items():
        torch.testing.assert_close(seen[name], gradient, rtol=1e-5, atol=1e-7)


def test_frozen_and_unused_parameters_are_listed(make_problem: Maker, classification: dict[str, torch.Tensor]) -> None:
    class Partial(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused, self.frozen = nn.Linear(8, 3), nn.Linear(8, 3), nn.Linear(3, 3)
            self.frozen.requires_grad_(False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.frozen(self.used(x))

    problem = make_problem(Partial(), classification)
    assert [layer.name for layer in problem.layers] == ["used.weight"]
    assert problem.unused == ["unused.weight", "unused.bias"]
    assert problem.frozen == ["frozen.weight", "frozen.bias"]


def test_tied_weights_receive_the_sum_of_their_gradients_once(make_problem: Maker) -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 4, bias=False)
            self.second = nn.Linear(4, 4, bias=False)
            self.second.weight = self.first.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(torch.tanh(self.first(x)))

    torch.manual_seed(0)
    model, x, y = Shared().double(), torch.randn(6, 4).double(), torch.randn(6, 4).double()
    problem = make_problem(model, {"x": x, "y": y})
    (name,) = problem.base.gradients
    assert name == "first.weight"
    size, weight = 1e-6, model.first.weight.data
    weight[1, 2] += size
    above = problem.value()
    weight[1, 2] -= 2 * size
    below = problem.value()
    weight[1, 2] += size
    assert float(problem.base.gradients[name][1, 2]) == pytest.approx((above - below) / (2 * size), rel=1e-6)


@pytest.mark.parametrize("steadily", [False, True])
def test_gradients_that_arrive_in_parts_are_handed_over_whole(
    make_problem: Maker, classification: dict[str, torch.Tensor], steadily: bool
) -> None:
    """Re-entrant activation checkpointing accumulates a weight used twice in two parts."""

    class Recomputed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.output = nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x + 0 * self.output.weight.sum()
            for _ in range(2):
                x = checkpoint(lambda value: torch.tanh(self.inner(value)), x, use_reentrant=True)
            return self.output(x)

    torch.manual_seed(0)
    problem = make_problem(Recomputed(), classification)
    with problem.steady() if steadily else nullcontext():
        base = problem.base
    seen: dict[str, torch.Tensor] = {}
    problem.visit_gradient(lambda tensor, gradient: seen.__setitem__(tensor.name, gradient.clone()))
    assert problem.deferred == {"inner.weight", "inner.bias"}
    for name, gradient in base.gradients.items():
        torch.testing.assert_close(seen[name], gradient)


@pytest.mark.parametrize("interruption", [RuntimeError, KeyboardInterrupt])
def test_weights_are_bit_identical_however_the_block_ends(
    make_problem: Maker,
    perceptron: nn.Module,
    classification: dict[str, torch.Tensor],
    interruption: type[BaseException],
) -> None:
    problem = make_problem(perceptron, classification)
    before = {name: value.clone() for name, value in perceptron.state_dict().items()}
    with pytest.raises(interruption), problem.displaced(problem.trainable) as origin:
        for tensor in problem.trainable:
            tensor.parameter.data.copy_(origin[tensor.name] * 1.1 + 3)
        raise interruption
    assert all(torch.equal(value, before[name]) for name, value in perceptron.state_dict().items())


class Remembers(nn.Module):
    state: torch.Tensor | float = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = (x @ self.weight).exp() + self.state
        Remembers.state = found
        return found.sum()


def test_a_graph_that_outlives_its_evaluation_is_explained(make_problem: Maker) -> None:
    problem = make_problem(Remembers(), {"x": torch.ones(2, 1)}, "output")
    _ = problem.base
    with pytest.raises(MismatchError, match="RuntimeError while computing the gradient"):
        problem.visit_gradient(lambda *_: None)


def test_a_limit_that_the_visitor_reaches_is_not_taken_for_an_error_of_the_model(
    make_problem: Maker, perceptron: nn.Module, classification: dict[str, torch.Tensor]
) -> None:
    problem = make_problem(perceptron, classification)

    def fails(*_: object) -> None:
        raise ResourceError("enough")

    with pytest.raises(ResourceError, match="enough"):
        problem.visit_gradient(fails)


@pytest.mark.parametrize("micro_batch", [None, 8])
def test_a_batch_without_any_target_is_refused(
    make_problem: Maker, perceptron: nn.Module, classification: dict[str, torch.Tensor], micro_batch: int | None
) -> None:
    problem = make_problem(perceptron, classification)
    problem.micro_batch = micro_batch
    classification["y"].fill_(-100)
    problem.batch = as_batch(classification, "test data")
    with pytest.raises(MismatchError, match="Every target of the batch is ignored"):
        _ = problem.base


def test_a_model_without_trainable_tensors_is_refused(make_problem: Maker) -> None:
    with pytest.raises(MismatchError, match="no trainable tensor"):
        make_problem(nn.Linear(2, 2).requires_grad_(False), {"x": torch.ones(2, 2), "y": torch.ones(2, 2)})


def test_limits_are_looked_at_before_every_evaluation(
    make_problem: Maker, perceptron: nn.Module, classification: dict[str, torch.Tensor]
) -> None:
    late = make_problem(perceptron, classification, budget=Budget(seconds=0.0))
    with pytest.raises(ResourceError, match="time limit"):
        _ = late.base
    large = make_problem(perceptron, classification, budget=Budget(memory=1))
    with pytest.raises(ResourceError, match="memory limit"):
        large.value()


def test_autocast_leaves_weights_and_gradients_in_their_precision(
    make_problem: Maker, perceptron: nn.Module, classification: dict[str, torch.Tensor]
) -> None:
    exact = make_problem(perceptron, classification).base
    rough = make_problem(perceptron, classification, autocast=True).base
    assert rough.gradients["0.weight"].dtype == torch.float32
    assert rough.loss != exact.loss
    assert rough.loss == pytest.approx(exact.loss, rel=0.02)


def test_weights_can_be_read_from_the_checkpoint_again(
    make_problem: Maker, perceptron: nn.Module, classification: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    torch.save({"net." + name: value.half() for name, value in perceptron.state_dict().items()}, tmp_path / "c.pt")
    checkpoint = open_checkpoint(tmp_path / "c.pt")
    load_weights(perceptron, checkpoint)
    before = {name: value.clone() for name, value in perceptron.state_dict().items()}
    problem = make_problem(perceptron, classification, saved=weight_reader(perceptron, checkpoint))
    with problem.displaced(problem.trainable) as origin:
        assert set(origin) == set(before)
        assert len(origin) == 6
        for tensor in problem.trainable:
            tensor.parameter.data.mul_(2)
            assert torch.equal(origin[tensor.name], before[tensor.name])
    assert all(torch.equal(value, before[name]) for name, value in perceptron.state_dict().items())


def test_base_gradients_that_are_released_are_gone_and_computed_again_when_asked_for(
    make_problem: Maker, perceptron: nn.Module, classification: dict[str, torch.Tensor]
) -> None:
    problem = make_problem(perceptron, classification)
    base, names = problem.base, [tensor.name for tensor in problem.receiving]
    before = {name: gradient.clone() for name, gradient in base.gradients.items()}
    held = weakref.ref(base.gradients["0.weight"])
    with problem.base_gradients_released():
        assert held() is None
        assert problem.base.loss == base.loss
        assert [tensor.name for tensor in problem.receiving] == names
        assert problem.evaluations.gradients == 1
    assert problem.base.loss == base.loss
    assert all(torch.equal(problem.base.gradients[name], gradient) for name, gradient in before.items())
    assert problem.evaluations.gradients == 2


@pytest.mark.parametrize(("mode", "shared"), [("auto", True), ("train", True), ("eval", False)])
def test_rows_share_batch_statistics_where_a_module_normalises_by_them(
    make_problem: Maker, mode: Mode, shared: bool
) -> None:
    data = {"x": torch.randn(6, 4), "y": torch.randn(6, 4)}
    assert make_problem(nn.BatchNorm1d(4), data, mode=mode).uses_batch_statistics is shared
    assert not make_problem(nn.Linear(4, 4), data, mode=mode).uses_batch_statistics


class Autoencoder(nn.Module):
    """Draws noise in forward, as a variational autoencoder does; `weight` of 0 draws it for nothing."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.encode, self.decode, self.weight = nn.Linear(8, 4), nn.Linear(4, 8), weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = self.encode(x)
        return ((self.decode(mean + self.weight * torch.randn_like(mean)) - x) ** 2).mean()


def test_a_loss_that_is_one_draw_of_many_is_noticed(classification: dict[str, torch.Tensor]) -> None:
    batch = as_batch({"x": classification["x"]}, "here")
    for weight, noisy in ((1.0, True), (0.0, None)):
        model = Autoencoder(weight)
        problem = Problem(model, OutputLoss(), batch)
        assert problem.noisy is None
        assert problem.draws_noise is bool(noisy) and problem.evaluations.forwards == 1.0
        for further in range(3):
            torch.manual_seed(batch.seed(further))
            assert problem.drawn(further).value() == pytest.approx(float(model(classification["x"]).detach()), rel=1e-6)
    silent = Problem(nn.Sequential(nn.Linear(8, 1), nn.Flatten(0), MeanOutput()), OutputLoss(), batch)
    assert not silent.draws_noise and silent.noisy is None and silent.evaluations.forwards == 0.0


class MeanOutput(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean()


def test_parts_of_a_batch_draw_numbers_of_their_own_and_the_same_every_time(
    classification: dict[str, torch.Tensor],
) -> None:
    model, batch = Autoencoder(), as_batch({"x": classification["x"][:1].repeat(8, 1)}, "here")
    problem = Problem(model, OutputLoss(), batch)
    first, second = (problem.on(batch.rows(start, start + 4)) for start in (0, 4))
    assert first.value() != second.value()
    assert second.value() == second.base.loss


class Drifts(nn.Module):
    """Answers by how often any network of its class was called, from some call on."""

    def __init__(self, change: Callable[[int, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.linear, self.change = nn.Linear(8, 3), change

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        CALLS.append(1)
        return self.linear(self.change(len(CALLS), x))


CALLS: list[int] = []


@pytest.mark.parametrize("late", [2, 4])
def test_a_network_that_drifts_is_noticed(
    make_problem: Maker, classification: dict[str, torch.Tensor], late: int
) -> None:
    CALLS.clear()
    problem = make_problem(Drifts(lambda calls, x: x.mul_(1.0 + (calls > late))), classification)
    with pytest.raises(MismatchError, match="differs between two calls"):
        problem.require_steadiness()
        problem.visit_gradient(lambda *_: None)
        problem.require_steadiness()
    assert len(CALLS) == late + 1


def test_looking_twice_and_once_costs_three_evaluations_and_is_no_gradient(
    make_problem: Maker, perceptron: nn.Module, classification: dict[str, torch.Tensor]
) -> None:
    problem = make_problem(perceptron, classification)
    problem.require_steadiness()
    problem.require_steadiness()
    assert (problem.evaluations.forwards, problem.evaluations.gradients) == (3.0, 0.0)
    assert problem.base.loss == problem.at_first
    assert problem.on(problem.batch.rows(0, 3)).base.loss != problem.at_first  # and is not held against it


def test_a_loss_that_looks_whether_there_is_a_graph_is_that_of_training(
    make_problem: Maker, classification: dict[str, torch.Tensor]
) -> None:
    class Penalised(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(input) * (2.0 if torch.is_grad_enabled() else 1.0)

    problem = make_problem(Penalised(8, 3), classification)
    problem.require_steadiness()
    assert problem.base.loss == problem.at_first == problem.value()


class Residual(nn.Module):
    """u' + u of a network u, by the derivative that torch takes of it; the loss is its mean square."""

    def __init__(self, backward: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.u, self.backward = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1)), backward

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.detach().requires_grad_()
        u = self.u(x)
        if self.backward:
            u.sum().backward(create_graph=True)
            assert x.grad is not None
            return ((x.grad + u) ** 2).mean()
        return ((torch.autograd.grad(u.sum(), x, create_graph=True)[0] + u) ** 2).mean()


@pytest.mark.filterwarnings("ignore:Using backward")
@pytest.mark.parametrize("micro_batch", [None, 5])
@pytest.mark.parametrize("backward", [False, True])
def test_a_loss_that_differentiates_its_input(
    make_problem: Maker, monkeypatch: pytest.MonkeyPatch, backward: bool, micro_batch: int | None
) -> None:
    x = torch.linspace(0, 1, 16)[:, None]
    model = Residual(backward)
    plain = Residual(False)
    loss = plain(x)
    expected = torch.autograd.grad(loss, list(plain.parameters()), materialize_grads=True)
    for small in (1 << 18, 0):  # gradients handed over at the end, and as they appear
        monkeypatch.setattr(problem_module, "SMALL", small)
        problem = make_problem(model, {"x": x}, "output", micro_batch=micro_batch)
        assert problem.value() == pytest.approx(float(loss.detach()), rel=1e-6)
        steadily: list[tuple[TrainableTensor, torch.Tensor]] = []
        with problem.steady():
            problem.visit_gradient(lambda *found, steadily=steadily: steadily.append(found))  # type: ignore[misc]
        for gradients in ({tensor.name: gradient for tensor, gradient in steadily}, problem.base.gradients):
            for (name, _), gradient in zip(model.named_parameters(), expected, strict=True):
                assert torch.allclose(gradients[name], gradient, atol=1e-6), name


def test_noise_is_not_the_rows_themselves_where_both_come_from_one_seed(make_problem: Maker) -> None:
    class Denoises(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return (super().forward(input) * 0.0 + torch.randn_like(input) - input).square().mean()

    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    assert make_problem(Denoises(8, 8), {"x": x}, "output", seed=0).value() > 1.0


@pytest.mark.parametrize(("compiled", "gap", "seen"), [(False, 1e-3, True), (True, 1e-3, False), (True, 0.1, True)])
def test_under_autocast_a_loss_that_sees_the_graph_is_told_from_rounding(
    make_problem: Maker, compiled: bool, gap: float, seen: bool
) -> None:
    """Compiled passes round less often to bfloat16, whose numbers are up to 8e-3 apart."""

    class SeesTheGraph(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(input).float().square().mean() * (1.0 + gap * torch.is_grad_enabled())

    problem = make_problem(SeesTheGraph(4, 4), {"x": torch.ones(6, 4)}, "output", autocast=True, compiled=compiled)
    problem.require_steadiness()
    assert problem.base.loss == pytest.approx(problem.at_first if seen else problem.value() * (1.0 + gap), rel=1e-6)
    assert problem.conditions.differentiates == seen
