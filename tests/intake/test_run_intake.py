from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.errors import UsageError
from fromage_cli.intake import find_schedule, gather_run, trained_by
from fromage_cli.problem.user_code.declared import Declared
from fromage_cli.terminal import session
from fromage_cli.terminal.answer import Answer
from fromage_cli.terminal.optimizer_options import ScheduleOptions
from fromage_cli.terminal.options import BatchOptions, ModelOptions, NameOptions, RunOptions

FACTORY = """
from torch import nn

def network():
    return nn.Sequential(nn.Linear(6, 5, bias=False), nn.BatchNorm1d(5), nn.Linear(5, 3))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of two checkpoints with a layer that the model does not have, and a batch."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5, bias=False), nn.BatchNorm1d(5), nn.Linear(5, 3))
    for step in (10, 20):
        save_file(model.state_dict(), f"step-{step}.safetensors")
    save_file({"x": torch.randn(8, 6), "y": torch.randint(3, (8,))}, "batch.safetensors")
    (tmp_path / "network.py").write_text(FACTORY)
    return tmp_path


RUN = ["step-10.safetensors", "step-20.safetensors"]
MODEL, BATCH = ModelOptions(model="network.py:network"), BatchOptions(batch="batch.safetensors")


def test_a_run_has_the_layers_of_all_its_checkpoints(folder: Path) -> None:
    run = gather_run(RUN, ModelOptions(), NameOptions())
    assert [checkpoint.step for checkpoint in run.checkpoints] == [10, 20]
    assert (run.names, run.elements, run.shapes) == (("0.weight", "2.weight"), 2 * 45, None)
    assert run.in_model(ModelOptions(), BatchOptions(), RunOptions()) is run


def test_a_model_tells_layers_and_shapes(folder: Path) -> None:
    run = gather_run(RUN, MODEL, NameOptions(include=["0.*"])).in_model(MODEL, BATCH, RunOptions())
    assert list(run.layers) == ["0.weight"] == list(run.names)
    assert run.shapes is not None
    assert list(run.shapes) == ["0.weight", "1.weight", "1.bias", "2.weight", "2.bias"]
    assert run.shapes["0.weight"] == (5, 6)


def test_a_batch_that_was_not_typed_turns_no_test_on(folder: Path) -> None:
    run = gather_run(RUN, ModelOptions(), NameOptions())
    with session.scope():
        session.begin(session.Session("norms", origins={"batch": "project"}))
        assert run.in_model(ModelOptions(), BATCH, RunOptions()) is run


def test_scales_do_not_show_in_three_digits(folder: Path) -> None:
    run = gather_run(RUN, MODEL, NameOptions())
    with pytest.raises(UsageError, match="--autocast rounds"):
        run.in_model(MODEL, BATCH, RunOptions(autocast=True))


def test_every_checkpoint_and_each_note_once(folder: Path) -> None:
    run = gather_run(RUN, MODEL, NameOptions()).in_model(MODEL, BATCH, RunOptions())
    answer = run.complete(Answer(None, page=lambda style: "", tables={}, notes=("a", "b", "a")))
    assert [record.step for record in answer.checkpoints] == [10, 20]
    assert answer.notes[-2:] == ("a", "b") and answer.details[0].startswith("model: ")
    assert answer.header[1] == "2 checkpoints, step 10 to 20"


def test_a_header_names_the_run_its_steps_and_how_it_was_trained(folder: Path) -> None:
    series = gather_run(RUN, ModelOptions(), NameOptions())
    assert series.header == (folder.name, "2 checkpoints, step 10 to 20")
    assert gather_run(RUN[1:], ModelOptions(), NameOptions()).header == ("step-20", "1 checkpoint, step 20")
    flags = {"optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "steps_per_epoch": 22}
    assert trained_by(flags) == ("SGD at 0.1", "weight decay 0.0005", "22 steps an epoch", "momentum 0.9")
    unknown = flags | {"lr": None, "momentum": None, "weight_decay": None, "steps_per_epoch": None}
    assert trained_by(unknown) == ("SGD", "", "", "") and trained_by(unknown | {"optimizer": None}) == ()


def test_the_cost_of_reading_and_of_the_tests(folder: Path) -> None:
    run = gather_run(RUN, MODEL, NameOptions())
    (alone,) = run.estimate(1000, 2.0, copies=2).tables["estimate"]().rows
    assert alone == (0.0, 1000, 2.0)
    inside = run.in_model(MODEL, BATCH, RunOptions())
    (more,) = inside.estimate(10**12, 2.0, gradients=1, copies=2).tables["estimate"]().rows
    (less,) = inside.estimate(10**12, 2.0, copies=2, beside=True).tables["estimate"]().rows
    assert more[0] == less[0] + 1 and more[1] == 10**12 < less[1] and more[2] > 2.0


@pytest.mark.parametrize(
    ("options", "usual", "steps"),
    [
        (ScheduleOptions("cosine"), 1000, 1000),
        (ScheduleOptions(warmup_steps=30), 1000, 1000),
        (ScheduleOptions("linear", 200), 1000, 2000),
        (ScheduleOptions("cosine", total_steps=500), 1000, None),
        (ScheduleOptions("constant"), 1000, None),
        (ScheduleOptions(), 1000, None),
        (ScheduleOptions(total_steps=500), 1000, None),
        (ScheduleOptions(warmup_steps=30), None, None),
    ],
)
def test_steps_that_nothing_tells_are_assumed_only_where_a_shape_needs_them(
    options: ScheduleOptions, usual: int | None, steps: int | None
) -> None:
    """A run is taken to have ten times its warm-up at least."""
    found = find_schedule([], options, Declared(), usual_steps=usual)
    assert found.assumed == (steps is not None) and found.schedule is not None
    assert found.schedule.end == (steps or options.total_steps)
    notes = () if steps is None else (f"Steps of the run: taken as {steps}. If that is wrong, give --total-steps.",)
    assert found.notes == notes


def test_a_declared_total_is_no_assumption() -> None:
    found = find_schedule([], ScheduleOptions("cosine"), Declared(total_steps=300), usual_steps=1000)
    assert found.schedule is not None and (found.schedule.end, found.assumed) == (300, False)


def test_a_table_may_be_declared(tmp_path: Path) -> None:
    table = tmp_path / "rates.csv"
    table.write_text("step,learning_rate\n0,0.5\n100,0.1\n")
    found = find_schedule([], ScheduleOptions(), Declared(schedule=str(table)))
    assert found.schedule is not None and (found.schedule.end, found.peak) == (100, 0.5)
    with pytest.raises(UsageError, match="a table holds its own warm-up"):
        find_schedule([], ScheduleOptions(), Declared(schedule=str(table), warmup_steps=5))


def test_without_usual_steps_a_shape_whose_end_nothing_tells_is_refused() -> None:
    with pytest.raises(UsageError, match="needs the number of steps of the whole run"):
        find_schedule([], ScheduleOptions("linear"), Declared())


def test_the_peak_is_that_of_the_table_else_the_highest_rate_of_the_checkpoints(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.ones(2, 3))
    optimizer = torch.optim.AdamW([weight], lr=0.02)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 60)
    for _ in range(45):
        weight.grad = torch.ones(2, 3)
        optimizer.step()
        scheduler.step()
    saved = {"model": {"w": weight.detach()}, "optimizer": optimizer.state_dict(), "step": 45}
    torch.save({**saved, "lr_scheduler": scheduler.state_dict()}, tmp_path / "c.pt")
    checkpoints = [open_checkpoint(tmp_path / "c.pt")]
    assert optimizer.param_groups[0]["lr"] < 0.01
    read = find_schedule(checkpoints, ScheduleOptions(), Declared(), usual_steps=1000)
    assert read.peak == pytest.approx(0.02) and not read.assumed
    assert "cosine schedule over 60 steps, read from c.pt" in read.notes[0]
    (tmp_path / "rates.csv").write_text("step,learning_rate\n0,0\n10,0.5\n100,0\n")
    given = find_schedule(checkpoints, ScheduleOptions(str(tmp_path / "rates.csv")), Declared(), usual_steps=1000)
    assert given.peak == 0.5 and not given.assumed and given.schedule is not None and given.schedule.end == 100
    shaped = find_schedule(checkpoints, ScheduleOptions("linear"), Declared(), usual_steps=1000)
    assert shaped.peak == pytest.approx(0.02) and shaped.schedule is not None and shaped.schedule.end == 60
    assert find_schedule([], ScheduleOptions(), Declared()).peak is None
