"""One request and its answer: identify, resolve, decide, act, and the bytes of both, unbuffered with back-pressure.

Driven by what the two connections report; nothing waits unless something has to be waited for. Nothing is
decompressed, followed, cached or stored. A client that goes away cancels the request at the home; a home that goes
away in the middle of an answer closes the client's connection, since a cut answer must not look like a whole one.

It is one object for all of that, and a few lines longer than a module should be: each further object would be made
for every request.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final, TypeVar

from domicile.model import DomicileError, Unavailable
from domicile.router.attempts import Attempts
from domicile.router.body import REPLAY_BYTES, Body, body_of
from domicile.router.chunks import LAST_CHUNK, chunk
from domicile.router.connection import MISDIRECTED, SWITCHES, Connection
from domicile.router.deadline import at_once
from domicile.router.decide import (
    MOVE_RETRY_SECONDS,
    Forward,
    Hairpin,
    Question,
    Redirect,
    Refuse,
)
from domicile.router.ejection import Failure
from domicile.router.errors import SlowRequest
from domicile.router.front import Asked, Front, Guard, guard_of, outgoing
from domicile.router.head import AnswerHead, BadAnswer, RequestHead
from domicile.router.lines import written
from domicile.router.methods import SAFE_METHODS
from domicile.router.replies import Reply, redirected, unforeseen
from domicile.router.waiting import Patience
from domicile.router.wire import Busy, Pool
from domicile.telemetry import BORDER_BYTES, place_of, warn
from domicile.telemetry.traces import OFF, TRACEPARENT

if TYPE_CHECKING:
    from domicile.router.downstream import Downstream

_CONTINUES: Final = 100
_NO_CONTENT: Final = 204
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_CHUNKED: Final = b"Transfer-Encoding: chunked\r\n"
_CLOSE: Final = b"Connection: close\r\n"
_UPGRADE: Final = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
_COPIED: Final = 4096
"""A piece up to this size is copied into its chunk, a longer one is written beside it."""
_CLIENT_GONE: Final = 499
_LATE: Final = TimeoutError.__name__
Result = TypeVar("Result")


class Exchange:
    """Of one client's connection. ``finished`` there is called once, unless the client goes first."""

    # what most requests never set isn't set for each of them
    _body: Body | None = None
    _asked: Asked | None = None
    _decision: Forward | Hairpin | None = None
    _attempts: Attempts | None = None
    _patience: Patience | None = None
    _held: ExitStack | None = None
    _outgoing = b""
    _unwritten = b""
    _connection: Connection | None = None
    _task: asyncio.Task[None] | None = None
    _status = _CLIENT_GONE
    _replayed = False
    _waited = False
    _retried = False
    _waiting_for_head = True
    _passed = 0
    _begun = False
    _chunked = False
    _closes = False
    _relays = False
    _counted = False

    def __init__(self, front: Front, client: Downstream, head: RequestHead) -> None:
        self.method = head.method
        self._decision = None  # here too: compiled, a default of None is none
        self._front = front
        self._client = client
        self._head = head
        self._expects = head.expects
        parent = head.fields.get(TRACEPARENT) if client.router is not None else None
        self._span = client.counts.begin(head.method, parent)
        front.shedder.enter()
        self._started = time.perf_counter()

    # --- from the client's connection

    def begin(self, data: bytes) -> None:
        """``data``: what came behind the head."""
        try:
            front, client, head = self._front, self._client, self._head
            self._body = body = body_of(head, front.settings.max_body)
            if data:
                self._take(data)
            if not body.complete:
                client.deadline.set(front.settings.idle_seconds)
            asked = front.glance(head, client.listener, client.peer, client.router)
            if asked is not None:
                self._identified(asked)
            else:
                self._run(front.ask(head, client.listener, client.peer, client.router), self._identified)
        except DomicileError as error:
            self.refuse(error)
        except Exception as error:
            self._unforeseen(error)

    def more(self, data: bytes) -> None:
        """What the client sent after that."""
        if self._relays:
            assert self._connection is not None
            self._connection.write(data)
            self._client.deadline.set(self._front.settings.relay_seconds)
            return
        try:
            self._take(data)
        except DomicileError as error:
            self.refuse(error)

    def client_full(self, full: bool) -> None:
        """Whether the client takes no more for now."""
        if self._connection is not None:
            self._connection.hold(full)

    def late(self) -> None:
        """Nothing has happened for as long as may be."""
        if self._begun:
            self._cut(_LATE)
        elif not self._unread or self._client.held or self._expects:
            if self._connection is None:
                self._set_deadline()  # whatever is waited for has a deadline of its own
            else:
                connection = self._connection
                connection.drop()
                self.broken(_LATE)
        else:
            self.refuse(SlowRequest(f"no more of the body within {self._front.settings.idle_seconds:g} s"))

    def gone(self) -> None:
        """The client's connection is closed."""
        if self._relays and self._connection is not None:
            self._connection.close()
            self._connection = None
        self._count(self._status if self._relays else _CLIENT_GONE, time.perf_counter())
        self._abandon()

    def _take(self, data: bytes) -> None:
        body = self._body
        assert body is not None
        if not self._unread:
            self._client.keep(data)
            return
        piece, rest = body.feed(data)
        if rest:
            self._client.keep(rest)
        if self._connection is None:
            self._client.hold("unsent", body.held > REPLAY_BYTES)
        elif piece:
            self._connection.write(piece)
        if body.complete and self._connection is not None:
            self._connection.all_sent()
        self._set_deadline()

    @property
    def _unread(self) -> bool:
        """Whether the client may still have to send some of the body."""
        return self._body is None or not self._body.complete

    def _set_deadline(self) -> None:
        front = self._front
        waits = not self._begun and not self._unread
        self._client.deadline.set(front.answer_seconds if waits else front.settings.idle_seconds)

    # --- the flow

    def _run(self, work: Coroutine[Any, Any, Result], then: Callable[[Result], None]) -> None:
        """``then`` what ``work`` returns: at once, unless it has to wait. Raises what either does until then."""
        at_once(work, then, lambda rest: self._wait(rest, then))

    def _wait(self, work: Awaitable[Result], then: Callable[[Result], None]) -> None:
        self._task = asyncio.create_task(self._waiting(work, then))

    async def _waiting(self, work: Awaitable[Result], then: Callable[[Result], None]) -> None:
        try:
            result = await work
            self._task = None
            then(result)
        except DomicileError as error:
            self._task = None
            self.refuse(error)
        except Exception as error:
            self._task = None
            self._unforeseen(error)

    def _identified(self, asked: Asked) -> None:
        self._asked = asked
        self._decide(asked.question)

    def _decide(self, question: Question) -> None:
        asked, body, front = self._asked, self._body, self._front
        assert asked is not None
        assert body is not None
        asked.question = question
        decision = front.decide(question)
        if isinstance(decision, Refuse):
            if decision.waits and not self._waited:
                self._waited = True
                self._run(front.settled(asked, self._held_bytes), self._decide)
                return
            raise decision.error
        if isinstance(decision, Redirect):
            self._reply(redirected(decision, self._head.target))
            return
        if self._replayed and not body.replayable:
            raise Unavailable("the subject's home changed while its request came in", retry_after=MOVE_RETRY_SECONDS)
        self._decision = decision
        self._attempts = attempts = Attempts(decision, front.ways, front.health, self._span)
        self._outgoing = outgoing(self._head, decision, asked.country, asked.who.distrusted, attempts.traceparent)
        self._try()

    def _try(self) -> None:
        assert self._attempts is not None
        pool = self._front.wire.pool(self._attempts.upstream)
        connection = pool.take()
        if connection is not None:
            self._send(connection)
        else:
            self._wait(self._connect(pool), self._connected)

    async def _connect(self, pool: Pool) -> Connection | str:
        """A connection, or why there is none: the class of an exception."""
        try:
            return await pool.connect()
        except (OSError, TimeoutError, Busy) as error:
            return type(error).__name__

    def _connected(self, connection: Connection | str) -> None:
        if isinstance(connection, str):
            self._failed(Failure.UNREACHED, connection)
        else:
            self._send(connection)

    def _failed(self, failure: Failure, reason: str) -> None:
        """An attempt brought no answer: on to the next one. Raises what the client is told where there is none."""
        assert self._attempts is not None
        assert self._body is not None
        self._attempts.lost(failure, reason, self.method, replayable=self._body.replayable)
        self._body.again()
        self._try()

    def _send(self, connection: Connection) -> None:
        body = self._body
        assert body is not None
        self._connection = connection
        connection.ask(self, self._outgoing + body.begin() if body.present else self._outgoing, whole=body.complete)
        if not body.complete:
            if self._expects:
                # only now does the client learn that its body is wanted: everything before decides on the head
                self._expects = False
                self._client.write(_CONTINUE)
            self._client.hold("unsent", False)
        self._set_deadline()

    # --- from the upstream's connection

    def informed(self, head: AnswerHead) -> None:
        if not self._head.old and head.status != _CONTINUES:
            self._client.write(b"".join([head.status_line, *head.lines, b"\r\n"]))
        self._set_deadline()

    def answered(self, head: AnswerHead) -> None:
        guard = guard_of(head) if head.status == MISDIRECTED else None
        if guard is not None or (head.status == SWITCHES and not self._head.websocket):
            assert self._connection is not None
            self._connection.drop()
            if guard is None:
                self.broken(BadAnswer.__name__)
            else:
                self._connection = None
                self._safely(lambda: self._guarded(guard))
            return
        try:
            self._pass_head(head, time.perf_counter())
        except Exception as error:
            self._unforeseen(error)

    def whole(self, head: AnswerHead, data: bytes) -> None:
        """All of an answer at once; no guard's, and no upgrade."""
        self._connection = None
        now = time.perf_counter()
        try:
            self._pass_head(head, now)
        except Exception as error:
            self._unforeseen(error)
            return
        self._passed = size = len(data)
        if size <= _COPIED:
            self._client.write(self._unwritten + data)
        else:
            self._client.write_all([self._unwritten, data])
        self._finish(now)

    def passed(self, data: bytes) -> None:
        client = self._client
        self._passed += len(data)
        head, self._unwritten = self._unwritten, b""
        if len(data) <= _COPIED:
            client.write(head + (chunk(data) if self._chunked else data))
        elif self._chunked:
            client.write_all([head + b"%x\r\n" % len(data), data, b"\r\n"])
        else:
            client.write_all([head, data])
        client.deadline.set(self._front.settings.relay_seconds if self._relays else self._front.settings.idle_seconds)

    def flush(self) -> None:
        if self._unwritten:
            data, self._unwritten = self._unwritten, b""
            self._client.write(data)
            self._client.deadline.set(self._front.settings.idle_seconds)

    def ended(self, trailers: bytes) -> None:
        self._connection = None
        if self._chunked:
            self._unwritten += LAST_CHUNK + trailers + b"\r\n"
        if self._unwritten:
            self._client.write(self._unwritten)
        self._finish(time.perf_counter())

    def broken(self, reason: str) -> None:
        connection, self._connection = self._connection, None
        if self._begun:
            self._cut(reason)
            return
        assert self._body is not None
        idled = connection is not None and connection.used and reason != _LATE
        if idled and not self._retried and self.method in SAFE_METHODS and self._body.replayable:
            # closed for having been idle, most likely, just as the request came: that speaks against nobody
            self._retried = True
            self._body.again()
            self._safely(self._try)
        else:
            failure = Failure.SLOW if reason == _LATE else Failure.LOST
            self._safely(lambda: self._failed(failure, reason))

    def hangs(self) -> None:
        attempts, body = self._attempts, self._body
        if attempts is None or body is None or self._connection is None or self.method not in SAFE_METHODS:
            return  # what may take effect is waited for
        if attempts.elsewhere(self.method, replayable=body.replayable):
            self._connection.drop()
            self._connection = None
            body.again()
            self._safely(self._try)

    def home_full(self, full: bool) -> None:
        self._client.hold("home", full)

    def _guarded(self, guard: Guard) -> None:
        asked, body, attempts = self._asked, self._body, self._attempts
        assert asked is not None
        assert body is not None
        assert attempts is not None
        attempts.came(MISDIRECTED, time.perf_counter())
        body.again()
        if guard.behind(asked.question.pin) and body.replayable:
            if self._patience is None:
                self._held = ExitStack()
                self._patience = self._held.enter_context(self._front.patience(self._held_bytes))
            self._run(self._front.outwaited(asked, self._patience), self._decide)
            return
        if self._replayed:
            raise Unavailable("the home cell and the directory do not agree yet", retry_after=MOVE_RETRY_SECONDS)
        self._replayed = True
        self._run(self._front.after_guard(guard, asked), self._decide)

    @property
    def _held_bytes(self) -> int:
        """What of the body is held in memory while something is waited for, at most."""
        return min(self._head.length or REPLAY_BYTES, REPLAY_BYTES)

    def _pass_head(self, head: AnswerHead, now: float) -> None:
        asked, asked_by, attempts = self._asked, self._head, self._attempts
        assert asked is not None
        assert attempts is not None
        assert self._decision is not None
        if asked.unpinned:
            self._front.served(asked)
        attempts.came(head.status, now)
        self._leave()
        self._begun = True
        self._status = head.status
        # behind an upgrade that was refused, who knows what the client sends
        self._closes = not asked_by.keeps or self._unread or self._client.draining or asked_by.websocket
        cookie = self._front.cookie(asked, self._decision.pin, head) if asked.who.authenticated else None
        if head.said and cookie is None and not self._closes:
            self._unwritten = head.said
            return
        parts = [head.status_line, *head.lines]
        if cookie is not None:
            parts.append(written([("Set-Cookie", cookie)]))
        if head.status == SWITCHES:
            self._relays = True
            parts += [_UPGRADE, b"\r\n"]
            self._client.write(b"".join(parts))
            self._client.relay()
            return
        if head.status == _NO_CONTENT:
            pass  # neither length nor coding (RFC 9112, 6.1 and 6.2): some clients would wait for what they frame
        elif head.length is not None:
            parts.append(b"Content-Length: %d\r\n" % head.length)
        elif not asked_by.old and (head.chunked or not head.empty):
            self._chunked = not head.empty
            parts.append(_CHUNKED)
        if self._closes:
            parts.append(_CLOSE)
        parts.append(b"\r\n")
        self._unwritten = b"".join(parts)

    # --- the end

    def refuse(self, error: DomicileError) -> None:
        """Answer with a problem document, if nothing was answered yet."""
        if self._begun:
            self._cut(type(error).__name__)
            return
        if self._attempts is not None:
            self._attempts.refused(error.code)
        self._abandon()
        self._reply(self._front.refusal(error, self._asked))

    def _unforeseen(self, error: Exception) -> None:
        warn("unforeseen", error=type(error).__name__, endpoint=self._client.listener.value, place=place_of(error))
        if self._begun:
            self._cut(type(error).__name__)
            return
        self._abandon()
        self._reply(unforeseen())

    def _safely(self, step: Callable[[], None]) -> None:
        try:
            step()
        except DomicileError as error:
            self.refuse(error)
        except Exception as error:
            self._unforeseen(error)

    def _reply(self, reply: Reply) -> None:
        self._begun = True
        self._status = reply.problem.status
        # a client whose body is not wanted may send it all the same: what follows is not another request
        self._closes = not self._head.keeps or self._unread or self._client.draining or self._head.websocket
        self._client.write(reply.encode(method=self.method, closes=self._closes))
        self._finish(time.perf_counter())

    def _finish(self, now: float) -> None:
        self._count(self._status, now)
        self._client.finished(closes=self._closes or self._relays, unread=self._unread)

    def _cut(self, reason: str) -> None:
        warn("answer-cut", error=reason)
        self._abandon()
        self._client.transport.abort()

    def _abandon(self) -> None:
        """Nobody waits for the home's answer."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.drop()
        if self._attempts is not None:
            self._attempts.cancelled()

    def _count(self, status: int, now: float) -> None:
        if not self._counted:
            self._counted = True
            if self._waiting_for_head:
                self._leave()
            if self._span is not OFF:
                self._span.set("http.response.status_code", int(status))
                self._span.end()
            if isinstance(self._decision, Hairpin):
                self._count_crossing(self._decision.routers.jurisdiction)
            self._client.counts.add(self.method, status, now - self._started)

    def _leave(self) -> None:
        """Give back what a request takes up until its answer's head."""
        if self._waiting_for_head:
            self._waiting_for_head = False
            self._front.shedder.leave()
            if self._held is not None:
                self._held.close()

    def _count_crossing(self, home: str) -> None:
        """Bytes of bodies that were carried over the border."""
        here = self._front.vantage.jurisdiction
        if self._body is not None:
            BORDER_BYTES.labels(here, home, "request").inc(self._body.size)
        BORDER_BYTES.labels(home, here, "answer").inc(self._passed)
