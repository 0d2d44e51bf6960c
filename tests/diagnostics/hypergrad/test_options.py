"""What can be asked for, and how each thing that cannot is refused."""

from typing import Any

import pytest

from fromage_cli.diagnostics.hypergrad.options import STEPS, HypergradOptions
from fromage_cli.errors import UsageError


def options(**given: Any) -> HypergradOptions:
    return HypergradOptions(**{"val_batch": "val.npz", **given})


def test_by_default_fifty_steps_are_looked_at() -> None:
    asked = options()
    asked.check()
    assert (asked.kind, asked.horizon, asked.scalars, asked.damping_factor) == (None, STEPS, {}, "auto")


@pytest.mark.parametrize(
    ("method", "kind", "horizon"),
    [
        ("unroll", "unroll", STEPS),
        ("unroll:200", "unroll", 200),
        ("Unroll:1", "unroll", 1),
        ("source:1000", "source", 1000),
        ("gauss-newton", "gauss-newton", STEPS),
        ("hessian", "hessian", STEPS),
        ("delta-stn", "delta-stn", STEPS),
    ],
)
def test_a_method_with_its_steps(method: str, kind: str, horizon: int) -> None:
    asked = options(method=method)
    asked.check()
    assert (asked.kind, asked.horizon) == (kind, horizon)


def test_numbers_of_the_users_loss() -> None:
    assert options(hyper=["l1=0.01", " scale = -2e3 "]).scalars == {"l1": 0.01, "scale": -2000.0}
    assert options(damping="0.5").damping_factor == 0.5 and options(damping="AUTO").damping_factor == "auto"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"val_batch": None}, "hypergrad asks what lowers the loss of validation rows, and none were given"),
        ({"method": "unrol:3"}, r"Unknown --method 'unrol:3'; expected unroll:N"),
        ({"method": "unroll:0"}, "--method"),
        ({"method": "unroll:"}, "--method"),
        ({"method": "unroll:-3"}, "--method"),
        ({"method": "unroll:1e3"}, "--method"),
        ({"method": "hessian:3"}, "--method"),
        ({"method": "unroll:9999999999"}, "--method"),
        ({"hyper": ["l1=many"]}, "--hyper"),
        ({"hyper": ["l1=inf"]}, "--hyper"),
        ({"hyper": ["l1"]}, "--hyper"),
        ({"label_smoothing": 1.0}, "--label-smoothing"),
        ({"label_smoothing": -0.1}, "--label-smoothing"),
        ({"dropout": 1.0}, "--dropout"),
        ({"dropout": float("nan")}, "--dropout"),
        ({"damping": "much"}, "--damping"),
        ({"damping": "-1"}, "--damping"),
        ({"damping": "inf"}, "--damping"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        options(**given).check()
