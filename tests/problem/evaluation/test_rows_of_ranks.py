"""Numbers of a problem whose rows are split over real ranks, against those of one process."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

WORK = Path(__file__).with_name("rows_of_ranks.py")


def alone_and_together(count: int, case: str) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """What the script prints in one process, and the first of so many ranks."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    base = {**os.environ, "MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    ranks = [{**base, "RANK": str(rank), "WORLD_SIZE": str(count)} for rank in range(count)]
    processes = [
        subprocess.Popen([sys.executable, str(WORK), case], env=environment, stdout=subprocess.PIPE, text=True)
        for environment in (base, *ranks)
    ]
    printed = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * (count + 1)
    assert printed[2:] == [printed[1]] * (count - 1), "every rank has the same bits"
    return json.loads(printed[0]), json.loads(printed[1])


CASES = [
    *((2, "plain"), (3, "uneven"), (2, "micro-batches"), (3, "ignored")),
    *((2, "tied"), (2, "one row"), (2, "two batches"), (3, "memory")),
]


@pytest.mark.parametrize(("count", "case"), CASES)
def test_loss_gradient_and_products_are_those_of_one_process(count: int, case: str) -> None:
    alone, together = alone_and_together(count, case)
    assert alone.keys() == together.keys()
    for name, expected in alone.items():
        assert together[name] == pytest.approx(expected, rel=1e-12, abs=1e-13), name
