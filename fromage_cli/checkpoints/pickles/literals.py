"""The opcodes of numbers and texts: what stands in a pickle itself, behind a length or up to the end of a line.

Source: Lib/pickletools.py of Python 3.11.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fromage_cli.checkpoints.pickles.machine import Machine

Instruction = Callable[["Machine"], Any]
"""What an opcode does."""
MOST_DIGITS = 4000
"""Digits of a whole number in a line: Python itself reads 4300."""
STRING_BYTES = 56
"""Memory that a short string takes."""
_FLOAT = struct.Struct(">d").unpack


def text(stored: bytes) -> str:
    """Return text as it is written since protocol 1."""
    return stored.decode("utf-8", "surrogatepass")


def old_text(stored: bytes) -> Any:
    """Return a string of Python 2: text where it is UTF-8, else bytes."""
    try:
        return stored.decode("utf-8")
    except UnicodeDecodeError:
        return stored


def length_prefixed(width: int, convert: Callable[[bytes], Any]) -> Instruction:
    """Return the opcode of bytes behind a length of `width` bytes."""

    def act(machine: Machine) -> None:
        stream = machine.stream
        length = stream.byte() if width == 1 else stream.unsigned(width)
        machine.push(convert(stream.take(length)), STRING_BYTES)

    return act


def constant(value: Any) -> Instruction:
    """Return the opcode that stands for a value."""
    return lambda machine: machine.stack.append(value)


def number(width: int, signed: bool = False) -> Instruction:
    """Return the opcode of a number of so many bytes."""
    return lambda machine: machine.stack.append(int.from_bytes(machine.stream.take(width), "little", signed=signed))


def long_integer(width: int) -> Instruction:
    """Return the opcode of a number whose length comes first, in `width` bytes."""

    def act(machine: Machine) -> None:
        length = machine.stream.unsigned(width)
        machine.check_digits(length)
        machine.push(int.from_bytes(machine.stream.take(length), "little", signed=True), length)

    return act


def digits(machine: Machine) -> bytes:
    """Return a line of digits; Python's reader in C looks no further than to a zero byte."""
    return machine.stream.line().partition(b"\0")[0]


def integer_line(machine: Machine) -> None:
    """Push a whole number in digits, decimal or with its base before it; 00 and 01 are False and True."""
    line = digits(machine).rstrip(b"L") or b"0"  # which strtol makes of a line that begins with a zero byte
    machine.check_digits(len(line) // 2)
    if len(line) > MOST_DIGITS:
        raise machine.stream.given_up(f"a whole number has more than {MOST_DIGITS} digits")
    try:
        value = line == b"01" if line in (b"00", b"01") else int(line, 0)
    except ValueError:
        value = int(line, 8)  # so does C's strtol where the first digit is zero
    machine.push(value, len(line))


def float_line(machine: Machine) -> None:
    """Push a number in digits."""
    machine.stack.append(float(digits(machine)))


def string_line(machine: Machine) -> None:
    """Push a quoted string of Python 2."""
    line = machine.stream.line()
    if len(line) < 2 or line[:1] not in b"'\"" or line[:1] != line[-1:]:
        raise machine.stream.damaged("a string without quotes")
    import codecs

    machine.push(old_text(codecs.escape_decode(line[1:-1])[0]), STRING_BYTES)


def unicode_line(machine: Machine) -> None:
    """Push a text up to the end of the line."""
    machine.push(machine.stream.line().decode("raw-unicode-escape"), STRING_BYTES)


def binary_float(machine: Machine) -> None:
    """Push the number in eight bytes, the sign first."""
    machine.stack.append(_FLOAT(machine.stream.take(8))[0])
