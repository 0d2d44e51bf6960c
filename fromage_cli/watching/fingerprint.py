"""What files hold, by a hash of all their bytes, and the state that they are in, without reading them."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from fromage_cli.checkpoints.storage.files import input_errors_about, opened

BLOCK = 1 << 20
"""Bytes hashed at a time, so that a file of any size takes this much memory."""


def state_of(home: Path, files: Sequence[Path], *, reopened: bool = False) -> str:
    """Return a name for the present state of files: device, inode, size, and both times of change in nanoseconds.

    `reopened`: each file is opened first, so that a network file system asks its server. Raises InputError where a
    file is gone.
    """
    digest = hashlib.sha256()
    for file in files:
        with input_errors_about(file):
            if reopened:
                with file.open("rb") as stream:
                    status = os.fstat(stream.fileno())
            else:
                status = file.stat()
        name = os.path.relpath(file, home)
        state = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        digest.update(f"{name!r} {state}\n".encode())
    return digest.hexdigest()


def content_of(home: Path, files: Sequence[Path]) -> str:
    """Return the SHA-256 of what files hold: of one file that of its bytes, of several that of `sha256sum`'s lines.

    So the same checkpoint in another place has the same hash. Raises InputError where a file cannot be read.
    """
    hashes = {file: _hash_of(file) for file in files}
    if list(files) == [home]:
        return hashes[home]
    lines = "".join(f"{found}  {os.path.relpath(file, home)}\n" for file, found in hashes.items())
    return hashlib.sha256(os.fsencode(lines)).hexdigest()


def _hash_of(file: Path) -> str:
    digest = hashlib.sha256()
    with opened(file) as stream, input_errors_about(file):
        while block := stream.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
