import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from fromage_cli.problem.conditions.replaced_calls import ReplacedCalls


def test_a_replacement_gets_what_the_function_was_given() -> None:
    given = []

    def noted(*args: object, **kwargs: object) -> str:
        given.append((args, kwargs))
        return "replaced"

    values = torch.arange(4.0)
    with ReplacedCalls({torch.sum: noted}):
        found = torch.sum(values, 0, keepdim=True)
        product = torch.mul(values, 2.0)
    assert found == "replaced" and given == [((values, 0), {"keepdim": True})]
    assert product.tolist() == [0.0, 2.0, 4.0, 6.0], "other functions are left alone"
    assert torch.sum(values).item() == 6.0, "after the block it is torch's own again"


def test_a_replacement_may_call_the_function_itself() -> None:
    def negated(values: Tensor, *settings: float) -> Tensor:
        return -functional.softplus(values, *settings)

    layer, values = nn.Softplus(), torch.tensor([-1.0, 2.0])
    expected = -layer(values)
    with ReplacedCalls({functional.softplus: negated}):
        assert torch.equal(layer(values), expected)


def test_what_an_inner_block_calls_an_outer_one_replaces() -> None:
    value = torch.tensor(3.0)
    with ReplacedCalls({torch.square: torch.neg}), ReplacedCalls({torch.abs: torch.square}):
        found = (torch.square(value), torch.abs(value), torch.neg(value))
    assert [one.item() for one in found] == [-3.0, -3.0, -3.0]
    with ReplacedCalls({torch.abs: torch.square}), ReplacedCalls({torch.square: torch.neg}):
        found = (torch.square(value), torch.abs(value), torch.neg(value))
    assert [one.item() for one in found] == [-3.0, 9.0, -3.0]


def test_after_an_error_nothing_is_replaced() -> None:
    with pytest.raises(ZeroDivisionError), ReplacedCalls({torch.neg: lambda _: 1 / 0}):
        torch.neg(torch.tensor(1.0))
    assert torch.neg(torch.tensor(1.0)).item() == -1.0


def test_what_a_backward_pass_runs_again_is_replaced_if_asked_for() -> None:
    values = torch.tensor([1.0, 2.0], requires_grad=True)
    with ReplacedCalls({torch.square: lambda x: 3.0 * x}, recomputed=True):
        sine = checkpoint(lambda x: torch.square(x).sin(), values, use_reentrant=False)
        (found,) = torch.autograd.grad(sine.sum(), values, retain_graph=True)
        sine.sum().backward()
    assert torch.allclose(found, 3.0 * (3.0 * values).cos())  # what the sine keeps was computed again
    assert torch.equal(values.grad, found)
    assert torch.square(torch.tensor(3.0)) == 9.0
