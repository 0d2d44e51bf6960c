"""What each opcode of a pickle does, to a machine that runs nothing.

Source: Lib/pickletools.py of Python 3.11, which describes every opcode; beside each stands its name there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fromage_cli.checkpoints.pickles.calls import (
    build,
    extension,
    instance,
    named,
    named_on_stack,
    new_object,
    new_object_of_mark,
    new_object_with_names,
    persistent,
    persistent_line,
    reduce,
)
from fromage_cli.checkpoints.pickles.literals import (
    Act,
    binary_float,
    constant,
    counted,
    float_line,
    integer_line,
    long_integer,
    number,
    old_text,
    string_line,
    text,
    unicode_line,
)

if TYPE_CHECKING:
    from fromage_cli.checkpoints.pickles.machine import Machine

CONTAINER = 64
"""Bytes that an empty list or dictionary takes."""


def _mark(machine: Machine) -> None:
    machine.charge(CONTAINER)
    machine.marks.append(machine.stack)
    machine.stack = []


def _pop(machine: Machine) -> None:
    if machine.stack:
        machine.stack.pop()
    else:
        machine.pop_mark()


def _dup(machine: Machine) -> None:
    machine.push(machine.stack[-1], 8)


def _short_tuple(count: int) -> Act:
    def act(machine: Machine) -> None:
        if len(machine.stack) < count:
            raise machine.stream.damaged("a tuple of more than there is")
        machine.charge(CONTAINER)
        machine.stack[-count:] = [tuple(machine.stack[-count:])]

    return act


def _gathered(make: Callable[[Machine, list[Any]], Any]) -> Act:
    """The opcode that turns everything since the last mark into one object."""

    def act(machine: Machine) -> None:
        items = machine.pop_mark()
        machine.push(make(machine, items), CONTAINER + 8 * len(items))

    return act


def _dictionary(machine: Machine, items: list[Any]) -> dict[Any, Any]:
    made: dict[Any, Any] = {}
    machine.store(made, items)
    return made


def _frozen(machine: Machine, items: list[Any]) -> frozenset[Any]:
    made: set[Any] = set()
    machine.extend(made, items)
    return frozenset(made)


def _append(machine: Machine) -> None:
    item = machine.stack.pop()
    machine.extend(machine.stack[-1], [item])


def _extend(machine: Machine) -> None:
    items = machine.pop_mark()
    machine.extend(machine.stack[-1], items)


def _set_item(machine: Machine) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    machine.store(machine.stack[-1], [key, value])


def _set_items(machine: Machine) -> None:
    pairs = machine.pop_mark()
    machine.store(machine.stack[-1], pairs)


def _put(index: Callable[[Machine], int]) -> Act:
    def act(machine: Machine) -> None:
        machine.put(index(machine))

    return act


def _get(index: Callable[[Machine], int]) -> Act:
    return lambda machine: machine.stack.append(machine.get(index(machine)))


def _index_line(machine: Machine) -> int:
    return int(machine.stream.line()[:20])


def _unsupported(what: str) -> Act:
    def act(machine: Machine) -> None:
        raise machine.stream.damaged(what)

    return act


def _nothing(count: int) -> Act:
    return lambda machine: machine.stream.take(count)


_BY_NAME: dict[bytes, Act] = {
    b"\x80": _nothing(1),  # PROTO
    b"\x95": _nothing(8),  # FRAME
    b"(": _mark,  # MARK
    b"0": _pop,  # POP
    b"1": lambda machine: machine.pop_mark(),  # POP_MARK
    b"2": _dup,  # DUP
    b"N": constant(None),  # NONE
    b"\x88": constant(True),  # NEWTRUE
    b"\x89": constant(False),  # NEWFALSE
    b"I": integer_line,  # INT
    b"L": integer_line,  # LONG
    b"J": number(4, signed=True),  # BININT
    b"K": lambda machine: machine.stack.append(machine.stream.byte()),  # BININT1
    b"M": number(2),  # BININT2
    b"\x8a": long_integer(1),  # LONG1
    b"\x8b": long_integer(4),  # LONG4
    b"F": float_line,  # FLOAT
    b"G": binary_float,  # BINFLOAT
    b"S": string_line,  # STRING
    b"T": counted(4, old_text),  # BINSTRING
    b"U": counted(1, old_text),  # SHORT_BINSTRING
    b"V": unicode_line,  # UNICODE
    b"X": counted(4, text),  # BINUNICODE
    b"\x8c": counted(1, text),  # SHORT_BINUNICODE
    b"\x8d": counted(8, text),  # BINUNICODE8
    b"B": counted(4, bytes),  # BINBYTES
    b"C": counted(1, bytes),  # SHORT_BINBYTES
    b"\x8e": counted(8, bytes),  # BINBYTES8
    b"\x96": counted(8, bytes),  # BYTEARRAY8
    b"\x97": _unsupported("a reference to a buffer outside of it"),  # NEXT_BUFFER
    b"\x98": _unsupported("a reference to a buffer outside of it"),  # READONLY_BUFFER
    b"]": lambda machine: machine.push([], CONTAINER),  # EMPTY_LIST
    b"}": lambda machine: machine.push({}, CONTAINER),  # EMPTY_DICT
    b")": constant(()),  # EMPTY_TUPLE
    b"\x8f": lambda machine: machine.push(set(), 4 * CONTAINER),  # EMPTY_SET
    b"l": _gathered(lambda machine, items: items),  # LIST
    b"t": _gathered(lambda machine, items: tuple(items)),  # TUPLE
    b"d": _gathered(_dictionary),  # DICT
    b"\x91": _gathered(_frozen),  # FROZENSET
    b"\x85": _short_tuple(1),  # TUPLE1
    b"\x86": _short_tuple(2),  # TUPLE2
    b"\x87": _short_tuple(3),  # TUPLE3
    b"a": _append,  # APPEND
    b"e": _extend,  # APPENDS
    b"\x90": _extend,  # ADDITEMS
    b"s": _set_item,  # SETITEM
    b"u": _set_items,  # SETITEMS
    b"b": build,  # BUILD
    b"c": named,  # GLOBAL
    b"\x93": named_on_stack,  # STACK_GLOBAL
    b"\x82": extension(1),  # EXT1
    b"\x83": extension(2),  # EXT2
    b"\x84": extension(4),  # EXT4
    b"R": reduce,  # REDUCE
    b"\x81": new_object,  # NEWOBJ
    b"\x92": new_object_with_names,  # NEWOBJ_EX
    b"i": instance,  # INST
    b"o": new_object_of_mark,  # OBJ
    b"P": persistent_line,  # PERSID
    b"Q": persistent,  # BINPERSID
    b"p": _put(_index_line),  # PUT
    b"q": _put(lambda machine: machine.stream.byte()),  # BINPUT
    b"r": _put(lambda machine: machine.stream.unsigned(4)),  # LONG_BINPUT
    b"\x94": _put(lambda machine: machine.memorised),  # MEMOIZE
    b"g": _get(_index_line),  # GET
    b"h": _get(lambda machine: machine.stream.byte()),  # BINGET
    b"j": _get(lambda machine: machine.stream.unsigned(4)),  # LONG_BINGET
}
OPCODES: dict[int, Act] = {ord(code): act for code, act in _BY_NAME.items()}
"""By first byte; STOP alone is missing, it ends the machine's run."""
