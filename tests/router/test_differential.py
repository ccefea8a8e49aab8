"""The router's understanding of messages, held against llhttp's and h11's on made-up input.

Whatever goes on must be read by both, as the router read it; and where they can read what came, they must have
found the same message in it, and the same end of it. Long in `make test-full` (DOMICILE_TEST_SECONDS).
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass

import h11
import httptools
import pytest
from domicile_testing.requests import FORWARDED, OTHERWISE, REFUSED, understood
from domicile_testing.transports import Recorded, answer_of

SECONDS = float(os.environ.get("DOMICILE_TEST_SECONDS", "300")) / 3
PARTS = (
    b"\r\n", b"\n", b"\r", b" ", b"\t", b"\0", b":", b",", b";", b"=", b'"', b"0", b"1", b"5", b"a", b"\xff", b"\x0b",
    b"0\r\n\r\n", b"\r\n\r\n", b"\r\n ", b"Host: b\r\n", b"Content-Length: 5\r\n", b"Content-Length: 0\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding:", b"Connection: close\r\n", b"Connection: Upgrade\r\n",
    b"Upgrade: websocket\r\n", b"Upgrade: h2c\r\n", b"Expect: 100-continue\r\n", b"chunked", b"identity", b"gzip, ",
    b"X-A: b\r\n", b"HTTP/1.1", b"HTTP/1.0", b"GET ", b"POST ", b"HEAD ", b"/", b"http://a.example", b"%2e", b"../",
)  # fmt: skip
ANSWERS = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello",
    b"HTTP/1.0 200 OK\r\n\r\nhello",
    b"HTTP/1.1 103 Early\r\nLink: a\r\n\r\nHTTP/1.1 204 No\r\nX: y\r\n\r\n",
    b"HTTP/1.1 304 Not\r\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n",
)


@dataclass
class Message:
    """``fields`` in their order, names in lower case. ``rest``: what follows the message."""

    start: tuple[bytes, ...]
    fields: list[tuple[bytes, bytes]]
    body: bytes
    rest: bytes


class Llhttp:
    """Reads one request; None where it refuses, or where it isn't whole."""

    def __init__(self) -> None:
        self.target = self.body = b""
        self.fields: list[tuple[bytes, bytes]] = []
        self.whole = self.again = False

    def on_message_begin(self) -> None:
        self.again = self.whole

    def on_url(self, url: bytes) -> None:
        if not self.again:
            self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.again:
            self.fields.append((name.lower(), value.strip(b" \t")))

    def on_body(self, data: bytes) -> None:
        if not self.again:
            self.body += data

    def on_message_complete(self) -> None:
        self.whole = True


def by_llhttp(raw: bytes) -> Message | None:
    read = Llhttp()
    parser = httptools.HttpRequestParser(read)
    rest = b""
    for at in range(len(raw)):
        try:
            parser.feed_data(raw[at : at + 1])
        except httptools.HttpParserUpgrade:
            if {name for name, _ in read.fields} & {b"content-length", b"transfer-encoding"}:
                return None  # it leaves the body to whoever asked for the upgrade
            read.whole = True
        except httptools.HttpParserError:
            return None
        if read.whole:
            rest = raw[at + 1 :]
            break
    return Message((parser.get_method(), read.target), read.fields, read.body, rest) if read.whole else None


def by_h11(raw: bytes, connection: h11.Connection | None = None, *, closed: bool = False) -> Message | None:
    connection = connection or h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(raw)
    if closed:
        connection.receive_data(b"")
    head: h11.Request | h11.Response | None = None
    trailers: list[tuple[bytes, bytes]] = []
    body = b""
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request | h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                trailers = [(bytes(name), bytes(value)) for name, value in event.headers]
                break
            elif not isinstance(event, h11.InformationalResponse):
                return None
    except h11.RemoteProtocolError:
        return None
    assert head is not None
    start = (head.method, head.target) if isinstance(head, h11.Request) else (b"%d" % head.status_code,)
    fields = [(bytes(name), bytes(value)) for name, value in head.headers]
    return Message(tuple(map(bytes, start)), fields + trailers, body, connection.trailing_data[0])


def origin(target: bytes) -> bytes:
    """A target as the router passes it on."""
    if target.startswith(b"/"):
        return target
    rest = target.partition(b"://")[2].lstrip(b"/")
    for at, byte in enumerate(rest):
        if byte in b"/?#":
            return rest[at:] if byte == 0x2F else b"/" + rest[at:]
    return b"/"


def mutated(chance: random.Random, seeds: list[bytes]) -> bytes:
    raw = chance.choice(seeds)
    if chance.random() < 0.1:
        raw += chance.choice(seeds)
    for _ in range(chance.choice((0, 1, 1, 1, 2, 2, 3, 5))):
        at = chance.randrange(len(raw) + 1)
        match chance.randrange(6):
            case 0:
                raw = raw[:at] + chance.choice(PARTS) + raw[at:]
            case 1:
                raw = raw[:at] + raw[at + chance.choice((1, 1, 2, 5)) :]
            case 2:
                raw = raw[:at] + bytes([chance.randrange(256)]) + raw[at + 1 :]
            case 3:
                lines = raw.split(b"\r\n")
                lines.insert(chance.randrange(len(lines)), chance.choice(lines))
                raw = b"\r\n".join(lines)
            case 4:
                lines = raw.split(b"\r\n")
                chance.shuffle(lines)
                raw = b"\r\n".join(lines)
            case _:
                other = chance.choice(seeds)
                raw = raw[:at] + other[chance.randrange(len(other)) :]
    return raw


def held(raw: bytes) -> int:
    """Hold one request against the others; the router's status."""
    status, passed = understood(raw)
    theirs = by_h11(raw)
    if status == 0:
        assert theirs is None, "h11 finds a whole request where the router waits for more"
    if status != 200:
        return status
    out, bar, rest = _split(passed)
    for read in (by_h11, by_llhttp):
        once = read(out)
        assert once is not None, f"what goes on is refused by {read.__name__}"
        assert once.rest == b"", "what goes on is more than one request"
        assert not [name for name, _ in once.fields if not _plain(name)]
        before = read(raw)
        if before is not None:
            assert (before.start[0], origin(before.start[1])) == once.start
            assert before.body == once.body
            if not bar:
                assert before.rest == b""
            else:
                assert before.rest == rest
            assert set(once.fields) - {(b"via", b"1.1 domicile")} <= {*before.fields, *_changed(once)}
    return status


def _plain(name: bytes) -> bool:
    return name in (b"via", b"cookie") or (name.replace(b"-", b"a").isalnum() and not name.startswith(b"domicile-"))


def _changed(once: Message) -> Iterator[tuple[bytes, bytes]]:
    for name, value in once.fields:
        if name in (b"via", b"cookie", b"content-length", b"transfer-encoding", b"connection", b"upgrade"):
            yield name, value


def _split(passed: bytes) -> tuple[bytes, bytes, bytes]:
    """``understood`` marks the beginning of what follows by a bar; bodies of made-up requests may hold one too."""
    for at in range(len(passed) + 1):
        one = by_h11(passed[:at])
        if one is not None and passed[at : at + 1] in (b"", b"|"):
            return passed[:at], passed[at : at + 1], passed[at + 1 :]
    return passed, b"", b""


def answered(raw: bytes, method: str) -> str:
    """Hold one answer against h11's reading of it; what became of it."""
    seen: Recorded = answer_of(raw, method)
    assert answer_of(raw, method) == seen, "what is remembered changes it"
    if seen.outcome != "ended":
        return seen.outcome
    client = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    client.send(h11.EndOfMessage())
    theirs = by_h11(raw, client, closed=True)
    if theirs is not None:
        assert theirs.start == (b"%d" % seen.status,)
        assert theirs.body == seen.body
    return seen.outcome


def made(seed: int, count: int | None, seconds: float) -> Iterator[random.Random]:
    ends = time.monotonic() + seconds
    number = 0
    while (number < count) if count is not None else time.monotonic() < ends:
        yield random.Random(f"{seed}/{number}")
        number += 1


SEEDS = [raw for raw in REFUSED.values() if len(raw) < 500]
SEEDS += [raw for raw, _ in FORWARDED.values()] * 3
SEEDS += [raw for raw, _ in OTHERWISE.values() if len(raw) < 500]


def fuzz(seed: int, count: int | None = None) -> None:
    statuses: dict[int, int] = {}
    outcomes: dict[str, int] = {}
    for chance in made(seed, count, SECONDS):
        raw = mutated(chance, SEEDS)
        try:
            status = held(raw)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{raw!r}\n{understood(raw)}\n{by_h11(raw)}\n{by_llhttp(raw)}") from error
        statuses[status] = statuses.get(status, 0) + 1
        raw = mutated(chance, list(ANSWERS))
        method = chance.choice(("GET", "HEAD"))
        try:
            outcome = answered(raw, method)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{method} {raw!r}\n{answer_of(raw, method)}") from error
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    # it would prove little if nearly all of it were refused
    assert min(statuses[200], statuses[400]) > sum(statuses.values()) / 20, statuses
    assert min(outcomes["ended"], outcomes["broken"]) > sum(outcomes.values()) / 20, outcomes


def test_briefly() -> None:
    fuzz(1, 2_000)


@pytest.mark.parametrize("raw", [*(raw for raw, _ in FORWARDED.values()), *REFUSED.values()])
def test_the_cases_of_the_corpus(raw: bytes) -> None:
    held(raw)


@pytest.mark.full
@pytest.mark.timeout(SECONDS + 120)
def test_for_long() -> None:
    fuzz(int(time.time()))
