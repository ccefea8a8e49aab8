"""The border over HTTP, in the cell's gateway: for operators of its jurisdiction, and for gateways abroad."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from aiohttp import web

from domicile.cells.border.abroad import AbroadBorder
from domicile.cells.border.home import HomeBorder
from domicile.cells.border.wire import (
    Arrival,
    CheckedDeclaration,
    DeclareRequest,
    Page,
    ReleasedRows,
    Releases,
    ReleaseStatus,
    RunRequest,
    SignedManifest,
)
from domicile.client import DirectoryClient, KeyClient
from domicile.model.access import Endpoint
from domicile.model.crossings import CrossingLog
from domicile.model.errors import Conflict, InvalidInput, NotFound
from domicile.model.manifest import Manifest
from domicile.sdk.store import ArrivalStore, ReleaseStore, open_own
from domicile.service import PEER, Operation, ProcessSettings, Service, ended, json_response, read_body

RELEASES: Final = "/.domicile/v1/releases"
ARRIVALS: Final = "/.domicile/v1/arrivals"
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,31}")
_NUMBER: Final = re.compile(r"[0-9]{1,9}")
POOL: Final = 4


def _name(request: web.Request) -> str:
    name = request.match_info["name"]
    if not _NAME.fullmatch(name):
        raise InvalidInput("not the name of a release", where="name")
    return name


def _number(text: str, where: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise InvalidInput("not a whole number", where=where)
    return int(text)


def _digest(request: web.Request) -> str:
    text = request.match_info["release"]
    if not _DIGEST.fullmatch(text):
        raise InvalidInput("not the id of a release", where="release")
    return text


class BorderApi:
    """Handlers of one cell."""

    def __init__(self, home: HomeBorder, abroad: AbroadBorder) -> None:
        self._home = home
        self._abroad = abroad

    def routes(self, service: Service) -> None:
        one, arrival = f"{RELEASES}/{{name}}/revisions", f"{ARRIVALS}/{{release}}"
        mine, theirs = Endpoint.RELEASES, Endpoint.ARRIVALS
        service.route("GET", RELEASES, mine, self.all, Operation("Releases, made and arrived", {200: Releases}))
        service.route("POST", f"{RELEASES}/check", mine, self.check, _CHECK)
        service.route("POST", RELEASES, mine, self.declare, _DECLARE)
        service.route("POST", one, mine, self.run, _RUN)
        service.route("GET", f"{one}/{{revision}}", mine, self.status, _STATUS)
        service.route("GET", f"{arrival}/rows", mine, self.rows, _ROWS)
        service.route("PUT", arrival, theirs, self.offer, _OFFER)
        service.route("PUT", f"{arrival}/pages/{{number}}", theirs, self.page, _PAGE)
        service.route("POST", f"{arrival}/accept", theirs, self.accept, _ACCEPT)

    async def all(self, _: web.Request) -> web.Response:
        declared, made = await self._home.declared(), await self._home.made()
        return json_response(Releases(declared=declared, made=made, arrived=await self._abroad.arrived()))

    async def check(self, request: web.Request) -> web.Response:
        return json_response(await self._home.check((await read_body(request, DeclareRequest)).text))

    async def declare(self, request: web.Request) -> web.Response:
        text = (await read_body(request, DeclareRequest)).text
        return json_response(await self._home.declare(text, request[PEER].uri), status=201)

    async def run(self, request: web.Request) -> web.Response:
        asked = await read_body(request, RunRequest)
        return json_response(await self._home.run(_name(request), asked.revision, request[PEER].uri), status=202)

    async def status(self, request: web.Request) -> web.Response:
        revision = _number(request.match_info["revision"], "revision")
        return json_response(await self._home.status(_name(request), revision))

    async def rows(self, request: web.Request) -> web.Response:
        after = _number(request.query.get("after", "0"), "after")
        return json_response(await self._abroad.rows(_digest(request), after - 1))

    async def offer(self, request: web.Request) -> web.Response:
        given = await read_body(request, SignedManifest)
        return json_response(await self._abroad.offer(_digest(request), given, request[PEER]))

    async def page(self, request: web.Request) -> web.Response:
        body = (await read_body(request, Page)).body
        number = _number(request.match_info["number"], "number")
        return json_response(await self._abroad.page(_digest(request), number, body, request[PEER]))

    async def accept(self, request: web.Request) -> web.Response:
        return json_response(await self._abroad.accept(_digest(request), request[PEER]))


_AFTER: Final = {"type": "string", "pattern": "^[0-9]{1,9}$"}
_CHECK = Operation("What a declaration would release", {200: CheckedDeclaration}, body=DeclareRequest)
_DECLARE = Operation("Keep a declaration", {201: CheckedDeclaration}, body=DeclareRequest)
_RUN = Operation("Begin a release, or see how far it is", {202: ReleaseStatus}, body=RunRequest, refuses=(NotFound,))
_STATUS = Operation("How far a release is", {200: ReleaseStatus}, refuses=(NotFound,))
_ROWS = Operation(
    "Rows of a release that was accepted here", {200: ReleasedRows}, query={"after": _AFTER}, refuses=(NotFound,)
)
_OFFER = Operation("Offer a release, signed", {200: Arrival}, body=SignedManifest, refuses=(Conflict,))
_PAGE = Operation("One page of an offered release", {200: Arrival}, body=Page, refuses=(NotFound,))
_ACCEPT = Operation("Accept a release, whole", {200: Arrival}, refuses=(NotFound, Conflict))


class LateTopology:
    """The signed topology, read when it is first needed: a gateway starts without."""

    def __init__(self, settings: ProcessSettings, directory: DirectoryClient) -> None:
        self._settings = settings
        self._directory = directory
        self._known: Manifest | None = None

    async def __call__(self) -> Manifest:
        """Raises TokenInvalid or Unavailable for none."""
        if self._known is None:
            self._known = await self._settings.topology(self._directory).load()
        return self._known


@asynccontextmanager
async def serve_border(
    settings: ProcessSettings,
    service: Service,
    directory: DirectoryClient,
    keys: Callable[[], Awaitable[KeyClient]],
    ledger: CrossingLog,
) -> AsyncIterator[HomeBorder]:
    """The border's routes on ``service``, and its work, inside the context."""
    async with AsyncExitStack() as stack:
        pool = await open_own(stack, settings, "domicile_border", size=POOL)
        topology = LateTopology(settings, directory)
        home = HomeBorder(settings.credentials, ReleaseStore(pool), ledger, keys, topology)
        abroad = AbroadBorder(settings.credentials, ArrivalStore(pool), ledger, topology)
        BorderApi(home, abroad).routes(service)
        working = asyncio.create_task(home.work())
        stack.push_async_callback(ended, working)
        yield home
