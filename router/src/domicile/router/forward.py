"""The byte path: one request out over mutual TLS, its answer back, both unbuffered with back-pressure.

Nothing is decompressed, followed, cached or stored. Failover walks the places that the decision named and no
others. A client that goes away cancels the request at the home; a home that goes away in the middle of an
answer closes the client's connection, since a cut answer must not look like a whole one.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final, NoReturn

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from domicile.client import JailedResolver
from domicile.identity import Credentials
from domicile.model import Address, InvalidInput, Pin, SubjectKey, Unavailable
from domicile.model.wire import EPOCH_HEADER, GUARD_HEADER, MAX_HEAD_BYTES, SUBJECT_KEY_HEADER
from domicile.router.body import Body
from domicile.router.decide import OUTAGE_RETRY_SECONDS
from domicile.router.ejection import Failure
from domicile.router.endpoints import Upstream
from domicile.router.errors import AnswerLost
from domicile.router.headers import response_headers
from domicile.router.health import Health
from domicile.router.settings import RouterSettings
from domicile.telemetry import REFUSALS, warn

_OWN_HEADERS: Final = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")


class _Failed(Exception):
    """One attempt, without the head of an answer."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A request as it goes out. ``target``: path and query in origin form."""

    method: str
    target: str
    headers: CIMultiDict[str]


@dataclass(frozen=True, slots=True)
class Guard:
    """A guard's refusal before any handler ran; ``epoch`` and ``key`` as far as it named them."""

    kind: str
    epoch: int | None
    key: SubjectKey | None

    def behind(self, pin: Pin | None) -> bool:
        """Whether the cell has not come to the pin's epoch yet: waiting helps, asking the directory does not."""
        return self.kind == "stale-epoch" and pin is not None and self.epoch is not None and self.epoch < pin.epoch


class Answer:
    """The head of an answer, its body still to come. ``pass_on`` or ``discard`` it."""

    def __init__(self, response: aiohttp.ClientResponse, idle: float) -> None:
        self._response = response
        self._idle = idle
        self.status = response.status
        self.headers = response.headers
        self.passed = 0
        """Bytes of the body that went to the client."""

    def guard(self) -> Guard | None:
        """What a guard said; None for every other answer, an application's own 421 among them."""
        kind = self.headers.get(GUARD_HEADER)
        if self.status != 421 or kind is None:
            return None
        epoch = self.headers.get(EPOCH_HEADER, "")
        try:
            key = SubjectKey.parse(self.headers.get(SUBJECT_KEY_HEADER, ""))
        except InvalidInput:
            key = None
        return Guard(kind, int(epoch) if epoch.isascii() and epoch.isdigit() and len(epoch) < 20 else None, key)

    async def discard(self) -> None:
        """Drop the connection and end what still sends on it."""
        self._response.close()
        await self._response.wait_for_close()

    async def pass_on(self, request: web.BaseRequest, *, set_cookie: str | None = None) -> web.StreamResponse:
        """Stream it to the client. Raises ConnectionResetError, the client's connection closed, when cut."""
        headers = response_headers(self.headers)
        if set_cookie is not None:
            headers.add("Set-Cookie", set_cookie)
        answer = web.StreamResponse(status=self.status, reason=self._response.reason, headers=headers)
        try:
            await answer.prepare(request)
            async for chunk in self._response.content.iter_any():
                async with asyncio.timeout(self._idle):
                    await answer.write(chunk)
                self.passed += len(chunk)
            await answer.write_eof()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            _cut(request, error)
        finally:
            self._response.release()
            await self._response.wait_for_close()
        return answer


def _cut(request: web.BaseRequest, error: Exception) -> NoReturn:
    if request.transport is not None:
        warn("answer-cut", error=type(error).__name__)
        request.transport.abort()
    raise ConnectionResetError from None


class Wire:
    """Connections to upstreams, pooled for each; their health is told of every attempt."""

    def __init__(self, credentials: Credentials, settings: RouterSettings, health: Health) -> None:
        self._credentials = credentials
        self._settings = settings
        self._health = health
        self._sessions: dict[Upstream, aiohttp.ClientSession] = {}

    async def close(self) -> None:
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()

    async def send(self, upstreams: tuple[Upstream, ...], outgoing: Outgoing, body: Body) -> Answer:
        """The answer of the first upstream that can be reached.

        A request that may have been received is sent to another only if that is harmless. Raises Unavailable
        where none can be reached or the cell may hold no more, AnswerLost where one took the request and went
        away, and the body's own failure.
        """
        place = f"{upstreams[0].cell or upstreams[0].jurisdiction}/{upstreams[0].role}"
        permit = self._health.admit(place)
        lost = False
        try:
            order = self._health.order(upstreams)
            for upstream in order:
                try:
                    answer = await self._attempt(upstream, outgoing, body)
                except _Failed as error:
                    lost = lost or error.failure is not Failure.UNREACHED
                    if upstream is order[-1] or not self._health.retries(
                        place, outgoing.method, error.failure, replayable=body.replayable
                    ):
                        break
                else:
                    permit.answered()
                    return answer
            permit.failed()
        finally:
            permit.cancelled()
        if lost:
            raise AnswerLost(
                "the home cell took the request and ended the connection without an answer",
                remedy="whether it took effect is not known",
            )
        raise Unavailable("the home cell cannot be reached", retry_after=OUTAGE_RETRY_SECONDS)

    async def _attempt(self, upstream: Upstream, outgoing: Outgoing, body: Body) -> Answer:
        address = Address(upstream.address)
        path, question, query = outgoing.target.partition("?")
        url = URL.build(
            scheme="https", host=address.host, port=address.port, path=path, query_string=query, encoded=True
        )
        if question and not query:
            url = URL(f"{url}?", encoded=True)
        try:
            response = await self._session(upstream).request(
                outgoing.method,
                url,
                headers=outgoing.headers,
                data=body if body.present else None,
                allow_redirects=False,
            )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise self._failed(upstream, Failure.UNREACHED, error) from None
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            if body.failure is not None:
                raise body.failure from None
            slow = isinstance(error, TimeoutError)
            raise self._failed(upstream, Failure.SLOW if slow else Failure.LOST, error) from None
        self._health.succeeded(upstream)
        return Answer(response, self._settings.idle_seconds)

    def _failed(self, upstream: Upstream, failure: Failure, error: Exception) -> _Failed:
        self._health.failed(upstream, failure)
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            REFUSALS.labels("upstream-identity").inc()
        warn(
            "upstream-failed",
            error=type(error).__name__,
            jurisdiction=upstream.jurisdiction,
            cell=upstream.cell,
            zone=upstream.zone,
        )
        return _Failed(failure)

    def _session(self, upstream: Upstream) -> aiohttp.ClientSession:
        session = self._sessions.get(upstream)
        if session is None:
            context = self._credentials.client(upstream.jurisdiction, [upstream.role], cell=upstream.cell)
            connector = aiohttp.TCPConnector(
                ssl=context,
                limit=self._settings.connections,
                resolver=JailedResolver(upstream.networks or None),
                keepalive_timeout=30,
            )
            session = self._sessions[upstream] = aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(
                    total=None,
                    connect=self._settings.connect_seconds,
                    sock_connect=self._settings.connect_seconds,
                    sock_read=self._settings.idle_seconds,
                ),
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=_OWN_HEADERS,
                trust_env=False,
                max_line_size=MAX_HEAD_BYTES // 2,
                max_field_size=MAX_HEAD_BYTES // 2,
            )
        return session
