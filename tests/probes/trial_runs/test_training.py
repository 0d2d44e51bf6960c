import math
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.errors import MismatchError, ResourceError, UsageError
from fromage_cli.optim import LAMB, LARS, Fromage, Lion
from fromage_cli.optimizers.settings import Given, Optimizer, find_settings
from fromage_cli.probes.optimizer_step.matched_state import MatchedState, match_state
from fromage_cli.probes.trial_runs.training import WholeTensorSteps, training, training_rows
from fromage_cli.problem.conditions.budget import Budget
from fromage_cli.problem.data.batches import as_batch
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.losses.losses import resolve_loss
from fromage_cli.problem.networks.sharding import spread
from fromage_cli.shards import part_as, whole
from tests.forked_ranks import run_ranks

Maker = Callable[..., Problem]
Data = dict[str, torch.Tensor]
SAMPLES = Path(__file__).parents[3] / "sample_checkpoints"
RULES: dict[str, tuple[Any, dict[str, Any]]] = {
    "sgd": (torch.optim.SGD, {}),
    "momentum": (torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.1}),
    "dampening": (torch.optim.SGD, {"momentum": 0.9, "dampening": 0.5}),
    "nesterov": (torch.optim.SGD, {"momentum": 0.8, "nesterov": True}),
    "adam": (torch.optim.Adam, {"betas": (0.8, 0.99), "weight_decay": 0.1}),
    "amsgrad": (torch.optim.Adam, {"amsgrad": True, "eps": 1e-4}),
    "adamw": (torch.optim.AdamW, {"weight_decay": 0.3}),
    "fromage": (Fromage, {}),
    "lars": (LARS, {"momentum": 0.9, "weight_decay": 0.1, "trust_coefficient": 0.1}),
    "lamb": (LAMB, {"weight_decay": 0.1}),
    "lion": (Lion, {"betas": (0.9, 0.99), "weight_decay": 0.1}),
}
NAMES = {"momentum": "sgd", "dampening": "sgd", "nesterov": "sgd", "amsgrad": "adam"}


def by_hand(model: nn.Module, parts: list[Data], optimizer: torch.optim.Optimizer) -> list[float]:
    """Ordinary training; the loss as the problem computes it, in bits too: the sum over the rows / their number."""
    losses = []
    for part in parts:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(part["x"]), part["y"], reduction="sum") / len(part["y"])
        loss.backward()
        losses.append(float(loss.detach()))
        optimizer.step()
    return losses


def cut(data: Data, size: int) -> list[Data]:
    count = len(data["y"])
    return [{name: rows[k : k + size] for name, rows in data.items()} for k in range(0, count - size + 1, size)]


def twin(model: nn.Module) -> nn.Module:
    """Another network with the same weights."""
    torch.manual_seed(1)
    other = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))
    other.load_state_dict(model.state_dict())
    return other


def as_optimizer(kind: str, settings: dict[str, Any]) -> Optimizer:
    return Optimizer(name=NAMES.get(kind, kind), **settings)


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("kind", RULES)
def test_steps_are_those_of_the_optimizer_run_by_hand(
    make_problem: Maker, perceptron: nn.Module, classification: Data, kind: str
) -> None:
    rule, settings = RULES[kind]
    model = twin(perceptron)
    expected = by_hand(model, cut(classification, 8), rule(model.parameters(), lr=0.02, **settings))
    problem = make_problem(perceptron, classification)
    before = weights(perceptron)
    with training(MatchedState(problem, as_optimizer(kind, settings))) as run:
        for _ in range(2):  # the second run starts where the first did
            run.start(0.02)
            losses = [run.step(as_batch(part, "part")) for part in cut(classification, 8)]
            assert losses == expected
            assert same(weights(perceptron), weights(model))
    assert same(weights(perceptron), before)
    assert run.taken == 4 and problem.evaluations.gradients == 1 + 2  # the base, and all rows in each run


def test_muon_moves_matrices_and_names_what_it_leaves(
    make_problem: Maker, perceptron: nn.Module, classification: Data
) -> None:
    model = twin(perceptron)
    matrices = [parameter for parameter in model.parameters() if parameter.dim() == 2]
    rule = torch.optim.Muon(matrices, lr=0.02, weight_decay=0.1, momentum=0.95, nesterov=True)
    expected = by_hand(model, cut(classification, 8), rule)
    muon = Optimizer(name="muon", momentum=0.95, nesterov=True, weight_decay=0.1)
    with training(MatchedState(make_problem(perceptron, classification), muon)) as run:
        run.start(0.02)
        assert [run.step(as_batch(part, "part")) for part in cut(classification, 8)] == expected
        assert same(weights(perceptron), weights(model))


@pytest.mark.parametrize("kind", [kind for kind in RULES if kind not in ("sgd", "fromage")])
def test_training_goes_on_from_a_saved_state_as_if_it_had_never_stopped(
    make_problem: Maker, perceptron: nn.Module, classification: Data, tmp_path: Path, kind: str
) -> None:
    rule, settings = RULES[kind]
    matrices = [parameter for parameter in perceptron.parameters() if parameter.dim() == 2]
    vectors = [parameter for parameter in perceptron.parameters() if parameter.dim() == 1]
    lowered = {"lr": 0.01, **({"weight_decay": 0.0} if "weight_decay" in settings else {})}
    optimizer = rule([{"params": matrices}, {"params": vectors, **lowered}], lr=0.02, **settings)
    parts = cut(classification, 8)
    by_hand(perceptron, parts[:2], optimizer)
    torch.save({"model": perceptron.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "c.pt")
    state = open_checkpoint(tmp_path / "c.pt").optimizer
    assert state is not None
    model, saved = twin(perceptron), torch.load(tmp_path / "c.pt")
    name = NAMES.get(kind, kind)
    found = find_settings(Given(name=name), state.settings, Given())
    with training(match_state(make_problem(perceptron, classification), found, state)) as run:
        run.start(0.02)
        losses = [run.step(as_batch(part, "part")) for part in parts[2:]]
        reached = weights(perceptron)
    matrices = [parameter for parameter in model.parameters() if parameter.dim() == 2]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() == 1]
    following = rule([{"params": matrices}, {"params": vectors}], lr=0.02, **settings)
    following.load_state_dict(saved["optimizer"])
    assert losses == by_hand(model, parts[2:], following)
    assert same(reached, weights(model))


@pytest.mark.parametrize(
    ("rule", "settings", "own"),
    [
        (torch.optim.Muon, {"momentum": 0.9}, None),
        (torch.optim.SGD, {"momentum": 0.9}, {"momentum": 0.5, "nesterov": True}),
        (torch.optim.Adam, {"betas": (0.9, 0.99)}, {"betas": (0.5, 0.9), "eps": 1e-3, "amsgrad": True}),
        (Lion, {"betas": (0.9, 0.99)}, {"betas": (0.6, 0.7)}),
    ],
)
def test_what_an_optimizer_holds_and_what_each_group_has_of_its_own_goes_on(
    make_problem: Maker,
    perceptron: nn.Module,
    classification: Data,
    tmp_path: Path,
    rule: Any,
    settings: dict[str, Any],
    own: dict[str, Any] | None,
) -> None:
    """Muon holds matrices only; elsewhere vectors are a group with settings of its own."""

    def made(model: nn.Module) -> torch.optim.Optimizer:
        matrices, vectors = ([p for p in model.parameters() if p.dim() == size] for size in (2, 1))
        groups = [{"params": matrices}] if own is None else [{"params": matrices}, {"params": vectors, **own}]
        found: torch.optim.Optimizer = rule(groups, lr=0.02, **settings)
        return found

    parts, optimizer = cut(classification, 8), made(perceptron)
    by_hand(perceptron, parts[:2], optimizer)
    torch.save({"model": perceptron.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "c.pt")
    state, model = open_checkpoint(tmp_path / "c.pt").optimizer, twin(perceptron)
    found = find_settings(Given(name=rule.__name__.lower()), state.settings, Given())
    with training(match_state(make_problem(perceptron, classification), found, state)) as run:
        run.start(0.02)
        losses = [run.step(as_batch(part, "part")) for part in parts[2:]]
        reached = weights(perceptron)
    following = made(model)
    following.load_state_dict(torch.load(tmp_path / "c.pt")["optimizer"])
    assert losses == by_hand(model, parts[2:], following)
    assert same(reached, weights(model))


def test_amsgrad_that_was_switched_on_since_starts_from_the_present_moments(
    make_problem: Maker, perceptron: nn.Module, classification: Data, tmp_path: Path
) -> None:
    """Its first step is then that of Adam; a state that lacks more than that is refused."""
    optimizer = torch.optim.Adam(perceptron.parameters(), lr=0.02)
    parts = cut(classification, 8)
    by_hand(perceptron, parts[:2], optimizer)
    saved = optimizer.state_dict()
    saved["param_groups"][0]["amsgrad"] = True
    torch.save({"model": perceptron.state_dict(), "optimizer": saved}, tmp_path / "c.pt")
    state, model = open_checkpoint(tmp_path / "c.pt").optimizer, twin(perceptron)
    with training(
        match_state(make_problem(perceptron, classification), find_settings(Given(), state.settings, Given()), state)
    ) as run:
        run.start(0.02)
        run.step(as_batch(parts[2], "part"))
        reached = weights(perceptron)
    saved["param_groups"][0]["amsgrad"] = False
    following = torch.optim.Adam(model.parameters(), lr=0.02)
    following.load_state_dict(saved)
    by_hand(model, parts[2:3], following)
    assert same(reached, weights(model))
    del saved["state"][0]["exp_avg"]
    torch.save({"model": perceptron.state_dict(), "optimizer": saved}, tmp_path / "d.pt")
    broken = open_checkpoint(tmp_path / "d.pt").optimizer
    with training(match_state(make_problem(perceptron, classification), Optimizer("adam"), broken)) as run:
        run.start(0.02)
        with pytest.raises(MismatchError, match="lacks 'exp_avg' of some tensor"):
            run.step(as_batch(parts[2], "part"))


def test_an_optimizer_that_was_given_frozen_tensors_too_goes_on(
    make_problem: Maker, perceptron: nn.Module, classification: Data, tmp_path: Path
) -> None:
    frozen = list(perceptron.parameters())[1].requires_grad_(False)
    optimizer = torch.optim.SGD(perceptron.parameters(), lr=0.02, momentum=0.9)
    parts = cut(classification, 8)
    by_hand(perceptron, parts[:2], optimizer)
    torch.save({"model": perceptron.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "c.pt")
    state, model = open_checkpoint(tmp_path / "c.pt").optimizer, twin(perceptron)
    list(model.parameters())[1].requires_grad_(False)
    with training(
        match_state(make_problem(perceptron, classification), find_settings(Given(), state.settings, Given()), state)
    ) as run:
        run.start(0.02)
        losses = [run.step(as_batch(part, "part")) for part in parts[2:]]
    following = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    following.load_state_dict(torch.load(tmp_path / "c.pt")["optimizer"])
    assert losses == by_hand(model, parts[2:], following)
    assert torch.equal(frozen, list(model.parameters())[1])


@pytest.mark.parametrize(("rule", "name"), [(torch.optim.SGD, "sgd"), (Fromage, "fromage")])
def test_groups_that_nothing_tells_apart_train_as_one(
    make_problem: Maker, perceptron: nn.Module, classification: Data, tmp_path: Path, rule: Any, name: str
) -> None:
    halves = list(perceptron.parameters())[::2], list(perceptron.parameters())[1::2]
    optimizer = rule([{"params": halves[0]}, {"params": halves[1], "lr": 0.01}], lr=0.02)
    torch.save({"model": perceptron.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "c.pt")
    state = open_checkpoint(tmp_path / "c.pt").optimizer
    model = twin(perceptron)
    expected = by_hand(model, cut(classification, 8), rule(model.parameters(), lr=0.02))
    found = find_settings(Given(name=name), state.settings, Given())
    with training(match_state(make_problem(perceptron, classification), found, state)) as run:
        run.start(0.02)
        assert [run.step(as_batch(part, "part")) for part in cut(classification, 8)] == expected


def test_the_sample_gpt_is_trained_on_as_its_own_script_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SAMPLES))
    import models  # type: ignore[import-not-found]

    path = SAMPLES / "char-gpt" / "step-000400.pt"
    checkpoint, saved = open_checkpoint(path), torch.load(path)
    tokens = torch.randint(61, (4, 8, 65), generator=torch.Generator().manual_seed(0))
    parts = [{"x": part[:, :-1], "y": part[:, 1:]} for part in tokens]
    networks = [models.char_gpt() for _ in range(2)]
    for network in networks:
        network.load_state_dict(saved["model"])
    batches = [as_batch(part, "text") for part in parts]
    problem = Problem(
        networks[0], resolve_loss("auto", networks[0], batches[0]), batches[0], further=tuple(batches[1:])
    )
    optimizer = find_settings(Given(), checkpoint.optimizer.settings, Given())
    assert (optimizer.name, optimizer.learning_rate) == ("adamw", 0.003)
    with training(match_state(problem, optimizer, checkpoint.optimizer)) as run:
        run.start(0.003)
        losses = [run.step(batch) for batch in batches]
        reached = weights(networks[0])
    matrices = [parameter for parameter in networks[1].parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in networks[1].parameters() if parameter.ndim < 2]
    own = torch.optim.AdamW([{"params": matrices}, {"params": vectors}])
    own.load_state_dict(saved["optimizer"])
    expected = []
    for part in parts:
        own.zero_grad()
        logits, targets = networks[1](part["x"]).flatten(0, 1), part["y"].flatten()
        loss = nn.functional.cross_entropy(logits, targets, reduction="sum") / targets.numel()
        loss.backward()
        expected.append(float(loss.detach()))
        own.step()
    assert losses == pytest.approx(expected, rel=1e-6)
    for mine, theirs in zip(reached, weights(networks[1]), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-5, atol=1e-7)


class Everything(nn.Module):
    """Running statistics, dropout, and a frozen tensor."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first, self.norm, self.dropout = nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.5)
        self.second = nn.Linear(16, 3)
        self.second.bias.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.dropout(torch.relu(self.norm(self.first(x)))))


def snapshot(model: nn.Module) -> tuple[Any, ...]:
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    modes = [module.training for module in model.modules()]
    buffers = [buffer.clone() for buffer in model.buffers()]
    return weights(model), buffers, gradients, modes, torch.get_rng_state(), random.getstate(), np.random.get_state()[1]


def assert_untouched(before: tuple[Any, ...], after: tuple[Any, ...]) -> None:
    for kept, found in zip(before[:2], after[:2], strict=True):
        assert same(kept, found)
    for kept, found in zip(before[2], after[2], strict=True):
        assert (kept is None) == (found is None)
        assert kept is None or torch.equal(kept, found)
    assert before[3] == after[3]
    assert torch.equal(before[4], after[4])
    assert before[5] == after[5]
    assert np.array_equal(before[6], after[6])


@pytest.mark.parametrize("mode", ["auto", "train", "eval"])
@pytest.mark.parametrize("ending", [None, KeyboardInterrupt, "time"])
def test_everything_is_as_before_however_it_ends(
    make_problem: Maker, classification: Data, mode: str, ending: Any
) -> None:
    model = Everything()
    nn.functional.cross_entropy(model(classification["x"]), classification["y"]).backward()
    model.dropout.eval()
    problem = make_problem(model, classification, mode=mode)
    before = snapshot(model)

    def go() -> None:
        with training(MatchedState(problem, Optimizer(name="adamw"))) as run:
            run.start(0.1)
            for part in cut(classification, 8):
                run.step(as_batch(part, "part"))
            assert not same(weights(model), before[0])
            if ending == "time":
                problem.budget = Budget(1e-9, started=time.monotonic() - 1.0)
                run.step(problem.batch)
            if ending is not None:
                raise ending

    if ending is None:
        go()
    else:
        with pytest.raises(ResourceError if ending == "time" else ending):
            go()
    assert_untouched(before, snapshot(model))


def test_dropout_draws_anew_at_each_step_and_the_same_in_each_run(make_problem: Maker, classification: Data) -> None:
    problem = make_problem(Everything(), classification, mode="train")
    with training(MatchedState(problem, Optimizer(name="sgd"))) as run:
        runs = []
        for _ in range(2):
            run.start(0.0)  # the weights stay: only the masks differ
            runs.append([run.step(problem.batch) for _ in range(3)])
    assert runs[0] == runs[1]
    assert len(set(runs[0])) == 3


def test_a_step_that_leaves_the_numbers_moves_nothing(make_problem: Maker, classification: Data) -> None:
    model = nn.Sequential(nn.Linear(8, 3))
    problem = make_problem(model, classification)
    with training(MatchedState(problem, Optimizer(name="sgd"))) as run:
        run.start(0.1)
        model[0].weight.data.fill_(math.inf)
        assert not math.isfinite(run.step(problem.batch))
        assert bool((model[0].weight == math.inf).all())


def test_a_factor_scales_the_rate_of_one_step(make_problem: Maker, perceptron: nn.Module, classification: Data) -> None:
    """As a scheduler of torch sets it, with momentum and in groups of unequal rates."""
    factors, parts = [0.1, 1.0, 0.5, 0.0], cut(classification, 8)
    model = twin(perceptron)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factors[min(step, 3)])
    expected = []
    for part in parts:
        expected += by_hand(model, [part], optimizer)
        scheduler.step()
    with training(MatchedState(make_problem(perceptron, classification), Optimizer("sgd", momentum=0.9))) as run:
        run.start(0.02)
        losses = [run.step(as_batch(part, "part"), factor) for part, factor in zip(parts, factors, strict=True)]
        assert losses == pytest.approx(expected, rel=1e-6)
        for mine, theirs in zip(weights(perceptron), weights(model), strict=True):
            assert torch.allclose(mine, theirs, rtol=1e-5, atol=1e-7)


def test_a_factor_keeps_the_groups_rates_apart(
    make_problem: Maker, perceptron: nn.Module, classification: Data, tmp_path: Path
) -> None:
    matrices = [parameter for parameter in perceptron.parameters() if parameter.dim() == 2]
    vectors = [parameter for parameter in perceptron.parameters() if parameter.dim() == 1]
    optimizer = torch.optim.SGD([{"params": matrices}, {"params": vectors, "lr": 0.01}], lr=0.04, momentum=0.9)
    by_hand(perceptron, cut(classification, 8)[:1], optimizer)
    torch.save({"model": perceptron.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "c.pt")
    state = open_checkpoint(tmp_path / "c.pt").optimizer
    found = find_settings(Given(), state.settings, Given())
    with training(match_state(make_problem(perceptron, classification), found, state)) as run:
        run.start(0.1)
        run.step(as_batch(classification, "all"), 0.5)
        assert [group["lr"] for group in run.optimizer.param_groups] == pytest.approx([0.05, 0.0125])


def test_costs_are_counted_in_gradients_of_all_rows(
    make_problem: Maker, perceptron: nn.Module, classification: Data
) -> None:
    problem = make_problem(perceptron, classification)
    rows = training_rows(problem)
    with training(MatchedState(problem, Optimizer(name="sgd"))) as run:
        run.start(0.1)
        for batch in rows.batches:
            run.step(batch)
        run.loss(rows.independent)
    assert run.taken == len(rows.batches) == 4
    assert problem.evaluations.gradients == pytest.approx(1.0 + 24 / 32)
    assert problem.evaluations.forwards == pytest.approx(6 / 32)


def test_spare_batches_are_trained_on_wherever_they_lie(
    make_problem: Maker, perceptron: nn.Module, classification: Data
) -> None:
    parts = tuple(as_batch(part, "loader") for part in cut(classification, 3))
    problem = make_problem(perceptron, cut(classification, 3)[0])
    problem.spare = tuple(part.to("cpu", torch.float16) for part in parts[1:5])
    rows = training_rows(problem)
    for found, given in zip(rows.batches, (problem.batch, *problem.spare[:3]), strict=True):
        assert torch.equal(found.data["x"], given.data["x"]) and found.data["x"].dtype == given.data["x"].dtype
    assert torch.equal(rows.independent[0].data["x"], problem.spare[3].data["x"]) and rows.smaller is None
    assert rows.source == "4 batches of 3 rows, judged on 3 rows outside"
    assert problem.rows == 3
    before = problem.on(parts[1]).value()
    with training(MatchedState(problem, Optimizer("sgd", 0.1))) as run:
        run.start(0.1)
        assert run.step(rows.batches[1]) == pytest.approx(before, rel=1e-2)
        assert math.isfinite(run.loss(rows.independent))


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (Optimizer(), "No steps can be taken with optimizer None"),
        (Optimizer(name="adagrad"), "'adagrad'"),
        (Optimizer(name="sgd", nesterov=True), "SGD does not take these settings"),
    ],
)
def test_an_optimizer_that_cannot_be_built_is_refused(
    make_problem: Maker, perceptron: nn.Module, classification: Data, optimizer: Optimizer, message: str
) -> None:
    before = weights(perceptron)
    with (
        pytest.raises(UsageError, match=message),
        training(MatchedState(make_problem(perceptron, classification), optimizer)),
    ):
        pass
    assert same(weights(perceptron), before)


def test_a_state_of_another_model_is_refused(
    make_problem: Maker, perceptron: nn.Module, classification: Data, tmp_path: Path
) -> None:
    other = nn.Linear(4, 4)
    optimizer = torch.optim.Adam(other.parameters())
    other(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    torch.save({"model": other.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "c.pt")
    state = open_checkpoint(tmp_path / "c.pt").optimizer
    assert state is not None
    with (
        pytest.raises(MismatchError, match="2 parameters"),
        training(match_state(make_problem(perceptron, classification), Optimizer(name="adam"), state)),
    ):
        pass


@pytest.mark.parametrize(
    ("given", "size", "batches", "independent", "smaller"),
    [
        ([32], None, [6] * 4, [6], 6),
        ([32], 100, [6] * 4, [6], 6),
        ([32], 4, [4] * 7, [4], None),
        ([32], 2, [2] * 13, [2] * 3, None),
        ([4], None, [1] * 3, [1], 1),
        ([2], None, [1], [1], 1),
        ([12, 12], None, [4] * 5, [4], 4),
        ([12, 12], 3, [3] * 7, [3], None),
        ([10, 10, 10], None, [5] * 5, [5], 5),
        ([10, 10, 10], 10, [5] * 5, [5], 5),
        ([6] * 5, None, [6] * 4, [6], None),
        ([6] * 5, 3, [3] * 8, [3] * 2, None),
        ([6] * 5, 100, [6] * 4, [6], 6),
        ([3] * 10, None, [3] * 8, [3] * 2, None),
        ([3] * 10, 2, [2] * 8, [2] * 2, None),
        ([6, 6, 6, 6, 4], None, [6] * 4, [4], None),
        ([6] * 5 + [1], None, [6] * 4, [6], None),  # the last piece of a loader is left out
        ([2] + [6] * 5, None, [6] * 4, [6], None),
        ([8] + [2] * 6, None, [2] * 8, [2] * 2, None),  # most batches have two rows, and the first is cut
        ([7], None, [2] * 2, [2], 2),  # no part has one row
        ([6, 6, 4, 6, 6], None, [6, 6, 4, 6], [6], None),
    ],
)
def test_rows_become_batches_of_equal_size_and_a_fifth_of_them_is_kept_apart(
    make_problem: Maker,
    perceptron: nn.Module,
    classification: Data,
    given: list[int],
    size: int | None,
    batches: list[int],
    independent: list[int],
    smaller: int | None,
) -> None:
    starts = [sum(given[:index]) for index in range(len(given))]
    parts = [
        {name: rows[start : start + count] for name, rows in classification.items()}
        for start, count in zip(starts, given, strict=True)
    ]
    further = tuple(as_batch(part, "loader") for part in parts[1:])
    rows = training_rows(make_problem(perceptron, parts[0], further=further), size)
    assert [batch.size for batch in rows.batches] == batches
    assert [batch.size for batch in rows.independent] == independent
    assert rows.smaller == smaller
    seen = torch.cat([batch.data["x"] for batch in (*rows.batches, *rows.independent)])
    assert len(seen.unique(dim=0)) == sum(batches) + sum(independent), "no row stands in two of them"
    first = given[0] if 2 * given[0] < max(given) else 0
    assert torch.equal(rows.batches[0].data["x"], classification["x"][first : first + batches[0]])


def test_batches_and_rows_are_counted_in_words(
    make_problem: Maker, perceptron: nn.Module, classification: Data
) -> None:
    assert training_rows(make_problem(perceptron, classification)).source == (
        "4 batches of 6 rows, judged on 6 rows outside"
    )
    two = make_problem(perceptron, cut(classification, 2)[0])
    assert training_rows(two).source == "1 batch of 1 row, judged on 1 row outside"


def test_the_second_seed_turns_the_batches_round(
    make_problem: Maker, perceptron: nn.Module, classification: Data
) -> None:
    rows = training_rows(make_problem(perceptron, classification))
    assert rows.in_order(0) == rows.batches and rows.in_order(1) == rows.batches[::-1]


def test_one_row_is_refused(make_problem: Maker, perceptron: nn.Module, classification: Data) -> None:
    with pytest.raises(UsageError, match="the batch has one"):
        training_rows(make_problem(perceptron, cut(classification, 1)[0]))


@pytest.mark.parametrize("rule", [torch.optim.Muon, torch.optim.Adafactor])
def test_steps_on_whole_tensors_are_those_of_the_optimizer_where_ranks_hold_parts(rule: type[Any]) -> None:
    """Seven rows on three ranks; what Adafactor remembers has other shapes than the tensor."""

    def stepped(sharded: bool) -> list[float]:
        generator = torch.Generator().manual_seed(0)
        layer = nn.Linear(4, 7, bias=False).double()
        layer.weight.data = torch.randn(7, 4, generator=generator, dtype=torch.float64)
        if sharded:
            spread(layer, torch.device("cpu"))
        optimizer = rule([layer.weight], lr=0.1, weight_decay=0.2)
        stepping = WholeTensorSteps(optimizer) if sharded else optimizer
        for _ in range(3):
            gradient = torch.randn(7, 4, generator=generator, dtype=torch.float64)
            layer.weight.grad = part_as(layer.weight, gradient)
            stepping.step()
        return [float(x) for x in whole(layer.weight.detach()).flatten()]

    assert run_ranks(3, stepped, True) == [stepped(False)] * 3
