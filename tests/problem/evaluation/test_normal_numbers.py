"""Stretches of a long sequence of normal numbers."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fromage_cli.problem.evaluation import normal_numbers
from fromage_cli.problem.evaluation.normal_numbers import NormalNumbers


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(total=st.integers(0, 400), cuts=st.lists(st.integers(0, 400), max_size=6))
def test_they_are_those_that_torch_draws_at_once(dtype: torch.dtype, total: int, cuts: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(normal_numbers, "BLOCK", 64)
        generator = torch.Generator().manual_seed(3)
        numbers = NormalNumbers(generator, total, torch.empty(0, dtype=dtype))
        ends = sorted(min(cut, total) for cut in cuts)
        stretches = list(zip(ends[::2], ends[1::2], strict=False))
        found = [numbers.stretch(begin, end) for begin, end in stretches]
        numbers.finish()
        following = torch.randn(3, generator=generator)
    again = torch.Generator().manual_seed(3)
    whole = torch.randn(total, generator=again, dtype=dtype)
    for (begin, end), stretch in zip(stretches, found, strict=True):
        assert torch.equal(stretch, whole[begin:end])
    assert torch.equal(following, torch.randn(3, generator=again)), "the generator goes on as after the whole"
