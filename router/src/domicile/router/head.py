"""The head of a request or of an answer, read by llhttp and then held to what has exactly one meaning.

llhttp refuses what is malformed (RFC 9112): line folding, bare CR or LF, NUL, white space before a colon, a length
that is signed, repeated or stands beside a transfer coding. Refused here is what it would let pass and another
reader could take for something else: a request line that isn't spelt canonically, two hosts or none, a transfer
coding other than one ``chunked``, any at all in HTTP/1.0. What goes on is not what came but what was understood of
it, written anew.

llhttp is asked for its verdict alone: it tells nothing of what it reads, since a call for each field would cost
several times what its reading does. In a head that it accepts a line ends where CR LF stands, and nowhere else.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Final

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser, HttpResponseParser

from domicile.model.wire import MAX_HEAD_BYTES
from domicile.router.errors import BadRequest, HeadTooLarge, MethodRefused
from domicile.router.headers import answer_passes, connection_options, named_fields, request_passes
from domicile.router.lines import Fields, Names
from domicile.router.target import path_of, read_target

MAX_FIELDS: Final = 128
MAX_ANSWERS: Final = 256
MAX_ANSWER_BYTES: Final = 1024
END: Final = b"\r\n\r\n"
_BARE: Final = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)|\0")
_HOST: Final = re.compile(rb"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_DIGITS: Final = re.compile(rb"[0-9]{1,19}")
_REQUEST_LINE: Final = re.compile(rb"([A-Z-]+) ([\x21-\x7e]+) HTTP/1\.([01])\r\n")
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*))?\r\n")
REQUEST_NAMES: Final = Names(
    request_passes,
    "authorization connection content-length cookie domicile-token expect host transfer-encoding upgrade via "
    "x-forwarded-for".split(),
    # not user-agent, in which some programs name their user
    "accept accept-encoding accept-language cache-control dnt pragma priority sec-ch-ua-mobile sec-ch-ua-platform "
    "sec-fetch-dest sec-fetch-mode sec-fetch-site sec-fetch-user sec-gpc upgrade-insecure-requests".split(),
)
ANSWER_NAMES: Final = Names(
    answer_passes,
    "cache-control connection content-length domicile-epoch domicile-guard domicile-subject-key "
    "transfer-encoding".split(),
    "accept-ranges content-encoding content-type date server strict-transport-security vary x-content-type-options "
    "x-frame-options".split(),
)
_OPTIONS: Final = {option.encode(): frozenset({option.lower()}) for option in ("keep-alive", "Keep-Alive", "close")}
_NONE: Final[frozenset[str]] = frozenset()
_SAYS_MORE: Final = frozenset({"connection", "content-length", "expect", "transfer-encoding", "upgrade"})
_OF_GUARDS: Final = frozenset({"domicile-epoch", "domicile-guard", "domicile-subject-key"})
_STATUS_LINES: Final = frozenset(f"HTTP/1.1 {each.value} {each.phrase}\r\n".encode() for each in HTTPStatus)
_NO_BODY: Final = frozenset({204, 304})
_NOBODY: Final = object()
"""Told nothing by llhttp."""
_REFUSED_METHODS: Final = frozenset({b"CONNECT", b"TRACE"})


class BadAnswer(Exception):
    """An upstream's answer that has no one meaning."""


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


def _length(special: dict[str, list[bytes]]) -> int | None:
    values = special.get("content-length")
    if values is None:
        return None
    if len(values) > 1 or not _DIGITS.fullmatch(values[0]):
        raise ValueError
    return int(values[0])


def _is_chunked(special: dict[str, list[bytes]]) -> bool:
    values = special.get("transfer-encoding")
    if values is None:
        return False
    if len(values) > 1 or values[0].lower() != b"chunked" or "content-length" in special:
        raise ValueError
    return True


def _options(fields: Fields) -> frozenset[str]:
    values = fields.special.get("connection")
    if values is None:
        return _NONE
    known = _OPTIONS.get(values[0]) if len(values) == 1 else None
    return connection_options(fields) if known is None else known


class RequestHead:
    """A request but for its body.

    ``start``: its first line as it goes on. ``lines``: what goes on of its fields. ``length``: of the body in bytes;
    None without one, or where it comes in chunks (``chunked``). ``keeps``: the client may send another request after
    this one. ``expects``: it waits for ``100 Continue``. ``websocket``: it asks for an upgrade to that. ``old``: it is
    HTTP/1.0.
    """

    __slots__ = ("chunked", "expects", "fields", "host", "keeps", "length", "lines", "method", "old", "options",
                 "path", "start", "target", "websocket")  # fmt: skip

    def __init__(self, start: bytes, method: str, target: str, host: str, old: bool, fields: Fields) -> None:
        self.start = start
        self.method = method
        self.target = target
        self.path = path_of(target)
        self.host = host
        self.old = old
        self.fields = fields
        self.length: int | None = None
        self.chunked = self.expects = self.websocket = False
        self.keeps = not old
        self.lines = fields.lines
        self.options = _NONE
        if not _SAYS_MORE.isdisjoint(fields.special):
            self._read(fields.special)

    def _read(self, special: dict[str, list[bytes]]) -> None:
        try:
            self.length = _length(special)
            self.chunked = _is_chunked(special)
        except ValueError:
            raise BadRequest("a body has one length, or comes in chunks") from None
        if self.old and self.chunked:
            raise BadRequest("HTTP/1.0 knows no chunks")
        self.options = options = _options(self.fields)
        if options and (named := named_fields(options)):
            self.lines = self.fields.without(named)
        if self.old:
            return
        self.keeps = "close" not in options
        expect = special.get("expect")
        self.expects = bool(expect and (self.chunked or self.length) and expect[0].lower() == b"100-continue")
        upgrade = special.get("upgrade") if "upgrade" in options else None
        self.websocket = upgrade is not None and len(upgrade) == 1 and upgrade[0].lower() == b"websocket"
        if self.websocket and (self.method != "GET" or self.chunked or self.length):
            raise BadRequest("a WebSocket is asked for by a GET without a body")

    def lines_without(self, omitted: frozenset[str]) -> list[bytes]:
        """``lines`` but for some names, in lower case."""
        return self.fields.without(omitted | named_fields(self.options)) if omitted else self.lines


def read_request(raw: bytes) -> RequestHead:
    """``raw``: one head with the empty line at its end. Raises BadRequest, HeadTooLarge, MethodRefused."""
    parser = HttpRequestParser(_NOBODY)
    try:
        parser.feed_data(raw)
    except HttpParserUpgrade:
        pass  # the head was read; what it asks for is decided elsewhere
    except HttpParserError:
        raise BadRequest("not a request that this router understands") from None
    lines = raw.splitlines(keepends=True)
    if parser.get_method() in _REFUSED_METHODS:
        raise MethodRefused(f"{parser.get_method().decode()} is not served")
    first = _REQUEST_LINE.fullmatch(lines[0])
    if first is None:
        raise BadRequest("a request line is a method, a target and HTTP/1.1, one space between them")
    if len(lines) - 2 > MAX_FIELDS:
        raise HeadTooLarge(f"more than {MAX_FIELDS} fields")
    fields = Fields(REQUEST_NAMES, lines[1:-1])
    hosts = fields.special.get("host")
    if hosts is None or len(hosts) > 1 or not _HOST.fullmatch(hosts[0]):
        raise BadRequest("a request names one host")
    method, raw_target, minor = first.groups()
    host, written = hosts[0].decode("ascii"), raw_target.decode("ascii")
    target, old = read_target(written, host), minor == b"0"
    start = b"%b %b HTTP/1.1\r\n" % (method, target.encode("ascii")) if old or target is not written else lines[0]
    return RequestHead(start, method.decode("ascii"), target, host, old, fields)


class AnswerHead:
    """An answer but for its body.

    ``status_line`` and ``lines``: what goes on. ``length``: of the body; None where it comes in chunks
    (``chunked``) or ends with the connection. ``empty``: it has none, whatever its head says. ``keeps``: the
    connection may be used again. ``said``: all that goes on where nothing is to be added, as it is written; with a
    length only. ``alike``: it says nothing of anybody.
    """

    __slots__ = ("alike", "chunked", "empty", "fields", "keeps", "length", "lines", "said", "status", "status_line")

    def __init__(self, status: int, status_line: bytes, old: bool, asked: str, fields: Fields) -> None:
        self.status = status
        self.status_line = status_line
        self.fields = fields
        try:
            self.length = _length(fields.special)
            self.chunked = _is_chunked(fields.special)
        except ValueError:
            raise BadAnswer from None
        if old and self.chunked:
            raise BadAnswer
        options = _options(fields)
        self.lines = fields.without(named) if options and (named := named_fields(options)) else fields.lines
        self.empty = asked == "HEAD" or status in _NO_BODY or status < 200
        self.keeps = not old and "close" not in options and (self.empty or self.chunked or self.length is not None)
        self.alike = fields.alike and _OF_GUARDS.isdisjoint(fields.special) and status_line in _STATUS_LINES
        self.said = b""
        if self.length is not None and status != 204:
            self.said = b"".join([status_line, *self.lines, b"Content-Length: %d\r\n\r\n" % self.length])


def read_answer(raw: bytes, asked: str) -> AnswerHead:
    """``raw``: one head with the empty line at its end; ``asked``: the request's method. Raises BadAnswer.

    A home's answers are much alike, so those heads are remembered whole in which every field may be.
    """
    known = ANSWERS[asked == "HEAD"]
    head = known.get(raw)
    if head is None:
        head = _read_answer(raw, asked)
        if head.alike and len(raw) <= MAX_ANSWER_BYTES:
            if len(known) >= MAX_ANSWERS:
                known.clear()
            known[raw] = head
    return head


def _read_answer(raw: bytes, asked: str) -> AnswerHead:
    try:
        HttpResponseParser(_NOBODY).feed_data(raw)
    except HttpParserUpgrade:
        pass
    except HttpParserError:
        raise BadAnswer from None
    lines = raw.splitlines(keepends=True)
    first = _STATUS_LINE.fullmatch(lines[0])
    if first is None or len(lines) - 2 > MAX_FIELDS:
        raise BadAnswer
    old = first[1] == b"0"
    line = b"HTTP/1.1 %b %b\r\n" % (first[2], first[3] or b"") if old or first[3] is None else first[0]
    return AnswerHead(int(first[2]), line, old, asked, Fields(ANSWER_NAMES, lines[1:-1]))


ANSWERS: Final[tuple[dict[bytes, AnswerHead], dict[bytes, AnswerHead]]] = ({}, {})
"""Heads that are remembered, by what came: of answers, and of answers to HEAD."""
