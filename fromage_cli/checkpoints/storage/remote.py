"""Files behind URLs, through whichever fsspec backend is installed: listed, read by ranges, or copied."""

import importlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fromage_cli.checkpoints.storage.files import HEAD, READ_BLOCK
from fromage_cli.checkpoints.storage.web import WEB, web_settings
from fromage_cli.errors import FromageError, InputError, ResourceError

URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+://")
_URL_WITHIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]+")
LARGEST_COPY = 64 * 10**9
"""Bytes of a file that is copied as a whole, at most: a large network in float32; larger ones are read by ranges."""
LARGEST_UNDECLARED = 10**9
"""Bytes that are copied where the server does not say how many there are: they may have no end."""
PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "hf": "huggingface_hub", "az": "adlfs"}
PACKAGES |= {"abfs": "adlfs", "http": "aiohttp", "https": "aiohttp", "sftp": "paramiko", "ssh": "paramiko"}
"""What to install for a scheme, where fsspec's own message does not say."""


def is_url(name: object) -> bool:
    """Return whether a name is a URL and not a path."""
    return isinstance(name, str) and bool(URL.match(name))


def local_path(url: str) -> Path | None:
    """Return the path that a `file://` URL means; None for other URLs."""
    parts = urlsplit(url)
    host = "" if parts.netloc.lower() == "localhost" else parts.netloc
    if parts.scheme.lower() != "file":
        return None
    from urllib.request import url2pathname  # brings http and ssl

    return Path(url2pathname(host + parts.path))


def printable_url(url: str) -> str:
    """Return a URL as it may be printed: without user, password and signatures."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=host, query="", fragment="").geturl() if parts.query or "@" in parts.netloc else url


def redacted(text: str) -> str:
    """Return a message with every URL in it as it may be printed: backends put the whole one into theirs."""
    return _URL_WITHIN.sub(lambda found: printable_url(found[0]), text)


@dataclass(frozen=True)
class Entry:
    """One file or directory."""

    path: str  # as the backend names it
    size: int | None  # bytes
    directory: bool

    @property
    def name(self) -> str:
        """Return the last component, without a query."""
        path = self.path.partition("?")[0] if "://" in self.path else self.path
        return path.rstrip("/").rpartition("/")[2]


class Remote:
    """What one URL leads to."""

    def __init__(self, url: str) -> None:
        """Find the backend; InputError where it is not installed or the URL leads nowhere."""
        self.url, scheme = printable_url(url), url.partition("://")[0].lower()
        try:
            fsspec: Any = importlib.import_module("fsspec")
            settings = {"client_kwargs": web_settings()} if url.lower().startswith(WEB) else {}
            self._files, path = fsspec.core.url_to_fs(url, **settings)
        except ImportError as error:
            package = PACKAGES.get(scheme) or str(error)
            raise InputError(
                f"{self.url} needs a package that is not installed: {package}.",
                hint=f"Install it: python -m pip install {PACKAGES.get(scheme, 'fsspec')}",
            ) from error
        except ValueError as error:
            raise InputError(
                f"{self.url}: no backend reads {scheme}:// ({redacted(str(error))}).",
                hint="Copy the checkpoint to a local disk.",
            ) from error
        with self._reporting_errors():
            self.entry = _entry(self._files.info(str(path)))

    def list(self) -> list[Entry]:
        """Return what is in the directory."""
        with self._reporting_errors():
            return [_entry(found) for found in self._files.ls(self.entry.path, detail=True)]

    def ranged(self, entry: Entry) -> bytes | None:
        """Return the first bytes of a file; None where the server does not send parts of files."""
        count = min(HEAD, entry.size or 0)
        return self.read(entry, 0, count) if count > 1 and self._sends_parts(entry) else None

    def read(self, entry: Entry, begin: int, end: int) -> bytes:
        """Return the bytes of a file from `begin` to before `end`; InputError when they are not there."""
        content = self._part(entry, begin, end)
        if len(content) != end - begin:
            raise InputError(
                f"{self.url}: {end - begin} bytes of {entry.name!r} were asked for, but {len(content)} came.",
                hint="The file changed meanwhile, or was cut off. Try again.",
            )
        return content

    def copy(self, entry: Entry, place: Path) -> None:
        """Copy a file; ResourceError where it is larger than it was said, than LARGEST_COPY or than the room left."""
        import shutil

        free = shutil.disk_usage(place.parent).free
        if (entry.size or 0) > min(LARGEST_COPY, free):
            raise ResourceError(
                f"{self.url}: {entry.name!r} has {entry.size} bytes, which do not fit into {str(place.parent)!r}.",
                hint=(
                    "Set TMPDIR to a larger disk. Or save as safetensors, of which only the needed parts are copied."
                ),
            )
        with self._reporting_errors(), self._files.open(entry.path, "rb") as source, place.open("wb") as target:
            count, most = 0, min(LARGEST_UNDECLARED, LARGEST_COPY, free) if entry.size is None else entry.size
            while block := source.read(READ_BLOCK):
                count += len(block)
                if count > most:
                    raise ResourceError(
                        f"{self.url}: more than {most} bytes of {entry.name!r} came.",
                        hint=(
                            "The server did not give the file's size, or gave a wrong one. Download the file, then "
                            "name it."
                        ),
                    )
                target.write(block)

    def _sends_parts(self, entry: Entry) -> bool:
        """Tell whether a part is sent where one is asked for; a web server that sends all of it is left at once."""
        if not entry.path.startswith(WEB):
            return len(self._part(entry, 1, 2)) == 1
        with self._reporting_errors():
            try:
                with self._files.open(entry.path, "rb", block_size=1, cache_type="none", size=entry.size) as file:
                    file.seek(1)
                    return len(file.read(1)) == 1
            except ValueError:  # fsspec's word for it
                return False

    def _part(self, entry: Entry, begin: int, end: int) -> bytes:
        """Return the bytes of a file that came for those that were asked for."""
        if end == begin:
            return b""
        with self._reporting_errors():
            return bytes(self._files.cat_file(entry.path, start=begin, end=end))

    @contextmanager
    def _reporting_errors(self) -> Iterator[None]:
        """Turn whatever a backend raises into an InputError."""
        try:
            yield
        except FromageError:
            raise
        except Exception as error:
            absent = isinstance(error, FileNotFoundError)
            reason = error.__cause__ if absent and self.url.startswith(WEB) else None  # fsspec's word for any failure
            if absent and getattr(reason, "status", 404) in (404, 410) and not isinstance(reason, OSError):
                hint = "Check the address and the access rights."
                raise InputError(f"{self.url} does not exist.", hint=hint) from error
            lines = str(reason or error).strip().splitlines() or [""]
            raise InputError(
                f"{self.url} cannot be read: {type(reason or error).__name__}: {redacted(lines[0])[:200]}",
                hint="Check the address, the credentials and the connection.",
            ) from error


def _entry(found: dict[str, Any]) -> Entry:
    """Return what a backend says of a file or directory."""
    size = found.get("size")
    return Entry(
        str(found["name"]), size if type(size) is int and size >= 0 else None, found.get("type") == "directory"
    )
