"""The classes and functions that pickles name: which make up tensors, which are unknown, which would run code."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from fromage_cli.checkpoints.names.naming import listed
from fromage_cli.checkpoints.pickles.constructors import ALIASES, CONSTRUCTORS, NESTED, STORAGES
from fromage_cli.checkpoints.pickles.unpickling import PickledName
from fromage_cli.checkpoints.storage.files import quoted
from fromage_cli.checkpoints.storage.stored_tensor import ELEMENT_BYTES
from fromage_cli.errors import UnsafeError

Verdict = Literal["allowed", "inert", "dangerous"]
PLAIN = frozenset(
    (
        *CONSTRUCTORS,
        NESTED,
        *(f"torch.{name}" for name in (*ELEMENT_BYTES, *ALIASES, *STORAGES)),
        *(f"torch.storage.{name}" for name in ("UntypedStorage", "TypedStorage", "_LegacyStorage")),
        *(f"torch.{name}" for name in ("device", "Tensor", "strided", "sparse_coo", "sparse_csr", "contiguous_format")),
        *("torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer", "torch._utils._rebuild_nested_tensor"),
        *("torch.serialization._get_layout", "torch._tensor.Tensor", "numpy.ndarray"),
        *(f"{module}._reconstructor" for module in ("copyreg", "copy_reg")),
        *(f"{module}.{name}" for module in ("builtins", "__builtin__") for name in ("int", "float", "str", "bool")),
        *(f"{module}.object" for module in ("builtins", "__builtin__")),
    )
)
"""What a file of tensors and settings names."""
RUNNING = frozenset(
    (
        *("os", "posix", "nt", "sys", "subprocess", "_posixsubprocess", "pty", "popen2", "commands", "platform"),
        *("importlib", "imp", "runpy", "pkgutil", "zipimport", "code", "codeop", "types", "inspect", "ast", "site"),
        *("pickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "copy_reg", "pydoc", "doctest"),
        *(
            "shutil",
            "tempfile",
            "pathlib",
            "io",
            "_io",
            "codecs",
            "fileinput",
            "glob",
            "linecache",
            "tarfile",
            "zipfile",
        ),
        *("socket", "ssl", "http", "urllib", "urllib2", "requests", "ftplib", "smtplib", "webbrowser", "asyncio"),
        *("ctypes", "_ctypes", "cffi", "mmap", "signal", "resource", "gc", "atexit", "threading", "_thread"),
        *("multiprocessing", "concurrent", "operator", "_operator", "functools", "itertools", "bdb", "pdb", "timeit"),
        *("cProfile", "profile", "trace", "test", "idlelib", "lib2to3", "distutils", "setuptools", "pip", "venv"),
        *("_osx_support", "_aix_support", "_pyrepl", "ensurepip", "pkg_resources", "unittest", "cgitb", "mailcap"),
        *("imaplib", "poplib", "nntplib", "telnetlib", "xmlrpc", "socketserver", "sqlite3", "dbm", "sysconfig"),
    )
)
"""Top-level modules whose functions run programs or code, or reach files and the network, when they are called."""
HARMLESS = frozenset(
    (
        *(
            "pathlib.Path",
            "pathlib.PosixPath",
            "pathlib.PurePosixPath",
            "pathlib.WindowsPath",
            "pathlib.PureWindowsPath",
        ),
        *("functools.partial", "types.SimpleNamespace", "_io.BytesIO", "io.BytesIO"),
    )
)
"""What in those modules only holds values."""
RUNNING_FUNCTIONS = frozenset(
    (
        *("eval", "exec", "execfile", "compile", "open", "__import__", "getattr", "setattr", "delattr", "globals"),
        *("locals", "vars", "input", "breakpoint", "apply", "map", "filter", "type", "help", "memoryview", "exit"),
    )
)
"""Of Python's builtins."""
RUNNING_OF_TORCH = (
    *(
        "torch.load",
        "torch.hub.",
        "torch.jit.",
        "torch.ops.",
        "torch.utils.cpp_extension",
        "torch.utils._config_module",
    ),
    *(
        "torch.package.",
        "torch.serialization.load",
        "torch.compile",
        "torch.distributed.rpc",
        "torch.fx.",
        "torch._dynamo",
    ),
    *("torch.save", "torch.from_file", "torch.utils.model_zoo", "torch.storage.UntypedStorage.from_file"),
    *("numpy.fromfile", "numpy.memmap", "numpy.save", "numpy.loadtxt", "numpy.genfromtxt"),
    *("logging.config", "logging.FileHandler", "logging.handlers", "uuid._"),
    *("torch._inductor", "torch.utils.collect_env", "torch.multiprocessing.", "torch.export.", "torch.classes."),
    *("numpy.load", "numpy.testing", "numpy.f2py", "numpy.distutils", "numpy.lib.", "pandas.read_", "pandas.eval"),
)
"""What the names of functions that load, compile or run other things begin with."""


def verdict(named: PickledName) -> Verdict:
    """Whether a name is one of those that tensors need, unknown, or known to run code or reach files when called.

    Nothing of it happens here; even an unknown class would have its module imported by an ordinary unpickler.
    """
    if named.dotted in PLAIN:
        return "allowed"
    if named.dotted in HARMLESS or named.module == "torch.jit._pickle":
        return "inert"
    top = named.module.partition(".")[0]
    of_builtins = top in ("builtins", "__builtin__") and named.name.partition(".")[0] in RUNNING_FUNCTIONS
    if top in RUNNING or of_builtins or named.dotted.startswith(RUNNING_OF_TORCH):
        return "dangerous"
    return "inert"


def dangerous(names: Iterable[PickledName]) -> list[str]:
    """The names among them that would run code or reach files."""
    return [named.dotted for named in names if verdict(named) == "dangerous"]


def warnings_about(names: Iterable[PickledName]) -> tuple[str, ...]:
    """Return what a person should know about the names, in sentences; none where only tensors are made."""
    names = tuple(names)
    unknown = [named.dotted for named in names if verdict(named) == "inert"]
    running = dangerous(names)
    sentences = []
    if running:
        sentences.append(
            f"Its pickle would run {listed(running)} in an ordinary loader. Nothing was run here, but do not load it "
            "elsewhere unless you trust its source (`inspect --safety` lists all names)."
        )
    if unknown:
        sentences.append(f"Did not import {listed(unknown)}, which its pickle names; what they hold was read as data.")
    return tuple(sentences)


def refusal(path: Path, names: Iterable[PickledName]) -> UnsafeError:
    """The error for a file that would run code and holds no weights."""
    running = dangerous(names)
    return UnsafeError(
        f"{quoted(path)} asks for {running[0]} while it is read, and holds no weights. Nothing was executed.",
        hint="It may be an attack: do not load it elsewhere. `fromage-diag inspect --safety` lists what it would run.",
        details=running,
    )
