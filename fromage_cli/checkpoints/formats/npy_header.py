"""The header of an array in NumPy's format, without NumPy: it is matched, never evaluated.

Layout: magic, version, length, the text of a Python dictionary {'descr', 'fortran_order', 'shape'}, the elements.
Source: numpy/lib/format.py, versions 1.0 to 3.0.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from fromage_cli.checkpoints.pickles.numpy_pickles import CODES
from fromage_cli.checkpoints.pickles.pickle_stream import Readable
from fromage_cli.checkpoints.storage.stored_tensor import contiguous_strides, is_shape

NPY_MAGIC = b"\x93NUMPY"
LONGEST_HEADER = 1_000_000
"""Bytes; NumPy itself reads a hundredth of that."""
_DESCRIPTION = re.compile(r"""['"]descr['"]\s*:\s*(?:(?P<quote>['"])(?P<code>[^'"]{1,100})(?P=quote)|(?P<fields>\[))""")
_ORDER = re.compile(r"""['"]fortran_order['"]\s*:\s*(True|False)""")
_SHAPE = re.compile(r"""['"]shape['"]\s*:\s*\(([0-9L, ]{0,2000})\)""")
_OBJECTS = re.compile(r"""(?<![a-zA-Z])O(?![a-zA-Z])|[Oo]bject|\\|[^\s(,\['"]['"]\s*['"]""")
"""The code of objects, alone or among others; and spellings that NumPy evaluates but never writes."""
_OTHER_DTYPE = re.compile(r"[|<>=]?([SUVa][0-9]*|[Mm]8?(\[[0-9a-zA-Z/]*\])?|[fcbiu][0-9]{1,2})")
"""Texts, times, and numbers of a width that tensors do not have."""


@dataclass(frozen=True)
class ArrayHeader:
    """What the header of an array says."""

    begin: int
    """Where the elements begin."""
    shape: tuple[int, ...]
    fortran: bool = False
    """Whether the first index moves fastest."""
    dtype: str | None = None
    """torch's name of it; None where the elements are no plain numbers."""
    width: int = 0
    """Bytes per element, where they are plain numbers."""
    big_endian: bool = False
    objects: bool = False
    """Whether pickled objects follow, in the array itself or in a field of it."""

    @property
    def size(self) -> int:
        """Return the bytes of all elements."""
        return math.prod(self.shape) * self.width

    @property
    def stride(self) -> tuple[int, ...]:
        """Return the strides, in elements."""
        return contiguous_strides(self.shape, self.fortran)


def read_array_header(first_bytes: Callable[[int], bytes]) -> ArrayHeader:
    """Read a header; `first_bytes` returns as many from the beginning of the array as it is asked for, or all.

    Raises ValueError where this is no array, or not as NumPy would have written it.
    """
    head = first_bytes(12)
    if not head.startswith(NPY_MAGIC) or len(head) < 12:
        raise ValueError("it does not begin like an array file")
    if head[6] not in (1, 2, 3):
        raise ValueError(f"its format has the unknown version {head[6]}.{head[7]}")
    begin = 10 if head[6] == 1 else 12  # version 1 gives the length of the text two bytes, later ones four
    length = int.from_bytes(head[8:begin], "little")
    if length > LONGEST_HEADER:
        raise ValueError(f"its header claims {length} bytes")
    return parse_header(first_bytes(begin + length)[begin:], begin + length)


def parse_header(text: bytes, begin: int) -> ArrayHeader:
    """Return what a header says whose elements begin at `begin`; ValueError for what NumPy would not have written."""
    words = text.decode("utf-8", "replace")
    description, order, shape = (pattern.search(words) for pattern in (_DESCRIPTION, _ORDER, _SHAPE))
    if description is None or order is None or shape is None:
        raise ValueError(f"its header is {words[:60]!r}")
    sizes = tuple(int(size.strip(" L")) for size in shape[1].split(",") if size.strip(" L"))
    if not is_shape(sizes):
        raise ValueError(f"its shape is {shape[1][:60]!r}")
    if _OBJECTS.search(words) or "\n" in words.rstrip():
        return ArrayHeader(begin, sizes, objects=True)
    code = description["code"] or ""
    bare = code.lstrip("|<>=")
    if not description["fields"] and bare in CODES:
        return ArrayHeader(begin, sizes, order[1] == "True", CODES[bare], int(bare[1:]), code.startswith(">"))
    if not description["fields"] and not _OTHER_DTYPE.fullmatch(code):
        raise ValueError(f"its dtype is {code[:30]!r}")
    return ArrayHeader(begin, sizes)


def pickle_in_array(file: Readable) -> int | None:
    """Return where the pickle of an array of objects begins; None for an array of anything else, or a damaged one."""

    def first_bytes(count: int) -> bytes:
        file.seek(0)
        return file.read(count)

    try:
        header = read_array_header(first_bytes)
    except ValueError:
        return None
    return header.begin if header.objects else None
