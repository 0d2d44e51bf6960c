"""A network that torch compiles has the same gradients; other passes run as they were written."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch._inductor import cpp_builder
from torch._inductor.exc import InvalidCxxCompiler

from fromage_cli.errors import MismatchError, UsageError
from fromage_cli.problem.evaluation.curvature_operators import WeightSpace, hessian
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.evaluation.streamed_hessian import visit_hessian_vector_product
from fromage_cli.problem.networks.compilation import compile_network

Maker = Callable[..., Problem]


def products(problem: Problem) -> list[Tensor]:
    """What must not be compiled: a forward pass, and products of the Hessian."""
    space = WeightSpace(problem.receiving)
    vector = torch.linspace(-1, 1, sum(weight.numel() for weight in space.weights), dtype=space.weights[0].dtype)
    with hessian(problem, space) as product:
        found = [torch.tensor(problem.value()), product(vector)]
    parts = dict(zip([tensor.name for tensor in problem.receiving], space.split(vector), strict=True))
    streamed: dict[str, Tensor] = {}
    visit: Callable[..., None] = lambda tensor, part: streamed.__setitem__(tensor.name, part.clone())  # noqa: E731
    visit_hessian_vector_product(problem, problem.receiving, lambda tensor, _: parts[tensor.name], visit)
    return [*found, *streamed.values()]


def gradients(problem: Problem) -> list[Tensor]:
    return [torch.tensor(problem.base.loss), *problem.base.gradients.values()]


def network(backend: str = "aot_eager") -> nn.Module:
    """A perceptron that is compiled, by default without a compiler of C++."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Dropout(0.5), nn.Linear(16, 3))
    if backend != "none":
        torch.compiler.reset()
        compile_network(model, backend)
    return model


def captured() -> int:
    """How many calls of the network the compiler has taken so far."""
    return counters["stats"]["calls_captured"]


def test_gradients_are_compiled_and_nothing_else_is(make_problem: Maker, classification: dict[str, Tensor]) -> None:
    plain, problem = make_problem(network("none"), classification), make_problem(network(), classification)
    problem.compiled = True
    before = captured()
    for first, second in zip(products(plain), products(problem), strict=True):
        torch.testing.assert_close(second, first)
    taken = captured() - before
    problem.visit_gradient(lambda *_: None)
    assert taken > 0 and captured() == before + taken
    for first, second in zip(gradients(plain), gradients(problem), strict=True):
        torch.testing.assert_close(second, first)
    problem.compiled = False
    torch.compiler.reset()
    before = captured()
    _ = products(problem), problem.visit_gradient(lambda *_: None)
    assert captured() == before


def test_forward_passes_and_products_are_those_of_the_network_as_written(
    make_problem: Maker, classification: dict[str, Tensor]
) -> None:
    problem = make_problem(network(), classification, compiled=True)
    _ = problem.base
    before = captured()
    torch.compiler.reset()  # whatever is compiled from here on is captured anew
    assert all(part.isfinite().all() for part in products(problem))
    assert captured() == before


def test_in_training_mode_nothing_is_compiled(make_problem: Maker, classification: dict[str, Tensor]) -> None:
    plain, problem = (
        make_problem(network(backend), classification, mode="train", compiled=True) for backend in ("none", "aot_eager")
    )
    before = captured()
    for first, second in zip(gradients(plain), gradients(problem), strict=True):
        assert torch.equal(second, first)
    assert captured() == before


def test_torchs_own_compiler_gives_the_same_gradients(make_problem: Maker, classification: dict[str, Tensor]) -> None:
    model = network("none")
    torch.compiler.reset()
    compile_network(model)
    before = captured()
    found = gradients(make_problem(model, classification, compiled=True))
    assert captured() > before
    for first, second in zip(gradients(make_problem(network("none"), classification)), found, strict=True):
        torch.testing.assert_close(second, first, rtol=1e-5, atol=1e-7)


def test_without_a_compiler_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Any:
        raise InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", missing)
    with pytest.raises(UsageError, match=r"no C\+\+ compiler") as caught:
        compile_network(network("none"))
    assert caught.value.exit_code == 2


def test_a_script_is_refused() -> None:
    with pytest.raises(MismatchError, match="script"):
        compile_network(torch.jit.script(nn.Linear(2, 2)))
