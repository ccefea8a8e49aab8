"""What has more than one reading is answered 400, and all else goes on in exactly one spelling."""

from __future__ import annotations

import pytest
from domicile_testing.requests import CHUNKED, FORWARDED, GET, HOST, OTHERWISE, REFUSED, passed, understood

from domicile.model import DomicileError
from domicile.router.body import Body
from domicile.router.head import (
    ANSWER_NAMES,
    ANSWERS,
    MAX_ANSWER_BYTES,
    MAX_ANSWERS,
    REQUEST_NAMES,
    BadAnswer,
    find_end,
    read_answer,
    read_request,
)
from domicile.router.lines import MAX_LINE_BYTES, MAX_LINES, MAX_NAME_BYTES, MAX_NAMES

IN_CHUNKS = [
    raw
    for raw in [*(raw for raw, _ in FORWARDED.values()), *REFUSED.values()]
    if raw.upper().startswith(CHUNKED.upper()) and len(raw) < 500
]


@pytest.mark.parametrize("name", REFUSED)
def test_what_could_be_read_in_two_ways_is_400(name: str) -> None:
    assert understood(REFUSED[name]) == (400, b"")


@pytest.mark.parametrize("name", OTHERWISE)
def test_what_is_refused_for_another_reason_says_so(name: str) -> None:
    raw, status = OTHERWISE[name]
    assert understood(raw) == (status, b"")


@pytest.mark.parametrize("name", FORWARDED)
def test_all_else_goes_on_in_one_spelling(name: str) -> None:
    raw, expected = FORWARDED[name]
    assert understood(raw) == (200, expected)


@pytest.mark.parametrize("name", FORWARDED)
def test_what_went_on_once_goes_on_unchanged_by_another_router(name: str) -> None:
    """The spelling is canonical: the router has nothing to say against it, nor to change but its own mark."""
    once = FORWARDED[name][1].partition(b"|")[0]
    twice = understood(once)[1].replace(b"1.1 domicile, 1.1 domicile", b"1.1 domicile")
    assert sorted(twice.split(b"\r\n")) == sorted(once.split(b"\r\n"))


@pytest.mark.parametrize("raw", IN_CHUNKS)
def test_chunks_that_come_byte_by_byte_mean_the_same(raw: bytes) -> None:
    head = read_request(raw[: find_end(raw)])
    body = Body(head, 1 << 20)
    sent, rest, refused = b"", b"", 0
    try:
        for at in range(find_end(raw), len(raw)):
            if body.complete:
                rest = raw[at:]
                break
            piece, none = body.feed(raw[at : at + 1])
            assert none == b""
            sent += piece
    except DomicileError as error:
        refused = int(error.status)
    if refused:
        assert understood(raw) == (refused, b"")
        return
    whole = understood(raw)[1].partition(b"\r\n\r\n")[2].partition(b"|")
    assert rest == whole[2]
    assert b"".join(_unchunked(sent)) == b"".join(_unchunked(whole[0]))


def _unchunked(data: bytes) -> list[bytes]:
    pieces: list[bytes] = []
    while True:
        size, _, data = data.partition(b"\r\n")
        if int(size, 16) == 0:
            return [*pieces, data]
        pieces.append(data[: int(size, 16)])
        data = data[int(size, 16) + 2 :]


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX : a\r\n\r\n",
        b"HTTP/1.1 200 OK\nX: a\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\0\r\n\r\n",
        b"HTTP/1.1 200 \0\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"ICY 200 OK\r\n\r\n",
        b"\r\nHTTP/1.1 200 OK\r\n\r\n",
    ],
)
def test_an_answer_that_could_be_read_in_two_ways_is_none(raw: bytes) -> None:
    with pytest.raises(BadAnswer):
        read_answer(raw, "GET")


@pytest.mark.parametrize(
    ("line", "passed"),
    [(b"HTTP/1.1 200 OK", b"HTTP/1.1 200 OK"), (b"HTTP/1.0 404 No", b"HTTP/1.1 404 No"),
     (b"HTTP/1.1 299", b"HTTP/1.1 299 "), (b"HTTP/1.1 299 ", b"HTTP/1.1 299 ")],
)  # fmt: skip
def test_an_answer_goes_on_in_one_spelling(line: bytes, passed: bytes) -> None:
    ours = b"Domicile-Cell: a\r\nKeep-Alive: 5\r\nConnection: x-hop\r\nX-Hop: 1\r\n"
    raw = line + b"\r\nX:  a \r\n" + ours + b"Content-Length: 07\r\n\r\n"
    head = read_answer(raw, "GET")
    assert (head.status_line, head.lines, head.length) == (passed + b"\r\n", [b"X: a\r\n"], 7)


@pytest.mark.parametrize("raw", [*(raw for raw, _ in FORWARDED.values()), *REFUSED.values()])
def test_what_is_remembered_changes_nothing(raw: bytes) -> None:
    forget()
    first = understood(raw)
    assert understood(raw) == first


def forget() -> None:
    for names in (REQUEST_NAMES, ANSWER_NAMES):
        names.known.clear()
        names.steady.clear()
    for answers in ANSWERS:
        answers.clear()


STEADY = b"Accept: text/html\r\nAccept-Language: de\r\nCache-Control: no-cache\r\nSec-Fetch-Mode: cors\r\n"


def test_lines_that_are_remembered_are_those_that_say_nothing_of_anybody() -> None:
    forget()
    raw = GET + HOST + STEADY + b"User-Agent: of alice\r\nReferer: /alice\r\nX-Accept: alice\r\n\r\n"
    first = understood(raw)
    assert REQUEST_NAMES.steady == set(STEADY.splitlines(keepends=True))
    assert understood(raw) == first
    for spelt in (b"Accept:text/html\r\n", b"Accept:  text/html \t\r\n"):
        assert understood(GET + HOST + spelt + b"\r\n") == (200, passed(b"Accept: text/html\r\n"))


@pytest.mark.parametrize("asked", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("lines", "kept"),
    [
        (b"", True),
        (b"Date: today\r\nContent-Type: text/plain\r\nServer: a\r\nVary: Accept\r\n", True),
        (b"Connection: keep-alive\r\nCache-Control: no-store\r\n", True),
        (b"Set-Cookie: sid=alice\r\n", False),
        (b"Location: /alice\r\n", False),
        (b"ETag: alice\r\n", False),
        (b"X-Request-Id: 1\r\n", False),
        (b"Domicile-Guard: stale-epoch\r\nDomicile-Subject-Key: 01\r\n", False),
        (b"Domicile-Cell: eu-1\r\n", False),
    ],
)
def test_an_answers_head_is_remembered_only_where_it_says_nothing_of_anybody(
    lines: bytes, kept: bool, asked: str
) -> None:
    forget()
    raw = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + lines + b"\r\n"
    first = read_answer(raw, asked)
    again = read_answer(raw, asked)
    assert (first is again) is kept
    assert [raw in answers for answers in ANSWERS].count(True) == kept
    for name in ("status", "status_line", "lines", "length", "chunked", "empty", "keeps", "said"):
        assert getattr(again, name) == getattr(first, name)
    assert read_answer(raw, "HEAD").empty, "not what it was for a GET"
    assert not read_answer(raw, "GET").empty
    assert read_answer(raw.replace(b"OK", b"Hello Alice"), asked) is not read_answer(
        raw.replace(b"OK", b"Hello Alice"), asked
    )


def test_what_is_remembered_is_names_of_fields_and_nothing_of_their_values() -> None:
    forget()
    secrets = (b"session-secret", b"bearer-secret", b"token-secret", b"header-secret", b"path-secret", b"query-secret")
    raw = (
        b"GET /path-secret?query-secret HTTP/1.1\r\nHost: a\r\nCookie: sid=session-secret\r\nX-Own: header-secret\r\n"
        b"Authorization: Bearer bearer-secret\r\nDomicile-Token: token-secret\r\nConnection: header-secret\r\n\r\n"
    )
    assert understood(raw)[0] == 200
    kept = repr((REQUEST_NAMES.known, REQUEST_NAMES.steady)).encode()
    assert set(REQUEST_NAMES.known) == {
        b"Host",
        b"Cookie",
        b"X-Own",
        b"Authorization",
        b"Domicile-Token",
        b"Connection",
    }
    assert not [secret for secret in secrets if secret in kept]


def test_what_is_remembered_is_bounded() -> None:
    for number in range(2 * MAX_NAMES):
        understood(b"GET / HTTP/1.1\r\nHost: a\r\nX-%d: a\r\n\r\n" % number)
        understood(b"GET / HTTP/1.1\r\nHost: a\r\nX-%s: a\r\n\r\n" % (b"x" * number))
        understood(b"GET / HTTP/1.1\r\nHost: a\r\nAccept: %d\r\n\r\n" % number)
        understood(b"GET / HTTP/1.1\r\nHost: a\r\nAccept: %s\r\n\r\n" % (b"x" * number))
        read_answer(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % number, "GET")
        read_answer(b"HTTP/1.1 200 OK\r\nServer: %s\r\n\r\n" % (b"x" * number), "GET")
    assert len(REQUEST_NAMES.steady) <= MAX_LINES
    assert max(map(len, REQUEST_NAMES.steady)) <= MAX_LINE_BYTES
    assert max(map(len, ANSWERS)) <= MAX_ANSWERS
    assert max(len(raw) for answers in ANSWERS for raw in answers) <= MAX_ANSWER_BYTES
    assert len(REQUEST_NAMES.known) <= MAX_NAMES
    assert max(map(len, REQUEST_NAMES.known)) <= MAX_NAME_BYTES
