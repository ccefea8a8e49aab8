"""A snapshot that was cut, changed, or put together from two is refused; one that wasn't is read as written."""

from __future__ import annotations

import asyncio
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domicile.model import InvalidInput, Position
from domicile.model.snapshot import RECORD_BYTES, Block, SnapshotReader, SnapshotWriter

HOMES = ("eu/eu-1", "us/us-1")
POSITION = Position(generation=UUID(int=7), sequence=41)


def record(key: int, epoch: int = 1, state: int = 0, home: int = 0) -> bytes:
    return key.to_bytes(17, "big") + epoch.to_bytes(8, "big") + bytes([state]) + home.to_bytes(2, "big")


def written(blocks: list[Block]) -> list[bytes]:
    writer = SnapshotWriter()
    return [writer.head(POSITION), *(writer.block(block) for block in blocks), writer.end()]


async def whole(data: bytes) -> tuple[Position, list[Block]]:
    stream = asyncio.StreamReader()
    stream.feed_data(data)
    stream.feed_eof()
    reader = SnapshotReader(stream.readexactly)
    position = await reader.head()
    blocks = []
    while (block := await reader.block()) is not None:
        blocks.append(block)
    return position, blocks


BLOCKS = [Block(HOMES, record(1) + record(2, 5, 1, 1)), Block(("eu/eu-2",), record(3, 2**40, 2))]


async def test_what_was_written_is_read() -> None:
    assert len(record(1)) == RECORD_BYTES
    position, blocks = await whole(b"".join(written(BLOCKS)))
    assert (position, blocks) == (POSITION, BLOCKS)
    assert list(blocks[0])[1] == ((2).to_bytes(17, "big"), 5, 1, 1)
    assert blocks[0].last_key == (2).to_bytes(17, "big")
    assert blocks[0].count == 2


@given(st.data())
def test_a_single_changed_byte_is_refused(data: st.DataObject) -> None:
    raw = bytearray(b"".join(written(BLOCKS)))
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises((InvalidInput, asyncio.IncompleteReadError)):
        asyncio.run(whole(bytes(raw)))


@given(st.integers(0, 200))
def test_one_that_breaks_off_is_never_whole(cut: int) -> None:
    raw = b"".join(written(BLOCKS))
    with pytest.raises(asyncio.IncompleteReadError):
        asyncio.run(whole(raw[: min(cut, len(raw) - 1)]))


async def test_blocks_left_out_or_swapped_are_noticed() -> None:
    head, first, second, end = written(BLOCKS)
    for forged in (head + second + end, head + second + first + end, head + first + first + second + end, head + end):
        with pytest.raises(InvalidInput):
            await whole(forged)


@pytest.mark.parametrize("bad", [record(1, state=3), record(1, home=2), b""])
async def test_a_record_that_means_nothing_is_refused(bad: bytes) -> None:
    with pytest.raises(InvalidInput):
        await whole(b"".join(written([Block(HOMES, bad)])))
