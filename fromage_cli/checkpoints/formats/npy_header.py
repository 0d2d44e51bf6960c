"""The header of an array in NumPy's format, without NumPy: it is matched, never evaluated.

Layout: magic, version, length, the text of a Python dictionary {'descr', 'fortran_order', 'shape'}, the elements.
Source: numpy/lib/format.py, versions 1.0 to 3.0.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from fromage_cli.checkpoints.pickles.numpy_pickles import CODES
from fromage_cli.checkpoints.pickles.pickle_stream import Readable
from fromage_cli.checkpoints.storage.stored_tensor import is_shape

MAGIC = b"\x93NUMPY"
LONGEST = 1_000_000
"""Bytes; NumPy itself reads a hundredth of that."""
_DESCRIPTION = re.compile(r"""['"]descr['"]\s*:\s*(?:(?P<quote>['"])(?P<code>[^'"]{1,100})(?P=quote)|(?P<fields>\[))""")
_ORDER = re.compile(r"""['"]fortran_order['"]\s*:\s*(True|False)""")
_SHAPE = re.compile(r"""['"]shape['"]\s*:\s*\(([0-9L, ]{0,2000})\)""")
_OBJECTS = re.compile(r"""['"][|<>=]?O[0-9]*['"]""")
_TEXT_OR_TIME = re.compile(r"[|<>=]?[SUVMma]")


@dataclass(frozen=True)
class ArrayHeader:
    """What the header of an array says."""

    begin: int
    """Where the elements begin."""
    shape: tuple[int, ...]
    fortran: bool
    """Whether the first index moves fastest."""
    dtype: str | None
    """torch's name of it; None where the elements are no plain numbers."""
    width: int = 0
    """Bytes per element, where they are plain numbers."""
    big_endian: bool = False
    objects: bool = False
    """Whether pickled objects follow, in the array itself or in a field of it."""

    @property
    def size(self) -> int:
        """Bytes of all elements."""
        return math.prod(self.shape) * self.width

    @property
    def stride(self) -> tuple[int, ...]:
        """In elements."""
        if self.fortran:
            return tuple(math.prod(self.shape[:axis]) for axis in range(len(self.shape)))
        return tuple(math.prod(self.shape[axis + 1 :]) for axis in range(len(self.shape)))


def header_length(head: bytes) -> tuple[int, int]:
    """Where the text of the header begins and how long it is, from the first twelve bytes.

    Raises ValueError where this is no array, or none of a known version.
    """
    if not head.startswith(MAGIC) or len(head) < 12:
        raise ValueError("it does not begin as an array does")
    width = 2 if head[6] == 1 else 4
    if head[6] not in (1, 2, 3):
        raise ValueError(f"its format has the unknown version {head[6]}.{head[7]}")
    length = int.from_bytes(head[8 : 8 + width], "little")
    if length > LONGEST:
        raise ValueError(f"its header claims {length} bytes")
    return 8 + width, length


def parse_header(text: bytes, begin: int) -> ArrayHeader:
    """What a header says whose elements begin at `begin`; ValueError for what NumPy would not have written."""
    words = text.decode("utf-8", "replace")
    description, order, shape = (pattern.search(words) for pattern in (_DESCRIPTION, _ORDER, _SHAPE))
    if description is None or order is None or shape is None:
        raise ValueError(f"its header is {words[:60]!r}")
    sizes = tuple(int(size.strip(" L")) for size in shape[1].split(",") if size.strip(" L"))
    if not is_shape(sizes):
        raise ValueError(f"its shape is {shape[1][:60]!r}")
    code = description["code"] or ""
    if description["fields"] or code.lstrip("|<>=") not in CODES:
        return _without_numbers(words, code, begin, sizes, bool(description["fields"]))
    name, width = CODES[code.lstrip("|<>=")], int(code.lstrip("|<>=")[1:])
    return ArrayHeader(begin, sizes, order[1] == "True", name, width, code.startswith(">"))


def _without_numbers(words: str, code: str, begin: int, sizes: tuple[int, ...], fields: bool) -> ArrayHeader:
    if objects := bool(_OBJECTS.search(words)):
        return ArrayHeader(begin, sizes, False, None, objects=objects)
    if not fields and not _TEXT_OR_TIME.match(code) and not re.fullmatch(r"[|<>=]?[fcbiu][0-9]{1,2}", code):
        raise ValueError(f"its dtype is {code[:30]!r}")
    return ArrayHeader(begin, sizes, False, None)


def pickle_in_array(file: Readable) -> int | None:
    """Where the pickle of an array of objects begins; None for an array of anything else, or a damaged one."""
    file.seek(0)
    try:
        begin, length = header_length(file.read(12))
        file.seek(begin)
        header = parse_header(file.read(length), begin + length)
    except ValueError:
        return None
    return header.begin if header.objects else None
