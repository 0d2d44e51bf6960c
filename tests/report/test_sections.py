"""What each section says, from answers whose numbers are known."""

from collections.abc import Callable
from typing import Any

import pytest

from fromage_cli.diagnostics.check.attention_findings import LARGE
from fromage_cli.report.gathered import Gathered
from fromage_cli.report.parts import Section, sheet
from fromage_cli.report.sections import sections

Make = Callable[..., Any]


def section(answers: list[Any], title: str) -> Section:
    (found,) = (one for one in sections(Gathered(answers)) if one.title == title)
    return found


def test_a_learning_rate_stands_between_its_limits(make: Make) -> None:
    suggested = {
        "estimates": [{"name": "measured", "learning_rate": 0.001}, {"name": "measured-sum", "learning_rate": 0.002},
                      {"name": "critical", "learning_rate": None}],
        "optimizer": {"name": "adamw", "current_learning_rate": 0.003},
        "recommended": {"learning_rate": 0.0024, "low": 0.001, "high": 0.004, "reliable": True},
        "layers": [{"name": "w", "learning_rate": 0.001, "trust_eta": None, "cosine": 0.5}],
    }  # fmt: skip
    curved = make("sharpness", {"stable_learning_rate": 0.01, "ratio": 0.3, "loss": 1.0})
    found = section([make("suggest-lr", suggested), curved], "Learning rate")
    assert found.sentences == (
        "AdamW trains at 0.003.",
        "Rate to train at: 0.0024, between 0.001 and 0.004.",
        "The loss of the batch is sure to fall by the next step up to a rate of 0.002.",
    )
    for words in (
        "every layer helps: 0.001",
        "tolerated by the curvature: 0.01",
        "your rate: 0.003",
        "rate to train at: 0.0024",
    ):
        assert words in found.figures[0].picture
    assert "loss rises" not in found.figures[0].picture
    assert [one.heading for one in found.sheets[0].columns] == ["layer", "own rate", "cosine"]
    assert section([curved], "Curvature").sentences == ("The curvature is 30 % of what the optimizer tolerates.",)


def test_the_rates_of_groups_come_from_one_answer(make: Make) -> None:
    """A group may have a rate of 0, and the rate of another answer may be another."""
    suggested = make("suggest-lr", {"optimizer": {"current_learning_rate": 1.5, "lowest_learning_rate": 0.0}})
    curved = make("sharpness", {"learning_rate": 0.3, "lowest_learning_rate": 0.1, "ratio": 0.5, "loss": 1.0})
    for answers, rates, highest in (
        ([suggested], "0 to 1.5", "1.5"),
        ([suggested, curved], "0 to 1.5", "1.5"),
        ([curved], "0.1 to 0.3", "0.3"),
    ):
        found = section(answers, "Learning rate")
        assert found.sentences[0] == f"The optimizer trains at {rates}."
        assert f"your highest rate: {highest}" in found.figures[0].picture
    alone = make("suggest-lr", {"optimizer": {"current_learning_rate": 0.2, "lowest_learning_rate": None}})
    assert section([alone, curved], "Learning rate").sentences[0] == "The optimizer trains at 0.2."
    said = "The curvature is 50 % of what the optimizer tolerates at 0.1 to 0.3."
    assert section([curved], "Curvature").sentences[0] == said


def test_gradients_name_the_layer_that_fails_first(make_breakdown: Make) -> None:
    found = section([make_breakdown(1, 0.5), make_breakdown(2, 0.01)], "Gradients")
    assert found.sentences == ("Every layer is sure to help up to a relative step of 0.01; one.weight fails first.",)
    assert found.sheets[0].rows[0] == ("one.weight", 0.01, 2.0, 4.0, 3.0, 0.5)


def test_layers_that_fail_before_the_first_step_come_first(make_breakdown: Make) -> None:
    told = make_breakdown(1)
    told["result"]["layers"][1] |= {"trust_eta": None, "trust_relation": "below-grid"}
    found = section([told], "Gradients")
    assert found.sentences[0] == "1 layer stops helping below 0.001, two.weight."
    assert [row[0] for row in found.sheets[0].rows] == ["two.weight", "one.weight"]


def test_without_an_optimizer_it_is_asked_for(make: Make) -> None:
    found = section([make("suggest-lr", {"layers": [{"name": "w", "learning_rate": 0.1}]})], "Learning rate")
    assert found.sentences == ("The optimizer is not known. Name it and your rate: --optimizer adamw --lr 0.001.",)


@pytest.mark.parametrize(
    ("recommended", "words"),
    [
        ({"learning_rate": 3.0, "reliable": False, "reason": "the runs end alike"},
         "Rate to train at: perhaps 3. It is not reliable: the runs end alike."),
        ({"learning_rate": None, "low": 0.1, "high": 0.4, "reason": "none was measured."},
         "Rate to train at: try one between 0.1 and 0.4. The reason: none was measured."),
        ({}, "The rate to train at is not known."),
        ({"reason": "no short runs were asked for", "missing": {"learning_rate": {"code": "not-asked"}}},
         "The rate to train at is not known. Short runs of `fromage-diag suggest-lr CKPT` tell it. "
         "Save its answer as JSON, and give report that file as well."),
    ],
)  # fmt: skip
def test_a_rate_is_as_sure_as_it_was_found(make: Make, recommended: dict[str, Any], words: str) -> None:
    told = {"optimizer": {"name": "sgd"}, "recommended": recommended}
    assert section([make("suggest-lr", told)], "Learning rate").sentences == (words,)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"trust_relation": "above-grid"}, "Every layer helps at all steps that were tried, up to 0.1."),
        ({"trust_relation": "below-grid"},
         "In some layers not even the smallest step, 0.001, is sure to lower the loss."),
        ({"trust_relation": "uncertifiable"},
         "In some layers the step points uphill: judge by the loss as a whole."),
        ({"aggregate_trust_relation": "above-grid"},
         "The loss as a whole is sure to fall at all steps that were tried, up to 0.1."),
        ({"first_increase_eta": 0.9}, "The loss rises from a relative step of 0.9 on."),
    ],
)  # fmt: skip
def test_each_relation_has_its_sentence(make: Make, told: dict[str, Any], words: str) -> None:
    found = section([make("breakdown", {"etas": [0.001, 0.1], **told})], "Gradients")
    assert found.sentences == (words,)


def test_curvature_is_no_verdict_of_its_own(make: Make) -> None:
    told = {"ratio": 1.01, "learning_rate": 0.1, "quadratic": {"outcome": "spikes"}}
    assert section([make("sharpness", told)], "Curvature").sentences == (
        "The curvature is 101 % of what the optimizer tolerates at 0.1.",
        "In simulated steps at this rate the loss jumps and comes back.",
    )
    missing = {"ratio": None, "missing": {"ratio": {"code": "x", "reason": "the optimizer is not known"}}}
    words = ("It is not held against the rate: the optimizer is not known.",)
    assert section([make("sharpness", missing)], "Curvature").sentences == words


def test_numbers_at_the_end_of_floats_are_no_steps(make: Make) -> None:
    norms = {"steps": [-1e308, 1e308], "layers": [{"name": "w", "norms": [1e-308, 1e308]}]}
    ahead = {"steps": [1e17, 1e17], "norms": [1.0, 2.0]}
    settled = {"steps": [1e17, 1e17], "layers": [{"name": "w", "norms": [1.0, 2.0], "forecast": ahead}]}
    assert sections(Gathered([make("norms", norms), make("intrinsic-lr", settled, 10**400)]))


def test_maps_need_two_steps(make: Make, make_breakdown: Make) -> None:
    assert "Along the run" not in [one.title for one in sections(Gathered([make_breakdown(1)]))]
    found = section([make_breakdown(20, 0.04), make_breakdown(3, 0.01)], "Along the run")
    (picture,) = (one.picture for one in found.figures)
    assert "2 layers at 2 steps, 0.01 to 0.08" in picture and ">3<" in picture and ">20<" in picture
    norms = {"steps": [0, 5, 9], "layers": [{"name": "w", "norms": [2.0, 4.0, 8.0]}, {"name": "v", "norms": [0, 1, 2]}]}
    turned = {"steps": [0, 5, 9], "layers": [{"name": "w", "observed_rotations": [0.1, 0.2]}]}
    states = [make("state", {"layers": [{"name": "w", "relative_update": 0.1 * step}]}, step) for step in (1, 2)]
    several = section([make("norms", norms), make("intrinsic-lr", turned), *states], "Along the run")
    assert ["1 to 4" in several.figures[0].picture, "0.1 to 0.2" in several.figures[1].picture] == [True, True]
    assert len(several.figures) == 3


def test_many_layers_are_cut_to_those_that_change(make: Make) -> None:
    layers = [{"name": f"layer {place}", "norms": [1.0, 1.0 + place]} for place in range(100)]
    found = section([make("norms", {"steps": [0, 1], "layers": layers})], "Along the run")
    assert "layer 99<" in found.figures[0].picture and "layer 60<" in found.figures[0].picture
    assert "layer 59<" not in found.figures[0].picture


def test_norms_stand_against_their_equilibrium(make: Make) -> None:
    norms = {
        "layers": [{"name": "w", "last_norm": 2.0, "growth_per_step": 0.01, "invariance": {"verdict": "invariant"}}]
    }
    settled = {"layers": [{"name": "w", "equilibrium_norm": 4.0, "log_ratio": -0.6931471805599453}]}
    found = section([make("norms", norms), make("intrinsic-lr", settled)], "Norms and equilibrium")
    assert found.sentences == ("1 layer has an equilibrium norm, 0.5 × of it now.",)
    assert found.sheets[0].rows == (("w", 2.0, 1.0, "yes", 4.0),)
    assert "0.5 ×" in found.figures[0].picture
    without = section([make("norms", norms)], "Norms and equilibrium")
    assert without.sentences == (), "nobody asked"
    untold = {"layers": [{"name": "w", "missing": {"equilibrium_norm": {"code": "x", "reason": "the rate is 0"}}}]}
    asked = section([make("norms", norms), make("intrinsic-lr", untold)], "Norms and equilibrium")
    assert asked.sentences == ("No layer has an equilibrium norm: the rate is 0.",)
    own = {"code": "not-scale-invariant", "reason": "the layer is not scale-invariant, so that it has none"}
    scaled = make("intrinsic-lr", {"layers": [{"name": "w", "missing": {"equilibrium_norm": own}}]})
    once = section([make("norms", norms), scaled], "Norms and equilibrium")
    assert once.sentences == ("No layer has an equilibrium norm, as none is scale-invariant.",)
    untold["layers"].append({"name": "v", "missing": {"equilibrium_norm": {"code": "y", "reason": "it is frozen"}}})
    several = section([make("norms", norms), make("intrinsic-lr", untold)], "Norms and equilibrium")
    assert several.sentences == ("No layer has an equilibrium norm.",), "no reason holds for all"


def test_norms_go_on_along_the_schedule(make: Make) -> None:
    layer = {"name": "w", "norms": [1.0, 2.0], "forecast": {"steps": [10, 20], "norms": [2.0, 4.0]}}
    found = section([make("intrinsic-lr", {"steps": [0, 10], "layers": [layer]})], "Norms and equilibrium")
    (drawn,) = found.figures
    assert drawn.caption == "After step 10 it is a forecast, along the schedule."
    assert 'points="60,300 380,156 380,156 700,12"' in drawn.picture
    later = {"steps": [0, 1_234_567], "layers": [layer]}
    (drawn,) = section([make("intrinsic-lr", later)], "Norms and equilibrium").figures
    assert drawn.caption.startswith("After step 1234567 "), "a step has all its digits"


def test_other_answers_have_their_tables(make: Make) -> None:
    head = {"head": 2, "largest_logit": 40.0, "entropy_share": 0.5, "one_key_share": 0.0}
    check = {"verdict": "go", "looked": ["state"], "forward_pass": {"attention": [{"module": "a", "heads": [head]}]},
             "numbers": [{"command": "state", "name": "update_rms", "value": 0.5, "unit": "x"}],
             "results": {"state": {"totals": {"relative_update": 0.01}, "layers": [
                 {"name": "w", "relative_update": 0.02}]}}}  # fmt: skip
    answers = [
        make("check", check),
        make("hypergrad", {"hyperparameters": [{"name": "dropout", "scope": "all", "value": 0.1,
                                                "advice": "Lower it."}]}),
        make("distance", {"first_step": 1, "second_step": 2, "function_distance": 0.25,
                          "layers": [{"name": "w", "relative_distance": 0.1},
                                     {"name": "v", "relative_distance": 0.3}]}),
    ]  # fmt: skip
    assert section(answers, "Attention").sentences == ("The largest attention logit is 40.",)
    assert section(answers, "Attention").sheets[0].columns[1].meaning.endswith(f"check mentions it above {LARGE:g}.")
    assert section(answers, "Attention").sheets[0].rows == (("a, head 2", 40.0, 0.5, 0.0),)
    assert section(answers, "Next update").sheets[0].rows == (("w", 0.02),)
    assert section(answers, "Regularisation").sheets[0].rows == (("dropout (all)", 0.1, "Lower it."),)
    assert [row[0] for row in section(answers, "Distance").sheets[0].rows] == ["v", "w"]
    assert section(answers, "Distance").sentences == (
        "v moved most between step 1 and step 2.",
        "The outputs differ by 25 % between step 1 and step 2.",
    )
    assert section(answers, "All numbers").sheets[0].rows == (("state: update rms", 0.5, "x"),)


def test_tables_leave_out_what_is_empty_and_say_what_is_cut() -> None:
    columns = (("layer", "Name."), ("a", "A."), ("b", "B."))
    (found,) = sheet("Title", columns, [["w", None, float(place)] for place in range(1003)])
    assert [one.heading for one in found.columns] == ["layer", "b"] and found.hidden.startswith("3 more rows")
    assert len(found.shown) == 1000 and found.shown[1] == [("w", False), ("1", True)]
    assert sheet("Title", columns, [["w", None, None]]) == () and sheet("Title", columns, []) == ()


@pytest.mark.parametrize("result", [{}, {"layers": 3}, {"layers": [{}]}, {"results": {"state": 3}}, {"steps": ["x"]}])
def test_results_of_another_kind_leave_sections_out(make: Make, result: dict[str, Any]) -> None:
    from fromage_cli.diagnostics import COMMANDS

    for command in COMMANDS:
        assert all(one.title for one in sections(Gathered([make(command, result), make(command, result, None)])))
