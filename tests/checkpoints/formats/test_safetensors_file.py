import json
import os
import random

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save, save_file

from fromage_cli.checkpoints import TensorEntry, open_checkpoint
from fromage_cli.errors import InputError, UnsafeError, UsageError

DTYPES = [
    "float64",
    "float32",
    "float16",
    "bfloat16",
    "float8_e4m3fn",
    "float8_e5m2",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "bool",
    "complex64",
]


def content_of(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("shape", [(3, 5), (), (0, 4), (1,)])
def test_round_trips_bit_exactly(tmp_path, name, shape):
    dtype = getattr(torch, name)
    raw = torch.randint(0, 2 if name == "bool" else 256, (*shape, dtype.itemsize), dtype=torch.uint8)
    original = raw.reshape(-1).view(dtype).reshape(shape)
    save_file({"w": original, "other": torch.ones(3)}, tmp_path / "x.safetensors")
    checkpoint = open_checkpoint(tmp_path / "x.safetensors")
    assert checkpoint.entries["w"] == TensorEntry("w", name, shape)
    read = checkpoint.tensor("w")
    assert (read.dtype, tuple(read.shape)) == (dtype, shape)
    assert content_of(read) == content_of(original)


def test_each_tensor_has_memory_of_its_own(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"w": torch.ones(4)}, path)
    checkpoint = open_checkpoint(path)
    checkpoint.tensor("w").zero_()
    assert checkpoint.tensor("w").tolist() == [1.0] * 4


def test_metadata_step_and_parameters(tmp_path):
    path = tmp_path / "step-5.safetensors"
    save_file({"w": torch.ones(4, 2), "n": torch.tensor(3)}, path, metadata={"global_step": "120", "lr": "0.1"})
    checkpoint = open_checkpoint(path)
    assert (checkpoint.step, checkpoint.parameters, checkpoint.format) == (120, 8, "safetensors")
    assert checkpoint.metadata == {"global_step": "120", "lr": "0.1"}
    assert (checkpoint.key, checkpoint.tied, checkpoint.stripped, checkpoint.notes) == (None, (), (), ())


def test_a_file_that_changes_after_it_was_opened_is_not_read(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"w": torch.ones(4)}, path)
    checkpoint = open_checkpoint(path)
    os.truncate(path, path.stat().st_size - 4)
    with pytest.raises(InputError, match="changed while"):
        checkpoint.tensor("w")


def test_an_unknown_name_gets_the_nearest(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"layer.weight": torch.ones(4), "layer.bias": torch.ones(1)}, path)
    with pytest.raises(InputError, match=r"no tensor 'layer\.wieght'") as caught:
        open_checkpoint(path).tensor("layer.wieght")
    assert "'layer.weight'" in caught.value.hint


def test_a_key_has_no_meaning(tmp_path):
    save_file({"w": torch.ones(4)}, tmp_path / "x.safetensors")
    with pytest.raises(UsageError, match="--key 'model'"):
        open_checkpoint(tmp_path / "x.safetensors", key="model")


def test_names_are_kept_as_they_are(tmp_path):
    name = "a\x1b[31m [red]\n.weight"
    save_file({name: torch.ones(1)}, tmp_path / "x.safetensors")
    assert list(open_checkpoint(tmp_path / "x.safetensors").entries) == [name]


def file_with(tmp_path, header, data=b"", name="x.safetensors"):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = tmp_path / name
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def tensor(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    ("header", "size", "words"),
    [
        ({"a": tensor(dtype="F7")}, 8, "dtype 'F7'"),
        ({"a": tensor(dtype=["F32"])}, 8, "dtype"),
        ({"a": tensor(shape=(3,))}, 8, "needs 12 bytes, but its offsets span 8"),
        ({"a": tensor(shape=(-2,))}, 8, "shape"),
        ({"a": tensor(shape=(2.0,))}, 8, "shape"),
        ({"a": tensor(shape=(True, 2))}, 8, "shape"),
        ({"a": {"dtype": "F32", "data_offsets": [0, 8]}}, 8, "shape None"),
        ({"a": tensor(shape=(0, 2**62, 4), offsets=(0, 0))}, 0, "shape"),
        ({"a": tensor(offsets=(8, 0))}, 8, "offsets"),
        ({"a": tensor(offsets=(0, 4, 8))}, 8, "offsets"),
        ({"a": tensor(offsets=(4, 12))}, 12, "gap"),
        ({"a": tensor(), "b": tensor(offsets=(4, 12))}, 12, "overlaps"),
        ({"a": tensor()}, 9, "1 bytes follow"),
        ({"a": 3}, 0, "not an object"),
        ({"a": {"b": tensor()}}, 8, "dtype None"),
        ({"__metadata__": {"step": 3}}, 0, "object of strings"),
        ({"__metadata__": []}, 0, "object of strings"),
        (b'{"a": {}, "a": {}}', 0, "names 'a' twice"),
        (b'{"a\\ud800": {}}', 0, "not valid Unicode"),
        (b"{nonsense", 0, "not JSON"),
        (b'{"\xff": 1}', 0, "not JSON"),
        (b" {}", 0, "begin with '{'"),
        (b'{"a":' * 50_000, 0, "not JSON"),
        (b'{"a": {"shape": [' + b"9" * 5000 + b"]}}", 0, "not JSON"),
    ],
)
def test_what_breaks_the_format_is_named(tmp_path, header, size, words):
    with pytest.raises(InputError) as caught:
        open_checkpoint(file_with(tmp_path, header, b"\0" * size))
    assert words in caught.value.message
    assert "not a valid safetensors file" in caught.value.message
    assert caught.value.hint


def test_a_truncated_file_says_how_many_bytes_are_missing(tmp_path):
    path = file_with(tmp_path, {"a": tensor()}, b"\0" * 8)
    whole = path.read_bytes()
    for length in (len(whole) - 1, len(whole) - 8, 20):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=rf"incomplete: it should have \d+ bytes, but has {length}\."):
            open_checkpoint(path)
    path.write_bytes(whole[:5])
    with pytest.raises(InputError, match="incomplete: it should have 8 bytes, but has 5"):
        open_checkpoint(path)


def test_a_header_beyond_the_limit_is_refused_unread(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes((2**60).to_bytes(8, "little") + b"{}")
    with pytest.raises(InputError, match="more than the format's"):
        open_checkpoint(path)


def test_a_file_without_tensors_is_an_error(tmp_path):
    with pytest.raises(InputError, match="holds no tensors"):
        open_checkpoint(file_with(tmp_path, {}))


VALID = save(
    {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2, dtype=torch.float16), "n": torch.tensor(3)},
    metadata={"step": "7"},
)


def mutated(seed):
    generator = random.Random(seed)
    content = bytearray(VALID)
    for _ in range(generator.choice((1, 1, 2, 4))):
        index = generator.randrange(len(content))
        action = generator.random()
        if action < 0.6:
            content[index] = generator.randrange(256)
        elif action < 0.8:
            del content[index : index + generator.choice((1, 3))]
        else:
            content.insert(index, generator.choice(b'0189{}[],:"\\ \xff\x00'))
    return bytes(content)


def test_a_mutated_file_opens_as_the_reference_reads_it_or_is_refused(tmp_path):
    path, seeds, opened = tmp_path / "mutated.safetensors", range(1500), 0
    for seed in seeds:
        content = mutated(seed)
        path.write_bytes(content)
        try:
            tensors = dict(open_checkpoint(path).items())
        except (InputError, UnsafeError):
            continue
        opened += 1
        try:
            expected = load(content)
        except SafetensorError as error:
            raise AssertionError(f"opened a file that the reference refuses: seed {seed}") from error
        assert set(tensors) == set(expected)
        for name, value in expected.items():
            assert tensors[name].dtype == value.dtype
            assert tensors[name].shape == value.shape
            assert tensors[name].numpy().tobytes() == value.numpy().tobytes()
    assert 50 < opened < len(seeds)
