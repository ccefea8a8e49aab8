"""A world in memory to drill: two cells over real TLS, sabotaged in each way that a verdict has to see."""

from __future__ import annotations

import asyncio
import itertools
import ssl
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from enum import StrEnum
from pathlib import Path

from aiohttp import web

from domicile.model import Manifest, parse_manifest
from domicile.ops.drills.faults import Fault, FaultKind
from domicile.ops.drills.local import scan_files
from domicile.ops.drills.measure import Scanned
from domicile.ops.drills.port import ClusterState, Entry, Part
from domicile.ops.layout import Layout
from domicile_testing.certificates import Trust
from domicile_testing.databases import free_port
from domicile_testing.good_manifest import DATA

CELLS = {"eu": "eu-1", "us": "us-1"}
PAUSE_SECONDS = 0.3


class Sabotage(StrEnum):
    """What is wrong with the world. Each has to make a drill fail."""

    NOTHING = "nothing"
    SYNCHRONOUS_MODE_OFF = "the last writes before a failover are lost"
    FOREIGN_STANDBY = "the other jurisdiction has a copy"
    FENCE_SKIPPED = "the old leader goes on answering"
    REPLAY_LYING = "what was never done is acknowledged"
    SLOW_FAILOVER = "nobody leads for long"
    NEIGHBOUR_HIT = "another cell suffers too"


class Account:
    def __init__(self) -> None:
        self.notes: list[tuple[float, str]] = []
        self.plans: list[tuple[float, str]] = [(0.0, "0")]


class Cell:
    """One cell's application, as far as the load uses it."""

    def __init__(self, name: str, jurisdiction: str) -> None:
        self.name, self.jurisdiction = name, jurisdiction
        self.accounts: dict[str, Account] = {}
        self.leaders = ["fra", "par"]
        self.serving = True
        self.lies = False
        self.old: dict[str, str] | None = None
        self._count = itertools.count(1)

    def routes(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/signup", self.sign_up)
        app.router.add_post("/notes", self.add)
        app.router.add_get("/notes", self.notes)
        app.router.add_put("/profile", self.write)
        app.router.add_get("/profile", self.read)
        return app

    def _account(self, request: web.Request) -> Account:
        if not self.serving:
            raise web.HTTPServiceUnavailable(text='{"code": "unavailable"}', content_type="application/json")
        return self.accounts[request.headers["Authorization"].removeprefix("Bearer ")]

    async def sign_up(self, request: web.Request) -> web.Response:
        session = str(next(self._count))
        self.accounts[session] = Account()
        return web.json_response({"cell": self.name, "session": session}, status=201)

    async def add(self, request: web.Request) -> web.Response:
        account, body = self._account(request), await request.json()
        if not self.lies or next(self._count) % 5:
            account.notes.append((time.monotonic(), body["text"]))
        return web.json_response({}, status=201)

    async def notes(self, request: web.Request) -> web.Response:
        return web.json_response([{"text": text} for _, text in self._account(request).notes])

    async def write(self, request: web.Request) -> web.Response:
        self._account(request).plans.append((time.monotonic(), (await request.json())["plan"]))
        return web.json_response({})

    async def read(self, request: web.Request) -> web.Response:
        plan = self._account(request).plans[-1][1]
        if self.old is not None and next(self._count) % 3 == 0:
            plan = self.old.get(request.headers["Authorization"].removeprefix("Bearer "), plan)
        return web.json_response({"plan": plan})

    def forget(self, seconds: float) -> None:
        since = time.monotonic() - seconds
        for account in self.accounts.values():
            account.notes = [each for each in account.notes if each[0] < since]
            account.plans = [each for each in account.plans if each[0] < since]


class MemoryWorld:
    """As ``port.World``; the one fault that it knows is a hand-over."""

    def __init__(self, trust: Trust, layout: Layout, sabotage: Sabotage) -> None:
        self.manifest: Manifest = parse_manifest(DATA)
        self.cells = {name: Cell(name, place) for place, name in CELLS.items()}
        self._trust = trust
        self._layout = layout
        self._sabotage = sabotage
        self._ports: dict[str, int] = {}
        self._handing: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for place, name in CELLS.items():
                certificate, key = self._trust.authorities[place].issue_public(["127.0.0.1"])
                path = self._trust.folder / f"{place}-public.pem"
                path.write_bytes(certificate + key)
                context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
                context.load_cert_chain(path)
                runner = web.AppRunner(self.cells[name].routes(), access_log=None)
                await runner.setup()
                stack.push_async_callback(runner.cleanup)
                self._ports[place] = free_port()
                await web.TCPSite(runner, "127.0.0.1", self._ports[place], ssl_context=context).start()
            yield

    def parts(self) -> Sequence[Part]:
        return []

    def arranged(self) -> None:
        return None

    async def clusters(self, names: Collection[str] | None = None) -> Sequence[ClusterState]:
        return [
            ClusterState(name, cell.leaders[0] if cell.serving else None, cell.leaders[1], in_sync=cell.serving)
            for name, cell in self.cells.items()
            if names is None or name in names
        ]

    async def not_serving(self, parts: Collection[str] | None = None) -> Sequence[str]:
        return []

    def method(self, kind: FaultKind) -> str:
        assert kind is FaultKind.HAND_OVER
        return "by word of mouth"

    async def inject(self, fault: Fault) -> None:
        self._handing = asyncio.create_task(self._hand_over(self.cells[fault.parts[0]]))

    async def _hand_over(self, cell: Cell) -> None:
        match self._sabotage:
            case Sabotage.SYNCHRONOUS_MODE_OFF:
                cell.forget(0.5)
            case Sabotage.FENCE_SKIPPED:
                cell.old = {session: account.plans[-1][1] for session, account in cell.accounts.items()}
            case Sabotage.REPLAY_LYING:
                cell.lies = True
            case Sabotage.FOREIGN_STANDBY:
                place = self._layout.cell("us-1", "iad") / "storage" / "copy"
                place.parent.mkdir(parents=True)
                place.write_text("\n".join(t for a in cell.accounts.values() for _, t in a.notes))
        hit = self.cells.values() if self._sabotage is Sabotage.NEIGHBOUR_HIT else [cell]
        for each in hit:
            each.serving = False
        await asyncio.sleep(PAUSE_SECONDS * (40 if self._sabotage is Sabotage.SLOW_FAILOVER else 1))
        for each in hit:
            each.serving = True
        cell.leaders.reverse()

    async def undo(self, fault: Fault) -> None:
        if self._handing is not None:
            await self._handing

    def entry(self, jurisdiction: str) -> Entry:
        authority = self._trust.folder / "authorities" / f"{jurisdiction}.pem"
        return Entry((f"127.0.0.1:{self._ports[jurisdiction]}",), authority)

    async def scan(self, since: float, values: Mapping[str, str]) -> Scanned:
        return await asyncio.to_thread(scan_files, self._layout, self.manifest, since, values)

    async def crossings(self) -> Mapping[str, float]:
        return {}


def layout_in(folder: Path) -> Layout:
    layout = Layout(folder / "s")
    layout.prepare()
    return layout
