import subprocess
import sys
import time

import pytest

from fromage_cli.errors import ResourceError
from fromage_cli.problem.conditions.budget import Budget, peak_memory, resident_memory


def test_without_limits_nothing_is_refused() -> None:
    Budget(started=time.monotonic() - 1e9).check()


def test_the_time_limit_counts_from_the_start() -> None:
    Budget(seconds=60.0, started=time.monotonic() - 59.0).check()
    with pytest.raises(ResourceError, match=r"The time limit of 60 s was reached after 6[12]\.\d s\.") as caught:
        Budget(seconds=60.0, started=time.monotonic() - 61.0).check()
    assert "--time-limit" in caught.value.hint


def test_the_memory_limit_counts_what_was_held_at_most() -> None:
    held = peak_memory()
    Budget(memory=2 * held).check()
    with pytest.raises(
        ResourceError, match=rf"The memory limit of {held / 2e6:.0f} MB was exceeded: \d+ MB are in use"
    ):
        Budget(memory=held // 2).check()


def test_a_hundred_megabytes_that_were_given_back_count_to_the_peak_alone() -> None:
    code = """
from fromage_cli.problem.conditions.budget import peak_memory, resident_memory
import torch
before = resident_memory()
large = torch.ones(25_000_000)
assert resident_memory() - before > 99e6
del large
assert resident_memory() - before < 50e6 and peak_memory() - before > 99e6
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_is_held_now_is_no_more_than_the_peak() -> None:
    held = resident_memory()
    assert held is not None and 0 < held <= peak_memory()


@pytest.mark.parametrize(("seconds", "shown"), [(0.991523, "1"), (59.98, "60"), (2.5, "2.5"), (0.04, "0.04")])
def test_what_is_left_of_a_limit_is_told_as_it_was_given(seconds: float, shown: str) -> None:
    reached = Budget(seconds, started=time.monotonic() - 100.0).reached()
    assert reached is not None and reached.message.startswith(f"The time limit of {shown} s was reached after")
