"""What pickles and code in a file would do where an ordinary loader reads it."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from fromage_cli.checkpoints.finding.mirror import Mirror
from fromage_cli.checkpoints.pickles.pickled_names import verdict
from fromage_cli.checkpoints.pickles.unpickling import PickledName
from fromage_cli.checkpoints.safety.pickle_scan import Scanned, scan
from fromage_cli.checkpoints.storage.remote import is_url, local_path
from fromage_cli.diagnostics.inspect.result import NamedCode, SafetyResult

_ACTS = {"call": "calls it", "create": "creates one", "build": "sets its attributes"}


def survey(named: str | Path) -> SafetyResult:
    """Every name in every pickle of a file, a URL's or a directory's, and every piece of code; nothing is loaded."""
    path = Path(named)
    if isinstance(named, str) and is_url(named):
        path = local_path(named) or Mirror(named).only_file()
    found = list(scan(path))
    return SafetyResult(
        pickles=sum(part.kind == "pickle" for part in found),
        safety=tuple(entry for part in found for entry in _of_part(part, path)),
        unread=tuple(": ".join(filter(None, (_place(part, path), part.fault))) for part in found if part.fault),
    )


def named_code(names: Iterable[PickledName], place: str = "") -> Iterator[NamedCode]:
    """The names that one pickle asks for."""
    for named in names:
        acts = [_ACTS[use] for use in named.uses if use in _ACTS]
        yield NamedCode(
            place=place,
            module=named.module,
            name=named.name,
            use="+".join(named.uses),
            verdict=verdict(named),
            would=", ".join([f"imports {named.module}", *acts]),
        )


def _of_part(part: Scanned, path: Path) -> Iterator[NamedCode]:
    place = _place(part, path)
    if part.kind == "graph":
        yield NamedCode(place, "", part.part, "code", "dangerous", "compiles and runs it, once the model is called")
    if part.kind == "code":
        yield NamedCode(place, "", part.file.name, "code", "inert", "runs it where it is imported (trust_remote_code)")
    yield from named_code(part.names, place)


def _place(part: Scanned, path: Path) -> str:
    """The file within the directory that was asked for, and the member within the file."""
    file = str(part.file.relative_to(path)) if path != part.file else ""
    return " > ".join(text for text in (file, part.part) if text)
