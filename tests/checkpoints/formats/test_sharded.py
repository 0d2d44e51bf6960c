import json

import pytest
import torch
from safetensors.torch import save_file

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.checkpoints.reading.replicas import Difference, compare_replicas
from fromage_cli.errors import InputError, UnsafeError, UsageError

FILES = {"a.weight": "model-00001-of-00002.safetensors", "b.weight": "model-00002-of-00002.safetensors"}


def write_index(directory, weight_map, metadata=None, name="model.safetensors.index.json"):
    (directory / name).write_text(json.dumps({"metadata": metadata or {}, "weight_map": weight_map}))
    return directory / name


@pytest.fixture
def index(tmp_path):
    for value, (name, file) in enumerate(FILES.items()):
        save_file({name: torch.full((2,), float(value))}, tmp_path / file)
    return write_index(tmp_path, FILES, {"total_size": 16})


def test_an_index_and_its_directory_are_one_checkpoint(index):
    for path in (index, index.parent):
        checkpoint = open_checkpoint(path)
        assert checkpoint.format == "safetensors-sharded"
        assert checkpoint.path == path
        assert checkpoint.weights == index
        assert {name: tensor.tolist() for name, tensor in checkpoint.items()} == {
            "a.weight": [0, 0],
            "b.weight": [1, 1],
        }
        assert checkpoint.metadata == {"total_size": "16"}
        assert checkpoint.step is None


def test_pytorch_shards(tmp_path):
    shared = torch.ones(3)
    torch.save({"module.a": shared, "module.c": shared}, tmp_path / "pytorch_model-00001-of-00002.bin")
    torch.save({"module.b": torch.zeros(2), "extra": torch.ones(1)}, tmp_path / "pytorch_model-00002-of-00002.bin")
    shards = {"a": 1, "b": 2, "c": 1}
    weight_map = {f"module.{name}": f"pytorch_model-0000{shard}-of-00002.bin" for name, shard in shards.items()}
    write_index(tmp_path, weight_map, name="pytorch_model.bin.index.json")
    checkpoint = open_checkpoint(tmp_path)
    assert (checkpoint.format, list(checkpoint.entries)) == ("torch-sharded", ["a", "b", "c"])
    assert checkpoint.tied == (("a", "c"),)
    assert "'extra'" in checkpoint.notes[0]


def test_a_missing_shard_is_named(index):
    (index.parent / FILES["b.weight"]).unlink()
    with pytest.raises(InputError, match=r"1 of 2 shards are missing: 'model-00002-of-00002\.safetensors'"):
        open_checkpoint(index.parent)


def test_a_truncated_shard_is_named(index):
    shard = index.parent / FILES["b.weight"]
    shard.write_bytes(shard.read_bytes()[:-2])
    with pytest.raises(InputError, match=r"model-00002-of-00002.*incomplete"):
        open_checkpoint(index)


def test_a_tensor_that_is_not_in_its_shard_is_named(index):
    write_index(index.parent, {**FILES, "c": FILES["a.weight"]})
    with pytest.raises(InputError, match="tensor 'c' is in 'model-00001-of-00002"):
        open_checkpoint(index)


@pytest.mark.parametrize(
    "file", ["../x.safetensors", "/etc/passwd", "a/../../x", "C:\\x", "..\\x", "\\\\host\\x", "", ".", "a\0b"]
)
def test_paths_out_of_the_directory_are_refused(index, file):
    write_index(index.parent, {"a.weight": file})
    with pytest.raises((UnsafeError, InputError)) as caught:
        open_checkpoint(index)
    if file != ".":
        assert isinstance(caught.value, UnsafeError)
        assert "outside its directory" in caught.value.message


def test_links_out_of_the_directory_are_refused(index, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for link in (FILES["a.weight"], "directory"):
        target = elsewhere / link
        (index.parent / FILES["b.weight"]).with_name(link).unlink(missing_ok=True)
        (index.parent / link).symlink_to(target if link != "directory" else elsewhere)
    save_file({"a.weight": torch.ones(1)}, elsewhere / FILES["a.weight"])
    with pytest.raises(UnsafeError, match="outside its directory"):
        open_checkpoint(index)
    write_index(index.parent, {"a.weight": f"directory/{FILES['a.weight']}"})
    with pytest.raises(UnsafeError, match="outside its directory"):
        open_checkpoint(index)


def test_links_that_go_in_circles_are_an_error(index):
    shard = index.parent / FILES["a.weight"]
    shard.unlink()
    shard.symlink_to(shard)
    with pytest.raises(InputError):
        open_checkpoint(index)


def test_the_links_of_a_hugging_face_cache_are_followed(index):
    snapshot = index.parent / "models--x" / "snapshots" / "0123"
    blobs = index.parent / "models--x" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, name in enumerate((index.name, *FILES.values())):
        (index.parent / name).rename(blobs / str(number))
        (snapshot / name).symlink_to(f"../../blobs/{number}")
    assert open_checkpoint(snapshot).tensor("b.weight").tolist() == [1, 1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ("{}", "no 'weight_map'"),
        ('{"weight_map": {}}', "no 'weight_map'"),
        ('{"weight_map": {"a": 3}}', "no 'weight_map'"),
        ('{"a":' * 50_000, "not JSON"),
    ],
)
def test_a_bad_index_says_what_is_wrong(index, text, words):
    index.write_text(text)
    with pytest.raises(InputError, match=words):
        open_checkpoint(index)


def test_a_shard_that_is_a_directory_or_an_index(index):
    write_index(index.parent, {"a.weight": "deep"})
    (index.parent / "deep").mkdir()
    with pytest.raises(InputError, match="is a directory; expected a file"):
        open_checkpoint(index)
    write_index(index.parent, {"a.weight": index.name})
    with pytest.raises(InputError):
        open_checkpoint(index)


def test_a_key_has_no_meaning(index):
    with pytest.raises(UsageError, match="--key"):
        open_checkpoint(index, "model")


@pytest.mark.parametrize("kind", ["safetensors", "torch", "torch-legacy"])
def test_a_tensor_in_several_shards_is_a_replica(tmp_path, kind):
    def save(tensors, name):
        if kind == "safetensors":
            return save_file(tensors, tmp_path / name)
        return torch.save(tensors, tmp_path / name, _use_new_zipfile_serialization=kind == "torch")

    once, twice = torch.ones(3), torch.arange(12.0).reshape(4, 3)
    save({"once": once, "twice": twice}, "a")
    save({"twice": twice.clone(), "other": once.clone(), "unlisted": once.clone()}, "b")
    index = write_index(tmp_path, {"once": "a", "twice": "a", "other": "b"})
    (replica,) = open_checkpoint(index).replicas
    assert (replica.name, [copy.files[0].name for copy in replica.copies]) == ("twice", ["a", "b"])
    assert compare_replicas([replica])[0].difference == Difference()
    changed = twice.clone()
    changed[2, 1] = 14.0  # for 7
    save({"twice": changed, "other": once.clone()}, "b")
    (found,) = compare_replicas(open_checkpoint(index).replicas)
    assert found.difference == Difference(1, 0.5)
    save({"twice": torch.ones(2), "other": once.clone()}, "b")
    assert compare_replicas(open_checkpoint(index).replicas)[0].difference is None
