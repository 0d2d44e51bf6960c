import pytest

from fromage_cli.theory.scale_invariance import Responses, cosine_limit, may_be_epsilon, verdict


def epsilon(k: float) -> Responses:
    """D(c) = k |1 − 1/c²|."""
    return Responses(0.75 * k, 3 * k, 0.9375 * k)


@pytest.mark.parametrize(
    ("found", "cosine", "expected"),
    [
        (Responses(1e-7, 2e-7), 1e-6, "invariant"),
        (Responses(1e-7, 2e-7), 3e-3, "approximate"),  # a gradient that is not orthogonal
        (Responses(1e-7, 0.04), 1e-6, "approximate"),  # saturated: halving is felt
        (epsilon(1e-3), 1e-4, "invariant"),
        (epsilon(1e-2), 1e-2, "eps-limited"),
        (epsilon(0.13), 1e-2, "eps-limited"),
        (epsilon(0.14), 1e-2, "none"),
        (Responses(0.01, 0.04, 0.0105), 1e-3, "approximate"),  # no longer growing at 4: saturated
        (Responses(0.05, 0.2, 0.0525), 1e-3, "none"),
        (Responses(0.01, 0.015), 1e-3, "approximate"),
        (Responses(0.01, 0.015), 0.23, "none"),  # the gradient says that the scale is felt
        (Responses(1e-7, 0.11), 1e-3, "none"),  # and so does halving
        (Responses(1.0, 0.5), 1e-3, "none"),
    ],
)
def test_verdicts(found: Responses, cosine: float, expected: str) -> None:
    assert verdict(found, cosine, 1000) == expected


def test_an_epsilon_needs_a_third_point() -> None:
    found = Responses(0.01, 0.04)
    assert may_be_epsilon(found) and verdict(found, 1e-5, 1000) == "approximate"
    assert not may_be_epsilon(Responses(0.2, 0.8)) and not may_be_epsilon(Responses(0.01, 0.02))


def test_the_limit_of_the_cosine() -> None:
    assert [cosine_limit(count) for count in (9, 10_000, 10**9)] == [2e-3, 1e-3, 5e-4]
