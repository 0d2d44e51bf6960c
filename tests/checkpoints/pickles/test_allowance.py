import time

import pytest

from fromage_cli.checkpoints.pickles.allowance import (
    BASE_BYTES,
    BASE_LOOKS,
    FIRST_BYTES,
    LOOKS_PER_ENTRY,
    Allowance,
    Repetition,
)
from fromage_cli.errors import InputError


def test_memory_is_counted_together_and_grows_with_the_file():
    allowance = Allowance(0)
    assert allowance.charge(BASE_BYTES - 1) and allowance.charge(1)
    assert not allowance.charge(1)
    assert Allowance(1000, base=0).charge(16_000) and not Allowance(1000, base=0).charge(16_001)
    large = 50 * FIRST_BYTES
    assert Allowance(large).charge(BASE_BYTES + 14 * FIRST_BYTES + 2 * large)
    assert not Allowance(large).charge(BASE_BYTES + 14 * FIRST_BYTES + 2 * large + 1)


def test_time_runs_out():
    allowance = Allowance(0, seconds=0.002)
    assert allowance.in_time
    end = time.thread_time() + 0.003
    while time.thread_time() < end:
        pass
    assert not allowance.in_time


def test_what_is_there_once_may_be_looked_at_and_what_is_repeated_only_so_often():
    repetition = Repetition()
    for index in range(200_000):
        assert repetition.look([index]) == [index]
    repetition, shared = Repetition(), dict.fromkeys(range(999))
    for _ in range((BASE_LOOKS + LOOKS_PER_ENTRY * 1000) // 1000):
        repetition.look(shared)
    with pytest.raises(InputError, match="many times"):
        repetition.look(shared)
