import pytest

from fromage_cli.checkpoints.formats import msgpack_stream
from fromage_cli.checkpoints.formats.msgpack_stream import MsgpackStream, UnreadBytes
from fromage_cli.checkpoints.storage.sources import Source
from fromage_cli.errors import InputError


def read(tmp_path, content, extension=lambda code, stream: (code, stream.value())):
    path = tmp_path / "x.msgpack"
    path.write_bytes(content)
    source = Source.of_file(path)
    with source.open() as file:
        return MsgpackStream(file, source, extension).value()


@pytest.mark.parametrize(
    ("content", "value"),
    [
        ("00", 0), ("7f", 127), ("ff", -1), ("e0", -32), ("c0", None), ("c2", False), ("c3", True),
        ("cc80", 128), ("cdffff", 65535), ("ceffffffff", 2**32 - 1), ("cfffffffffffffffff", 2**64 - 1),
        ("d080", -128), ("d18000", -(2**15)), ("d280000000", -(2**31)), ("d38000000000000000", -(2**63)),
        ("ca3fc00000", 1.5), ("cb3ff8000000000000", 1.5),
        ("a0", ""), ("a26869", "hi"), ("d9026869", "hi"), ("da00026869", "hi"), ("db000000026869", "hi"),
        ("c4020102", b"\1\2"), ("c500020102", b"\1\2"), ("c6000000020102", b"\1\2"),
        ("90", []), ("920102", [1, 2]), ("dc00020102", [1, 2]), ("dd000000020102", [1, 2]),
        ("80", {}), ("81a16101", {"a": 1}), ("de0001a16101", {"a": 1}), ("df00000001a16101", {"a": 1}),
        ("d40107", (1, 7)), ("c7010207", (2, 7)), ("c80001ff07", (-1, 7)), ("c9000000010307", (3, 7)),
        ("d5010700", (1, 7)), ("d60107000000", (1, 7)), ("d701" + "07" * 8, (1, 7)), ("d801" + "07" * 16, (1, 7)),
    ],
)  # fmt: skip
def test_values_are_those_of_the_specification(tmp_path, content, value):
    found = read(tmp_path, bytes.fromhex(content))
    assert found == value and type(found) is type(value)


def test_long_binary_content_stays_in_the_file(tmp_path):
    assert read(tmp_path, b"\xc4\x40" + bytes(64)) == bytes(64)
    assert read(tmp_path, b"\x92\xc4\x41" + bytes(65) + b"\x05") == [UnreadBytes(3, 65), 5]


def test_texts_that_are_no_utf8_are_read_with_marks(tmp_path):
    assert read(tmp_path, b"\xa2\xffa") == "\ufffda"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x91", "needs at least 2 bytes, but has 1"),
        (b"\xa5hi", "needs at least 6 bytes, but has 3"),
        (b"\xdd\xff\xff\xff\xff", "incomplete"),
        (b"\xdf\x80\x00\x00\x00", "incomplete"),
        (b"\xc6\x00\x00\x01\x00" + bytes(255), "incomplete"),
        (b"\xc1", "the unknown code 0xc1 at byte 1"),
        (b"\x81\x90\x01", "a list as a key at byte 2"),
        (b"\xdb\x00\x0f\x42\x41" + bytes(1_000_001), "a text of 1000001 bytes"),
        (b"\xd4\x01\xcc\x07", "an extension longer than its stated length"),
        (b"\x91" * 70 + b"\x01", "more than 64 levels or 200000 values"),
    ],
)
def test_what_no_serialiser_writes_is_refused(tmp_path, content, words):
    with pytest.raises(InputError, match=words):
        read(tmp_path, content)


def test_no_more_values_than_the_limit_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(msgpack_stream, "MOST_VALUES", 5)
    assert read(tmp_path, b"\x94\1\2\3\4") == [1, 2, 3, 4]
    with pytest.raises(InputError, match="or 5 values"):
        read(tmp_path, b"\x95\1\2\3\4\5")
