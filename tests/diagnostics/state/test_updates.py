"""Last steps that take the whole tensor, against the optimizers that take them."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fromage_cli.diagnostics.state import updates
from fromage_cli.diagnostics.state.findings import judge
from fromage_cli.diagnostics.state.result import LayerState, StateResult
from fromage_cli.missing import Missing, known
from fromage_cli.optim import LAMB, LARS, Fromage, Lion
from tests.diagnostics.state.test_measure import said_of

Run = tuple[StateResult, dict[str, Tensor], dict[str, Tensor]]
SHAPES = {"matrix": (12, 8), "wide": (5, 20), "bias": (8,)}


def stepped(make: Any, path: Path, *, shapes: Any = SHAPES, steps: int = 6, start: float = 1.0, **settings: Any) -> Run:
    """What is said after some steps, the weights then, and before the last step."""
    generator = torch.Generator().manual_seed(0)
    weights = {name: nn.Parameter(start * torch.randn(shape, generator=generator)) for name, shape in shapes.items()}
    optimizer, before = make(list(weights.values()), **settings), {}
    for _ in range(steps):
        before = {name: value.detach().clone() for name, value in weights.items()}
        for value in weights.values():
            value.grad = torch.randn(value.shape, generator=generator)
        optimizer.step()
    after = {name: value.detach() for name, value in weights.items()}
    return said_of({"model": after, "optimizer": optimizer.state_dict()}, path), after, before


def of(result: StateResult, name: str) -> LayerState:
    return next(one for one in result.layers if one.name == name)


def rms(values: Tensor) -> float:
    return float(values.double().square().mean().sqrt())


@pytest.mark.parametrize(
    "settings",
    [{"weight_decay": 0.1}, {"weight_decay": 1.0, "lr": 0.2}, {"trust_clip": True}, {"weight_decay": 0.0}],
)
def test_lamb(settings: Any, tmp_path: Path) -> None:
    settings = {"lr": 0.01, **settings}
    result, after, before = stepped(LAMB, tmp_path, **settings)
    for name, value in after.items():
        moved = (before[name] - value).double()
        assert known(of(result, name).update_rms) == pytest.approx(rms(moved) / settings["lr"], rel=1e-4)
        assert known(of(result, name).relative_update) == pytest.approx(float(moved.norm() / value.norm()), rel=1e-4)
    whole = math.sqrt(sum(float((before[name] - value).double().square().sum()) for name, value in after.items()))
    norm = math.sqrt(sum(float(value.double().square().sum()) for value in after.values()))
    assert known(result.totals.relative_update) == pytest.approx(whole / norm, rel=1e-4)


def test_lamb_of_other_hands_leaves_out_what_has_no_decay(tmp_path: Path) -> None:
    result, after, _ = stepped(LAMB, tmp_path)
    assert known(of(result, "bias").update_rms) == pytest.approx(rms(after["bias"]), rel=0.01)
    saved = torch.load(tmp_path / "run.pt", weights_only=True)
    saved["optimizer"]["param_groups"][0] |= {"grad_averaging": True}
    adams = said_of(saved, tmp_path)
    slot = saved["optimizer"]["state"][2]
    update = slot["exp_avg"] / (1 - 0.9**6) / ((slot["exp_avg_sq"] / (1 - 0.999**6)).sqrt() + 1e-6)
    assert known(of(adams, "bias").update_rms) == pytest.approx(rms(update), rel=1e-4)
    saved["optimizer"]["param_groups"][0] |= {"always_adapt": True}
    again = said_of(saved, tmp_path)
    assert known(of(again, "bias").update_rms) == known(of(result, "bias").update_rms)


@pytest.mark.parametrize(
    ("make", "settings", "expected"),
    [(Fromage, {}, 0.01), (Fromage, {"lr": 0.3}, 0.3), (LARS, {}, 0.01), (LARS, {"trust_coefficient": 0.02}, 2e-4)],
)
def test_a_relative_rate_is_the_step_over_the_weights_before(
    make: Any, settings: Any, expected: float, tmp_path: Path
) -> None:
    result, after, before = stepped(make, tmp_path, **settings)
    stretched = math.hypot(1.0, settings.get("lr", 0.01)) if make is Fromage else 1.0
    for name, value in after.items():
        moved = (stretched * value - before[name]).double()
        assert known(of(result, name).relative_update) == pytest.approx(expected)
        assert float(moved.norm() / before[name].norm()) == pytest.approx(expected, rel=2e-3)
        assert isinstance(of(result, name).update_rms, Missing)
    assert known(result.totals.relative_update) == pytest.approx(expected)


def test_lars_with_decay_or_a_clip_has_no_step_that_its_rate_tells(tmp_path: Path) -> None:
    for settings in ({"weight_decay": 0.1}, {"trust_clip": True}):
        result, _, _ = stepped(LARS, tmp_path, **settings)
        assert of(result, "bias").relative_update == updates.AT_MOST
    result, after, before = stepped(LARS, tmp_path, momentum=0.9, weight_decay=0.1)
    moved = (before["matrix"] - after["matrix"]).double()
    assert known(of(result, "matrix").update_rms) == pytest.approx(rms(moved) / 0.01, rel=1e-4)


def test_lion_moves_every_entry_alike(tmp_path: Path) -> None:
    result, after, before = stepped(Lion, tmp_path, lr=0.01)
    moved = (before["matrix"] - after["matrix"]).double()
    assert known(of(result, "matrix").update_rms) == pytest.approx(rms(moved) / 0.01, rel=1e-4)


@pytest.mark.parametrize("adjustment", [None, "match_rms_adamw"])
@pytest.mark.parametrize(("nesterov", "close"), [(False, 0.01), (True, 0.1)])
def test_muon(nesterov: bool, close: float, adjustment: str | None, tmp_path: Path) -> None:
    """torch iterates in bfloat16, and looks ahead with a gradient that is not saved."""
    shapes = {"matrix": (12, 8), "wide": (5, 20)}
    settings = {"nesterov": nesterov, "weight_decay": 0.1, "adjust_lr_fn": adjustment, "lr": 0.01}
    result, after, before = stepped(torch.optim.Muon, tmp_path, shapes=shapes, **settings)
    for name, value in after.items():
        moved = (before[name] * (1 - 0.01 * 0.1) - value).double()
        assert known(of(result, name).update_rms) == pytest.approx(rms(moved) / 0.01, rel=close)
        assert known(of(result, name).relative_update) == pytest.approx(float(moved.norm() / value.norm()), rel=close)
        pull = 0.1 * float(value.norm())
        share = pull / (pull + float(moved.norm()) / 0.01)
        assert known(of(result, name).decay_share) == pytest.approx(share, rel=close)
    assert judge(result) == () or {one.severity for one in judge(result)} == {"info"}


def test_muon_of_matrices_that_are_too_large_or_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stepped(torch.optim.Muon, tmp_path, shapes={"matrix": (12, 8)})
    saved = torch.load(tmp_path / "run.pt", weights_only=True)
    with monkeypatch.context() as patch:
        patch.setattr(updates, "LARGEST_SIDE", 7)
        assert of(said_of(saved, tmp_path), "matrix").update_rms == updates.TOO_LARGE
    saved["optimizer"]["state"][0]["momentum_buffer"][2, 3] = math.nan
    result = said_of(saved, tmp_path)
    assert of(result, "matrix").update_rms == updates.NOT_FINITE
    assert [one.code for one in judge(result) if one.severity == "fail"] == ["moments-not-finite"]


class MuonWithAdam:
    """Groups with `use_muon` and without it, as Keller Jordan's SingleDeviceMuonWithAuxAdam saves them."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        generator = torch.Generator().manual_seed(1)
        self.matrices = [name for name, shape in shapes.items() if len(shape) > 1]
        self.momentum = {name: torch.randn(shapes[name], generator=generator) for name in self.matrices}
        vectors = [name for name in shapes if name not in self.matrices]
        self.moments = {
            name: {
                "exp_avg": 0.1 * torch.randn(shapes[name], generator=generator),
                "exp_avg_sq": torch.rand(shapes[name], generator=generator) + 0.1,
                "step": 9,
            }
            for name in vectors
        }

    def saved(self) -> dict[str, Any]:
        slots: list[Any] = [{"momentum_buffer": value} for value in self.momentum.values()]
        slots += list(self.moments.values())
        count = len(self.momentum)
        return {
            "state": dict(enumerate(slots)),
            "param_groups": [
                {"params": list(range(count)), "lr": 0.02, "momentum": 0.95, "weight_decay": 0.1, "use_muon": True},
                {
                    "params": list(range(count, len(slots))),
                    **{"lr": 3e-4, "betas": (0.9, 0.95), "eps": 1e-10, "weight_decay": 0.0, "use_muon": False},
                },
            ],
        }


def newton_schulz(matrices: Tensor) -> Tensor:
    """As Jordan's code has it, in float64, for matrices or a batch of them."""
    x = matrices.double()
    x = x.mT if matrices.shape[-2] > matrices.shape[-1] else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.775 * gram + 2.0315 * gram @ gram) @ x
    return x.mT if matrices.shape[-2] > matrices.shape[-1] else x


def test_muon_beside_adam_each_by_its_rule(tmp_path: Path) -> None:
    shapes = {"matrix": (12, 8), "experts": (3, 6, 4), "filters": (6, 2, 3, 3), "bias": (7,)}
    optimizer = MuonWithAdam(shapes)
    weights = {name: torch.ones(shape) for name, shape in shapes.items()}
    result = said_of({"model": weights, "optimizer": optimizer.saved()}, tmp_path)
    for name, momentum in optimizer.momentum.items():
        flat = momentum.flatten(1) if momentum.dim() == 4 else momentum
        factor = math.sqrt(max(1.0, momentum.shape[-2] / momentum.shape[-1]))
        expected = factor * rms(newton_schulz(flat))
        assert known(of(result, name).update_rms) == pytest.approx(expected, rel=1e-5)
        assert known(of(result, name).relative_update) == pytest.approx(0.02 * expected, rel=1e-5)
    slot = optimizer.moments["bias"]
    update = slot["exp_avg"] / (1 - 0.9**9) / ((slot["exp_avg_sq"] / (1 - 0.95**9)).sqrt() + 1e-10)
    assert known(of(result, "bias").update_rms) == pytest.approx(rms(update), rel=1e-5)
    assert [known(group.timescale) for group in result.groups] == [pytest.approx(1 / (0.02 * 0.1)), None]


def in_words(found: LayerState) -> float:
    """The bound that the reason names."""
    assert isinstance(found.update_rms, Missing) and "at most" in found.update_rms.words
    return float(found.update_rms.words.split("at most ")[1].split(" ")[0])


def test_adafactor_of_torch_is_bounded(tmp_path: Path) -> None:
    result, after, before = stepped(torch.optim.Adafactor, tmp_path, weight_decay=0.1, lr=0.02)
    for name, value in after.items():
        moved = float((before[name] * (1 - 0.02 * 0.1) - value).double().norm() / value.norm())
        assert 0.5 * in_words(of(result, name)) < moved <= 1.01 * in_words(of(result, name))


TRANSFORMERS = [
    {},
    {"lr": 0.01, "relative_step": False, "scale_parameter": False, "weight_decay": 0.1},
    {"warmup_init": True, "scale_parameter": True},
    {"lr": 0.02, "relative_step": False, "weight_decay": 0.1, "clip_threshold": 0.5},
]


@pytest.mark.parametrize("settings", TRANSFORMERS)
def test_adafactor_of_transformers(settings: Any, tmp_path: Path) -> None:
    """Without a first moment it is bounded; with one the mean of its updates is the last step."""
    adafactor = pytest.importorskip("transformers").Adafactor
    decay = settings.get("weight_decay", 0.0)
    for beta1 in (None, 0.9):
        result, after, before = stepped(adafactor, tmp_path, beta1=beta1, **settings)
        rate = settings.get("lr") or min(1e-6 * 6 if settings.get("warmup_init") else 1e-2, 6**-0.5)
        for name, value in after.items():
            scale = rms(before[name]) if settings.get("scale_parameter", True) else 1.0
            moved = float((before[name] * (1 - decay * rate * scale) - value).double().norm() / value.norm())
            found = of(result, name)
            if beta1 is None:
                assert 0.3 * in_words(found) < moved <= 1.02 * in_words(found)
            else:
                close = 0.1 if settings.get("warmup_init") else 1e-3
                assert known(found.relative_update) == pytest.approx(moved, rel=close)
                assert isinstance(found.violations, Missing) and isinstance(found.update_rms, Missing)
        assert not [one for one in judge(result) if one.severity != "info"]


HOSTILE: list[dict[str, Any]] = [
    {"eps": 1e-3},
    {"eps": ("a", None)},
    {"clip_threshold": "wide", "scale_parameter": False, "relative_step": False},
    {"lr": "high", "relative_step": False},
    {"lr": None, "relative_step": False, "weight_decay": "some"},
]


@pytest.mark.parametrize("settings", HOSTILE)
def test_settings_that_cannot_be_leave_the_bound_unknown(settings: dict[str, Any], tmp_path: Path) -> None:
    adafactor = pytest.importorskip("transformers").Adafactor
    stepped(adafactor, tmp_path)
    saved = torch.load(tmp_path / "run.pt", weights_only=True)
    saved["optimizer"]["param_groups"][0] |= settings
    found = of(said_of(saved, tmp_path), "matrix").update_rms
    assert isinstance(found, Missing) and "at most" not in found.words


@pytest.mark.parametrize("make", [torch.optim.NAdam, torch.optim.RAdam])
@pytest.mark.parametrize(
    "damage",
    [
        lambda saved: saved["state"][0].update(step=torch.tensor(-5.0)),
        lambda saved: saved["state"][0].update(exp_avg_sq=torch.ones(3)),
        lambda saved: saved["param_groups"][0].update(betas="ab"),
    ],
)
def test_a_state_that_no_rule_vouches_for_ends_in_an_answer(make: Any, damage: Any, tmp_path: Path) -> None:
    stepped(make, tmp_path)
    saved = torch.load(tmp_path / "run.pt", weights_only=True)
    damage(saved["optimizer"])
    assert said_of(saved, tmp_path).layers


def test_an_infinite_momentum_makes_no_size(tmp_path: Path) -> None:
    stepped(torch.optim.SGD, tmp_path, momentum=0.9)
    saved = torch.load(tmp_path / "run.pt", weights_only=True)
    saved["optimizer"]["state"][1]["momentum_buffer"][0, 0] = math.inf
    result = said_of(saved, tmp_path)
    assert of(result, "wide").update_rms == updates.NOT_FINITE
    assert [(one.code, one.layer) for one in judge(result) if one.severity == "fail"] == [
        ("moments-not-finite", "wide")
    ]
    assert known(result.totals.update_rms) is not None
