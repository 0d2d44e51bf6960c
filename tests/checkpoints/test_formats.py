"""One set of weights, written in every format that is read: `inspect` and `breakdown` say the same of all."""

import json
from collections import OrderedDict

import fsspec
import numpy
import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from torch import nn
from torch.package import PackageExporter

from fromage_cli.cli import main
from tests.checkpoints.formats.flax_bytes import pack
from tests.checkpoints.formats.save_zero import save_zero

pytestmark = pytest.mark.filterwarnings("ignore")
FACTORY = """
from torch import nn

def build():
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.BatchNorm1d(8), nn.Linear(8, 3))
"""


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.BatchNorm1d(8), nn.Linear(8, 3))


def trained():
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model(torch.randn(16, 6)).square().mean().backward()
    optimizer.step()
    return model, optimizer


def nested(state):
    """The dictionaries inside of each other that dotted names stand for."""
    root = {}
    for name, tensor in state.items():
        *parents, last = name.split(".")
        node = root
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = tensor
    return root


def halves(state):
    names = list(state)
    return {name: state[name] for name in names[:3]}, {name: state[name] for name in names[3:]}


def write_index(directory, parts, save, suffix):
    files = {}
    for number, part in enumerate(parts, start=1):
        file = f"model-0000{number}-of-00002{suffix}"
        save(part, directory / file)
        files |= dict.fromkeys(part, file)
    (directory / f"model{suffix}.index.json").write_text(json.dumps({"weight_map": files}))
    return directory


def sharded_safetensors(directory, state):
    return write_index(directory, halves(state), save_file, ".safetensors")


def sharded_torch(directory, state):
    return write_index(directory, halves(state), torch.save, ".bin")


def saved(**content):
    def write(directory, state):
        given = {name: make(state) for name, make in content.items()} if content else state
        torch.save(given, directory / "x.pt")
        return directory / "x.pt"

    return write


def legacy(directory, state):
    torch.save(state, directory / "x.pt", _use_new_zipfile_serialization=False)
    return directory / "x.pt"


def hugging_face(directory, state):
    save_file(state, directory / "model.safetensors", {"format": "pt"})
    (directory / "config.json").write_text("{}")
    (directory / "trainer_state.json").write_text("{}")
    return directory


def arrays(directory, state):
    numpy.savez(directory / "x.npz", **{name: tensor.numpy() for name, tensor in state.items()})
    return directory / "x.npz"


def distributed(directory, state):
    dcp.save({"model": state}, checkpoint_id=directory / "d", no_dist=True)
    return directory / "d"


def distributed_at_the_top(directory, state):
    dcp.save({**state, "optimizer": {"param_groups.x.lr": 0.1}}, checkpoint_id=directory / "d", no_dist=True)
    return directory / "d"


def distributed_safetensors(directory, state):
    writer = dcp.HuggingFaceStorageWriter(str(directory / "d"), save_distributed=True)
    dcp.save(state, storage_writer=writer, no_dist=True)
    return directory / "d"


def zero(stage):
    def write(directory, state):
        model, optimizer = trained()
        model.load_state_dict(state)
        save_zero(directory / "global_step1", model, optimizer, stage, ranks=3, step=1, narrow=torch.float32)
        return directory

    return write


def script(directory, state):
    model = network()
    model.load_state_dict(state)
    torch.jit.save(torch.jit.script(model), directory / "x.pt")
    return directory / "x.pt"


def whole_module(directory, state):
    model = network()
    model.load_state_dict(state)
    torch.save(model, directory / "x.pt")
    return directory / "x.pt"


def package(directory, state):
    with PackageExporter(directory / "x.pt") as exporter:
        exporter.save_pickle("weights", "weights.pkl", OrderedDict(state))
    return directory / "x.pt"


def flax(directory, state):
    (directory / "flax_model.msgpack").write_bytes(pack({"params": nested(state)}))
    return directory


def remote(directory, state):
    save_file(state, directory / "x.safetensors")
    fsspec.filesystem("memory").pipe_file("/formats/x.safetensors", (directory / "x.safetensors").read_bytes())
    return "memory://formats/x.safetensors"


FORMATS = {
    "safetensors-sharded": sharded_safetensors,
    "torch": saved(),
    "torch-legacy": legacy,
    "torch-sharded": sharded_torch,
    "wrapped": saved(model=lambda state: {f"module._orig_mod.{name}": tensor for name, tensor in state.items()}),
    "lightning": saved(state_dict=lambda state: state, epoch=lambda _: 1, callbacks=lambda _: {}),
    "timm": saved(state_dict=lambda state: state, state_dict_ema=lambda state: {n: t * 2 for n, t in state.items()}),
    "hugging-face": hugging_face,
    "npz": arrays,
    "distributed": distributed,
    "distributed-at-the-top": distributed_at_the_top,
    "distributed-safetensors": distributed_safetensors,
    "zero-2": zero(2),
    "zero-3": zero(3),
    "torchscript": script,
    "whole-module": whole_module,
    "torch-package": package,
    "flax": flax,
    "remote": remote,
}


@pytest.fixture(scope="module")
def state():
    return {name: tensor.clone() for name, tensor in trained()[0].state_dict().items()}


@pytest.fixture(scope="module")
def room(tmp_path_factory, state):
    """A factory, a batch, and the weights in the plainest format."""
    directory = tmp_path_factory.mktemp("room")
    torch.manual_seed(1)
    (directory / "net.py").write_text(FACTORY)
    save_file({"x": torch.randn(16, 6), "y": torch.randint(3, (16,))}, directory / "batch.safetensors")
    save_file(state, directory / "plain.safetensors")
    return directory


@pytest.fixture
def answer(capsys, room):
    def ask(path):
        """What the two commands say, without what is said of the file itself."""
        results = []
        model = [
            "--model",
            f"{room / 'net.py'}:build",
            "--batch",
            str(room / "batch.safetensors"),
            "--eta",
            ".001,.01,.1",
        ]
        for arguments in (["inspect", str(path)], ["breakdown", str(path), *model]):
            with pytest.raises(SystemExit) as ended:
                main([*arguments, "--json"])
            captured = capsys.readouterr()
            assert not ended.value.code, captured.err
            results.append(json.loads(captured.out)["result"])
        tensors = sorted(results[0]["tensors"], key=lambda tensor: tensor["name"])
        return tensors, {**results[0]["totals"], "dtypes": None}, results[1]

    return ask


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_says_the_same(tmp_path, state, room, answer, name):
    path = FORMATS[name](tmp_path, state)
    assert answer(path) == answer(room / "plain.safetensors")
