"""A bundle: a directory with weights, batch, optimizer state and the network and loss as graphs; all of it is data."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fromage_cli.checkpoints.formats.safetensors_file import find_tensor, read_header
from fromage_cli.checkpoints.optimizers.optimizer_state import OptimizerState
from fromage_cli.checkpoints.optimizers.saved_optimizer import parse_optimizer
from fromage_cli.checkpoints.storage.files import READ_BLOCK, opened, quoted
from fromage_cli.checkpoints.storage.json_file import read_object
from fromage_cli.checkpoints.storage.path_confinement import confined_path
from fromage_cli.errors import InputError

MANIFEST = "bundle.json"
WEIGHTS = "model.safetensors"
GRAPHS = "graphs.json"
CONSTANTS = "constants.safetensors"
BATCH = "batch.safetensors"
OPTIMIZER = "optimizer.safetensors"
FILES = (WEIGHTS, GRAPHS, CONSTANTS, BATCH, OPTIMIZER)
"""What a bundle may hold beside its manifest."""
FORMAT = "fromage-diag bundle"
VERSION = 1
"""Of the format: a bundle with a higher number was written by a newer program."""
DAMAGED = "The bundle is damaged or was changed. Copy it again, or save it anew."


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk, of which the manifest was read."""

    directory: Path
    manifest: Mapping[str, Any]

    def path(self, name: str) -> Path | None:
        """Where one of FILES lies; None where the bundle has none."""
        return confined_path(self.directory / MANIFEST, name) if name in self.manifest["files"] else None

    @property
    def has_graph(self) -> bool:
        """Whether the network is in it as a graph."""
        return GRAPHS in self.manifest["files"]

    @property
    def written_by(self) -> str:
        """The versions that wrote it, in a few words."""
        versions = self.manifest.get("written_by")
        named = versions if isinstance(versions, dict) else {}
        return ", ".join(f"{str(name)[:20]} {str(version)[:40]}" for name, version in list(named.items())[:4])

    def verify(self, *names: str) -> None:
        """Raise InputError where one of the files named, or of all, is not the one that was written."""
        for name, told in self.manifest["files"].items():
            if names and name not in names:
                continue
            path = confined_path(self.directory / MANIFEST, name)
            digest = hashlib.sha256()
            with opened(path) as file:
                while block := file.read(READ_BLOCK):
                    digest.update(block)
            if digest.hexdigest() != told:
                raise InputError(f"{quoted(path)} is not the file that the bundle's manifest names.", DAMAGED)


def is_bundle(directory: Path) -> bool:
    """Tell whether a directory is a bundle."""
    return (directory / MANIFEST).is_file()


def read_bundle(directory: Path) -> Bundle:
    """Read a bundle's manifest; InputError for what is none, or was written by a newer program."""
    place = directory / MANIFEST
    manifest = read_object(place)
    version, files = manifest.get("version"), manifest.get("files")
    if manifest.get("format") != FORMAT or not isinstance(version, int):
        raise InputError(f"{quoted(place)} is not the manifest of a bundle.", DAMAGED)
    if version > VERSION:
        wrote = Bundle(directory, {**manifest, "files": {}}).written_by
        raise InputError(
            f"{quoted(directory)} is a bundle of format {version}, and this program reads up to {VERSION} ({wrote}).",
            "Install a newer fromage-diag.",
        )
    named = files if isinstance(files, dict) else {}
    if not all(isinstance(one, str) for one in named.values()) or not {WEIGHTS} <= set(named) <= set(FILES):
        raise InputError(f"{quoted(place)} does not name the files of a bundle.", DAMAGED)
    for name in named:
        confined_path(place, name)
    return Bundle(directory, manifest)


def read_bundled_optimizer(directory: Path) -> OptimizerState | None:
    """Read what a bundle keeps of its optimizers; None where it has none. Raises InputError."""
    bundle = read_bundle(directory)
    described = bundle.manifest.get("optimizer")
    if described is None:
        return None
    header = read_header(path) if (path := bundle.path(OPTIMIZER)) is not None else None
    if not isinstance(described, dict) or not isinstance(described.get("groups"), list):
        raise InputError(f"{quoted(directory / MANIFEST)} describes no optimizer.", DAMAGED)
    slots: dict[str, dict[str, Any]] = {}
    numbers = described.get("numbers")
    for name, held in numbers.items() if isinstance(numbers, dict) else ():
        if isinstance(held, dict):
            slots[name] = {slot: value for slot, value in held.items() if isinstance(value, int | float)}
    for entry in header.entries if header is not None else ():
        name, _, slot = entry.rpartition(".")
        slots.setdefault(name, {})[slot] = find_tensor(header, entry) if header is not None else None
    return parse_optimizer({"state": slots, "param_groups": described["groups"]})
