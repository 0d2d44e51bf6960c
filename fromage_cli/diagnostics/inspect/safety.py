"""What pickles and code in a file would do where an ordinary loader reads it."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from fromage_cli.checkpoints.finding.mirror import Mirror
from fromage_cli.checkpoints.pickles.pickled_names import verdict
from fromage_cli.checkpoints.pickles.unpickling import PickledName
from fromage_cli.checkpoints.safety.pickle_scan import scan
from fromage_cli.checkpoints.storage.remote import is_url, local_path
from fromage_cli.diagnostics.inspect.result import NamedCode, SafetyResult

_ACTS = {
    **{"call": "calls it", "create": "creates one", "build": "sets its attributes", "change": "changes it"},
    "run": "calls what it returned",
}


def survey(named: str | Path) -> SafetyResult:
    """Lists every name in the pickles of a file, a URL or a directory, and every piece of code; nothing is loaded."""
    path = Path(named)
    if isinstance(named, str) and is_url(named):
        path = local_path(named) or Mirror(named).only_file()
    pickles, safety, unread = 0, [], []
    for part in scan(path):
        # the file within the directory that was asked for, and the member within the file
        file = str(part.file.relative_to(path)) if path != part.file else ""
        place = " > ".join(text for text in (file, part.part) if text)
        pickles += part.kind == "pickle"
        if part.kind == "graph":
            would = "compiles and runs it, once the model is called"
            safety.append(NamedCode(place, "", part.part, "code", "dangerous", would))
        if part.kind == "code":
            would = "runs it where it is imported (trust_remote_code)"
            safety.append(NamedCode(place, "", part.file.name, "code", "inert", would))
        safety += named_code(part.names, place)
        if part.fault:
            unread.append(": ".join(filter(None, (place, part.fault))))
    return SafetyResult(pickles, tuple(safety), tuple(unread))


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
