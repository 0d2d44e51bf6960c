from collections.abc import Callable
from dataclasses import replace

import pytest

from fromage_cli.diagnostics.suggest_lr.facts import (
    band,
    fails_first,
    headline,
    marks,
    next_step,
    not_every_layer,
    runs_made,
    said_by_page,
    stability,
    sure_rates,
    trained_at,
    training,
    verdict,
)
from fromage_cli.diagnostics.suggest_lr.result import (
    Estimate,
    Limit,
    Recommended,
    Stability,
    SuggestedRates,
    VerifiedRun,
)
from fromage_cli.missing import LIMIT_REACHED, NO_OTHER_DRAWS, Basis, Missing, Why
from fromage_cli.terminal.answer import PageStyle
from fromage_cli.terminal.page import Band
from fromage_cli.theory.random_draws import OtherDraws

MakeResult = Callable[..., SuggestedRates]
NONE = Missing(Why.UNCERTIFIABLE, "no step size is sure to lower the loss")
NOTHING = Limit(NONE, NONE, None, "uncertifiable", None, None, NONE, False)
NOT_ASKED = Missing(Why.NOT_ASKED, "no short runs were asked for")


def said(facts: object) -> list[tuple[str, str, str]]:
    return [(fact.label, fact.value, fact.words) for fact in facts]  # type: ignore[attr-defined]


def without(result: SuggestedRates, *names: str) -> SuggestedRates:
    return replace(result, estimates=tuple(each for each in result.estimates if each.name not in names))


def test_how_far_the_next_step_may_go(make_result: MakeResult) -> None:
    assert said(next_step(make_result())) == [
        ("Sure in every layer", "0.000963", "blocks.4.attention.output.weight fails first"),
        ("Sure as a whole", "0.00214", "the loss is sure to fall"),
        ("Loss rises", "0.0114", "one step raises the loss of this batch"),
        ("", "0.00088", "the same for rows outside the batch"),
    ]


def test_nothing_is_called_sure_where_the_value_is_not_reliable(make_result: MakeResult) -> None:
    result = make_result()
    rough = replace(result, limit=replace(result.limit, reliable=False))
    first, whole, *_ = said(next_step(rough))
    assert first == ("Helps in every layer", "0.000963", "every layer helps, as far as looked")
    assert whole == ("Helps as a whole", "0.00214", "the loss falls, as far as looked")
    assert "sure" not in " ".join(" ".join(fact) for fact in said(next_step(rough))).lower()


def test_where_no_step_is_sure_it_is_said(make_result: MakeResult) -> None:
    bare = without(replace(make_result(), limit=NOTHING), "measured", "measured-sum")
    assert [(label, value) for label, value, _ in said(next_step(bare))][:2] == [
        ("Sure in every layer", "none"), ("Sure as a whole", "none"),
    ]  # fmt: skip
    none = Estimate("critical", NONE, NONE, Basis("no rise seen", "at none of the rates tried"), 1.0)
    fact = next(fact for fact in next_step(make_result(estimates=(none,))) if fact.label == "Loss rises")
    assert (fact.value, fact.words) == ("—", "no rise seen on this batch")


@pytest.mark.parametrize(
    ("cosine", "error", "words"),
    [
        (-0.3, 0.05, "in blocks.4.attention.output.weight the step points uphill"),
        (
            0.0,
            0.05,
            "noise hides the gradient of blocks.4.attention.output.weight at 64 rows a batch; a larger batch helps",
        ),
        (
            -0.1,
            NONE,
            "in blocks.4.attention.output.weight the step points uphill or is noise; a larger batch would tell",
        ),
        (0.3, 0.05, "even the smallest step tried is too large for a layer"),
    ],
)
def test_why_no_step_helps_every_layer(
    make_result: MakeResult, cosine: float, error: float | Missing, words: str
) -> None:
    result = make_result()
    layers = list(result.layers)
    layers[4] = replace(layers[4], cosine=cosine, cosine_stderr=error)
    changed = replace(without(result, "measured"), layers=tuple(layers))
    assert not_every_layer(changed) == words
    assert said(next_step(changed))[0] == ("Sure in every layer", "none", words)
    assert "noise-dominates" in said_by_page(changed) and "noise-dominates" not in said_by_page(result)


def test_what_a_limit_left_out_is_not_known(make_result: MakeResult) -> None:
    cut = [Estimate(name, LIMIT_REACHED, LIMIT_REACHED, Basis("stopped"), 0.0) for name in ("measured", "critical")]
    assert said(next_step(make_result(estimates=tuple(cut)))) == [
        ("Sure in every layer", "not known", "the run ended before it was looked for"),
        ("Loss rises", "not known", "the run ended before it was looked for"),
    ]


def test_what_only_all_tensors_together_do_is_no_layers(make_result: MakeResult) -> None:
    result = without(make_result(), "measured-sum")
    assert sure_rates(result) == (0.000963, None)
    together = replace(result, limit=replace(result.limit, criterion="sum"))
    assert sure_rates(together) == (None, 0.000963)


def test_the_layer_that_fails_first_is_the_one_the_search_met(make_result: MakeResult) -> None:
    result = make_result()
    whole = replace(result, limit=replace(result.limit, estimator="measured-sum", limiting_layer="blocks.9"))
    assert fails_first(whole) == "blocks.4.attention.output.weight"
    later = tuple(replace(each, trust_eta=0.1) for each in result.layers)
    assert fails_first(replace(whole, layers=later)) is None
    assert ("Sure in every layer", "0.000963", "vectors (biases, gains) fail first") in said(
        next_step(replace(whole, layers=later))
    )


def test_noise_stands_beside_what_is_sure_in_every_layer(make_result: MakeResult) -> None:
    result = make_result()
    fails = "blocks.4.attention.output.weight fails first"
    noisy = (replace(result.layers[0], cosine=0.0), *result.layers[1:])
    rows = replace(result, layers=noisy)
    together = replace(rows, uncertain=(noisy[0].name,))
    averaged = replace(rows, limit=replace(result.limit, averaged=True))
    assert {fails: result, f"on these rows; {fails}": rows, f"1 layer judged with the vectors; {fails}": together} == {
        said(next_step(each))[0][2]: each for each in (result, rows, together)
    }
    assert said(next_step(averaged))[0][2] == fails  # the page says that it is the mean step's


def test_other_draws_of_a_random_network_are_told(make_result: MakeResult) -> None:
    assert make_result().draws is NO_OTHER_DRAWS
    facts = said(next_step(make_result(draws=OtherDraws(3, 0.01, 0.02))))
    assert facts[-1] == ("", "0.01 to 0.02", "the same under 3 other random draws")


def test_the_rate_to_train_at_has_a_range_and_what_it_rests_on(make_result: MakeResult) -> None:
    result = make_result()
    assert said(training(result, PageStyle(verbose=True))) == [
        ("Rate to train at", "0.00179", "best between 0.00089 and 0.0036 (80 % likely)"),
        ("", "", "the runs take longest: --probe none skips them"),
        ("", "", "about 2 % of the progress is lost at it"),
    ]
    vague = replace(result, recommended=replace(result.recommended, reliable=False), schedule="cosine")
    assert said(training(vague, PageStyle()))[0][1] == "≈ 0.00179"
    assert runs_made(result) == " (22 short runs at a constant rate, 360 steps together)"
    assert "22 short runs with your schedule" in runs_made(vague) and runs_made(replace(result, probe=())) == ""


@pytest.mark.parametrize(
    ("why", "reason", "words"),
    [
        (NOT_ASKED, "no short runs were asked for", "short runs tell it: leave --probe none out"),
        (LIMIT_REACHED, "a limit was reached", "a limit was reached"),
    ],
)
def test_a_rate_that_is_not_known_says_why(make_result: MakeResult, why: Missing, reason: str, words: str) -> None:
    none = Recommended(why, why, why, why, why, None, reason, False, why)
    assert said(training(make_result(recommended=none, probe=()), PageStyle())) == [
        ("Rate to train at", "not known", words)
    ]
    ranged = replace(none, low=0.001, high=0.02)
    shown = said(training(make_result(recommended=ranged, probe=()), PageStyle()))
    assert shown[0][2] == "it lies between 0.001 and 0.02 (80 % likely)"


def test_runs_that_verify_stand_beside_the_rate(make_result: MakeResult) -> None:
    runs = (
        VerifiedRun(1 / 3, 0.0003, (1.0, 0.8, 0.7), 1.1, 0.7, 0.01, True),
        VerifiedRun(3.0, 0.003, (1.0, 4.0), 1.1, NONE, NONE, False),
    )
    verified = make_result(verification=runs)
    assert said(training(verified, PageStyle()))[-2:] == [
        ("Verified", "0.0003", "ends lowest after 3 steps at a constant rate"),
        ("Loss at their end", "", "0.7 at 0.0003, inf at 0.003"),
    ]
    alike = make_result(verification=tuple(replace(run, best=False) for run in runs))
    assert said(training(alike, PageStyle()))[-2] == ("Verified", "no winner", "all end alike after 3 steps")
    one = make_result(verification=tuple(replace(run, best=False, spread=0.0) for run in runs))
    assert "five training batches" in verdict(one)
    lost = make_result(verification=tuple(replace(run, best=False, end_loss=NONE) for run in runs))
    assert verdict(lost) == "at all of these rates the loss overflows"


@pytest.mark.parametrize(
    ("found", "facts"),
    [
        (Stability(0.0125, 0.24), [("Stable at 0.003", "yes", "up to 0.0125 by today's curvature")]),
        (
            Stability(0.0125, 0.24, diverged_from=0.2),
            [
                ("Stable at 0.003", "yes", "up to 0.0125 by today's curvature"),
                ("", "", "some networks that began so close to it diverged"),
            ],
        ),
        (Stability(0.00125, 2.4), [("Stable at 0.003", "no", "only up to 0.00125 by today's curvature")]),
        (
            Stability(0.00125, 2.4, adam_begins=True),
            [("Stable at 0.003", "not known", "Adam has hardly begun: curvature tells little")],
        ),
        (
            Stability(0.00125, 2.4, adam_begins=True, adam_unsaved=True),
            [("Stable at 0.003", "not known", "without a state of Adam curvature tells little")],
        ),
        (
            Stability(Missing(Why.NO_FORMULA, "none"), Missing(Why.NO_FORMULA, "none")),
            [("Stable at 0.003", "not known", "no curvature bounds the rate of AdamW")],
        ),
        (Stability(NOT_ASKED, NOT_ASKED), []),
    ],
)
def test_the_present_rate_is_held_against_todays_curvature_and_no_more(
    make_result: MakeResult, found: Stability, facts: list[tuple[str, str, str]]
) -> None:
    assert said(stability(make_result(stability=found), PageStyle(verbose=True))) == facts


def test_without_a_rate_the_largest_stable_one_is_told(make_result: MakeResult) -> None:
    result = make_result(stability=Stability(0.0125, LIMIT_REACHED))
    unnamed = replace(result, optimizer=replace(result.optimizer, current_learning_rate=LIMIT_REACHED))
    assert said(stability(unnamed, PageStyle())) == [
        ("Stable up to", "0.0125", "by today's curvature; --lr names your rate")
    ]
    assert (trained_at(result), trained_at(unnamed)) == ("AdamW at 0.003", "AdamW")
    assert trained_at(replace(result, optimizer=replace(result.optimizer, name=None))) == "no optimizer named"


def test_the_ruler_has_the_places_of_the_answer(make_result: MakeResult) -> None:
    assert [(mark.sign, mark.value) for mark in marks(make_result())] == [
        ("▼", 0.003), ("●", 0.000963), ("◆", 0.00214), ("▲", 0.0114), ("○", 0.00088),
    ]  # fmt: skip


def test_the_range_of_the_rate_to_train_at_is_a_band(make_result: MakeResult) -> None:
    result = make_result()
    assert band(result) == Band(0.00089, 0.0036, "train at")
    rate = replace(result.recommended, low=NONE, high=NONE)
    assert band(replace(result, recommended=rate)) == Band(0.00179, 0.00179, "train at")
    assert band(replace(result, recommended=replace(rate, learning_rate=NONE))) is None


def test_the_headline_for_scripts(make_result: MakeResult) -> None:
    rows = {name: (value, unit) for name, value, unit in headline(make_result()).rows}
    assert rows["sure_as_a_whole"] == (0.00214, "learning rate")
    assert rows["rate_to_train_at"] == (0.00179, "learning rate") and rows["optimizer"] == ("adamw", "name")


def test_that_no_curvature_bounds_a_rate_is_no_news(make_result: MakeResult) -> None:
    none = Missing(Why.NO_FORMULA, "its step is not linear in the gradient")
    assert said(stability(make_result(stability=Stability(none, none)), PageStyle())) == []
