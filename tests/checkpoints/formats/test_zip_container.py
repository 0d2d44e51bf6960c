import zipfile

import numpy
import pytest

from fromage_cli.checkpoints.formats.zip_container import READ_BLOCK, ZipContainer
from fromage_cli.checkpoints.storage.sources import Source
from fromage_cli.errors import InputError

CONTENT = {"empty": b"", "small": b"abc", "large": bytes(range(256)) * (READ_BLOCK // 200), "ünï/x": b"\0" * 1000}


@pytest.fixture(params=[zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"])
def path(request, tmp_path):
    made = tmp_path / "x.zip"
    with zipfile.ZipFile(made, "w", request.param) as archive:
        archive.mkdir("folder")
        for name, content in CONTENT.items():
            archive.writestr(name, content)
    return made


def test_members_are_what_was_written(path):
    container = ZipContainer(Source.of_file(path))
    assert list(container.members) == list(CONTENT)
    for name, content in CONTENT.items():
        assert container.read(name, 1 << 30) == content
        assert list(container.heads((name,), 2)) == [content[:2]]
        part = bytearray(len(content[1:-1]))
        container.read_into(name, min(1, len(content)), memoryview(part))
        assert part == content[1:-1]


def test_an_archive_of_nothing(tmp_path):
    zipfile.ZipFile(tmp_path / "x", "w").close()
    assert not ZipContainer(Source.of_file(tmp_path / "x")).members


def test_a_part_of_a_file_is_an_archive_of_its_own(path, tmp_path):
    (tmp_path / "y").write_bytes(b"before" + path.read_bytes() + b"after")
    container = ZipContainer(Source.of_part(tmp_path / "y", 6, path.stat().st_size))
    assert container.read("large", 1 << 30) == CONTENT["large"]


def test_a_member_that_is_longer_than_expected(path):
    with pytest.raises(InputError, match=r"'large' claims .* bytes, but at most 10"):
        ZipContainer(Source.of_file(path)).read("large", 10)
    with pytest.raises(InputError, match="no member 'absent'"):
        ZipContainer(Source.of_file(path)).read("absent", 10)


def test_a_checksum_is_looked_at_whichever_part_is_read(tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", bytes(5000))
    content = bytearray(path.read_bytes())
    content[4000] = 1
    path.write_bytes(content)
    part = memoryview(bytearray(10))
    with pytest.raises(InputError, match="checksum of 'a' is"):
        ZipContainer(Source.of_file(path)).read_into("a", 100, part)


def test_archives_with_long_records(tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for index in range(1 << 16):
            archive.writestr(f"{index}", b"")
        with archive.open("large", "w", force_zip64=True) as member:
            member.write(b"content")
    container = ZipContainer(Source.of_file(path))
    assert len(container.members) == (1 << 16) + 1
    assert container.read("large", 10) == b"content"


def test_an_archive_that_changes_is_noticed(path):
    container = ZipContainer(Source.of_file(path))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match="changed while it was being read"):
        container.read("small", 10)


def test_numpys_archives(tmp_path):
    numpy.savez(tmp_path / "x.npz", w=numpy.ones(3))
    assert list(ZipContainer(Source.of_file(tmp_path / "x.npz")).members) == ["w.npy"]
