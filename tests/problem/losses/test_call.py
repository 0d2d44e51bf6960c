from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fromage_cli.errors import MismatchError, ResourceError
from fromage_cli.problem.data.batches import Batch, as_batch
from fromage_cli.problem.evaluation.curvature_operators import WeightSpace, hessian
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.losses.call import call_model, inputs_and_targets, signature_text
from fromage_cli.problem.losses.losses import resolve_loss
from fromage_cli.problem.losses.reported_losses import OutputLoss
from fromage_cli.problem.networks.layers import unwrapped

A, B, C = torch.full((2, 3), 1.0), torch.full((2, 3), 2.0), torch.tensor([0, 1])


class Plain(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return features


class Two(nn.Module):
    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return left + right


class Masked(nn.Module):
    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Any:
        return ids, mask


class WithTargets(nn.Module):
    def forward(self, idx: Tensor, targets: Tensor | None = None) -> Any:
        return idx, targets


class WithLabels(nn.Module):
    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None) -> Any:
        return input_ids, attention_mask, labels


class NeedsLabels(nn.Module):
    def forward(self, input_ids: Tensor, labels: Tensor) -> Any:
        return input_ids, labels


class Anything(nn.Module):
    def forward(self, **tensors: Tensor) -> Any:
        return sorted(tensors)


class WithDefault(nn.Module):
    def forward(self, features: Tensor, scale: float = 1.0) -> Tensor:
        return features * scale


class Positional(nn.Module):
    def forward(self, *tensors: Tensor) -> Any:
        return len(tensors)


def bound(model: nn.Module, data: Any) -> tuple[int, list[str], bool]:
    positional, named, target = inputs_and_targets(model, Batch(data, 2, "here"))
    return len(positional), sorted(named), target is C


@pytest.mark.parametrize(
    ("model", "data", "expected"),
    [
        (Plain(), A, (1, [], False)),
        (Plain(), {"x": A, "y": C}, (1, [], True)),
        (Plain(), {"inputs": A, "labels": C}, (1, [], True)),
        (Plain(), {"features": A, "target": C}, (0, ["features"], True)),
        (Plain(), {"input": A, "text": ["a", "b"]}, (1, [], False)),
        (Plain(), (A, C), (1, [], True)),
        (Plain(), [A], (1, [], False)),
        (Two(), (A, B), (2, [], False)),
        (Two(), (A, B, C), (2, [], True)),
        (Two(), {"left": A, "right": B, "y": C}, (0, ["left", "right"], True)),
        (Two(), ({"left": A, "right": B}, C), (0, ["left", "right"], True)),
        (Two(), {"inputs": {"left": A, "right": B}, "label": C}, (0, ["left", "right"], True)),
        (Two(), {"x": A, "right": B}, (1, ["right"], False)),
        (Masked(), (A, C), (1, [], True)),
        (Masked(), (A, B, C), (2, [], True)),
        (Masked(), {"ids": A, "mask": B, "targets": C}, (0, ["ids", "mask"], True)),
        (WithTargets(), {"x": A, "y": C}, (1, ["targets"], True)),
        (WithTargets(), (A, C), (2, [], True)),
        (WithTargets(), {"idx": A, "labels": C}, (0, ["idx"], True)),
        (
            WithLabels(),
            {"input_ids": A, "attention_mask": B, "labels": C},
            (0, ["attention_mask", "input_ids", "labels"], True),
        ),
        (WithLabels(), {"x": A, "label": C}, (1, ["labels"], True)),
        (WithLabels(), {"x": A, "y": C}, (1, [], True)),
        (WithLabels(), (A, C), (1, [], True)),
        (NeedsLabels(), {"x": A, "y": C}, (1, ["labels"], True)),
        (NeedsLabels(), (A, C), (2, [], True)),
        (Anything(), {"x": A, "ids": B, "y": C}, (0, ["ids", "x"], True)),
        (Positional(), (A, B, C), (2, [], True)),
        (Positional(), {"x": A}, (1, [], False)),
        (nn.Linear(3, 2), {"x": A, "y": C}, (1, [], True)),
    ],
)
def test_how_a_batch_is_bound(model: nn.Module, data: Any, expected: tuple[int, list[str], bool]) -> None:
    assert bound(model, data) == expected


@pytest.mark.parametrize(
    ("model", "data"),
    [
        (Plain(), {"pixels": A, "y": C}),
        (Plain(), {"x": A, "weights": B}),
        (Plain(), {"x": A, "inputs": B}),
        (Two(), {"left": A}),
        (Two(), A),
        (Two(), [A]),
        (Plain(), (A, B, C)),
        (Plain(), {"y": C}),
    ],
)
def test_what_cannot_be_bound_is_shown_with_the_signature(model: nn.Module, data: Any) -> None:
    with pytest.raises(MismatchError, match=r"does not match(?s:.*)batch: .*float32|int64") as caught:
        inputs_and_targets(model, Batch(data, 2, "here"))
    assert f"model: {type(model).__name__}.forward(" in caught.value.message
    assert len(caught.value.message.splitlines()) <= 4


def test_wrappers_show_the_signature_of_what_they_wrap() -> None:
    inner = WithTargets()
    assert unwrapped(nn.DataParallel(inner)) is inner
    compiled = torch.compile(inner)
    assert unwrapped(compiled) is inner  # type: ignore[arg-type]
    assert bound(compiled, {"x": A, "y": C}) == (1, ["targets"], True)  # type: ignore[arg-type]
    assert signature_text(compiled) == "WithTargets.forward(idx, targets=None)"  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_scripted_module_shows_its_arguments() -> None:
    scripted = torch.jit.script(WithDefault())
    assert signature_text(scripted).endswith(".forward(features, scale=1.0)")
    for data in (A, {"features": A, "y": C}, (A, C)):
        positional, named, _ = inputs_and_targets(scripted, as_batch(data, "here"))
        assert torch.equal(scripted(*positional, **named), A)


def test_the_model_is_called() -> None:
    assert torch.equal(call_model(Two(), as_batch((A, B), "here")), A + B)
    assert call_model(Anything(), as_batch({"x": A, "ids": B}, "here")) == ["ids", "x"]


def test_a_model_that_fails_is_quoted_with_shapes_and_signature() -> None:
    with pytest.raises(MismatchError) as caught:
        call_model(nn.Linear(5, 2), as_batch({"x": A, "y": C}, "here"))
    first, batch, model = caught.value.message.splitlines()
    assert first.startswith("The model failed on the batch: RuntimeError: mat1 and mat2 shapes")
    assert batch == "batch: x float32[2, 3], y int64[2]"
    assert model == "model: Linear.forward(input)"


class Hungry(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        print("between model and loss")  # noqa: T201
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_memory_that_ran_out_in_the_model_is_a_matter_of_resources(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ResourceError, match="while running the model"):
        call_model(Hungry(), as_batch(A, "here"))
    assert capsys.readouterr() == ("", "between model and loss\n")


class Leaves(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise SystemExit(1)


def test_a_model_that_exits_does_not_end_the_program() -> None:
    with pytest.raises(MismatchError, match="SystemExit while running the model"):
        call_model(Leaves(), as_batch(A, "here"))


def write_always(x: Tensor) -> Tensor:
    return x.mul_(2.0)


def write_where_gradients_are_wanted(x: Tensor) -> Tensor:
    return x.mul_(2.0) if torch.is_grad_enabled() else 2.0 * x


def write_without_gradients(x: Tensor) -> Tensor:
    with torch.no_grad():
        x.mul_(2.0)
    return x


def write_past_the_version_counter(x: Tensor) -> Tensor:
    x.data.mul_(2.0)
    return x


def write_through_numpy(x: Tensor) -> Tensor:
    x.numpy()[:] *= 2.0
    return x


def write_through_a_view(x: Tensor) -> Tensor:
    x.view(-1)[:].mul_(2.0)
    return x


def ask_for_a_gradient_of_the_input(x: Tensor) -> Tensor:
    return x.requires_grad_().mul(2.0)


def write_and_change_the_shape(x: Tensor) -> Tensor:
    return x.mul_(2.0).unsqueeze_(0)[0]


WRITERS = [
    write_always,
    write_where_gradients_are_wanted,
    write_without_gradients,
    write_past_the_version_counter,
    write_through_numpy,
    write_through_a_view,
    ask_for_a_gradient_of_the_input,
    write_and_change_the_shape,
]


class Writes(nn.Module):
    """w * the mean of the input doubled in some way: its gradient by w is that mean, which backward() reads."""

    def __init__(self, double: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.double_input = double
        self.w = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return (self.w * self.double_input(x)).mean()


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad])
@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_every_evaluation_sees_the_same_batch_however_the_model_writes_into_it(write: Any, mode: Any) -> None:
    model, batch = Writes(write), as_batch({"x": A, "y": C}, "here")
    for gradients in (torch.no_grad, mode, torch.enable_grad, mode):
        with gradients():
            assert call_model(model, batch).item() == 2.0
    assert torch.equal(batch.data["x"], A)
    assert torch.equal(A, torch.ones(2, 3))


@pytest.mark.parametrize("micro_batch", [None, 1, 2])
@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_losses_and_gradients_of_a_model_that_writes_are_those_of_one_that_does_not(
    write: Any, micro_batch: int | None
) -> None:
    rows = torch.arange(12.0).view(4, 3)
    batches = [as_batch(rows, "here"), as_batch(rows + 1.0, "here")]
    problem = Problem(Writes(write), OutputLoss(), batches[0], further=(batches[1],), micro_batch=micro_batch)
    for _ in range(2):
        gradients: dict[str, Tensor] = {}
        loss = problem.visit_gradient(lambda tensor, gradient: gradients.__setitem__(tensor.name, gradient))  # noqa: B023
        assert loss == problem.value() == 12.0
        assert torch.allclose(gradients["w"], 2.0 * (rows + 0.5).mean(0) / 3.0)


def test_a_second_derivative_through_a_model_that_writes() -> None:
    rows = torch.arange(1.0, 7.0).view(2, 3)
    batch = as_batch({"x": rows, "y": torch.zeros(2, 3)}, "here")

    class Scaled(Writes):
        def forward(self, x: Tensor) -> Tensor:
            return self.w * self.double_input(x)

    problem = Problem(Scaled(write_always), resolve_loss("mse", Scaled(write_always), batch), batch)
    with hessian(problem, WeightSpace(problem.trainable)) as product:
        for _ in range(2):
            assert torch.allclose(product(torch.ones(3)), (2.0 * rows).square().sum(0) / 3.0)
        assert problem.value() == pytest.approx(float((2.0 * rows).square().mean()))


def test_a_target_that_the_model_writes_into_is_compared_as_it_was() -> None:
    class Greedy(nn.Linear):
        def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
            if y is not None:
                y.zero_()
            return super().forward(x)

    torch.manual_seed(0)
    model, batch = Greedy(3, 2), as_batch({"x": A, "y": torch.ones(2, 2)}, "here")
    loss = resolve_loss("mse", model, batch)
    expected = float((nn.functional.linear(A, model.weight, model.bias) - 1.0).square().mean())
    for _ in range(3):
        terms = loss(model, batch)
        assert float(terms.total) / terms.count == pytest.approx(expected)


def test_the_same_tensor_as_input_and_target_is_two_tensors_to_the_model() -> None:
    class Encoder(Writes):
        def forward(self, x: Tensor) -> Tensor:
            return self.w * self.double_input(x)

    model, batch = Encoder(write_always), as_batch({"x": A, "y": A}, "here")
    loss = resolve_loss("mse", model, batch)
    assert [float(loss(model, batch).total) for _ in range(2)] == [6.0, 6.0]


class TakesItsInputApart(nn.Module):
    def forward(self, inputs: dict[str, Any]) -> Tensor:
        inputs["names"].pop()
        return inputs.pop("left") + inputs.pop("pair")[0].mul_(2.0)


def test_containers_are_as_new_in_every_call() -> None:
    batch = as_batch(({"left": A, "pair": (B, B), "names": ["a", "b"]}, C), "here")
    assert [float(call_model(TakesItsInputApart(), batch).mean()) for _ in range(2)] == [5.0, 5.0]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scripted_and_compiled_models_that_write() -> None:
    batch = as_batch(A, "here")
    for model in (torch.jit.script(nn.ReLU(inplace=True)), torch.compile(nn.ReLU(inplace=True), backend="eager")):
        below = as_batch(-A, "here")
        assert [float(call_model(model, below).sum()) for _ in range(2)] == [0.0, 0.0]  # type: ignore[arg-type]
        assert torch.equal(below.data, -A)
    assert torch.equal(batch.data, A)


def test_inference_tensors_and_arrays_that_others_hold_are_not_written_either() -> None:
    with torch.inference_mode():
        inference = torch.ones(2, 3)
    array = np.ones((2, 3), dtype=np.float32)
    for held in (inference, torch.from_numpy(array), A[:1].expand(2, 3), torch.ones(2, 6)[:, ::2]):
        batch = as_batch(held, "here")
        assert [call_model(Writes(write_without_gradients), batch).item() for _ in range(2)] == [2.0, 2.0]
        assert torch.equal(held, torch.ones(2, 3))
    assert (array == 1.0).all()


def test_a_batch_does_not_change_with_the_memory_that_it_came_from() -> None:
    array = np.ones((2, 3), dtype=np.float32)
    tensor = torch.ones(2, 3)
    batches = [as_batch(torch.from_numpy(array), "here"), as_batch(tensor, "here"), as_batch(array, "here")]
    array[:] = 7.0
    tensor.fill_(7.0)
    assert all(torch.equal(batch.data, A) for batch in batches)


def test_a_model_that_only_reads_is_given_no_copy() -> None:
    seen: list[bool] = []

    class Reads(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            seen.append(torch._C._is_cow_tensor(input))  # type: ignore[attr-defined]
            output = super().forward(input)
            seen.append(torch._C._is_cow_tensor(input))  # type: ignore[attr-defined]
            return output

    batch = as_batch({"x": A, "y": C}, "here")
    model = Reads(3, 2)
    problem = Problem(model, resolve_loss("cross-entropy", model, batch), batch)
    for _ in range(2):
        problem.visit_gradient(lambda *_: None)
    assert len(seen) == 6 and all(seen)


def test_how_a_batch_is_bound_is_remembered_for_each_model_and_no_longer_than_it_lives() -> None:
    batch = as_batch({"x": A, "y": C}, "here")
    model, other = Plain(), WithTargets()
    assert inputs_and_targets(model, batch) is inputs_and_targets(model, batch)
    assert sorted(inputs_and_targets(other, batch)[1]) == ["targets"]
    assert len(batch.bound) == 2
    del model
    assert len(batch.bound) == 1
    assert not batch.rows(0, 1).bound


def test_normalisation_over_a_single_row_has_its_own_remedy() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    with pytest.raises(MismatchError, match="more than 1 value per channel") as caught:
        resolve_loss("mse", model, as_batch({"x": torch.ones(1, 3), "y": torch.ones(1, 2)}, "here"))
    assert "--mode eval" in caught.value.hint and "more than one" in caught.value.hint
