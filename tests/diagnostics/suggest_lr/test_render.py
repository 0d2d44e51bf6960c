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
        recommended=Recommended(*[OPTIMIZER_UNKNOWN] * 4, None, OPTIMIZER_UNKNOWN.words, False, OPTIMIZER_UNKNOWN),
        alternatives=(Alternative("fromage", 0.0028, 0.06, 0.026), Alternative("muon", 0.003, NONE, NONE)),
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
    assert "To train at, another question: 0.00179, between 0.00089 and 0.0036" in summary(result)


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
        (Stability(0.0125, 2.4, from_minibatches=True), BEGINS),
    ],
)
def test_the_present_rate_is_held_against_todays_curvature_and_no_more(
    make_result: MakeResult, stability: Stability, words: str
) -> None:
    text = summary(make_result(stability=stability))
    assert f" gives way first). {words} To train at, " in text
    assert all(len(sentence.split()) <= 20 for sentence in re.split(r"(?<=[.:]) ", words))
    assert "ower the rate" not in text and "training is stable" not in text


def test_what_is_missing_is_said(make_result: MakeResult) -> None:
    result = make_result()
    rise = "No step size was found at which the loss must fall"
    assert f"{rise}, nor a rate from which on the loss rises." in summary(replace(result, limit=NOTHING))
    cut = (replace(result.estimates[0], name="critical", learning_rate=LIMIT_REACHED),)
    unknown = replace(result.optimizer, name=None)
    for unsought in (replace(result, estimates=cut), replace(result, optimizer=unknown)):
        assert f"{rise}. " in summary(replace(unsought, limit=NOTHING))
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
    typical = Recommended(
        0.0044, 0.01, LIMIT_REACHED, LIMIT_REACHED, "typical", LIMIT_REACHED.words, False, LIMIT_REACHED
    )
    assert "0.0044, typical and not measured here: a limit" in summary(replace(result, recommended=typical))
    none = replace(typical, learning_rate=NONE, reason="no study")
    assert "No rate to train at can be given: no study." in summary(replace(result, recommended=none))


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


def test_real_steps_are_drawn(make_result: MakeResult) -> None:
    runs = (
        VerifiedRun(0.3, 0.0003, (1.0, 0.8, 0.7), 1.1, 0.7),
        VerifiedRun(3.0, 0.003, (1.0, 4.0), 1.1, NONE),
    )
    text = page(make_result(verification=runs))
    assert "0.3 ×" in text and "inf" in text and "█" in text
    assert "#" in page(make_result(verification=runs), ascii_only=True) or "@" in page(
        make_result(verification=runs), ascii_only=True
    )


def test_the_page_in_ascii_has_every_number(make_result: MakeResult) -> None:
    text = page(make_result(), ascii_only=True, width=160)
    assert all(value in text for value in ("0.000963", "0.0114", "0.238 +- 0.03", "0.00179"))
