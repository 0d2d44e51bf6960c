import json
import os
import subprocess
import sys
import zipfile
from functools import partial

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from torch import nn

from fromage_cli.checkpoints import match_parameters, open_checkpoint
from fromage_cli.checkpoints.formats import zip_container
from fromage_cli.checkpoints.formats.zip_container import ZipContainer
from fromage_cli.checkpoints.optimizers.optimizer_state import slot_shape
from fromage_cli.checkpoints.reading import chunks
from fromage_cli.checkpoints.reading.arrays import CHUNK
from fromage_cli.checkpoints.reading.slots import (
    dtypes_of,
    load_slot,
    over_parts,
    over_slots,
    scalar,
    shaped_like,
    shaped_otherwise,
)
from fromage_cli.checkpoints.storage.stored_tensor import dense, inline
from fromage_cli.errors import InputError
from tests.checkpoints.formats.save_zero import save_zero

LARGE = 3 * CHUNK + 5
"""Elements of a tensor that is read in four parts."""


def trained(kind=torch.optim.Adam, **settings):
    """A network with a large tensor and small ones of several shapes, after two updates."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(4, 3))
    model.register_parameter("large", nn.Parameter(torch.randn(1, LARGE)))
    optimizer = kind(model.named_parameters(), **({"lr": 0.01} | settings))
    for _ in range(2):
        loss = model(torch.randn(5, 2, 3, 3)).square().mean() + (model.large * torch.randn(1, LARGE)).sum()
        loss.backward()
        optimizer.step()
    return model, optimizer


def slots_of(checkpoint):
    """The slots by the names of the tensors."""
    state = checkpoint.optimizer
    numbers = match_parameters(state, {name: entry.shape for name, entry in checkpoint.entries.items()})
    return {name: state.slots[number] for name, number in numbers.items()}


def read(checkpoint, slots):
    """All arrays put together, float64 and flat, by tensor and slot."""
    found = {}
    work = lambda _, part: {name: array.astype(np.float64) for name, array in part.arrays.items()}  # noqa: E731
    for place, arrays in over_parts(checkpoint, slots, work, object):
        for name, array in arrays.items():
            held = found.setdefault(place.name, {}).setdefault(name, [])
            assert place.begin % CHUNK == 0 and place.begin == sum(map(len, held)) and place.elements == len(array)
            held.append(array)
    return {name: {slot: np.concatenate(held) for slot, held in arrays.items()} for name, arrays in found.items()}


def expected(model, optimizer):
    return {
        name: {"weight": parameter.detach().double().flatten()}
        | {
            slot: value.double().flatten()
            for slot, value in optimizer.state[parameter].items()
            if slot != "step" and value.shape == parameter.shape
        }
        for name, parameter in model.named_parameters()
    }


def same(found, wanted):
    assert set(found) == set(wanted)
    for name, arrays in wanted.items():
        assert set(found[name]) == set(arrays)
        for slot, array in arrays.items():
            assert np.array_equal(found[name][slot], array.numpy()), (name, slot)
    return True


def save_nested(model, optimizer, path, **settings):
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, path / "c.pt", **settings)
    return path / "c.pt"


def save_lightning(model, optimizer, path):
    weights = {f"net.{name}": tensor for name, tensor in model.state_dict().items()}
    content = {"state_dict": weights, "optimizer_states": [optimizer.state_dict()], "global_step": 2}
    torch.save(content | {"pytorch-lightning_version": "2.1.0", "epoch": 0}, path / "epoch=0.ckpt")
    return path / "epoch=0.ckpt"


def save_trainer(model, optimizer, path):
    save_file(model.state_dict(), path / "model.safetensors")
    torch.save(optimizer.state_dict(), path / "optimizer.pt")
    (path / "trainer_state.json").write_text(json.dumps({"global_step": 2}))
    return path


def save_distributed(model, optimizer, path):
    with pytest.warns(UserWarning, match="single process"):
        content = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        dcp.save(content, checkpoint_id=path / "d", no_dist=True)
    return path / "d"


@pytest.mark.parametrize(
    "save",
    [
        save_nested,
        partial(save_nested, _use_new_zipfile_serialization=False),
        save_lightning,
        save_trainer,
        save_distributed,
    ],
    ids=["zip", "legacy", "lightning", "trainer", "distributed"],
)
@pytest.mark.parametrize("kind", [torch.optim.Adam, partial(torch.optim.SGD, momentum=0.9)], ids=["adam", "sgd"])
def test_weights_and_slots_come_together_in_every_form(save, kind, tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "JOB", 2 * CHUNK)
    model, optimizer = trained(kind)
    checkpoint = open_checkpoint(save(model, optimizer, tmp_path))
    found, wanted = read(checkpoint, slots_of(checkpoint)), expected(model, optimizer)
    names = {name.removeprefix("net."): arrays for name, arrays in found.items()}
    assert same(names, wanted)


@pytest.mark.parametrize(("stage", "ranks"), [(2, 1), (2, 3), (3, 2)])
def test_slots_that_are_cut_over_ranks_are_joined(stage, ranks, tmp_path):
    model, optimizer = trained()
    save_zero(tmp_path / "run" / "global_step2", model, optimizer, stage=stage, ranks=ranks, step=2)
    checkpoint = open_checkpoint(tmp_path / "run")
    slots = slots_of(checkpoint)
    wanted = expected(model, optimizer)
    assert same(read(checkpoint, {name: slots[name] for name in wanted}), wanted)
    assert scalar(slots["large"], "step") == 2.0


def test_what_is_stored_narrow_or_wide_is_widened_exactly(tmp_path):
    model, optimizer = trained(amsgrad=True)
    model.half()
    for state in optimizer.state.values():
        state["exp_avg"], state["exp_avg_sq"] = state["exp_avg"].bfloat16(), state["exp_avg_sq"].double()
    checkpoint = open_checkpoint(save_nested(model, optimizer, tmp_path))
    slots = {name: dict(slot.stored) for name, slot in slots_of(checkpoint).items()}
    assert same(read(checkpoint, slots), expected(model, optimizer))
    assert dtypes_of(slots["large"]) == {
        "step": "float32", "exp_avg": "bfloat16", "exp_avg_sq": "float64", "max_exp_avg_sq": "float32"
    }  # fmt: skip
    kept = dict.fromkeys(("weight", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"), np.float32) | {"exp_avg_sq": np.float64}
    dtypes = lambda _, part: {name: array.dtype for name, array in part.arrays.items()}  # noqa: E731
    assert all(found == kept for _, found in over_parts(checkpoint, slots, dtypes, object))


def test_slots_in_memory_or_out_of_order_are_taken_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "JOB", CHUNK)
    weight, turned = torch.randn(2, LARGE), torch.randn(LARGE, 2).t()
    torch.save({"model": {"w": weight}, "other": {"w": turned}}, tmp_path / "c.pt")
    stored = open_checkpoint(tmp_path / "c.pt", "other").tensor("w")
    checkpoint = open_checkpoint(tmp_path / "c.pt", "model")
    found = read(checkpoint, {"w": {"momentum_buffer": stored, "exp_avg": turned, "step": 3, "nothing": None}})
    wanted = {"weight": weight, "momentum_buffer": turned, "exp_avg": turned}
    assert same(found, {"w": {name: tensor.double().flatten() for name, tensor in wanted.items()}})


def test_tensors_whose_elements_lie_in_another_order_in_the_file(tmp_path):
    model, optimizer = trained(partial(torch.optim.SGD, momentum=0.9))
    for parameter in model[0].parameters():
        buffer = optimizer.state[parameter]["momentum_buffer"]
        if buffer.dim() == 4:
            optimizer.state[parameter]["momentum_buffer"] = buffer.contiguous(memory_format=torch.channels_last)
    checkpoint = open_checkpoint(save_nested(model, optimizer, tmp_path))
    slots = slots_of(checkpoint)
    assert not slots["0.weight"].stored["momentum_buffer"].in_order
    assert same(read(checkpoint, slots), expected(model, optimizer))


def test_an_archive_that_was_compressed_is_inflated_once(tmp_path, monkeypatch):
    monkeypatch.setattr(zip_container, "BASE_INFLATED", 4 * LARGE)
    inflated, inflate = [], ZipContainer._decompress
    monkeypatch.setattr(ZipContainer, "_decompress", lambda *given: inflated.append(given[1]) or inflate(*given))
    model, optimizer = trained(amsgrad=True)
    path = save_nested(model, optimizer, tmp_path)
    with zipfile.ZipFile(path) as plain, zipfile.ZipFile(tmp_path / "d.pt", "w", zipfile.ZIP_DEFLATED) as packed:
        for member in plain.namelist():
            packed.writestr(member, plain.read(member))
    checkpoint = open_checkpoint(tmp_path / "d.pt")
    assert same(read(checkpoint, slots_of(checkpoint)), expected(model, optimizer))
    assert sum(member.size == 4 * LARGE for member in inflated) == 4


def test_big_endian_slots(tmp_path):
    values = torch.randn(4, 3)
    storage = inline("0", "float32", values.numpy().astype(">f4").tobytes(), big_endian=True)
    slot = dense(storage, "float32", 0, (4, 3), (3, 1))
    save_file({"w": values}, tmp_path / "c.safetensors")
    found = read(open_checkpoint(tmp_path / "c.safetensors"), {"w": {"exp_avg": slot}})
    assert found["w"]["exp_avg"].tolist() == found["w"]["weight"].tolist() == values.double().flatten().tolist()


def test_tensors_without_slots_and_those_that_are_no_parameters(tmp_path):
    tensors = {"w": torch.ones(3), "count": torch.tensor([3]), "empty": torch.ones(0, 4), "scale": torch.tensor(2.0)}
    torch.save(tensors, tmp_path / "c.pt")
    checkpoint = open_checkpoint(tmp_path / "c.pt")
    step = {"step": torch.tensor(7.0), "exp_avg": torch.tensor(0.5)}
    found = read(checkpoint, {"w": {}, "count": {}, "empty": {}, "absent": {}, "scale": step})
    assert {name: {slot: list(array) for slot, array in arrays.items()} for name, arrays in found.items()} == {
        "w": {"weight": [1.0, 1.0, 1.0]}, "scale": {"weight": [2.0], "exp_avg": [0.5]}
    }  # fmt: skip


def test_slots_of_other_shapes_are_told_and_not_read(tmp_path):
    model, optimizer = trained(torch.optim.Adafactor)
    checkpoint = open_checkpoint(save_nested(model, optimizer, tmp_path))
    slot = slots_of(checkpoint)["2.weight"]
    assert shaped_like(slot, (3, 4)) == {}
    assert shaped_otherwise(slot, (3, 4)) == {"row_var": (3, 1), "col_var": (1, 4)}
    assert shaped_otherwise(slot, (9,)) == {"row_var": (3, 1), "col_var": (1, 4)}
    assert scalar(slot, "step") == 2.0 and scalar(slot, "row_var") is None and scalar(slot, "absent") is None
    quantised = {"state1": torch.ones(3, 4, dtype=torch.uint8)}
    assert shaped_like(quantised, (3, 4)) == {} and dtypes_of(quantised) == {"state1": "uint8"}


@pytest.mark.parametrize("value", [7, torch.tensor(7), torch.tensor([7.0]), torch.tensor(7.0).bfloat16()])
def test_numbers_in_slots(value, tmp_path):
    saved = {"state": {0: {"step": value}}, "param_groups": [{"params": [0], "lr": 0.1}]}
    torch.save({"model": {"w": torch.ones(2)}, "optimizer": saved}, tmp_path / "c.pt")
    state = open_checkpoint(tmp_path / "c.pt").optimizer
    assert scalar(state.slots[0], "step") == 7 and state.steps == 7


@pytest.mark.parametrize("target", ["model.safetensors", "optimizer.pt"])
@pytest.mark.parametrize("cut_when", ["before", "while"])
def test_a_file_that_is_cut_off_meanwhile_is_refused(target, cut_when, tmp_path):
    model, optimizer = trained()
    path = save_trainer(model, optimizer, tmp_path)
    checkpoint = open_checkpoint(path)
    slots = slots_of(checkpoint)

    def cut(*_):
        os.truncate(path / target, (path / target).stat().st_size - 8)

    if cut_when == "before":
        cut()
    with pytest.raises(InputError, match=r"changed while it was being read|is incomplete"):
        list(over_parts(checkpoint, slots, cut if cut_when == "while" else lambda *_: None, object))


def test_bytes_that_were_altered_are_found_by_their_checksum(tmp_path):
    model, optimizer = trained()
    path = save_nested(model, optimizer, tmp_path)
    content = bytearray(path.read_bytes())
    at = content.find(optimizer.state[model.large]["exp_avg"].numpy().tobytes())
    content[at + 4 * CHUNK] ^= 1
    path.write_bytes(content)
    checkpoint = open_checkpoint(path)
    with pytest.raises(InputError, match="is damaged: the checksum of"):
        read(checkpoint, slots_of(checkpoint))


def test_progress_and_workers(tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "JOB", CHUNK)
    monkeypatch.setattr(chunks, "threads", lambda: 3)
    model, optimizer = trained()
    checkpoint = open_checkpoint(save_nested(model, optimizer, tmp_path))
    made, told = [], []
    advance = lambda elements, doing: told.append((elements, doing))  # noqa: E731
    found = list(over_parts(checkpoint, slots_of(checkpoint), lambda *_: 1, lambda: made.append(1), advance))
    assert 1 <= len(made) <= 3 and {doing for _, doing in told} == {"reading c.pt"}
    assert sum(elements for elements, _ in told) == sum(place.elements for place, _ in found)
    assert sum(elements for elements, _ in told) == sum(parameter.numel() for parameter in model.parameters())


PROGRAM = """
import sys
from fromage_cli.checkpoints import match_parameters, open_checkpoint
from fromage_cli.checkpoints.reading.slots import over_parts, scalar
from fromage_cli.process_memory import largest_resident
checkpoint = open_checkpoint(sys.argv[1])
state = checkpoint.optimizer
numbers = match_parameters(state, {name: entry.shape for name, entry in checkpoint.entries.items()})
slots = {name: state.slots[number] for name, number in numbers.items()}
assert state.steps == 2 and {scalar(slot, "step") for slot in slots.values()} == {2}
parts = over_parts(checkpoint, slots, lambda _, part: sorted(part.arrays), object)
assert all(names == ["exp_avg", "exp_avg_sq", "weight"] for _, names in parts)
assert "torch" not in sys.modules
assert largest_resident() < 100e6, largest_resident()
"""


@pytest.mark.parametrize("save", [save_nested, save_trainer, save_lightning])
def test_neither_torch_nor_much_memory_is_needed(save, tmp_path):
    large = nn.Module()
    large.register_parameter("large", nn.Parameter(torch.ones(5, 1_000_000)))
    optimizer = torch.optim.AdamW(large.parameters(), lr=torch.tensor(0.01))
    for _ in range(2):
        large.large.sum().backward()
        optimizer.step()
    path = save(large, optimizer, tmp_path)
    subprocess.run([sys.executable, "-c", PROGRAM, str(path)], check=True)


def test_slots_are_read_whole_and_without_their_weights(tmp_path):
    model, optimizer = trained()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "run.pt")
    state = open_checkpoint(tmp_path / "run.pt").optimizer
    wanted = {
        name: {k: v for k, v in held.items() if k != "weight"} for name, held in expected(model, optimizer).items()
    }
    names = dict(enumerate(name for name, _ in model.named_parameters()))
    slots = {names[number]: (slot_shape(slot), slot) for number, slot in state.slots.items()}
    found = {name: {slot: [] for slot in held} for name, held in wanted.items()}
    for place, arrays in over_slots(
        slots, lambda _, part: {k: v.astype(np.float64) for k, v in part.arrays.items()}, object
    ):
        for slot, array in arrays.items():
            assert place.begin == sum(map(len, found[place.name][slot])) and place.elements == len(array)
            found[place.name][slot].append(array)
    assert same({name: {k: np.concatenate(v) for k, v in held.items()} for name, held in found.items()}, wanted)
    for name, (shape, slot) in slots.items():
        whole = load_slot(slot, "exp_avg")
        assert whole.shape == shape and np.array_equal(whole.flatten(), wanted[name]["exp_avg"].numpy())
