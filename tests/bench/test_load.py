"""The load is of valid requests, each another one, and an answer that is refused makes no figure."""

from __future__ import annotations

import asyncio
import io
import re
from dataclasses import dataclass
from email.message import Message
from http.client import parse_headers
from pathlib import Path

import pytest
from domicile_testing.answering import answering
from loadtests.busy import wrk_answers
from loadtests.cases import Unmeasured
from loadtests.programs import wrk
from loadtests.stage import User, head

GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
USERS = [User(f"user-{number:06}", f"eu-{number % 2 + 1}", f"token-{number}") for number in range(3)]


@dataclass(frozen=True)
class Request:
    path: str
    fields: Message

    @property
    def proofs(self) -> tuple[str, str, str]:
        return self.fields["X-User"], self.fields["X-Cell"], self.fields["Cookie"].rpartition("__Host-domicile=")[2]


def read(raw: bytes) -> Request:
    """A request without a body, held to the letter of RFC 9112."""
    stream = io.BytesIO(raw)
    line = re.fullmatch(rb"GET (/[a-z]+)\?page=\d+ HTTP/1\.1\r\n", stream.readline())
    assert line is not None
    fields = parse_headers(stream)
    assert not fields.defects
    assert len({name.lower() for name in fields}) == len(fields.keys())
    assert all(re.fullmatch(rb"[A-Za-z-]+: [!-~ ]+", field) for field in raw.split(b"\r\n")[1:-2])
    assert raw.endswith(b"\r\n\r\n")
    assert stream.read() == b""
    return Request(line.group(1).decode(), fields)


EXPECTED = {(user.id, user.cell, user.token) for user in USERS}


def test_a_paced_request_is_valid_and_carries_its_user() -> None:
    requests = [read(head(user, "/profile", "127.0.0.1:1", number)) for number, user in enumerate(USERS)]
    assert {request.proofs for request in requests} == EXPECTED
    assert len({request.fields["X-Request-Id"] for request in requests}) == len(USERS)


@pytest.fixture
def users(tmp_path: Path) -> Path:
    try:
        wrk()
    except Unmeasured as error:
        pytest.skip(str(error))
    file = tmp_path / "users.tsv"
    file.write_text("".join(f"{user.id}\t{user.cell}\t{user.token}\n" for user in USERS))
    return file


async def test_wrk_sends_valid_requests_of_every_user_none_like_another(users: Path) -> None:
    received: list[bytes] = []

    async def keep(request: bytes) -> bytes:
        received.append(request)
        return GOOD

    async with answering(keep) as address:
        answered = await asyncio.to_thread(wrk_answers, users, f"http://{address}/profile", 1)
    assert 0 < answered <= len(received)
    requests = [read(raw) for raw in received[:200]]
    assert {request.proofs for request in requests} == EXPECTED
    assert {request.path for request in requests} == {"/profile"}
    assert {request.fields["Host"] for request in requests} == {address}
    assert len(set(received[:200])) == len(received[:200])


async def test_refused_requests_make_no_figure(users: Path) -> None:
    async def refuse(_: bytes) -> bytes:
        return b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"

    async with answering(refuse) as address:
        with pytest.raises(Unmeasured, match="were refused"):
            await asyncio.to_thread(wrk_answers, users, f"http://{address}/profile", 1)


async def test_wrk_without_anybody_there_makes_no_figure(users: Path) -> None:
    async with answering(lambda _: asyncio.sleep(0, GOOD)) as address:
        pass
    with pytest.raises(Unmeasured):
        await asyncio.to_thread(wrk_answers, users, f"http://{address}/profile", 1)
