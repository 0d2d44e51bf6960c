"""A network or a loss as a graph in JSON's own types, by torch.export."""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fromage_cli.errors import FromageError, words_of
from fromage_cli.problem.graphs.encoding import NotExportable, arranged
from fromage_cli.problem.graphs.graph_writing import GraphWriter
from fromage_cli.problem.graphs.module_calls import Calls


@dataclass(frozen=True)
class Exported:
    """A graph and what it needs beside the network's own tensors."""

    graph: dict[str, Any]
    constants: dict[str, Tensor] = field(default_factory=dict)
    fixed: str = ""
    """Why it holds for this number of rows alone; empty where it holds for any."""


def export(
    network: nn.Module,
    call: Callable[..., Any],
    tensors: Sequence[Tensor],
    arguments: Any = None,
    constants: Mapping[str, Tensor] | None = None,
) -> Exported:
    """The graph of `call(network, *tensors)`, whose tensors share their first dimension, in the network's present mode.

    The result of `call` is any nesting of tensors, numbers and texts in dicts, lists and tuples; anything else in it is
    left out. `arguments`: how the network is called with them, as its arguments and its named ones, with
    `{"place": n}` for each tensor; None where `call` is more than that call. `constants`: those of the graphs of other
    modes, whose names are not used for other tensors. The graph holds for any number of rows where the code allows it.
    Raises NotExportable.
    """
    if not tensors:
        raise NotExportable("The network is called without a tensor of the batch.", "")
    rows = [torch.cat([tensor, tensor]) if len(tensor) == 1 else tensor.clone() for tensor in tensors]
    fixed = ""
    with Calls(network) as calls:
        whole = _Whole(network, call, calls)
        try:
            program = _program(whole, rows, torch.export.Dim("batch", min=1))
        except FromageError:
            raise
        except Exception as first:  # torch has many classes for what it cannot export
            if len(tensors[0]) == 1:
                rows = [tensor.clone() for tensor in tensors]
            fixed = _reason(first)
            try:
                program = _program(whole, rows, None)
            except FromageError:
                raise
            except Exception as error:
                raise NotExportable(
                    f"torch.export cannot make a graph of the network and its loss: {_reason(error)}",
                    "A step that depends on the values of tensors, as `if loss > 1`, is a frequent cause.",
                ) from error
    writer = GraphWriter(program, network, calls.last, constants or {})
    return Exported(writer.graph(calls.result, arguments), writer.constants, fixed)


def _reason(error: Exception) -> str:
    """The first line of an exception that says something; of torch's words on rows, what they mean."""
    lines = [line.strip() for line in words_of(error).splitlines() if line.strip()]
    if getattr(getattr(error, "error_type", None), "name", "") == "CONSTRAINT_VIOLATION":
        return "the code turns the number of rows into a plain number, as len(y) does"
    return (lines[0] if lines else type(error).__name__)[:200]


def _program(whole: nn.Module, rows: Sequence[Tensor], batch: Any) -> Any:
    """The exported program; what torch prints on the way is not shown."""
    shapes = None if batch is None else (tuple({0: batch} if tensor.dim() else None for tensor in rows),)
    names = tuple(
        name
        for name, module in whole.named_modules()
        if name and type(module).forward is not nn.Module.forward and not isinstance(module, torch.jit.ScriptModule)
    )
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()), _quiet():
        try:
            return torch.export.export(
                whole, tuple(rows), dynamic_shapes=shapes, strict=False, preserve_module_call_signature=names
            )
        except Exception:  # arguments that are no tensors and no plain values, such as a cache of keys
            return torch.export.export(whole, tuple(rows), dynamic_shapes=shapes, strict=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Torch's own log lines and warnings are not printed."""
    logger = logging.getLogger("torch")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


class _Whole(nn.Module):
    """A function of a network and tensors as a module, which returns a flat tuple of tensors."""

    def __init__(self, network: nn.Module, call: Callable[..., Any], calls: "Calls") -> None:
        super().__init__()
        self.network = network
        self._call, self._calls = call, calls

    def forward(self, *tensors: Tensor) -> tuple[Any, ...]:
        """The tensors in what the function returns; how they are arranged is noted beside the calls."""
        found: list[Any] = []
        self._calls.begin()
        self._calls.result = arranged(self._call(self.network, *tensors), found)
        return tuple(found)
