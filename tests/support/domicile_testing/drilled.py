"""A world in memory to drill: two cells over real TLS, with each kind of fault, sabotaged in each way that a verdict
has to see."""

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
from domicile.ops.drills.port import AGENT, SERVER, Arranged, ClusterState, Entry, Part
from domicile.ops.layout import Layout
from domicile_testing.certificates import Trust
from domicile_testing.databases import free_port
from domicile_testing.good_manifest import changed

CELLS = {"eu": "eu-1", "us": "us-1"}
PAUSE_SECONDS = 0.3
LONG_SECONDS = 12.0
SLOW_SECONDS = 0.1
"""How long an answer takes of a zone that is slowed down."""
LAST_SECONDS, OLD_SECONDS = 0.2, 3.0
"""What a restored cell lacks: a moment, or much more than may be."""


class Sabotage(StrEnum):
    """What is wrong with the world. Each has to make a drill fail, but ``NOT_BROKEN``: that proves nothing."""

    NOTHING = "nothing"
    SYNCHRONOUS_MODE_OFF = "the last writes before a failover are lost"
    FOREIGN_STANDBY = "the other jurisdiction has a copy"
    FENCE_SKIPPED = "the old leader goes on answering"
    REPLAY_LYING = "what was never done is acknowledged"
    SLOW_FAILOVER = "nobody serves for long"
    NEIGHBOUR_HIT = "another cell suffers too"
    STRANGERS_SERVED = "who has no pin is taken in"
    OLD_BACKUP = "what is restored is older than may be"
    NOT_SEEN = "every probe says that all is well"
    NOT_BROKEN = "the fault breaks nothing"


class Account:
    def __init__(self) -> None:
        self.notes: list[tuple[float, str]] = []
        self.plans: list[tuple[float, str]] = [(0.0, "0")]


class Cell:
    """One cell's application, as far as the load uses it. ``out``: why it does not answer, where it does not."""

    def __init__(self, name: str, jurisdiction: str) -> None:
        self.name, self.jurisdiction = name, jurisdiction
        self.accounts: dict[str, Account] = {}
        self.out: set[str] = set()
        self.strangers = True
        self.slow = self.full = self.lies = False
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

    async def _account(self, request: web.Request) -> Account:
        if self.slow:
            await asyncio.sleep(SLOW_SECONDS)
        if self.out:
            raise _unavailable()
        return self.accounts[request.headers["Authorization"].removeprefix("Bearer ")]

    async def sign_up(self, request: web.Request) -> web.Response:
        if self.out or not self.strangers:
            raise _unavailable()
        session = str(next(self._count))
        self.accounts[session] = Account()
        return web.json_response({"cell": self.name, "session": session}, status=201)

    async def add(self, request: web.Request) -> web.Response:
        account, body = await self._account(request), await request.json()
        if self.full and next(self._count) % 3 == 0:
            raise _unavailable()
        if not self.lies or next(self._count) % 5:
            account.notes.append((time.monotonic(), body["text"]))
        return web.json_response({}, status=201)

    async def notes(self, request: web.Request) -> web.Response:
        return web.json_response([{"text": text} for _, text in (await self._account(request)).notes])

    async def write(self, request: web.Request) -> web.Response:
        (await self._account(request)).plans.append((time.monotonic(), (await request.json())["plan"]))
        return web.json_response({})

    async def read(self, request: web.Request) -> web.Response:
        plan = (await self._account(request)).plans[-1][1]
        if self.old is not None and next(self._count) % 3 == 0:
            plan = self.old.get(request.headers["Authorization"].removeprefix("Bearer "), plan)
        return web.json_response({"plan": plan})

    def forget(self, since: float) -> None:
        for account in self.accounts.values():
            account.notes = [each for each in account.notes if each[0] < since]
            account.plans = [each for each in account.plans if each[0] < since]


def _unavailable() -> web.HTTPServiceUnavailable:
    return web.HTTPServiceUnavailable(text='{"code": "unavailable"}', content_type="application/json")


def _parts() -> list[Part]:
    found = [
        Part("directory", "directory", "global", "fra", "directory"),
        Part("keys-eu", "keys", "eu", "fra", "keys-eu"),
        Part("keys-us", "keys", "us", "iad", "keys-us"),
        Part("router-muc", "router", "eu", "fra", "router-muc"),
        Part("router-iad", "router", "us", "iad", "router-iad"),
    ]
    homes = {"eu-1": ("eu", ("fra", "par")), "us-1": ("us", ("iad", "pdx")), "directory": ("global", ("fra", "par"))}
    for group, (place, zones) in homes.items():
        roles = (AGENT, SERVER, "app")
        found += [Part(f"{group}-{role}.{zone}", role, place, zone, group) for zone in zones for role in roles]
    return found


class MemoryWorld:
    """As ``port.World``, with the consequences of each fault as far as users and probes see them."""

    def __init__(self, trust: Trust, layout: Layout, sabotage: Sabotage) -> None:
        backups = ("jurisdictions/eu/backups", {"country": "DE", "folder": "backups/eu"})
        self.manifest: Manifest = parse_manifest(changed(backups))
        self.cells = {name: Cell(name, place) for place, name in CELLS.items()}
        self._trust = trust
        self._layout = layout
        self._sabotage = sabotage
        self._ports: dict[str, int] = {}
        self._parts = _parts()
        self._down: set[str] = set()
        self._nodes = {"eu-1": ["fra", "par"], "us-1": ["iad", "pdx"], "directory": ["fra", "par"]}
        self._handing: list[asyncio.Task[None]] = []
        self._lost_at = 0.0

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
        return self._parts

    def arranged(self) -> Arranged:
        return Arranged("eu-1", "fra")

    async def clusters(self, names: Collection[str] | None = None) -> Sequence[ClusterState]:
        return [
            ClusterState(name, None if self._headless(name) else leader, standby, in_sync=self._whole(name))
            for name, (leader, standby) in self._nodes.items()
            if names is None or name in names
        ]

    def _headless(self, cluster: str) -> bool:
        return cluster in self.cells and "failover" in self.cells[cluster].out

    def _whole(self, cluster: str) -> bool:
        agents = {part.name for part in self._parts if part.group == cluster and part.role == AGENT}
        return not agents & self._down and not self._headless(cluster)

    async def not_serving(self, parts: Collection[str] | None = None) -> Sequence[str]:
        if self._sabotage is Sabotage.NOT_SEEN:
            return []
        return [name for name in sorted(self._down) if parts is None or name in parts]

    def method(self, kind: FaultKind) -> str:
        return "by word of mouth"

    # -- faults ----------------------------------------------------------------------------------------------

    async def inject(self, fault: Fault) -> None:
        if self._sabotage is Sabotage.NOT_BROKEN:
            return
        if self._sabotage is Sabotage.REPLAY_LYING:
            self.cells["eu-1"].lies = True
        if self._sabotage is Sabotage.NEIGHBOUR_HIT:
            self.cells["us-1"].out.add("neighbour")
        eu = self.cells["eu-1"]
        if self._sabotage is Sabotage.FOREIGN_STANDBY:
            place = self._layout.cell("us-1", "iad") / "storage" / "copy"
            place.parent.mkdir(parents=True)
            place.write_text("\n".join(text for account in eu.accounts.values() for _, text in account.notes))
        match fault.kind:
            case FaultKind.HAND_OVER:
                self._fail_over(fault.parts[0])
            case FaultKind.KILL | FaultKind.SUSPEND | FaultKind.CUT | FaultKind.CLOCK:
                self._take_down(fault.parts)
            case FaultKind.SLOW:
                eu.slow = True
            case FaultKind.FILL:
                eu.full = True
            case FaultKind.LOSE:
                self._lost_at = time.monotonic()
                group = fault.parts[0]
                self._take_down([part.name for part in self._parts if part.group == group])

    async def undo(self, fault: Fault) -> None:
        if self._sabotage is Sabotage.SLOW_FAILOVER and not self._handing:
            await asyncio.sleep(LONG_SECONDS)
        await asyncio.gather(*self._handing)
        self._handing.clear()
        lost = fault.kind is FaultKind.LOSE and fault.parts[0] in self.cells
        if lost and self._lost_at:
            age = OLD_SECONDS if self._sabotage is Sabotage.OLD_BACKUP else LAST_SECONDS
            self.cells[fault.parts[0]].forget(self._lost_at - age)
        self._down.clear()
        for cell in self.cells.values():
            cell.out.clear()
            cell.strangers, cell.slow, cell.full = True, False, False

    def _take_down(self, names: Collection[str]) -> None:
        self._down |= set(names)
        if "directory" in self._down and self._sabotage is not Sabotage.STRANGERS_SERVED:
            for cell in self.cells.values():
                cell.strangers = False
        for cell in self.cells.values():
            agents = {part.name: part.zone for part in self._parts if part.group == cell.name and part.role == AGENT}
            routers = {p.name for p in self._parts if (p.role, p.jurisdiction) == ("router", cell.jurisdiction)}
            if routers <= self._down:
                cell.out.add("routers")
            if agents.keys() <= self._down:
                cell.out.add("nodes")
            elif any(zone == self._nodes[cell.name][0] for name, zone in agents.items() if name in self._down):
                self._fail_over(cell.name)

    def _fail_over(self, cluster: str) -> None:
        self._handing.append(asyncio.create_task(self._failing_over(cluster)))

    async def _failing_over(self, cluster: str) -> None:
        cell = self.cells[cluster]
        match self._sabotage:
            case Sabotage.SYNCHRONOUS_MODE_OFF:
                cell.forget(time.monotonic() - 0.5)
            case Sabotage.FENCE_SKIPPED:
                cell.old = {session: account.plans[-1][1] for session, account in cell.accounts.items()}
        cell.out.add("failover")
        await asyncio.sleep(LONG_SECONDS if self._sabotage is Sabotage.SLOW_FAILOVER else PAUSE_SECONDS)
        cell.out.discard("failover")
        self._nodes[cluster].reverse()

    # -- what is seen ----------------------------------------------------------------------------------------

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
