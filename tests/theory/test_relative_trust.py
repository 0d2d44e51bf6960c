import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fromage_cli.theory.relative_trust import implied_depth, lemma2_rate, predicted_breakdown, spectral_step
from fromage_cli.theory.singular_values import spectral_norm, stable_rank


@pytest.mark.parametrize(
    ("depth", "rate"),
    [(1, 1.0), (2, 0.4142), (3, 0.2599), (5, 0.1487), (10, 0.0718), (16, 0.0443), (20, 0.0353), (50, 0.01396)],
)
def test_lemma_2_gives_the_published_rates(depth: int, rate: float) -> None:
    assert lemma2_rate(1.0, depth) == pytest.approx(rate, abs=5e-5)


def test_lemma_2_allows_nothing_when_the_step_does_not_descend() -> None:
    assert lemma2_rate(-0.5, 3) == 0.0


@given(st.lists(st.floats(0, 3), max_size=20))
def test_the_prediction_is_the_product_less_one(steps: list[float]) -> None:
    assert predicted_breakdown(steps) == pytest.approx(math.prod(1 + s for s in steps) - 1, rel=1e-9, abs=1e-12)


@given(st.floats(0.01, 1.0), st.integers(1, 300))
def test_implied_depth_inverts_lemma_2(cosine: float, depth: int) -> None:
    assert implied_depth(cosine, lemma2_rate(cosine, depth)) == pytest.approx(depth, rel=1e-9)


def test_a_prediction_beyond_the_largest_number_is_infinite() -> None:
    assert predicted_breakdown([1e6] * 60) == math.inf


def test_the_spectral_step_is_the_ratio_of_spectral_norms() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(20, 30, generator=generator, dtype=torch.float64)
    step = torch.outer(torch.randn(20, generator=generator), torch.randn(30, generator=generator)).double()
    delta = float(step.norm() / weight.norm())
    expected = spectral_norm(step) / spectral_norm(weight)
    assert spectral_step(delta, stable_rank(weight), stable_rank(step)) == pytest.approx(expected, rel=1e-9)
