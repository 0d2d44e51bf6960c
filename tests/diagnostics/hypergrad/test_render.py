from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from fromage_cli.diagnostics.hypergrad.render import advise, answers_table, header, headline, render
from fromage_cli.diagnostics.hypergrad.result import HypergradResult
from fromage_cli.missing import LEARNING_RATE_UNKNOWN, LIMIT_REACHED, Missing, Why
from tests.diagnostics.pages import compare, drawn

MakeResult = Callable[..., HypergradResult]
page = partial(drawn, render)
golden = partial(compare, Path(__file__).parent / "golden")


@pytest.mark.parametrize("width", [80, 160])
def test_the_page(make_result: MakeResult, width: int) -> None:
    golden(f"page-{width}.txt", page(make_result(), width))


def test_the_page_under_verbose_with_every_row(make_result: MakeResult) -> None:
    golden("verbose-100.txt", page(make_result(), 100, show_all=True, verbose=True))


def test_without_steps_there_is_no_column_for_them(make_result: MakeResult) -> None:
    result = make_result(steps=None, val_loss_after=LEARNING_RATE_UNKNOWN, learning_rate=LEARNING_RATE_UNKNOWN)
    assert "in 50 steps" not in page(result) and "settled" in page(result)


def test_why_no_resting_point_is_known(make_result: MakeResult) -> None:
    result, missing = make_result(), Missing(Why.NO_STATE, "it takes Adam's second moments")
    without = [
        replace(one, answers=(*one.answers[:2], replace(one.answers[2], gradient=missing)))
        for one in result.hyperparameters
    ]
    text = page(replace(result, hyperparameters=tuple(without)))
    assert "Settled is not known: it takes Adam's second moments." in text


def test_the_header(make_result: MakeResult) -> None:
    assert header(make_result()) == ("AdamW at 0.003", "256 validation rows")
    assert header(make_result(learning_rate=LEARNING_RATE_UNKNOWN, optimizer=None))[0] == ""


def test_what_to_do_now_is_the_move_that_promises_most(make_result: MakeResult) -> None:
    result = make_result()
    assert advise(result).startswith("Add label smoothing: 0.01 of it should lower the validation loss by 0.0090")
    unclear = replace(result, hyperparameters=result.hyperparameters[3:])
    assert advise(unclear).startswith("Do not act on dropout")
    kept = replace(result, hyperparameters=(replace(result.hyperparameters[0], direction="keep", advice="Leave it."),))
    assert advise(kept) == "Leave it."
    nothing = replace(result, hyperparameters=result.hyperparameters[-1:])
    assert advise(nothing).startswith("There is nothing to move")


def test_tables(make_result: MakeResult) -> None:
    result = make_result()
    table = answers_table(result)
    assert table.columns[:7] == ("name", "scope", "value", "method", "horizon", "gradient", "log_gradient")
    assert len(table.rows) == 3 * len(result.hyperparameters)
    names = [row[0] for row in headline(result).rows]
    assert names[:4] == ["val_loss", "val_loss_after", "train_loss", "steps"]
    assert {"weight_decay_direction", "label_smoothing_change", "dropout_direction"} <= set(names)
    assert "learning_rate_direction" not in names


def test_what_a_limit_left_out(make_result: MakeResult) -> None:
    assert "Validation loss" in page(make_result(val_loss_after=LIMIT_REACHED, copies=None))
