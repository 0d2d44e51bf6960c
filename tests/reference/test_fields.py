"""Every field of the JSON has words, and none ever disappears: fields.txt keeps their paths."""

import os
from pathlib import Path

import pytest

from fromage_cli.diagnostics.intrinsic_lr.result import DOUBT
from fromage_cli.reference.fields import json_fields, own_words
from fromage_cli.reference.schema import ROOTS

KEPT = Path(__file__).parent / "fields.txt"


def test_no_field_disappears_and_new_ones_are_kept() -> None:
    """FROMAGE_UPDATE_GOLDEN=1 adds new ones; one that is gone breaks the scripts of users."""
    now = [one.path for one in json_fields()]
    assert len(now) == len(set(now))
    if os.environ.get("FROMAGE_UPDATE_GOLDEN"):
        kept = KEPT.read_text(encoding="utf-8").split() if KEPT.exists() else []
        KEPT.write_text("".join(f"{path}\n" for path in sorted({*kept, *now})), encoding="utf-8")
    kept = KEPT.read_text(encoding="utf-8").split()
    assert sorted(set(kept) - set(now)) == []
    assert sorted(set(now) - set(kept)) == []


def test_every_field_has_words() -> None:
    assert [one.path for one in json_fields() if not one.meaning.strip()] == []


def test_words_come_from_the_source_or_from_their_file() -> None:
    found = {one.path: one for one in json_fields()}
    cosine = found["breakdown.layers.cosine"]
    assert (
        cosine.meaning == "The cosine between the step and the negative gradient: what the breakdown is held against."
    )
    assert cosine.part_of == "The curve of one layer, all layers moving together." and cosine.holds == ""
    limit = found["suggest-lr.limit"]  # no line below it: the words of the class that it holds
    assert limit.meaning == "How far the next update may go from this checkpoint."
    assert found["breakdown.layers.name"].meaning == own_words()["name"]
    assert found["hypergrad.hyperparameters.value"].meaning == own_words()["hypergrad.hyperparameters.value"]
    assert found["breakdown.layers"].holds == cosine.part_of


def test_no_words_are_written_for_a_field_that_is_not_there() -> None:
    paths = {one.path for one in json_fields()}
    assert own_words().keys() - paths - {path.rpartition(".")[2] for path in paths} == set()


def test_all_commands_and_the_envelope_are_there() -> None:
    assert {one.path.partition(".")[0] for one in json_fields()} == set(ROOTS) - {"schema"} | {"envelope"}
    paths = {one.path for one in json_fields()}
    assert {"watch.watched_at", "envelope.tool.seconds", "envelope.nonfinite.path", "inspect.pickles"} <= paths
    assert not any(path.startswith(("check.results.", "envelope.result.", "watch.verdict")) for path in paths)


@pytest.mark.parametrize(
    "path",
    [
        "bundle.losses",
        "check.forward_pass.earlier.loss",
        "doctor.configuration.value",
        "doctor.devices.model",
        "doctor.job.variables.value",
        "doctor.self_test.layers",
        "envelope.nonfinite",
        "explain.also.kind",
        "explain.groups",
        "explain.kind",
        "suggest-lr.optimizer.groups.limiting_layer",
        "suggest-lr.points.loss",
    ],
)
def test_a_field_of_another_meaning_has_words_of_its_own(path: str) -> None:
    """The words of its name are true of other fields alone."""
    meaning = next(one.meaning for one in json_fields() if one.path == path)
    assert meaning != own_words()[path.rpartition(".")[2]]


def test_a_field_that_holds_objects_is_no_number() -> None:
    """Words for a number's name do not stand for a list or an object of the same name."""
    by_name = [
        one for one in json_fields() if one.holds and one.meaning == own_words().get(one.path.rpartition(".")[2])
    ]
    assert [one.path for one in by_name if one.meaning.startswith(("How many", "The number", "The loss"))] == []


def test_the_doubt_about_a_forecast_begins_where_the_words_say() -> None:
    meaning = next(one.meaning for one in json_fields() if one.path == "intrinsic-lr.layers.forecast_doubtful")
    assert f"by more than {100 * DOUBT:.0f} %" in meaning
