"""Float32 copies of 16-bit weights: steps measured on them, and copies that are wrong or were rounded."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fromage_cli.diagnostics.state.findings import judge
from fromage_cli.diagnostics.state.render import render
from fromage_cli.diagnostics.state.result import StateResult
from fromage_cli.missing import Missing, known
from tests.diagnostics.pages import drawn
from tests.diagnostics.state.test_measure import said_of

Saved = dict[str, Any]


def trained(
    dtype: torch.dtype, steps: int = 5, rate: float = 0.01, make: Any = torch.optim.AdamW
) -> tuple[Saved, Tensor, Tensor]:
    """A checkpoint of 16-bit weights with masters, the master, and the master before the last step."""
    generator = torch.Generator().manual_seed(0)
    master, ones = nn.Parameter(torch.randn(40, 30, generator=generator)), nn.Parameter(torch.ones(30))
    optimizer = make([master, ones], lr=rate, weight_decay=0.1)
    before = master.detach().clone()
    for _ in range(steps):
        before = master.detach().clone()
        master.grad, ones.grad = torch.randn(40, 30, generator=generator), torch.zeros(30)
        optimizer.step()
    saved = optimizer.state_dict()
    for number, copy in enumerate((master, ones)):
        saved["state"][number]["master_param"] = copy.detach().clone()
    model = {"weight": master.detach().to(dtype), "ones": ones.detach().to(dtype)}
    return {"model": model, "optimizer": saved}, master.detach(), before


def warnings(result: StateResult) -> dict[str, Any]:
    return {one.code: one for one in judge(result) if one.severity != "info" and one.code != "layer-does-not-move"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("make", [torch.optim.AdamW, torch.optim.Adam])
def test_steps_are_measured_on_the_master(dtype: torch.dtype, make: Any, tmp_path: Path) -> None:
    saved, master, before = trained(dtype, make=make)
    result = said_of(saved, tmp_path)
    layer = result.layers[0]
    decay = 0.1 if make is torch.optim.AdamW else 0.0
    moved = (before * (1 - 0.01 * decay) - master).double()
    assert layer.master and layer.master_differs == 0
    assert known(layer.relative_update) == pytest.approx(float(moved.norm() / master.double().norm()), rel=1e-5)
    if decay:
        pull = 0.1 * float(master.double().norm())
        assert known(layer.decay_share) == pytest.approx(pull / (pull + float(moved.norm()) / 0.01), rel=1e-5)
    assert isinstance(layer.lost, Missing) and warnings(result) == {}
    page = drawn(lambda found, how: render(found, how, judge(found)), result, 100)
    assert "Master copies" in page and "steps are measured on it" in page


@pytest.mark.parametrize("name", ["param", "fp32", "fp32_param", "master_params"])
def test_masters_go_by_several_names(name: str, tmp_path: Path) -> None:
    saved, _, _ = trained(torch.bfloat16)
    for slot in saved["optimizer"]["state"].values():
        slot[name] = slot.pop("master_param")
    assert [layer.master for layer in said_of(saved, tmp_path).layers] == [True, True]


def test_a_master_of_another_step_is_found(tmp_path: Path) -> None:
    saved, _, before = trained(torch.bfloat16)
    saved["optimizer"]["state"][0]["master_param"] = before
    result = said_of(saved, tmp_path)
    differ = int((before.bfloat16() != saved["model"]["weight"]).sum())
    found = warnings(result)["master-differs"]
    assert result.layers[0].master_differs == differ and f"{differ:,} entries" in found.message
    assert found.layer == "weight"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_masters_that_were_rebuilt_are_found(dtype: torch.dtype, tmp_path: Path) -> None:
    saved, master, _ = trained(dtype)
    saved["optimizer"]["state"][0]["master_param"] = master.to(dtype).float()
    result = said_of(saved, tmp_path)
    assert set(warnings(result)) == {"master-rebuilt"}
    assert [layer.rounded_to for layer in result.layers] == [str(dtype).removeprefix("torch."), None]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_float32_weights_that_were_rounded_are_found(dtype: torch.dtype, tmp_path: Path) -> None:
    saved, master, _ = trained(dtype)
    saved["model"] = {"weight": master.to(dtype).float(), "ones": torch.ones(30)}
    for slot in saved["optimizer"]["state"].values():
        del slot["master_param"]
    result = said_of(saved, tmp_path)
    assert warnings(result)["master-rebuilt"].layer == "weight"
    saved["model"]["weight"][39, 29] = 1.0 + 2.0**-20  # one entry with more digits
    assert warnings(said_of(saved, tmp_path)) == {}


@pytest.mark.parametrize(("steps", "rate"), [(5, 0.0), (5, 1e-9), (1, 0.01)])
def test_weights_that_had_no_step_to_change_them_are_no_fault(steps: int, rate: float, tmp_path: Path) -> None:
    """Loaded from 16 bits, and not moved since; a first step of a warm-up has a rate of 0."""
    saved, _, before = trained(torch.bfloat16, steps, rate)
    saved["optimizer"]["state"][0]["master_param"] = before.bfloat16().float()
    saved["model"]["weight"] = before.bfloat16()
    assert warnings(said_of(saved, tmp_path)) == {}


def test_a_table_of_few_values_is_no_evidence(tmp_path: Path) -> None:
    saved, _, _ = trained(torch.bfloat16)
    few = torch.arange(1200).remainder(63).reshape(40, 30).float()
    saved["optimizer"]["state"][0]["master_param"] = few
    saved["model"]["weight"] = few.bfloat16()
    assert warnings(said_of(saved, tmp_path)) == {}
    varied = torch.arange(1200).remainder(64).reshape(40, 30).float()
    saved["optimizer"]["state"][0]["master_param"], saved["model"]["weight"] = varied, varied.bfloat16()
    assert set(warnings(said_of(saved, tmp_path))) == {"master-rebuilt"}
