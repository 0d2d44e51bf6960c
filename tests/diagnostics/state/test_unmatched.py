"""States without names beside files that sort theirs, as Hugging Face's Trainer saves them."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.diagnostics.state.continuity import Links
from fromage_cli.diagnostics.state.findings import judge
from fromage_cli.diagnostics.state.measure import measure, trained_tensors
from fromage_cli.diagnostics.state.render import render
from fromage_cli.diagnostics.state.result import StateResult
from fromage_cli.diagnostics.state.unmatched import NOT_KNOWN
from fromage_cli.missing import Missing, known
from fromage_cli.optim import LAMB
from tests.diagnostics.pages import drawn


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(6, 6), nn.Linear(6, 6)
        self.up, self.norm = nn.Linear(6, 9, bias=False), nn.LayerNorm(6)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token, self.blocks = nn.Embedding(7, 6), nn.ModuleList(Block() for _ in range(11))


class Trained:
    """Decayed matrices and the rest in two groups, each in the model's order."""

    def __init__(self, make: Any = torch.optim.AdamW, rate: float = 0.01) -> None:
        torch.manual_seed(0)
        self.model = Network()
        self.parameters = dict(self.model.named_parameters())
        matrices = [name for name, value in self.parameters.items() if value.dim() > 1]
        self.order = [*matrices, *(name for name in self.parameters if name not in matrices)]
        groups = [(matrices, 0.1, rate), ([n for n in self.order if n not in matrices], 0.0, rate)]
        self.optimizer = make(
            [{"params": [self.parameters[n] for n in names], "weight_decay": d, "lr": r} for names, d, r in groups]
        )
        self.before: dict[str, Any] = {}
        self.generator = torch.Generator().manual_seed(1)
        self.train(4)

    def train(self, steps: int) -> None:
        for _ in range(steps):
            self.before = {name: value.detach().clone() for name, value in self.parameters.items()}
            for value in self.parameters.values():
                value.grad = torch.randn(value.shape, generator=self.generator)
            self.optimizer.step()

    def said(self, path: Path, damage: tuple[str, Any] | None = None) -> StateResult:
        saved = self.optimizer.state_dict()
        if damage is not None:
            name, fault = damage
            fault(saved["state"][self.order.index(name)])
        save_file({name: value.detach() for name, value in self.parameters.items()}, path / "model.safetensors")
        torch.save(saved, path / "optimizer.pt")
        checkpoint = open_checkpoint(path)
        assert checkpoint.optimizer is not None
        names = trained_tensors(checkpoint, (), ())
        return measure(Links.of([checkpoint], names), checkpoint.optimizer)


def rms_of(saved: dict[str, Any], steps: int = 4) -> float:
    update = saved["exp_avg"] / (1 - 0.9**steps) / ((saved["exp_avg_sq"] / (1 - 0.999**steps)).sqrt() + 1e-8)
    return float(update.double().square().mean().sqrt())


def test_what_shapes_and_numbers_tell_is_matched_and_the_rest_is_tested_by_number(tmp_path: Path) -> None:
    trained = Trained()
    result = trained.said(tmp_path)
    told = {one.name: one for one in result.layers if not isinstance(one.relative_update, Missing)}
    assert set(told) == {"token.weight", *(f"blocks.{block}.up.weight" for block in range(11))}
    for name, layer in told.items():
        decay = 1.0 - 0.01 * 0.1
        moved = (trained.before[name] * decay - trained.parameters[name].detach()).double()
        norm = float(trained.parameters[name].detach().double().norm())
        assert known(layer.relative_update) == pytest.approx(float(moved.norm()) / norm, rel=1e-3)
    numbers = [trained.order.index(name) for name in trained.order if name not in told]
    assert [one.name for one in result.slots] == [
        f"slot {n} ({'×'.join(map(str, trained.parameters[trained.order[n]].shape))})" for n in numbers
    ]
    for number, slot in zip(numbers, result.slots, strict=True):
        state = trained.optimizer.state[trained.parameters[trained.order[number]]]
        assert known(slot.update_rms) == pytest.approx(rms_of(state), rel=1e-4)
        assert (slot.relative_update, slot.lost, slot.decay_share) == (NOT_KNOWN, NOT_KNOWN, NOT_KNOWN)
    assert judge(result) == () or {one.severity for one in judge(result)} == {"info"}
    page = drawn(lambda found, how: render(found, how, judge(found)), result, 100)
    assert f"The tensors of {len(numbers)} slots are not known" in " ".join(page.split())


def test_a_sum_over_all_tensors_needs_no_match(tmp_path: Path) -> None:
    trained = Trained()
    totals = trained.said(tmp_path).totals
    moved, norm, squares, entries = 0.0, 0.0, 0.0, 0
    for name, value in trained.parameters.items():
        decay = 1.0 - 0.01 * (0.1 if value.dim() > 1 else 0.0)
        step = float((trained.before[name] * decay - value.detach()).double().square().sum())
        moved, norm = moved + step, norm + float(value.detach().double().square().sum())
        squares, entries = squares + step / 0.01**2, entries + value.numel()
    assert known(totals.relative_update) == pytest.approx(math.sqrt(moved / norm), rel=1e-3)
    assert known(totals.update_rms) == pytest.approx(math.sqrt(squares / entries), rel=1e-3)
    assert totals.parameters == entries


def test_faults_of_slots_without_a_tensor_are_found(tmp_path: Path) -> None:
    trained, name = Trained(), "blocks.3.query.weight"
    called = f"slot {trained.order.index(name)} (6×6)"
    for fault, code in (
        (lambda slot: slot["exp_avg_sq"].mul_(1e-4), "moments-impossible"),
        (lambda slot: slot["exp_avg_sq"][1, 2].neg_(), "moments-impossible"),
        (lambda slot: slot["exp_avg"].fill_(math.nan), "moments-not-finite"),
        (lambda slot: slot["step"].fill_(2.0), "update-counts-differ"),
        (lambda slot: slot["exp_avg_sq"][2].zero_() + slot["exp_avg"][2].zero_(), "rows-without-gradient"),
    ):
        findings = judge(Trained().said(tmp_path, (name, fault)))
        assert (code, called) in {(one.code, one.layer) for one in findings}


def test_an_update_that_takes_the_weights_is_not_made_without_them(tmp_path: Path) -> None:
    result = Trained(LAMB).said(tmp_path)
    assert result.slots and {one.update_rms for one in result.slots} == {NOT_KNOWN}
    assert all(known(one.violations) is not None for one in result.slots)


def test_an_optimizer_without_moments_of_the_tensors_shape(tmp_path: Path) -> None:
    result = Trained(torch.optim.Adafactor).said(tmp_path)
    assert result.slots and all(isinstance(one.update_rms, Missing) for one in result.slots)
    assert not [one for one in judge(result) if one.severity != "info"]


def test_a_trainer_of_transformers(tmp_path: Path) -> None:
    """Two groups by its own rule, in the order of the network; the file is sorted."""
    transformers = pytest.importorskip("transformers")
    settings = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 11, "vocab_size": 32}
    config = transformers.LlamaConfig(**settings, num_attention_heads=4, num_key_value_heads=2)
    trained = Trained.__new__(Trained)
    trained.model = transformers.LlamaForCausalLM(config)
    trained.parameters = dict(trained.model.named_parameters())
    decayed = [name for name in trained.parameters if "norm" not in name]
    trained.order = [*decayed, *(name for name in trained.parameters if name not in decayed)]
    groups = [(decayed, 0.1), (trained.order[len(decayed) :], 0.0)]
    trained.optimizer = torch.optim.AdamW(
        [{"params": [trained.parameters[n] for n in names], "weight_decay": decay} for names, decay in groups]
    )
    for value in trained.parameters.values():
        value.grad = torch.randn(value.shape)
    trained.optimizer.step()
    result = trained.said(tmp_path)
    told = {one.name for one in result.layers if not isinstance(one.relative_update, Missing)}
    assert told == {name for name in trained.parameters if "down_proj" in name}
    for name in told:
        layer = next(one for one in result.layers if one.name == name)
        assert known(layer.update_rms) == pytest.approx(rms_of(trained.optimizer.state[trained.parameters[name]], 1))
    assert len(result.slots) == len(trained.order) - len(told)


def test_slots_without_a_tensor_are_held_against_the_checkpoint_before(tmp_path: Path) -> None:
    trained = Trained()
    folders = [tmp_path / f"checkpoint-{step}" for step in (4, 8)]
    for folder in folders:
        folder.mkdir()
    trained.said(folders[0])
    trained.train(4)
    trained.said(folders[1])

    def broken() -> tuple[str, ...]:
        checkpoints = [open_checkpoint(folder) for folder in folders]
        assert checkpoints[-1].optimizer is not None
        names = trained_tensors(checkpoints[-1], (), ())
        (found,) = measure(Links.of(checkpoints, names), checkpoints[-1].optimizer).continuity
        bounds = [known(bound) for bound in (found.second_moments, found.first_moments)]
        return tuple(name for bound in bounds if bound is not None for name in bound.names)

    assert broken() == ()
    saved = torch.load(folders[1] / "optimizer.pt")
    number = trained.order.index("blocks.3.key.weight")
    saved["state"][number]["exp_avg_sq"] *= 0.5
    torch.save(saved, folders[1] / "optimizer.pt")
    assert f"slot {number} (6×6)" in broken()
