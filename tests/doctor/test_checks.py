from dataclasses import replace

import pytest

from fromage_cli.doctor.checks import Check, checks
from fromage_cli.doctor.findings import judge
from fromage_cli.doctor.result import OWN, Attention, DoctorResult, TemporaryDirectory
from fromage_cli.missing import LIMIT_REACHED, Missing, Why

RAISED = Missing(Why.NOT_EVALUATED, "RuntimeError: x")


def line(name: str, result: DoctorResult) -> Check:
    return next(check for check in checks(result, judge(result)) if check.name == name)


def test_where_everything_works_every_check_is_ok(sound: DoctorResult) -> None:
    assert {check.status for check in checks(sound, judge(sound))} == {"ok"}


def test_what_was_not_looked_at_is_skipped(sound: DoctorResult) -> None:
    found = line("attention", replace(sound, attention=LIMIT_REACHED))
    assert (found.status, found.what) == ("skipped", LIMIT_REACHED.words)


@pytest.mark.parametrize("part", ["attention", "self_test", "devices"])
def test_a_part_that_ended_in_an_error_fails(part: str, sound: DoctorResult) -> None:
    found = line(part.replace("_", "-"), replace(sound, **{part: RAISED}))  # type: ignore[arg-type]
    assert (found.status, found.what) == ("fail", "RuntimeError: x")


def test_a_directory_without_space_is_a_warning(sound: DoctorResult) -> None:
    assert line("files", replace(sound, temporary_directory=TemporaryDirectory("/tmp", 1, RAISED, 4))).status == "warn"


def test_a_directory_that_was_passed_over_is_a_warning(sound: DoctorResult) -> None:
    passed_over = TemporaryDirectory("/tmp", 1, 4, 4, "/none")
    assert line("files", replace(sound, temporary_directory=passed_over)).status == "warn"


def test_the_gravest_finding_of_a_check_is_its_status(sound: DoctorResult) -> None:
    both = (Attention("cpu", "math", "wrong", 0.5), Attention("cpu", OWN, "wrong", 0.5))
    found = line("attention", replace(sound, attention=both))
    assert (found.status, found.what) == (
        "fail",
        "on cpu second derivatives are wrong; by torch's own kernels: math wrong",
    )
