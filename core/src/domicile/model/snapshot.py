"""The whole blind map as a stream of bytes: blocks in the order of their keys, each of which can be checked alone.

    head   magic (8), generation (16), sequence (8)
    block  "B", count of homes (2), count of records (2), homes (length (1), jurisdiction/cell), records, digest (16)
    end    "E", count of all records (8), digest (16)

A record has 28 bytes: subject key (17), epoch (8), state (1), number of its home in the block (2). A digest is the
BLAKE2b-128 (RFC 7693) of the one before it and of what stands between them, so that nothing can be left out or
swapped unseen. The position in the head is older than every record: who has read all, and then the change log
from there, has the map as it is; the order in which blocks were read does not matter, since epochs only grow.
"""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final
from uuid import UUID

from domicile.model.errors import InvalidInput
from domicile.model.ids import KEY_BYTES
from domicile.model.pins import PinState, Position

MAGIC: Final = b"DOMPINS1"
DIGEST_BYTES: Final = 16
RECORD_BYTES: Final = KEY_BYTES + 8 + 1 + 2
MAX_RECORDS: Final = 5_000
_HEAD: Final = struct.Struct(">8s16sQ")
_COUNTS: Final = struct.Struct(">HH")
_TOTAL: Final = struct.Struct(">Q")
_RECORD: Final = struct.Struct(f">{KEY_BYTES}sQBH")
STATES: Final = tuple(PinState)
Read = Callable[[int], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Block:
    """Some pins: ``records`` as above, and the homes (``jurisdiction/cell``) that they number."""

    homes: tuple[str, ...]
    records: bytes

    def __iter__(self) -> Iterator[tuple[bytes, int, int, int]]:
        """Each pin's key, epoch, number of its state and number of its home."""
        return _RECORD.iter_unpack(self.records)

    @property
    def count(self) -> int:
        return len(self.records) // RECORD_BYTES

    @property
    def last_key(self) -> bytes:
        return self.records[-RECORD_BYTES:][:KEY_BYTES]


def _digest(before: bytes, data: bytes) -> bytes:
    return blake2b(before + data, digest_size=DIGEST_BYTES).digest()


class SnapshotWriter:
    """``head``, then any number of ``block``, then ``end``, in this order."""

    def __init__(self) -> None:
        self._digest = b""
        self._total = 0

    def head(self, position: Position) -> bytes:
        data = _HEAD.pack(MAGIC, position.generation.bytes, position.sequence)
        self._digest = _digest(b"", data)
        return data

    def block(self, block: Block) -> bytes:
        homes = b"".join(bytes((len(name),)) + name for name in map(str.encode, block.homes))
        self._total += block.count
        return self._closed(b"B" + _COUNTS.pack(len(block.homes), block.count) + homes + block.records)

    def end(self) -> bytes:
        return self._closed(b"E" + _TOTAL.pack(self._total))

    def _closed(self, data: bytes) -> bytes:
        self._digest = _digest(self._digest, data)
        return data + self._digest


class SnapshotReader:
    """The same from the other side. ``read`` gives exactly as many bytes as it is asked for, or raises.

    Every method raises InvalidInput for bytes that are none of a snapshot, or are not those that were written.
    """

    def __init__(self, read: Read) -> None:
        self._read = read
        self._digest = b""
        self._total = 0

    async def head(self) -> Position:
        data = await self._read(_HEAD.size)
        magic, generation, sequence = _HEAD.unpack(data)
        if magic != MAGIC or sequence >= 1 << 63:
            raise InvalidInput("not a snapshot of pins", remedy="compare versions")
        self._digest = _digest(b"", data)
        return Position(generation=UUID(bytes=generation), sequence=sequence)

    async def block(self) -> Block | None:
        """The next one; None after the last."""
        kind = await self._read(1)
        if kind == b"E":
            total = await self._read(_TOTAL.size)
            await self._check(kind + total)
            if _TOTAL.unpack(total)[0] != self._total:
                raise InvalidInput("a snapshot with another number of pins than it says")
            return None
        if kind != b"B":
            raise InvalidInput("not a block of pins")
        head = await self._read(_COUNTS.size)
        home_count, record_count = _COUNTS.unpack(head)
        homes = []
        parts = [kind, head]
        for _ in range(home_count):
            length = await self._read(1)
            name = await self._read(length[0])
            parts += [length, name]
            homes.append(name)
        records = await self._read(record_count * RECORD_BYTES)
        await self._check(b"".join([*parts, records]))
        self._total += record_count
        block = Block(tuple(name.decode() for name in homes), records)
        if not record_count or record_count > MAX_RECORDS:
            raise InvalidInput("a block of pins of another size than agreed")
        if any(state >= len(STATES) or home >= home_count for _, _, state, home in block):
            raise InvalidInput("a pin without a state or a home that is known")
        return block

    async def _check(self, data: bytes) -> None:
        self._digest = _digest(self._digest, data)
        if await self._read(DIGEST_BYTES) != self._digest:
            raise InvalidInput("a snapshot whose digest is wrong")
