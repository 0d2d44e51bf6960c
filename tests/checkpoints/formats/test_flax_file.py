import numpy
import pytest
import torch

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.checkpoints.formats import flax_file
from fromage_cli.errors import InputError, UsageError
from tests.checkpoints.formats.flax_bytes import ARRAY, extension, pack

PARAMS = {
    "dense": {"kernel": torch.arange(40.0).reshape(5, 8), "bias": torch.ones(8, dtype=torch.bfloat16)},
    "norm": {"scale": torch.tensor(2.0), "none": torch.empty(0, 3)},
}
NAMES = {f"{outer}.{inner}": tensor for outer, members in PARAMS.items() for inner, tensor in members.items()}


@pytest.fixture
def written(tmp_path):
    def write(content, name="flax_model.msgpack"):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else pack(content))
        return tmp_path / name

    return write


@pytest.mark.parametrize(
    ("content", "key", "step"),
    [
        (PARAMS, None, None),
        ({"params": PARAMS, "step": 40, "opt_state": {"0": {"mu": PARAMS, "count": 40}}}, "params", 40),
        ({"step": numpy.int32(40), "params": PARAMS, "batch_stats": {"norm": {"mean": torch.ones(3)}}}, "params", 40),
    ],
)
def test_parameters_alone_and_a_training_state(written, content, key, step):
    path = written(content)
    for place in (path, path.parent):
        checkpoint = open_checkpoint(place)
        assert (checkpoint.format, checkpoint.key, checkpoint.step) == ("flax-msgpack", key, step)
        assert list(checkpoint.entries) == list(NAMES)
        assert checkpoint.also_holds.get("step") == step
        for name, tensor in checkpoint.items():
            assert (tensor.dtype, tensor.shape) == (NAMES[name].dtype, NAMES[name].shape)
            assert torch.equal(tensor, NAMES[name])


@pytest.mark.parametrize("name", ["checkpoint_300", "model.bin"])
def test_a_file_is_known_by_its_content(written, name):
    checkpoint = open_checkpoint(written({"params": PARAMS}, name))
    assert checkpoint.step == (300 if name.startswith("checkpoint") else None)
    assert checkpoint.parameters == 49


def test_a_key_picks_another_dictionary(written):
    path = written({"params": PARAMS, "ema_params": {"w": torch.zeros(2)}})
    assert open_checkpoint(path, "ema_params").parameters == 2
    assert open_checkpoint(path, ema=True).parameters == 2
    with pytest.raises(UsageError, match="names no dictionary"):
        open_checkpoint(path, "nothing")


def test_a_large_array_in_parts(written):
    parts = {"__msgpack_chunked_array__": True, "shape": {"0": 5, "1": 8}}
    parts["chunks"] = {str(index): part for index, part in enumerate(PARAMS["dense"]["kernel"].flatten().split(13))}
    path = written({"params": {"w": parts}})
    assert torch.equal(open_checkpoint(path).tensor("w"), PARAMS["dense"]["kernel"])
    parts["chunks"].pop("1")
    with pytest.raises(InputError, match="do not match its size"):
        open_checkpoint(written({"params": {"w": parts}}))


def test_every_truncation_is_told(written):
    whole = pack({"params": PARAMS, "step": 3})
    for length in range(3, len(whole)):
        with pytest.raises(InputError, match=r"incomplete|no weights|no checkpoint"):
            open_checkpoint(written(whole[:length]))


def array(shape, dtype, content):
    return b"\x81" + pack("w") + extension(ARRAY, pack([shape, dtype, content]))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (array([2**61, 8], "float32", b""), "an array of shape"),
        (array([-1], "float32", b""), "an array of shape"),
        (array([2], "object", b"12345678"), "dtype 'object'"),
        (array([2], "float32", b"1234"), "needs 8 bytes but has 4"),
        (array([2**30, 2**30], "float32", b"1234"), "needs"),
        (b"\x81" + pack("w") + extension(ARRAY, pack(5)), "without shape"),
        (b"\x81" + pack("w") + b"\x81\xa1a" * 80 + b"\xc0", "more than 64 levels"),
        (b"\x81" + pack("w") + b"\x91" * 80 + b"\xc0", "more than 64 levels"),
        (b"\x81" + pack("w") + b"\xc1", "the unknown code 0xc1"),
        (b"\x82" + pack("w") + b"\xc0\x80\xc0", "as a key"),
        (b"\xdf\xff\xff\xff\xff" + pack("w"), "incomplete"),
        (b"\x81" + pack("w") + b"\xc6\xff\xff\xff\xff", "incomplete"),
    ],
)
def test_hostile_files_are_refused_at_once(written, content, words):
    with pytest.raises(InputError, match=words):
        open_checkpoint(written(content))


def test_extensions_inside_of_extensions_have_an_end(written):
    content = pack(None)
    for _ in range(2000):
        content = extension(ARRAY, content)
    with pytest.raises(InputError, match="levels"):
        open_checkpoint(written(b"\x81" + pack("w") + content))


def test_values_of_other_kinds_are_no_weights(written):
    content = {"a": [1, -1, 300, 0.5, None, True, b"x" * 100], "b": {"c": "text" * 20}, "w": torch.ones(2)}
    checkpoint = open_checkpoint(written(content))
    assert list(checkpoint.entries) == ["w"]
    assert flax_file.read_flax(checkpoint.path).format == "flax-msgpack"
