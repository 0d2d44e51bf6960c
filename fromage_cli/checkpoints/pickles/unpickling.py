"""A reader of pickles that runs nothing: every opcode is interpreted, every class and function stays a name.

Python's own unpickler imports the modules that a pickle names and calls what it finds there. This one knows a few
harmless constructors by name and does their work itself; all others become placeholders, which record what would have
happened. Memory and time are bounded by the length of the file's pickles. Source of the format: Lib/pickletools.py of
Python 3.11, protocols 0 to 5.
"""

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fromage_cli.checkpoints.pickles.allowance import Allowance
from fromage_cli.checkpoints.pickles.machine import STRIDE, Constructor, Machine
from fromage_cli.checkpoints.pickles.opcodes import OPCODES
from fromage_cli.checkpoints.pickles.pickle_stream import PickleStream
from fromage_cli.checkpoints.pickles.placeholders import Global
from fromage_cli.checkpoints.storage.stored_tensor import OutsideStorage

RULE_BREAKS = (IndexError, KeyError, TypeError, ValueError, OverflowError)
"""What a pickle that breaks its own rules makes the interpreter raise."""
STOP = 0x2E
"""The opcode that ends a pickle."""


@dataclass(frozen=True)
class PickledName(Global):
    """A class or function that a pickle names, and what an ordinary unpickler would do with it."""

    uses: tuple[str, ...]
    """Of `import`, which comes first, `call`, `create` (an instance), `build` (set its attributes).

    No pickler lets `run` (what it returned be called) or `change` (it itself, for the whole process).
    """


@dataclass(frozen=True)
class Unpickled:
    """What a pickle holds."""

    value: Any
    """Python's plain types, what constructors returned, `Global`s and `Placeholder`s."""
    names: tuple[PickledName, ...]
    """Every class and function it names, in the order of appearance."""
    end: int
    """Where it ends, in bytes from the start of the file."""


def unpickle(
    stream: PickleStream,
    constructors: Mapping[str, Constructor] | None = None,
    persistent: Callable[[Any], Any] | None = None,
    allowance: Allowance | None = None,
) -> Unpickled:
    """Read one pickle, without running anything.

    `constructors` by dotted name; `persistent` turns a persistent id into a value (PyTorch's storages);
    `allowance` is what is left for the pickles of its file; by default, what one of its length may take.
    Raises InputError for what is cut off, damaged, or beyond the limits.
    """
    machine = Machine(stream, constructors or {}, persistent, allowance or Allowance(stream.remaining))
    try:
        with garbage_collection_paused():
            value = run(machine)
    except RULE_BREAKS as error:
        raise stream.damaged(f"{type(error).__name__} ({str(error)[:100]})") from error
    except OutsideStorage as error:
        raise stream.damaged(f"a tensor does not fit into its storage: {error},") from error
    return Unpickled(value, names_of(machine), stream.position)


def run(machine: Machine) -> Any:
    """Interpret opcodes up to STOP; return what is then on the stack."""
    byte, opcodes = machine.stream.byte, OPCODES
    while True:
        machine.look_at_the_clock()
        machine.charge_stack()
        for _ in range(STRIDE):
            code = byte()
            if code == STOP:
                return machine.stack.pop()
            act = opcodes.get(code)
            if act is None:
                raise machine.stream.damaged(f"the unknown opcode {code:#04x}")
            act(machine)


@contextmanager
def garbage_collection_paused() -> Iterator[None]:
    """Search for no garbage meanwhile: so many objects are made that this would take most of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def names_of(machine: Machine) -> tuple[PickledName, ...]:
    """Return every class and function that a machine has met so far."""
    return tuple(PickledName(named.module, named.name, tuple(uses)) for named, uses in machine.uses.items())
