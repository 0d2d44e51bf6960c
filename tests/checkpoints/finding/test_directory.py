import pytest
import torch
from safetensors.torch import save_file

from fromage_cli.checkpoints import find_series, open_checkpoint
from fromage_cli.checkpoints.finding.directory import may_be_weights
from fromage_cli.errors import InputError

STATE = {"w": torch.ones(2)}


def save(path, state=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    (save_file if path.suffix == ".safetensors" else torch.save)(state or STATE, path)


@pytest.mark.parametrize(
    ("files", "taken"),
    [
        (["model.safetensors", "pytorch_model.bin", "other.safetensors"], "model.safetensors"),
        (["pytorch_model.bin", "training_args.bin", "x.pt"], "pytorch_model.bin"),
        (["weights.safetensors", "batch.safetensors", "best.pt"], "weights.safetensors"),
        (["final.pt", "optimizer.pt", "scheduler.pt", "rng_state.pth", "rng_state_3.pth", "scaler.pt"], "final.pt"),
        (["mp_rank_00_model_states.pt", "expp_rank_0_optim_states.pt"], "mp_rank_00_model_states.pt"),
        ([".hidden.pt", "net.ckpt"], "net.ckpt"),
    ],
)
def test_a_directory_that_is_itself_a_checkpoint(tmp_path, files, taken):
    for name in files:
        save(tmp_path / name)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.weights == tmp_path / taken
    assert checkpoint.path == tmp_path
    assert checkpoint.notes == ()
    assert find_series(tmp_path).paths == (tmp_path,)


def test_a_checkpoint_with_steps_below_it_is_itself(tmp_path):
    save(tmp_path / "model.safetensors")
    save(tmp_path / "checkpoint-500" / "model.safetensors")
    assert open_checkpoint(tmp_path).weights == tmp_path / "model.safetensors"


def test_the_step_of_a_directory_is_in_its_name(tmp_path):
    save(tmp_path / "checkpoint-500" / "model.safetensors")
    assert open_checkpoint(tmp_path / "checkpoint-500").step == 500
    assert open_checkpoint(tmp_path / "checkpoint-500" / "model.safetensors").step == 500


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "holds no weights; it is empty"),
        (["config.json", "optimizer.pt"], "holds no weights; found: 'config.json', 'optimizer.pt'"),
        (["a.pt", "b.pt"], "2 files that may be weights, with no steps in their names: 'a.pt', 'b.pt'"),
        (["__0_0.distcp", ".meta"], "it holds 1 shard of a torch.distributed.checkpoint but no .metadata"),
        (["model-00001-of-00002.safetensors"], "1 shard but no index"),
    ],
)
def test_a_directory_without_clear_weights_says_what_it_holds(tmp_path, names, words):
    for name in names:
        (tmp_path / name).write_bytes(b"{}")
    for action in (open_checkpoint, find_series):
        with pytest.raises(InputError) as caught:
            action(tmp_path)
        assert words in caught.value.message
        assert caught.value.hint


@pytest.mark.parametrize(
    "name", ["val_batch.pt", "step-100-optimizer.pt", "batch_3.pt", "Optimizer.pt", "random_states_0.pt"]
)
def test_other_state_is_not_weights(name):
    assert not may_be_weights(name, (".pt",))


@pytest.mark.parametrize("name", ["batchnorm.pt", "large_batch_run.pt", "optimal.pt", "model.pt"])
def test_similar_names_are(name):
    assert may_be_weights(name, (".pt",))


def test_a_tag_without_a_number_is_found_through_the_file_that_names_it(tmp_path):
    save(tmp_path / "best" / "mp_rank_00_model_states.pt")
    (tmp_path / "latest").write_text("best\n")
    assert open_checkpoint(tmp_path).weights == tmp_path / "best" / "mp_rank_00_model_states.pt"
    save(tmp_path / "global_step7" / "mp_rank_00_model_states.pt")
    assert open_checkpoint(tmp_path).step == 7


@pytest.mark.parametrize("tag", ["../best", "/etc", "nowhere", "", "a\0b", "x" * 5000])
def test_a_tag_that_leads_nowhere_or_out_is_not_followed(tmp_path, tag):
    save(tmp_path.parent / "best" / "model.safetensors")
    (tmp_path / "latest").write_text(tag)
    with pytest.raises(InputError, match="holds no weights"):
        open_checkpoint(tmp_path)


def test_one_rank_of_megatrons_is_taken_and_several_are_refused(tmp_path):
    save(tmp_path / "iter_0000100" / "mp_rank_00" / "model_optim_rng.pt", {"model": STATE, "iteration": 100})
    checkpoint = open_checkpoint(tmp_path)
    assert (checkpoint.step, checkpoint.key) == (100, "model")
    save(tmp_path / "iter_0000100" / "mp_rank_01" / "model_optim_rng.pt", {"model": STATE})
    with pytest.raises(InputError, match="tensor- or pipeline-parallel shards of 2 ranks") as caught:
        open_checkpoint(tmp_path / "iter_0000100")
    assert "Merge them" in caught.value.hint
