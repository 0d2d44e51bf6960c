"""What each opcode of a pickle does, to a machine that runs nothing.

Source: Lib/pickletools.py of Python 3.11, which describes every opcode; beside each stands its name there.
"""

from collections.abc import Callable
from typing import Any

from fromage_cli.checkpoints.pickles import calls, literals
from fromage_cli.checkpoints.pickles.literals import Instruction
from fromage_cli.checkpoints.pickles.machine import CONTAINER_BYTES, Machine


def _short_tuple(count: int) -> Instruction:
    return lambda machine: machine.push(tuple(machine.pop(count)), CONTAINER_BYTES)


def _gathered(make: Callable[[Machine, list[Any]], Any]) -> Instruction:
    """Return the opcode that turns everything since the last mark into one object."""

    def act(machine: Machine) -> None:
        items = machine.pop_mark()
        machine.push(make(machine, items), CONTAINER_BYTES + 8 * len(items))

    return act


def _into_last(put: Callable[[Machine, Any, list[Any]], Any], pop: Callable[[Machine], list[Any]]) -> Instruction:
    """Return the opcode that puts values from the stack into the container below them."""

    def act(machine: Machine) -> None:
        items = pop(machine)
        put(machine, machine.stack[-1], items)

    return act


def _extend(machine: Machine, target: Any, items: list[Any]) -> None:
    machine.extend(target, items)


def _store(machine: Machine, target: Any, pairs: list[Any]) -> None:
    machine.store(target, pairs)


def _put(index: Callable[[Machine], int]) -> Instruction:
    return lambda machine: machine.put(index(machine))


def _get(index: Callable[[Machine], int]) -> Instruction:
    return lambda machine: machine.stack.append(machine.get(index(machine)))


def _index_line(machine: Machine) -> int:
    return int(literals.digits(machine))


_BY_CODE: dict[bytes, Instruction] = {
    b"\x80": lambda machine: machine.stream.byte(),  # PROTO
    b"\x95": lambda machine: machine.stream.begin_frame(machine.stream.unsigned(8)),  # FRAME
    b"(": Machine.mark,  # MARK
    b"0": Machine.drop,  # POP
    b"1": Machine.pop_mark,  # POP_MARK
    b"2": lambda machine: machine.push(machine.stack[-1], 8),  # DUP
    b"N": literals.constant(None),  # NONE
    b"\x88": literals.constant(True),  # NEWTRUE
    b"\x89": literals.constant(False),  # NEWFALSE
    b"I": literals.integer_line,  # INT
    b"L": literals.integer_line,  # LONG
    b"J": literals.number(4, signed=True),  # BININT
    b"K": lambda machine: machine.stack.append(machine.stream.byte()),  # BININT1
    b"M": literals.number(2),  # BININT2
    b"\x8a": literals.long_integer(1),  # LONG1
    b"\x8b": literals.long_integer(4),  # LONG4
    b"F": literals.float_line,  # FLOAT
    b"G": literals.binary_float,  # BINFLOAT
    b"S": literals.string_line,  # STRING
    b"T": literals.length_prefixed(4, literals.old_text),  # BINSTRING
    b"U": literals.length_prefixed(1, literals.old_text),  # SHORT_BINSTRING
    b"V": literals.unicode_line,  # UNICODE
    b"X": literals.length_prefixed(4, literals.text),  # BINUNICODE
    b"\x8c": literals.length_prefixed(1, literals.text),  # SHORT_BINUNICODE
    b"\x8d": literals.length_prefixed(8, literals.text),  # BINUNICODE8
    b"B": literals.length_prefixed(4, bytes),  # BINBYTES
    b"C": literals.length_prefixed(1, bytes),  # SHORT_BINBYTES
    b"\x8e": literals.length_prefixed(8, bytes),  # BINBYTES8
    b"\x96": literals.length_prefixed(8, bytes),  # BYTEARRAY8
    b"\x97": lambda machine: machine.stack.append(machine.buffer()),  # NEXT_BUFFER
    b"\x98": lambda machine: machine.stack[-1],  # READONLY_BUFFER
    b"]": lambda machine: machine.push([], CONTAINER_BYTES),  # EMPTY_LIST
    b"}": lambda machine: machine.push({}, CONTAINER_BYTES),  # EMPTY_DICT
    b")": literals.constant(()),  # EMPTY_TUPLE
    b"\x8f": lambda machine: machine.push(set(), 4 * CONTAINER_BYTES),  # EMPTY_SET
    b"l": _gathered(lambda machine, items: items),  # LIST
    b"t": _gathered(lambda machine, items: tuple(items)),  # TUPLE
    b"d": _gathered(lambda machine, items: machine.store({}, items)),  # DICT
    b"\x91": _gathered(lambda machine, items: frozenset(machine.extend(set(), items))),  # FROZENSET
    b"\x85": _short_tuple(1),  # TUPLE1
    b"\x86": _short_tuple(2),  # TUPLE2
    b"\x87": _short_tuple(3),  # TUPLE3
    b"a": _into_last(_extend, lambda machine: machine.pop(1)),  # APPEND
    b"e": _into_last(_extend, Machine.pop_mark),  # APPENDS
    b"\x90": _into_last(_extend, Machine.pop_mark),  # ADDITEMS
    b"s": _into_last(_store, lambda machine: machine.pop(2)),  # SETITEM
    b"u": _into_last(_store, Machine.pop_mark),  # SETITEMS
    b"b": calls.build,  # BUILD
    b"c": calls.named,  # GLOBAL
    b"\x93": calls.named_on_stack,  # STACK_GLOBAL
    b"\x82": calls.extension(1),  # EXT1
    b"\x83": calls.extension(2),  # EXT2
    b"\x84": calls.extension(4),  # EXT4
    b"R": calls.reduce,  # REDUCE
    b"\x81": calls.new_object,  # NEWOBJ
    b"\x92": calls.new_object_with_names,  # NEWOBJ_EX
    b"i": calls.instance,  # INST
    b"o": calls.new_object_of_mark,  # OBJ
    b"P": calls.persistent_line,  # PERSID
    b"Q": calls.persistent,  # BINPERSID
    b"p": _put(_index_line),  # PUT
    b"q": _put(lambda machine: machine.stream.byte()),  # BINPUT
    b"r": _put(lambda machine: machine.stream.unsigned(4)),  # LONG_BINPUT
    b"\x94": _put(lambda machine: machine.memorised),  # MEMOIZE
    b"g": _get(_index_line),  # GET
    b"h": _get(lambda machine: machine.stream.byte()),  # BINGET
    b"j": _get(lambda machine: machine.stream.unsigned(4)),  # LONG_BINGET
}
OPCODES: dict[int, Instruction] = {ord(code): act for code, act in _BY_CODE.items()}
"""By first byte; STOP alone is missing, it ends the machine's run."""
