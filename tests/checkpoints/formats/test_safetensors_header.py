import json
import random

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.errors import InputError, UnsafeError


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
        ({"a": tensor(shape=(3,))}, 8, "needs 12 bytes, its offsets span 8"),
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
        with pytest.raises(InputError, match=rf"incomplete: expects \d+ bytes, has {length}\."):
            open_checkpoint(path)
    path.write_bytes(whole[:5])
    with pytest.raises(InputError, match="incomplete: expects 8 bytes, has 5"):
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
