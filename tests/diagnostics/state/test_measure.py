"""What a state says against the optimizer that made it, and injected faults against what is found of them."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fromage_cli.checkpoints import Checkpoint, open_checkpoint
from fromage_cli.diagnostics.state.continuity import Links
from fromage_cli.diagnostics.state.findings import judge, unknown_updates
from fromage_cli.diagnostics.state.measure import measure, trained_tensors
from fromage_cli.diagnostics.state.result import LayerState, StateResult
from fromage_cli.missing import Missing, known
from fromage_cli.optim import Fromage, Lion

Saved = dict[str, Any]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(9, 6), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Linear(6, 4))


def trained(make: Callable[..., Any] = torch.optim.AdamW, steps: int = 12, **settings: Any) -> tuple[Saved, Saved]:
    """A checkpoint after some steps, and the weights before the last of them."""
    model = network()
    optimizer, before = make(model.parameters(), **{"lr": 0.01, **settings}), {}
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        tokens, targets = torch.randint(7, (8, 3), generator=generator), torch.randint(4, (8,), generator=generator)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(tokens).mean(1), targets).backward()
        optimizer.step()
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict()}, before


def measured(checkpoints: Sequence[Checkpoint], names: Sequence[str]) -> StateResult:
    assert checkpoints[-1].optimizer is not None
    return measure(Links.of(checkpoints, names), checkpoints[-1].optimizer)


def said_of(saved: Saved, path: Path) -> StateResult:
    torch.save(saved, path / "run.pt")
    checkpoint = open_checkpoint(path / "run.pt")
    names = trained_tensors(checkpoint, (), ())
    assert checkpoint.optimizer is not None
    return measured([checkpoint], names)


def layer(result: StateResult, name: str) -> LayerState:
    return next(one for one in result.layers if one.name == name)


def codes(result: StateResult) -> set[tuple[str, str | None]]:
    return {(finding.code, finding.layer) for finding in judge(result) if finding.severity != "info"}


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (torch.optim.AdamW, {"weight_decay": 0.1}),
        (torch.optim.AdamW, {"weight_decay": 0.1, "amsgrad": True, "betas": (0.8, 0.95), "eps": 1e-4}),
        (torch.optim.Adam, {}),
        (torch.optim.SGD, {"momentum": 0.9}),
    ],
)
def test_the_last_update_is_the_one_that_was_made(make: Any, settings: Saved, tmp_path: Path) -> None:
    saved, before = trained(make, **settings)
    result = said_of(saved, tmp_path)
    decay = settings.get("weight_decay", 0.0) if make is torch.optim.AdamW else 0.0
    squares = 0.0
    for name, after in saved["model"].items():
        update = (before[name].double() * (1.0 - 0.01 * decay) - after.double()) / 0.01
        size, norm = float(update.norm()), float(after.double().norm())
        found = layer(result, name)
        assert known(found.update_rms) == pytest.approx(size / math.sqrt(update.numel()), rel=1e-3)
        assert known(found.relative_update) == pytest.approx(0.01 * size / norm, rel=1e-3)
        if decay:
            assert known(found.decay_share) == pytest.approx(decay * norm / (decay * norm + size), rel=1e-3)
        squares += size**2
    count = sum(value.numel() for value in saved["model"].values())
    assert known(result.totals.update_rms) == pytest.approx(math.sqrt(squares / count), rel=1e-3)
    norm = math.sqrt(sum(float(value.double().norm()) ** 2 for value in saved["model"].values()))
    assert known(result.totals.relative_update) == pytest.approx(0.01 * math.sqrt(squares) / norm, rel=1e-3)
    assert codes(result) == set()


def test_lion_and_fromage(tmp_path: Path) -> None:
    saved, _ = trained(Lion)
    found = layer(said_of(saved, tmp_path), "1.weight")
    assert known(found.update_rms) == pytest.approx(1.0) and isinstance(found.violations, Missing)
    saved, _ = trained(Fromage)
    found = layer(said_of(saved, tmp_path), "1.weight")
    assert isinstance(found.update_rms, Missing)


def test_the_law_of_noise(tmp_path: Path) -> None:
    saved, _ = trained()
    assert known(said_of(saved, tmp_path).totals.noise_rms) == pytest.approx(0.2294, abs=1e-4)


def test_rows_without_a_gradient(tmp_path: Path) -> None:
    """Of nine tokens two never occur."""
    saved, _ = trained()
    result = said_of(saved, tmp_path)
    assert layer(result, "0.weight").dead_rows == 2 and layer(result, "1.weight").dead_rows == 0
    assert "rows-without-gradient" in {finding.code for finding in judge(result)}


def test_how_much_eps_decides(tmp_path: Path) -> None:
    saved, _ = trained(eps=1.5e-2)
    result = said_of(saved, tmp_path)
    slot = saved["optimizer"]["state"][1]
    root = (slot["exp_avg_sq"].double() / (1 - 0.999**12)).sqrt()
    update = slot["exp_avg"].double() / (1 - 0.9**12) / (root + 1.5e-2)
    found = known(layer(result, "1.weight").epsilon)
    assert found is not None and 0.0 < found.entries < 1.0
    assert found.entries == pytest.approx(float((root < 1.5e-2).double().mean()))
    assert found.entries_near == pytest.approx(float((root < 0.15).double().mean()))
    small = float(update[root < 1.5e-2].square().sum() / update.square().sum())
    assert found.magnitude == pytest.approx(small, rel=1e-4)
    assert found.factor == pytest.approx(float((root / (root + 1.5e-2)).mean()), rel=1e-5)


def test_the_clock_of_decay(tmp_path: Path) -> None:
    saved, _ = trained(weight_decay=0.5)
    (group,) = said_of(saved, tmp_path).groups
    assert known(group.timescale) == pytest.approx(200.0)
    assert known(group.remaining) == pytest.approx(math.exp(-12 * 0.005))
    saved, _ = trained(weight_decay=0.0)
    (group,) = said_of(saved, tmp_path).groups
    assert isinstance(group.timescale, Missing) and known(group.remaining) == 1.0


def slot_of(saved: Saved, number: int) -> dict[str, Tensor]:
    found: dict[str, Tensor] = saved["optimizer"]["state"][number]
    return found


def swap_first_moments(saved: Saved) -> None:
    """Those of two layers of one shape, one of which has far smaller gradients."""
    small, large = slot_of(saved, 1), slot_of(saved, 3)
    small["exp_avg"].mul_(1e-3)
    small["exp_avg_sq"].mul_(1e-6)
    small["exp_avg"], large["exp_avg"] = large["exp_avg"], small["exp_avg"]


def flip_exponent_bit(saved: Saved) -> None:
    bits = slot_of(saved, 1)["exp_avg"].view(torch.int32)
    bits[2, 3] ^= 1 << 26


FAULTS: dict[str, tuple[Callable[[Saved], Any], tuple[str, str | None]]] = {
    "first moments swapped": (swap_first_moments, ("moments-impossible", "1.weight")),
    "second moments zeroed": (lambda s: slot_of(s, 1)["exp_avg_sq"].zero_(), ("moments-impossible", "1.weight")),
    "first moments zeroed": (lambda s: slot_of(s, 1)["exp_avg"].zero_(), ("moments-impossible", "1.weight")),
    "an exponent bit flipped": (flip_exponent_bit, ("moments-impossible", "1.weight")),
    "a negative square": (lambda s: slot_of(s, 3)["exp_avg_sq"][0].neg_(), ("moments-impossible", "3.weight")),
    "a NaN": (lambda s: slot_of(s, 1)["exp_avg"][0, 0].fill_(math.nan), ("moments-not-finite", "1.weight")),
    "a step that was reset": (lambda s: slot_of(s, 1)["step"].fill_(2.0), ("update-counts-differ", "1.weight")),
    "moments of bf16 from elsewhere": (
        lambda s: slot_of(s, 1)["exp_avg_sq"].mul_(1e-4),
        ("moments-impossible", "1.weight"),
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_found(name: str, tmp_path: Path) -> None:
    saved, _ = trained()
    fault, expected = FAULTS[name]
    fault(saved)
    assert expected in codes(said_of(saved, tmp_path))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.9, 0.95), (0.95, 0.9)])
def test_moments_in_other_dtypes_are_sound(dtype: torch.dtype, betas: tuple[float, float], tmp_path: Path) -> None:
    """Rounded at every step, also where the second moment stops moving."""
    weight = nn.Parameter(torch.ones(40, 30, dtype=dtype))
    optimizer = torch.optim.AdamW([weight], lr=1e-3, betas=betas)
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        scale = 10.0 ** float(torch.empty(()).uniform_(-2, 1, generator=generator))
        weight.grad = (scale * torch.randn(40, 30, generator=generator)).to(dtype)
        optimizer.step()
    result = said_of({"model": {"weight": weight.detach()}, "optimizer": optimizer.state_dict()}, tmp_path)
    assert known(result.layers[0].violations) is not None
    assert not {code for code, _ in codes(result) if code.startswith("moments")}


@pytest.mark.parametrize(("rate", "decay"), [(1e-3, 0.01), (1e-4, 0.1), (0.1, 0.1)])
def test_lost_updates_are_those_of_a_real_step_in_bf16(rate: float, decay: float, tmp_path: Path) -> None:
    """Weights of before a step beside the moments of after it: as many entries stay as in that step."""
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(300, 70).bfloat16())
    optimizer, before = torch.optim.AdamW([weight], lr=rate, weight_decay=decay), weight.detach().clone()
    for step in range(5):
        generator = torch.Generator().manual_seed(step)
        weight.grad = torch.randn(300, 70, generator=generator).bfloat16()
        before = weight.detach().clone()
        optimizer.step()
    result = said_of({"model": {"weight": before}, "optimizer": optimizer.state_dict()}, tmp_path)
    lost = known(result.totals.lost)
    assert lost is not None
    assert known(lost.entries) == int((weight == before).sum()) / weight.numel()
    decayed = (before.float() * torch.tensor(1.0 - rate * decay)).bfloat16()
    assert known(lost.decay) == int((decayed == before).sum()) / weight.numel()
    assert ("decay-lost", None) in codes(result) or rate > 0.05


def test_weights_in_float32_lose_nothing(tmp_path: Path) -> None:
    saved, _ = trained()
    result = said_of(saved, tmp_path)
    assert isinstance(result.totals.lost, Missing) and isinstance(result.layers[0].lost, Missing)


@pytest.mark.parametrize("make", [torch.optim.NAdam, torch.optim.RAdam])
def test_relatives_of_adam_have_their_moments_tested_and_no_update(make: Any, tmp_path: Path) -> None:
    saved, _ = trained(make)
    result = said_of(saved, tmp_path)
    assert isinstance(result.totals.update_rms, Missing) and codes(result) == set()
    slot_of(saved, 1)["exp_avg_sq"].mul_(1e-4)
    assert ("moments-impossible", "1.weight") in codes(said_of(saved, tmp_path))


@pytest.mark.parametrize("make", [torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.Adafactor, torch.optim.SGD])
def test_where_no_update_is_known_the_reason_is_said(make: Any, tmp_path: Path) -> None:
    saved, _ = trained(make)
    result = said_of(saved, tmp_path)
    assert isinstance(result.totals.update_rms, Missing) and unknown_updates(result) is not None


def test_moments_that_cannot_be_told_apart_are_not_called_missing(tmp_path: Path) -> None:
    """safetensors sorts the names, and the state has none."""
    saved, _ = trained()
    save_file(saved["model"], tmp_path / "model.safetensors")
    torch.save(saved["optimizer"], tmp_path / "optimizer.pt")
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.optimizer is not None
    names = trained_tensors(checkpoint, (), ())
    result = measured([checkpoint], names)
    words = unknown_updates(result)
    assert words is None or "nothing else tells" in words


@pytest.mark.parametrize("settings", [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}, {"momentum": 0.5}])
def test_the_clock_of_sgd_is_that_of_a_run_without_gradients(settings: Saved, tmp_path: Path) -> None:
    """Decay alone for 400 steps; the first few begin the momentum."""
    weight = nn.Parameter(torch.ones(3, 2, dtype=torch.float64))
    optimizer, norms = torch.optim.SGD([weight], lr=1e-3, weight_decay=0.02, **settings), []
    for _ in range(400):
        weight.grad = torch.zeros_like(weight)
        optimizer.step()
        norms.append(float(weight.detach()[0, 0]))
    saved = {"model": {"w": weight.detach()}, "optimizer": optimizer.state_dict(), "step": 400}
    (group,) = said_of(saved, tmp_path).groups
    assert known(group.timescale) == pytest.approx(200.0 / math.log(norms[199] / norms[399]), rel=0.01)
    assert known(group.remaining) == pytest.approx(norms[399], rel=0.005)


@pytest.mark.parametrize("settings", [{"weight_decay": 0.1}, {"weight_decay": 0.0}])
def test_the_clock_of_coupled_decay_under_adam_is_not_told(settings: Saved, tmp_path: Path) -> None:
    saved, _ = trained(torch.optim.Adam, **settings)
    (group,) = said_of(saved, tmp_path).groups
    assert isinstance(group.timescale, Missing) and isinstance(group.remaining, Missing)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [math.nan, -math.nan, math.inf])
def test_damaged_moments_of_narrow_weights_leave_the_other_numbers(value: float, tmp_path: Path) -> None:
    weight = nn.Parameter(torch.ones(4, 3).bfloat16())
    optimizer = torch.optim.AdamW([weight], lr=1e-3)
    weight.grad = torch.ones(4, 3).bfloat16()
    optimizer.step()
    optimizer.state[weight]["exp_avg"][0, 0] = value
    optimizer.state[weight]["exp_avg_sq"][1, 0] = -1.0
    result = said_of({"model": {"w": weight.detach()}, "optimizer": optimizer.state_dict()}, tmp_path)
    lost, violations = known(result.totals.lost), known(result.layers[0].violations)
    assert violations is not None and (violations.not_finite, violations.negative) == (1, 1)
    assert lost is not None and 0.0 <= (known(lost.magnitude) or 0.0) <= 1.0
    assert math.isfinite(known(result.totals.update_rms) or math.nan)


def test_a_master_copy_takes_the_steps(tmp_path: Path) -> None:
    weight = nn.Parameter(torch.ones(4, 3).bfloat16())
    optimizer = torch.optim.AdamW([weight], lr=1e-3)
    weight.grad = torch.ones(4, 3).bfloat16()
    optimizer.step()
    optimizer.state[weight]["master_param"] = weight.detach().float()
    result = said_of({"model": {"w": weight.detach()}, "optimizer": optimizer.state_dict()}, tmp_path)
    assert isinstance(result.layers[0].lost, Missing) and "master copy" in result.layers[0].lost.words
    assert known(result.totals.lost) is None


def test_reasons_are_those_of_the_optimizer(tmp_path: Path) -> None:
    """NAdam keeps second moments, and its weights in 16 bits are rounded; only its update is not known."""
    weight = nn.Parameter(torch.ones(4, 3).bfloat16())
    optimizer = torch.optim.NAdam([weight], lr=1e-3)
    weight.grad = torch.ones(4, 3).bfloat16()
    optimizer.step()
    result = said_of({"model": {"w": weight.detach()}, "optimizer": optimizer.state_dict()}, tmp_path)
    for number in (result.layers[0].epsilon, result.layers[0].lost, result.totals.lost, result.totals.update_rms):
        assert isinstance(number, Missing) and number.words == "its update cannot be made from the state alone"
