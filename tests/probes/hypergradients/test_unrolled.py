"""Derivatives through training steps, against differences of a real training loop that goes on from the same state."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.errors import MismatchError, NumericalError, ResourceError
from fromage_cli.intake import open_problem
from fromage_cli.optimizers.settings import Given, find_settings
from fromage_cli.probes.hypergradients import unrolled
from fromage_cli.probes.hypergradients.hyperparameters import Hyperparameter, hyperparameters, values_of
from fromage_cli.probes.hypergradients.training_steps import TrainingSteps
from fromage_cli.probes.hypergradients.unrolled import copies_that_fit, segment_length, unroll
from fromage_cli.probes.hypergradients.validation import Validation
from fromage_cli.probes.optimizer_step.matched_state import match_state
from fromage_cli.problem.conditions.draws import SinglePrecisionDraws
from fromage_cli.problem.conditions.evaluation import Conditions
from fromage_cli.problem.losses.hyperparameters import LABEL_SMOOTHING
from fromage_cli.problem.losses.reported_losses import FunctionLoss
from fromage_cli.terminal.options import BatchOptions, ModelOptions, RunOptions
from tests.probes.hypergradients.plain_training import Probed, Rows, Run, differences, random_rows, saved_run

SAMPLES = Path(__file__).parents[3] / "sample_checkpoints"
EXACT = 1e-6
"""Relative, of a derivative in float64; differences are no more exact where it is below TINY."""
TINY = 1e-9
Wanted = Callable[[Hyperparameter], bool]


def require_derivatives(
    run: Run, probed: Probed, wanted: Wanted = lambda _: True, *, change: float = 1e-3, points: int = 4
) -> None:
    """Every derivative is that of the loop, and so is the loss in the end."""
    count = len(probed.steps.batches)
    found = unroll(probed.steps, probed.validation, probed.values)
    assert found.end_loss == pytest.approx(run.end(count), rel=1e-13)
    compared = 0
    for one in hyperparameters(probed.steps.matched, probed.values):
        if one.place == "dropout" or not wanted(one):
            continue
        slope = one.per_unit(found.at(one.place), probed.values)
        expected = differences(run, count, one, probed.values, change=change, points=points)
        assert slope == pytest.approx(expected, rel=EXACT, abs=TINY), (one.name, one.scope)
        compared += 1
    assert compared


@pytest.mark.parametrize("name", ["sgd", "nesterov", "adam", "adamw", "amsgrad", "fromage", "bounded", "lars"])
def test_ten_steps_of_every_optimizer(name: str) -> None:
    run = saved_run(name)
    probed = run.probed(10)
    scopes = {one.scope for one in hyperparameters(probed.steps.matched, probed.values)}
    assert scopes == {"all", "group:0", "group:1", "0.weight", "0.bias", "2.weight", "2.bias"}
    require_derivatives(run, probed)


def single_or_all(one: Hyperparameter) -> bool:
    return not one.scope.startswith("group")


def by_rate_or_decay(one: Hyperparameter) -> bool:
    return one.place in ("rate", "decay") and not one.scope.startswith("group")


@pytest.mark.parametrize(
    ("name", "wanted", "change"),
    [("nesterov", single_or_all, 1e-4), ("adamw", single_or_all, 2e-5), ("lion", by_rate_or_decay, 1e-5)],
)
@pytest.mark.parametrize("steps", [50, 200])
def test_many_steps_tensor_by_tensor(name: str, wanted: Wanted, steps: int, change: float) -> None:
    """Lion's sign hides what acts through the gradient, so there only the rate and the decay have derivatives."""
    run = saved_run(name)
    require_derivatives(run, run.probed(steps), wanted, change=change, points=2)


def test_every_copy_or_few_copies_give_the_same_bits() -> None:
    probed = saved_run("adamw").probed(23)
    found = [unroll(probed.steps, probed.validation, probed.values, copies=copies) for copies in (None, 10, 1)]
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("name", ["nesterov", "adamw", "adam"])
def test_a_decay_of_zero_has_a_derivative(name: str) -> None:
    run = saved_run(name, weight_decay=0.0)
    require_derivatives(run, run.probed(10), lambda one: one.name == "weight-decay")


def test_before_the_first_step() -> None:
    for name in ("sgd", "amsgrad"):
        run = saved_run(name, trained=0)
        require_derivatives(run, run.probed(5), single_or_all)


def penalised(model: nn.Module, rows: Rows, ridge: float, temperature: float = 1.0) -> Tensor:
    squares = torch.stack([parameter.square().sum() for parameter in model.parameters()]).sum()
    return nn.functional.cross_entropy(model(rows[0]) / temperature, rows[1]) + ridge * squares


@pytest.mark.parametrize("steps", [10, 50, 200])
@pytest.mark.parametrize("name", ["nesterov", "adamw"])
def test_scalars_of_the_users_loss(name: str, steps: int) -> None:
    run = saved_run(name, nn.Linear(5, 3).double())
    run.loss, run.in_loss = penalised, {"ridge": 0.01, "temperature": 1.3}
    probed = run.probed(steps, FunctionLoss("file.py:penalised", penalised, {"ridge": 5.0}))
    require_derivatives(run, probed, lambda one: one.place == "loss", change=3e-4)


class Tied(nn.Module):
    """One matrix in two places, beside a tensor that no loss depends on and a frozen one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.second.weight = self.first.weight
        self.idle = nn.Parameter(torch.ones(4))
        self.frozen = nn.Parameter(torch.ones(5), requires_grad=False)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.head(self.second(self.first(inputs).tanh() * self.frozen).tanh())
        return found


def test_tied_idle_and_frozen_tensors() -> None:
    run = saved_run("adamw", Tied().double())
    probed = run.probed(10)
    assert set(probed.values.rates) == {"first.weight", "first.bias", "second.bias", "head.weight", "head.bias"}
    require_derivatives(run, probed)


class Gated(nn.Module):
    """A branch that only some batches take, so that its tensors receive no gradient in the other steps."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.branch = nn.Linear(5, 3), nn.Linear(5, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.trunk(inputs)
        return found + self.branch(inputs.tanh()) if inputs[0, 0] > 0.0 else found


@pytest.mark.parametrize("name", ["nesterov", "adamw"])
@pytest.mark.parametrize("rows", [None, 8])
def test_a_step_passes_over_what_receives_no_gradient(name: str, rows: int | None) -> None:
    batches = [random_rows(16, seed=seed) for seed in range(4)]
    for inputs, sign in zip((inputs for inputs, _ in batches), (1.0, -1.0, -1.0, 1.0), strict=True):
        inputs[:, 0] = sign * inputs[:, 0].abs()
    run = saved_run(name, Gated().double(), batches=batches)
    require_derivatives(run, run.probed(9, micro_batch=rows), single_or_all)


def test_micro_batches_change_nothing() -> None:
    run = saved_run("adamw")
    require_derivatives(run, run.probed(8, micro_batch=5), single_or_all)


class Normalised(nn.Module):
    """Batch normalisation whose running statistics the validation loss depends on; one layer is called twice a step."""

    def __init__(self, momentum: float | None, *, affine: bool = True) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(5, 6, bias=False), nn.Linear(6, 3)
        self.first = nn.BatchNorm1d(6, momentum=momentum, affine=affine)
        self.between = nn.Linear(6, 6, bias=False)
        self.second = nn.BatchNorm1d(6, momentum=momentum, affine=affine)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.first(self.body(inputs)).tanh()
        found: Tensor = self.head(self.second(self.between(self.second(hidden)).tanh()))
        return found


@pytest.mark.parametrize(("momentum", "affine"), [(0.1, True), (None, True), (0.5, False)])
@pytest.mark.parametrize("name", ["nesterov", "adam"])
def test_running_statistics_are_part_of_the_state(name: str, momentum: float | None, affine: bool) -> None:
    torch.manual_seed(2)
    run = saved_run(name, Normalised(momentum, affine=affine).double())
    require_derivatives(run, run.probed(8), single_or_all)


def test_running_statistics_of_single_rows() -> None:
    torch.manual_seed(2)
    layers = [nn.Unflatten(1, (1, 5)), nn.Conv1d(1, 4, 2), nn.InstanceNorm1d(4, track_running_stats=True, affine=True)]
    run = saved_run("nesterov", nn.Sequential(*layers, nn.Tanh(), nn.Flatten(), nn.Linear(16, 3)).double())
    require_derivatives(run, run.probed(8), single_or_all)


def with_dropout() -> nn.Module:
    torch.manual_seed(3)
    layers = [nn.Linear(5, 9), nn.Tanh(), nn.Dropout(0.2), nn.Linear(9, 9), nn.Tanh(), nn.Dropout(0.4), nn.Linear(9, 3)]
    return nn.Sequential(*layers).double()


def test_every_run_drops_the_same_and_every_step_something_else() -> None:
    run = saved_run("adamw", with_dropout())
    probed = run.probed(8)
    masks: list[list[bool]] = []

    @contextmanager
    def draws(model: nn.Module, step: int) -> Iterator[None]:
        batch = probed.steps.batches[step]
        handle = model[2].register_forward_hook(lambda *call: masks.append((call[2] == 0.0).flatten().tolist()))
        with Conditions(model).comparable("train", batch.seed(step)), SinglePrecisionDraws():
            yield
        handle.remove()

    run.draws = draws
    require_derivatives(run, probed, lambda one: one.scope == "all")
    of_each_run = [masks[first : first + 8] for first in range(0, len(masks), 8)]
    assert all(one == of_each_run[0] for one in of_each_run)
    assert len({tuple(mask) for mask in of_each_run[0]}) == 8
    other = probed.steps.drawn(1, probed.steps.batches[:2])
    assert (other.draw, probed.steps.draw, len(other.batches), len(probed.steps.batches)) == (1, 0, 2, 8)


def test_a_loss_that_is_not_finite_after_the_last_step_is_refused() -> None:
    probed = saved_run("sgd", lr=1e200, weight_decay=1e200, trained=0).probed(1)
    with pytest.raises(NumericalError, match="validation loss is nan after 1 further step"):
        unroll(probed.steps, probed.validation, probed.values)
    with pytest.raises(NumericalError, match="training loss is nan after 1 further step\\."):
        unroll(
            saved_run("sgd", lr=1e200, weight_decay=1e200, trained=0).probed(2).steps, probed.validation, probed.values
        )


@pytest.mark.parametrize(
    ("name", "free", "copies"),
    [
        ("adamw", None, None),
        ("adamw", 10**9, None),
        ("adamw", 200_000, 30),
        ("sgd", 200_000, 30),
        ("fromage", 200_000, None),
    ],
)
def test_how_many_states_fit(monkeypatch: pytest.MonkeyPatch, name: str, free: int | None, copies: int | None) -> None:
    """The network has 66 numbers, 528 bytes; a state of it and two moments has 1.6 kB, and 225 of them have 356 kB."""
    probed = saved_run(name).probed(4)
    probed.steps.batches = probed.steps.batches[:1] * 225
    monkeypatch.setattr(unrolled, "free_memory", lambda *_: free)
    assert copies_that_fit(probed.steps) == copies


def test_steps_that_do_not_fit_are_refused_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    probed = saved_run("adamw").probed(4)
    probed.steps.batches = probed.steps.batches[:1] * 10_000
    monkeypatch.setattr(unrolled, "free_memory", lambda *_: 400_000)
    with pytest.raises(
        ResourceError, match="10000 steps holds 200 states of the run, 0 MB, and 0 MB are free"
    ) as caught:
        copies_that_fit(probed.steps)
    assert "unroll:N" in str(caught.value.hint)


@pytest.mark.parametrize("steps", [1, 2, 9, 10, 99, 100])
def test_a_stretch_is_as_long_as_there_are_stretches(steps: int) -> None:
    length = segment_length(steps)
    assert (length - 1) ** 2 < steps <= length**2


@pytest.mark.parametrize("keep_graphs", [True, False])
def test_steps_without_a_second_derivative_are_refused(tanh_once: nn.Module, keep_graphs: bool) -> None:
    run = saved_run("sgd", nn.Sequential(nn.Linear(5, 7), tanh_once, nn.Linear(7, 3)).double())
    probed = run.probed(3)
    with pytest.raises(MismatchError, match="second derivative"):
        unroll(probed.steps, probed.validation, probed.values, keep_graphs=keep_graphs)


def normalised() -> nn.Module:
    return Normalised(0.1)


@pytest.mark.parametrize("model", [None, Tied, with_dropout, Gated, normalised])
def test_graphs_that_are_kept_change_nothing(model: Callable[[], nn.Module] | None) -> None:
    run = saved_run("adamw", model().double() if model is not None else None)
    probed = run.probed(7)
    kept, other, few = (
        unroll(probed.steps, probed.validation, probed.values, **options)
        for options in ({}, {"keep_graphs": False}, {"copies": 3})
    )
    assert kept == few
    for place in ("rate", "decay", "loss"):
        assert kept.at(place) == pytest.approx(other.at(place), rel=1e-12, abs=1e-15)


def of_char_gpt(dtype: torch.dtype, steps: int) -> dict[str, float]:
    """The derivatives on the sample from its saved AdamW state, by all of each kind."""
    sample = SAMPLES / "char-gpt"
    checkpoint = open_checkpoint(sample / "step-000860.pt")
    intake = open_problem(
        checkpoint,
        ModelOptions(model=f"{SAMPLES / 'models.py'}:char_gpt"),
        BatchOptions(batch=str(sample / "batch.safetensors")),
        RunOptions(dtype="float64" if dtype is torch.float64 else "float32"),
    )
    state = checkpoint.optimizer
    assert state is not None
    problem, optimizer = intake.problem, find_settings(Given(), state.settings, Given())
    whole = problem.batch
    batches = [whole.rows(start, start + 8) for start in range(0, 32, 8)]
    matched = match_state(problem.on(batches[0]), optimizer, state)
    values = values_of(
        matched, optimizer.learning_rate or 0.0, {LABEL_SMOOTHING: 0.1}, [t.name for t in problem.receiving]
    )
    taken = TrainingSteps(matched, [batches[step % 4] for step in range(steps)], values)
    rows = whole.rows(32, 48)
    found = unroll(taken, Validation(problem.on(rows), (rows,)), values)
    asked = [one for one in hyperparameters(matched, values) if one.scope == "all" and one.place != "dropout"]
    return {one.name: one.per_unit(found.at(one.place), values) for one in asked}


def test_single_precision_holds_on_a_transformer() -> None:
    """Fifty steps at its rate of .003; the gap is 5e-6 by decay, 5e-5 by smoothing, 1e-4 by the rate."""
    single, double = (of_char_gpt(dtype, 50) for dtype in (torch.float32, torch.float64))
    assert list(single) == ["weight-decay", "label-smoothing", "learning-rate"]
    assert single == pytest.approx(double, rel=0.01)
