"""Optimizers wherever libraries keep them, one or several."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fromage_cli.checkpoints import OptimizerState, match_parameters, open_checkpoint
from fromage_cli.checkpoints.finding.trainer_files import load_optimizer
from fromage_cli.errors import MismatchError, UsageError


def network(*sizes: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(first, second) for first, second in pairwise(sizes)))


def trained(model: nn.Module, *optimizers: torch.optim.Optimizer) -> list[dict[str, Any]]:
    for _ in range(2):
        width = next(model.parameters()).shape[1]
        model(torch.randn(4, width)).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()
    return [optimizer.state_dict() for optimizer in optimizers]


def opened(tmp_path: Path, saved: dict[str, Any], **asked: Any) -> OptimizerState:
    torch.save(saved, tmp_path / "c.pt")
    state = open_checkpoint(tmp_path / "c.pt", **asked).optimizer
    assert state is not None
    return state


def shapes(model: nn.Module, prefix: str = "") -> dict[str, tuple[int, ...]]:
    return {prefix + name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def by_name(state: dict[str, Any], names: list[str]) -> dict[str, Any]:
    slots = {name: state["state"][number] for number, name in enumerate(names)}
    return {"state": slots, "param_groups": [{**state["param_groups"][0], "params": names}]}


LAYOUTS: dict[str, Callable[[dict[str, Any], dict[str, Any], list[str]], dict[str, Any]]] = {
    "fairseq": lambda model, state, names: {"model": model, "last_optimizer_state": state},
    "composer": lambda model, state, names: {
        "state": {"model": model, "optimizers": {"DecoupledAdamW": by_name(state, names)}}
    },
    "megatron": lambda model, state, names: {
        "model": model,
        "optimizer": {"optimizer": state, "grad_scaler": {"scale": 65536.0}},
    },
    "apex": lambda model, state, names: {
        "model": model,
        "optimizer": {"loss_scaler": 1.0, "optimizer_state_dict": state},
    },
    "lightning": lambda model, state, names: {"state_dict": model, "optimizer_states": [state], "loops": {}},
    "trainer": lambda model, state, names: {"net": model, "trainer": {"epoch": 1, "opt": {"inner": state}}},
    "beside the best": lambda model, state, names: {
        "model": model,
        "optimizer": state,
        "best": {"model": model, "optimizer": {**state, "state": {}}},
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_state_is_found_wherever_it_stands(layout: str, tmp_path: Path) -> None:
    model = network(5, 6, 3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
    (saved,) = trained(model, optimizer)
    state = opened(tmp_path, LAYOUTS[layout](model.state_dict(), saved, list(shapes(model))))
    assert (state.kind, state.steps, state.groups[0].settings["lr"]) == ("adamw", 2, 3e-3)
    numbers = match_parameters(state, shapes(model))
    moment = state.slots[numbers["1.weight"]]["exp_avg"]
    assert torch.equal(moment, optimizer.state[model[1].weight]["exp_avg"])


def test_two_optimizers_of_two_networks_are_matched_together(tmp_path: Path) -> None:
    generator, critic = network(4, 8, 6), network(6, 8, 1)
    first = torch.optim.Adam(generator.parameters(), lr=2e-4)
    second = torch.optim.Adam(critic.parameters(), lr=5e-5)
    saved = [*trained(generator, first), *trained(critic, second)]
    weights = {"g." + name: value for name, value in generator.state_dict().items()}
    weights |= {"d." + name: value for name, value in critic.state_dict().items()}
    state = opened(tmp_path, {"state_dict": weights, "optimizer_states": saved})
    assert state.kind == "adam" and [group.settings["lr"] for group in state.groups] == [2e-4, 5e-5]
    numbers = match_parameters(state, shapes(generator, "g.") | shapes(critic, "d."))
    assert numbers == {name: number for number, name in enumerate(weights)}
    assert torch.equal(state.slots[numbers["d.0.weight"]]["exp_avg"], second.state[critic[0].weight]["exp_avg"])


def test_of_two_networks_optimizers_the_one_is_taken_that_fits_the_weights(tmp_path: Path) -> None:
    generator, critic = network(4, 8, 6), network(6, 8, 1)
    states = [
        *trained(generator, torch.optim.Adam(generator.parameters(), lr=2e-4)),
        *trained(critic, torch.optim.Adam(critic.parameters(), lr=5e-5)),
    ]
    saved = {"netG": generator.state_dict(), "netD": critic.state_dict(), "optG": states[0], "optD": states[1]}
    for key, rate in (("netG", 2e-4), ("netD", 5e-5)):
        state = opened(tmp_path, saved, key=key)
        assert [group.settings["lr"] for group in state.groups] == [rate]
    state = load_optimizer(tmp_path / "c.pt")
    assert len(match_parameters(state, shapes(critic))) == 4
    assert len(state.numbers) == 8


def test_muon_and_adamw_share_one_network(tmp_path: Path) -> None:
    model = network(8, 16, 16, 4)
    adamw = torch.optim.AdamW([p for p in model.parameters() if p.dim() < 2], lr=3e-3, weight_decay=0.0)
    muon = torch.optim.Muon([p for p in model.parameters() if p.dim() == 2], lr=0.02, weight_decay=0.1)
    saved = trained(model, adamw, muon)
    state = opened(tmp_path, {"model": model.state_dict(), "optimizers": saved})
    assert state.kind == "adamw and muon" and state.settings.rule is None
    part = state.serving("muon")
    assert part is not None and part.settings.rule == "muon" and state.settings_for("muon") == part.settings
    numbers = match_parameters(part, shapes(model))
    assert list(numbers) == ["0.weight", "1.weight", "2.weight"]
    assert torch.equal(
        part.slots[numbers["1.weight"]]["momentum_buffer"], muon.state[model[1].weight]["momentum_buffer"]
    )


def test_two_states_that_both_fit_are_told_by_the_place_that_is_asked_for(tmp_path: Path) -> None:
    model = network(5, 6, 3)
    first, second = (trained(model, torch.optim.AdamW(model.parameters(), lr=rate))[0] for rate in (1e-3, 2e-3))
    saved = {"model": model.state_dict(), "optimizer": {"first": first, "second": second}}
    state = opened(tmp_path, saved)
    assert len(state.numbers) == 8
    with pytest.raises(MismatchError, match=r"2 optimizers fit .*: 'optimizer.first', 'optimizer.s") as error:
        match_parameters(state, shapes(model))
    assert "--optimizer-key" in (error.value.hint or "")
    state = opened(tmp_path, saved, optimizer_key="optimizer.second")
    assert state.groups[0].settings["lr"] == 2e-3 and len(match_parameters(state, shapes(model))) == 4
    with pytest.raises(UsageError, match=r"'optimizer.third' does not name an optimizer") as wrong:
        opened(tmp_path, saved, optimizer_key="optimizer.third")
    assert "optimizer.first" in (wrong.value.hint or "")


def test_one_optimizer_for_each_parameter_names_it(tmp_path: Path) -> None:
    model = network(5, 5, 5)
    optimizers = {name: torch.optim.AdamW([one], lr=1e-3) for name, one in model.named_parameters()}
    saved = dict(zip(optimizers, trained(model, *optimizers.values()), strict=True))
    turned = dict(reversed(list(saved.items())))
    state = opened(tmp_path, {"model": model.state_dict(), "optimizer": turned})
    assert match_parameters(state, shapes(model)) == {"0.weight": 3, "0.bias": 2, "1.weight": 1, "1.bias": 0}


def test_a_state_can_be_left_aside(tmp_path: Path) -> None:
    model = network(5, 3)
    saved = trained(model, torch.optim.AdamW(model.parameters()))[0]
    torch.save({"model": model.state_dict(), "optimizer": saved}, tmp_path / "c.pt")
    assert open_checkpoint(tmp_path / "c.pt", optimizer_state="none").optimizer is None


def test_numbers_that_a_distributed_checkpoint_spells_out_are_numbers(tmp_path: Path) -> None:
    from torch.distributed import checkpoint as dcp

    model = network(5, 6, 3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    saved = {"model": model.state_dict(), "optimizer": trained(model, optimizer)[0]}
    dcp.save(saved, checkpoint_id=tmp_path / "d", no_dist=True)
    state = open_checkpoint(tmp_path / "d").optimizer
    assert state is not None and (state.kind, state.steps) == ("adamw", 2)
    assert torch.equal(state.slots[2]["exp_avg_sq"], optimizer.state[model[1].weight]["exp_avg_sq"])


def test_a_flat_state_among_the_weights_is_no_weight(tmp_path: Path) -> None:
    model = network(5, 6, 3)
    saved = trained(model, torch.optim.AdamW(model.parameters(), lr=1e-3))[0]
    flat = {
        f"state.{name}.{key}": value
        for number, name in enumerate(shapes(model))
        for key, value in saved["state"][number].items()
    }
    flat |= {
        f"param_groups.{name}.{key}": value
        for name in shapes(model)
        for key, value in saved["param_groups"][0].items()
        if key != "params"
    }
    torch.save({**model.state_dict(), **flat}, tmp_path / "c.pt")
    checkpoint = open_checkpoint(tmp_path / "c.pt")
    assert list(checkpoint.entries) == list(shapes(model))
    state = checkpoint.optimizer
    assert state is not None and state.kind == "adamw"
    assert list(match_parameters(state, shapes(model))) == list(shapes(model))
