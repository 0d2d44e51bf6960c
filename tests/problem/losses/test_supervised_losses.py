from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fromage_cli.errors import MismatchError
from fromage_cli.problem.data.batches import as_batch
from fromage_cli.problem.losses.supervised_losses import (
    IGNORED,
    BinaryCrossEntropy,
    CrossEntropy,
    SquaredError,
    align_classes,
    align_elements,
    check_classes,
    check_probabilities,
    predict,
    prediction,
)


class Given(nn.Module):
    """Returns the batch's own input times one, so that every output can be tried."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.one.to(x.dtype)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def classes(count: int, *shape: int) -> Tensor:
    return torch.randint(count, shape, generator=torch.Generator().manual_seed(1))


def by_hand(logits: Tensor, target: Tensor) -> tuple[float, int]:
    """Σ −log softmax over rows of classes, one target after another."""
    total, count = 0.0, 0
    for row, label in zip(logits.reshape(-1, logits.shape[-1]), target.reshape(-1).tolist(), strict=True):
        if label != -100:
            total += float(torch.logsumexp(row, 0) - row[label])
            count += 1
    return total, count


IGNORING = torch.tensor([[1, -100, 2, 0, 1], [-100, -100, 0, 3, 2]])


@pytest.mark.parametrize(
    ("logits", "target", "class_dimension"),
    [
        (draw(6, 4), classes(4, 6), 1),
        (draw(6, 4), classes(4, 6, 1), 1),
        (draw(6, 4), classes(4, 6).to(torch.uint8), 1),
        (draw(2, 5, 4), classes(4, 2, 5), 2),
        (draw(2, 5, 4), IGNORING, 2),
        (draw(2, 4, 5), IGNORING, 1),
        (draw(2, 4, 5, 3), classes(4, 2, 5, 3), 1),
        (draw(10, 4), IGNORING, 1),
    ],
)
def test_cross_entropy_in_every_layout(logits: Tensor, target: Tensor, class_dimension: int) -> None:
    rows = logits.movedim(class_dimension, -1)
    expected, count = by_hand(rows, target.long())
    if logits.shape[0] == target.shape[0]:
        terms = CrossEntropy()(Given(), as_batch((logits, target), "here"))
        assert float(terms.total.detach()) == pytest.approx(expected, rel=1e-12)
        assert terms.count == count
    flat, labels = align_classes(logits, target)
    assert float(functional.cross_entropy(flat, labels, reduction="sum")) == pytest.approx(expected, rel=1e-12)


def test_class_probabilities() -> None:
    logits, probabilities = draw(6, 4), draw(6, 4).softmax(1)
    terms = CrossEntropy()(Given(), as_batch((logits, probabilities), "here"))
    assert float(terms.total.detach()) == pytest.approx(
        float(-(probabilities * logits.log_softmax(1)).sum()), rel=1e-12
    )
    assert terms.count == 6


@pytest.mark.parametrize(
    ("logits", "target", "words"),
    [
        (draw(6), classes(4, 6), "need a dimension"),
        (draw(6, 4), classes(4, 5), r"\[6, 4\] against targets \[5\]"),
        (draw(2, 4, 4), classes(4, 2, 4), "second or the last"),
        (draw(2, 4), draw(2), "class probabilities"),
        (draw(6, 4), classes(2, 6, 4), "expected"),
    ],
)
def test_layouts_that_do_not_fit(logits: Tensor, target: Tensor, words: str) -> None:
    with pytest.raises(MismatchError, match=words):
        align_classes(logits, target)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (torch.tensor([0, 4]), r"from 0 to 4, but the model has 4 classes \(0 to 3\)"),
        (torch.tensor([-1, 2]), "from -1 to 2"),
        (torch.tensor([1234567, -100]), "^All targets are 1234567, but the model has 4 classes"),
        (torch.tensor([-100, -100]), "Every target is -100"),
    ],
)
def test_classes_out_of_range(target: Tensor, words: str) -> None:
    with pytest.raises(MismatchError, match=words):
        check_classes(draw(2, 4), target)


@pytest.mark.parametrize(("target", "count"), [(torch.tensor([0, 3, -100]), 2), (draw(3, 4).softmax(1), 3)])
def test_classes_in_range_ignored_ones_and_probabilities_have_a_loss(target: Tensor, count: int) -> None:
    logits = draw(3, 4)
    check_classes(logits, target)
    terms = CrossEntropy()(Given(), as_batch((logits, target), "here"))
    assert terms.count == count
    assert float(terms.total.detach()) == pytest.approx(
        float(torch.nn.functional.cross_entropy(logits, target, reduction="sum").detach())
    )


def test_one_output_is_sent_to_binary_cross_entropy() -> None:
    with pytest.raises(MismatchError) as caught:
        check_classes(draw(2, 1), torch.tensor([0, 1]))
    assert "bce" in caught.value.hint


@pytest.mark.parametrize("shape", [(6,), (6, 1)])
def test_squared_error_counts_elements_and_never_broadcasts(shape: tuple[int, ...]) -> None:
    output, target = draw(6, 1), classes(5, *shape)
    terms = SquaredError()(Given(), as_batch((output, target), "here"))
    assert float(terms.total.detach()) == pytest.approx(float(((output.reshape(6) - target.reshape(6)) ** 2).sum()))
    assert terms.count == 6


def test_squared_error_of_several_outputs() -> None:
    output, target = draw(6, 3), draw(6, 3) + 1
    terms = SquaredError()(Given(), as_batch((output, target), "here"))
    assert (float(terms.total.detach()), terms.count) == (pytest.approx(18.0), 18.0)


@pytest.mark.parametrize(("output", "target"), [(draw(6, 3), draw(6)), (draw(6), draw(6, 2)), (draw(6, 2), draw(6, 1))])
def test_elements_that_do_not_pair_up(output: Tensor, target: Tensor) -> None:
    with pytest.raises(MismatchError, match="expected the same"):
        align_elements(output, target)


def test_complex_numbers_are_refused() -> None:
    with pytest.raises(MismatchError, match="complex"):
        align_elements(draw(2) * 1j, draw(2))


@pytest.mark.parametrize("kind", [torch.int64, torch.bool, torch.float64])
def test_binary_cross_entropy(kind: torch.dtype) -> None:
    output, target = draw(6, 1), classes(2, 6).to(kind)
    terms = BinaryCrossEntropy()(Given(), as_batch((output, target), "here"))
    p, t = output.reshape(6).sigmoid(), target.double()
    assert float(terms.total.detach()) == pytest.approx(
        float(-(t * p.log() + (1 - t) * (1 - p).log()).sum()), rel=1e-12
    )
    assert terms.count == 6


def test_probabilities_out_of_range() -> None:
    with pytest.raises(MismatchError, match="from 0 to 2, but bce expects 0 to 1"):
        check_probabilities(draw(2), torch.tensor([0, 2]))
    with pytest.raises(MismatchError, match=r"^All targets are -1, but bce expects 0 to 1"):
        check_probabilities(draw(2), torch.tensor([-1, -1]))
    check_probabilities(draw(2), torch.tensor([0, 1]))


@pytest.mark.parametrize(
    "output",
    [
        draw(2),
        (draw(2), None),
        {"logits": draw(2)},
        {"output": draw(2), "x": 1},
        SimpleNamespace(logits=draw(2), loss=None),
    ],
)
def test_where_a_prediction_is_found(output: Any) -> None:
    assert torch.equal(prediction(output), draw(2))


@pytest.mark.parametrize(
    ("output", "words"), [({"boxes": draw(2)}, "a dict with boxes"), (None, "a NoneType"), ((None, draw(2)), "a tuple")]
)
def test_outputs_without_a_prediction(output: Any, words: str) -> None:
    with pytest.raises(MismatchError, match=words):
        prediction(output)


def test_half_precision_is_summed_in_float32() -> None:
    assert prediction(draw(2).to(torch.bfloat16)).dtype is torch.float32


@pytest.mark.parametrize(
    ("data", "words"),
    [({"x": draw(2, 3)}, "no target: x float64"), ({"x": draw(2, 3), "y": [draw(2)]}, "a list as its target")],
)
def test_a_batch_without_a_target(data: Any, words: str) -> None:
    with pytest.raises(MismatchError, match=words):
        predict(Given(), as_batch(data, "here"))


def test_a_class_out_of_range_in_another_batch_is_no_traceback() -> None:
    with pytest.raises(MismatchError, match="computing the cross-entropy"):
        CrossEntropy()(Given(), as_batch((draw(2, 3), torch.tensor([0, 7])), "here"))


@pytest.mark.parametrize("ignored", [0, 1, 5, 6])
def test_what_is_counted_is_what_is_not_ignored(ignored: int) -> None:
    logits, target = torch.randn(6, 3, requires_grad=True), torch.arange(6) % 3
    target[:ignored] = IGNORED
    terms = CrossEntropy().terms(logits, target)
    assert terms.count == 6 - ignored
    exact = nn.functional.cross_entropy(logits[ignored:], target[ignored:], reduction="sum")
    assert float(terms.total.detach()) == pytest.approx(float(exact.detach()), abs=1e-6)


def test_of_no_targets_none_is_counted() -> None:
    assert CrossEntropy().terms(torch.randn(0, 3, requires_grad=True), torch.zeros(0, dtype=torch.long)).count == 0
