import hashlib
import os
from pathlib import Path

import pytest

from fromage_cli.errors import InputError
from fromage_cli.watching.fingerprint import BLOCK, content_of, state_of


def test_the_content_of_a_file_is_its_sha256(tmp_path: Path) -> None:
    data = os.urandom(2 * BLOCK + 17)
    (tmp_path / "a").write_bytes(data)
    assert content_of(tmp_path / "a", (tmp_path / "a",)) == hashlib.sha256(data).hexdigest()


def test_the_content_of_a_directory_is_that_of_sha256sums_lines(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    lines = "".join(f"{hashlib.sha256(name.encode()).hexdigest()}  {name}\n" for name in ("a", "b"))
    found = content_of(tmp_path, (tmp_path / "a", tmp_path / "b"))
    assert found == hashlib.sha256(lines.encode()).hexdigest()


def test_the_same_bytes_elsewhere_are_the_same_content(tmp_path: Path) -> None:
    for home in ("first", "second"):
        (tmp_path / home).mkdir()
        (tmp_path / home / "a").write_text("x")
    first, second = ((tmp_path / home, (tmp_path / home / "a",)) for home in ("first", "second"))
    assert content_of(*first) == content_of(*second) and state_of(*first) != state_of(*second)


@pytest.mark.parametrize("reopened", [False, True])
def test_every_byte_and_every_change_of_the_file_counts(tmp_path: Path, reopened: bool) -> None:
    file = tmp_path / "a"
    file.write_bytes(bytes(3 * BLOCK))
    content, state = content_of(file, (file,)), state_of(file, (file,), reopened=reopened)
    assert state_of(file, (file,), reopened=reopened) == state
    times = file.stat()
    with file.open("r+b") as stream:  # one byte in the middle, of the same size, with the old times put back
        stream.seek(BLOCK + 5)
        stream.write(b"\x01")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert content_of(file, (file,)) != content
    assert state_of(file, (file,), reopened=reopened) != state


@pytest.mark.parametrize("ask", [content_of, state_of])
def test_a_file_that_is_gone_is_an_input_error(tmp_path: Path, ask: object) -> None:
    assert callable(ask)
    with pytest.raises(InputError, match="does not exist"):
        ask(tmp_path, (tmp_path / "a",))
