import random

import numpy as np
import torch

from fromage_cli.problem.user_code.generators import Generators, seed_all, seed_torch


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_a_seed_decides_what_every_generator_draws() -> None:
    kept = Generators()
    seed_all(2**32 + 5)  # numpy takes 32 bits
    first = draws()
    seed_all(2**32 + 5)
    again = draws()
    seed_all(6)
    other = draws()
    kept.restore()
    assert first == again
    assert all(one != two for one, two in zip(first, other, strict=True))


def test_generators_that_are_put_back_go_on_where_they_were() -> None:
    kept = Generators()
    expected = draws()
    seed_all(1)
    kept.restore()
    assert draws() == expected


def test_the_seed_is_the_one_that_torch_takes() -> None:
    kept = Generators()
    torch.manual_seed(12)
    expected = float(torch.rand(()))
    seed_torch(12)
    drawn = float(torch.rand(()))
    kept.restore()
    assert drawn == expected
