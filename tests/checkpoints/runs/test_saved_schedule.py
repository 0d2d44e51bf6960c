"""Schedulers as torch writes them, each driven to some step, against the rates that torch itself then sets."""

import copy
import json
import warnings

import pytest
import torch
from safetensors.torch import save_file
from torch.optim import lr_scheduler

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.checkpoints.runs.saved_schedule import saved_schedule, updates_made

TOTAL = 60


def trained(make, steps=20, every=1):
    """An optimizer and its scheduler after so many steps, and the rates of all steps of the run."""
    weight = torch.nn.Parameter(torch.ones(2, 3))
    optimizer = torch.optim.AdamW([weight], lr=0.02)
    scheduler = make(optimizer)
    rates, saved = [], None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for step in range(TOTAL):
            if step == steps:
                saved = {"model": {"w": weight.detach().clone()}, "optimizer": optimizer.state_dict(), "step": step}
                saved = json_like(saved, scheduler.state_dict())
            rates.append(optimizer.param_groups[0]["lr"])
            weight.grad = torch.ones(2, 3)
            optimizer.step()
            if (step + 1) % every == 0 and step < TOTAL - 1:
                scheduler.step()
    return saved, rates


def json_like(saved, state):
    """A copy of both, before training goes on."""
    return copy.deepcopy({**saved, "lr_scheduler": state})


def sequence(optimizer):
    first = lr_scheduler.LinearLR(optimizer, 0.1, 1.0, 10)
    return lr_scheduler.SequentialLR(optimizer, [first, lr_scheduler.CosineAnnealingLR(optimizer, 50)], [10])


@pytest.mark.parametrize(
    ("make", "peak"),
    [
        (lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, TOTAL, 0.001), 0.02),
        (lambda optimizer: lr_scheduler.LinearLR(optimizer, 1.0, 0.2, TOTAL), 0.02),
        (lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.05, TOTAL), 0.05),
        (lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.05, TOTAL, anneal_strategy="linear"), 0.05),
        (sequence, 0.02),
    ],
)
def test_a_schedule_is_read_from_its_scheduler(tmp_path, make, peak):
    saved, rates = trained(make)
    torch.save(saved, tmp_path / "c.pt")
    found = saved_schedule([open_checkpoint(tmp_path / "c.pt")])
    assert found.doubt is None and found.source == "c.pt"
    planned = [peak * found.schedule.rate_factor(step) for step in range(TOTAL)]
    assert planned == pytest.approx(rates, rel=2e-3, abs=1e-5)


@pytest.mark.parametrize("steps", [5, 30, 55])
def test_the_peak_is_the_highest_rate_wherever_the_run_stands(tmp_path, steps):
    for make in (lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, TOTAL), sequence):
        torch.save(trained(make, steps)[0], tmp_path / "c.pt")
        assert saved_schedule([open_checkpoint(tmp_path / "c.pt")]).peak == pytest.approx(0.02)


def test_the_peak_of_one_cycle_is_its_highest_rate(tmp_path):
    torch.save(trained(lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.05, TOTAL), 55)[0], tmp_path / "c.pt")
    assert saved_schedule([open_checkpoint(tmp_path / "c.pt")]).peak == pytest.approx(0.05)


def test_a_scheduler_that_counts_epochs(tmp_path):
    saved, rates = trained(lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 12), every=5)
    torch.save(saved, tmp_path / "c.pt")
    found = saved_schedule([open_checkpoint(tmp_path / "c.pt")])
    assert (found.schedule.every, found.schedule.end) == (5.0, 60.0)
    assert [0.02 * found.schedule.rate_factor(step) for step in range(TOTAL)] == pytest.approx(rates)


@pytest.mark.parametrize(
    "make",
    [
        lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step)),
        lambda optimizer: lr_scheduler.StepLR(optimizer, 7),
        lambda optimizer: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 7),
    ],
)
def test_a_scheduler_that_does_not_tell_leaves_a_doubt(tmp_path, make):
    torch.save(trained(make)[0], tmp_path / "c.pt")
    found = saved_schedule([open_checkpoint(tmp_path / "c.pt")])
    assert found.schedule is None and "the rate was" in found.doubt


def test_a_group_whose_rate_is_not_its_first_one_leaves_a_doubt(tmp_path):
    saved, _ = trained(lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, TOTAL))
    del saved["lr_scheduler"]
    torch.save(saved, tmp_path / "c.pt")
    assert "0.75 × its peak" in saved_schedule([open_checkpoint(tmp_path / "c.pt")]).doubt


def test_a_constant_rate_leaves_none(tmp_path):
    saved, _ = trained(lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: 1.0))
    torch.save({**saved, "lr_scheduler": {}}, tmp_path / "c.pt")
    checkpoint = open_checkpoint(tmp_path / "c.pt")
    assert saved_schedule([checkpoint, checkpoint]).doubt is None
    assert saved_schedule([checkpoint]).schedule is None and updates_made(checkpoint) == 20


def test_the_trainers_of_hugging_face_log_enough(tmp_path):
    """A warm-up of 10 of 60 steps, then a line to 0, logged every 4 steps; the scheduler is one of functions."""

    def factor(step):
        return step / 10 if step < 10 else (60 - step) / 50

    saved, _ = trained(lambda optimizer: lr_scheduler.LambdaLR(optimizer, factor), steps=40)
    save_file({"w": torch.ones(2, 3)}, tmp_path / "model.safetensors")
    torch.save(saved["optimizer"], tmp_path / "optimizer.pt")
    torch.save(saved["lr_scheduler"], tmp_path / "scheduler.pt")
    logged = [{"step": step, "learning_rate": 0.02 * factor(step)} for step in range(4, 41, 4)]
    trainer = {"global_step": 40, "max_steps": 60, "log_history": logged}
    (tmp_path / "trainer_state.json").write_text(json.dumps(trainer))
    found = saved_schedule([open_checkpoint(tmp_path)])
    assert found.schedule.shape == "linear" and found.total == 60
    assert [found.schedule.rate_factor(step) for step in (5, 10, 50, 60)] == pytest.approx([0.5, 1.0, 0.2, 0.0])
    (tmp_path / "trainer_state.json").write_text(json.dumps({"global_step": 40}))
    assert "the rate was 0.4 ×" in saved_schedule([open_checkpoint(tmp_path)]).doubt


@pytest.mark.parametrize(
    "state",
    [
        {"base_lrs": []},
        {"base_lrs": [0.1], "T_max": float("nan"), "last_epoch": 20},
        {"base_lrs": [0.1], "T_max": -5, "last_epoch": 20},
        {"base_lrs": [0.1], "T_max": "many", "last_epoch": 20},
        {"base_lrs": [0.1], "T_max": 60, "last_epoch": None},
        {"base_lrs": [0.1], "total_steps": 60, "_schedule_phases": [1, 2], "last_epoch": 20},
        {"base_lrs": [0.1], "_schedulers": [{}, {}], "_milestones": ["x"], "last_epoch": 20},
        {"base_lrs": [0.1], "total_iters": 60, "start_factor": None, "last_epoch": 20},
    ],
)
def test_a_state_that_makes_no_sense_tells_nothing(tmp_path, state):
    saved, _ = trained(lambda optimizer: lr_scheduler.ConstantLR(optimizer, 1.0, 1))
    torch.save({**saved, "scheduler": state}, tmp_path / "c.pt")
    found = saved_schedule([open_checkpoint(tmp_path / "c.pt")])
    assert found.schedule is None and "does not say how the rate goes on" in found.doubt
