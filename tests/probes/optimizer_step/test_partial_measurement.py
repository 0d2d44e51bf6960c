from typing import Any

import pytest

from fromage_cli.errors import MismatchError, NumericalError, ResourceError
from fromage_cli.missing import LIMIT_REACHED, Interrupted
from fromage_cli.probes.optimizer_step.partial_measurement import PartialMeasurement

MATCHED: Any = None
LIMIT = ResourceError("The time is up.")


def test_a_limit_is_the_reason_for_that_number_and_all_after_it() -> None:
    measuring = PartialMeasurement(MATCHED, lambda: None)

    def too_long() -> float:
        raise LIMIT

    assert measuring.within_limits(lambda: 2.0) == 2.0
    assert measuring.within_limits(too_long) is LIMIT_REACHED
    assert measuring.error is LIMIT
    assert measuring.within_limits(lambda: pytest.fail("it is measured after the limit")) is LIMIT_REACHED


def test_other_errors_pass_through() -> None:
    measuring = PartialMeasurement(MATCHED, lambda: None)

    def refused() -> float:
        raise MismatchError("The state belongs to another model.")

    with pytest.raises(MismatchError):
        measuring.within_limits(refused)
    assert measuring.error is None


def test_what_ended_a_part_ends_the_whole() -> None:
    measuring = PartialMeasurement(MATCHED, lambda: None)
    assert measuring.kept(3) == 3 and measuring.error is None
    unsettled = NumericalError("It did not converge.")
    assert measuring.kept(Interrupted(4, unsettled)) == 4 and measuring.error is unsettled
    assert measuring.within_limits(lambda: 5) == 5
    assert measuring.kept(6) == 6 and measuring.error is unsettled
    assert measuring.kept(Interrupted(7, LIMIT)) == 7
    assert measuring.within_limits(lambda: 8) is LIMIT_REACHED
