"""What a bundle holds, for `bundle info`: read from the manifest, each file compared with its hash."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fromage_cli.checkpoints.formats.bundle import BATCH, Bundle
from fromage_cli.checkpoints.formats.safetensors_file import read_header
from fromage_cli.errors import InputError
from fromage_cli.missing import Missing, Why

SHOWN = 200
"""Characters of a text of the manifest that are shown."""


@dataclass(frozen=True)
class BundledFile:
    """One file of a bundle."""

    name: str
    bytes: int
    intact: bool
    """Whether its hash is the one in the manifest."""


@dataclass(frozen=True)
class BundledTensor:
    """One tensor of the batch."""

    name: str
    """Its place in the batch."""
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class SavedLoss:
    """The loss of the batch in one mode."""

    mode: str
    saved: float
    """When the bundle was written."""
    now: float | Missing
    """What the graph in the bundle gives; measured under `--check`."""


@dataclass(frozen=True)
class BundleContents:
    """What a bundle holds."""

    path: str
    network: str
    """The class of the network."""
    step: int | Missing
    rows: int
    """Of the batch."""
    loss: str
    batch: tuple[BundledTensor, ...]
    modes: tuple[str, ...]
    """In which the network can run from its graph; empty where the bundle has no graph."""
    why_no_graph: str | Missing
    fixed_rows: str | Missing
    """Why the graph runs with this number of rows alone."""
    factory: str
    """Where the network was built."""
    optimizer: str | Missing
    """The kind of optimizer whose state it holds."""
    autocast: str | Missing
    """The precision of the forward pass when it was saved."""
    written_by: Mapping[str, str]
    """Versions."""
    losses: tuple[SavedLoss, ...]
    """The loss of the batch in each mode, when the bundle was written and now."""
    files: tuple[BundledFile, ...]


NOT_ASKED = Missing(Why.NOT_ASKED, "give --check to run the graph")
CHANGED = Missing(Why.NOT_DEFINED, "a file of the bundle was changed")


def look_into(bundle: Bundle, optimizer: str | None, evaluate: Callable[[str], float] | None = None) -> BundleContents:
    """Read what a bundle holds; `evaluate` gives the loss of its batch in a mode, where it is to be checked.
    Of a bundle with a changed file nothing is run.

    Raises InputError where the manifest is damaged.
    """
    manifest = bundle.manifest
    graph = _mapping(manifest.get("graph"))
    loss, losses = _mapping(manifest.get("loss")), _mapping(graph.get("losses"))
    modes = tuple(str(mode) for mode in graph.get("modes") or () if mode in ("eval", "auto", "train"))
    step, files = manifest.get("step"), tuple(_file(bundle, name) for name in manifest["files"])
    intact = all(file.intact for file in files)
    return BundleContents(
        path=str(bundle.directory),
        network=_text(manifest.get("network")),
        step=step if isinstance(step, int) else Missing(Why.STEP_UNKNOWN, "it was saved without a step"),
        rows=manifest["rows"] if isinstance(manifest.get("rows"), int) else 0,
        loss=_text(loss.get("name")),
        batch=_tensors(bundle),
        modes=modes if bundle.has_graph else (),
        why_no_graph=_said(graph.get("missing"), "it holds a graph"),
        fixed_rows=_said(graph.get("fixed_rows"), "the graph runs with any number of rows"),
        factory=_text(manifest.get("factory")),
        optimizer=_said(optimizer, "it holds no optimizer state"),
        autocast=_said(manifest.get("autocast"), "autocast was off"),
        written_by={_text(name): _text(version) for name, version in _mapping(manifest.get("written_by")).items()},
        losses=tuple(
            SavedLoss(
                mode, float(losses[mode]), NOT_ASKED if evaluate is None else evaluate(mode) if intact else CHANGED
            )
            for mode in modes
            if isinstance(losses.get(mode), float)
        ),
        files=files,
    )


def _file(bundle: Bundle, name: str) -> BundledFile:
    path = bundle.path(name)
    assert path is not None
    try:
        bundle.verify(name)
        intact = True
    except InputError:
        intact = False
    return BundledFile(name, path.stat().st_size if path.exists() else 0, intact)


def _tensors(bundle: Bundle) -> tuple[BundledTensor, ...]:
    """The tensors of the batch by their places in it."""
    path = bundle.path(BATCH)
    if path is None:
        return ()
    entries, found = read_header(path).entries, []

    def walk(described: Any, name: str, depth: int) -> None:
        if not isinstance(described, dict) or len(described) != 1 or depth > 16:
            raise InputError("The manifest describes no batch.", "Save the bundle anew.")
        kind, value = next(iter(described.items()))
        if kind == "tensor" and str(value) in entries:
            entry = entries[str(value)]
            found.append(BundledTensor(name, entry.dtype, entry.shape))
        elif kind in ("dict", "list", "tuple") and isinstance(value, list):
            pairs = value if kind == "dict" else [[place, item] for place, item in enumerate(value)]
            for pair in pairs:
                if isinstance(pair, list) and len(pair) == 2:
                    key = _text(pair[0])
                    walk(pair[1], f"{name}.{key}" if name else key, depth + 1)

    walk(bundle.manifest.get("batch"), "", 0)
    return tuple(found)


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return str(value)[:SHOWN] if value is not None else ""


def _said(value: Any, otherwise: str) -> str | Missing:
    return _text(value) if value else Missing(Why.NOT_DEFINED, otherwise)
