"""The classes and functions that pickles name: which make up tensors, which are unknown, which would run code."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from fromage_cli.checkpoints.names.naming import listed
from fromage_cli.checkpoints.pickles.constructors import ALIASES, CONSTRUCTORS, NESTED, STORAGES
from fromage_cli.checkpoints.pickles.unpickling import PickledName
from fromage_cli.checkpoints.storage.files import quoted
from fromage_cli.checkpoints.storage.stored_tensor import ELEMENT_BYTES
from fromage_cli.errors import UnsafeError

Verdict = Literal["allowed", "inert", "unknown", "dangerous"]


def _names(*lines: str) -> frozenset[str]:
    """Return the names that stand in some lines, between spaces."""
    return frozenset(" ".join(lines).split())


BUILTINS = ("builtins", "__builtin__")
"""Python's own functions, as Python 3 and 2 call their module."""
ALLOWED = frozenset(
    (
        *CONSTRUCTORS,
        NESTED,
        *(f"torch.{name}" for name in (*ELEMENT_BYTES, *ALIASES, *STORAGES)),
        *(f"torch.{name}" for name in _names("device Tensor strided sparse_coo sparse_csr contiguous_format")),
        *(f"torch.storage.{name}" for name in _names("UntypedStorage TypedStorage _LegacyStorage")),
        *("torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer", "torch._utils._rebuild_nested_tensor"),
        *("torch.serialization._get_layout", "torch._tensor.Tensor", "numpy.ndarray"),
        *("copyreg._reconstructor", "copy_reg._reconstructor"),
        *(f"{module}.{name}" for module in BUILTINS for name in _names("int float str bool object")),
    )
)
"""What a file of tensors and settings names."""
DANGEROUS_MODULES = _names(
    "os posix nt sys subprocess _posixsubprocess pty popen2 commands platform",
    "importlib imp runpy pkgutil zipimport code codeop types inspect ast site",
    "pickle _pickle cloudpickle dill joblib marshal shelve copyreg copy_reg pydoc doctest yaml antigravity",
    "shutil tempfile pathlib io _io codecs fileinput glob linecache tarfile zipfile gzip bz2 lzma",
    "socket ssl http httplib urllib urllib2 requests aiohttp ftplib smtplib webbrowser asyncio",
    "ctypes _ctypes cffi mmap signal resource gc atexit threading _thread",
    "multiprocessing concurrent operator _operator functools itertools bdb pdb timeit",
    "cProfile profile trace test idlelib lib2to3 distutils setuptools pip venv",
    "_osx_support _aix_support _pyrepl ensurepip pkg_resources unittest cgitb mailcap",
    "imaplib poplib nntplib telnetlib xmlrpc socketserver sqlite3 dbm sysconfig",
)
"""Top-level modules whose functions run programs or code, or reach files and the network, when they are called."""
UNKNOWN = _names("functools.partial copyreg.__newobj__ copyreg.__newobj_ex__")
"""What in those modules does no more than what it is given does."""
INERT = _names(
    "pathlib.Path pathlib.PosixPath pathlib.PurePosixPath pathlib.WindowsPath pathlib.PureWindowsPath",
    "pathlib.PurePath argparse.Namespace types.SimpleNamespace _io.BytesIO io.BytesIO collections.deque",
    "datetime.date datetime.datetime datetime.time datetime.timedelta datetime.timezone",
    "decimal.Decimal fractions.Fraction uuid.UUID uuid.SafeUUID builtins.slice builtins.range __builtin__.slice",
    "torch.distributed.checkpoint.filesystem._StorageInfo",
    *(
        f"torch.distributed.checkpoint.metadata.{name}"
        for name in _names(
            "Metadata TensorStorageMetadata TensorProperties ChunkStorageMetadata BytesStorageMetadata MetadataIndex",
            "StorageMeta _MEM_FORMAT_ENCODING",
        )
    ),
)
"""What only holds values, wherever it stands."""
INERT_CLASSES = re.compile(
    r"torch\.(nn\.modules|optim)\.[a-z_]+\.[A-Z][A-Za-z0-9_]*|__torch__\..*|torch\.jit\._pickle\.\w+"
)
"""Classes of networks and optimizers in torch itself; those of TorchScript, which have no module outside of it."""
NESTED_CLASS = re.compile(r"[A-Z][A-Za-z0-9]*(\.[A-Z][A-Za-z0-9]*)*")
"""A name with dots that is a class within classes; any other is a way through attributes, such as `_os.system`."""
DANGEROUS_BUILTINS = _names(
    "eval exec execfile compile open __import__ getattr setattr delattr globals",
    "locals vars input breakpoint apply map filter type help memoryview exit",
)
DANGEROUS_PREFIXES = tuple(
    _names(
        "torch.load torch.save torch.from_file torch.serialization.load torch.storage.UntypedStorage.from_file",
        "torch.hub. torch.jit. torch.ops. torch.package. torch.classes. torch.export. torch.fx. torch.compile",
        "torch._dynamo torch._inductor torch.distributed.rpc torch.multiprocessing.",
        "torch.utils.cpp_extension torch.utils._config_module torch.utils.model_zoo torch.utils.collect_env",
        "torch.utils.bottleneck torch.utils.data.datapipes.utils.decoder",
        "numpy.load numpy.save numpy.fromfile numpy.memmap numpy.genfromtxt numpy.testing numpy.f2py numpy.distutils",
        "numpy.lib. pandas.read_ pandas.eval logging.config logging.FileHandler logging.handlers uuid._",
    )
)
"""How the names of functions begin that load, compile or run other things; numpy.load covers numpy.loadtxt."""


def verdict(named: PickledName) -> Verdict:
    """Return what a name is: needed by tensors, of plain values, known to run code or reach files, or unknown.

    Nothing of it happens here. An ordinary unpickler would import the module even of an unknown class. It would run the
    class's own code where that is called, created or has attributes set. No pickler calls what a call returned.
    """
    if {"change", "run"} & set(named.uses) or ("." in named.name and not NESTED_CLASS.fullmatch(named.name)):
        return "dangerous"
    if named.dotted in ALLOWED:
        return "allowed"
    if named.dotted in INERT or INERT_CLASSES.fullmatch(named.dotted):
        return "inert"
    top = named.module.partition(".")[0]
    builtin = top in BUILTINS and named.name in DANGEROUS_BUILTINS
    script = named.module.endswith(".__main__")  # which does its work when it is imported
    if builtin or script or named.dotted.startswith(DANGEROUS_PREFIXES):
        return "dangerous"
    return "dangerous" if top in DANGEROUS_MODULES and named.dotted not in UNKNOWN else "unknown"


def dangerous(names: Iterable[PickledName]) -> list[str]:
    """Return the names among them that would run code or reach files."""
    return [named.dotted for named in names if verdict(named) == "dangerous"]


def warnings_about(names: Iterable[PickledName]) -> tuple[str, ...]:
    """Return what a person should know about the names, in sentences; none where only tensors are made."""
    names = tuple(names)
    unknown = [named.dotted for named in names if verdict(named) in ("inert", "unknown")]
    running = dangerous(names)
    sentences = []
    if running:
        sentences.append(
            f"Its pickle would run {listed(running)} in an ordinary loader. Nothing was run here. Do not "
            "load it elsewhere unless you trust its source (`inspect --safety` lists all names)."
        )
    if unknown:
        sentences.append(f"Did not import {listed(unknown)}, which its pickle names. What they hold was read as data.")
    return tuple(sentences)


def refusal(path: Path, names: Iterable[PickledName]) -> UnsafeError:
    """Return the error for a file that would run code and holds no weights."""
    running = dangerous(names)
    return UnsafeError(
        f"{quoted(path)} would run {running[0]} when an ordinary loader reads it, and holds no "
        "weights. Nothing was executed.",
        hint="It may be an attack: do not load it elsewhere. `fromage-diag inspect --safety` lists what it would run.",
        details=running,
    )
