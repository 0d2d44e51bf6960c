"""The opcodes that name classes and functions, call them and build objects: here they only say what would happen.

Source: Lib/pickletools.py of Python 3.11.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fromage_cli.checkpoints.pickles.literals import Instruction, text

if TYPE_CHECKING:
    from fromage_cli.checkpoints.pickles.machine import Machine


def build(machine: Machine) -> None:
    """Set attributes of what is below the state."""
    state = machine.stack.pop()
    machine.build(machine.stack[-1], state)


def named(machine: Machine) -> None:
    """Push a class or function by two lines: its module and its name."""
    module, name = text(machine.stream.line()), text(machine.stream.line())
    machine.stack.append(machine.find(module, name))


def named_on_stack(machine: Machine) -> None:
    """Push a class or function by the two texts on the stack; text of Python 2 may have any encoding."""
    name, module = machine.stack.pop(), machine.stack.pop()
    texts = [part.decode("latin-1") if isinstance(part, bytes) else part for part in (module, name)]
    if not all(isinstance(part, str) for part in texts):
        raise machine.stream.damaged("a name that is not a string")
    machine.stack.append(machine.find(*texts))


def extension(width: int) -> Instruction:
    """Return the opcode of a class by its number in a table of the writing process; here the number is its name."""
    return lambda machine: machine.stack.append(machine.find("copyreg", f"extension {machine.stream.unsigned(width)}"))


def reduce(machine: Machine) -> None:
    """Call what is below the arguments."""
    args = machine.stack.pop()
    machine.stack[-1] = machine.call(machine.stack[-1], args)


def new_object(machine: Machine) -> None:
    """Create an object of the class below the arguments."""
    args = machine.stack.pop()
    machine.stack[-1] = machine.call(machine.stack[-1], args, "create")


def new_object_with_names(machine: Machine) -> None:
    """Create an object likewise, with named arguments above the others."""
    kwargs, args = machine.stack.pop(), machine.stack.pop()
    machine.stack[-1] = machine.call(machine.stack[-1], args, "create", kwargs)


def instance(machine: Machine) -> None:
    """Create an object of a class given by two lines, of what stands above the mark."""
    kind = machine.find(text(machine.stream.line()), text(machine.stream.line()))
    args = tuple(machine.pop_mark())
    machine.stack.append(machine.call(kind, args, "create"))


def new_object_of_mark(machine: Machine) -> None:
    """Create an object of the class and the arguments above the mark."""
    items = machine.pop_mark()
    machine.stack.append(machine.call(items[0], tuple(items[1:]), "create"))


def persistent_line(machine: Machine) -> None:
    """Push what the writer kept elsewhere, under a name in a line."""
    machine.stack.append(machine.persistent(text(machine.stream.line())))


def persistent(machine: Machine) -> None:
    """Push what the writer kept elsewhere, under what is on the stack."""
    machine.stack.append(machine.persistent(machine.stack.pop()))
