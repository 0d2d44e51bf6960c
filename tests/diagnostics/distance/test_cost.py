from collections.abc import Callable

import numpy
import pytest
import torch
from safetensors.torch import save_file

from fromage_cli.checkpoints import Checkpoint, open_checkpoint
from fromage_cli.diagnostics.distance import cost
from fromage_cli.diagnostics.distance.cost import measure_cost


@pytest.fixture
def checkpoint(tmp_path, monkeypatch) -> Checkpoint:
    def one_second(run: Callable[[], object]) -> float:
        run()
        return 1.0

    monkeypatch.setattr(cost, "_seconds", one_second)
    tensors = {"w": torch.ones(1100, 1200), "v": torch.ones(10, 10), "u": torch.ones(20, 40), "b": torch.ones(9)}
    save_file(tensors, tmp_path / "c.safetensors")
    return open_checkpoint(tmp_path / "c.safetensors")


@pytest.mark.parametrize(
    ("names", "spectrum", "seconds"),
    [
        (["b"], True, 1.0),
        (["w", "v", "b"], False, 1.0),
        (["w"], True, 1.0 + 1.0),
        (["v", "u"], True, 1.0 + 1.0 + 10**3 / (20**2 * 40)),  # the larger of two is decomposed and stands for both
        (["w", "v", "u", "b"], True, 1.0 + 1.0 + 1.0 + 10**3 / (20**2 * 40)),
        ([], True, 0.0),
    ],
)
def test_trials_stand_for_all_tensors(checkpoint, names, spectrum, seconds):
    assert measure_cost(checkpoint, checkpoint, names, spectrum)[0] == pytest.approx(seconds)


def test_a_part_that_is_read_stands_for_the_rest(checkpoint, monkeypatch):
    monkeypatch.setattr(cost, "TRIAL", 10)
    assert measure_cost(checkpoint, checkpoint, ["b", "v", "u"], False)[0] == pytest.approx((9 + 100 + 800) / (9 + 100))


def test_a_matrix_takes_memory_where_it_is_decomposed(checkpoint):
    small, large = (measure_cost(checkpoint, checkpoint, [name], True)[1] for name in ("v", "w"))
    assert large - small >= 2 * 4 * 1000 * 1200


def test_what_is_not_finite_is_no_reason_to_fail(tmp_path):
    save_file({"w": torch.full((8, 8), numpy.nan)}, tmp_path / "c.safetensors")
    found = open_checkpoint(tmp_path / "c.safetensors")
    assert measure_cost(found, found, ["w"], True)[0] > 0.0
