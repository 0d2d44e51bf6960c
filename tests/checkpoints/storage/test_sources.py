import pytest

from fromage_cli.checkpoints.storage.sources import Source
from fromage_cli.errors import InputError

CONTENT = bytes(range(100))


@pytest.fixture
def path(tmp_path):
    (tmp_path / "x").write_bytes(CONTENT)
    return tmp_path / "x"


@pytest.fixture(params=["file", "part", "bytes"])
def source(path, request):
    """The bytes 20 to 29 in each way, but all of a file."""
    ways = {
        "file": lambda: Source.of_file(path),
        "part": lambda: Source.of_part(path, 20, 10),
        "bytes": lambda: Source.of_bytes(path, CONTENT[20:30]),
    }
    return ways[request.param]()


def test_no_bytes_beyond_the_end_are_seen(source):
    expected = CONTENT if source.size == 100 else CONTENT[20:30]
    with source.open() as file:
        file.seek(0)
        assert file.read(4) + file.read(1000) == expected
        assert file.read(1) == b""
        file.seek(source.size - 2)
        assert file.read(5) == expected[-2:]


def test_a_buffer_is_filled_from_a_position_or_refused(source):
    expected = CONTENT if source.size == 100 else CONTENT[20:30]
    buffer = bytearray(3)
    source.read_into(7, memoryview(buffer))
    assert bytes(buffer) == expected[7:10]
    with pytest.raises(InputError, match="changed while it was being read"):
        source.read_into(source.size - 2, memoryview(buffer))


@pytest.mark.parametrize(("begin", "size"), [(-1, 5), (5, -1), (96, 5)])
def test_a_part_that_does_not_lie_in_the_file_is_refused(path, begin, size):
    with pytest.raises(InputError, match="changed while it was being read"):
        Source.of_part(path, begin, size)


def test_a_file_that_changed_is_not_opened_again(path):
    source = Source.of_file(path)
    path.write_bytes(CONTENT + b"more")
    with pytest.raises(InputError, match="changed while it was being read"), source.open():
        pass
