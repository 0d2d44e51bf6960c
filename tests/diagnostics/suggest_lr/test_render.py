import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from fromage_cli.diagnostics.suggest_lr.render import render, summary
from fromage_cli.diagnostics.suggest_lr.result import (
    Alternative,
    Limit,
    ProbeRun,
    Recommended,
    Stability,
    SuggestedRates,
    VerifiedRun,
)
from fromage_cli.missing import LIMIT_REACHED, OPTIMIZER_UNKNOWN, Missing, Why
from tests.diagnostics.pages import compare, drawn

MakeResult = Callable[..., SuggestedRates]
page = partial(drawn, render)
golden = partial(compare, Path(__file__).parent / "golden")
NONE = Missing(Why.UNCERTIFIABLE, "no step was found at which the loss must fall")
NOTHING = Limit(NONE, NONE, None, "uncertifiable", None, None, NONE, False)


@pytest.mark.parametrize("width", [80, 160])
def test_the_page(make_result: MakeResult, width: int) -> None:
    golden(f"page-{width}.txt", page(make_result(), width))


def test_the_page_where_the_optimizer_is_not_known(make_result: MakeResult) -> None:
    result = make_result()
    unknown = replace(
        result,
        optimizer=replace(
            result.optimizer,
            name=None,
            current_learning_rate=OPTIMIZER_UNKNOWN,
            current_ratio=OPTIMIZER_UNKNOWN,
            groups=(),
        ),
        limit=replace(result.limit, learning_rate=OPTIMIZER_UNKNOWN),
        recommended=Recommended(*[OPTIMIZER_UNKNOWN] * 5, None, OPTIMIZER_UNKNOWN.words, False, OPTIMIZER_UNKNOWN),
        probe=(),
        estimates=tuple(each for each in result.estimates if each.name not in ("probe-init", "typical")),
        alternatives=(
            Alternative("fromage", "", 0.0028, 0.06, 0.026),
            Alternative("muon", "--momentum 0.95", 0.003, NONE, NONE),
        ),
    )
    golden("unknown-80.txt", page(unknown))


def test_layers_are_cut_short_the_limiting_one_first(make_result: MakeResult) -> None:
    short, whole = page(make_result()), page(make_result(), show_all=True)
    assert "3 of 11 rows hidden" in short
    rows = [line for line in short.splitlines() if line.lstrip().startswith("blocks.")]
    assert "blocks.4" in rows[0]
    assert "hidden; --all" not in whole and whole.count("blocks.") > short.count("blocks.")


def test_both_answers_are_said(make_result: MakeResult) -> None:
    result = make_result()
    text = summary(result)
    assert text.startswith(
        "The next AdamW update lowers the loss of these rows up to a learning rate of 0.000963, checked at 2 step "
        "sizes (relative step 0.0028; blocks.4"
    )
    assert "gives way first). You run at 0.003." in text
    assert text.endswith(
        "Rate to train at: 0.00179, between 0.00089 and 0.0036. About 2% of the progress is lost at it (22 short runs "
        "at a constant rate, 360 steps)."
    )
    assert "(22 short runs with your schedule, 360 steps)" in summary(replace(result, schedule="cosine"))


GROW = "Steps along the sharpest direction grow from a rate of 0.0125 on."
STABLE = "Stable at your rate of 0.003 as far as today's curvature tells (24% of what AdamW tolerates)."
FURTHER = (
    "Training may raise the curvature, and minibatches add noise. "
    "The command sharpness looks further: it trains the network's quadratic model."
)
DIVERGED = "With momentum, some networks that began at such a ratio diverged."
NOT_STABLE = "Not stable at your rate of 0.003 on today's curvature, 2.4 × what AdamW tolerates."
BEGINS = (
    "You run at 0.003, 2.4 × what today's curvature tolerates. "
    "Where Adam begins, this ratio did not tell healthy runs from sick ones."
)


@pytest.mark.parametrize(
    ("stability", "words"),
    [
        (Stability(0.0125, 0.24), f"{STABLE} {GROW} {FURTHER}"),
        (Stability(0.0125, 0.24, diverged_from=0.2), f"{STABLE} {GROW} {DIVERGED} {FURTHER}"),
        (Stability(0.0125, 0.24, diverged_from=0.3), f"{STABLE} {GROW} {FURTHER}"),
        (Stability(0.0125, 2.4), f"{NOT_STABLE} {GROW}"),
        (Stability(0.0125, 2.4, adam_begins=True), BEGINS),
    ],
)
def test_the_present_rate_is_held_against_todays_curvature_and_no_more(
    make_result: MakeResult, stability: Stability, words: str
) -> None:
    text = summary(make_result(stability=stability))
    assert f" gives way first). {words} Rate to train at" in text
    assert all(len(sentence.split()) <= 20 for sentence in re.split(r"(?<=[.:]) ", words))
    assert "ower the rate" not in text and "training is stable" not in text


def test_what_is_missing_is_said(make_result: MakeResult) -> None:
    result = make_result()
    rise = "No step size was found at which the loss must fall"
    assert f"{rise}, nor a rate from which on the loss rises." in summary(replace(result, limit=NOTHING))
    cut = (replace(result.estimates[0], name="critical", learning_rate=LIMIT_REACHED),)
    assert f"{rise}. " in summary(replace(result, estimates=cut, limit=NOTHING))
    unknown = replace(result, optimizer=replace(result.optimizer, name=None), limit=NOTHING)
    assert summary(unknown).startswith("No optimizer was named. No size of a Fromage update was found")
    beyond = replace(result.limit, relation="above-grid", upper_eta=NONE, limiting_layer=None)
    assert "these rows at least up to a learning rate" in summary(replace(result, limit=beyond))
    unsized = replace(result.limit, eta=NONE, limiting_layer="head.weight")
    assert "at 2 step sizes (head.weight gives way first)" in summary(replace(result, limit=unsized))
    mean = replace(result.limit, averaged=True)
    assert "of these rows on average over training batches up to" in summary(replace(result, limit=mean))
    assert "about 150 (110 or more) rows" in page(replace(result, noise_scale_high=NONE))
    risen = replace(result.limit, estimator="critical", criterion=None)
    assert "raises the loss from a learning rate of 0.000963 on; at no smaller one must it fall." in summary(
        replace(result, limit=risen)
    )


def test_a_rate_that_is_not_known_well_or_not_at_all_is_said(make_result: MakeResult) -> None:
    result = make_result()
    vague = replace(
        result.recommended,
        reliable=False,
        regret=0.09,
        reason="the short runs tell it too poorly: 9% of the progress may be lost",
    )
    text = summary(replace(result, recommended=vague))
    assert "Rate to train at: perhaps 0.00179, between 0.00089 and 0.0036 (22 short runs" in text
    assert "Not sure: the short runs tell it too poorly: 9% of the progress may be lost." in text
    usual = Recommended(NONE, NONE, 0.001, 0.02, NONE, None, "every short run left the numbers", False, NONE)
    assert summary(replace(result, recommended=usual)).endswith(
        "Rate to train at: not known here, since every short run left the numbers. Try rates between 0.001 and 0.02."
    )
    none = replace(usual, low=NONE, high=NONE, reason=LIMIT_REACHED.words)
    assert summary(replace(result, recommended=none)).endswith(
        f"Rate to train at: not known here, since {LIMIT_REACHED.words}."
    )


def test_every_rate_stands_once_with_a_column_for_each_length(make_result: MakeResult) -> None:
    """The mean of both seeds under its length, and half of how far they are apart."""
    lines = [line.split() for line in page(make_result(), 160).splitlines()]
    start = next(index for index, line in enumerate(lines) if line[:3] == ["short", "runs", "at"]) + 2
    assert lines[start - 2][3:] == ["after", "12", "steps", "after", "24", "steps", "±"]
    rows = lines[start : start + 11]
    assert [row[0] for row in rows] == sorted((row[0] for row in rows), key=float) and lines[start + 11] == []
    assert [row[1] for row in rows].count("—") == 4 and [row[2] for row in rows].count("—") == 7
    assert rows[-1][1:] == ["inf", "—", "—"], "the loss of a run that left the numbers has no spread"
    (close,) = [row for row in rows if float(row[0]) == pytest.approx(0.0017, rel=0.01)]
    assert float(close[2]) == pytest.approx(1.3 - 0.072 + 0.02 * 0.0556 + 0.002, rel=1e-3)
    assert (close[1], close[3]) == ("—", "0.002")
    assert "after 12 steps" not in page(make_result(probe=()))


def test_a_rate_of_two_lengths_shows_both_and_how_far_the_longer_are_apart(make_result: MakeResult) -> None:
    runs = [(12, 0, 0.9), (12, 1, 0.5), (24, 0, 0.6), (24, 1, 0.5)]
    text = page(make_result(probe=tuple(ProbeRun(0.25, loss, steps, seed) for steps, seed, loss in runs)))
    (row,) = [line.split() for line in text.splitlines() if line.split()[:1] == ["0.25"]]
    assert row == ["0.25", "0.7", "0.55", "0.05"]


def test_relative_rates_are_not_said_twice(make_result: MakeResult) -> None:
    result = make_result()
    fromage = replace(result, optimizer=replace(result.optimizer, name="fromage"))
    assert "relative step" not in summary(fromage)


def test_a_layer_that_the_search_passed_is_beyond_it(make_result: MakeResult) -> None:
    result = make_result()
    layers = (replace(result.layers[0], linear_trust_eta=0.001), *result.layers[1:])
    assert "> 0.0029" in page(replace(result, layers=layers))
    below = (replace(result.layers[0], trust_relation="below-grid"), *result.layers[1:])
    assert " below " in page(replace(result, layers=below))
    none = (replace(result.layers[0], trust_relation="uncertifiable"), *result.layers[1:])
    assert " none " in page(replace(result, layers=none))


def test_real_steps_are_drawn_with_a_verdict(make_result: MakeResult) -> None:
    runs = (
        VerifiedRun(1 / 3, 0.0003, (1.0, 0.8, 0.7), 1.1, 0.7, 0.01, True),
        VerifiedRun(3.0, 0.003, (1.0, 4.0), 1.1, NONE, NONE, False),
    )
    text = page(make_result(verification=runs))
    assert "0.333 ×" in text and "inf" in text and "█" in text
    assert "Over 3 steps at a constant rate 0.0003 ends lowest." in text
    alike = tuple(replace(run, best=False) for run in runs)
    assert "Over 3 steps these rates end alike: another order of batches changes as much." in " ".join(
        page(make_result(verification=alike)).split()
    )
    assert "#" in page(make_result(verification=runs), ascii_only=True) or "@" in page(
        make_result(verification=runs), ascii_only=True
    )


def test_rates_that_all_left_the_numbers_do_not_end_alike(make_result: MakeResult) -> None:
    runs = tuple(VerifiedRun(factor, factor, (1.0, 1e9), 1.0, NONE, NONE, False) for factor in (1 / 3, 1.0, 3.0))
    text = page(make_result(verification=runs))
    assert "At all of these rates the loss becomes infinite or no number." in text and "end alike" not in text


def test_the_page_in_ascii_has_every_number(make_result: MakeResult) -> None:
    text = page(make_result(), ascii_only=True, width=160)
    assert all(value in text for value in ("0.000963", "0.0114", "0.238 +- 0.03", "0.00179"))
