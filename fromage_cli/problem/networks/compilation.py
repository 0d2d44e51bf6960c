"""Networks that torch compiles for their gradients."""

from typing import Any

import torch
from torch import nn

from fromage_cli.errors import MismatchError, UsageError


def compile_network(model: nn.Module, backend: str = "inductor") -> None:
    """From now on torch compiles the network when it is first called, wherever an evaluation lets it.

    `Module.compile` would leave out networks that are made of torch's own modules alone. Raises UsageError
    where there is no C++ compiler, and MismatchError for a network that was scripted.
    """
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    if isinstance(model, torch.jit.ScriptModule):
        raise MismatchError("--compile: the network is a script, which torch does not compile.", "Leave --compile out.")
    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise UsageError("--compile found no C++ compiler.", "Install g++, or leave --compile out.") from error

    def call(*inputs: Any, **named: Any) -> Any:
        return model._call_impl(*inputs, **named)  # type: ignore[no-untyped-call]

    model._compiled_call_impl = torch.compile(call, backend=backend)
