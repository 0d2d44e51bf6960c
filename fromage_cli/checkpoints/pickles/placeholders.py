"""What stands for the classes and functions that a pickle names: records that can do nothing."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, eq=False)
class Global:
    """A class or function that a pickle names; it is neither looked up nor imported. One object per name and pickle."""

    module: str
    name: str

    @property
    def dotted(self) -> str:
        """Return the name as a person writes it: `collections.OrderedDict`."""
        return f"{self.module}.{self.name}"


@dataclass(eq=False, slots=True)
class Placeholder:
    """What a pickle would have called or created, with everything it would have been given."""

    function: Global | Placeholder
    """What would have been called, or the class of what would have been created."""
    args: tuple[Any, ...] = ()
    kwargs: Mapping[Any, Any] = field(default_factory=dict)
    state: Any = None
    """What its attributes would have been set from."""
    items: list[Any] = field(default_factory=list)
    """What would have been appended, to a list of one's own class or to a set."""
    pairs: dict[Any, Any] = field(default_factory=dict)
    """What would have been stored under keys, in a dictionary of one's own class."""
    kind: Global = field(init=False)
    """The class or function itself, also where calls are nested."""

    def __post_init__(self) -> None:
        self.kind = self.function.kind if isinstance(self.function, Placeholder) else self.function

    @property
    def attributes(self) -> Mapping[str, Any]:
        """Return what its attributes would have been, by name: from the instance's dictionary and its slots.

        It is not copied: many objects may have been given the same.
        """
        parts = self.state if isinstance(self.state, tuple) and len(self.state) == 2 else (self.state,)
        held = [part for part in parts if isinstance(part, dict)]
        return held[0] if len(held) == 1 else ChainMap(*reversed(held))

    def __repr__(self) -> str:
        return f"<{self.kind.dotted}>"
