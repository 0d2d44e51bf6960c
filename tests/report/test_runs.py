from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest

from fromage_cli.errors import UsageError
from fromage_cli.report.gathered import Gathered
from fromage_cli.report.runs import check_one_network, runs_of

Make = Callable[..., Any]
ODD = {"code": "odd", "severity": "warn", "message": "is odd", "layer": "w", "hint": ""}


def about(make: Make, place: str, step: int = 100, names: tuple[str, ...] = (), command: str = "norms") -> Any:
    told = make(command, {"layers": [{"name": name} for name in names]}, step, findings=[ODD])
    told["checkpoints"][0]["path"] = place
    return told


def test_answers_about_different_networks_are_refused(make: Make) -> None:
    first, second = about(make, "A/1.pt", names=("a.b.w",)), about(make, "B/1.pt", names=("c.d.w",))
    with pytest.raises(UsageError, match=r"'A/1.pt' and 'B/1.pt' have no layer in common") as caught:
        check_one_network([first, second])
    assert "Make one page for each" in caught.value.hint
    check = {**about(make, "C/1.pt"), "command": "check", "result": {"results": {"state": first["result"]}}}
    with pytest.raises(UsageError, match=r"'B/1.pt' and 'C/1.pt'"):
        check_one_network([second, check])


def test_answers_that_may_be_about_one_network_are_taken(make: Make) -> None:
    first = about(make, "A/1.pt", names=("blocks.0.w", "blocks.1.w"))
    wrapped = about(make, "B/1.pt", names=("module.blocks.0.w",))
    unnamed, damaged = about(make, "C/1.pt"), make("sharpness", {"layers": 3, "tensors": [{"name": 4}]})
    same_file = about(make, "/data/A/1.pt", names=("other.w",))
    chosen = about(make, "D/1.pt", names=("head.v",)) | {"settings": {"include": ["head.*"]}}
    check_one_network([first, wrapped, unnamed, damaged, chosen])
    check_one_network([first, same_file])


@pytest.mark.parametrize(
    ("name", "other", "one_network"),
    [
        ("layers.0.weight", "convolutions.0.weight", False),
        ("layers.0.weight", "layers.1.weight", False),
        ("module.0.weight", "_orig_mod.0.weight", True),
        ("teacher.layers.0.weight", "student.layers.0.weight", True),
        ("net.a.b.c.0.weight", "b.c.0.weight", True),
        ("net.0.weight", "0.weight", True),
    ],
)
def test_names_are_alike_whatever_wraps_the_network(make: Make, name: str, other: str, one_network: bool) -> None:
    answers = [about(make, "A/1.pt", names=(name,)), about(make, "B/1.pt", names=(other, "head.x"))]
    with nullcontext() if one_network else pytest.raises(UsageError):
        check_one_network(answers)


def test_a_finding_of_each_run_is_kept_and_says_its_run(make: Make) -> None:
    answers = [about(make, "runs/A/1.pt"), about(make, "/data/runs/B/2.pt", 200), about(make, "runs/B/1.pt", 100)]
    assert [one.message for one in Gathered(answers).findings] == ["is odd (B)", "is odd (A)"]
    alike = [about(make, "A/checkpoints/1.pt"), about(make, "B/checkpoints/1.pt")]
    assert [one.message for one in Gathered(alike).findings] == ["is odd (A/checkpoints)", "is odd (B/checkpoints)"]


def test_what_is_drawn_is_of_one_run(make: Make) -> None:
    """That of the last checkpoint, or the last run that the command looked at."""
    told = [about(make, f"{run}/{step}.pt", step) for run, step in (("A", 1), ("B", 1), ("A", 2), ("B", 3))]
    alone = [about(make, "A/2.pt", 2, command="state"), about(make, "C/1.pt", 1, command="state")]
    gathered = Gathered([*told, *alone])
    assert gathered.shown_run == "B"
    assert [one.place for one in gathered.along("norms")] == ["B/1.pt", "B/3.pt"]
    assert [one.place for one in gathered.along("state")] == ["A/2.pt"]
    unknown = {**told[0], "checkpoints": [{"step": 2}]}
    assert [one.step for one in Gathered([*told, unknown]).along("norms")] == [1, 2, 3]
    assert Gathered([{**told[0], "checkpoints": []}]).shown_run == "" and not Gathered([]).along("norms")


@pytest.mark.parametrize(
    "places",
    [
        ("run/1.pt", "/data/run/2.pt"),
        ("./run/1.pt", "run//2.pt"),
        ("../run/1.pt", "/data/run/2.pt"),
        ("run/checkpoint-1/model.pt", "run/checkpoint-2/model.pt"),
        ("run/1.pt", "2.pt"),
    ],
)
def test_one_run_may_be_spelled_in_several_ways(make: Make, places: tuple[str, str]) -> None:
    answers = [about(make, place, step) for step, place in enumerate(places, start=1)]
    assert len({*runs_of(answers)}) == 1
    assert [one.message for one in Gathered(answers).findings] == ["is odd"]


def test_what_one_command_looked_at_is_one_run(make: Make) -> None:
    first, second = about(make, "run/a/model.pt", 1), about(make, "run/b/model.pt", 2)
    both = {**second, "checkpoints": [*first["checkpoints"], *second["checkpoints"]]}
    assert len({*runs_of([first, second])}) == 2
    assert len({*runs_of([first, second, both])}) == 1
    assert len({*runs_of([first, second, {**both, "command": "distance"}])}) == 2
    unknown = {**second, "checkpoints": []}
    assert runs_of([unknown]) == [""] and len(Gathered([first, unknown]).findings) == 1
