"""Runs that go on rightly against none found, and each kind of broken resume against what is found of it."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.diagnostics.state.continuity import Links
from fromage_cli.diagnostics.state.findings import judge
from fromage_cli.diagnostics.state.measure import measure, trained_tensors
from fromage_cli.diagnostics.state.result import StateResult
from fromage_cli.missing import known
from fromage_cli.optim import Lion

Saved = dict[str, Any]
STEPS = (40, 60, 90)


class Run:
    """A small network, its optimizer and schedule, which write checkpoints."""

    def __init__(
        self, make: Callable[..., Any] = torch.optim.AdamW, *, dtype: torch.dtype = torch.float32, **settings: Any
    ) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Embedding(9, 6), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Linear(6, 4))
        self.model.to(dtype)
        self.optimizer = make(self.model.parameters(), **{"lr": 0.01, **settings})
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 200)
        self.step = 0

    def to(self, step: int) -> Saved:
        """Train up to a step, and what is saved there."""
        while self.step < step:
            generator = torch.Generator().manual_seed(self.step)
            tokens, targets = torch.randint(7, (8, 3), generator=generator), torch.randint(4, (8,), generator=generator)
            self.optimizer.zero_grad()
            nn.functional.cross_entropy(self.model(tokens).mean(1), targets).backward()
            self.optimizer.step()
            self.scheduler.step()
            self.step += 1
        saved = {"model": self.model, "optimizer": self.optimizer, "scheduler": self.scheduler}
        return copy.deepcopy({**{name: one.state_dict() for name, one in saved.items()}, "step": step})


def healthy(make: Callable[..., Any] = torch.optim.AdamW, **settings: Any) -> list[Saved]:
    run = Run(make, **settings)
    return [run.to(step) for step in STEPS]


def said_of(run: list[Saved], path: Path, logged: dict[int, float] | None = None) -> StateResult:
    for saved in run:
        torch.save(saved, path / f"step-{saved['step']:06d}.pt")
    if logged:
        lines = [f"{step},{rate}" for step, rate in logged.items()]
        (path / "metrics.csv").write_text("\n".join(["step,lr", *lines]))
    checkpoints = [open_checkpoint(path / f"step-{saved['step']:06d}.pt") for saved in run]
    names = trained_tensors(checkpoints[-1], (), ())
    assert checkpoints[-1].optimizer is not None
    return measure(Links.of(checkpoints, names), checkpoints[-1].optimizer)


def codes(result: StateResult) -> dict[str, str]:
    ignored = ("decay-", "rows-without", "updates-lost", "layer-moves")
    return {one.code: one.severity for one in judge(result) if not one.code.startswith(ignored)}


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (torch.optim.AdamW, {}),
        (torch.optim.AdamW, {"betas": (0.9, 0.95)}),
        (torch.optim.AdamW, {"amsgrad": True}),
        (torch.optim.AdamW, {"dtype": torch.bfloat16}),
        (torch.optim.AdamW, {"fused": True, "weight_decay": 1.0}),
        (torch.optim.Adam, {"weight_decay": 0.1}),
        (torch.optim.Adam, {"betas": (0.5, 0.9)}),
        (torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "lr": 0.1}),
        (torch.optim.SGD, {"lr": 0.1}),
        (torch.optim.RMSprop, {}),
        (Lion, {"weight_decay": 0.1, "lr": 1e-3}),
    ],
)
def test_a_run_that_goes_on_has_no_finding(make: Callable[..., Any], settings: dict[str, Any], tmp_path: Path) -> None:
    result = said_of(healthy(make, **settings), tmp_path)
    assert [name for name in codes(result) if name not in ("decay-lost", "never-updated")] == []
    assert [known(one.steps) for one in result.continuity] == [20, 30]


def test_what_is_tested_is_told(tmp_path: Path) -> None:
    first, last = said_of(healthy(), tmp_path).continuity
    assert known(first.remembered) == pytest.approx(0.999**20, rel=1e-5)
    assert known(last.updates) == 30.0
    assert all(known(broken) is not None for broken in (last.second_moments, last.first_moments, last.weights))
    assert last.rates_told


def test_without_power_it_is_not_passed(tmp_path: Path) -> None:
    run = Run(betas=(0.9, 0.5))
    found = said_of([run.to(5), run.to(40)], tmp_path).continuity[0]
    assert known(found.second_moments) is None
    assert "millionth" in getattr(found.second_moments, "words", "")
    assert known(found.weights) is not None


def fresh_moments(run: list[Saved]) -> None:
    for slot in run[-1]["optimizer"]["state"].values():
        slot["exp_avg"].zero_()
        slot["exp_avg_sq"].mul_(1e-3)


def moments_of_the_first(run: list[Saved]) -> None:
    for number, slot in run[-1]["optimizer"]["state"].items():
        for name in ("exp_avg", "exp_avg_sq"):
            slot[name] = run[0]["optimizer"]["state"][number][name] * 0.8


def whole_state_of_the_first(run: list[Saved]) -> None:
    run[-1]["optimizer"]["state"] = run[0]["optimizer"]["state"]


def swapped_moments(run: list[Saved]) -> None:
    state = run[-1]["optimizer"]["state"]
    state[1], state[3] = state[3], state[1]


def started_anew(run: list[Saved]) -> None:
    resumed = Run()
    resumed.model.load_state_dict(run[1]["model"])
    resumed.step = 60
    run[-1] = resumed.to(90)


def another_run(run: list[Saved]) -> None:
    run[-1]["model"]["3.weight"] = torch.randn(6, 6)


def frozen(run: list[Saved]) -> None:
    run[-1]["model"]["3.weight"] = run[-2]["model"]["3.weight"]


def stale(run: list[Saved]) -> None:
    run[-1]["optimizer"]["state"] = copy.deepcopy(run[-2]["optimizer"]["state"])


def skipped_count(run: list[Saved]) -> None:
    for slot in run[-1]["optimizer"]["state"].values():
        slot["step"] -= 12


def other_rate(run: list[Saved]) -> None:
    for group in run[-1]["optimizer"]["param_groups"]:
        group["lr"] *= 3.0


@pytest.mark.parametrize(
    ("break_it", "code"),
    [
        (fresh_moments, "moments-not-continued"),
        (moments_of_the_first, "moments-not-continued"),
        (whole_state_of_the_first, "optimizer-restarted"),
        (swapped_moments, "moments-not-continued"),
        (started_anew, "optimizer-restarted"),
        (another_run, "weights-not-continued"),
        (frozen, "layer-frozen"),
        (stale, "moments-not-updated"),
        (skipped_count, "updates-and-steps-differ"),
        (other_rate, "rates-disagree"),
    ],
)
def test_a_broken_resume_is_found(break_it: Callable[[list[Saved]], None], code: str, tmp_path: Path) -> None:
    run = healthy()
    break_it(run)
    assert codes(said_of(run, tmp_path)).get(code) == "warn"


def test_a_rate_that_warms_up_again_is_found(tmp_path: Path) -> None:
    run = healthy()
    resumed = Run()
    resumed.model.load_state_dict(run[1]["model"])
    resumed.optimizer.load_state_dict(run[1]["optimizer"])
    resumed.step = 60
    resumed.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(resumed.optimizer, 200)
    run[-1] = resumed.to(90)
    found = codes(said_of(run, tmp_path))
    assert found.get("rate-not-continued") == "warn"


def test_a_log_that_rises_again_is_found(tmp_path: Path) -> None:
    rates = {step: 0.01 * (1 - step / 100) for step in range(0, 60, 10)} | {60: 0.002, 70: 0.008, 80: 0.006, 100: 0.003}
    run = Run(betas=(0.9, 0.99))
    saved = [run.to(40), run.to(60)]
    for one in saved:
        del one["scheduler"]
        one["optimizer"]["param_groups"][0].update(lr=rates.get(one["step"], 0.006))
    assert codes(said_of(saved, tmp_path, rates)).get("rate-rises-again") == "warn"


def test_files_that_count_micro_batches_are_no_break(tmp_path: Path) -> None:
    run = healthy()
    for saved in run:
        saved["step"] *= 4
    assert "updates-and-steps-differ" not in codes(said_of(run, tmp_path))


def test_lion_moves_no_further_than_its_rates(tmp_path: Path) -> None:
    run = healthy(Lion, lr=1e-3)
    assert codes(said_of(run, tmp_path)) == {}
    run[-1]["model"]["3.weight"] = run[-1]["model"]["3.weight"] + 31e-3
    assert codes(said_of(run, tmp_path)).get("weights-not-continued") == "warn"
