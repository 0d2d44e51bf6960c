from collections.abc import Callable

import pytest
import torch
from torch import nn

from fromage_cli.errors import UsageError
from fromage_cli.probes.trial_runs.training_rows import training_rows
from fromage_cli.problem.data.batches import as_batch
from fromage_cli.problem.evaluation.problem import Problem

Maker = Callable[..., Problem]
Data = dict[str, torch.Tensor]


def cut(data: Data, size: int) -> list[Data]:
    count = len(data["y"])
    return [{name: rows[k : k + size] for name, rows in data.items()} for k in range(0, count - size + 1, size)]


def test_rows_of_one_batch_are_cut_and_a_fifth_is_kept_apart(
    make_problem: Maker, perceptron: nn.Module, classification: Data
) -> None:
    problem = make_problem(perceptron, classification)
    rows = training_rows(problem)
    assert [batch.size for batch in rows.batches] == [6, 6, 6, 6]
    assert [batch.size for batch in rows.independent] == [6]
    assert torch.equal(rows.independent[0].data["x"], classification["x"][26:])
    assert rows.source == "4 chunks of 6 rows of one batch; losses on its other 6 rows"
    assert [batch.size for batch in training_rows(problem, 13).batches] == [13, 13]
    assert [batch.size for batch in training_rows(problem, 100).batches] == [26]


def test_several_batches_are_taken_as_they_are(
    make_problem: Maker, perceptron: nn.Module, classification: Data
) -> None:
    parts = tuple(as_batch(part, "loader") for part in cut(classification, 3))
    problem = make_problem(perceptron, cut(classification, 3)[0], further=parts[1:])
    rows = training_rows(problem, 100)
    assert [batch.size for batch in rows.batches] == [3] * 8
    assert [batch.size for batch in rows.independent] == [3, 3]
    assert rows.source == "8 batches; losses on 6 rows of 2 further batches"
    two = make_problem(perceptron, cut(classification, 3)[0], further=parts[1:2])
    assert training_rows(two).source == "1 batch; losses on 3 rows of another"


def test_one_row_is_refused(make_problem: Maker, perceptron: nn.Module, classification: Data) -> None:
    with pytest.raises(UsageError, match="the batch has one"):
        training_rows(make_problem(perceptron, cut(classification, 1)[0]))
