import pytest
import torch
from safetensors.torch import save_file

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.checkpoints.layers import is_lookup_table, lasting_layers, layer_entries
from fromage_cli.errors import UsageError


def saved(path, tensors):
    (save_file if path.suffix == ".safetensors" else torch.save)(tensors, path)
    return open_checkpoint(path)


def test_layers_are_the_floating_matrices(tmp_path):
    tensors = {"a.w": torch.ones(2, 2), "a.b": torch.ones(2), "b.w": torch.ones(2, 2), "n": torch.ones(2, 2).int()}
    checkpoint = saved(tmp_path / "c.safetensors", {**tensors, "empty": torch.ones(0, 2)})
    assert set(layer_entries(checkpoint)) == {"a.w", "b.w"}
    assert set(layer_entries(checkpoint, tensors="all")) == {"a.w", "a.b", "b.w"}
    assert set(layer_entries(checkpoint, include=["a.*"])) == set(layer_entries(checkpoint, exclude=["b.*"])) == {"a.w"}


def test_layers_that_last(tmp_path):
    tied = torch.ones(2, 3)
    first = saved(tmp_path / "a.safetensors", {"w": torch.ones(2, 2), "h": torch.ones(2, 2), "t": tied})
    last = saved(tmp_path / "b.pt", {"w": torch.ones(2, 2), "h": torch.ones(2, 4), "t": tied, "u": tied})
    names, notes = lasting_layers([first, last])
    assert names == ("w", "t") and notes == ("Left out 1 layer that some checkpoint lacks or has in another shape: h.",)
    assert lasting_layers([last]) == (("w", "h", "t"), ())


def test_a_run_without_layers_is_refused(tmp_path):
    checkpoint = saved(tmp_path / "a.safetensors", {"w": torch.ones(2, 2), "b": torch.ones(2)})
    with pytest.raises(UsageError, match="No layer is left"):
        lasting_layers([checkpoint], include=["b"])


def test_a_lookup_table_is_told_by_its_module_where_that_says_it() -> None:
    for name, kind, table in (
        ("unembed.weight", "Linear", False),
        ("unembed.weight", None, True),
        ("C.weight", "Embedding", True),
        ("pos_embed", "VisionTransformer", True),
        ("rnn.weight_hh_l0", "LSTM", False),
    ):
        assert is_lookup_table(name, kind) is table
