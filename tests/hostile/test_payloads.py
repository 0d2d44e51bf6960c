"""Code in every format that can hold some, and named in every text beside weights: nothing of it runs."""

import io
import json
import os
import pickle
import subprocess
import tarfile
import warnings
import zipfile

import numpy
import pytest
import torch
import torch.distributed.checkpoint as distributed
from safetensors.torch import save_file

LEGACY = {"_use_new_zipfile_serialization": False}
STATE = {"net.weight": torch.arange(6.0).reshape(2, 3)}


def pickled(*lines: bytes) -> bytes:
    return b"".join(lines)


def hand_made(canary) -> dict[str, bytes]:
    """Pickles that no pickler writes, each an own way of calling."""
    command = f"touch {canary}".encode()
    return {
        "REDUCE": pickled(b"cos\nsystem\n(S'", command, b"'\ntR."),
        "INST": pickled(b"(S'", command, b"'\nios\nsystem\n."),
        "OBJ": pickled(b"(cos\nsystem\nS'", command, b"'\no."),
        "NEWOBJ": pickled(b"\x80\x02csubprocess\nPopen\n((S'touch'\nS'", str(canary).encode(), b"'\nlt\x81."),
        "NEWOBJ_EX": pickled(b"\x80\x04csubprocess\nPopen\n(S'", command, b"'\nt}S'shell'\nI01\ns\x92."),
        "BUILD": pickled(b"\x80\x02ctorch._C\nGenerator\n)\x81}S'x'\ncos\nsystem\nsb."),
        "getattr": pickled(
            b"cbuiltins\ngetattr\n(cbuiltins\n__import__\n(S'os'\ntRS'system'\ntR(S'", command, b"'\ntR."
        ),
        "nested name": pickled(b"\x80\x04\x8c\x02os\x8c\x06system\x93(S'", command, b"'\ntR."),
        "dotted name": pickled(b"\x80\x04\x8c\x08builtins\x8c\x0fstr.__class__.x\x93(tR."),
        "EXT": pickled(b"\x80\x02\x82\x01(tR."),
        "persistent": pickled(b"\x80\x02cos\nsystem\n(S'", command, b"'\ntRQ."),
        "key": pickled(b"\x80\x02}cos\nsystem\n(S'", command, b"'\ntRNs."),
        "in a hook": pickled(
            b"\x80\x02ctorch._utils\n_rebuild_parameter\n(cos\nsystem\n(S'", command, b"'\ntRI01\ncos\nsystem\ntR."
        ),
    }


@pytest.mark.parametrize("kind", sorted(hand_made("")))
@pytest.mark.parametrize("place", ["bare", "zip", "legacy"])
def test_every_way_of_calling(ask, tmp_path, canary, kind, place):
    path, content = tmp_path / "x.pt", hand_made(canary)[kind]
    if place == "bare":
        path.write_bytes(content if content.startswith(b"\x80") else b"\x80\x02" + content)
    elif place == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x/data.pkl", content)
            archive.writestr("x/version", b"3")
    else:
        head = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
        path.write_bytes(head + content + pickle.dumps([], 2))
    ask("inspect", path, codes=(3, 4))
    ask("inspect", "--safety", path, "--json", codes=(0,))


@pytest.mark.parametrize("function", [os.system, eval, exec, subprocess.check_output, torch.load, torch.hub.load, open])
@pytest.mark.parametrize("options", [{}, LEGACY])
def test_functions_beside_weights(ask, tmp_path, canary, payload, function, options):
    payload.call = (function, (f"touch {canary}",))
    path = tmp_path / "x.pt"
    torch.save({"state_dict": STATE, "callbacks": [payload]}, path, **options)
    done = ask("inspect", path, "--json", codes=(0,))
    answer = json.loads(done.out)
    assert answer["findings"][0]["code"] == "pickle-runs-code"
    assert [tensor["max_abs"] for tensor in answer["result"]["tensors"]] == [5.0]
    torch.save(payload, path, **options)
    assert "Nothing was executed" in ask("inspect", path, codes=(4,)).err


def test_a_storage_that_is_a_pickle_of_its_own(ask, tmp_path, payload):
    class Nested:
        def __reduce__(self):
            return torch.storage._load_from_bytes, (pickle.dumps(payload),)

    torch.save({"w": Nested()}, tmp_path / "x.pt")
    ask("inspect", tmp_path / "x.pt", codes=(4,))


@pytest.mark.parametrize("save", [numpy.savez, numpy.savez_compressed])
def test_arrays_of_objects(ask, tmp_path, payload, save):
    objects = numpy.array([payload], dtype=object)
    save(tmp_path / "x.npz", w=numpy.ones(2), x=objects)
    ask("inspect", tmp_path / "x.npz", codes=(4,))
    ask("inspect", "--safety", tmp_path / "x.npz", codes=(0,))
    numpy.save(tmp_path / "x.npy", objects)
    ask("inspect", tmp_path / "x.npy", codes=(4,))
    record = numpy.array([(1.0, payload)], dtype=[("a", "f4"), ("b", "O")])
    save(tmp_path / "y.npz", x=record)
    ask("inspect", tmp_path / "y.npz", codes=(4,))


def test_archives_in_archives(ask, tmp_path, payload):
    inner = io.BytesIO()
    torch.save(payload, inner)
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("x/data.pkl", pickle.dumps({"w": inner.getvalue()}))
        archive.writestr("x/data/inner.pt", inner.getvalue())
    ask("inspect", tmp_path / "x.pt")
    ask("inspect", "--safety", tmp_path / "x.pt", codes=(0,))


def test_the_oldest_files_of_torch_are_tar_archives(ask, tmp_path, payload):
    with tarfile.open(tmp_path / "x.pt", "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            content = pickle.dumps(payload, 2)
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    ask("inspect", tmp_path / "x.pt")


def test_code_of_torchscript_and_graphs(ask, tmp_path, payload):
    module = torch.jit.script(torch.nn.Linear(2, 2))
    module.save(tmp_path / "script.pt")
    with zipfile.ZipFile(tmp_path / "script.pt", "a") as archive:
        archive.writestr("script/code/__torch__/evil.py", "import os; os.system('touch canary')")
        archive.writestr("script/extra/x.pkl", pickle.dumps(payload))
    ask("inspect", tmp_path / "script.pt", codes=(0, 4))
    ask("inspect", "--safety", tmp_path / "script.pt", codes=(0,))
    with zipfile.ZipFile(tmp_path / "x.pt2", "w") as archive:
        archive.writestr("x/models/model.json", "{}")
        archive.writestr("x/data/weights/weight_0", pickle.dumps(payload))
    ask("inspect", tmp_path / "x.pt2", codes=(4,))


def test_a_distributed_checkpoint(ask, tmp_path, payload):
    with warnings.catch_warnings(action="ignore"):
        distributed.save({"model": STATE, "extra": payload}, checkpoint_id=tmp_path / "d", no_dist=True)
    ask("inspect", tmp_path / "d", codes=(0, 3, 4))
    ask("inspect", "--safety", tmp_path / "d", codes=(0,))
    (tmp_path / "d" / ".metadata").write_bytes(pickle.dumps(payload))
    ask("inspect", tmp_path / "d", codes=(3, 4))


@pytest.mark.parametrize("inside", [False, True])
def test_code_named_beside_a_checkpoint(ask, tmp_path, canary, payload, monkeypatch, inside):
    directory = tmp_path / "run"
    directory.mkdir()
    code = f"import os\nos.system('touch {canary}')\n\ndef build():\n    raise SystemExit\n\nloss = batch = build\n"
    for name in ("net.py", "modeling_x.py", "sitecustomize.py", "conftest.py", "torch.py", "fromage.py"):
        (directory / name).write_text(code)
    configuration = {"auto_map": {"AutoModel": "modeling_x.X"}, "architectures": ["X"], "model_type": "x"}
    (directory / "config.json").write_text(json.dumps(configuration))
    (directory / "trainer_state.json").write_text(json.dumps({"global_step": "__import__('os').system('touch x')"}))
    (directory / "fromage.toml").write_text('model = "net.py:build"\nloss = "net.py:loss"\nbatch = "net.py:batch"\n')
    for name in ("optimizer.pt", "training_args.bin", "scheduler.pt", "rng_state.pth"):
        torch.save(payload, directory / name)
    save_file(STATE, directory / "model.safetensors", {"model": "net.py:build", "format": "pt", "loss": "net.py:loss"})
    if inside:
        monkeypatch.chdir(directory)
    ckpt = "." if inside else directory
    ask("inspect", ckpt, codes=(0, 3, 4))
    ask("breakdown", ckpt, codes=(2, 3, 4, 5))
    ask("breakdown", "model.safetensors" if inside else directory / "model.safetensors", codes=(2, 3, 4, 5))


def test_code_named_in_metadata_and_indices(ask, tmp_path, canary):
    text = f"__import__('os').system('touch {canary}')"
    save_file({text: torch.ones(2, 2)}, tmp_path / "x.safetensors", {"step": text, text: text})
    ask("inspect", tmp_path / "x.safetensors", codes=(0,))
    index = {"metadata": {"step": text}, "weight_map": {"w": text}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    ask("inspect", tmp_path / "model.safetensors.index.json", codes=(3, 4))
