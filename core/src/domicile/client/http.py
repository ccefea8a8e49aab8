"""HTTPS to one kind of peer: right jurisdiction, right role, bounded in time, and errors of our own tree.

A transport's exceptions never leak: what could not be reached is Unavailable, what a peer refused is the
class that its problem document names. No redirect is followed and no proxy of the environment is used.
"""

from __future__ import annotations

import asyncio
import random
import re
import socket
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from pydantic import BaseModel, ValidationError

from domicile.identity import Credentials
from domicile.model.access import Role
from domicile.model.addresses import Network, inside, literal
from domicile.model.errors import DomicileError, InvalidInput, Misdirected, TooMany, Unavailable, by_code
from domicile.model.wire import Problem
from domicile.telemetry import REFUSALS, warn

MAX_ANSWER_BYTES: Final = 8 << 20
MAX_PROBLEM_BYTES: Final = 8192
MAX_RETRY_SECONDS: Final = 3600
RETRY_SHARE: Final = 0.1
RETRIES_AT_ONCE: Final = 10
RETRY_WAIT_SECONDS: Final = 0.05
"""Before the first repetition, at most; twice as long before each further one."""
ROUNDS: Final = 3
Answer = TypeVar("Answer", bound=BaseModel)


class JailedResolver(AbstractResolver):
    """Resolves names only to addresses inside the peer's networks; link-local is always refused.

    aiohttp does not ask a resolver about literal addresses: ``Peer`` holds those to the networks itself.
    """

    def __init__(self, networks: Collection[Network] | None) -> None:
        self._networks = networks
        self._inner = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        answers = await self._inner.resolve(host, port, family)
        admitted = [answer for answer in answers if inside(answer["host"], self._networks)]
        if not admitted:
            REFUSALS.labels("address-outside").inc()
            warn("address-outside")
            raise OSError(None, "the name has no address inside the peer's networks")
        return admitted

    async def close(self) -> None:
        await self._inner.close()


def error_from(status: int, body: bytes, where: str, retry_after: str | None = None) -> DomicileError:
    """The error that a peer's answer stands for; ``retry_after`` is its header, in seconds (RFC 9110, 10.2.3)."""
    try:
        problem = Problem.model_validate_json(body)
    except ValidationError:
        return Unavailable(f"answered {status} without a problem document", where=where)
    kind = by_code(problem.code)
    detail = problem.detail or problem.title
    if kind is None or kind.__init__ is not DomicileError.__init__:
        if kind is not None and issubclass(kind, Misdirected):
            return kind(
                detail,
                jurisdiction=problem.jurisdiction or "",
                cell="",
                subject_key="",
                public_host=problem.public_host,
            )
        if status >= 500 or (kind is not None and issubclass(kind, TooMany)):
            seconds = int(retry_after) if retry_after and re.fullmatch(r"[0-9]{1,6}", retry_after) else 2
            later = kind if kind is not None and issubclass(kind, Unavailable) else Unavailable
            return later(detail, where=where, retry_after=min(seconds, MAX_RETRY_SECONDS))
        return InvalidInput(detail, where=where)
    return kind(detail, where=where, remedy=problem.remedy or "")


class RetryBudget:
    """How many attempts may be repeated: a tenth of the first ones, and ``RETRIES_AT_ONCE`` saved up at most.

    So a peer in trouble is asked a tenth more than before at worst, not several times as often.
    """

    def __init__(self) -> None:
        self._left = float(RETRIES_AT_ONCE)

    def earn(self) -> None:
        self._left = min(float(RETRIES_AT_ONCE), self._left + RETRY_SHARE)

    def spend(self) -> bool:
        """Whether one more attempt may be made."""
        if self._left < 1:
            return False
        self._left -= 1
        return True


class _NotReady(Exception):
    """A 503: another process may be able to."""

    def __init__(self, error: Unavailable) -> None:
        super().__init__()
        self.error = error


class Peer:
    """A client of the processes of one role in one jurisdiction, at the addresses given.

    Each client starts with an order of its own, at random; an address that fails goes to its end, so that a
    dead one costs one attempt, and one that hangs the calls that it already has. Where all have failed, or a
    peer is not ready (503), a call is repeated after a random wait, within its budget. ``deadline`` bounds a
    call, all its attempts included, in seconds; none of them may take more than its share to connect. A literal
    address outside ``networks`` is InvalidInput.
    """

    def __init__(
        self,
        credentials: Credentials,
        addresses: Sequence[str],
        *,
        jurisdiction: str,
        role: Role,
        cell: str | None = None,
        networks: Collection[Network] | None = None,
        deadline: float = 5.0,
        connections: int = 64,
    ) -> None:
        if not addresses:
            raise InvalidInput(f"no address of the {jurisdiction} {role}", remedy="see the manifest")
        for address in addresses:
            ip = literal(address)
            if ip is not None and not inside(str(ip), networks):
                REFUSALS.labels("address-outside").inc()
                raise InvalidInput(
                    f"{address} lies outside the networks of the {jurisdiction} {role}", remedy="see the manifest"
                )
        self._addresses = random.sample(list(addresses), len(addresses))
        self._where = f"{role} of {jurisdiction}"
        self._deadline = deadline
        self._context = credentials.client(jurisdiction, [role], cell=cell)
        self._resolver = JailedResolver(networks)
        self._connections = connections
        self._session: aiohttp.ClientSession | None = None
        self._budget = RetryBudget()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                ssl=self._context, limit=self._connections, resolver=self._resolver, keepalive_timeout=30
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                trust_env=False,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._deadline / max(2, len(self._addresses))),
                skip_auto_headers=("Accept-Encoding", "User-Agent"),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
            )
        return self._session

    async def call(
        self,
        method: str,
        path: str,
        *,
        body: BaseModel | None = None,
        headers: dict[str, str] | None = None,
        repeatable: bool = True,
    ) -> bytes:
        """One request; the answer's body. ``repeatable``: whether a second address may be tried after a
        request may have been received; aiohttp repeats idempotent methods (RFC 9110, 9.2.2) by itself, so it
        matters for POST. Raises Unavailable, or what the peer's problem document names.
        """
        data = body.model_dump_json(exclude_none=True).encode() if body is not None else None
        failure = Unavailable("cannot be reached (no attempt)", where=self._where)
        self._budget.earn()
        asked: str | None = None
        try:
            async with asyncio.timeout(self._deadline):
                for number in range(ROUNDS):
                    if number:
                        if not self._budget.spend():
                            break
                        await asyncio.sleep(random.uniform(0, RETRY_WAIT_SECONDS * 2 ** (number - 1)))  # noqa: S311 - jitter
                    for address in tuple(self._addresses):
                        asked = address
                        try:
                            return await self._attempt(method, address, path, data, headers or {})
                        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
                            failure = self._unreached(type(error).__name__)
                        except (aiohttp.ClientError, ConnectionError) as error:
                            failure = self._unreached(type(error).__name__)
                            if not repeatable:
                                raise failure from None
                        except _NotReady as refusal:
                            failure = refusal.error
                            if not repeatable:
                                raise failure from None
                        self._last(address)
        except TimeoutError:
            if asked is not None:
                self._last(asked)  # it may hang, for good
            failure = self._unreached(f"no answer within {self._deadline:g} s")
        raise failure

    def _unreached(self, reason: str) -> Unavailable:
        return Unavailable(f"cannot be reached ({reason})", where=self._where)

    @asynccontextmanager
    async def stream(self, path: str, *, idle: float) -> AsyncIterator[aiohttp.StreamReader]:
        """The body of a GET that may never end. Raises Unavailable, also where nothing comes for ``idle`` seconds."""
        address = self._addresses[0]
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._deadline, sock_read=idle)
        try:
            async with self._open().get(f"https://{address}{path}", allow_redirects=False, timeout=timeout) as response:
                if response.status >= 300:
                    problem = await response.content.read(MAX_PROBLEM_BYTES)
                    raise error_from(response.status, problem, self._where, response.headers.get("Retry-After"))
                yield response.content
        except (aiohttp.ClientError, ConnectionError, TimeoutError, asyncio.IncompleteReadError) as error:
            raise self._unreached(type(error).__name__) from None
        finally:
            self._last(address)

    def _last(self, address: str) -> None:
        self._addresses.remove(address)
        self._addresses.append(address)

    async def _attempt(
        self, method: str, address: str, path: str, data: bytes | None, headers: dict[str, str]
    ) -> bytes:
        sent: dict[str, Any] = dict(headers)
        if data is not None:
            sent["Content-Type"] = "application/json"
        async with self._open().request(
            method, f"https://{address}{path}", data=data, headers=sent, allow_redirects=False
        ) as response:
            body = await response.content.read(MAX_ANSWER_BYTES + 1)
            while len(body) <= MAX_ANSWER_BYTES and (more := await response.content.read(MAX_ANSWER_BYTES)):
                body += more
            if len(body) > MAX_ANSWER_BYTES:
                raise Unavailable(f"an answer over {MAX_ANSWER_BYTES} bytes", where=self._where)
            if response.status >= 300:
                error = error_from(response.status, body, self._where, response.headers.get("Retry-After"))
                raise _NotReady(error) if response.status == 503 and isinstance(error, Unavailable) else error
            return body

    async def ask(
        self,
        answer: type[Answer],
        method: str,
        path: str,
        *,
        body: BaseModel | None = None,
        headers: dict[str, str] | None = None,
        repeatable: bool = True,
    ) -> Answer:
        """``call``, with the answer read as a model; an answer that is none is Unavailable."""
        raw = await self.call(method, path, body=body, headers=headers, repeatable=repeatable)
        try:
            return answer.model_validate_json(raw)
        except ValidationError:
            raise Unavailable("an answer of another shape", where=self._where, remedy="compare versions") from None
