"""The directory of a ZIP archive: which members there are and where, each claim checked against the file.

Source: PKWARE's APPNOTE.TXT 6.3.10, sections 4.3.7, 4.3.12 to 4.3.16 and 4.5.3.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from fromage_cli.checkpoints.names.naming import brief, first_twice
from fromage_cli.checkpoints.storage.files import quoted
from fromage_cli.checkpoints.storage.sources import Source, Window
from fromage_cli.errors import InputError

STORED, DEFLATED = 0, 8
"""Methods of compression."""
MOST_MEMBERS = 1_000_000
_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_COMMENT = 1 << 16
_FULL = 0xFFFFFFFF


class Member(NamedTuple):
    """One member of an archive."""

    name: str
    method: int
    checksum: int
    """CRC-32 of its content."""
    stored: int
    """Bytes in the archive."""
    size: int
    """Bytes of its content."""
    header: int
    """Where it begins, in bytes from the start of the file."""
    limit: int = 0
    """Where the next one begins."""
    encrypted: bool = False


@dataclass(frozen=True)
class _Table:
    """Where the entries are."""

    count: int
    begin: int
    end: int


def read_directory(source: Source) -> Mapping[str, Member]:
    """The members by name, in stored order; InputError for what is cut off or contradicts itself."""
    with source.open() as file:
        table = _table(file, source)
        file.seek(table.begin)
        entries = file.read(table.end - table.begin)
    try:
        found = list(_members(entries, table.count))
    except struct.error as error:
        raise damaged(source, "its table of contents ends within an entry") from error
    members = {member.name: member for member in _without_overlaps(source, found, table.begin)}
    if len(members) < len(found):
        raise damaged(source, f"it holds the member {brief(first_twice(member.name for member in found))} twice")
    return {member.name: members[member.name] for member in found if not member.name.endswith("/")}


def damaged(source: Source, reason: str) -> InputError:
    """The error for an archive that contradicts itself."""
    return InputError(f"{quoted(source.path)} is a damaged ZIP archive: {reason}.", hint="Copy or save it again.")


def incomplete_archive(source: Source) -> InputError:
    """The error for an archive whose end is missing."""
    return InputError(
        f"{quoted(source.path)} is incomplete: its table of contents is not within its {source.size} bytes.",
        hint="It was cut off while it was written or copied; take an earlier checkpoint or copy it again.",
    )


def _table(file: Window, source: Source) -> _Table:
    """Find the entries by the record at the end of the file, and the longer one that large archives have before it."""
    begin = max(0, source.size - _END.size - _COMMENT)
    file.seek(begin)
    tail = file.read(source.size - begin)
    place = tail.rfind(b"PK\x05\x06")
    if place < 0 or len(tail) - place < _END.size:
        raise incomplete_archive(source)
    _, disk, _, _, count, size, offset, comment = _END.unpack_from(tail, place)
    if place + _END.size + comment > len(tail):
        raise incomplete_archive(source)
    end = begin + place
    if place >= _LOCATOR.size and tail[place - _LOCATOR.size :].startswith(b"PK\x06\x07"):
        end = _LOCATOR.unpack_from(tail, place - _LOCATOR.size)[2]
        count, size, offset = _long_end(file, source, end)
    if disk not in (0, 0xFFFF) or offset + size != end or count > MOST_MEMBERS or count * _ENTRY.size > size:
        raise damaged(source, f"its table of contents claims {count} members in {size} bytes at {offset}")
    return _Table(count, offset, end)


def _long_end(file: Window, source: Source, place: int) -> tuple[int, int, int]:
    if place + _END64.size > source.size:
        raise incomplete_archive(source)
    file.seek(place)
    fields = _END64.unpack(file.read(_END64.size))
    if fields[0] != b"PK\x06\x06":
        raise damaged(source, "the end of its table of contents is not where it says")
    return fields[7], fields[8], fields[9]


def _members(entries: bytes, count: int) -> Iterator[Member]:
    place = 0
    for _ in range(count):
        fields = _ENTRY.unpack_from(entries, place)
        if fields[0] != b"PK\x01\x02":
            raise struct.error
        flags, method, checksum, stored, size = fields[3], fields[4], *fields[7:10]
        name_length, extra_length, comment_length, header = *fields[10:13], fields[16]
        place += _ENTRY.size
        name = entries[place : place + name_length].decode("utf-8" if flags & 0x800 else "cp437", "backslashreplace")
        extra = entries[place + name_length : place + name_length + extra_length]
        place += name_length + extra_length + comment_length
        if _FULL in (size, stored, header):
            size, stored, header = _long_sizes(extra, size, stored, header)
        yield Member(name, method, checksum, stored, size, header, encrypted=bool(flags & 1))


def _long_sizes(extra: bytes, *short: int) -> tuple[int, int, int]:
    """Sizes and place from the extra field of large members: those that do not fit, in this order."""
    place, values = 0, list(short)
    while place + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, place)
        if kind == 1:
            wide = list(struct.unpack_from(f"<{length // 8}Q", extra, place + 4))
            values = [wide.pop(0) if value == _FULL and wide else value for value in values]
        place += 4 + length
    return values[0], values[1], values[2]


def _without_overlaps(source: Source, members: list[Member], end: int) -> Iterator[Member]:
    """The members by their places, each with where the next begins; archives that inflate to much more overlap them."""
    ordered = sorted(members, key=lambda member: member.header)
    ends = [*(member.header for member in ordered[1:]), end]
    for member, following in zip(ordered, ends, strict=False):  # one more where there are no members
        if member.header + 30 + member.stored > following:
            raise damaged(source, f"the member {member.name!r} overlaps the next or the table of contents")
        yield member._replace(limit=following)
