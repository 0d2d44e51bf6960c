"""Ranks that are forked for tests: what they give, how they fail, and that none is left."""

import os
import time

import pytest
import torch

from fromage_cli import ranks
from tests.forked_ranks import run_ranks


def test_each_rank_gives_its_own_answer() -> None:
    def sums() -> tuple[int, list[float], list[float]]:
        here = ranks.current()
        return here.index, here.sums([1.0, here.index]), here.of_each(here.index**2)

    assert run_ranks(3, sums) == [(index, [3.0, 3.0], [0.0, 1.0, 4.0]) for index in range(3)]
    assert ranks.current() is ranks.ALONE


def test_tensors_of_any_size_are_added_up() -> None:
    def added() -> list[float]:
        here = ranks.current()
        tensors = [torch.full((size,), 1.0 + here.index, dtype=dtype) for size, dtype in SIZES]
        here.add_up(tensors)
        return [float(value) for tensor in tensors for value in (tensor.min(), tensor.max())]

    assert run_ranks(2, added) == [[3.0] * 2 * len(SIZES)] * 2


SIZES = [(1, torch.float32), ((1 << 20) + 1, torch.float32), (3, torch.float64), ((1 << 20) - 1, torch.float32)]


def test_a_rank_that_fails_says_why() -> None:
    def fails() -> None:
        if ranks.current().index == 1:
            raise ValueError("no such thing")
        ranks.current().sums([1.0])

    with pytest.raises(AssertionError, match=r"no such thing|RankLost"):
        run_ranks(2, fails)


def test_a_rank_that_is_killed_is_told() -> None:
    def ends() -> None:
        if ranks.current().index == 1:
            os._exit(9)

    with pytest.raises(AssertionError, match="rank 1: It was ended without a word"):
        run_ranks(2, ends)


def test_a_rank_that_hangs_is_killed_at_the_limit() -> None:
    began = time.monotonic()
    with pytest.raises(AssertionError, match=r"ranks \[0, 1\] of 2 still ran after 2 seconds"):
        run_ranks(2, lambda: time.sleep(60.0), limit=2.0)
    assert time.monotonic() - began < 20.0
