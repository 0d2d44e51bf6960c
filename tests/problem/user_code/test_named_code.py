import inspect
import random

import numpy as np
import pytest
import torch

from fromage_cli.errors import InputError, MismatchError, ResourceError
from fromage_cli.problem.user_code.named_code import (
    check_arguments,
    first_line,
    named_code,
    out_of_memory,
    raised_here,
    seeded,
)


def test_an_exception_becomes_one_message_with_its_place() -> None:
    with (
        pytest.raises(
            MismatchError, match=r"KeyError while counting \(.*test_named_code.py:\d+\): 'missing'"
        ) as caught,
        named_code("counting"),
    ):
        {}["missing"]
    assert isinstance(caught.value.__cause__, KeyError)


def test_an_exception_from_our_own_lines_is_told_from_one_of_theirs() -> None:
    with pytest.raises(TypeError) as ours:
        check_arguments(lambda: None, (), 3, "--model")  # type: ignore[arg-type]
    with pytest.raises(KeyError) as theirs:
        {}["missing"]
    assert raised_here(ours.value)
    assert not raised_here(theirs.value)


def test_our_own_errors_and_those_let_through_stay_what_they_are() -> None:
    with pytest.raises(InputError), named_code("reading"):
        raise InputError("gone")
    with pytest.raises(KeyError), named_code("reading", passing=(KeyError,)):
        raise KeyError("gone")


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_memory_that_ran_out_is_a_matter_of_resources(error: Exception) -> None:
    assert out_of_memory(error)
    with pytest.raises(ResourceError, match="Out of memory while training"), named_code("training"):
        raise error


def test_the_user_can_still_interrupt() -> None:
    with pytest.raises(KeyboardInterrupt), named_code("waiting"):
        raise KeyboardInterrupt


def test_prints_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with named_code("talking"):
        print("words")  # noqa: T201
    assert capsys.readouterr() == ("", "words\n")


def test_the_first_line_of_a_message() -> None:
    assert first_line(ValueError("\n one\ntwo")) == "one"
    assert first_line(ValueError()) == "no message"


def make(width: int, depth: int = 2) -> None: ...


@pytest.mark.parametrize(
    ("named", "words"), [({"widht": 3}, "widht"), ({"width": 1, "extra": 2}, "extra"), ({}, "width")]
)
def test_wrong_arguments_come_with_the_signature(named: dict[str, int], words: str) -> None:
    with pytest.raises(MismatchError, match=rf"--model: .*{words}.*make\(width: int, depth: int = 2\)") as caught:
        check_arguments(make, (), named, "--model")
    assert "--model-arg" in caught.value.hint


def test_an_argument_may_be_given_once() -> None:
    check_arguments(make, (), {"width": 3}, "--model")
    check_arguments(make, (3,), {"depth": 1}, "--model")
    with pytest.raises(MismatchError, match="multiple values for argument 'width'"):
        check_arguments(make, (3,), {"width": 3}, "--model")


def test_a_function_without_a_signature_takes_what_it_is_given() -> None:
    with pytest.raises(ValueError, match="no signature"):
        inspect.signature(dict)
    check_arguments(dict, (), {"anything": 1}, "--model")


def test_a_seed_decides_every_generator_and_leaves_none_changed() -> None:
    def draw() -> tuple[float, float, float]:
        return torch.rand(()).item(), float(np.random.rand()), random.random()

    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    undisturbed = draw()
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    with seeded(1):
        first = draw()
    with seeded(1):
        second = draw()
    assert first == second
    assert draw() == undisturbed
