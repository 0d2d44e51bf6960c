from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from fromage_cli.problem.conditions.draws import RecordedDraws, ShareOfDraws, SinglePrecisionDraws

PER_ROW: dict[str, Callable[[Tensor], Tensor]] = {
    "normal": torch.randn_like,
    "uniform of rows": lambda x: torch.rand(len(x), dtype=x.dtype),
    "steps of a diffusion": lambda x: torch.randint(1000, (len(x),)),
    "second dimension": lambda x: torch.randn(3, len(x), dtype=x.dtype),
    "two to a row": lambda x: torch.randn(2 * len(x), dtype=x.dtype),
    "one for all": lambda x: torch.randn(4, dtype=x.dtype),
    "in place": lambda x: torch.empty_like(x).normal_(1.0, 2.0),
    "exponential": lambda x: torch.empty_like(x).exponential_(),
    "masks": lambda x: functional.dropout(torch.ones_like(x), 0.3),
    "probabilities": lambda x: torch.bernoulli(torch.full_like(x, 0.4)),
}
UNTOLD: dict[str, Callable[[Tensor], Tensor]] = {
    "order of rows": lambda x: torch.randperm(len(x)),
    "indices of rows": lambda x: torch.randint(len(x), (len(x),)),
    "pairs": lambda x: torch.rand(len(x), len(x)),
    "one more than rows": lambda x: torch.rand(len(x) + 1),
    "more draws than before": lambda x: torch.stack([torch.rand(()) for _ in range(20 - len(x))]),
}


def drawn(draw: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    torch.manual_seed(3)
    return draw(x)


@pytest.mark.parametrize("name", PER_ROW)
def test_rows_draw_what_they_drew_as_part_of_all(name: str) -> None:
    draw, x = PER_ROW[name], torch.ones(12, 5)
    recording = RecordedDraws()
    with recording:
        whole = drawn(draw, x)
    assert torch.equal(whole, drawn(draw, x))  # nothing is changed by it
    share = ShareOfDraws(recording.draws, 12, 4, 7)
    with share:
        part = drawn(draw, x[4:7])
    growing = [d for d in range(whole.dim()) if whole.shape[d] in (12, 24)]
    each = whole.shape[growing[0]] // 12 if growing else 0
    assert torch.equal(part, whole.narrow(growing[0], 4 * each, 3 * each) if growing else whole)
    assert share.complete


@pytest.mark.parametrize("name", UNTOLD)
def test_what_cannot_be_told_for_rows_is_drawn_anew(name: str) -> None:
    draw, x = UNTOLD[name], torch.ones(12, 5)
    recording = RecordedDraws()
    with recording:
        drawn(draw, x)
    share = ShareOfDraws(recording.draws, 12, 4, 7)
    with share:
        part = drawn(draw, x[4:7])
    assert torch.equal(part, drawn(draw, x[4:7]))
    assert share.lost and not share.complete


def test_draws_that_were_not_asked_for_again_are_incomplete() -> None:
    recording = RecordedDraws()
    with recording:
        torch.rand(12), torch.rand(12)
    share = ShareOfDraws(recording.draws, 12, 0, 3)
    with share:
        torch.rand(3)
    assert not share.lost and not share.complete


@pytest.mark.parametrize("name", [name for name in PER_ROW if name != "steps of a diffusion"])
@pytest.mark.parametrize("rows", [3, 40])
def test_both_precisions_draw_the_same(name: str, rows: int) -> None:
    draw = PER_ROW[name]
    single = drawn(draw, torch.ones(rows, 5))
    with SinglePrecisionDraws():
        wide = drawn(draw, torch.ones(rows, 5, dtype=torch.float64))
        untouched = torch.rand(2, dtype=torch.float64), torch.full((2,), 1 / 3, dtype=torch.float64)
    assert wide.dtype is torch.float64
    torch.testing.assert_close(wide, single.double(), rtol=1e-6, atol=1e-7)
    assert untouched[0].dtype is torch.float64 and float(untouched[1][0]) == 1 / 3


def test_single_precision_stays_as_it_is_within() -> None:
    x = torch.ones(20, 5)
    with SinglePrecisionDraws():
        found = drawn(torch.randn_like, x)
        mixed = drawn(lambda x: torch.randn_like(x, dtype=torch.float32), x.double())
    assert torch.equal(found, drawn(torch.randn_like, x)) and torch.equal(mixed, found)
