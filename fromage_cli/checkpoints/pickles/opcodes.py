"""What each opcode of a pickle does, to a machine that runs nothing.

Source: Lib/pickletools.py of Python 3.11, which describes every opcode; beside each stands its name there.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fromage_cli.checkpoints.pickles.machine import Machine

Act = Callable[["Machine"], Any]
LONGEST_INTEGER = 128
"""Bytes; longer ones are no setting of anything."""
CONTAINER, TEXT = 64, 56
"""Bytes that an empty list or dictionary and a short string take."""
_FLOAT = struct.Struct(">d").unpack


def _text(stored: bytes) -> str:
    return stored.decode("utf-8", "surrogatepass")


def _old_text(stored: bytes) -> Any:
    """A string of Python 2: text where it is UTF-8, else bytes."""
    try:
        return stored.decode("utf-8")
    except UnicodeDecodeError:
        return stored


def _counted(width: int, convert: Callable[[bytes], Any]) -> Act:
    """The opcode of bytes behind a length of `width` bytes."""

    def act(machine: Machine) -> None:
        stream = machine.stream
        length = stream.byte() if width == 1 else stream.unsigned(width)
        machine.push(convert(stream.take(length)), TEXT)

    return act


def _constant(value: Any) -> Act:
    return lambda machine: machine.stack.append(value)


def _number(width: int, signed: bool = False) -> Act:
    return lambda machine: machine.stack.append(int.from_bytes(machine.stream.take(width), "little", signed=signed))


def _long(width: int) -> Act:
    def act(machine: Machine) -> None:
        length = machine.stream.unsigned(width)
        if length > LONGEST_INTEGER:
            raise machine.stream.damaged(f"an integer of {length} bytes")
        machine.push(int.from_bytes(machine.stream.take(length), "little", signed=True), 0)

    return act


def _integer_line(machine: Machine) -> None:
    line = machine.stream.line().rstrip(b"L")
    if len(line) > 2 * LONGEST_INTEGER:
        raise machine.stream.damaged(f"an integer of {len(line)} digits")
    machine.stack.append(line == b"01" if line in (b"00", b"01") else int(line))


def _float_line(machine: Machine) -> None:
    machine.stack.append(float(machine.stream.line()))


def _string_line(machine: Machine) -> None:
    line = machine.stream.line()
    if len(line) < 2 or line[:1] not in b"'\"" or line[:1] != line[-1:]:
        raise machine.stream.damaged("a string without quotes")
    import codecs

    machine.push(_old_text(codecs.escape_decode(line[1:-1])[0]), TEXT)


def _unicode_line(machine: Machine) -> None:
    machine.push(machine.stream.line().decode("raw-unicode-escape"), TEXT)


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


def _build(machine: Machine) -> None:
    state = machine.stack.pop()
    machine.build(machine.stack[-1], state)


def _global(machine: Machine) -> None:
    module, name = _text(machine.stream.line()), _text(machine.stream.line())
    machine.stack.append(machine.find(module, name))


def _stack_global(machine: Machine) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        raise machine.stream.damaged("a name that is no text")
    machine.stack.append(machine.find(module, name))


def _extension(width: int) -> Act:
    """A class by its number in a table of the process that wrote it; here it is the number's name."""
    return lambda machine: machine.stack.append(machine.find("copyreg", f"extension {machine.stream.unsigned(width)}"))


def _reduce(machine: Machine) -> None:
    args = machine.stack.pop()
    machine.stack[-1] = machine.call(machine.stack[-1], args)


def _new_object(machine: Machine) -> None:
    args = machine.stack.pop()
    machine.stack[-1] = machine.call(machine.stack[-1], args, "create")


def _new_object_with_names(machine: Machine) -> None:
    kwargs, args = machine.stack.pop(), machine.stack.pop()
    if not isinstance(kwargs, dict):
        raise machine.stream.damaged("named arguments that are no dictionary")
    machine.stack[-1] = machine.call(machine.stack[-1], args, "create", kwargs)


def _instance(machine: Machine) -> None:
    module, name = _text(machine.stream.line()), _text(machine.stream.line())
    args = tuple(machine.pop_mark())
    machine.stack.append(machine.call(machine.find(module, name), args, "create"))


def _object(machine: Machine) -> None:
    items = machine.pop_mark()
    machine.stack.append(machine.call(items[0], tuple(items[1:]), "create"))


def _persistent_line(machine: Machine) -> None:
    machine.stack.append(machine.persistent(_text(machine.stream.line())))


def _persistent(machine: Machine) -> None:
    machine.stack.append(machine.persistent(machine.stack.pop()))


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
    b"N": _constant(None),  # NONE
    b"\x88": _constant(True),  # NEWTRUE
    b"\x89": _constant(False),  # NEWFALSE
    b"I": _integer_line,  # INT
    b"L": _integer_line,  # LONG
    b"J": _number(4, signed=True),  # BININT
    b"K": lambda machine: machine.stack.append(machine.stream.byte()),  # BININT1
    b"M": _number(2),  # BININT2
    b"\x8a": _long(1),  # LONG1
    b"\x8b": _long(4),  # LONG4
    b"F": _float_line,  # FLOAT
    b"G": lambda machine: machine.stack.append(_FLOAT(machine.stream.take(8))[0]),  # BINFLOAT
    b"S": _string_line,  # STRING
    b"T": _counted(4, _old_text),  # BINSTRING
    b"U": _counted(1, _old_text),  # SHORT_BINSTRING
    b"V": _unicode_line,  # UNICODE
    b"X": _counted(4, _text),  # BINUNICODE
    b"\x8c": _counted(1, _text),  # SHORT_BINUNICODE
    b"\x8d": _counted(8, _text),  # BINUNICODE8
    b"B": _counted(4, bytes),  # BINBYTES
    b"C": _counted(1, bytes),  # SHORT_BINBYTES
    b"\x8e": _counted(8, bytes),  # BINBYTES8
    b"\x96": _counted(8, bytes),  # BYTEARRAY8
    b"\x97": _unsupported("a reference to a buffer outside of it"),  # NEXT_BUFFER
    b"\x98": _unsupported("a reference to a buffer outside of it"),  # READONLY_BUFFER
    b"]": lambda machine: machine.push([], CONTAINER),  # EMPTY_LIST
    b"}": lambda machine: machine.push({}, CONTAINER),  # EMPTY_DICT
    b")": _constant(()),  # EMPTY_TUPLE
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
    b"b": _build,  # BUILD
    b"c": _global,  # GLOBAL
    b"\x93": _stack_global,  # STACK_GLOBAL
    b"\x82": _extension(1),  # EXT1
    b"\x83": _extension(2),  # EXT2
    b"\x84": _extension(4),  # EXT4
    b"R": _reduce,  # REDUCE
    b"\x81": _new_object,  # NEWOBJ
    b"\x92": _new_object_with_names,  # NEWOBJ_EX
    b"i": _instance,  # INST
    b"o": _object,  # OBJ
    b"P": _persistent_line,  # PERSID
    b"Q": _persistent,  # BINPERSID
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
