import argparse
import collections
import os
import pickle
import shutil
import warnings
import zipfile

import numpy
import pytest
import torch

from fromage_cli.checkpoints import TensorEntry, open_checkpoint
from fromage_cli.checkpoints.reading.reductions import measure_magnitudes
from fromage_cli.errors import InputError, UnsafeError

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}
LEGACY = {"_use_new_zipfile_serialization": False}
DTYPES = (torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.int64, torch.bool, torch.complex64)


class Payload:
    """Touches a file when an unrestricted unpickler reads it."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.pt"


@pytest.mark.parametrize(("form", "options"), [("torch", {}), ("torch-legacy", LEGACY)])
def test_round_trip(path, form, options):
    torch.save(collections.OrderedDict(STATE), path, **options)
    checkpoint = open_checkpoint(path)
    assert checkpoint.format == form
    assert next(iter(checkpoint.entries.values())) == TensorEntry("a.weight", "float32", (2, 3))
    assert checkpoint.key is None
    assert all(torch.equal(tensor, STATE[name]) for name, tensor in checkpoint.items())
    checkpoint.tensor("a.bias").zero_()
    assert checkpoint.tensor("a.bias").tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("dtype", "options"),
    [(dtype, {}) for dtype in DTYPES]
    + [(dtype, LEGACY) for dtype in DTYPES if dtype.itemsize > 1 or not dtype.is_floating_point],
)
def test_stored_dtypes_are_kept(path, dtype, options):
    original = torch.arange(2 * 4 * dtype.itemsize, dtype=torch.uint8).remainder(2).view(dtype)
    torch.save({"w": original}, path, **options)
    read = open_checkpoint(path).tensor("w")
    assert read.dtype == dtype
    assert read.view(torch.uint8).tolist() == original.view(torch.uint8).tolist()


def test_parameters_views_and_strides(path):
    weight = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    torch.save({"w": weight, "t": weight.detach().T, "row": weight.detach()[1]}, path)
    checkpoint = open_checkpoint(path)
    assert type(checkpoint.tensor("w")) is torch.Tensor
    assert not checkpoint.tensor("w").requires_grad
    assert checkpoint.tensor("t").is_contiguous()
    assert checkpoint.tensor("t").tolist() == weight.T.tolist()
    assert checkpoint.tensor("row").untyped_storage().nbytes() == 12
    assert checkpoint.tied == ()


@pytest.mark.parametrize("options", [{}, LEGACY])
def test_tied_tensors_are_told_and_counted_once(path, options):
    shared = torch.randn(4, 2)
    torch.save({"module.a": shared, "b": torch.ones(3), "module.c": shared}, path, **options)
    checkpoint = open_checkpoint(path)
    assert checkpoint.tied == (("a", "c"),)
    assert checkpoint.parameters == 11


@pytest.mark.parametrize("options", [{}, LEGACY])
def test_a_pickle_that_only_calls_is_refused_and_nothing_happens(path, tmp_path, options):
    marker = tmp_path / "marker"
    torch.save(Payload(marker), path, **options)
    with pytest.raises(UnsafeError, match="Nothing was executed") as caught:
        open_checkpoint(path)
    assert "posix.system" in caught.value.message
    assert "--safety" in caught.value.hint
    assert not marker.exists()


@pytest.mark.parametrize("options", [{}, LEGACY])
def test_weights_beside_a_call_are_read_and_the_call_is_told(path, tmp_path, options):
    marker = tmp_path / "marker"
    torch.save({"state_dict": STATE, "hyper_parameters": {"x": [Payload(marker)]}}, path, **options)
    checkpoint = open_checkpoint(path)
    assert all(torch.equal(tensor, STATE[name]) for name, tensor in checkpoint.items())
    assert "'posix.system'" in checkpoint.notes[-1]
    assert [(named.dotted, named.uses) for named in checkpoint.names if named.module == "posix"] == [
        ("posix.system", ("import", "call"))
    ]
    assert not marker.exists()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles_of_every_protocol_are_read_and_nothing_is_called(path, tmp_path, protocol):
    marker = tmp_path / "marker"
    path.write_bytes(pickle.dumps({"w": Payload(marker)}, protocol=protocol))
    with pytest.raises(UnsafeError, match=r"posix\.system"):
        open_checkpoint(path)
    torch.save({"w": Payload(marker), **STATE}, path, pickle_protocol=protocol)
    assert list(open_checkpoint(path).entries) == list(STATE)
    assert not marker.exists()


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
        self.register_buffer("mask", torch.ones(3), persistent=False)
        self.tied = self.layers[0]


@pytest.mark.parametrize("options", [{}, LEGACY])
def test_a_whole_module_is_read_as_its_state_dict(path, options):
    net = Net()
    with warnings.catch_warnings(action="ignore"):
        torch.save({"model": net, "epoch": 3}, path, **options)
    checkpoint = open_checkpoint(path)
    expected = net.state_dict()
    assert list(checkpoint.entries) == list(expected)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in checkpoint.items())
    assert ("layers.0.weight", "tied.weight") in checkpoint.tied
    assert any("Did not import" in note for note in checkpoint.notes)


class Settings(dict):
    pass


def test_values_of_unknown_classes_are_data(path):
    settings = Settings(lr=0.1)
    settings.weights = {"w": torch.arange(3.0)}
    torch.save({"hyper_parameters": settings, "state_dict": STATE, "of": argparse.Namespace(w=torch.ones(2))}, path)
    assert open_checkpoint(path, "hyper_parameters.weights").tensor("w").tolist() == [0.0, 1.0, 2.0]
    assert open_checkpoint(path, "of").tensor("w").tolist() == [1.0, 1.0]
    assert open_checkpoint(path).key == "state_dict"


def test_numbers_of_numpy_are_numbers(path):
    torch.save({"w": torch.ones(2), "loss": numpy.float64(0.25), "step": numpy.int64(7).item()}, path)
    assert open_checkpoint(path).metadata == {"loss": "0.25", "step": "7"}


def test_a_pickle_of_tensors_that_torch_save_did_not_write(path):
    path.write_bytes(pickle.dumps({"a": torch.arange(3.0), "b": torch.ones(2, dtype=torch.int16)}, protocol=2))
    checkpoint = open_checkpoint(path)
    assert checkpoint.tensor("a").tolist() == [0.0, 1.0, 2.0]
    assert checkpoint.tensor("b").dtype == torch.int16


def test_a_pickle_without_tensors(path):
    path.write_bytes(pickle.dumps({"a": 1}, protocol=2))
    with pytest.raises(InputError, match="holds a dictionary without tensors: it holds 'a'"):
        open_checkpoint(path)


def views():
    base = torch.arange(24.0).reshape(2, 3, 4)
    complex_values = torch.view_as_complex(torch.arange(8.0).reshape(4, 2))
    return {
        "base": base,
        "transposed": base.transpose(0, 2),
        "offset": base[1, 1:, ::2],
        "expanded": torch.arange(3.0).expand(4, 3),
        "scalar": torch.tensor(7, dtype=torch.int32),
        "empty": torch.empty(0, 5),
        "empty strided": torch.empty(3, 0, 2)[:, :, ::2],
        "conjugate": complex_values.resolve_conj(),
        "negative zero": torch.tensor([-0.0, float("nan"), float("inf")]),
        "parameter": torch.nn.Parameter(base[0]),
        "buffer": torch.nn.Buffer(base[1]),
        "with attributes": _with_attribute(base[:, 0]),
    }


def _with_attribute(tensor):
    tensor = tensor.clone()
    tensor.mark = "x"
    return tensor


@pytest.mark.parametrize("options", [{}, LEGACY])
def test_every_view_is_bit_for_bit_what_torch_loads(path, options):
    torch.save(views(), path, **options)
    checkpoint, expected = open_checkpoint(path), torch.load(path, weights_only=True)
    assert list(checkpoint.entries) == list(expected)
    for name, tensor in expected.items():
        read = checkpoint.tensor(name)
        assert (read.dtype, read.shape, read.is_contiguous()) == (tensor.dtype, tensor.shape, True), name
        assert read.numpy().tobytes() == tensor.detach().contiguous().numpy().tobytes(), name


def test_byte_order_is_that_of_the_file(path, tmp_path):
    values = {
        "w": torch.tensor([1.5, -2.0]),
        "i": torch.tensor([1, -2], dtype=torch.int16),
        "c": torch.tensor([1 + 2j]),
    }
    torch.save(values, path)
    with zipfile.ZipFile(path) as plain, zipfile.ZipFile(tmp_path / "big.pt", "w") as big:
        for member in plain.namelist():
            content = plain.read(member)
            if member.endswith("byteorder"):
                content = b"big"
            elif "/data/" in member:
                width = 2 if member.endswith("/1") else 4  # complex numbers are two of four bytes
                content = b"".join(content[i : i + width][::-1] for i in range(0, len(content), width))
            big.writestr(member, content)
    checkpoint = open_checkpoint(tmp_path / "big.pt")
    assert all(torch.equal(checkpoint.tensor(name), value) for name, value in values.items())


def test_a_changed_byte_is_noticed_where_torch_loads_it(path):
    torch.save({"a": torch.ones(1000), "b": torch.zeros(1000)}, path)
    content = bytearray(path.read_bytes())
    content[content.index(torch.ones(1000).numpy().tobytes()) + 401] ^= 1
    path.write_bytes(content)
    assert torch.load(path, weights_only=True)["a"][100] != 1.0
    checkpoint = open_checkpoint(path)
    assert checkpoint.tensor("b").tolist() == [0.0] * 1000
    with pytest.raises(InputError, match="checksum of 'x/data/0'"):
        checkpoint.tensor("a")
    with pytest.raises(InputError, match="checksum of 'x/data/0'"):
        measure_magnitudes(checkpoint)


def test_contiguous_tensors_have_a_place_in_the_file(path):
    torch.save(views(), path)
    checkpoint = open_checkpoint(path)
    assert {"base", "scalar", "parameter", "buffer"} <= set(checkpoint.spans)
    assert not {"transposed", "offset", "expanded", "empty"} & set(checkpoint.spans)
    content = path.read_bytes()
    for name, span in checkpoint.spans.items():
        assert content[span.begin : span.end] == checkpoint.tensor(name).numpy().tobytes()


def test_a_file_without_checksums_is_read_and_told(path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(STATE, path)
    finally:
        torch.serialization.set_crc32_options(True)
    checkpoint = open_checkpoint(path)
    assert torch.equal(checkpoint.tensor("a.weight"), STATE["a.weight"])
    assert "without checksums" in checkpoint.notes[0]


def test_views_that_are_much_more_than_the_file_are_refused(path):
    base = torch.zeros(1_000_000)
    torch.save({str(index): base[: 1_000_000 - index] for index in range(40)}, path)
    with pytest.raises(InputError, match="tensors share memory"):
        open_checkpoint(path)


def test_the_environment_cannot_lift_the_restriction(path, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.save(Payload(tmp_path / "marker"), path)
    with pytest.raises(UnsafeError):
        open_checkpoint(path)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("view", [lambda w: w.conj(), lambda w: w.conj().imag])
def test_views_that_change_their_numbers_are_refused_by_name(path, view):
    torch.save({"w": view(torch.ones(3, dtype=torch.complex64)), "v": torch.ones(2)}, path)
    checkpoint = open_checkpoint(path)
    assert checkpoint.tensor("v").tolist() == [1.0, 1.0]
    with pytest.raises(InputError, match=r"'w' in .* is lazily conjugated or negated"):
        checkpoint.tensor("w")


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_torchscript_yields_its_tensors_and_runs_nothing(path):
    model = torch.nn.Sequential(torch.nn.Conv1d(2, 3, 2), torch.nn.BatchNorm1d(3), torch.nn.LSTM(3, 4))
    torch.jit.save(torch.jit.script(model), path)
    checkpoint = open_checkpoint(path)
    assert checkpoint.format == "torchscript"
    assert dict(checkpoint.entries).keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in checkpoint.items())


def test_truncated_files_are_incomplete(path):
    torch.save(STATE, path)
    whole = path.read_bytes()
    for length in (4, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match="incomplete") as caught:
            open_checkpoint(path)
        assert str(length) in caught.value.message


def test_truncated_legacy_files_are_refused(path):
    torch.save(STATE, path, **LEGACY)
    whole = path.read_bytes()
    for length in (10, 60, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"incomplete|cannot be read|no checkpoint"):
            open_checkpoint(path)


def test_compressed_archives_are_read_right(path, tmp_path):
    """Another tool has packed the archive again: the bytes in the file are not the tensors' bytes."""
    torch.save({"w": torch.zeros(10_000)}, tmp_path / "plain.pt")
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for member in plain.namelist():
            packed.writestr(member, plain.read(member))
    assert open_checkpoint(path).tensor("w").tolist() == [0.0] * 10_000


@pytest.mark.parametrize("name", ["x.safetensors", "ünï.pt", "no suffix", "line\nbreak.pt"])
def test_content_counts_and_names_do_not(tmp_path, name):
    torch.save(STATE, tmp_path / name)
    assert torch.equal(open_checkpoint(tmp_path / name).tensor("a.bias"), STATE["a.bias"])


def test_a_name_that_is_no_unicode(tmp_path):
    torch.save(STATE, tmp_path / "x.pt")
    odd = os.fsencode(tmp_path) + b"/\xff.pt"
    shutil.copy(os.fsencode(tmp_path / "x.pt"), odd)
    assert torch.equal(open_checkpoint(os.fsdecode(odd)).tensor("a.bias"), STATE["a.bias"])


def test_values_that_are_no_tensors_are_left_out_and_told(path):
    torch.save({**STATE, "_extra_state": None, "epoch": 3, "step": 9}, path)
    checkpoint = open_checkpoint(path)
    assert list(checkpoint.entries) == list(STATE)
    assert checkpoint.step == 9
    assert "'_extra_state', 'epoch', 'step'" in checkpoint.notes[0]


@pytest.mark.filterwarnings("ignore:.*quantize_per_tensor:UserWarning")  # torch warns once a process
def test_tensors_that_are_not_dense_are_listed_but_not_read(path):
    quantised = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.quint8)
    special = {"quantised": quantised, "sparse": torch.eye(2).to_sparse(), "meta": torch.ones(2, device="meta")}
    torch.save({**STATE, **special}, path)
    checkpoint = open_checkpoint(path)
    assert set(checkpoint.entries) == {*STATE, *special}
    assert checkpoint.entries["quantised"].dtype == "quantised quint8"
    for name in special:
        with pytest.raises(InputError, match=f"Tensor '{name}' .* is .*{name}"):
            checkpoint.tensor(name)


def test_a_file_that_shrinks_after_it_was_opened_does_not_end_the_process(path):
    torch.save({"w": torch.ones(100_000)}, path)
    checkpoint = open_checkpoint(path)
    os.truncate(path, 1000)
    with pytest.raises(InputError, match="changed while"):
        checkpoint.tensor("w")


@pytest.mark.parametrize("value", [torch.ones(2), [1, 2], 3, "text"])
def test_a_file_of_something_else_says_what_it_is(path, value):
    torch.save(value, path)
    with pytest.raises(InputError, match=f"holds an object of type {type(value).__name__};"):
        open_checkpoint(path)


@pytest.mark.parametrize("options", [{}, LEGACY])
def test_every_single_byte_mutation_is_answered(path, options):
    torch.save({"w": torch.ones(2)}, path, **options)
    whole, refused = path.read_bytes(), 0
    for index in range(0, min(len(whole), 400)):
        path.write_bytes(whole[:index] + bytes([whole[index] ^ 0x15]) + whole[index + 1 :])
        try:
            found = dict(open_checkpoint(path).items())
        except (InputError, UnsafeError):
            refused += 1
        else:
            assert all(isinstance(tensor, torch.Tensor) for tensor in found.values())
    assert 100 < refused < 400
