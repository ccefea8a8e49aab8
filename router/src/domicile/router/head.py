"""The head of a request or of an answer, read by llhttp and then held to what has exactly one meaning.

llhttp refuses what is malformed (RFC 9112): line folding, bare CR or LF, NUL, white space before a colon, a length
that is signed, repeated or stands beside a transfer coding. Refused here is what it would let pass and another
reader could take for something else: a request line that isn't spelt canonically, two hosts or none, a transfer
coding other than one ``chunked``, any at all in HTTP/1.0. What goes on is not what came but what was understood of
it, written anew.
"""

from __future__ import annotations

import re
from typing import Final

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser, HttpResponseParser

from domicile.model.wire import MAX_HEAD_BYTES
from domicile.router.errors import BadRequest, HeadTooLarge, MethodRefused
from domicile.router.headers import answer_passes, connection_options, named_fields, request_passes
from domicile.router.lines import ANSWER_NAMES, REQUEST_NAMES, Fields, Line, Lines, Pair
from domicile.router.target import path_of, read_target

MAX_FIELDS: Final = 128
END: Final = b"\r\n\r\n"
_BARE: Final = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)|\0")
_HOST: Final = re.compile(r"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_DIGITS: Final = re.compile(r"[0-9]{1,19}")
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*))?\r\n")
_REQUEST_LINES: Final = Lines(request_passes, REQUEST_NAMES)
_ANSWER_LINES: Final = Lines(answer_passes, ANSWER_NAMES)
_NO_BODY: Final = frozenset({204, 304})
_REFUSED_METHODS: Final = frozenset({b"CONNECT", b"TRACE"})


class BadAnswer(Exception):
    """An upstream's answer that has no one meaning."""


class _Read:
    """What llhttp tells of one head."""

    __slots__ = ("pairs", "target")

    def __init__(self) -> None:
        self.pairs: list[Pair] = []
        self.target = b""

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.pairs.append((name, value))


def find_end(data: bytes) -> int:
    """Where a request's head ends in ``data``, 0 where it doesn't yet.

    Raises HeadTooLarge for one over 32 KiB, BadRequest for one that can't become a head any more.
    """
    end = data.find(END, 0, MAX_HEAD_BYTES) + len(END)
    if end >= len(END):
        return end
    if len(data) >= MAX_HEAD_BYTES:
        raise HeadTooLarge(f"the head is larger than {MAX_HEAD_BYTES} bytes")
    if _BARE.search(data):
        raise BadRequest("a head's lines end in CR LF, and it holds no NUL")
    return 0


def _length(fields: dict[str, list[str]]) -> int | None:
    values = fields.get("content-length")
    if values is None:
        return None
    if len(values) > 1 or not _DIGITS.fullmatch(values[0]):
        raise ValueError
    return int(values[0])


def _is_chunked(fields: dict[str, list[str]]) -> bool:
    values = fields.get("transfer-encoding")
    if values is None:
        return False
    if len(values) > 1 or values[0].lower() != "chunked" or "content-length" in fields:
        raise ValueError
    return True


class RequestHead:
    """A request but for its body.

    ``length``: of the body in bytes; None without one, or where it comes in chunks (``chunked``). ``keeps``: the
    client may send another request after this one. ``expects``: it waits for ``100 Continue``. ``websocket``: it
    asks for an upgrade to that.
    """

    __slots__ = ("chunked", "expects", "fields", "keeps", "length", "lines", "method", "old", "path", "target",
                 "websocket")  # fmt: skip

    def __init__(self, method: str, target: str, old: bool, lines: list[Line], fields: dict[str, list[str]]) -> None:
        self.method = method
        self.target = target
        self.path = path_of(target)
        self.old = old
        self.fields = Fields(fields)
        try:
            self.length = _length(fields)
            self.chunked = _is_chunked(fields)
        except ValueError:
            raise BadRequest("a body has one length, or comes in chunks") from None
        if old and self.chunked:
            raise BadRequest("HTTP/1.0 knows no chunks")
        options = connection_options(self.fields)
        named = named_fields(options)
        self.lines = [line[2] for line in lines if line[0] not in named] if named else [line[2] for line in lines]
        self.keeps = not old and "close" not in options
        self.expects = bool(
            "expect" in fields
            and not old
            and (self.chunked or self.length)
            and fields["expect"][0].lower() == "100-continue"
        )
        self.websocket = (
            "upgrade" in options and not old and [v.lower() for v in fields.get("upgrade", [])] == ["websocket"]
        )
        if self.websocket and (method != "GET" or self.chunked or self.length):
            raise BadRequest("a WebSocket is asked for by a GET without a body")


def read_request(raw: bytes, lines: Lines = _REQUEST_LINES) -> RequestHead:
    """``raw``: one head with the empty line at its end. Raises BadRequest, HeadTooLarge, MethodRefused."""
    read = _Read()
    parser = HttpRequestParser(read)
    try:
        parser.feed_data(raw)
    except HttpParserUpgrade:
        pass  # the head was read; what it asks for is decided elsewhere
    except HttpParserError:
        raise BadRequest("not a request that this router understands") from None
    method, target = parser.get_method(), read.target
    if method in _REFUSED_METHODS:
        raise MethodRefused(f"{method.decode()} is not served")
    old = parser.get_http_version() == "1.0"
    if not raw.startswith(b"%b %b HTTP/1.%b\r\n" % (method, target, b"0" if old else b"1")):
        raise BadRequest("a request line is a method, a target and HTTP/1.1, one space between them")
    if len(read.pairs) > MAX_FIELDS:
        raise HeadTooLarge(f"more than {MAX_FIELDS} fields")
    made, fields = lines.read(read.pairs)
    hosts = fields.get("host")
    if hosts is None or len(hosts) > 1 or not _HOST.fullmatch(hosts[0]):
        raise BadRequest("a request names one host")
    return RequestHead(method.decode("ascii"), read_target(target.decode("ascii"), hosts[0]), old, made, fields)


class AnswerHead:
    """An answer but for its body.

    ``status_line`` and ``lines``: what goes on. ``length``: of the body; None where it comes in chunks
    (``chunked``) or ends with the connection. ``keeps``: the connection may be used again.
    """

    __slots__ = ("chunked", "empty", "fields", "keeps", "length", "lines", "status", "status_line")

    def __init__(
        self, status: int, reason: bytes, old: bool, asked: str, lines: list[Line], fields: dict[str, list[str]]
    ) -> None:
        self.status = status
        self.status_line = b"HTTP/1.1 %d %b\r\n" % (status, reason)
        self.fields = Fields(fields)
        try:
            self.length = _length(fields)
            self.chunked = _is_chunked(fields)
        except ValueError:
            raise BadAnswer from None
        if old and self.chunked:
            raise BadAnswer
        options = connection_options(self.fields)
        named = named_fields(options)
        self.lines = [line[2] for line in lines if line[0] not in named] if named else [line[2] for line in lines]
        self.empty = asked == "HEAD" or status in _NO_BODY or status < 200
        self.keeps = not old and "close" not in options and (self.empty or self.chunked or self.length is not None)


def read_answer(raw: bytes, asked: str, lines: Lines = _ANSWER_LINES) -> AnswerHead:
    """``raw``: one head with the empty line at its end; ``asked``: the request's method. Raises BadAnswer."""
    read = _Read()
    parser = HttpResponseParser(read)
    try:
        parser.feed_data(raw)
    except HttpParserUpgrade:
        pass
    except HttpParserError:
        raise BadAnswer from None
    first = _STATUS_LINE.match(raw)
    if first is None or len(read.pairs) > MAX_FIELDS:
        raise BadAnswer
    made, fields = lines.read(read.pairs)
    return AnswerHead(int(first[1]), first[2] or b"", raw.startswith(b"HTTP/1.0"), asked, made, fields)
