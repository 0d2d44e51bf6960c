"""Small files whose parts multiply: names by what stands before them, members by tensors, columns by rows, links."""

import pickle
import zipfile

import numpy
import pytest
import torch
from safetensors.torch import save_file
from torch.distributed.checkpoint import metadata as dcp
from torch.distributed.checkpoint.filesystem import _StorageInfo

from tests.checkpoints.formats.flax_bytes import pack

LONG = "k" * 300_000
MANY = 10_000
ONE = torch.ones(1)


def saved(tmp_path, content):
    torch.save(content, tmp_path / "x.pt")
    return tmp_path / "x.pt"


NESTED = {
    "before tensors": lambda: {LONG: {f"w{index}": ONE for index in range(MANY)}},
    "before dictionaries": lambda: {LONG: {f"k{index}": {"w": ONE} for index in range(MANY)}},
    "before the weights": lambda: {"model": {LONG: {f"w{index}": ONE for index in range(MANY)}}},
    "of many words": lambda: {LONG.replace("kk", "a."): {f"k{index}": {"w": ONE} for index in range(MANY)}},
    "at every level": lambda: {"a" * 20_000: {"b" * 20_000: {f"w{index}": {"c": {"d": ONE}} for index in range(MANY)}}},
}


@pytest.mark.parametrize("kind", sorted(NESTED))
def test_a_long_key_before_very_many_names(ask, tmp_path, kind):
    ask("inspect", saved(tmp_path, NESTED[kind]()), codes=(0, 3))


class Net:
    def __init__(self, **attributes):
        self.__dict__ |= attributes


def test_a_long_name_of_a_network_before_very_many(ask, tmp_path):
    inner = torch.nn.Module()
    inner._parameters = {f"w{index}": torch.nn.Parameter(ONE) for index in range(2000)}
    outer = torch.nn.Module()
    outer._modules = {LONG: inner}
    ask("inspect", saved(tmp_path, outer), codes=(0, 3))
    array = numpy.ones(1, "f4")
    arrays = Net(**{LONG: {f"w{index}": array for index in range(MANY)}})
    (tmp_path / "x.pt").write_bytes(pickle.dumps(arrays))
    ask("inspect", tmp_path / "x.pt", codes=(0, 3))


def test_a_long_key_in_flax(ask, tmp_path):
    content = {LONG: {f"w{index}": ONE for index in range(MANY)}}
    (tmp_path / "x.msgpack").write_bytes(pack(content))
    ask("inspect", tmp_path / "x.msgpack", codes=(0, 3))


def again(path, method=zipfile.ZIP_DEFLATED):
    """Pack an archive again, compressed."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_tensors_in_two_compressed_members_in_turn(ask, tmp_path):
    for size in (2_900_000, 9_000_000):
        stores = [torch.zeros(size), torch.zeros(size)]
        content = {f"w{index}": stores[index % 2][index : index + 1] for index in range(1000)}
        ask("inspect", again(saved(tmp_path, content)), codes=(0, 3))


def test_very_many_compressed_arrays(ask, tmp_path):
    path = tmp_path / "x.npz"
    numpy.savez_compressed(path, **{f"w{index}": numpy.ones((2, 2), "f4") for index in range(8000)})
    assert "w7999" in ask("inspect", "--headers", path, codes=(0,)).out


def test_views_that_each_span_the_whole_storage(ask, tmp_path):
    whole = torch.zeros(1_000_000)
    content = {f"w{index}": whole[index:].as_strided((2,), (990_000,)) for index in range(MANY)}
    ask("inspect", saved(tmp_path, content), codes=(3,))


def test_a_table_of_very_many_columns(ask, tmp_path):
    save_file({"w": torch.ones(2, 2)}, tmp_path / "x.safetensors")
    log = tmp_path / "metrics.csv"
    log.write_text(",".join(["loss", *map(str, range(100_000))]) + "\n" + "1\n" * 20_000)
    ask("inspect", tmp_path, codes=(0,))
    log.write_text("loss," + "c" * 100_000 + "\n" + "1,2\n" * 50_000)
    ask("inspect", tmp_path, codes=(0,))
    log.write_text("loss\n" + "1\n" * 100_000)
    ask("inspect", tmp_path, codes=(0,))


def metadata(path, items, planner=None, places=None):
    saved = dcp.Metadata(state_dict_metadata=items, planner_data=planner, storage_data=places)
    (path / "__0_0.distcp").write_bytes(bytes(8))
    (path / ".metadata").write_bytes(pickle.dumps(saved))
    return path


def tensor_metadata(chunks, size=(1,)):
    properties = dcp.TensorProperties(torch.float32)
    return dcp.TensorStorageMetadata(properties, torch.Size(size), chunks)


def test_one_list_for_all_of_a_distributed_checkpoint(ask, tmp_path):
    names, long = [f"w{index}" for index in range(MANY)], (0,) * 100_000
    chunk = dcp.ChunkStorageMetadata(torch.Size([0]), torch.Size([1]))
    info = _StorageInfo("__0_0.distcp", 0, 8)
    index = {name: dcp.MetadataIndex(name, torch.Size([0])) for name in names}
    lengthy = {dcp.MetadataIndex(name): info for name in names}
    for key in lengthy:
        object.__setattr__(key, "offset", long)
    ask("inspect", metadata(tmp_path, {name: tensor_metadata([chunk]) for name in names}, None, lengthy))
    several = tensor_metadata([chunk] * 3000)
    places = dict.fromkeys(index.values(), info)
    ask("inspect", metadata(tmp_path, dict.fromkeys(names, several), None, places))
    deep = dict.fromkeys(names, tuple(map(str, range(30_000))))
    ask("inspect", metadata(tmp_path, {name: tensor_metadata([chunk]) for name in names}, deep, places))
    wide = tensor_metadata([dcp.ChunkStorageMetadata(long, long)])
    ask("inspect", metadata(tmp_path, dict.fromkeys(names, wide), None, places))
    before = {name: (LONG, name) for name in names}
    ask("inspect", metadata(tmp_path, {name: tensor_metadata([]) for name in names}, before, places))


def zero(directory, model, *states):
    torch.save(model, directory / "zero_pp_rank_0_mp_rank_00_model_states.pt")
    for rank, state in enumerate(states):
        path = directory / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"
        torch.save({"optimizer_state_dict": state}, path)
    return directory


def test_very_many_names_of_a_zero_checkpoint(ask, tmp_path):
    shapes = {f"w{index}": torch.Size([1]) for index in range(12_000)}
    parts = list(torch.zeros(12_000).split(1))
    ask("inspect", "--headers", zero(tmp_path, {"param_shapes": [shapes]}, {"fp32_flat_groups": parts}), codes=(0,))
    module = dict.fromkeys(shapes, ONE)
    model = {"param_shapes": [shapes], "module": module, "buffer_names": [f"x{name}" for name in shapes]}
    ask("inspect", "--headers", zero(tmp_path, model, {"fp32_flat_groups": [torch.zeros(12_000)]}), codes=(0,))


def test_one_group_for_all_of_a_zero_checkpoint(ask, tmp_path):
    shapes = {f"w{index}": torch.Size([1]) for index in range(1000)}
    group = {"params": [0] * 1000, "lr": 0.1}
    slots = {f"s{index}": 1.0 for index in range(1000)}
    base = {"state": {0: slots}, "param_groups": [group] * 1000}
    state = {"fp32_flat_groups": [torch.zeros(1000)], "optimizer_state_dict": base}
    ask("inspect", zero(tmp_path, {"param_shapes": [shapes]}, state), codes=(0, 3))


def test_very_many_links(ask, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    for index in range(1000):
        (run / f"step-{index}").symlink_to(".")
    ask("norms", run)
    ask("inspect", run)
    ask("norms", str(run / "*"))
    (run / "mp_rank_00").symlink_to(".")
    ask("inspect", run)


@pytest.mark.parametrize("name", ["batch", "rng_state", "x-optim", "lr_scheduler-"])
def test_a_name_of_very_many_digits(ask, tmp_path, name):
    (tmp_path / f"{name}{'1' * 60}x.pt").write_bytes(b"x")
    ask("inspect", tmp_path)
