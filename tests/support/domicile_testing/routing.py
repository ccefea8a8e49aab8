"""A small world around a router under test: cells that record what reaches them, a directory that serves pins.

Everything speaks real TLS with real certificates on loopback addresses; only what the processes answer is
up to the test.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import aiohttp
import jwt
from aiohttp import web
from multidict import CIMultiDictProxy

from domicile.identity import Signer, sign_topology, write_private
from domicile.model import (
    GLOBAL,
    Address,
    Endpoint,
    Manifest,
    Pepper,
    Pin,
    PinState,
    Position,
    Role,
    SubjectKey,
    UnknownSubject,
    parse_manifest,
)
from domicile.model.ids import KEY_BYTES
from domicile.model.snapshot import STATES, Block, SnapshotWriter
from domicile.model.wire import JWKS, RESIDENCY_KEYS_PATH, SUBJECT_KEY_HEADER, SigningKey
from domicile.router.serve import serve
from domicile.router.settings import RouterSettings
from domicile.service import PEER, ProcessSettings, Service, json_response, read_body
from domicile_testing.certificates import DEPLOYMENT, PEPPER, Trust
from domicile_testing.databases import free_port

ISSUER = "https://id.acme.example"
AUDIENCE = "acme"
APPLICATION_KID = "app-1"
HOSTS = {"fra": "127.10.1.1", "par": "127.10.2.1", "ams": "127.10.3.1", "iad": "127.20.1.1"}
ZONES = {"eu-1": ("fra", "par"), "eu-2": ("ams",), "us-1": ("iad",)}
COUNTRY_OF = {"fra": "DE", "par": "FR", "ams": "NL", "iad": "US"}
POSITION = Position(generation=UUID(int=1), sequence=0)
BEAT_SECONDS = 0.2
RECORD = struct.Struct(f">{KEY_BYTES}sQBH")
Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


def subject(name: str) -> SubjectKey:
    return Pepper.parse(PEPPER).subject_key(name)


def pin(name: str, cell: str, epoch: int = 1, state: PinState = PinState.ACTIVE) -> Pin:
    return Pin(subject_key=subject(name), jurisdiction=cell.partition("-")[0], cell=cell, epoch=epoch, state=state)


def jwk_of(signer: Signer, kid: str = APPLICATION_KID) -> dict[str, str]:
    x = signer.public("residency").x
    return {"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": x, "alg": "EdDSA", "use": "sig"}


def manifest_data(folder: Path, *, eu: str = "redirect", us: str = "redirect") -> dict[str, Any]:
    """A manifest of two jurisdictions, three cells, two routers, on free ports."""

    given: set[str] = set()

    def fresh(host: str) -> str:
        """An address that no other listener of this manifest was given."""
        while (address := f"{host}:{free_port(host)}") in given:
            continue
        given.add(address)
        return address

    def zone(name: str) -> dict[str, str]:
        host = HOSTS[name]
        network = host.rpartition(".")[0] + ".0/24"
        places = {part: fresh(host) for part in ("app", "gateway", "storage")}
        return {"country": COUNTRY_OF[name], "network": network, **places}

    def jurisdiction(name: str, countries: list[str], travellers: str, keys: str) -> dict[str, Any]:
        return {
            "countries": countries,
            "travellers": travellers,
            "public_host": f"{name}.acme.example",
            "keys": {"service": [fresh(HOSTS[keys])]},
        }

    def router(zone: str) -> dict[str, Any]:
        return {
            "country": COUNTRY_OF[zone],
            "public": fresh(HOSTS[zone]),
            "internal": fresh(HOSTS[zone]),
            "trusted_peers": ["127.0.0.0/8"],
            "rules": [{"path": path, "class": "unpinned"} for path in ("/signup", "/login", "/about", "/support/*")],
        }

    return {
        "version": 1,
        "deployment": DEPLOYMENT,
        "directory": {"sites": [{"zone": "fra", "country": "DE", "address": fresh("127.0.0.1")}]},
        "jurisdictions": {
            "eu": jurisdiction("eu", ["DE", "FR", "NL"], eu, "fra"),
            "us": jurisdiction("us", ["US"], us, "iad"),
        },
        "cells": {
            cell: {
                "jurisdiction": cell.partition("-")[0],
                "zones": {name: zone(name) for name in zones},
                "accept": ["single-zone", "shared-witness"],
            }
            for cell, zones in ZONES.items()
        },
        "routers": {zone: router(zone) for zone in ("fra", "iad")},
        "identity": {"jwks": str(folder / "app-jwks.json"), "issuer": ISSUER, "audience": AUDIENCE},
    }


@dataclass
class Seen:
    """One request as a cell saw it."""

    place: str
    method: str
    target: str
    headers: CIMultiDictProxy[str]
    body: bytes


async def _echo(request: web.BaseRequest) -> web.StreamResponse:
    return web.json_response({"served": True})


def two_events(more: asyncio.Event) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
    """Answers with one server-sent event, and with the second one when ``more`` is set."""

    async def events(request: web.BaseRequest) -> web.StreamResponse:
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        await stream.write(b"data: 1\n\n")
        await more.wait()
        await stream.write(b"data: 2\n\n")
        return stream

    return events


async def asked_for_body(address: Address, context: ssl.SSLContext, head: bytes, body: bytes) -> bytes:
    """What a client reads that sends ``body`` only once it was told to."""
    reader, writer = await asyncio.open_connection(address.host, address.port, ssl=context)
    writer.write(head)
    answer = await reader.readuntil(b"\r\n\r\n")
    if answer.startswith(b"HTTP/1.1 100"):
        writer.write(body)
        answer += await reader.read()
    writer.close()
    return answer


TRAVELLER_PATHS: Final = [
    {"path": "/export/*", "travellers": "refuse"},
    {"path": "/live/*", "travellers": "hairpin"},
]


@dataclass
class Place:
    """One listener of a cell. ``handler`` answers; what it was asked is in ``seen``."""

    name: str
    address: str
    context: ssl.SSLContext
    seen: list[Seen]
    handler: Handler = _echo
    reads_body: bool = True
    ready: bool = True
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by a request's head."""
    _runner: web.ServerRunner | None = None

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/readyz" and SUBJECT_KEY_HEADER not in request.headers:
            return web.Response(status=200 if self.ready else 503)  # to an edge, as the guard does
        if request.path == "/.domicile/v1/ledger/carried":
            return web.json_response({})  # what a router tells of by itself is no user's request
        record = Seen(self.name, request.method, request.raw_path, request.headers, b"")
        self.seen.append(record)
        self.arrived.set()
        if request.headers.get("Expect") and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self.reads_body:
            record.body = await request.read()
        return await self.handler(request)

    async def start(self) -> None:
        server = web.Server(
            self._serve, access_log=None, auto_decompress=False, handler_cancellation=True, lingering_time=0.5
        )
        self._runner = web.ServerRunner(server, shutdown_timeout=0.1)
        await self._runner.setup()
        host, _, port = self.address.rpartition(":")
        await web.TCPSite(self._runner, host, int(port), ssl_context=self.context).start()

    async def silent(self) -> socket.socket:
        """Accept no more, with a backlog in which connections are made and never heard; close it to end that."""
        assert self._runner is not None
        for site in list(self._runner.sites):
            await site.stop()
        host, _, port = self.address.rpartition(":")
        backlog = socket.socket()
        backlog.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        backlog.bind((host, int(port)))
        backlog.listen(100)
        return backlog

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None


class Directory:
    """The parts of the directory that a router uses, from plain dictionaries."""

    def __init__(self, trust: Trust, address: str, manifest: Manifest, operator: Signer) -> None:
        self.pins: dict[SubjectKey, Pin] = {}
        self.keys: dict[str, SigningKey] = {}
        self.asked: list[SubjectKey] = []
        self.log: list[Pin] = []
        self.placed = asyncio.Event()
        self.key_reads = self.residency_reads = 0
        self.retired: list[str] = []
        self.reached = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        settings = trust.settings(GLOBAL, Role.DIRECTORY, "fra", address)
        self._operator = operator
        self._revision = 0
        self.publish(manifest)
        self._settings: ProcessSettings = settings
        self._stack = AsyncExitStack()

    def publish(self, manifest: Manifest, *, by: Signer | None = None, revision: int | None = None) -> None:
        """A revision of the topology, the next one and by the operator unless told otherwise."""
        self._revision = self._revision + 1 if revision is None else revision
        self._document = sign_topology(by or self._operator, DEPLOYMENT, self._revision, manifest.topology())

    def _service(self) -> Service:
        service = Service(self._settings, self._ready)
        service.route("GET", "/v1/pins/snapshot", Endpoint.PINS_FOLLOW, self._snapshot)
        service.route("GET", "/v1/changes", Endpoint.PINS_FOLLOW, self._changes)
        service.route("GET", "/v1/pins/{key}", Endpoint.PINS_READ, self._pin)
        service.route("GET", "/v1/topology", Endpoint.TOPOLOGY_READ, self._topology)
        service.route("GET", "/.well-known/jwks.json", Endpoint.PINS_READ, self._jwks)
        service.route("GET", RESIDENCY_KEYS_PATH, Endpoint.TOPOLOGY_READ, self._residency_keys)
        service.route("PUT", "/v1/signing-keys/{kid}", Endpoint.SIGNING_KEYS_PUBLISH, self._publish)
        service.route("DELETE", "/v1/signing-keys/{kid}", Endpoint.SIGNING_KEYS_PUBLISH, self._retire)
        return service

    async def _ready(self) -> None:
        return None

    async def _pin(self, request: web.Request) -> web.Response:
        key = SubjectKey.parse(request.match_info["key"])
        self.asked.append(key)
        self.reached.set()
        await self.gate.wait()
        if key not in self.pins:
            raise UnknownSubject("no such subject")
        return json_response(self.pins[key])

    async def _snapshot(self, request: web.Request) -> web.Response:
        """For routers of nothing: whoever is asked about must be looked up, so that tests see it."""
        writer = SnapshotWriter()
        if request[PEER].role is not Role.EDGE:
            return web.Response(body=writer.head(POSITION) + writer.end())
        head = writer.head(self._position(len(self.log)))
        homes = sorted({f"{pin.jurisdiction}/{pin.cell}" for pin in self.pins.values()})
        records = [
            RECORD.pack(key, pin.epoch, STATES.index(pin.state), homes.index(f"{pin.jurisdiction}/{pin.cell}"))
            for key, pin in sorted(self.pins.items())
        ]
        blocks = [writer.block(Block(tuple(homes), b"".join(records)))] if records else []
        return web.Response(body=b"".join([head, *blocks, writer.end()]))

    @staticmethod
    def _position(sequence: int) -> Position:
        return Position(generation=POSITION.generation, sequence=sequence)

    async def _changes(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        told = Position.parse(request.query["after"]).sequence if request[PEER].role is Role.EDGE else len(self.log)
        while True:
            while request[PEER].role is Role.EDGE and told < len(self.log):
                told += 1
                event = f"id: {self._position(told)}\nevent: pin\ndata: {self.log[told - 1].model_dump_json()}\n\n"
                await answer.write(event.encode())
            now = self._position(told) if request[PEER].role is Role.EDGE else POSITION
            await answer.write(f"id: {now}\nevent: position\ndata: {{}}\n\n".encode())
            with suppress(TimeoutError):
                async with asyncio.timeout(BEAT_SECONDS):
                    await self.placed.wait()
            self.placed.clear()

    async def _topology(self, _: web.Request) -> web.Response:
        return json_response(self._document)

    async def _jwks(self, _: web.Request) -> web.Response:
        self.key_reads += 1
        return json_response(JWKS(keys=list(self.keys.values())))

    async def _residency_keys(self, _: web.Request) -> web.Response:
        self.residency_reads += 1
        return json_response(JWKS(keys=[key for key in self.keys.values() if key.domicile_use == "residency"]))

    async def _publish(self, request: web.Request) -> web.Response:
        key = await read_body(request, SigningKey)
        self.keys[key.kid] = key
        return web.Response(status=201)

    async def _retire(self, request: web.Request) -> web.Response:
        """A key is published for as long as its last token is good: longer than any test."""
        self.retired.append(request.match_info["kid"])
        return web.Response(status=204)

    def place(self, *pins: Pin) -> None:
        self.pins.update({pin.subject_key: pin for pin in pins})
        self.log += pins
        self.placed.set()

    async def start(self) -> None:
        service = self._service()
        context = service.internal_context([Role.ROUTER, Role.EDGE])
        await self._stack.enter_async_context(service.listen(self._settings.address(), context))

    async def stop(self) -> None:
        await self._stack.aclose()


@dataclass
class World:
    """Cells and a directory that run; routers and clients on demand."""

    trust: Trust
    folder: Path
    manifest: Manifest
    directory: Directory
    places: dict[str, Place]
    seen: list[Seen]
    sessions: Signer

    def app(self, name: str) -> Place:
        return self.places[f"{name}/app"]

    def answers(self, handler: Handler, *names: str) -> None:
        """Have the applications of these places (all: none named) answer by ``handler``."""
        for name, place in self.places.items():
            if not names or name.partition("/")[0] in names:
                place.handler = handler

    def jwt(self, name: str, **changes: Any) -> str:
        """The application's own session for a subject; ``changes`` replace claims, None removes one."""
        claims: dict[str, Any] = {"sub": name, "iss": ISSUER, "aud": AUDIENCE, "exp": 4_000_000_000, **changes}
        claims = {key: value for key, value in claims.items() if value is not None}
        return jwt.encode(claims, self.sessions.key, "EdDSA", headers={"kid": APPLICATION_KID})

    def bearer(self, name: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.jwt(name)}"}

    def settings(self, zone: str, **more: Any) -> RouterSettings:
        router = self.manifest.routers[zone]
        jurisdiction = self.manifest.jurisdiction_of(router.country)
        assert jurisdiction is not None
        place = self.folder / f"public-{zone}"
        certificate, key = self.trust.authorities[jurisdiction].issue_public(
            [HOSTS[zone], "localhost", f"{jurisdiction}.acme.example"]
        )
        write_private(place / "cert.pem", certificate)
        write_private(place / "key.pem", key)
        values: dict[str, Any] = {
            "directory": [self.manifest.directory.sites[0].address],
            "operators": self.folder / "operators",
            "pepper": self.folder / "pepper",
            "public_bind": router.public,
            "public_certificate": place / "cert.pem",
            "public_key": place / "key.pem",
            **more,
        }
        settings = self.trust.settings(jurisdiction, Role.ROUTER, zone, router.internal, RouterSettings, **values)
        assert isinstance(settings, RouterSettings)
        return settings

    @asynccontextmanager
    async def router(self, zone: str = "fra", **more: Any) -> AsyncIterator[aiohttp.ClientSession]:
        """A router that runs, and a client of its public listener."""
        async with serve(self.settings(zone, **more)), self.client(zone) as client:
            yield client

    def client(self, zone: str) -> aiohttp.ClientSession:
        router = self.manifest.routers[zone]
        jurisdiction = self.manifest.jurisdiction_of(router.country)
        return aiohttp.ClientSession(
            f"https://{router.public}",
            connector=aiohttp.TCPConnector(ssl=self.public_context(jurisdiction)),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )

    def public_context(self, jurisdiction: str | None) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.folder / "authorities" / f"{jurisdiction}.pem"))


@asynccontextmanager
async def routing_world(
    folder: Path, *, change: Callable[[dict[str, Any]], None] | None = None, **policies: str
) -> AsyncIterator[World]:
    """``policies``: traveller policy by jurisdiction, as in ``manifest_data``, which ``change`` may edit."""
    trust = Trust.create(folder)
    operator = Signer.load_or_create(folder / "operator.key")
    write_private(folder / "operators" / "root.pem", operator.public_pem())
    sessions = Signer.load_or_create(folder / "sessions.key")
    (folder / "app-jwks.json").write_text(json.dumps({"keys": [jwk_of(sessions)]}))
    data = manifest_data(folder, **policies)
    if change is not None:
        change(data)
    manifest = parse_manifest(data)
    directory = Directory(trust, manifest.directory.sites[0].address, manifest, operator)
    seen: list[Seen] = []
    places: dict[str, Place] = {}
    for cell_name, cell in manifest.cells.items():
        for zone_name, zone in cell.zones.items():
            for role, address in ((Role.APP, zone.app), (Role.GATEWAY, zone.gateway)):
                name = f"{cell_name}.{zone_name}"
                credentials = trust.credentials(cell.jurisdiction, role, name, (HOSTS[zone_name],))
                context = credentials.server([cell.jurisdiction], [Role.ROUTER, Role.EDGE])
                places[f"{name}/{role}"] = Place(f"{name}/{role}", address, context, seen)
    async with AsyncExitStack() as stack:
        await directory.start()
        stack.push_async_callback(directory.stop)
        for place in places.values():
            await place.start()
            stack.push_async_callback(place.stop)
        yield World(trust, folder, manifest, directory, places, seen, sessions)
