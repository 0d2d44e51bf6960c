"""The machine of pickles as a survey needs it: it stores nothing, and goes on wherever some unpickler would go on.

Python has two unpicklers, in C and in Python, and libraries derive their own. What any of them takes is taken here, so
that no name stays unseen because of what stands before it. Source: Lib/pickle.py, Modules/_pickle.c of Python 3.11.
"""

from collections.abc import Mapping
from typing import Any

from fromage_cli.checkpoints.pickles.allowance import Allowance
from fromage_cli.checkpoints.pickles.constructors import CONSTRUCTORS, NESTED
from fromage_cli.checkpoints.pickles.machine import PLACEHOLDER_BYTES, Machine
from fromage_cli.checkpoints.pickles.pickle_stream import PickleStream
from fromage_cli.checkpoints.pickles.placeholders import Global, Placeholder

LOADERS = (NESTED, "_pickle.loads", "pickle.loads", "cPickle.loads", "dill.loads", "dill._dill.loads", "torch.load")
"""Functions whose bytes are pickles themselves."""
STREAMS = ("_io.BytesIO", "io.BytesIO")
"""What wraps bytes for some of them."""
BYTES = ("_codecs.encode", *(f"{module}.{kind}" for module in ("builtins", "__builtin__") for kind in ("bytes",)))
"""Functions that make bytes; of all others a record is kept."""
REBUILD = "torch._tensor._rebuild_from_type_v2"
"""The one function of those allowed that calls what it is given."""
_RESULT = Global("", "result")
"""What stands for something that no name in the pickle tells."""


class Surveyor(Machine):
    """Remembers which names one pickle resolves, what would be done with them, and which bytes would be loaded."""

    def __init__(self, stream: PickleStream, allowance: Allowance) -> None:
        super().__init__(stream, {name: CONSTRUCTORS[name] for name in BYTES}, None, allowance)
        self.loaded: dict[bytes, None] = {}
        """Bytes that a loader inside of the pickle would load."""
        self._results: dict[Global, Placeholder] = {}  # one of each: nothing is stored in them
        self.unseen: dict[str, None] = {}
        """Loaders that would load what does not stand in the pickle as bytes."""

    def check_digits(self, count: int) -> None:
        """Take whole numbers of any length."""

    def buffer(self) -> Any:
        """Return what stands for bytes outside of the pickle."""
        return Placeholder(_RESULT)

    def persistent(self, identifier: Any) -> Any:
        """Return a persistent id itself; of torch's ("module", class, file, source) the class.

        Older versions of torch call the class of ("storage", class, key, device, elements, view) with the elements.
        """
        kind, *rest = identifier if isinstance(identifier, tuple) and len(identifier) > 3 else ("",)
        if kind == "module":
            return rest[0]
        if kind == "storage" and isinstance(rest[0], Global):
            self._load(rest[0].dotted, tuple(rest[3:4]))
        return identifier

    def call(self, function: Any, args: Any, use: str = "call", kwargs: Mapping[Any, Any] | None = None) -> Any:
        """Return a record of any call, with arguments of any kind; bytes where it makes some."""
        dotted = function.dotted if isinstance(function, Global) else ""
        if dotted in BYTES and isinstance(args, tuple):
            return super().call(function, args)
        self.used(function, use)
        given = args if isinstance(args, tuple) else ()
        if dotted == REBUILD and given:
            self.used(given[0], "call")
            self._load(given[0].dotted if isinstance(given[0], Global) else "", ())
        self._load(dotted, given)
        kind = function.kind if isinstance(function, Placeholder) else function
        kind = kind if isinstance(kind, Global) else _RESULT
        if dotted not in STREAMS and kind in self._results:
            return self._results[kind]
        self.charge(PLACEHOLDER_BYTES)
        made = self._results[kind] = Placeholder(kind, given if dotted in STREAMS else ())
        return made

    def _load(self, dotted: str, args: tuple[Any, ...]) -> None:
        """Remember what a loader is given first."""
        if dotted not in LOADERS:
            return
        first = args[0] if args else None
        if isinstance(first, Placeholder) and first.args:
            first = first.args[0]
        if isinstance(first, bytes):
            self.loaded[first] = None
        else:
            self.unseen[dotted] = None

    def store(self, target: Any, pairs: list[Any]) -> Any:
        """Leave out keys and values, which are not even hashed; only what they would change is remembered."""
        self._change(target)
        return target

    def extend(self, target: Any, items: list[Any]) -> Any:
        """Leave out members likewise."""
        self._change(target)
        return target

    def build(self, target: Any, state: Any) -> None:
        """Remember whose attributes would be set."""
        if isinstance(target, Placeholder):
            self.used(target, "build")
        else:
            self._change(target)

    def _change(self, target: Any) -> None:
        """Remember that a class, function or module variable itself would be changed, for the whole process."""
        if isinstance(target, Global):
            self.used(target, "change")
