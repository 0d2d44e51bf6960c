import pytest
import torch
from safetensors.torch import save_file

from fromage_cli.checkpoints.runs.gathering import gather_series
from fromage_cli.errors import InputError, UsageError


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    for step in (20, 3, 100):
        save_file({"w": torch.ones(2, 2)}, tmp_path / f"run/step-{step}.safetensors")
    return tmp_path / "run"


def steps(*names):
    return [checkpoint.step for checkpoint in gather_series(names).checkpoints]


def test_directories_patterns_and_files_are_sorted_by_step(run):
    assert steps("run") == [3, 20, 100]
    assert steps("run/step-*0.safetensors") == [20, 100]
    assert steps(str(run / "step-*")) == [3, 20, 100]
    assert steps("run/step-100.safetensors", "run/step-3.safetensors") == [3, 100]
    assert steps("run", "run/step-3.safetensors") == [3, 20, 100]


def test_steps_in_directories_of_their_own(tmp_path):
    for step in (2, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
        save_file({"w": torch.ones(2, 2)}, tmp_path / f"checkpoint-{step}/model.safetensors")
    assert steps(str(tmp_path)) == [2, 10]
    assert steps(str(tmp_path / "checkpoint-*")) == [2, 10]


@pytest.mark.parametrize("names", [("run",), ("run/*",)])
def test_incomplete_ones_are_skipped_and_said(run, names):
    path = run / "step-20.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    gathered = gather_series(names)
    assert [checkpoint.step for checkpoint in gathered.checkpoints] == [3, 100]
    (note,) = gathered.notes
    assert "Skipped" in note and "step-20.safetensors" in note and "incomplete" in note


def test_the_state_of_an_optimizer_is_of_one_step(run, tmp_path):
    weight = torch.nn.Parameter(torch.ones(2, 2))
    torch.save(torch.optim.SGD([weight], lr=0.25, momentum=0.9).state_dict(), tmp_path / "optimizer.pt")
    gathered = gather_series(["run"], optimizer_state="optimizer.pt")
    *before, last = gathered.checkpoints
    assert last.step == 100 and last.optimizer.groups[0].settings["lr"] == 0.25
    assert [checkpoint.optimizer for checkpoint in before] == [None, None]
    assert any("step 100 only" in note for note in gathered.notes)
    (alone,) = gather_series(["run/step-3.safetensors"], optimizer_state="optimizer.pt").checkpoints
    assert alone.optimizer.groups[0].settings["lr"] == 0.25


def test_one_checkpoint_needs_no_step(tmp_path):
    save_file({"w": torch.ones(2, 2)}, tmp_path / "weights.safetensors")
    assert steps(str(tmp_path / "weights.safetensors")) == [None]


def test_refusals(run, tmp_path):
    with pytest.raises(InputError, match="No file matches"):
        gather_series(["run/epoch-*"])
    with pytest.raises(InputError, match="does not exist"):
        gather_series(["run", "nowhere"])
    save_file({"w": torch.ones(2, 2)}, tmp_path / "weights.safetensors")
    with pytest.raises(UsageError, match=r"step of .*weights.* is not known"):
        gather_series(["run", "weights.safetensors"])
    save_file({"w": torch.ones(2, 2)}, tmp_path / "step-3.safetensors")
    with pytest.raises(UsageError, match="both of step 3"):
        gather_series(["run", "step-3.safetensors"])
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00")
    with pytest.raises(InputError):
        gather_series(["cut.safetensors"])


def test_epochs_in_names_become_steps(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for epoch in (1, 2, 10):
        save_file({"w": torch.ones(2, 2)}, tmp_path / f"epoch_{epoch}.safetensors")
    with pytest.raises(UsageError) as caught:
        gather_series(["."])
    assert "--steps-per-epoch" in caught.value.hint
    gathered = gather_series(["."], steps_per_epoch=50)
    assert [one.step for one in gathered.checkpoints] == [50, 100, 500]
    assert any("epochs" in note for note in gathered.notes)


def test_the_updates_that_an_optimizer_counts_stand_in_for_steps(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    weights = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(weights.parameters())
    for epoch in (1, 2):
        for _ in range(7):
            optimizer.zero_grad()
            weights(torch.ones(1, 3)).sum().backward()
            optimizer.step()
        torch.save({"model": weights.state_dict(), "optimizer": optimizer.state_dict()}, f"epoch_{epoch}.pt")
    assert [one.step for one in gather_series(["."], steps_per_epoch=50).checkpoints] == [7, 14]
