"""Requests as bytes, and what the router makes of each: for the strictness of heads, and to start a fuzzer from.

What has more than one reading is REFUSED with 400, some with another status (OTHERWISE); FORWARDED are pairs of
what comes and what goes on, ``|`` before what belongs to the next request.
"""

from __future__ import annotations

from domicile.model import DomicileError, Role
from domicile.router.body import Body
from domicile.router.decide import Forward
from domicile.router.endpoints import HomeEndpoints, Upstream
from domicile.router.front import outgoing
from domicile.router.head import find_end, read_request

HOME = HomeEndpoints("eu", "eu-1", (Upstream(Role.APP, "eu", "eu-1", "fra", "app.example:1"),))
VIA = b"Via: 1.1 domicile\r\n"
GET = b"GET / HTTP/1.1\r\n"
HOST = b"Host: a.example\r\n"
POST = b"POST / HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


def passed(lines: bytes, *, first: bytes = GET, via: bytes = VIA) -> bytes:
    return first + HOST + lines + via + b"\r\n"


def posted(rest: bytes) -> bytes:
    return POST + VIA + rest


def understood(raw: bytes) -> tuple[int, bytes]:
    """The status of the refusal and nothing, or 200 and what goes on; 0 where more has to come."""
    try:
        end = find_end(raw)
        if not end:
            return 0, b""
        head = read_request(raw[:end])
        body = Body(head, 1 << 20)
        rest = raw[end:]
        if not body.complete:
            _, rest = body.feed(rest)
            if not body.complete:
                return 0, b""
        return 200, outgoing(head, Forward(HOME, None), None) + body.begin() + (b"|" + rest if rest else b"")
    except DomicileError as error:
        return int(error.status), b""


REFUSED = {
    "length and chunks": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two codings in two fields": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two codings in one field": POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "another coding before": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "another coding behind": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "an unknown coding": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "identity": POST + b"Transfer-Encoding: identity\r\n\r\n",
    "an empty coding": POST + b"Transfer-Encoding:\r\n\r\n",
    "a quoted coding": POST + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n',
    "a coding with a parameter": POST + b"Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n",
    "a coding behind a vertical tab": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "chunks in HTTP/1.0": b"POST / HTTP/1.0\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths that agree": POST + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\na",
    "two lengths that don't": POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "a list of lengths": POST + b"Content-Length: 1, 1\r\n\r\na",
    "a positive length": POST + b"Content-Length: +1\r\n\r\na",
    "a negative length": POST + b"Content-Length: -1\r\n\r\n",
    "a hexadecimal length": POST + b"Content-Length: 0x1\r\n\r\na",
    "a length with a space in it": POST + b"Content-Length: 1 1\r\n\r\na",
    "an empty length": POST + b"Content-Length:\r\n\r\n",
    "a length past 64 bits": POST + b"Content-Length: 18446744073709551617\r\n\r\na",
    "a length of other digits": POST + "Content-Length: ١\r\n\r\na".encode(),
    "a folded line": GET + HOST + b"X: a\r\n b\r\n\r\n",
    "a line folded by a tab": GET + HOST + b"X: a\r\n\tb\r\n\r\n",
    "a folded coding": POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "a space before the first field": GET + b" " + HOST + b"\r\n",
    "a space before the colon": GET + HOST + b"X : a\r\n\r\n",
    "a tab before the colon": GET + HOST + b"X\t: a\r\n\r\n",
    "a coding with a space before the colon": POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "a field without a colon": GET + HOST + b"X\r\n\r\n",
    "a field without a name": GET + HOST + b": a\r\n\r\n",
    "a name with a space": GET + HOST + b"X Y: a\r\n\r\n",
    "a name with a bracket": GET + HOST + b"X(Y): a\r\n\r\n",
    "a name past ASCII": GET + HOST + b"X\xc3\xa9: a\r\n\r\n",
    "a name with NUL": GET + HOST + b"X\0: a\r\n\r\n",
    "a bare LF behind a field": GET + HOST + b"X: a\nY: b\r\n\r\n",
    "a bare LF behind the request line": b"GET / HTTP/1.1\nHost: a\r\n\r\n",
    "bare LF alone": b"GET / HTTP/1.1\nHost: a\n\n",
    "a bare CR in a value": GET + HOST + b"X: a\rb\r\n\r\n",
    "a bare CR behind a field": GET + HOST + b"X: a\rY: b\r\n\r\n",
    "CR CR LF": GET + HOST + b"X: a\r\r\n\r\n",
    "NUL in a value": GET + HOST + b"X: a\0b\r\n\r\n",
    "NUL in a target": b"GET /\0 HTTP/1.1\r\n" + HOST + b"\r\n",
    "a control character in a value": GET + HOST + b"X: a\x01b\r\n\r\n",
    "DEL in a value": GET + HOST + b"X: a\x7fb\r\n\r\n",
    "an escape in a value": GET + HOST + b"X: \x1b[2J\r\n\r\n",
    "no host": GET + b"\r\n",
    "no host in HTTP/1.0": b"GET / HTTP/1.0\r\n\r\n",
    "two hosts": GET + HOST + b"Host: b.example\r\n\r\n",
    "one host twice": GET + HOST + HOST + b"\r\n",
    "an empty host": GET + b"Host:\r\n\r\n",
    "a host with a path": GET + b"Host: a/b\r\n\r\n",
    "a host with a user": GET + b"Host: u@a\r\n\r\n",
    "a host with a space": GET + b"Host: a b\r\n\r\n",
    "a host with a comma": GET + b"Host: a,b\r\n\r\n",
    "a host with a port that is none": GET + b"Host: a:x\r\n\r\n",
    "a target of another host": b"GET http://b.example/ HTTP/1.1\r\n" + HOST + b"\r\n",
    "a target with a user": b"GET http://u@a.example/ HTTP/1.1\r\n" + HOST + b"\r\n",
    "a target of another scheme": b"GET ftp://a.example/ HTTP/1.1\r\n" + HOST + b"\r\n",
    "a target without a slash": b"GET x HTTP/1.1\r\n" + HOST + b"\r\n",
    "an asterisk": b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n",
    "a fragment": b"GET /#a HTTP/1.1\r\n" + HOST + b"\r\n",
    "a space in a target": b"GET /a b HTTP/1.1\r\n" + HOST + b"\r\n",
    "a target past ASCII": b"GET /\xc3\xa9 HTTP/1.1\r\n" + HOST + b"\r\n",
    "dot segments": b"GET /a/../b HTTP/1.1\r\n" + HOST + b"\r\n",
    "dot segments in disguise": b"GET /a/%2E%2e/b HTTP/1.1\r\n" + HOST + b"\r\n",
    "dot segments with a parameter": b"GET /a/..;x/b HTTP/1.1\r\n" + HOST + b"\r\n",
    "dot segments encoded twice": b"GET /a/%252e%252e/b HTTP/1.1\r\n" + HOST + b"\r\n",
    "a path encoded over and over": b"GET /a/%252525256d HTTP/1.1\r\n" + HOST + b"\r\n",
    "dot segments behind a backslash": b"GET /a\\..\\b HTTP/1.1\r\n" + HOST + b"\r\n",
    "dot segments behind a slash in disguise": b"GET /a%2f..%2fb HTTP/1.1\r\n" + HOST + b"\r\n",
    "an encoded NUL": b"GET /a%00 HTTP/1.1\r\n" + HOST + b"\r\n",
    "two spaces behind the method": b"GET  / HTTP/1.1\r\n" + HOST + b"\r\n",
    "two spaces behind the target": b"GET /  HTTP/1.1\r\n" + HOST + b"\r\n",
    "a space behind the version": b"GET / HTTP/1.1 \r\n" + HOST + b"\r\n",
    "a tab in the request line": b"GET\t/ HTTP/1.1\r\n" + HOST + b"\r\n",
    "an empty line before": b"\r\n" + GET + HOST + b"\r\n",
    "a space before": b" " + GET + HOST + b"\r\n",
    "no version": b"GET /\r\n" + HOST + b"\r\n",
    "HTTP/0.9": b"GET / HTTP/0.9\r\n" + HOST + b"\r\n",
    "HTTP/1.2": b"GET / HTTP/1.2\r\n" + HOST + b"\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/1.10": b"GET / HTTP/1.10\r\n" + HOST + b"\r\n",
    "http/1.1": b"GET / http/1.1\r\n" + HOST + b"\r\n",
    "another protocol": b"GET / RTSP/1.0\r\n" + HOST + b"\r\n",
    "a method in lower case": b"get / HTTP/1.1\r\n" + HOST + b"\r\n",
    "a method that is none": b"G\0T / HTTP/1.1\r\n" + HOST + b"\r\n",
    "a TLS handshake": b"\x16\x03\x01\x02\0\x01\0\r\n\r\n",
    "a WebSocket with a body": GET + HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 1\r\n\r\na",
    "a WebSocket by POST": POST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    "a signed chunk size": CHUNKED + b"+1\r\na\r\n0\r\n\r\n",
    "a negative chunk size": CHUNKED + b"-1\r\na\r\n0\r\n\r\n",
    "a chunk size with 0x": CHUNKED + b"0x1\r\na\r\n0\r\n\r\n",
    "a chunk size with a space before": CHUNKED + b" 1\r\na\r\n0\r\n\r\n",
    "a chunk size with a space behind": CHUNKED + b"1 \r\na\r\n0\r\n\r\n",
    "a chunk size that is none": CHUNKED + b"g\r\na\r\n0\r\n\r\n",
    "an empty chunk size": CHUNKED + b"\r\na\r\n0\r\n\r\n",
    "a chunk size past 64 bits": CHUNKED + b"10000000000000001\r\na\r\n0\r\n\r\n",
    "a chunk that is longer than its size": CHUNKED + b"1\r\nab\r\n0\r\n\r\n",
    "a chunk that is shorter than its size": CHUNKED + b"3\r\na\r\n0\r\n\r\n",
    "a chunk size behind a bare LF": CHUNKED + b"1\na\n0\n\n",
    "a chunk that ends in a bare LF": CHUNKED + b"1\r\na\n0\r\n\r\n",
    "a bare LF in a chunk extension": CHUNKED + b"1;a\nb\r\na\r\n0\r\n\r\n",
    "a bare CR in a chunk extension": CHUNKED + b"1;a\rb\r\na\r\n0\r\n\r\n",
    "NUL in a chunk extension": CHUNKED + b"1;\0\r\na\r\n0\r\n\r\n",
    "a chunk extension that is a kilobyte too long": CHUNKED + b"1;" + b"a" * 34_000 + b"\r\na\r\n0\r\n\r\n",
    "a folded trailer": CHUNKED + b"0\r\nX: a\r\n b\r\n\r\n",
    "a trailer with a space before the colon": CHUNKED + b"0\r\nX : a\r\n\r\n",
    "a trailer that is a length": CHUNKED + b"0\r\nContent-Length: 1\r\n\r\n",
    "a trailer with NUL": CHUNKED + b"0\r\nX: a\0\r\n\r\n",
    "trailers past 32 KiB": CHUNKED + b"0\r\n" + b"X: aaaaaaaa\r\n" * 3000 + b"\r\n",
}  # fmt: skip

OTHERWISE = {
    "a tunnel": (b"CONNECT a.example:1 HTTP/1.1\r\n" + HOST + b"\r\n", 405),
    "an echo": (b"TRACE / HTTP/1.1\r\n" + HOST + b"\r\n", 405),
    "a long head": (GET + HOST + b"X: " + b"a" * 33_000 + b"\r\n\r\n", 431),
    "a long head that goes on": (GET + HOST + b"X: " + b"a" * 33_000, 431),
    "many fields": (GET + HOST + b"X: a\r\n" * 128 + b"\r\n", 431),
    "a long body": (POST + b"Content-Length: 1048577\r\n\r\n", 413),
    "a huge chunk": (CHUNKED + b"ffffffffffffffff\r\n" + b"a" * ((1 << 20) + 1), 413),
    "a chunk that isn't whole": (CHUNKED + b"5\r\nab", 0),
    "a head that isn't whole": (GET + HOST, 0),
    "a CR that may become CR LF": (GET + b"Host: a.example\r", 0),
}  # fmt: skip

FORWARDED = {
    "canonical": (GET + HOST + b"\r\n", passed(b"")),
    "HTTP/1.0": (b"GET / HTTP/1.0\r\n" + HOST + b"\r\n", passed(b"")),
    "white space around values": (GET + b"Host:a.example\r\nX: \t a b \t\r\n\r\n", passed(b"X: a b\r\n")),
    "an empty value": (GET + HOST + b"X:\r\n\r\n", passed(b"X: \r\n")),
    "bytes past ASCII in a value": (GET + HOST + b"X: \xff\xc3\xa9\r\n\r\n", passed(b"X: \xff\xc3\xa9\r\n")),
    "the absolute form": (
        b"GET http://A.example/a?b HTTP/1.1\r\n" + HOST + b"\r\n",
        passed(b"", first=b"GET /a?b HTTP/1.1\r\n"),
    ),
    "the absolute form without a path": (
        b"GET http://a.example?b HTTP/1.1\r\n" + HOST + b"\r\n",
        passed(b"", first=b"GET /?b HTTP/1.1\r\n"),
    ),
    "names that gateway interfaces confuse": (
        GET + HOST + b"Domicile_Cell: us-1\r\nX_Forwarded_For: 1.2.3.4\r\nContent_Length: 5\r\nX.Y: a\r\n\r\n",
        passed(b""),
    ),
    "what only routers say": (
        GET + HOST + b"Domicile-Cell: a\r\nDOMICILE-EPOCH: 9\r\ndomicile-x: 1\r\n\r\n",
        passed(b""),
    ),
    "where it came from": (
        GET + HOST + b"Forwarded: for=1.2.3.4\r\nX-Forwarded-For: 1.2.3.4\r\nX-Real-IP: 1.2.3.4\r\n\r\n",
        passed(b""),
    ),
    "what ends at a hop": (
        GET + HOST + b"Connection: keep-alive, X-A, content-length, host\r\nX-A: 1\r\nKeep-Alive: 5\r\n"
        b"TE: trailers\r\nProxy-Connection: x\r\nProxy-Authorization: x\r\nUpgrade: h2c\r\nTrailer: X\r\n\r\n",
        passed(b""),
    ),
    "who else carried it": (
        GET + HOST + b"Via: 1.0 a\r\nVia: 1.1 b\r\n\r\n",
        passed(b"", via=b"Via: 1.0 a, 1.1 b, 1.1 domicile\r\n"),
    ),
    "a cookie that Connection names": (
        GET + HOST + b"Connection: close, Cookie\r\nCookie: a=1\r\n\r\n",
        passed(b""),
    ),
    "a residency token": (
        GET + HOST + b"Domicile-Token: x\r\nCookie: a=1;b=2; __Host-domicile=x\r\nCookie: c=3\r\n\r\n",
        passed(b"Cookie: a=1; b=2; c=3\r\n"),
    ),
    "fields that repeat": (GET + HOST + b"X: a\r\nx: b\r\n\r\n", passed(b"X: a\r\nx: b\r\n")),
    "a length": (POST + b"Content-Length: 002\r\n\r\nabGET", posted(b"Content-Length: 2\r\n\r\nab|GET")),
    "no length": (POST + b"\r\nab", posted(b"\r\n|ab")),
    "no body": (POST + b"Content-Length: 0\r\n\r\n", posted(b"Content-Length: 0\r\n\r\n")),
    "what is expected": (
        POST + b"Expect: 100-continue\r\nContent-Length: 1\r\n\r\na",
        posted(b"Content-Length: 1\r\n\r\na"),
    ),
    "chunks": (
        CHUNKED.replace(b"chunked", b"CHUNKED") + b"00003\r\nabc\r\n2;a=b;c=\"d\"\r\nde\r\n0;e\r\n\r\nGET",
        posted(b"Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n|GET"),
    ),
    "trailers": (
        CHUNKED + b"1\r\na\r\n0\r\nX-Sum: 1 \r\nDomicile-Cell: a\r\nAuthorization: a\r\nHost: b\r\n"
        b"Connection: X-Sum\r\n\r\n",
        posted(b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"),
    ),
    "an empty body in chunks": (CHUNKED + b"0\r\n\r\n", posted(b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n")),
    "a body that looks like its end": (
        CHUNKED + b"c\r\n\r\n\r\n0\r\n\r\n\r\n\r\r\n0\r\n\r\n",
        posted(b"Transfer-Encoding: chunked\r\n\r\nc\r\n\r\n\r\n0\r\n\r\n\r\n\r\r\n0\r\n\r\n"),
    ),
    "a WebSocket": (
        GET + HOST + b"Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Key: a\r\n\r\n",
        passed(b"Sec-WebSocket-Key: a\r\n", via=VIA + b"Connection: Upgrade\r\nUpgrade: websocket\r\n"),
    ),
}  # fmt: skip
