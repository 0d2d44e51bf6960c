from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fromage_cli.errors import MismatchError, ResourceError
from fromage_cli.problem.data.batches import Batch, as_batch
from fromage_cli.problem.losses.call import call_model, inputs_and_targets, is_scalar, signature_text
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
        print("on its way")  # noqa: T201
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_memory_that_ran_out_in_the_model_is_a_matter_of_resources(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ResourceError, match="while running the model"):
        call_model(Hungry(), as_batch(A, "here"))
    assert capsys.readouterr() == ("", "on its way\n")


class Leaves(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise SystemExit(1)


def test_a_model_that_exits_does_not_end_the_program() -> None:
    with pytest.raises(MismatchError, match="SystemExit while running the model"):
        call_model(Leaves(), as_batch(A, "here"))


class WritesIntoItsInput(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(2.0)


class TakesItsInputApart(nn.Module):
    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return inputs.pop("left") + inputs.pop("right")


def test_every_evaluation_sees_the_same_batch_whatever_the_model_does_to_its_input() -> None:
    batch = as_batch({"x": A.clone(), "y": C}, "here")
    model = WritesIntoItsInput()
    assert [float(call_model(model, batch).mean()) for _ in range(3)] == [2.0, 2.0, 2.0]
    assert torch.equal(batch.data["x"], A)
    batch = as_batch(({"left": A, "right": B}, C), "here")
    assert [float(call_model(TakesItsInputApart(), batch).mean()) for _ in range(2)] == [3.0, 3.0]


def test_a_model_that_leaves_its_input_alone_is_given_no_more_copies() -> None:
    model, batch = Plain(), as_batch((A, C), "here")
    first, second = call_model(model, batch), call_model(model, batch)
    assert first.data_ptr() != batch.data[0].data_ptr()
    assert second is batch.data[0]


def test_a_scalar_is_one_floating_number_without_dimensions() -> None:
    assert is_scalar(torch.tensor(1.0))
    assert not any(map(is_scalar, (torch.ones(1), torch.tensor(1), 1.0, None)))
