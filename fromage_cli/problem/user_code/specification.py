"""Code that the user named, `pkg.module:name` or `path/file.py:name`: found and imported."""

import difflib
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Mapping
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from fromage_cli.errors import FromageError, InputError, UnsafeError, UsageError
from fromage_cli.problem.user_code.forms import Specification, parse_specification
from fromage_cli.problem.user_code.named_code import error_of_user_code, find_imports_in, named_code

__all__ = ["Specification", "load_named", "parse_specification"]

CODE_FORMS = "pkg.module:name or path/file.py:name"


def load_named(text: str, flag: str, *, allow_code: bool = True) -> Any:
    """Import the code that a flag names and return the object.

    While the user's code runs, the folder of a file stands first on the import path, as for a script; for
    `pkg.module:name` the working directory stands last, so that nothing lying there hides an installed package. A file
    is loaded once.

    Raises UsageError (neither form), UnsafeError (no code allowed here) and InputError (no such file, module or name).
    Raises MismatchError where the user's code fails while it is imported.
    """
    specification = parse_specification(text)
    if specification is None:
        hint = f"Name the function: {text}:NAME." if text.endswith(".py") else ""
        raise UsageError(f"{flag} {text!r} does not name code; expected {CODE_FORMS}.", hint)
    if not allow_code:
        raise UnsafeError(
            f"{flag} {text!r} would run code that you did not name yourself.",
            f"Give it on the command line as {flag} {text}, or pass --trust.",
        )
    found: Any = _load_file(specification) if specification.is_file else _load_module(specification)
    for part in specification.name.split("."):
        with named_code(f"looking for {specification.name} in {specification.module}"):  # modules may import lazily
            known = hasattr(found, part)
        if not known:
            names = [name for name in dir(found) if not name.startswith("__")]
            near = difflib.get_close_matches(part, names, 3, 0.5)
            hint = f"Nearest names: {', '.join(near)}." if near else "No name in it is similar."
            raise InputError(f"{flag}: {specification.module} has no {specification.name!r}.", hint, sorted(names))
        found = getattr(found, part)
    return found


def _load_file(specification: Specification) -> ModuleType:
    path = specification.path
    if not path.is_file():
        raise InputError(
            f"There is no file {specification.module!r} (from {specification.text!r}, working directory {Path.cwd()}).",
            "Give a path relative to the working directory, or an absolute one.",
        )
    path = path.resolve()
    name = _name_of(path)
    if name in sys.modules:
        return sys.modules[name]
    find_imports_in(path.parent, first=True)
    description = importlib.util.spec_from_file_location(name, path, loader=_FromSource(name, str(path)))
    assert description is not None and description.loader is not None  # always found for a .py file
    module = importlib.util.module_from_spec(description)
    sys.modules[name] = module
    try:
        with named_code(f"importing {specification.module}"):
            description.loader.exec_module(module)
    except FromageError:
        del sys.modules[name]
        raise
    return module


class _FromSource(SourceFileLoader):
    """Runs what stands in a file itself; compiled code that lies in `__pycache__` may be of another."""

    def path_stats(self, path: str) -> Mapping[str, Any]:
        """Raise OSError: of such a source neither the compiled code is looked for nor kept."""
        raise OSError(path)


def _name_of(path: Path) -> str:
    """The name that a neighbour would import the file by, as workers of a DataLoader do, where nothing else has it."""
    owner: str | None = str(path)
    if path.stem in sys.modules:
        owner = getattr(sys.modules[path.stem], "__file__", None)
    elif path.stem.isidentifier() and (found := importlib.util.find_spec(path.stem)) is not None:
        owner = found.origin
    if owner == str(path) and path.stem.isidentifier():
        return path.stem
    return f"fromage_named_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"


def _load_module(specification: Specification) -> ModuleType:
    find_imports_in(Path.cwd(), first=False)
    try:
        with named_code(f"importing {specification.module}", passing=(ModuleNotFoundError,)):
            return importlib.import_module(specification.module)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if specification.module == missing or specification.module.startswith(f"{missing}."):
            raise InputError(
                f"There is no module {missing!r} (from {specification.text!r}).",
                "Install it, or run from the folder that holds it. Or name the file: "
                f"path/file.py:{specification.name}.",
            ) from error
        raise error_of_user_code(error, f"importing {specification.module}") from error
