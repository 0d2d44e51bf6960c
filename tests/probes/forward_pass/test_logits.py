import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fromage_cli.probes.forward_pass import logits as logits_module
from fromage_cli.probes.forward_pass.logits import LogitsCall, LogitsWatcher
from fromage_cli.problem.evaluation.problem import Problem

Maker = Callable[..., Problem]


def watched(logits: Tensor, target: Tensor, **named: object) -> LogitsCall:
    with LogitsWatcher() as watcher:
        cross_entropy(logits, target, **named)
    (call,) = watcher.calls
    return call


@settings(max_examples=50, deadline=None)
@given(
    rows=st.integers(1, 4),
    classes=st.integers(1, 4),
    places=st.sampled_from([(), (3,), (2, 2)]),
    ignored=st.sampled_from([-100, 1]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    part=st.sampled_from([1, 1 << 22]),
    seed=st.integers(0, 1000),
)
def test_every_number_is_that_of_the_definition(
    rows: int, classes: int, places: tuple[int, ...], ignored: int, dtype: torch.dtype, part: int, seed: int
) -> None:
    torch.manual_seed(seed)
    logits = (3.0 * torch.randn(rows, classes, *places)).to(dtype)
    target = torch.randint(classes, (rows, *places))
    target = target.where(torch.rand(rows, *places) < 0.7, ignored)
    each = [row.double() for row in logits.movedim(1, -1)[target != ignored]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logits_module, "LARGEST_PART", part)
        if not each:
            with LogitsWatcher() as watcher:
                cross_entropy(logits, target, ignore_index=ignored)
            assert watcher.calls == []
            return
        found = watched(logits, target, ignore_index=ignored)
    log_z = [math.log(sum(math.exp(value) for value in row.tolist())) for row in each]
    mean = sum(log_z) / len(log_z)
    entropies = [float(-(row.softmax(0) * row.log_softmax(0)).sum()) for row in each]
    assert (found.rows, found.classes) == (len(each), classes)
    assert found.log_z_mean == pytest.approx(mean, rel=1e-5, abs=1e-5)
    spread = math.sqrt(sum((value - mean) ** 2 for value in log_z) / len(log_z))
    assert found.log_z_spread == pytest.approx(spread, rel=1e-4, abs=1e-5)
    assert found.largest_logit == max(float(row.abs().max()) for row in each)
    assert found.entropy == pytest.approx(sum(entropies) / len(entropies), rel=1e-5, abs=1e-5)


def test_logits_of_zero_are_guessing() -> None:
    found = watched(torch.zeros(6, 5), torch.zeros(6, dtype=torch.int64))
    assert found == LogitsCall(6, 5, pytest.approx(math.log(5)), 0.0, 0.0, pytest.approx(math.log(5)))


def test_a_class_that_is_ruled_out_is_no_large_logit() -> None:
    found = watched(torch.tensor([[-math.inf, 2.0, 2.0]]), torch.tensor([1]))
    assert found == LogitsCall(1, 3, pytest.approx(2.0 + math.log(2)), 0.0, 2.0, pytest.approx(math.log(2)))


def test_one_row_and_targets_that_are_probabilities() -> None:
    row = torch.tensor([1.0, 2.0, 3.0])
    assert watched(row, torch.tensor(2)) == watched(row[None], torch.tensor([2]))
    assert watched(row[None], torch.full((1, 3), 1 / 3)) == watched(row[None], torch.tensor([2]))


@pytest.mark.parametrize("form", ["function", "module", "by name"])
def test_the_value_of_the_loss_is_what_it_was(form: str) -> None:
    logits, target = torch.randn(4, 3, requires_grad=True), torch.randint(3, (4,))
    asked = {
        "function": lambda: cross_entropy(logits, target, label_smoothing=0.1),
        "module": lambda: nn.CrossEntropyLoss(label_smoothing=0.1)(logits, target),
        "by name": lambda: cross_entropy(target=target, input=logits, label_smoothing=0.1),
    }[form]
    with LogitsWatcher() as watcher:
        loss = asked()
    assert torch.equal(loss, asked())
    assert loss.requires_grad and len(watcher.calls) == 1


def test_the_loss_of_a_problem(make_problem: Maker, classification: dict[str, Tensor]) -> None:
    model = nn.Linear(8, 3)
    problem = make_problem(model, classification, micro_batch=8)
    with LogitsWatcher() as watcher:
        problem.value()
    assert [call.rows for call in watcher.calls] == [8, 8, 8, 8]
    log_z = model(classification["x"]).detach().logsumexp(1)
    assert sum(call.log_z_mean for call in watcher.calls) / 4 == pytest.approx(float(log_z.mean()), rel=1e-5)


def test_the_loss_that_hugging_face_builds() -> None:
    transformers = pytest.importorskip("transformers")
    settings = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 8, "bos_token_id": 0, "eos_token_id": 0}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=20, **settings)).eval()
    ids = torch.randint(20, (2, 6))
    labels = ids.clone()
    labels[1, 4:] = -100
    with torch.no_grad(), LogitsWatcher() as watcher:
        logits = model(ids, labels=labels).logits
    kept = torch.cat([logits[0, :5], logits[1, :3]])  # each place predicts the next
    (found,) = watcher.calls
    assert (found.rows, found.classes) == (8, 20)
    assert found.log_z_mean == pytest.approx(float(kept.logsumexp(1).mean()), rel=1e-5)
    assert found.largest_logit == pytest.approx(float(kept.abs().max()), rel=1e-6)


def test_log_probabilities_are_no_logits() -> None:
    with LogitsWatcher() as watcher:
        nn.functional.nll_loss(torch.randn(3, 4).log_softmax(1), torch.tensor([0, 1, 2]))
        torch.func.vmap(lambda x: cross_entropy(x, torch.tensor([0])))(torch.randn(2, 1, 3))
    assert watcher.calls == []
