"""Where a process stands among others, what they add up, and what becomes of them."""

import pytest
import torch

from fromage_cli.errors import UsageError
from fromage_cli.ranks import ALONE, FIRST_PORT, PORTS, Place, Ranks, current, scope

SRUN = {"SLURM_PROCID": "1", "SLURM_NTASKS": "3", "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.7", "SLURM_JOB_ID": "5"}


def test_a_launcher_of_torchs_tells_the_place() -> None:
    found = Place.found({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"})
    assert found == Place(3, 4, 1)
    assert Place.found({"RANK": "0", "WORLD_SIZE": "1"}) is None
    assert Place.found({"RANK": "0"}) is None and Place.found({}) is None


def test_srun_tells_the_place_and_a_batch_script_alone_does_not() -> None:
    found = Place.found(SRUN)
    assert found is not None and (found.index, found.count, found.address) == (1, 3, "10.0.0.7")
    assert FIRST_PORT <= found.port < FIRST_PORT + PORTS
    assert Place.found({name: value for name, value in SRUN.items() if "LAUNCH" not in name}) is None
    named = Place.found(SRUN | {"MASTER_ADDR": "first", "MASTER_PORT": "4000", "SLURM_STEP_NUM_TASKS": "2"})
    assert named is not None and (named.count, named.address, named.port) == (2, "first", 4000)
    other = Place.found(SRUN | {"SLURM_STEP_ID": "1"})
    assert other is not None and other.port != found.port


def test_a_number_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="RANK is 'first'"):
        Place.found({"RANK": "first", "WORLD_SIZE": "2"})


def test_parts_cover_all_rows_once() -> None:
    for rows in (0, 1, 2, 7, 64):
        for count in (1, 2, 3, 5):
            parts = [Ranks(index, count).part(rows) for index in range(count)]
            assert [row for begin, end in parts for row in range(begin, end)] == list(range(rows))
            sizes = [end - begin for begin, end in parts]
            assert max(sizes) - min(sizes) <= 1


def test_alone_nothing_changes() -> None:
    tensor = torch.tensor([1.0, 2.0])
    ALONE.add_up([tensor])
    assert tensor.tolist() == [1.0, 2.0] and ALONE.sums([3.0]) == [3.0] and ALONE.leads and not ALONE.any(False)
    with scope():
        assert current() is ALONE
