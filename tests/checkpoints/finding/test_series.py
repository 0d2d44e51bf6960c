import pytest
import torch
from safetensors.torch import save_file

from fromage_cli.checkpoints import find_series, open_checkpoint
from fromage_cli.errors import InputError

STATE = {"w": torch.ones(2)}


def save(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    (save_file if path.suffix == ".safetensors" else torch.save)(STATE, path)
    return path


def cut(path):
    path.write_bytes(path.read_bytes()[:-3])


@pytest.mark.parametrize(
    "names",
    [
        ["step-9.safetensors", "step-000100.safetensors", "step-1000.safetensors"],
        ["ckpt_200.pt", "ckpt_1000.pt"],
        ["epoch=0-step=90.ckpt", "epoch=1-step=900.ckpt", "epoch=10-step=1000.ckpt"],
        ["checkpoint-500/model.safetensors", "checkpoint-1500/pytorch_model.bin"],
        ["global_step900/mp_rank_00_model_states.pt", "global_step1000/mp_rank_00_model_states.pt"],
        ["step_400/model.safetensors", "step-500.pt"],
        ["epoch_2.pt", "epoch_10.pt"],
        ["step-100.pt"],
    ],
)
def test_steps_are_found_and_sorted_by_number(tmp_path, names):
    for name in reversed(names):
        save(tmp_path / name)
    save(tmp_path / "batch.safetensors")
    save(tmp_path / "optimizer_9999.pt")
    members = [tmp_path / name.split("/")[0] for name in names]
    assert list(find_series(tmp_path).paths) == members
    checkpoint = open_checkpoint(str(tmp_path))
    assert checkpoint.weights == tmp_path / names[-1]
    if len(names) > 1:
        assert f"Took {members[-1].name!r}, the highest complete" in checkpoint.picked[0]
        assert f"of {len(names)} in" in checkpoint.picked[0]


def test_a_file_is_a_series_of_one(tmp_path):
    path = save(tmp_path / "x.pt")
    assert find_series(path).paths == (path,)
    with pytest.raises(InputError, match="does not exist"):
        find_series(tmp_path / "y.pt")


def test_incomplete_steps_are_skipped_and_named(tmp_path):
    for step in (100, 200, 300, 400):
        save(tmp_path / f"step-{step}.{'pt' if step == 400 else 'safetensors'}")
    save(tmp_path / "checkpoint-500" / "model.safetensors")
    (tmp_path / "step-600.safetensors").touch()
    cut(tmp_path / "step-200.safetensors")
    cut(tmp_path / "step-400.pt")
    cut(tmp_path / "checkpoint-500" / "model.safetensors")
    series = find_series(tmp_path)
    assert [path.name for path in series.paths] == ["step-100.safetensors", "step-300.safetensors"]
    assert len(series.notes) == 4
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.step == 300
    skipped = " ".join(checkpoint.notes)
    assert all(name in skipped for name in ("'step-600.safetensors'", "'checkpoint-500'", "'step-400.pt'"))
    assert "'step-200.safetensors'" not in skipped
    assert "it should have" in skipped


def test_missing_shards_make_a_step_incomplete(tmp_path):
    save(tmp_path / "step-1" / "model.safetensors")
    (tmp_path / "step-2").mkdir()
    (tmp_path / "step-2" / "model.safetensors.index.json").write_text('{"weight_map": {"w": "gone.safetensors"}}')
    assert find_series(tmp_path).paths == (tmp_path / "step-1",)
    assert "'gone.safetensors'" in find_series(tmp_path).notes[0]


def test_nothing_complete_is_an_error(tmp_path):
    cut(save(tmp_path / "step-1.safetensors"))
    for action in (open_checkpoint, find_series):
        with pytest.raises(InputError, match=r"no complete checkpoint.*'step-1\.safetensors'.*should have"):
            action(tmp_path)


def test_one_member_for_each_step(tmp_path):
    for name in ("step-5.pt", "step-5.safetensors", "ema-step-5.safetensors", "last.pt", "epoch_7.pt"):
        save(tmp_path / name)
    series = find_series(tmp_path)
    assert [path.name for path in series.paths] == ["step-5.safetensors"]
    assert len(series.notes) == 2
    assert "Left out 'step-5.pt': 'step-5.safetensors' has the same step." in series.notes


def test_epochs_are_not_steps(tmp_path):
    save(tmp_path / "epoch_3.pt")
    save(tmp_path / "epoch_12.pt")
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.step is None
    assert "highest complete epoch of 2" in checkpoint.picked[0]


def test_a_run_with_weights_at_its_top_names_its_steps(tmp_path):
    for step in (100, 1000):
        (tmp_path / f"checkpoint-{step}").mkdir()
        save_file({"w": torch.ones(2, 2)}, tmp_path / f"checkpoint-{step}" / "model.safetensors")
    save_file({"w": torch.ones(2, 2)}, tmp_path / "model.safetensors")
    series = find_series(tmp_path)
    assert series.paths == (tmp_path,)
    assert "not the 2 checkpoints of a run in it: 'checkpoint-100', 'checkpoint-1000'" in series.notes[0]
    assert f"{tmp_path}/checkpoint-*" in series.notes[0]
    assert find_series(tmp_path / "checkpoint-100").notes == ()
