"""Reads rows out of an SQLite file page by page, without SQLite: what is whole is found, whatever is broken around it.

Neither the header nor the schema nor the inner pages of a table are needed. Rows come from every leaf page, those of
the write-ahead log and those that are no longer in use included; callers check what they take. The format:
https://www.sqlite.org/fileformat2.html.
"""

from __future__ import annotations

import contextlib
import io
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

MAGIC = b"SQLite format 3\x00"
DEFAULT_PAGE_SIZE = 4_096
HEADER = 100
LOG_HEADER, FRAME_HEADER = 32, 24
LOG_MAGICS = (0x377F0682, 0x377F0683)
TABLE_LEAF, INDEX_LEAF, INDEX_INNER = 13, 10, 2
INTEGER_SIZES = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}
CONSTANTS = {0: None, 8: 0, 9: 1}


class Cell(NamedTuple):
    """One record: of a table with its row id, or of an index without one."""

    rowid: int | None
    values: tuple[Any, ...]


class Pages:
    """The pages of a database by number, from 1: the newest that was committed to the log, else the file's."""

    def __init__(self, file: BinaryIO, log: BinaryIO) -> None:
        self._file, self._log = file, log
        log_header = log.read(LOG_HEADER)
        self.size = _page_size(file.read(HEADER), log_header)
        self._logged = self._frames(log_header)
        whole = -(-file.seek(0, io.SEEK_END) // self.size)
        self.count = max(whole, *self._logged, 0)

    def page(self, number: int) -> bytes:
        """The bytes of a page; zeros stand for what is cut off. Raises ValueError for a number that is none."""
        if not 1 <= number <= self.count:
            raise ValueError(number)
        source, offset = (
            (self._log, self._logged[number]) if number in self._logged else (self._file, (number - 1) * self.size)
        )
        source.seek(offset)
        return source.read(self.size).ljust(self.size, b"\0")

    def cells(self) -> Iterator[Cell]:
        """Every record that can be decoded, of tables and indexes."""
        for number in range(1, self.count + 1):
            yield from self._cells_of(self.page(number), HEADER if number == 1 else 0)

    def _frames(self, header: bytes) -> dict[int, int]:
        """Where the log holds the newest committed version of a page."""
        if len(header) < LOG_HEADER or int.from_bytes(header[:4], "big") not in LOG_MAGICS:
            return {}
        committed: dict[int, int] = {}
        pending: dict[int, int] = {}
        offset = LOG_HEADER
        while len(frame := self._log.read(FRAME_HEADER)) == FRAME_HEADER and frame[8:16] == header[16:24]:
            number, pages_after = struct.unpack(">II", frame[:8])
            pending[number] = offset + FRAME_HEADER
            if pages_after:
                committed |= pending
                pending.clear()
            offset = self._log.seek(self.size, io.SEEK_CUR)
        return committed

    def _cells_of(self, page: bytes, start: int) -> Iterator[Cell]:
        kind = page[start]
        if kind not in (TABLE_LEAF, INDEX_LEAF, INDEX_INNER):
            return
        pointers = start + (12 if kind == INDEX_INNER else 8)
        for index in range(int.from_bytes(page[start + 3 : start + 5], "big")):
            at = int.from_bytes(page[pointers + 2 * index : pointers + 2 * index + 2], "big")
            with contextlib.suppress(ValueError, IndexError, struct.error):
                yield self._cell(page, at, kind)

    def _cell(self, page: bytes, at: int, kind: int) -> Cell:
        rowid: int | None = None
        length, at = _varint(page, at + (4 if kind == INDEX_INNER else 0))
        if kind == TABLE_LEAF:
            rowid, at = _varint(page, at)
        return Cell(rowid, _record(self._payload(page, at, length, kind)))

    def _payload(self, page: bytes, at: int, length: int, kind: int) -> bytes:
        """A record's bytes, with those that overflow into further pages."""
        if length > self.size * self.count:
            raise ValueError(length)
        most = self.size - 35 if kind == TABLE_LEAF else (self.size - 12) * 64 // 255 - 23
        if length <= most:
            return page[at : at + length]
        least = (self.size - 12) * 32 // 255 - 23
        local = least + (length - least) % (self.size - 4)
        local = local if local <= most else least
        parts, left = [page[at : at + local]], length - local
        (following,) = struct.unpack(">I", page[at + local : at + local + 4])
        while left > 0:
            page = self.page(following)
            following = int.from_bytes(page[:4], "big")
            parts.append(page[4 : 4 + left])
            left -= len(parts[-1])
        return b"".join(parts)


@contextlib.contextmanager
def open_pages(file: Path) -> Iterator[Pages]:
    """The pages of a database's file and of the write-ahead log beside it, which are only read."""
    log = file.with_name(f"{file.name}-wal")
    with contextlib.ExitStack() as stack:
        opened: BinaryIO = stack.enter_context(log.open("rb")) if log.exists() else io.BytesIO()
        yield Pages(stack.enter_context(file.open("rb")), opened)


def _page_size(header: bytes, log_header: bytes) -> int:
    """The size that the file names, or its log; where neither does, the one that SQLite gives new files."""
    named = [int.from_bytes(header[16:18], "big")] if header.startswith(MAGIC) else []
    for size in (*named, int.from_bytes(log_header[8:12], "big")):
        found = 65_536 if size == 1 else size
        if 512 <= found <= 65_536 and found & (found - 1) == 0:
            return found
    return DEFAULT_PAGE_SIZE


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of one to nine bytes, and where it ends."""
    value = 0
    for length in range(1, 9):
        byte = data[at + length - 1]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + length
    return value << 8 | data[at + 8], at + 9


def _record(payload: bytes) -> tuple[Any, ...]:
    """The values of a record. Raises ValueError or IndexError where it is none."""
    end, at = _varint(payload, 0)
    body, values = end, []
    while at < end:
        kind, at = _varint(payload, at)
        size = _size_of(kind)
        if body + size > len(payload):
            raise ValueError(size)
        values.append(_value(kind, payload[body : body + size]))
        body += size
    return tuple(values)


def _size_of(kind: int) -> int:
    if kind in CONSTANTS:
        return 0
    if kind in (10, 11):
        raise ValueError(kind)
    if kind >= 12:
        return (kind - 12) // 2
    return INTEGER_SIZES.get(kind, 8)


def _value(kind: int, data: bytes) -> Any:
    if kind in CONSTANTS:
        return CONSTANTS[kind]
    if kind == 7:
        return struct.unpack(">d", data)[0]
    if kind < 12:
        return int.from_bytes(data, "big", signed=True)
    return data.decode("utf-8") if kind % 2 else data
