"""A remote checkpoint in a temporary directory: headers of safetensors files alone, other files as they are.

Files have their own names and sizes there, with holes where nothing was fetched. The readers of local files work on
them unchanged. Tensors of safetensors files are then read by ranges.
"""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path

from fromage_cli.checkpoints.checkpoint import Span, TensorEntry
from fromage_cli.checkpoints.finding.directory import MAIN_FILES, own_weights
from fromage_cli.checkpoints.formats.sharded import is_index, read_index
from fromage_cli.checkpoints.names.library_files import HEADER_LIMIT
from fromage_cli.checkpoints.names.naming import listed
from fromage_cli.checkpoints.storage.remote import Entry, Remote
from fromage_cli.checkpoints.storage.stored_tensor import StoredTensor, contiguous_tensor
from fromage_cli.errors import FromageError, InputError

SMALL_FILES = ("config.json", "trainer_state.json")
"""They stand beside weights and say something about them."""
_TEMPORARY_DIRECTORIES: list[tempfile.TemporaryDirectory[str]] = []
"""They are removed when the program ends: tensors may be read until then."""


class Mirror:
    """The temporary directory of one remote checkpoint."""

    def __init__(self, url: str) -> None:
        """Look at what the URL leads to; nothing but listings is fetched."""
        self.remote = Remote(url)
        _TEMPORARY_DIRECTORIES.append(tempfile.TemporaryDirectory(prefix="fromage-diag-"))
        self.home = Path(_TEMPORARY_DIRECTORIES[-1].name)
        self.copied = 0  # bytes
        self._entries: dict[str, Entry] = {}
        self._fetched: set[str] = set()
        self.headers: set[str] = set()  # names of files of which only the header is here
        found = self.remote.list() if self.remote.entry.directory else [self.remote.entry]
        for entry in found:
            self._place(entry)

    def weights(self) -> Path:
        """Return the weights' file, with all that is needed to read its structure.

        Raises InputError where a directory holds none that can be told.
        """
        if not self.remote.entry.directory:
            weights: Path | None = self.home / self.remote.entry.name
        else:
            weights = own_weights(self.home)
        if weights is None:
            names = [entry.name for entry in self.remote.list()]
            raise InputError(
                f"{self.remote.url} holds no file that looks like weights; found: {listed(names) or 'nothing'}.",
                hint="Name one checkpoint. Several checkpoints are read from local directories only.",
                details=names,
            )
        for name in (*SMALL_FILES, weights.name):
            self.fetch(self.home / name)
        if is_index(weights):
            if not self.remote.entry.directory:  # then the shards are beside the index that was named itself
                for entry in Remote(self.remote.url.rpartition("/")[0]).list():
                    if entry.name not in self._entries:
                        self._place(entry)
            for shard in read_index(weights).shards:
                self.fetch(shard)
        elif self.remote.entry.directory and weights.name not in MAIN_FILES:
            for name in self._entries:  # what else there is may be a part of it
                self.fetch(self.home / name)
        return weights

    def only_file(self) -> Path:
        """Return the one file that the URL names, for reading."""
        if self.remote.entry.directory:
            raise InputError(f"{self.remote.url} is a directory; expected a file.", hint="Name a file in it.")
        place = self.home / self.remote.entry.name
        self.fetch(place)
        return place

    def fetch(self, place: Path) -> None:
        """Let a file be readable: its header, where tensors can be read by ranges, else all of it."""
        if place.name in self._fetched or place.name not in self._entries:
            return
        entry = self._entries[place.name]
        head = self.remote.ranged(entry)
        length = int.from_bytes((head or b"")[:8], "little")
        if head is not None and head[8:9] == b"{" and length <= HEADER_LIMIT and entry.size is not None:
            content = self.remote.read(entry, 0, min(8 + length, entry.size))
            with place.open("wb") as file:
                file.write(content)
                file.truncate(entry.size)
            self.headers.add(place.name)
        else:
            self.remote.copy(entry, place)
            self.copied += place.stat().st_size
        self._fetched.add(place.name)

    def tensor(self, span: Span, entry: TensorEntry) -> StoredTensor:
        """Return a tensor of which its own bytes are read by ranges, and nothing else."""
        file = self._entries[span.version.path.name]

        def read_into(begin: int, view: memoryview) -> None:
            view[:] = self.remote.read(file, span.begin + begin, span.begin + begin + len(view))

        return contiguous_tensor(entry.dtype, entry.shape, read_into)

    @property
    def note(self) -> str:
        """Say what was fetched and what will be."""
        ranges = "tensors are read by ranges" if self.headers else f"copied {self.copied} bytes to a temporary file"
        return f"{self.remote.url}: {ranges}."

    def error_about_url(self, error: FromageError) -> FromageError:
        """Return an error about the temporary directory as one about the URL."""
        place = self.home if self.remote.entry.directory else self.home / self.remote.entry.name
        message, hint = (text.replace(str(place), self.remote.url) for text in (error.message, error.hint))
        return type(error)(message, hint, error.details)

    def _place(self, entry: Entry) -> None:
        """Make a file of that name and size without content; none where no file here can have them."""
        if entry.directory or not entry.name or entry.name in (".", ".."):
            return
        with suppress(OSError, ValueError):
            with (self.home / entry.name).open("wb") as file:
                file.truncate(min(entry.size or 0, 2**62))
            self._entries[entry.name] = entry
