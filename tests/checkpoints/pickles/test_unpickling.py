import collections
import io
import os
import pickle
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fromage_cli.checkpoints.pickles.constructors import CONSTRUCTORS
from fromage_cli.checkpoints.pickles.pickle_stream import PickleStream
from fromage_cli.checkpoints.pickles.placeholders import Placeholder
from fromage_cli.checkpoints.pickles.unpickling import unpickle
from fromage_cli.errors import InputError

SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**400), 2**400) | st.floats(allow_nan=False) | st.text() | st.binary()
)
KEYS = st.text() | st.integers(-(2**63), 2**63) | st.binary() | st.tuples(st.text(), st.integers(0, 9)) | st.none()
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(KEYS, inner)
        | st.lists(inner).map(tuple)
        | st.sets(st.integers(0, 99))
        | st.frozensets(st.text())
        | st.dictionaries(KEYS, inner).map(collections.OrderedDict)
        | st.complex_numbers(allow_nan=False)
    ),
    max_leaves=30,
)


def read(content, constructors=CONSTRUCTORS):
    return unpickle(PickleStream(io.BytesIO(content), Path("x"), len(content)), constructors)


@given(value=VALUES)
@settings(max_examples=60, deadline=None)
def test_plain_values_are_what_python_reads(value):
    for protocol in range(6):
        content = pickle.dumps(value, protocol)
        unpickled = read(content)
        assert unpickled.value == pickle.loads(content)
        assert unpickled.end == len(content)


class Net(dict):
    def __init__(self, size, *, name):
        self.size = size
        self.name = name

    def __getnewargs_ex__(self):
        return (self.size,), {"name": self.name}

    def __new__(cls, size, *, name):
        return super().__new__(cls)


def test_an_object_of_unknown_class_is_a_record():
    net = Net(3, name="x")
    net["w"] = 1.5
    unpickled = read(pickle.dumps([net, net], 4))
    first, second = unpickled.value
    assert first is second
    assert isinstance(first, Placeholder)
    assert (first.kind.name, first.args, dict(first.kwargs)) == ("Net", (3,), {"name": "x"})
    assert (first.attributes, first.pairs) == ({"size": 3, "name": "x"}, {"w": 1.5})
    assert {**first.attributes, **first.pairs} == {"size": 3, "name": "x", "w": 1.5}
    (named,) = unpickled.names
    assert (named.module, named.uses) == (Net.__module__, ("import", "create", "build"))


def test_names_come_in_order_with_their_uses():
    content = b"cos\nsystem\n0cposix\ngetcwd\n)R0ccollections\nOrderedDict\n)R."
    unpickled = read(content)
    assert [(named.dotted, named.uses) for named in unpickled.names] == [
        ("os.system", ("import",)),
        ("posix.getcwd", ("import", "call")),
        ("collections.OrderedDict", ("import", "call")),
    ]
    assert unpickled.value == {}


@pytest.mark.parametrize("protocol", range(6))
def test_nothing_is_imported(protocol, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "unknown_module.py").write_text("raise SystemExit")
    content = pickle.dumps(collections.OrderedDict, protocol).replace(b"collections", b"unknown_module"[:11])
    read(content)
    assert read(b"cunknown_module\nThing\n)R.").value.kind.module == "unknown_module"
    assert "unknown_module" not in sys.modules


@pytest.mark.parametrize(
    "content",
    [
        b"Nq\x01q\x00q\x010\x8c\x01aq\x03\x94\x8c\x01b\x94(h\x00h\x01h\x03t.",
        b"K\x07q\x05q\x030K\x08\x940K\x09\x94(h\x02h\x03h\x05t.",
        b"K\x07p00000000000000000000000001\n0g1\n.",
        b"I0x10\n.",
        b"L-0b11L\n.",
        b"I00\n.",
        b"I01\n.",
        b"I010\n.",
    ],
)
def test_the_memo_and_numbers_are_those_of_python(content):
    assert read(content).value == pickle.loads(content)


def test_what_a_constructor_does_not_take_stays_a_record():
    value = read(b"ccollections\nOrderedDict\n(K\x01K\x02tR.").value
    assert isinstance(value, Placeholder)
    assert value.args == (1, 2)


def test_an_error_says_where(tmp_path):
    with pytest.raises(InputError, match=r"'x' cannot be read: the unknown opcode 0xff at byte 3 of its pickle"):
        read(b"\x80\x02\xff")
    with pytest.raises(InputError, match=r"incomplete: at byte .* 1000 more bytes were expected, but 1 are left"):
        read(b"\x80\x04B\xe8\x03\x00\x00x")


def test_a_large_vocabulary_fits_into_the_limits():
    vocabulary = {f"token{index}": index for index in range(100_000)}
    content = pickle.dumps(vocabulary, 2)
    assert read(content).value == vocabulary


def test_a_stream_reads_across_its_window(tmp_path):
    path = tmp_path / "x"
    value = [os.urandom(70_000), "y" * 70_000, list(range(50_000))]
    path.write_bytes(b"before" + pickle.dumps(value, 4) + b"after")
    with path.open("rb") as file:
        unpickled = unpickle(PickleStream(file, path, path.stat().st_size, begin=6), CONSTRUCTORS)
    assert unpickled.value == value
    assert unpickled.end == path.stat().st_size - 5
