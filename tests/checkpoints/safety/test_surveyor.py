"""No name that an unpickler of Python resolves is missing from a survey, whatever the opcodes before it."""

import io
import pickle
import random
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fromage_cli.checkpoints.pickles.allowance import Allowance
from fromage_cli.checkpoints.pickles.opcodes import OPCODES
from fromage_cli.checkpoints.pickles.pickle_stream import GivenUp, PickleStream
from fromage_cli.checkpoints.pickles.unpickling import RULE_BREAKS, run
from fromage_cli.checkpoints.safety.surveyor import Surveyor
from fromage_cli.errors import InputError


class Anything:
    """Takes part in whatever a pickle does."""

    def __new__(cls, *args, **kwargs):
        return object.__new__(Anything)

    def __init__(self, *args, **kwargs):
        pass

    def __call__(self, *args, **kwargs):
        return Anything()

    def __setitem__(self, key, value):
        pass

    def __setstate__(self, state):
        pass

    def append(self, item):
        pass

    extend = add = append


REAL = {("collections", "OrderedDict"), ("builtins", "list"), ("builtins", "tuple"), ("builtins", "set")}
REAL |= {("_codecs", "encode"), ("builtins", "bytes"), ("builtins", "bytearray"), ("builtins", "frozenset")}


def resolved(unpickler, content):
    """The names that an unpickler asks for, up to where it ends."""
    seen = []

    class Recording(unpickler):
        def find_class(self, module, name):
            seen.append((module, name))
            return super().find_class(module, name) if (module, name) in REAL else Anything()

        def persistent_load(self, identifier):
            return identifier

    try:
        Recording(io.BytesIO(content), buffers=[b""] * 9).load()
    except Exception:  # whatever it is
        return seen, False
    return seen, True


def surveyed(content):
    """The names in a survey, and what ended it early, if anything did."""
    surveyor = Surveyor(PickleStream(io.BytesIO(content), Path("x"), len(content)), Allowance(len(content)))
    ended = None
    try:
        run(surveyor)
    except (InputError, *RULE_BREAKS) as error:
        ended = error
    return {(named.module, named.name) for named in surveyor.uses}, ended


def check(content, *unpicklers):
    found, ended = surveyed(content)
    if isinstance(ended, GivenUp):  # which is said: the unpicklers themselves differ
        return
    for unpickler in (pickle._Unpickler, *unpicklers):
        names, complete = resolved(unpickler, content)
        assert set(names) <= found
        assert not (ended and complete)


def text(value):
    return b"\x8c" + bytes([len(value)]) + value


PLACES = st.integers(0, 6)
NAMES = [b"os", b"system", b"collections", b"OrderedDict", b"builtins", b"list", b"tuple", b"posix", b"bytes", b"a.b"]
LINES = [
    b"0",
    b"1",
    b"01",
    b"00",
    b"0x10",
    b"010",
    b" 3 ",
    b"1_0",
    b"3\x00rubbish",
    b"-1",
    b"9" * 30,
    b"0b11",
    b"",
    b"5L",
]
PIECES = st.one_of(
    st.sampled_from(NAMES).map(text),
    st.sampled_from(NAMES).map(text),
    st.sampled_from(NAMES).map(lambda value: b"V" + value + b"\n"),
    st.sampled_from(NAMES).map(lambda value: b"S'" + value + b"'\n"),
    st.sampled_from(NAMES).map(lambda value: b"U" + bytes([len(value)]) + value),
    st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES)).map(lambda two: b"c%s\n%s\n" % two),
    st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES)).map(lambda two: b"i%s\n%s\n" % two),
    st.tuples(st.sampled_from([b"p", b"g", b"I", b"L", b"F"]), st.sampled_from(LINES)).map(lambda two: b"%s%s\n" % two),
    st.tuples(st.sampled_from([b"q", b"h"]), PLACES).map(lambda two: two[0] + bytes([two[1]])),
    st.tuples(st.sampled_from([b"r", b"j"]), PLACES).map(lambda two: two[0] + struct.pack("<I", two[1])),
    st.sampled_from(
        [b"\x94", b"\x93", b"\x93", b"(", b"(", b"0", b"1", b"2", b"N", b")", b"]", b"}", b"\x8f", b"t", b"l"]
    ),
    st.sampled_from(
        [b"d", b"\x91", b"\x85", b"\x86", b"\x87", b"a", b"e", b"\x90", b"s", b"u", b"b", b"R", b"o", b"Q"]
    ),
    st.sampled_from([b"\x81", b"\x92", b"\x97", b"\x98", b"K\x01", b"J\xff\xff\xff\xff", b"C\x01x", b"\x88"]),
    st.sampled_from(
        [b"\x8a\x02\x00\x01", b"\x8b\x00\x01\x00\x00" + bytes(256), b"\x95" + struct.pack("<Q", 3), b"\x80\x04"]
    ),
    st.binary(min_size=1, max_size=3).filter(
        lambda content: not {*b"r\x96"} & {*content}
    ),  # the reader in C takes room
)


@given(pieces=st.lists(PIECES, min_size=1, max_size=25))
@settings(max_examples=250, deadline=None)
def test_no_name_is_missed_in_opcodes_at_random(pieces):
    check(b"\x80\x04" + b"".join(pieces) + b".", pickle.Unpickler)
    check(b"".join(pieces) + b".", pickle.Unpickler)


def samples():
    value = {
        "a": [1, (2.5, {3, 4}), frozenset("ab")],
        "b": io.BytesIO,
        "c": Path("x"),
        1 << 70: b"y" * 300,
        ((1,), 2): -1,
    }
    return [pickle.dumps([value, value, RULE_BREAKS], protocol) for protocol in range(6)]


def test_no_name_is_missed_in_pickles_that_were_changed():
    generator = random.Random(0)
    for content in samples():
        for _ in range(120):
            changed = bytearray(content)
            for _ in range(generator.randint(1, 4)):
                place = generator.randrange(len(changed))
                changed[place] = generator.choice([generator.randrange(256), *OPCODES])
            check(bytes(changed))


@pytest.mark.parametrize(
    "content",
    [
        b"Nq\x01q\x00q\x01\x8c\x0bcollectionsq\x03\x8c\x05posix\x940h\x03\x8c\x06system\x93.",
        b"I0x10\n0cos\nsystem\n.",
        b"I010\n0cos\nsystem\n.",
        b"N\x80\x04\x8b\x00\x01\x00\x00" + bytes(256) + b"0cos\nsystem\n.",
        b"}\x8a\x0a" + b"\x01" * 10 + b"Ns0cos\nsystem\n.",
        b"})\x85\x85Ns0cos\nsystem\n.",
        b"}]Ns0cos\nsystem\n.",
        b"](K\x01e(K\x02lK\x00K\x07s0cos\nsystem\n.",
        b"N0cos\nsystemX",
        b"\x97\x980cos\nsystem\n.",
        b"N(cos\nsystem\n(S'a'\nl\x81.",
        b"Np3\x00x\nNp1\x00y\n0g1\n0cos\nsystem\n.",
        b"(cos\nsystem\nN(lios\nsystem\n.",
    ],
)
def test_what_python_takes_hides_no_name(content):
    check(content, pickle.Unpickler)
    assert ("os", "system") in surveyed(content)[0] or ("posix", "system") in surveyed(content)[0]


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x04\x95" + struct.pack("<Q", 3) + text(b"os") + b".",
        b"\x80\x04\x95" + struct.pack("<Q", 5) + b"cos\nsystem\n.",
        b"\x80\x04\x95" + struct.pack("<Q", 12) + b"N0\x95" + struct.pack("<Q", 9) + b"N0N0N0N0N0.",
    ],
)
def test_where_unpicklers_differ_at_the_end_of_a_frame_it_is_said(content):
    assert isinstance(surveyed(content)[1], GivenUp)


def test_a_place_of_the_memo_beyond_all_is_given_up():
    with pytest.raises(InputError, match="Reading stopped"):
        content = b"Np%d\n." % 2**70
        run(Surveyor(PickleStream(io.BytesIO(content), Path("x"), len(content)), Allowance(len(content))))
