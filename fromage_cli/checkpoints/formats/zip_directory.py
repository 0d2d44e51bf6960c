"""The directory of a ZIP archive: which members there are and where, each claim checked against the file.

Source: PKWARE's APPNOTE.TXT 6.3.10, sections 4.3.7, 4.3.12 to 4.3.16 and 4.5.3.
"""

import struct
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from fromage_cli.checkpoints.names.naming import brief, first_twice
from fromage_cli.checkpoints.storage.files import CUT_OFF, quoted
from fromage_cli.checkpoints.storage.sources import Source, Window
from fromage_cli.errors import InputError

STORED, DEFLATED = 0, 8
"""Methods of compression."""
MOST_MEMBERS = 1_000_000
"""Members that are listed: a tensor has one, and each takes some hundred bytes of memory."""
LOCAL_HEADER = 30
"""Bytes of the header before a member, without its name and extra field."""
_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LONGEST_COMMENT = 1 << 16
"""Bytes that may follow the record at the end of the file: its length has two."""
_IN_EXTRA_FIELD = 0xFFFFFFFF
"""What stands for a number of more than 32 bits."""


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


def read_directory(source: Source) -> Mapping[str, Member]:
    """Return the members by name, in stored order; InputError for what is cut off or contradicts itself."""
    with source.open() as file:
        count, begin, end = _find_entries(file, source)
        file.seek(begin)
        entries = file.read(end - begin)
    try:
        found = list(_parse_entries(entries, count))
    except struct.error as error:
        raise damaged(source, "its table of contents ends within an entry") from error
    ordered = sorted(found, key=lambda member: member.header)
    limits = [*(member.header for member in ordered[1:]), begin]  # where the next member begins, or the table
    members = {}
    for member, limit in zip(ordered, limits, strict=False):  # a limit more where there are no members
        if member.header + LOCAL_HEADER + member.stored > limit:  # so do archives that inflate to very much
            raise damaged(source, f"the member {member.name!r} overlaps the next or the table of contents")
        members[member.name] = member._replace(limit=limit)
    if len(members) < len(found):
        raise damaged(source, f"it holds the member {brief(first_twice(member.name for member in found))} twice")
    return {member.name: members[member.name] for member in found if not member.name.endswith("/")}


def damaged(source: Source, reason: str) -> InputError:
    """Return the error for an archive that contradicts itself."""
    return InputError(f"{quoted(source.path)} is a damaged ZIP archive: {reason}.", hint="Copy or save it again.")


def _find_entries(file: Window, source: Source) -> tuple[int, int, int]:
    """Return how many entries there are, where they begin and end, by the record at the end of the file.

    Large archives have a longer record before that one.
    """
    incomplete = InputError(
        f"{quoted(source.path)} is incomplete: its table of contents is not within its {source.size} bytes.",
        hint=CUT_OFF,
    )
    begin = max(0, source.size - _END.size - _LONGEST_COMMENT)
    file.seek(begin)
    tail = file.read(source.size - begin)
    place = tail.rfind(b"PK\x05\x06")
    if place < 0 or len(tail) - place < _END.size:
        raise incomplete
    _, disk, _, _, count, size, offset, comment = _END.unpack_from(tail, place)
    if place + _END.size + comment > len(tail):
        raise incomplete
    end = begin + place
    if place >= _LOCATOR.size and tail[place - _LOCATOR.size :].startswith(b"PK\x06\x07"):
        end = _LOCATOR.unpack_from(tail, place - _LOCATOR.size)[2]
        if end + _END64.size > source.size:
            raise incomplete
        file.seek(end)
        mark, *_, count, size, offset = _END64.unpack(file.read(_END64.size))
        if mark != b"PK\x06\x06":
            raise damaged(source, "its table of contents does not end where it says")
    if disk not in (0, 0xFFFF) or offset + size != end or count > MOST_MEMBERS or count * _ENTRY.size > size:
        raise damaged(source, f"its table of contents claims {count} members in {size} bytes at {offset}")
    return count, offset, end


def _parse_entries(entries: bytes, count: int) -> Iterator[Member]:
    """Yield the members that a table of contents lists; raises struct.error where it ends within an entry."""
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
        if _IN_EXTRA_FIELD in (size, stored, header):
            size, stored, header = _from_extra_field(extra, size, stored, header)
        yield Member(name, method, checksum, stored, size, header, encrypted=bool(flags & 1))


def _from_extra_field(extra: bytes, *short: int) -> tuple[int, int, int]:
    """Return sizes and place of a large member: what does not fit into 32 bits stands in its extra field, in order."""
    place, values = 0, list(short)
    while place + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, place)
        if kind == 1:
            wide = list(struct.unpack_from(f"<{length // 8}Q", extra, place + 4))
            values = [wide.pop(0) if value == _IN_EXTRA_FIELD and wide else value for value in values]
        place += 4 + length
    return values[0], values[1], values[2]
