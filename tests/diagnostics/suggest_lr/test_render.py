from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from fromage_cli.diagnostics.suggest_lr.facts import said_by_page, trained_at
from fromage_cli.diagnostics.suggest_lr.findings import judge
from fromage_cli.diagnostics.suggest_lr.render import advise, render, sentences
from fromage_cli.diagnostics.suggest_lr.result import (
    Alternative,
    Limit,
    ProbeRun,
    Recommended,
    Stability,
    SuggestedRates,
    VerifiedRun,
)
from fromage_cli.missing import OPTIMIZER_UNKNOWN, Missing, Why
from fromage_cli.terminal.answer import Answer
from fromage_cli.terminal.show import page as whole_page
from tests.diagnostics.pages import compare, drawn

MakeResult = Callable[..., SuggestedRates]
page = partial(drawn, render)
golden = partial(compare, Path(__file__).parent / "golden")
NONE = Missing(Why.UNCERTIFIABLE, "no step size is sure to lower the loss")
NOTHING = Limit(NONE, NONE, None, "uncertifiable", None, None, NONE, False)


@pytest.mark.parametrize("width", [80, 160])
def test_the_page(make_result: MakeResult, width: int) -> None:
    golden(f"page-{width}.txt", page(make_result(), width))
    golden(f"verbose-{width}.txt", page(make_result(), width, verbose=True))


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


def test_layers_are_cut_short_the_one_that_fails_first_at_the_top(make_result: MakeResult) -> None:
    result = make_result()
    one_group = replace(result, optimizer=replace(result.optimizer, groups=result.optimizer.groups[:1]))
    short, whole = page(replace(one_group, probe=())), page(one_group, show_all=True)
    assert "6 more, to 0.002 or further: --all" in short
    rows = [line for line in short.splitlines() if line.startswith("blocks.")]
    assert rows[0].startswith("blocks.4 ") and len(rows) == 5
    assert "--all" not in whole and whole.count("≈") > short.count("≈")
    assert "how far each helps, of 11 layers: --all" in page(one_group)


def hugging_face(result: SuggestedRates) -> SuggestedRates:
    """As a network of the Trainer has it: long names, one parameter group, a rate that is known."""
    layers = tuple(
        replace(layer, name=f"transformer.h.{place}.attn.c_attn.weight") for place, layer in enumerate(result.layers)
    )
    return replace(
        result,
        layers=layers,
        limit=replace(result.limit, limiting_layer=layers[4].name, averaged=True),
        optimizer=replace(result.optimizer, groups=result.optimizer.groups[:1]),
        stability=Stability(0.0125, 0.24, diverged_from=0.2),
    )


def guessed(result: SuggestedRates) -> SuggestedRates:
    """As of the samples, whose batch is too small for short runs."""
    doubted = replace(result.recommended, reliable=False, reason="short runs had only parts of a batch")
    return replace(result, recommended=doubted, stability=Stability(0.0125, 0.24))


@pytest.mark.parametrize("change", [hugging_face, guessed, lambda result: guessed(hugging_face(result))])
def test_a_page_of_short_runs_is_one_screen(
    make_result: MakeResult, change: Callable[[SuggestedRates], SuggestedRates], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    result = change(make_result())
    place = ("checkpoint-1000/model", "GPT2LMHeadModel, 50 weight matrices", "16 rows")
    header = (*place, trained_at(result), "loss 5.24")
    answer = Answer(
        result, lambda style: render(result, style), header=header, findings=judge(result), advice=advise(result),
        told=said_by_page(result),
    )  # fmt: skip
    lines = whole_page(answer, None).splitlines()
    assert lines[0].endswith(" · loss 5.24") and any(line.startswith("What now: ") for line in lines[-2:])
    assert len(lines) <= 22, "a note beside the page takes one more line"
    assert all(len(line) <= 80 for line in lines)


def test_groups_stand_for_the_layers_on_a_default_page(make_result: MakeResult) -> None:
    short, whole = page(make_result(probe=())), page(make_result(), verbose=True)
    assert "no own limit" in short and "helps up to" not in short
    assert "of 11 layers and 2 parameter groups: --all" in page(make_result())
    first, second = make_result().optimizer.groups
    slower = replace(make_result().optimizer, groups=(first, replace(second, learning_rate=0.001)))
    assert "no own limit" in page(make_result(optimizer=slower))
    assert "helps up to a rate of" in whole and "Gradient noise scale: 150 (110 to 230) rows" in whole
    assert "110 or more" in page(replace(make_result(), noise_scale_high=NONE), verbose=True)


def test_what_is_unusual_of_the_step_is_said_before_the_numbers(make_result: MakeResult) -> None:
    result = make_result()
    assert sentences(result) == ["One step from here, as a learning rate of AdamW (2 steps tried):"]
    mean = replace(result, limit=replace(result.limit, averaged=True))
    assert sentences(mean)[0] == "“Sure” is said of the mean step over batches of 64 rows, not of each."
    filled = replace(result, points=(), optimizer=replace(result.optimizer, filled=True))
    assert sentences(filled) == ["One step from here, as a learning rate of AdamW, with momentum built up:"]


def test_one_step_and_training_are_two_blocks_of_the_same_columns(make_result: MakeResult) -> None:
    lines = page(make_result()).splitlines()
    assert lines[0] == "One step from here, as a learning rate of AdamW (2 steps tried):"
    place = lines.index("For training (22 short runs at a constant rate, 360 steps together):")
    assert lines[1].startswith("  Sure in every layer  0.000963  ") and lines[place + 1].startswith(
        "  Rate to train at     0.00179   "
    )
    assert "For training:" in page(make_result(probe=()))


def test_the_advice_is_the_rate_where_it_is_known(make_result: MakeResult) -> None:
    result = make_result()
    assert advise(result) == (
        "Your 0.003 is within the range (0.00089 to 0.0036): no reason to change it. "
        "A training rate may lie above the one-step limits."
    )
    far = replace(result, optimizer=replace(result.optimizer, current_learning_rate=0.1))
    assert advise(far).startswith("Train at 0.00179. ")
    high = replace(far, recommended=replace(result.recommended, learning_rate=0.02))
    assert "Warm up from below 0.0114" in advise(high)
    best = VerifiedRun(3.0, 0.005, (1.0,), 1.0, 0.5, 0.01, True)
    assert advise(replace(result, verification=(best,))).startswith("Train at 0.005")
    guess = replace(result, recommended=replace(result.recommended, reliable=False))
    assert advise(guess) == (
        "Try 0.00089, 0.0018 and 0.0036 (--verify 200 compares three rates), or give five training batches. "
        "A training rate may lie above the one-step limits."
    )
    alike = replace(guess, verification=(replace(best, best=False),))
    assert advise(alike).startswith("Try 0.00089, 0.0018 and 0.0036, or give five training batches.")
    assert "--optimizer adamw --lr 0.001" in advise(replace(result, optimizer=replace(result.optimizer, name=None)))


def test_every_rate_stands_once_with_a_column_for_each_length(make_result: MakeResult) -> None:
    """The mean of both seeds under its length, and half of how far they are apart."""
    lines = [line.split() for line in page(make_result(), 160, verbose=True).splitlines()]
    start = next(index for index, line in enumerate(lines) if line[:3] == ["short", "runs", "at"]) + 2
    assert lines[start - 2][4:] == ["loss", "after", "12", "steps", "loss", "after", "24", "steps", "±"]
    rows = lines[start : start + 11]
    assert [row[0] for row in rows] == sorted((row[0] for row in rows), key=float) and lines[start + 11][0] == "Losses"
    assert [row[1] for row in rows].count("—") == 4 and [row[2] for row in rows].count("—") == 7
    assert rows[-1][1:] == ["inf", "—", "—"], "the loss of a run that left the numbers has no spread"
    (close,) = [row for row in rows if float(row[0]) == pytest.approx(0.0017, rel=0.01)]
    assert float(close[2]) == pytest.approx(1.3 - 0.072 + 0.02 * 0.0556 + 0.002, rel=1e-3)
    assert (close[1], close[3]) == ("—", "0.002")
    assert "after 12 steps" not in page(make_result(probe=()))


def test_a_rate_of_two_lengths_shows_both_and_how_far_the_longer_are_apart(make_result: MakeResult) -> None:
    runs = [(12, 0, 0.9), (12, 1, 0.5), (24, 0, 0.6), (24, 1, 0.5)]
    text = page(make_result(probe=tuple(ProbeRun(0.25, loss, steps, seed) for steps, seed, loss in runs)), verbose=True)
    (row,) = [line.split() for line in text.splitlines() if line.split()[:1] == ["0.25"]]
    assert row == ["0.25", "0.7", "0.55", "0.05"]


def test_a_layer_that_the_search_passed_is_beyond_it(make_result: MakeResult) -> None:
    result = make_result()
    layers = (replace(result.layers[0], linear_trust_eta=0.001), *result.layers[1:])
    assert "> 0.000242" in page(replace(result, layers=layers), verbose=True)
    below = (replace(result.layers[0], trust_relation="below-grid"), *result.layers[1:])
    assert " none tried " in page(replace(result, layers=below), verbose=True)
    none = (replace(result.layers[0], trust_relation="uncertifiable"), *result.layers[1:])
    assert " none alone " in page(replace(result, layers=none), verbose=True, show_all=True)


def test_real_steps_are_drawn(make_result: MakeResult) -> None:
    runs = (
        VerifiedRun(1 / 3, 0.0003, (1.0, 0.8, 0.7), 1.1, 0.7, 0.01, True),
        VerifiedRun(3.0, 0.003, (1.0, 4.0), 1.1, NONE, NONE, False),
    )
    text = page(make_result(verification=runs), verbose=True)
    assert "verified rate" in text and "inf" in text and "█" in text
    plain = page(make_result(verification=runs), ascii_only=True, verbose=True)
    assert plain.isascii() and ("#" in plain or "@" in plain)


def test_the_page_in_ascii_has_every_number(make_result: MakeResult) -> None:
    text = page(make_result(), ascii_only=True, width=160, verbose=True)
    assert all(value in text for value in ("0.000963", "0.0114", "0.238 +- 0.03", "0.00179"))
