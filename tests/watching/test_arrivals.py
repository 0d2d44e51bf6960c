"""What counts as a checkpoint of a run, and when it is whole; every format is saved by its own library and cut."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file

from fromage_cli.errors import InputError
from fromage_cli.watching.arrivals import Arrival, arrivals

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
Save = Callable[..., Path]
W = {"w": torch.ones(40, 40)}


def only(directory: Path) -> Arrival:
    (found,) = arrivals(directory)
    return found


def cut(path: Path, share: float = 0.5) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])


def test_numbered_ones_come_first_by_step_and_then_the_others(save: Save, run_directory: Path) -> None:
    for name in ("step-10.safetensors", "step-9.pt", "last.pt", "best.pt", "optimizer.pt", ".hidden.pt"):
        save(name)
    (run_directory / "samples").mkdir()
    (run_directory / "train.log").write_text("x")
    found = arrivals(run_directory)
    assert [(one.path.name, one.number) for one in found] == [
        *(("step-9.pt", 9), ("step-10.safetensors", 10)),
        *(("best.pt", None), ("last.pt", None)),
    ]


def test_of_two_files_of_a_step_one_is_taken(save: Save, run_directory: Path) -> None:
    save("step-1.pt"), save("step-1.safetensors")
    assert only(run_directory).path.name == "step-1.safetensors"


def test_epochs_count_where_no_name_has_a_step(save: Save, run_directory: Path) -> None:
    save("epoch-2.pt")
    assert (only(run_directory).number, only(run_directory).counts) == (2, "epoch")


def test_a_directory_of_a_step_is_all_that_lies_in_it(save: Save, run_directory: Path) -> None:
    save("checkpoint-5/model.safetensors"), save("checkpoint-5/optimizer.pt")
    (run_directory / "checkpoint-5" / "deeper").mkdir()
    (run_directory / "checkpoint-5" / "deeper" / "x.json").write_text("{}")
    found = only(run_directory)
    assert [file.name for file in found.files] == ["x.json", "model.safetensors", "optimizer.pt"]
    assert found.is_unchanged()
    (run_directory / "checkpoint-5" / "scheduler.pt").touch()
    assert not found.is_unchanged() and only(run_directory).state != found.state


def test_weights_of_the_runs_own_directory_leave_its_logs_and_other_files_out(save: Save, run_directory: Path) -> None:
    save("model.safetensors"), save("optimizer.pt"), save("last.pt"), save("checkpoint-5/model.safetensors")
    (run_directory / "train.log").write_text("x")
    step, own, last = arrivals(run_directory)
    assert [file.name for file in own.files] == ["model.safetensors", "optimizer.pt"] and own.path == run_directory
    assert (step.number, last.path.name) == (5, "last.pt")
    (run_directory / "train.log").write_text("longer")
    assert own.is_unchanged()


def test_a_directory_that_is_gone_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        arrivals(tmp_path / "run")


@pytest.mark.parametrize("name", ["step-1.safetensors", "step-1.pt"])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.99])
def test_a_file_that_is_cut_off_is_incomplete(save: Save, run_directory: Path, name: str, share: float) -> None:
    save(name)
    assert only(run_directory).why_incomplete() == ""
    cut(run_directory / name, share)
    assert only(run_directory).why_incomplete() != ""


def test_an_archive_of_numpy_is_incomplete_until_its_end(run_directory: Path) -> None:
    np.savez(run_directory / "step-1.npz", w=np.ones((9, 9), np.float32))
    assert only(run_directory).why_incomplete() == ""
    cut(run_directory / "step-1.npz")
    assert only(run_directory).why_incomplete() != ""


def test_the_older_format_of_pytorch_does_not_say_its_length(run_directory: Path) -> None:
    torch.save(W, run_directory / "step-1.pt", _use_new_zipfile_serialization=False)
    assert only(run_directory).why_incomplete() == ""
    cut(run_directory / "step-1.pt", 0.9)
    assert only(run_directory).why_incomplete() == ""


def test_weights_are_whole_before_the_optimizers_file_is(save: Save, run_directory: Path) -> None:
    save("checkpoint-5/model.safetensors"), save("checkpoint-5/optimizer.pt")
    assert only(run_directory).why_incomplete() == ""
    cut(run_directory / "checkpoint-5" / "optimizer.pt")
    assert "optimizer.pt" in only(run_directory).why_incomplete()


def test_every_shard_of_an_index_has_to_be_there_and_whole(run_directory: Path) -> None:
    home = run_directory / "checkpoint-5"
    home.mkdir()
    files = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for number, file in enumerate(files):
        save_file({f"w{number}": torch.ones(30, 30)}, home / file)
    assert "no index" in only(run_directory).why_incomplete()
    index = {"weight_map": {f"w{number}": file for number, file in enumerate(files)}}
    (home / "model.safetensors.index.json").write_text(json.dumps(index))
    assert only(run_directory).why_incomplete() == ""
    cut(home / files[1])
    assert "incomplete" in only(run_directory).why_incomplete()
    (home / files[1]).unlink()
    assert "missing" in only(run_directory).why_incomplete()


@pytest.mark.parametrize("damage", ["shard cut", "shard gone", "metadata gone", "metadata cut"])
def test_a_distributed_checkpoint_in_the_middle_of_being_written(run_directory: Path, damage: str) -> None:
    home = run_directory / "step-5"
    dcp.save({"model": W}, checkpoint_id=home, no_dist=True)
    assert only(run_directory).why_incomplete() == ""
    part = home / ".metadata" if "metadata" in damage else next(home.glob("*.distcp"))
    if "gone" in damage:
        part.unlink()
    else:
        cut(part)
    assert only(run_directory).why_incomplete() != ""


def test_an_optimizers_distributed_checkpoint_beside_the_weights_counts_too(run_directory: Path) -> None:
    home = run_directory / "checkpoint-5"
    for part in ("pytorch_model_fsdp_0", "optimizer_0"):
        dcp.save({"model": W}, checkpoint_id=home / part, no_dist=True)
    assert only(run_directory).why_incomplete() == ""
    cut(next((home / "optimizer_0").glob("*.distcp")))
    assert "incomplete" in only(run_directory).why_incomplete()


def test_looking_runs_nothing_that_metadata_name(run_directory: Path, tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "ran",)  # type: ignore[return-value]

    (run_directory / "step-5").mkdir()
    (run_directory / "step-5" / ".metadata").write_bytes(pickle.dumps(Payload()))
    only(run_directory).why_incomplete()
    assert not (tmp_path / "ran").exists()
