"""A ZIP archive as a container of tensors: members read at a given position, their checksums verified.

PyTorch and NumPy write members as they are; archives packed again by other tools have compressed ones, which are
inflated as a whole, up to a limit.
"""

import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from fromage_cli.checkpoints.formats.zip_directory import (
    DEFLATED,
    LOCAL_HEADER,
    STORED,
    Member,
    damaged,
    read_directory,
)
from fromage_cli.checkpoints.storage.files import READ_BLOCK, quoted
from fromage_cli.checkpoints.storage.sharing import kept
from fromage_cli.checkpoints.storage.sources import Source, Window
from fromage_cli.checkpoints.storage.stored_tensor import Storage
from fromage_cli.errors import InputError

BASE_INFLATED, BASE_PICKLE, INFLATION = 24_000_000, 1_000_000, 16
"""Bytes to which compressed members may inflate: BASE_INFLATED, or INFLATION times the archive where that is more.

Likewise a pickle, by its own compressed bytes. Weights deflate to a half, pickles to a tenth of their size.
"""
LONGEST_CODE = 1024
"""Bytes before the first inflated one: the codes of a deflated block take a third of that."""
PASSES = 16
"""Times that as many bytes may be inflated in all: tensors that lie in large members in turn inflate them for each."""


class ZipContainer:
    """The members of one archive."""

    def __init__(self, source: Source, inflation: int = INFLATION) -> None:
        """Read the directory; raises InputError where it is cut off or damaged."""
        self.source = source
        self._most_inflated = max(BASE_INFLATED, inflation * source.size)
        self.members: Mapping[str, Member] = read_directory(source)
        self.has_checksums = any(member.checksum for member in self.members.values())
        """PyTorch can be told to leave them out."""
        place = (ZipContainer, source.version, source.begin)
        self._verified: set[str] = set() if source.version is None else kept().setdefault(place, set())
        self._compressed = sum(member.size for member in self.members.values() if member.method == DEFLATED)
        self._kept: dict[str, bytes] = {}
        self._kept_bytes = 0
        self._done = 0  # bytes that were inflated
        self._inflating = threading.Lock()

    @property
    def path(self) -> Path:
        """Return the path of the archive."""
        return self.source.path

    def read(self, name: str, limit: int) -> bytes:
        """Return the content of a member of at most `limit` bytes."""
        member = self.member(name)
        if member.size > limit:
            raise damaged(
                self.source, f"the member {name!r} claims {member.size} bytes, but at most {limit} are expected"
            )
        content = bytearray(member.size)
        self.read_into(name, 0, memoryview(content))
        return bytes(content)

    def read_pickle(self, name: str) -> bytes:
        """Return the content of a member that is a pickle; InputError where it inflates to very much more."""
        member = self.member(name)
        stored = member.method == STORED
        return self.read(name, member.size if stored else max(BASE_PICKLE, INFLATION * member.stored))

    def heads(self, names: Iterable[str], count: int) -> Iterator[bytes]:
        """Yield the first bytes of members, at most `count` of each, without their checksums."""
        with self.source.open() as file:
            for member in map(self.member, names):
                file.seek(self._data(file, member))
                if member.method == STORED:
                    yield file.read(min(count, member.size))
                else:
                    packed = file.read(min(member.stored, 2 * count + LONGEST_CODE))
                    yield self._decompress(member, packed, count)

    def content(self, name: str) -> Source:
        """Return the bytes of a member, without its checksum where they are stored as they are."""
        member = self.member(name)
        if member.method == DEFLATED:
            return Source.of_bytes(self.path, self.read_pickle(name))
        with self.source.open() as file:
            begin = self._data(file, member)
        if self.source.version is None:
            return Source.of_bytes(self.path, self.source.stored[begin : begin + member.size])
        return replace(self.source, begin=self.source.begin + begin, size=member.size)

    def member(self, name: str) -> Member:
        """Return a member; InputError where there is none of that name or it cannot be read."""
        member = self.members.get(name)
        if member is None:
            raise damaged(self.source, f"it has no member {name!r}")
        if member.encrypted or member.method not in (STORED, DEFLATED):
            kind = "encrypted" if member.encrypted else f"compressed by method {member.method}"
            raise InputError(
                f"{quoted(self.path)}: the member {name!r} is {kind}.", hint="Unpack it, and save it again."
            )
        if member.method == STORED and member.stored != member.size:
            raise damaged(self.source, f"the member {name!r} has {member.stored} bytes but claims {member.size}")
        return member

    def read_into(self, name: str, begin: int, view: memoryview) -> None:
        """Fill a buffer from a member, from its byte `begin` on; the first time, the whole member is verified."""
        member = self.member(name)
        if begin + len(view) > member.size:
            raise damaged(
                self.source, f"the member {name!r} has {member.size} bytes, but {begin + len(view)} are expected"
            )
        if member.method == DEFLATED:
            with self._inflating:  # threads that want the same member wait for the first of them
                content = self._inflate(member)
            view[:] = content[begin : begin + len(view)]
            return
        if begin or len(view) < member.size:
            self.verify(name)
        unverified, checksum = self._unverified(member), 0
        with self.source.open() as file:
            file.seek(self._data(file, member) + begin)
            for part in (view[at : at + READ_BLOCK] for at in range(0, len(view), READ_BLOCK)):
                file.fill(part)
                checksum = zlib.crc32(part, checksum) if unverified else 0
        if unverified:
            self._compare(member, checksum)

    def storage(self, name: str, key: str, dtype: str, size: int, big_endian: bool = False) -> Storage:
        """Return the bytes of a member as the memory of tensors; InputError where it has fewer than `size`."""
        member = self.member(name)
        if member.size < size:
            raise damaged(self.source, f"the storage {name!r} has {member.size} bytes, but its tensors need {size}")
        read_into, verify = partial(self.read_into, name), partial(self.verify, name)
        return Storage(key, dtype, size, read_into, big_endian, verify=verify, compressed=member.method == DEFLATED)

    def positions(self, names: Iterable[str]) -> dict[str, int]:
        """Return where members lie that are not compressed, in bytes from the start of the file."""
        with self.source.open() as file:
            stored = (member for name in names if (member := self.member(name)).method == STORED)
            return {member.name: self.source.begin + self._data(file, member) for member in stored}

    def verify(self, name: str) -> None:
        """Compare a member's checksum, unless that has been done or is done when it is inflated.

        Raises InputError where it is another, or the file is not what it was.
        """
        member = self.member(name)
        self.source.check_unchanged()
        if member.method == DEFLATED or not self._unverified(member):
            return
        checksum, buffer = 0, memoryview(bytearray(min(READ_BLOCK, member.size)))
        with self.source.open() as file:
            file.seek(self._data(file, member))
            for begin in range(0, member.size, READ_BLOCK):
                part = buffer[: member.size - begin]
                file.fill(part)
                checksum = zlib.crc32(part, checksum)
        self._compare(member, checksum)

    def _data(self, file: Window, member: Member) -> int:
        """Return where a member's bytes begin, by the header before them."""
        file.seek(member.header)
        header = file.read(LOCAL_HEADER)
        if len(header) < LOCAL_HEADER or not header.startswith(b"PK\x03\x04"):
            raise damaged(self.source, f"the member {member.name!r} is not where the table of contents says")
        lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        begin = member.header + LOCAL_HEADER + lengths
        if begin + member.stored > member.limit:
            raise damaged(self.source, f"the member {member.name!r} overlaps the next")
        return begin

    def _unverified(self, member: Member) -> bool:
        """Tell whether a member has a checksum that has not been compared yet."""
        return self.has_checksums and member.name not in self._verified

    def _compare(self, member: Member, checksum: int) -> None:
        """Raise InputError where the checksum of what was read is not the one that was written."""
        if self.has_checksums and checksum != member.checksum:
            raise InputError(
                f"{quoted(self.path)} is damaged: the checksum of {member.name!r} is {checksum:08x}, but "
                f"{member.checksum:08x} was written.",
                hint=(
                    "Bytes changed after it was saved, and PyTorch would load them without a warning. Copy it again."
                ),
            )
        self._verified.add(member.name)

    def _inflate(self, member: Member) -> bytes:
        """Return the content of a compressed member; the last and small ones are kept, for tensors that share them."""
        if member.name in self._kept:
            return self._kept[member.name]
        limit = self._most_inflated
        self._done += member.size
        if self._compressed > limit or self._done > PASSES * limit:
            raise InputError(
                f"{quoted(self.path)} has {self.source.size} bytes but would inflate to more than {limit}, or "
                "many times over.",
                hint="If you expect that, unpack it and save it without compression.",
            )
        with self.source.open() as file:
            file.seek(self._data(file, member))
            content = self._decompress(member, file.read(member.stored), member.size + 1)
        if len(content) != member.size:
            raise damaged(self.source, f"the member {member.name!r} does not inflate to {member.size} bytes")
        self._compare(member, zlib.crc32(content))
        if self._kept_bytes + member.size > BASE_INFLATED:
            self._kept, self._kept_bytes = {}, 0
        self._kept[member.name] = content
        self._kept_bytes += member.size
        return content

    def _decompress(self, member: Member, packed: bytes, most: int) -> bytes:
        """Return at most so many bytes of what compressed ones stand for."""
        try:
            return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, most)
        except zlib.error as error:
            raise damaged(self.source, f"the member {member.name!r} cannot be inflated ({error})") from error
