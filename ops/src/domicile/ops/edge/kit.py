"""What an edge of anybody's making must do for its clients, as checks from outside: ``domicile edge test``.

All that is looked at is what a client gets to see. What proves a user is brought along by whoever asks, in files of
header lines; what is forged is made up here, by a key that nobody knows. What needs more than was brought is said to
have been left out, and counts for nothing.
"""

from __future__ import annotations

import base64
import json
import secrets
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from typing import Final
from urllib.parse import urlsplit

import aiohttp
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from multidict import CIMultiDict
from yarl import URL

from domicile.identity import Signer
from domicile.model.ids import KEY_BYTES, SubjectKey
from domicile.model.pins import Pin
from domicile.model.wire import CELL_HEADER, EPOCH_HEADER, HEADER_PREFIX, SUBJECT_KEY_HEADER, TOKEN_COOKIE, TOKEN_HEADER

SECONDS: Final = 15.0
MAX_AGAIN: Final = 3
LARGE_BYTES: Final = 200_000
Headers = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Brought:
    """What the checks are made with. ``user``: a user's proof, at home in the edge's jurisdiction; ``other``: one more.

    ``abroad``: one's at home elsewhere; ``expired``: a residency token past its time; ``stale``: one of before a move,
    within its time. ``path``: a subject's own, read by GET; ``write``: one that takes a POST of any bytes.
    """

    url: str
    user: Headers
    path: str = "/"
    deployment: str = "domicile"
    other: Headers = field(default_factory=dict)
    abroad: Headers = field(default_factory=dict)
    expired: Headers = field(default_factory=dict)
    stale: Headers = field(default_factory=dict)
    write: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One check. ``ok``: None where it was left out; ``remedy``: what to do about a failure."""

    check: str
    tried: str
    expected: str
    happened: str
    ok: bool | None
    remedy: str


@dataclass(frozen=True, slots=True)
class Answer:
    """``told``: names of fields that are for routers alone, which no client may see; ``host``: of a redirect."""

    status: int
    code: str | None
    told: tuple[str, ...]
    host: str | None
    retry_after: bool

    def __str__(self) -> str:
        said = f"{self.status} {self.code or ''}".strip()
        return (
            said
            + (f" to {self.host}" if self.host else "")
            + (f", showing {', '.join(self.told)}" if self.told else "")
        )

    @property
    def served(self) -> bool:
        return 200 <= self.status < 300


class Client:
    """Asks the edge as clients do: an edge may have one come again (307 to the same place), and is then asked again."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url.rstrip("/")
        self._own = urlsplit(url).netloc

    async def ask(self, path: str, headers: Headers, *, method: str = "GET", body: bytes | None = None) -> Answer:
        url = URL(self._url + path, encoded=True)
        sent = CIMultiDict(headers)
        answer = Answer(0, None, (), None, False)
        for _ in range(MAX_AGAIN):
            async with self._session.request(method, url, headers=sent, data=body, allow_redirects=False) as response:
                text = await response.read()
                to = _place(response.headers.get("Location", "")) if response.status == 307 else None
                host = f"{to.host}:{to.port}" if to is not None and to.host else None
                told = tuple(name for name in response.headers if name.lower().startswith(HEADER_PREFIX))
                answer = Answer(response.status, _code(text), told, host, "Retry-After" in response.headers)
                if to is None or (to.host and to.authority != self._own):
                    return answer
                if response.headers.get("Set-Cookie", "").startswith(f"{TOKEN_COOKIE}=;"):
                    sent["Cookie"] = _without_token(sent.get("Cookie", ""))
        return answer


def _place(location: str) -> URL | None:
    try:
        return URL(location)
    except ValueError:
        return None


def _code(body: bytes) -> str | None:
    try:
        found = json.loads(body)
    except ValueError:
        return None
    return str(found["code"]) if isinstance(found, dict) and isinstance(found.get("code"), str) else None


def _without_token(cookies: str) -> str:
    return "; ".join(each for each in cookies.split("; ") if not each.startswith(f"{TOKEN_COOKIE}="))


def _forged(deployment: str, *, algorithm: str | None = None) -> str:
    """A residency token of somebody who doesn't exist, by a key that nobody published; or by no key at all."""
    key = SubjectKey(b"\1" + secrets.token_bytes(KEY_BYTES - 1))
    pin = Pin(subject_key=key, jurisdiction="nowhere", cell="nowhere-1", epoch=1)
    token = Signer(Ed25519PrivateKey.generate()).residency_token(pin, deployment)
    if algorithm is None:
        return token
    head = base64.urlsafe_b64encode(json.dumps({"alg": algorithm, "typ": "residency"}).encode()).rstrip(b"=").decode()
    return f"{head}.{token.split('.')[1]}."


_SPOOFED: Final = {
    SUBJECT_KEY_HEADER: "01" + "00" * (KEY_BYTES - 1), CELL_HEADER: "nowhere-1", EPOCH_HEADER: "1",
}  # fmt: skip
Check = Callable[[Client, Brought], Awaitable[Row | None]]


def _row(check: str, tried: str, expected: str, answer: Answer, ok: bool, remedy: str) -> Row:
    return Row(check, tried, expected, str(answer), ok, remedy)


async def _served(client: Client, brought: Brought) -> Row:
    answer = await client.ask(brought.path, brought.user)
    remedy = "see that the proof is good at a router, and that cells take this edge's certificate (role edge)"
    return _row("served", "a known user", "2xx", answer, answer.served, remedy)


async def _nothing_shown(client: Client, brought: Brought) -> Row:
    answer = await client.ask(brought.path, brought.user)
    remedy = "take every Domicile-* field out of answers"
    return _row("answers", "a known user", "no Domicile-* field", answer, answer.served and not answer.told, remedy)


async def _nobody(client: Client, brought: Brought) -> Row:
    answer = await client.ask(brought.path, {})
    ok = answer.status == 401 and answer.code is not None
    return _row("no proof", "nobody", "401 and a problem document", answer, ok, "leave it to a router")


async def _bad_tokens(client: Client, brought: Brought, name: str, token: str) -> Row:
    answers = [
        await client.ask(brought.path, headers)
        for headers in ({TOKEN_HEADER: token}, {"Cookie": f"{TOKEN_COOKIE}={token}"})
    ]
    worst = next((each for each in answers if each.status != 401), answers[0])
    remedy = "verify tokens by the directory's keys (EdDSA alone), and leave what is none to a router"
    return _row(name, "as header and as cookie", "401", worst, worst.status == 401, remedy)


async def _forgery(client: Client, brought: Brought) -> Row:
    return await _bad_tokens(client, brought, "forged token", _forged(brought.deployment))


async def _unsigned(client: Client, brought: Brought) -> Row:
    return await _bad_tokens(client, brought, "unsigned token", _forged(brought.deployment, algorithm="none"))


async def _spoofed_alone(client: Client, brought: Brought) -> Row:
    answer = await client.ask(brought.path, _SPOOFED)
    remedy = "drop a client's Domicile-* fields before anything is decided by them"
    return _row("spoofed, alone", "Domicile-Subject-Key, -Cell and -Epoch", "401", answer, answer.status == 401, remedy)


async def _spoofed_beside(client: Client, brought: Brought) -> Row:
    answer = await client.ask(brought.path, {**brought.user, **_SPOOFED})
    remedy = "drop a client's Domicile-* fields, and write them yourself"
    return _row("spoofed, beside a proof", "the same, and a known user", "2xx", answer, answer.served, remedy)


def _spellings(fields: Headers) -> list[CIMultiDict[str]]:
    """As a client may write them who hopes that a proxy drops one spelling and a server believes another."""
    plain = CIMultiDict(fields)
    return [
        plain,
        CIMultiDict({name.upper(): value for name, value in fields.items()}),
        CIMultiDict({name.replace("-", "_"): value for name, value in fields.items()}),
        CIMultiDict([*plain.items(), *plain.items()]),
    ]


async def _spoofed_as_other(client: Client, brought: Brought) -> Row | None:
    """The worst of spoofs: somebody who exists, where he lives."""
    if (told := _named_by(brought.other)) is None:
        return None
    answers = [await client.ask(brought.path, fields) for fields in _spellings(told)]
    worst = next((each for each in answers if each.status != 401), answers[0])
    remedy = "drop Domicile-* fields in every spelling (capitals, _ for -, several) before anything is decided by them"
    tried = "another user's key, cell and epoch, in four spellings"
    return _row("spoofed, as another", tried, "401", worst, worst.status == 401, remedy)


def _named_by(proof: Headers) -> dict[str, str] | None:
    """What a residency token says of its subject, to be claimed without it; None for another kind of proof."""
    fields = CIMultiDict(proof)
    token = fields.get(TOKEN_HEADER) or SimpleCookie(fields.get("Cookie", "")).get(TOKEN_COOKIE)
    try:
        said = json.loads(_decoded(token if isinstance(token, str) else token.value if token else ""))
        return {SUBJECT_KEY_HEADER: said["sub"], CELL_HEADER: said["cell"], EPOCH_HEADER: str(said["epoch"])}
    except (ValueError, KeyError, TypeError, IndexError):
        return None


def _decoded(token: str) -> bytes:
    claims = token.split(".")[1]
    return base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4))


_OF_TWO_MEANINGS: Final = ("/%2e%2e", "/..%2f", "/%252e%252e", "/..;", "/x%5c..", "/..%3b")


async def _two_meanings(client: Client, brought: Brought) -> Row:
    answers = [await client.ask(f"{beginning}{brought.path}", brought.user) for beginning in _OF_TWO_MEANINGS]
    worst = next((each for each in answers if each.status != 400), answers[0])
    remedy = "send paths with dot segments in any spelling to a router, unchanged"
    return _row("path of two meanings", " ".join(_OF_TWO_MEANINGS), "400", worst, worst.status == 400, remedy)


async def _expired(client: Client, brought: Brought) -> Row | None:
    if not brought.expired:
        return None
    answer = await client.ask(brought.path, brought.expired)
    remedy = "look at exp, and keep no decision longer than its proof"
    return _row("expired token", "a token past its time", "401", answer, answer.status == 401, remedy)


async def _stale(client: Client, brought: Brought) -> Row | None:
    if not brought.stale:
        return None
    answer = await client.ask(brought.path, brought.stale)
    remedy = "send a guard's 421 round by a router, or have the client come again (307) with the cookie cleared"
    return _row("stale token", "a token of before a move", "2xx, after a 307 or not", answer, answer.served, remedy)


async def _stale_write(client: Client, brought: Brought) -> Row | None:
    if not brought.stale or brought.write is None:
        return None
    answer = await client.ask(brought.write, brought.stale, method="POST", body=bytes(LARGE_BYTES))
    ok = answer.served or (answer.status == 503 and answer.retry_after)
    remedy = "answer 503 with Retry-After where the body cannot be sent again"
    return _row(
        "stale token, large body", f"POST of {LARGE_BYTES:,} bytes", "2xx, or 503 to be repeated", answer, ok, remedy
    )


async def _write(client: Client, brought: Brought) -> Row | None:
    if brought.write is None:
        return None
    answer = await client.ask(brought.write, brought.user, method="POST", body=bytes(LARGE_BYTES))
    return _row(
        "large body", f"POST of {LARGE_BYTES:,} bytes", "2xx", answer, answer.served, "let bodies pass, unbuffered"
    )


async def _disagreeing(client: Client, brought: Brought) -> Row | None:
    both = CIMultiDict(brought.user)
    if not brought.other or any(name in both and name.lower() != "cookie" for name in brought.other):
        return None
    for name, value in brought.other.items():
        both[name] = f"{both[name]}; {value}" if name in both else value
    answer = await client.ask(brought.path, both)
    ok = answer.status in (400, 401, 403)
    remedy = "leave a request with several proofs to a router, which compares them, or let the application compare"
    return _row("two people's proofs", "in one request", "400, or the application's refusal", answer, ok, remedy)


async def _traveller(client: Client, brought: Brought) -> Row | None:
    if not brought.abroad:
        return None
    answer = await client.ask(brought.path, brought.abroad)
    ok = answer.served or answer.status == 451 or (answer.status == 307 and answer.host is not None)
    expected = "307 to another host, 451, or 2xx where travellers are carried"
    return _row("traveller", "a user of another jurisdiction", expected, answer, ok, "leave them to a router")


CHECKS: Final[dict[str, tuple[Check, str]]] = {
    "served": (_served, ""),
    "answers": (_nothing_shown, ""),
    "no proof": (_nobody, ""),
    "forged token": (_forgery, ""),
    "unsigned token": (_unsigned, ""),
    "spoofed, alone": (_spoofed_alone, ""),
    "spoofed, beside a proof": (_spoofed_beside, ""),
    "spoofed, as another": (_spoofed_as_other, "--other, a residency token"),
    "path of two meanings": (_two_meanings, ""),
    "expired token": (_expired, "--expired"),
    "stale token": (_stale, "--stale"),
    "stale token, large body": (_stale_write, "--stale and --write"),
    "large body": (_write, "--write"),
    "two people's proofs": (_disagreeing, "--other, in another field than --user's"),
    "traveller": (_traveller, "--abroad"),
}


async def examine(brought: Brought, context: ssl.SSLContext | None = None) -> list[Row]:
    """Every check, one after the other. ``context``: whom to believe at a https address."""
    connector = aiohttp.TCPConnector(ssl=context if context is not None else True)
    timeout = aiohttp.ClientTimeout(total=SECONDS)
    rows = []
    async with aiohttp.ClientSession(
        connector=connector, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
    ) as session:
        client = Client(session, brought.url)
        for name, (check, wants) in CHECKS.items():
            started = time.monotonic()
            try:
                row = await check(client, brought)
            except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
                what = f"{type(error).__name__} after {time.monotonic() - started:.1f} s"
                row = Row(name, "", "an answer", what, False, "see that it listens there, and by whose certificate")
            rows.append(row or Row(name, "", "", f"left out: needs {wants}", None, ""))
    return rows
