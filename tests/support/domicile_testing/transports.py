"""Connections without a network: what a protocol writes is recorded, what it reads is given."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from domicile.router.connection import Connection
from domicile.router.head import AnswerHead


class Transport(asyncio.Transport):
    """Takes everything."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


@dataclass
class Recorded:
    """What a request's asker heard of its answer. ``outcome``: open, ended or broken."""

    method: str
    outcome: str = "open"
    status: int = 0
    interim: list[int] = field(default_factory=list)
    body: bytes = b""
    trailers: bytes = b""

    def informed(self, head: AnswerHead) -> None:
        self.interim.append(head.status)

    def whole(self, head: AnswerHead, data: bytes) -> None:
        self.answered(head)
        if data:
            self.passed(data)
        self.ended(b"")

    def answered(self, head: AnswerHead) -> None:
        self.status = head.status

    def passed(self, data: bytes) -> None:
        assert data
        self.body += data

    def ended(self, trailers: bytes) -> None:
        assert self.outcome == "open"
        self.outcome, self.trailers = "ended", trailers

    def flush(self) -> None:
        pass

    def broken(self, reason: str) -> None:
        assert self.outcome == "open"
        self.outcome = "broken"

    def home_full(self, full: bool) -> None:
        pass

    def hangs(self) -> None:
        self.broken("hangs")


def answer_of(raw: bytes, method: str) -> Recorded:
    """What is heard of an upstream that answers ``raw`` and closes."""
    connection = Connection(lambda _: None, lambda _: None)
    connection.connection_made(Transport())
    asker = Recorded(method)
    connection.ask(asker, b"", whole=True)
    connection.data_received(raw)
    if asker.outcome == "open":
        connection.connection_lost(None)
    return asker
