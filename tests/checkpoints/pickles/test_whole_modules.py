import pickle
import sys
import types

import numpy
import pytest
import torch

from fromage_cli.checkpoints import open_checkpoint


class Layer:
    """A class that only this file knows."""

    def __init__(self, *sizes, **parts):
        self.weights = numpy.arange(numpy.prod(sizes), dtype="f4").reshape(sizes)
        self.__dict__.update(parts)


ARRAYS = {
    "layers.0.weights": (2, 3),
    "layers.1.weights": (4,),
    "layers.1.gates.forget.weights": (2, 2),
    "weights": (1,),
}


def network():
    inner = Layer(4, gates={"forget": Layer(2, 2)}, activation=numpy.tanh, name="x")
    return Layer(1, layers=[Layer(2, 3), inner], shared=None)


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_in_objects_of_unknown_classes(tmp_path, protocol):
    path = tmp_path / "net.pkl"
    path.write_bytes(pickle.dumps(network(), protocol))
    checkpoint = open_checkpoint(path)
    assert {name: entry.shape for name, entry in checkpoint.entries.items()} == ARRAYS
    for _, tensor in checkpoint.items():
        assert torch.equal(tensor, torch.arange(float(tensor.numel())).reshape(tensor.shape))
    assert "Layer" in checkpoint.notes[0]


def test_arrays_in_dictionaries_beside_tensors(tmp_path):
    torch.save({"model": {"w": numpy.ones((2, 3)), "b": torch.zeros(2)}, "layers": [Layer(2)]}, tmp_path / "x.pt")
    checkpoint = open_checkpoint(tmp_path / "x.pt")
    assert {name: entry.dtype for name, entry in checkpoint.entries.items()} == {"w": "float64", "b": "float32"}
    assert torch.equal(checkpoint.tensor("w"), torch.ones(2, 3, dtype=torch.float64))


def test_an_object_that_holds_itself_ends(tmp_path):
    loop = Layer(2)
    loop.itself = [loop]
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(loop))
    assert list(open_checkpoint(tmp_path / "x.pkl").entries) == ["weights"]


def test_bytes_that_python_2_wrote_and_that_read_as_text(tmp_path):
    stored = b"\0\0\0\0text"
    made = b"\x80\x02}U\x01wcnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR(K\x01(K\x02t"
    made += b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x08"
    (tmp_path / "x.pkl").write_bytes(made + stored + b"tbs.")
    assert pickle.loads(made + stored + b"tbs.", encoding="latin1")["w"].tobytes() == stored
    assert open_checkpoint(tmp_path / "x.pkl").tensor("w").numpy().tobytes() == stored


def test_settings_in_objects_of_omegaconf_are_those_inside(tmp_path, monkeypatch):
    """Hydra's trainers save an optimizer's betas as a ListConfig, whose members are nodes around numbers."""
    module = types.ModuleType("omegaconf.listconfig")
    for name in ("ListConfig", "AnyNode"):
        setattr(module, name, type(name, (), {"__module__": module.__name__}))
    monkeypatch.setitem(sys.modules, "omegaconf", types.ModuleType("omegaconf"))
    monkeypatch.setitem(sys.modules, module.__name__, module)

    def node(kind, **attributes):
        made = getattr(module, kind)()
        made.__dict__ |= {**attributes, "_metadata": None}
        return made

    parameter = torch.nn.Parameter(torch.ones(2, 2))
    optimizer = torch.optim.Adam([parameter], lr=0.5)
    parameter.sum().backward()
    optimizer.step()
    saved = optimizer.state_dict()
    betas = node("ListConfig", _content=[node("AnyNode", _val=beta) for beta in (0.8, 0.99)])
    saved["param_groups"][0]["betas"] = betas
    torch.save({"state_dict": {"w": parameter.data}, "optimizer_states": [saved]}, tmp_path / "x.ckpt")
    state = open_checkpoint(tmp_path / "x.ckpt").optimizer
    assert state.groups[0].settings["betas"] == [0.8, 0.99]
    assert state.groups[0].settings["lr"] == 0.5
