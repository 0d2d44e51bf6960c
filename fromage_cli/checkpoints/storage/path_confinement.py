"""Files that an index names: its paths are not trusted, and have to stay in its own directory.

In a Hugging Face cache they may be links into that cache's blobs.
"""

from pathlib import Path, PurePosixPath, PureWindowsPath

from fromage_cli.checkpoints.storage.files import quoted
from fromage_cli.errors import InputError, UnsafeError


def confined_path(index: Path, file: str) -> Path:
    """Return where a file is that `index` names; UnsafeError when that is outside the index's directory."""
    parts = (*PurePosixPath(file).parts, *PureWindowsPath(file).parts)
    if not file.isprintable() and any("\ud800" <= character <= "\udfff" for character in file):
        raise InputError(
            f"{quoted(index)} names the shard {file!r}, which is not a file name.",
            hint="The index is damaged; copy it again.",
        )
    absolute = PurePosixPath(file).is_absolute() or PureWindowsPath(file).anchor or PureWindowsPath(file).drive
    if absolute or ".." in parts or not parts or "\0" in file:
        raise _outside(index, file)
    directory = index.parent
    place = directory / file
    try:
        real, home = place.resolve(), directory.resolve()
    except (OSError, RuntimeError) as error:  # a loop of links
        raise InputError(f"{quoted(place)} cannot be read: {error}.") from error
    cached = home.parent.name == "snapshots"  # a Hugging Face cache's models--…/snapshots/<revision> links into blobs
    if not real.is_relative_to(home) and not (cached and real.parent == home.parent.parent / "blobs"):
        raise _outside(index, file)
    return place


def _outside(index: Path, file: str) -> UnsafeError:
    return UnsafeError(
        f"{quoted(index)} names the shard {file!r}, which is outside its directory. Nothing there was read.",
        hint="Put the shards beside their index, and correct the index.",
    )
