"""The open loop sends what is due whether or not it was answered, and hides no failure."""

from __future__ import annotations

import asyncio

import pytest
from domicile_testing.answering import answering
from loadtests.cases import Unmeasured
from loadtests.pace import Stream, pace

REQUEST = b"GET /profile HTTP/1.1\r\nHost: x\r\n\r\n"
GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


async def good(_: bytes) -> bytes:
    return GOOD


async def test_every_request_of_the_rate_is_sent_and_answered() -> None:
    stream = Stream([REQUEST], rate=500)
    async with answering(good) as address:
        await pace(address, None, 0.2, stream)
    assert (len(stream.times), stream.failures) == (100, 0)
    assert 0 < stream.percentile(0.5) <= stream.percentile(0.99)


async def test_a_stalled_server_is_asked_on() -> None:
    """A closed loop would have stopped at the number of its connections."""
    arrived = 0
    all_there = asyncio.Event()

    async def stalled(_: bytes) -> bytes:
        nonlocal arrived
        arrived += 1
        if arrived == 30:
            all_there.set()
        await all_there.wait()
        return GOOD

    stream = Stream([REQUEST], rate=300)
    async with answering(stalled) as address:
        await pace(address, None, 0.1, stream)
    assert len(stream.times) == 30


async def test_a_stream_that_hangs_ends_with_the_round_and_leaves_the_other_alone() -> None:
    async def choosing(head: bytes) -> bytes:
        if b"/stuck" in head:
            await asyncio.Event().wait()
        return GOOD

    healthy, stuck = Stream([REQUEST], rate=200), Stream([REQUEST.replace(b"profile", b"stuck")], rate=100, hangs=True)
    async with answering(choosing) as address:
        await pace(address, None, 0.2, healthy, stuck)
    assert (len(healthy.times), healthy.failures) == (40, 0)
    assert stuck.times == []


@pytest.mark.parametrize("answer", [b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", GOOD[:-1]])
async def test_failures_are_told_instead_of_a_time(answer: bytes) -> None:
    async def bad(head: bytes) -> bytes:
        if len(answer) == len(GOOD) - 1:
            raise ConnectionResetError
        return answer

    stream = Stream([REQUEST], rate=100)
    async with answering(bad) as address:
        await pace(address, None, 0.05, stream)
    assert stream.failures == 5
    with pytest.raises(Unmeasured, match="5 of 5"):
        stream.percentile(0.5)


async def test_nobody_there_is_told() -> None:
    async with answering(good) as address:
        pass
    with pytest.raises(Unmeasured, match="cannot be reached"):
        await pace(address, None, 0.1, Stream([REQUEST], rate=10))


def test_percentiles_are_by_the_nearest_rank() -> None:
    stream = Stream([], 1, times=[float(number) for number in range(100, 0, -1)])
    assert [stream.percentile(part) for part in (0.5, 0.99, 1.0)] == [50.0, 99.0, 100.0]
    assert Stream([], 1, times=[3.0]).percentile(0.99) == 3.0
