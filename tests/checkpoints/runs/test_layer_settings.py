from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from fromage_cli.checkpoints import Checkpoint, open_checkpoint
from fromage_cli.checkpoints.runs.layer_settings import LayerSettings, layer_settings, run_settings
from fromage_cli.optimizers.settings import Given


def saved(tmp_path: Path, steps: int, **second: Any) -> Checkpoint:
    """Two matrices in two groups of AdamW, after some steps."""
    weights = {"a": torch.nn.Parameter(torch.ones(2, 3)), "b": torch.nn.Parameter(torch.ones(3, 2))}
    optimizer = torch.optim.AdamW([{"params": [weights["a"]]}, {"params": [weights["b"]], **second}], lr=0.1)
    for _ in range(steps):
        for weight in weights.values():
            weight.grad = torch.ones_like(weight)
        optimizer.step()
    model = {name: weight.data for name, weight in weights.items()}
    torch.save({"model": model, "optimizer": optimizer.state_dict()}, tmp_path / "c.pt")
    return open_checkpoint(tmp_path / "c.pt")


def test_each_layer_has_its_group(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path, 1, lr=0.2)
    found = layer_settings(checkpoint, checkpoint.optimizer, ("a", "b"))
    assert (found.of("a")["lr"], found.of("b")["lr"], found.unmatched) == (0.1, 0.2, False)
    assert "lr" not in found.common and found.common["weight_decay"] == 0.01


def test_where_groups_are_not_told_apart_what_they_share_is_left(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path, 0, lr=0.2)
    found = layer_settings(checkpoint, checkpoint.optimizer, ("a", "b"))
    assert (found.of("a").get("lr"), found.of("b")["weight_decay"], found.unmatched) == (None, 0.01, True)


def test_without_a_state_there_is_nothing(tmp_path: Path) -> None:
    assert layer_settings(saved(tmp_path, 0), None, ("a", "b")) == LayerSettings()


def test_a_run_has_what_is_given_before_what_its_states_tell_before_what_is_declared(tmp_path: Path) -> None:
    checkpoint, declared = saved(tmp_path, 1, lr=0.2, weight_decay=0.5), Given(learning_rate=7.0, weight_decay=7.0)
    found = run_settings([checkpoint], ("a", "b"), Given(), declared)
    assert (found.name, found.rates("b"), found.decay("b"), found.rates(None)) == ("adamw", (0.2,), 0.5, (7.0,))
    assert found.found[-1].mixed_decay and found.optimizer_of("a").betas == (0.9, 0.999)
    assert run_settings([checkpoint], ("a",), Given(weight_decay=0.0), declared).decay("a") == 0.0
    other = run_settings([checkpoint], ("a",), Given("sgd"), declared)
    assert (other.name, other.rates("a"), other.decay("a")) == ("sgd", (7.0,), 7.0)


def test_a_run_of_nobody_knows_what_has_settings_all_the_same(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path, 1)
    save_file({"a": torch.ones(2, 3)}, tmp_path / "plain.safetensors")
    plain = run_settings([open_checkpoint(tmp_path / "plain.safetensors")], ("a",), Given(), Given())
    assert (plain.name, plain.rates("a"), plain.decay("a"), plain.notes) == (None, (None,), None, ())
    series = run_settings([open_checkpoint(tmp_path / "plain.safetensors"), checkpoint], ("a",), Given(), Given())
    assert series.rates("a") == (None, 0.1)


def test_a_layer_of_an_unknown_group_has_what_all_share_that_can_hold_it(tmp_path: Path) -> None:
    """Matrices decay, vectors do not, one matrix is frozen: the counts do not fit, the shapes tell."""
    weights = {name: torch.nn.Parameter(torch.ones(*shape)) for name, shape in SHAPES.items()}
    decayed = [weights[name] for name in ("a", "b")]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": [weights["bias"]], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.2)
    for weight in (*decayed, weights["bias"]):
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    torch.save(
        {"model": {n: w.data for n, w in weights.items()}, "optimizer": optimizer.state_dict()}, tmp_path / "c.pt"
    )
    checkpoint = open_checkpoint(tmp_path / "c.pt")
    found = layer_settings(checkpoint, checkpoint.optimizer, ("a", "frozen", "b", "bias"))
    assert [found.of(name).get("weight_decay") for name in ("a", "frozen", "b", "bias")] == [0.1, 0.1, 0.1, 0.0]
    assert not found.unmatched and {found.of(name)["lr"] for name in SHAPES} == {0.2} and not found.slots
    with_other = layer_settings(checkpoint, checkpoint.optimizer, ("a", "other"))
    assert with_other.never_updated == {"other"} and with_other.of("other") == {}


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("extension", ["pt", "safetensors"])
def test_a_layer_without_a_slot_beside_others_was_never_updated(given: bool, extension: str, tmp_path: Path) -> None:
    """Frozen, and in the optimizer's groups or not; the file's order is the model's, or that of names."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2), torch.nn.Linear(2, 5))
    model[1].requires_grad_(False)
    moved = [p for p in model.parameters() if given or p.requires_grad]
    optimizer = torch.optim.AdamW(moved, lr=0.2)
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    path = tmp_path / f"model.{extension}"
    if extension == "pt":
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, path)
        state = open_checkpoint(path).optimizer
    else:
        save_file(model.state_dict(), path)
        torch.save(optimizer.state_dict(), tmp_path / "o.pt")
        state = open_checkpoint(path, optimizer_state=tmp_path / "o.pt").optimizer
    found = layer_settings(open_checkpoint(path), state, ("0.weight", "1.weight", "2.weight"))
    assert found.never_updated == {"1.weight"}
    assert found.of("0.weight")["lr"] == 0.2


def test_each_of_two_optimizers_tells_of_its_own_layers(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Embedding(4, 3), torch.nn.Linear(3, 2))
    adamw = torch.optim.AdamW(model[0].parameters(), lr=3e-3)
    muon = torch.optim.Muon([model[1].weight], lr=0.02)
    model(torch.tensor([1])).sum().backward()
    adamw.step()
    muon.step()
    states = [adamw.state_dict(), muon.state_dict()]
    torch.save({"model": model.state_dict(), "optimizers": states, "step": 1}, tmp_path / "c.pt")
    names = ("0.weight", "1.weight")
    run = run_settings([open_checkpoint(tmp_path / "c.pt")], names, Given(), Given())
    assert run.name == "adamw and muon"
    assert [(run.optimizer_of(name).name, run.rates(name)) for name in names] == [("adamw", (3e-3,)), ("muon", (0.02,))]
    one = run_settings([open_checkpoint(tmp_path / "c.pt")], names, Given("muon"), Given())
    assert one.name == "muon" and one.rates("1.weight") == (0.02,) and not one.found[0].never_updated
    assert one.found[0].of("0.weight") == {}


def test_groups_that_differ_and_can_both_hold_a_layer_tell_no_decay_of_it(tmp_path: Path) -> None:
    weights = {name: torch.nn.Parameter(torch.ones(2, 3)) for name in ("a", "b", "frozen")}
    optimizer = torch.optim.AdamW([{"params": [weights["a"]]}, {"params": [weights["b"]], "weight_decay": 0.0}])
    for weight in list(weights.values())[:2]:
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    model = {name: weight.data for name, weight in weights.items()}
    torch.save({"model": model, "optimizer": optimizer.state_dict()}, tmp_path / "c.pt")
    checkpoint = open_checkpoint(tmp_path / "c.pt")
    found = layer_settings(checkpoint, checkpoint.optimizer, ("a", "b"))
    assert found.unmatched and found.mixed_decay and not found.by_layer


SHAPES = {"a": (2, 3), "frozen": (2, 3), "b": (3, 3), "bias": (3,), "other": (5, 5)}
