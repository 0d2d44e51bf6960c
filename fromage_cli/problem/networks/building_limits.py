"""What building a network may take: as much as its checkpoint accounts for, whatever a configuration says."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fromage_cli.errors import MismatchError

LEAST_PARAMETERS, LEAST_BUFFERS, MOST_TIMES = 1_000_000, 64_000_000, 2
"""Bytes that parameters and anything else may have, however few the checkpoint has; and how many times as many.

A network ties what the file may have twice, or once; its masks and tables of positions are in no file.
"""
LEAST_OPERATIONS, OPERATIONS_PER_TENSOR = 3000, 20
"""Operations that making and filling tensors may take; the library's families take two to four for each tensor."""


class BuildingLimits:
    """The limits of a network for a checkpoint of so many numbers and tensors; `what` begins a refusal."""

    def __init__(self, what: str, elements: int, tensors: int) -> None:
        self.what, self.elements = what, elements
        self.most_bytes = MOST_TIMES * 4 * elements  # in float32
        self.most_operations = max(LEAST_OPERATIONS, OPERATIONS_PER_TENSOR * tensors)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Raises MismatchError from what is built meanwhile, as soon as it makes too much."""

        def registered(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
            self.check((parameter,), LEAST_PARAMETERS)

        handle = register_module_parameter_registration_hook(registered)
        try:
            with _Watch(self):
                yield
        finally:
            handle.remove()

    def check_whole(self, model: nn.Module) -> None:
        """Raises MismatchError where parameters or buffers take too much together."""
        self.check(model.parameters(), LEAST_PARAMETERS)
        self.check(model.buffers(), LEAST_BUFFERS)

    def check(self, tensors: Iterable[Tensor], least: int) -> None:
        """Raises MismatchError where tensors take more than so many bytes, and than the checkpoint accounts for."""
        size = sum(tensor.untyped_storage().nbytes() for tensor in tensors)
        if size > max(least, self.most_bytes):
            raise self.refusal(f"of {size} bytes or more, but the checkpoint holds {self.elements} numbers")

    def refusal(self, size: str) -> MismatchError:
        """The error for a network of such a size."""
        hint = (
            "The model belongs to another checkpoint, or a file is damaged. If the checkpoint has "
            "several files, name its directory."
        )
        return MismatchError(f"{self.what} a network {size}.", hint)


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations, and looks at the memory of what each of them made."""

    def __init__(self, limits: BuildingLimits) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.limits, self.left = limits, limits.most_operations

    def __torch_dispatch__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        arguments: Any = (),
        named: Mapping[str, Any] | None = None,
    ) -> Any:
        """Runs one operation."""
        made = function(*arguments, **(named or {}))
        self.left -= 1
        if self.left < 0:
            raise self.limits.refusal("with far more layers than its checkpoint has tensors")
        for value in tree_leaves(made):
            if isinstance(value, Tensor):
                self.limits.check((value,), LEAST_BUFFERS)
        return made
