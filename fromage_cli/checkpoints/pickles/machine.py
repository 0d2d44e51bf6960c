"""The stack machine of pickles, in which classes and functions stay names and limits hold.

A pickle is a program for a small machine with a stack, marks on it and a memo. `opcodes.py` says what each instruction
does; here is what they work on.
"""

import contextlib
import struct
from collections.abc import Callable, Mapping
from typing import Any

from fromage_cli.checkpoints.pickles.allowance import Allowance
from fromage_cli.checkpoints.pickles.pickle_stream import PickleStream
from fromage_cli.checkpoints.pickles.placeholders import Global, Placeholder

Constructor = Callable[..., Any]
"""Does what a named function would do, with plain values; raises `Unusable` for other arguments."""
STRIDE = 256
"""Steps between two looks at the clock, which cost more than a step."""
NUMBER_BYTES, CONTAINER_BYTES, MEMO_BYTES, FAR_MEMO_BYTES = 32, 64, 10, 100
"""Memory that each takes: a number on the stack, an empty list or dictionary, an entry of the memo, one out of
order."""
NAME_BYTES, PLACEHOLDER_BYTES, KEY_BYTES, MEMBER_BYTES = 600, 400, 32, 64
"""Memory that each takes: a class's name with its uses, a placeholder, half a dictionary's entry, a member of a set."""
COPIED_CHARACTER, COPIED_MEMBER = 16, 100
"""Memory that a constructor's copy of its argument may take: per character of a text, per member of a container."""
LONGEST_INTEGER = 128
"""Bytes of a whole number: a random state has 78, and longer ones are no setting of anything."""
LARGEST_PLACE = 2**60
"""Numbers of places in the memo: larger ones could be made to collide."""
LARGEST_KEY, LONGEST_KEY = 2**64, 16
"""Numbers that are keys, and members of a tuple that is one: others could be made to collide, or costly to hash."""


def is_key(value: object) -> bool:
    """Tell whether a value costs little to hash; numbers of more than 64 bits can be chosen to collide."""
    if isinstance(value, int):
        return -LARGEST_KEY <= value < LARGEST_KEY
    return not isinstance(value, tuple | list | dict | set | frozenset | bytearray)


class Unusable(Exception):
    """A constructor was given what it cannot use; the call becomes a placeholder."""


class Machine:
    """The stack, the marks and the memo of one pickle."""

    def __init__(
        self,
        stream: PickleStream,
        constructors: Mapping[str, Constructor],
        persistent: Callable[[Any], Any] | None,
        allowance: Allowance,
    ) -> None:
        self.stream: PickleStream = stream
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self._memo: list[Any] = []
        self._far_memo: dict[int, Any] = {}
        self._height = 0
        self._constructors, self._persistent = constructors, persistent
        self._globals: dict[tuple[str, str], Global] = {}
        self.uses: dict[Global, dict[str, None]] = {}
        self._allowance = allowance

    def look_at_the_clock(self) -> None:
        """Raise when the pickle has taken longer than one of its length can."""
        if not self._allowance.in_time:
            raise self.stream.given_up("it takes longer to read than any pickle of its length should")

    def charge(self, count: int) -> None:
        """Count memory, in bytes, about to be taken."""
        if not self._allowance.charge(count):
            raise self.stream.given_up("its objects need far more memory than the pickle is long")

    def check_digits(self, count: int) -> None:
        """Raise for a whole number of more bytes than anything has that is saved."""
        if count > LONGEST_INTEGER:
            raise self.stream.damaged(f"an integer of {count} bytes")

    def charge_stack(self) -> None:
        """Count what was put on the stack without being counted."""
        if (grown := len(self.stack) - self._height) > 0:
            self.charge(NUMBER_BYTES * grown)
        self._height = len(self.stack)

    @property
    def memorised(self) -> int:
        """Return how many values the memo has."""
        return len(self._memo) + len(self._far_memo)

    def put(self, index: int) -> None:
        """Remember what is on top of the stack; picklers count the places one by one."""
        value = self.stack[-1]
        if index == len(self._memo):
            self.charge(MEMO_BYTES)
            self._memo.append(value)
            while len(self._memo) in self._far_memo:  # no place is in both: MEMOIZE takes their number for the next
                self._memo.append(self._far_memo.pop(len(self._memo)))
        elif 0 <= index < len(self._memo):
            self._memo[index] = value
        elif index < 0:
            raise self.stream.damaged("a place below zero in its memo")
        elif index >= LARGEST_PLACE:
            raise self.stream.given_up("a place in its memo has a number of more than 60 bits")
        else:
            self.charge(FAR_MEMO_BYTES)
            self._far_memo[index] = value

    def get(self, index: int) -> Any:
        """Return what was remembered at a place."""
        return self._memo[index] if 0 <= index < len(self._memo) else self._far_memo[index]

    def buffer(self) -> Any:
        """Return what the loader keeps outside of the pickle."""
        raise self.stream.damaged("a reference to a buffer outside the file")

    def push(self, value: Any, count: int) -> None:
        """Put an object that takes `count` bytes on the stack."""
        self.charge(count)
        self.stack.append(value)

    def mark(self) -> None:
        """Let what follows be put on a stack of its own, up to the opcode that gathers it."""
        self.charge(CONTAINER_BYTES)
        self.marks.append(self.stack)
        self.stack = []

    def pop(self, count: int) -> list[Any]:
        """Take the last values from the stack."""
        if len(self.stack) < count:
            raise self.stream.damaged(f"{count} values are used where there are {len(self.stack)}")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def drop(self) -> None:
        """Forget the last value, or the last mark where nothing follows it."""
        if self.stack:
            self.stack.pop()
        else:
            self.pop_mark()

    def pop_mark(self) -> list[Any]:
        """Take what was put on the stack since the last mark."""
        items = self.stack
        self.stack = self.marks.pop()
        return items

    def find(self, module: str, name: str) -> Global:
        """Return the one object that stands for a class or function."""
        place = (module, name)
        found = self._globals.get(place)
        if found is None:
            self.charge(NAME_BYTES)
            found = self._globals[place] = Global(module, name)
            self.uses[found] = {"import": None}
        return found

    def used(self, function: Any, use: str) -> None:
        """Remember what an ordinary unpickler would have done with a name."""
        kind = function.kind if isinstance(function, Placeholder) else function
        if kind in self.uses:
            self.uses[kind][use] = None
            if isinstance(function, Placeholder) and use != "build":
                self.uses[kind]["run"] = None

    def call(self, function: Any, args: Any, use: str = "call", kwargs: Mapping[Any, Any] | None = None) -> Any:
        """Return what a call stands for: a known constructor's value, else a placeholder."""
        if not isinstance(function, Global | Placeholder):
            raise self.stream.damaged(f"a call of a {type(function).__name__}")
        if not isinstance(args, tuple):
            raise self.stream.damaged(f"a call with a {type(args).__name__} instead of arguments")
        if kwargs is not None and not isinstance(kwargs, dict):
            raise self.stream.damaged("named arguments that are not a dictionary")
        self.used(function, use)
        constructor = self._constructors.get(function.dotted) if isinstance(function, Global) and not kwargs else None
        if constructor is not None:
            for argument in args:
                if isinstance(argument, str | bytes):
                    self.charge(COPIED_CHARACTER * len(argument))
                elif isinstance(argument, list | tuple | dict | set | frozenset):
                    self.charge(COPIED_MEMBER * len(argument))
            with contextlib.suppress(
                Unusable, TypeError, ValueError, IndexError, KeyError, OverflowError, struct.error
            ):
                return constructor(*args)  # what it does not take stays a placeholder
        self.charge(PLACEHOLDER_BYTES)
        return Placeholder(function, args, kwargs or {})

    def persistent(self, identifier: Any) -> Any:
        """Return what a persistent id stands for."""
        if self._persistent is None:
            raise self.stream.damaged("a reference to something outside the file")
        return self._persistent(identifier)

    def key(self, value: Any) -> Any:
        """Return a value that may be a key: hashing anything deeper could take forever, or end the process."""
        if is_key(value) or (isinstance(value, tuple) and len(value) <= LONGEST_KEY and all(map(is_key, value))):
            return value
        if isinstance(value, int):
            raise self.stream.damaged("a number of more than 64 bits as a key")
        raise self.stream.damaged(f"a {type(value).__name__} as a key")

    def store(self, target: Any, pairs: list[Any]) -> Any:
        """Put keys and values, in turn, into a dictionary, which is returned."""
        if len(pairs) % 2:
            raise self.stream.damaged("a key without a value")
        if isinstance(target, Placeholder):
            target = target.pairs
        if not isinstance(target, dict):
            raise self.stream.damaged(f"keys for a {type(target).__name__}")
        self.charge(KEY_BYTES * len(pairs))
        for index in range(0, len(pairs), 2):
            target[self.key(pairs[index])] = pairs[index + 1]
            if index % (2 * STRIDE) == 0:
                self.look_at_the_clock()
        return target

    def extend(self, target: Any, items: list[Any]) -> Any:
        """Put members into a list or a set, which is returned."""
        if isinstance(target, Placeholder):
            target = target.items
        if isinstance(target, list):
            target.extend(items)
        elif isinstance(target, set):
            self.charge(MEMBER_BYTES * len(items))
            for index, item in enumerate(items):
                target.add(self.key(item))
                if index % STRIDE == 0:
                    self.look_at_the_clock()
        else:
            raise self.stream.damaged(f"members for a {type(target).__name__}")
        return target

    def build(self, target: Any, state: Any) -> None:
        """Remember what attributes would have been set from; attributes of plain values are of no use here."""
        if isinstance(target, Placeholder):
            self.used(target, "build")
            target.state = state
        elif isinstance(target, Global):
            self.used(target, "change")
        elif hasattr(target, "with_state"):
            target.with_state(state)
