"""The list of operators: what is on it is torch's, and what could leave the graph is not on it."""

from typing import Any

import pytest
import torch

from fromage_cli.errors import UnsafeError
from fromage_cli.problem.graphs.operators import find_operator, is_allowed


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("aten.add.Tensor", (torch.tensor(1.0), torch.tensor(2.0)), torch.tensor(3.0)),
        ("aten.linear.default", (torch.ones(1, 2), torch.ones(3, 2), torch.ones(3)), torch.full((1, 3), 3.0)),
        ("aten.mse_loss.default", (torch.ones(2), torch.zeros(2)), torch.tensor(1.0)),
        ("aten.mse_loss.default", (torch.ones(2), torch.zeros(2), 2), torch.tensor(2.0)),
        ("aten.nll_loss_nd.default", (torch.zeros(1, 2), torch.tensor([1])), torch.tensor(0.0)),
        ("aten.cross_entropy_loss.default", (torch.zeros(2, 1), torch.tensor([0, 0]), None, 0), torch.zeros(2)),
        ("operator.floordiv", (7, 2), 3),
        ("math.ceil", (1.5,), 2),
    ],
)
def test_an_operator_computes_what_its_name_says(name: str, arguments: tuple[object, ...], expected: object) -> None:
    found = find_operator(name)(*arguments)
    assert torch.equal(torch.as_tensor(found), torch.as_tensor(expected))


@pytest.mark.parametrize("weight", [None, torch.tensor([1.0, 2.0, 3.0])])
@pytest.mark.parametrize("reduction", [0, 1, 2])
def test_a_loss_is_that_of_torchs_operator(weight: torch.Tensor | None, reduction: int) -> None:
    scores, targets = torch.randn(5, 3), torch.tensor([0, 1, 2, -100, 1])
    for name, given in (("cross_entropy_loss", (scores,)), ("nll_loss_nd", (scores.log_softmax(-1),))):
        expected = getattr(torch.ops.aten, name).default(*given, targets, weight, reduction)
        assert torch.equal(find_operator(f"aten.{name}.default")(*given, targets, weight, reduction), expected)


def overloads(name: str) -> list[str]:
    packet = getattr(torch.ops.aten, name, None)
    return packet.overloads() if packet is not None else []


def test_what_reads_files_or_memory_is_not_on_the_list() -> None:
    """Nor is an overload that writes its result into an argument."""
    outside = ("from_file", "set_", "set", "resize", "resize_", "_resize_output", "data", "to_mkldnn", "record_stream")
    names = [f"aten.{name}.{each}" for name in outside for each in overloads(name)]
    assert len(names) > 10
    names += [f"aten.{name}.{each}" for name in ("add", "mm", "cat") for each in ("out", "Tensor_out", "names_out")]
    assert [name for name in names if is_allowed(name)] == []


def allowed() -> list[Any]:
    """The schemas of all overloads on the list."""
    found = []
    for schema in torch._C._jit_get_all_schemas():
        name = f"{schema.name.replace('aten::', 'aten.')}.{schema.overload_name or 'default'}"
        found += [schema] if schema.name.startswith("aten::") and is_allowed(name) else []
    return found


def test_no_operator_on_the_list_takes_a_storage_a_stream_or_a_function() -> None:
    kinds = {str(argument.type) for schema in allowed() for argument in schema.arguments}
    assert len(allowed()) > 500
    assert not [kind for kind in kinds if any(word in kind for word in ("Storage", "Stream", "Callable", "class"))]


def test_every_operator_on_the_list_is_one_of_tensors_and_numbers() -> None:
    """Texts choose among ways to compute, and lists of numbers are shapes."""
    arguments = [argument for schema in allowed() for argument in schema.arguments]
    assert {str(argument.type) for argument in arguments if "List[t]" in str(argument.type)} == set()
    assert {argument.name for argument in arguments if "str" in str(argument.type)} <= {
        *("approximate", "equation", "indexing", "mode", "norm", "ord", "pad_mode", "reduce", "rounding_mode"),
        *("interpolation", "padding", "A", "side", "UPLO", "out_mode"),
    }


@pytest.mark.parametrize("name", ["aten.mean", "aten", "torch.add", "operator", "math.", "builtins.open", "add.Tensor"])
def test_another_name_is_refused(name: str) -> None:
    with pytest.raises(UnsafeError, match="not in the list") as raised:
        find_operator(name)
    assert "Nothing was run" in raised.value.hint
    assert not is_allowed(name)
