from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from fromage_cli.diagnostics.intrinsic_lr.prediction import NO_RATE, NOT_INVARIANT, UNCHANGED
from fromage_cli.diagnostics.intrinsic_lr.render import advise, left_out, render, sentences
from fromage_cli.diagnostics.intrinsic_lr.result import Forecast, ScheduleRecord
from fromage_cli.diagnostics.intrinsic_lr.tables import courses, forecasts, headline, norms, rotations
from fromage_cli.missing import Missing, Why, known
from tests.diagnostics.pages import compare, drawn

page = partial(drawn, render)
golden = partial(compare, Path(__file__).parent / "golden")


@pytest.mark.parametrize("width", [80, 160])
def test_the_page(make_result, make_layer, drop, width):
    result = make_result()
    layers = tuple(layer if known(layer.log_ratio) is None else replace(layer, drop=drop) for layer in result.layers)
    text = page(replace(result, layers=layers, drop_factor=10.0), width)
    golden(f"page-{width}.txt", text)
    assert max(map(len, text.splitlines())) <= width


def said(result):
    return " ".join(sentences(result))


def test_the_courses_are_drawn_to_their_highest(make_result, make_layer, drop):
    dropped = make_result(layers=(make_layer(drop=drop),), drop_factor=10.0)
    assert "to 1 on a log scale" in " ".join(page(dropped, verbose=True).split())
    rising = replace(drop, ratios=tuple(0.1 * (index + 1) for index in range(25)))
    text = page(make_result(layers=(make_layer(drop=rising),), drop_factor=10.0), verbose=True)
    assert "from 0.09 to 2.5 on a log scale" in " ".join(text.split())


def test_what_lies_far_beyond_the_run_is_said_with_that_limit(make_result, make_layer, drop):
    late = replace(drop, recovery_steps=5e5)
    result = make_result(layers=(make_layer(drop=late),), drop_factor=10.0, steps=(150,))
    assert "Few runs last that long; this one is at step 150." in " ".join(page(result).split())
    assert "Few runs" not in page(replace(result, layers=(make_layer(drop=drop),), steps=(9000,)))


def test_layers_that_have_not_settled_early_in_a_run_are_no_alarm(make_result, make_layer):
    layer = make_layer(log_ratio=-1.0, relaxation_steps=5000.0)
    assert said(make_result(layers=(layer,), steps=(200,))).endswith("That is usual so early.")
    assert "so early" not in said(make_result(layers=(layer,), steps=(6000,)))


def test_names_beside_a_reason_cannot_act_either(make_result, make_layer):
    layers = (make_layer("a\x1b[31m", log_ratio=Missing(Why.NO_FORMULA, "why")), make_layer())
    text = page(make_result(layers=layers), verbose=True)
    assert "\x1b" not in text and "not known for a\\x1b[31m: distance from it, because why" in text
    assert "not known" not in page(make_result(layers=layers))


def test_layers_that_could_not_be_tested_are_counted(make_result, make_layer):
    text = " ".join(page(make_result(layers=(make_layer(), make_layer("w", verdict="untested")))).split())
    warning = "Warning: this holds only for scale-invariant layers, whose size does not change the outputs."
    assert text.startswith(f"{warning} 1 of 2 layers were not tested for that.")
    assert "Warning" not in page(make_result())


def test_untested_equilibria_begin_with_a_warning(make_result, make_layer):
    untested = make_result(tested=False, layers=(make_layer(verdict="untested"),))
    text = " ".join(page(untested).split())
    assert text.startswith("Warning: this holds only") and "outputs. No layer was tested for that." in text
    assert advise(untested) == ""  # the warning's remedy stands there


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ({"verdict": "none"}, "fromage-diag norms shows how these layers change."),
        (
            {"relaxation_steps": 500.0, "steps_to_equilibrium": 0.0},
            "wait 500 steps before judging a change of rate or weight decay.",
        ),
        ({"relaxation_steps": 500.0, "steps_to_equilibrium": 700.0}, "The last layer settles in 700 steps."),
        ({"relaxation_steps": NO_RATE, "growth_per_step": 1e-4}, ""),
        ({"relaxation_steps": NO_RATE}, "give the learning rate: --lr 0.001."),
        ({"relaxation_steps": Missing(Why.NO_FORMULA, "none is known")}, "no verdict: none is known."),
        (
            {"relaxation_steps": Missing(Why.NO_EQUILIBRIUM, "it stays")},
            "nothing to wait for, as these norms do not settle.",
        ),
    ],
)
def test_what_to_do(make_result, make_layer, layer, words):
    assert advise(make_result(layers=(make_layer(**layer),))).endswith(words)


def test_under_a_schedule_the_present_rate_may_be_asked_about(make_result):
    assert advise(make_result(schedule_doubt="it falls")).endswith("add --schedule constant.")


def test_the_furthest_come_first_and_hidden_rows_are_counted(make_result, make_layer):
    layers = tuple(make_layer(f"w{index}", log_ratio=-0.1 * index) for index in range(1, 21))
    text = page(make_result(layers=layers))
    assert text.index("w20") < text.index("w19")
    assert "15 more, at 22 % to 90 % of their equilibrium norm: --all" in text
    everything = page(make_result(layers=layers), show_all=True)
    assert everything.index("w20 ") < everything.index("w19 ") < everything.index("w1 ")


def test_what_does_not_apply_is_one_line(make_result, make_layer):
    assert [*left_out(make_result())] == [
        "Does not apply to output.weight: it is not scale-invariant (its size changes the outputs)."
    ]
    nulls = dict.fromkeys(("log_ratio", "relaxation_steps", "relaxation_epochs"), NOT_INVARIANT)
    scaled = tuple(make_layer(name, verdict="none", **nulls) for name in "abcd")
    some = [*left_out(make_result(layers=(make_layer(), *scaled)))]
    assert some == [
        "Does not apply to a, b, c …: these 4 layers are not scale-invariant (their sizes change the outputs)."
    ]
    none = make_result(layers=scaled)
    first = "This does not apply: none of 4 layers is scale-invariant."
    assert said(none) == f"{first} Their sizes change the outputs, so they have no equilibrium norm."
    assert [*left_out(none)] == []


def test_layers_that_never_settle(make_result, make_layer):
    growing = make_layer(
        growth_per_step=2e-4, log_ratio=NO_RATE, relaxation_steps=NO_RATE, relaxation_epochs=NO_RATE,
        steps_to_equilibrium=NO_RATE,
    )  # fmt: skip
    result = make_result(layers=(growing,))
    assert said(result) == "These norms do not settle: they grow without end."
    assert "doubles in" in page(result) and "3466 steps" in page(result)


def test_a_series_shows_both_rotations(make_result, make_layer):
    layer = make_layer(observed_rotation=0.123, expected_rotations=(0.3, 0.4), observed_rotations=(0.1, 0.123))
    result = make_result(layers=(layer,), steps=(0, 100, 200))
    text = page(result)
    assert "Turned: the angle between the weights at step 100 and now. Expected:" in text and "7.05°" in text
    assert "between steps 100 and 200" in " ".join(page(result, verbose=True).split())
    assert rotations(result).rows == ((layer.name, 0, 100, 0.3, 0.1), (layer.name, 100, 200, 0.4, 0.123))


def test_the_courses(make_result, make_layer, drop):
    table = courses(make_result(layers=(make_layer(drop=drop), make_layer("b"))))
    assert len(table.rows) == 25 and table.rows[0][:3] == ("convolutions.0.weight", 0.0, 0.1)
    assert table.rows[0][3] == pytest.approx(0.00156)
    bare = courses(make_result(layers=(make_layer(drop=drop, effective_learning_rate=NO_RATE),)))
    assert bare.rows[0][3] == NO_RATE


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "at an equilibrium norm. A layer takes about 500 steps (23 epochs) to settle there."),
        ({"schedule_doubt": "it falls"}, "The learning rate changes, and how it goes on is not known."),
        ({}, "1 of 2 layers has settled to within a tenth; the norms are at 38 % to 105 % of equilibrium."),
    ],
)
def test_sentences(make_result, changes, words):
    assert words in said(make_result(**changes))


def test_the_headline_as_a_table(make_result):
    table = headline(make_result())
    assert table.columns == ("name", "value", "unit")
    found = {name: value for name, value, _ in table.rows}
    assert (found["layers"], found["not_scale_invariant"], found["untested"], found["settled"]) == (3, 1, 0, 1)
    assert (found["settling_time"], found["all_settled_in"]) == (500.0, 523.0)
    assert found["lowest"] == pytest.approx(0.383, abs=1e-3)


def test_what_is_not_there_is_not_explained(make_result, make_layer):
    nulls = dict.fromkeys(("equilibrium_norm", "log_ratio", "relaxation_steps", "expected_rotation"), NO_RATE)
    layers = (make_layer(observed_rotation=0.1, **nulls),)
    text = page(make_result(layers=layers, steps=(0, 100)), verbose=True)
    assert "turned: in radians" in text and "τ:" not in text and "expected:" not in text


def test_of_lion_it_is_said_which_noise_is_meant(make_result):
    for optimizer in ("lion", "adamw"):
        text = " ".join(page(make_result(optimizer=optimizer), verbose=True).split())
        assert ("for Gaussian noise" in text) == (optimizer == "lion")


def test_a_course_from_an_unknown_norm_says_so(make_result, make_layer, drop):
    layer = make_layer(drop=replace(drop, from_equilibrium=True))
    assert "are assumed to be at it" in " ".join(page(make_result(layers=(layer,), drop_factor=10.0)).split())


def test_ascii_and_names_that_cannot_act(make_result, make_layer):
    text = page(make_result(layers=(make_layer("a\x1b[31m"),)), ascii_only=True, verbose=True)
    assert text.isascii() and "\x1b" not in text


AHEAD = Forecast((300, 500, 750, 1000), (2.0, 3.0, 4.0, 5.0), (0.4, 0.3, 0.2, 0.0), (0.04, 0.03, 0.02, 0.0))


def test_a_forecast_to_the_end_of_the_run(make_result, make_layer):
    layer = make_layer(
        forecast=AHEAD, norms=(1.5, 2.0), expected_norms=(1.5, 2.1), observed_rotation=0.1, norm_ratio=1.05
    )
    schedule = ScheduleRecord("cosine", 100, 1000, "c.pt", 0.8, constant=False)
    result = make_result(layers=(layer,), steps=(200, 300), schedule=schedule, optimizer="adamw")
    plain, text = page(result), " ".join(page(result, verbose=True).split())
    assert "‖W‖ at step 1000" in plain and "now 50 %" not in plain
    assert "follows a cosine schedule over 1000 steps, 100 of them warm-up, and is now at 80 %" in text
    assert "now 50 % 75 % 100 %" in text and "25 %" not in text and "settle." not in text
    assert "at 200 at 300 expected ratio" in text and "1.5 2 2.1 1.05" in text
    assert forecasts(result).rows[1] == (layer.name, 500, 3.0, 0.3, 0.03, None, None)
    assert norms(result).rows == ((layer.name, 200, 1.5, 1.5), (layer.name, 300, 2.0, 2.1))


def test_a_doubtful_forecast_has_a_sign(make_result, make_layer):
    schedule = ScheduleRecord("cosine", 100, 1000, "c.pt", 0.8, constant=False)
    layers = (make_layer("sure", forecast=AHEAD), make_layer("unsure", forecast=AHEAD, forecast_doubtful=True))
    text = " ".join(page(make_result(layers=layers, schedule=schedule), verbose=True).split())
    assert "unsure ? ‖W‖" in text and "sure ‖W‖" in text and "sure ? ‖W‖" not in text.replace("unsure", "")
    assert "?: doubtful, as it is off by more than 20 % for the norm so far." in text
    assert "doubtful" not in page(make_result(layers=layers[:1], schedule=schedule), verbose=True)


def test_layers_that_are_not_trained_are_named_in_one_line(make_result, make_layer):
    frozen = make_layer("frozen", unchanged=True, equilibrium_norm=UNCHANGED, forecast=UNCHANGED, log_ratio=UNCHANGED)
    layers = (make_layer("moved", observed_rotation=0.1), frozen)
    text = " ".join(page(make_result(layers=layers, steps=(0, 100))).split())
    assert "Does not apply to frozen: it is not trained in this run." in text and text.count("frozen") == 1
    assert "settled layers often turn 2 to 4 × less, which is no fault." in text
    only = page(make_result(layers=(frozen, replace(frozen, name="other")), steps=(0, 100)))
    assert "Does not apply to frozen, other: these 2 layers are not trained in this run." in " ".join(only.split())


@pytest.mark.parametrize(
    ("trend", "growing", "words", "absent"),
    [
        (
            Missing(Why.NOT_ASKED, "it takes three"),
            True,
            "stay as large as now. How they change is not",
            "fit",
        ),
        (0.8, True, "went as steps to the power 0.8; this is assumed to go on. If growing: if their mean", "not known"),
        (1.4, False, "to the power 1.4; it is assumed to go on in proportion to the steps. Where training", "growing"),
        (-0.3, False, "to the power -0.3; it is assumed to fall no further. Where training begins to fit", "growing"),
    ],
)
def test_what_gradients_are_taken_to_become_is_said(make_result, make_layer, trend, growing, words, absent):
    ahead = replace(AHEAD, norms_if_growing=(2.0, 3.5, 5.0, 6.0), angles_if_growing=(0.04, 0.035, 0.025, 0.0))
    layer = make_layer(forecast=ahead if growing else AHEAD)
    schedule = ScheduleRecord("cosine", 100, 1000, "c.pt", 0.8, constant=False)
    result = make_result(layers=(layer,), schedule=schedule, gradient_trend=trend)
    text = " ".join(page(result, verbose=True).split())
    assert words in text and absent not in text
    assert ("‖W‖ if growing 2 3.5 5 6" in text) == growing == ("angle if growing 0.04 0.035" in text)
    assert forecasts(result).rows[1][-2:] == ((3.5, 0.035) if growing else (None, None))


def test_a_schedule_that_is_not_known(make_result):
    text = said(make_result(schedule_doubt="it fell"))
    assert (
        "how it goes on is not known. Equilibrium norms hold for a constant rate" in text
        and "to settle there" not in text
    )
