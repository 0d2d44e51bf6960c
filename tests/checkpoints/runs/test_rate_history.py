"""What a run's sources tell of its rate, and where they break."""

from pathlib import Path
from typing import Any

import pytest
import torch

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.checkpoints.runs.rate_history import RateHistory, rate_history, rises
from fromage_cli.theory.schedules import Schedule


def saved(step: int, rate: float, **more: Any) -> dict[str, Any]:
    group = {"lr": rate, "betas": (0.9, 0.999), "weight_decay": 0.0, "amsgrad": False, "eps": 1e-8, "params": [0]}
    return {"model": {"w": torch.ones(2, 2)}, "optimizer": {"state": {}, "param_groups": [group]}, "step": step, **more}


def history(folder: Path, *files: dict[str, Any], log: str = "") -> RateHistory:
    folder.mkdir(parents=True, exist_ok=True)
    if log:
        (folder / "metrics.csv").write_text("step,lr\n" + log.replace(" ", "\n"))
    paths = [folder / f"step-{one['step']}.pt" for one in files]
    for path, one in zip(paths, files, strict=True):
        torch.save(one, path)
    return rate_history([open_checkpoint(path) for path in paths])


def cosine(total: int, step: int, rate: float = 0.1) -> dict[str, Any]:
    """A file whose scheduler is a cosine at that step."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=rate)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total)
    for _ in range(step):
        optimizer.step()
        scheduler.step()
    found = saved(step, optimizer.param_groups[0]["lr"], scheduler=scheduler.state_dict())
    found["optimizer"]["param_groups"][0]["initial_lr"] = rate
    return found


@pytest.mark.parametrize(
    ("rates", "kind"),
    [
        ([1, 1, 1, 1], None),
        ([0.1, 0.5, 1, 0.8, 0.5, 0.1, 0], None),
        ([1, 0.1, 0.1, 0.01], None),
        ([1, 0.8, 0.5, 0.52], None),
        ([1, 0.8, 0.5, 0.7], "rises"),
        ([1, 0.98, 0.95, 0.92, 0.89, 0.86, 0.98], "rises"),
        ([1, 0.5, 0, 0.1], "rises"),
        ([1, 1, 1, 3], "jumps"),
        ([0.1, 0.3, 1, 1], None),
    ],
)
def test_a_rate_that_rises_again_or_jumps(rates: list[float], kind: str | None) -> None:
    found = rises([], [], {10.0 * step: float(rate) for step, rate in enumerate(rates)})
    assert [one.kind for one in found] == ([] if kind is None else [kind])


def test_cycles_of_a_scheduler_are_no_break(tmp_path: Path) -> None:
    files = [saved(step, rate) for step, rate in ((5, 0.1), (9, 0.01), (12, 0.09))]
    assert [one.kind for one in history(tmp_path / "a", *files).breaks] == ["rises"]
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    cycles = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 10).state_dict() | {"_last_lr": [0.09]}
    assert history(tmp_path / "b", *files[:2], {**files[2], "scheduler": cycles}).breaks == ()


def test_the_schedule_of_the_checkpoint_before_is_kept(tmp_path: Path) -> None:
    assert history(tmp_path / "a", cosine(100, 40), cosine(100, 70)).breaks == ()
    without = cosine(100, 40)
    del without["optimizer"]["param_groups"][0]["initial_lr"]
    assert history(tmp_path / "c", without, cosine(100, 70)).breaks == ()
    (found,) = history(tmp_path / "b", cosine(100, 40), cosine(200, 70)).breaks
    assert (found.kind, found.step, found.before, found.source) == ("schedule", 70.0, 40.0, "scheduler")
    assert found.expected == pytest.approx(cosine(100, 70)["optimizer"]["param_groups"][0]["lr"])


def test_sources_that_disagree(tmp_path: Path) -> None:
    overwritten = cosine(100, 40)
    overwritten["optimizer"]["param_groups"][0]["lr"] = 0.5
    assert [one.source for one in history(tmp_path / "a", overwritten).breaks] == ["scheduler"]
    log = "10,0.1 20,0.1 30,0.1 40,0.1"
    assert history(tmp_path / "b", saved(30, 0.1), log=log).breaks == ()
    (found,) = history(tmp_path / "c", saved(30, 0.3), log=log).breaks
    assert (found.kind, found.source, found.rate, found.expected) == ("disagree", "log", 0.3, 0.1)


@pytest.mark.parametrize(("name", "breaks"), [("gpt-lr0.003", 0), ("gpt_lr=3e-3_b64", 0), ("lr-0.01", 1), ("solr2", 0)])
def test_the_folders_name(name: str, breaks: int, tmp_path: Path) -> None:
    found = history(tmp_path / name, saved(30, 0.003)).breaks
    assert [one.source for one in found] == ["folder"] * breaks


def test_bounds_of_the_rates_between() -> None:
    schedule = Schedule("linear", total=10.0)
    told = RateHistory((2.0, 6.0), (0.8, 0.4), (), schedule, 1.0, ())
    rates, known = told.between(1, 4.0, (1.6, 0.8), 2.0)
    assert known and rates == pytest.approx([1.02 * 2.0 * rate for rate in (0.8, 0.7, 0.6, 0.5)])
    assert RateHistory((2.0, 6.0), (0.8, 0.4), (), None, None, ()).between(1, 4.0, (0.8, 0.4), 1.0) == ([0.8], False)
    assert RateHistory((2.0, 6.0), (0.8, 0.8), (), None, None, ()).between(1, 4.0, (0.8, 0.8), 1.0) == ([0.8], True)
    sparse, dense = ((3.0, 1.5), (4.0, 1.0), (9.0, 7.0)), ((3.0, 1.5), (4.0, 1.0), (5.0, 0.9))
    for logged, told in ((sparse, False), (dense, True)):
        history = RateHistory((2.0, 6.0), (0.8, 0.4), logged, None, None, ())
        assert history.between(1, 4.0, (0.8, 0.4), 1.0) == ([1.5], told)
    assert RateHistory((2.0, 6.0), (None, 0.4), (), None, None, ()).between(1, 4.0, (None, 0.4), 1.0) == ([0.4], False)


def test_the_sum_of_the_rates_so_far() -> None:
    linear = RateHistory((10.0,), (0.0,), (), Schedule("linear", total=10.0), 2.0, ())
    assert linear.summed(0) == (pytest.approx(2.0 * 5.5), True)
    assert RateHistory((4.0, 10.0), (0.5, 0.2), (), None, None, ()).summed(1) == (pytest.approx(2.0 + 2.1), True)
    assert RateHistory((10.0,), (0.5,), (), None, None, ()).summed(0) == (5.0, False)
    assert RateHistory((10.0,), (0.5,), (), None, None, (), 1.0).summed(0) == (None, False)


def test_the_rate_of_the_last_update_is_that_before_the_saved_one() -> None:
    linear = RateHistory((4.0,), (0.6,), (), Schedule("linear", total=10.0), 1.0, ())
    assert linear.last(0) == pytest.approx(0.7)
    assert RateHistory((4.0,), (0.1,), (), Schedule("linear", total=10.0), 1.0, ()).last(0) is None
    assert RateHistory((4.0,), (0.6,), (), None, None, ()).last(0) is None
