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
