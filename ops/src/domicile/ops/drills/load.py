"""``python -m domicile.ops.drills.load``: one jurisdiction's users, who write and read through its routers.

A process of its own, in its jurisdiction, told what to do by one line of JSON on its standard input. It signs users up
until each cell has enough, says ``ready``, and lets them work until the line ``finish`` (or the end of the input);
then it reads back everything that is there, and ends. What it did is in its history; sessions and the values that it
made up stay in its memory and in the cells. It uses the sample application as its users do: a note for each numbered
row, the profile's plan for the register.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import secrets
import ssl
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import aiohttp
import uvloop
from pydantic import BaseModel, ConfigDict, Field

from domicile.ops.drills.history import Kind, Outcome, Recorder
from domicile.service import ended

REQUEST_SECONDS: Final = 15.0
_AGAIN_SECONDS: Final = 0.2
_FLUSH_SECONDS: Final = 0.25
_SIGN_UP_SECONDS: Final = 3.0
_MOST_SIGN_UPS: Final = 120
_FINAL_SECONDS: Final = 60.0
_REFUSED: Final = frozenset({400, 401, 403, 404, 409, 413, 421, 422, 429, 451})
"""Answers after which nothing was done. After a 503 nobody knows: a COMMIT may wait behind it."""


class LoadPlan(BaseModel):
    """``value``: what every personal value of this load holds, and nothing else does; ``rate``: writes a second over
    all users together; ``users``: of each cell."""

    model_config = ConfigDict(frozen=True)

    jurisdiction: str
    country: str
    cells: list[str]
    routers: list[str]
    authority: Path
    history: Path
    value: str
    rate: float = Field(gt=0)
    users: int = Field(default=4, gt=0)
    registers: int = Field(default=2, gt=0)


class User:
    def __init__(self, subject: str, cell: str, session: str, router: str) -> None:
        self.subject, self.cell, self.session, self.router = subject, cell, session, router


class Load:
    def __init__(self, plan: LoadPlan, client: aiohttp.ClientSession, recorder: Recorder) -> None:
        self._plan = plan
        self._client = client
        self._recorder = recorder
        self._processes = itertools.count(1)
        self._people = itertools.count(1)
        self._stopping = asyncio.Event()
        self.users: list[User] = []

    def stop(self) -> None:
        """Every worker ends with the answer that it waits for, so that none is cut off."""
        self._stopping.set()

    async def _pause(self, seconds: float) -> None:
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), seconds)

    # -- requests --------------------------------------------------------------------------------------------

    async def _ask(
        self, method: str, path: str, router: str, session: str = "", body: dict[str, Any] | None = None
    ) -> tuple[int, Any, str]:
        """Status, document and, for a refusal, what it was; status 0 for none."""
        headers = {"Authorization": f"Bearer {session}"} if session else {}
        try:
            async with self._client.request(
                method, f"https://{router}{path}", json=body, headers=headers, allow_redirects=False
            ) as answer:
                text = await answer.read()
                document = json.loads(text) if text and "json" in answer.content_type else {}
        except (OSError, TimeoutError, aiohttp.ClientError, ValueError) as error:
            return 0, {}, type(error).__name__
        code = document.get("code", "") if isinstance(document, dict) else ""
        return answer.status, document, "" if answer.status < 300 else f"{answer.status} {code}".strip()

    async def _sign_up(self, process: int) -> User | None:
        number = next(self._people)
        router = self._plan.routers[number % len(self._plan.routers)]
        name = f"{self._plan.value}-{number}"
        self._recorder.invoke(process, Kind.SIGN_UP, f"{self._plan.jurisdiction}-{number}", "", time.monotonic())
        status, document, error = await self._ask(
            "POST", "/signup", router,
            body={"user": name, "email": f"{name}@users.example", "password": secrets.token_urlsafe(9), "plan": "0",
                  "residence": self._plan.country},
        )  # fmt: skip
        self._complete(process, 200 <= status < 300, status, None, error)
        if status != 201:
            return None
        return User(f"{self._plan.jurisdiction}-{number}", document["cell"], document["session"], router)

    def _complete(self, process: int, well: bool, status: int, value: int | None, error: str) -> bool:
        """Record the end; whether the process may go on under its number."""
        outcome = Outcome.OK if well else Outcome.FAIL if status in _REFUSED else Outcome.INFO
        self._recorder.complete(process, outcome, time.monotonic(), value, error=error)
        return outcome is not Outcome.INFO

    async def gather(self) -> dict[str, int]:
        """Sign users up until each cell has enough; how many each has."""
        process = next(self._processes)
        have = dict.fromkeys(self._plan.cells, 0)
        for _ in range(_MOST_SIGN_UPS):
            if min(have.values()) >= self._plan.users:
                break
            user = await self._sign_up(process)
            if user is None:
                process = next(self._processes)
                await asyncio.sleep(_AGAIN_SECONDS)
            elif have.get(user.cell, self._plan.users) < self._plan.users:
                have[user.cell] += 1
                self.users.append(user)
        return have

    # -- work ------------------------------------------------------------------------------------------------

    def works(self) -> list[Callable[[], Coroutine[Any, Any, None]]]:
        """What goes on side by side: of each user a writer of rows, of some a register's writer and two readers."""
        rate = self._plan.rate / max(1, len(self.users))
        found: list[Callable[[], Coroutine[Any, Any, None]]] = [self._strangers]
        registers = dict.fromkeys(self._plan.cells, 0)
        for user in self.users:
            found.append(lambda user=user: self._paced(rate, self._adding(user)))  # type: ignore[misc]
            if registers[user.cell] < self._plan.registers:
                registers[user.cell] += 1
                found.append(lambda user=user: self._paced(4, self._writing(user)))  # type: ignore[misc]
                found += [lambda user=user: self._paced(5, self._reading(user))] * 2  # type: ignore[misc]
        return found

    async def _paced(self, rate: float, step: Callable[[int], Awaitable[bool]]) -> None:
        process, due = next(self._processes), time.monotonic()
        while not self._stopping.is_set():
            if not await step(process):
                process = next(self._processes)
                await self._pause(_AGAIN_SECONDS)
            due = max(due + 1 / rate, time.monotonic() - 1 / rate)  # who is late does not catch up by a burst
            await self._pause(due - time.monotonic())

    def _adding(self, user: User) -> Callable[[int], Awaitable[bool]]:
        numbers = itertools.count(1)

        async def add(process: int) -> bool:
            number = next(numbers)
            self._recorder.invoke(process, Kind.ADD, user.subject, user.cell, time.monotonic(), number)
            body = {"text": f"{self._plan.value} {number}", "topic": str(number)}
            status, _, error = await self._ask("POST", "/notes", user.router, user.session, body)
            return self._complete(process, status == 201, status, None, error)

        return add

    def _writing(self, user: User) -> Callable[[int], Awaitable[bool]]:
        numbers = itertools.count(1)

        async def write(process: int) -> bool:
            number = next(numbers)
            self._recorder.invoke(process, Kind.WRITE, user.subject, user.cell, time.monotonic(), number)
            status, _, error = await self._ask("PUT", "/profile", user.router, user.session, {"plan": str(number)})
            return self._complete(process, status == 200, status, None, error)

        return write

    def _reading(self, user: User) -> Callable[[int], Awaitable[bool]]:
        async def read(process: int) -> bool:
            self._recorder.invoke(process, Kind.READ, user.subject, user.cell, time.monotonic())
            status, document, error = await self._ask("GET", "/profile", user.router, user.session)
            plan = int(document["plan"]) if status == 200 else None
            return self._complete(process, status == 200, status, plan, error)

        return read

    async def _strangers(self) -> None:
        """New users, all the time: they are the first to need the directory and the keys."""
        process = next(self._processes)
        while not self._stopping.is_set():
            if await self._sign_up(process) is None:
                process = next(self._processes)
            await self._pause(_SIGN_UP_SECONDS)

    async def read_back(self) -> None:
        """All that is there of every user; who can't be read is tried again for a while."""
        deadline = time.monotonic() + _FINAL_SECONDS
        for user in self.users:
            for _ in itertools.count():
                if await self._final(user) or time.monotonic() > deadline:
                    break
                await asyncio.sleep(_AGAIN_SECONDS)

    async def _final(self, user: User) -> bool:
        process = next(self._processes)
        self._recorder.invoke(process, Kind.FINAL, user.subject, user.cell, time.monotonic())
        status, notes, error = await self._ask("GET", "/notes", user.router, user.session)
        again, profile, failed = await self._ask("GET", "/profile", user.router, user.session)
        well = status == again == 200
        rows = [int(note["text"].rpartition(" ")[2]) for note in notes] if well else []
        plan = int(profile["plan"]) if well else None
        self._recorder.complete(
            process, Outcome.OK if well else Outcome.FAIL, time.monotonic(), plan, rows=rows, error=error or failed
        )
        return well


def tell(**fields: Any) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


async def main() -> None:
    loop = asyncio.get_running_loop()
    orders = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    plan = LoadPlan.model_validate_json(await orders.readline())
    context = ssl.create_default_context(cafile=str(plan.authority))
    with plan.history.open("x") as stream:
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context, limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            timeout=aiohttp.ClientTimeout(total=REQUEST_SECONDS),
        ) as client:
            load = Load(plan, client, Recorder(stream))

            async def flush() -> None:
                while True:
                    stream.flush()
                    await asyncio.sleep(_FLUSH_SECONDS)

            flushing = asyncio.create_task(flush())
            have = await load.gather()
            tell(ready=True, users=have)
            tasks = [asyncio.create_task(work()) for work in load.works()]
            told = asyncio.ensure_future(orders.readline())
            everything: set[asyncio.Future[Any]] = {*tasks, told}
            await asyncio.wait(everything, return_when=asyncio.FIRST_COMPLETED)
            told.cancel()
            load.stop()
            await asyncio.wait(tasks, timeout=REQUEST_SECONDS + 5)
            await ended(*tasks)  # raises what a worker ended with: then this was no load
            await load.read_back()
            await ended(flushing)
    tell(finished=True)


if __name__ == "__main__":
    uvloop.run(main())
