"""What tests of an application need around it: a directory, key services and gateways, small and over real TLS.

The application's cell is ``eu-1`` (zone ``fra``, on 127.0.0.1). ``eu-2`` is a sibling that nobody runs;
``us-1`` (zone ``iad``, on 127.30.1.1) has a gateway, so that it can be read from abroad.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import asyncpg
from aiohttp import web

from domicile.identity import Signer, sign_topology
from domicile.model import (
    GLOBAL,
    AliasKey,
    Conflict,
    Endpoint,
    FenceRefused,
    InvalidInput,
    Manifest,
    NotFound,
    Pin,
    PinGrant,
    Role,
    SubjectKey,
    UnknownSubject,
    parse_manifest,
)
from domicile.model.abroad import AbroadQuery
from domicile.model.key_wire import DataKey, DataKeysRequest, DataKeysResponse, IndexKeyRequest, IndexKeyResponse
from domicile.model.wire import AliasDocument, AliasRequest, ClaimRequest, FenceRequest, FenceResponse
from domicile.sdk.store import AbroadStore, FenceStore, open_pool
from domicile.service import ProcessSettings, Service, json_response, read_body
from domicile_testing.certificates import DEPLOYMENT, PEPPER, Trust
from domicile_testing.databases import Storage, free_port

US_HOST = "127.30.1.1"


async def _ready() -> None: ...


def manifest(eu_storage: str, *, travellers: str = "redirect") -> Manifest:
    """Two jurisdictions, three cells; free ports for what the tests start."""
    taken = {eu_storage}

    def free(host: str) -> str:
        """An address that was not given out before: the system may name a free port twice."""
        while (address := f"{host}:{free_port(host)}") in taken:
            pass
        taken.add(address)
        return address

    def zone(country: str, network: str, host: str, storage: str | None = None) -> dict[str, Any]:
        ports = {name: free(host) for name in ("app", "gateway")}
        return {"country": country, "network": network, "storage": storage or free(host), **ports}

    accept = ["single-zone", "shared-witness"]
    fra, par = zone("DE", "127.0.0.0/16", "127.0.0.1", eu_storage), zone("FR", "127.0.0.0/16", "127.0.0.1")
    iad = zone("US", "127.30.1.0/24", US_HOST)
    return parse_manifest(
        {
            "version": 1,
            "deployment": DEPLOYMENT,
            "directory": {"sites": [{"zone": "fra", "country": "DE", "address": free("127.0.0.1")}]},
            "jurisdictions": {
                "eu": {
                    "countries": ["DE", "FR"],
                    "public_host": "eu.example",
                    "keys": {"service": [free("127.0.0.1")]},
                },
                "us": {
                    "countries": ["US"],
                    "public_host": "us.example",
                    "travellers": travellers,
                    "traveller_paths": [{"path": "/support/enrol", "travellers": "refuse"}],
                    "keys": {"service": [free(US_HOST)]},
                },
            },
            "cells": {
                "eu-1": {"jurisdiction": "eu", "accept": accept, "zones": {"fra": fra}},
                "eu-2": {"jurisdiction": "eu", "accept": accept, "zones": {"par": par}},
                "us-1": {"jurisdiction": "us", "accept": accept, "zones": {"iad": iad}},
            },
            "routers": {
                "fra": {
                    "country": "DE",
                    "public": free("127.0.0.1"),
                    "internal": free("127.0.0.1"),
                    "rules": [
                        {"path": path, "class": "unpinned"} for path in ("/signup", "/login", "/about", "/support/*")
                    ],
                }
            },
            "identity": {"jwks": "sessions.jwks.json", "issuer": "sample.acme", "audience": "acme"},
        }
    )


@dataclass
class Directory:
    """Pins and aliases of a few subjects. ``place`` says which cell a jurisdiction's newcomers get."""

    manifest: Manifest
    operator: Signer
    pins: dict[SubjectKey, Pin] = field(default_factory=dict)
    aliases: dict[tuple[str, str], SubjectKey] = field(default_factory=dict)
    place: dict[str, str] = field(default_factory=lambda: {"eu": "eu-1", "us": "us-1"})
    asked: int = 0

    def pin(self, key: SubjectKey, cell: str = "eu-1", epoch: int = 1) -> Pin:
        jurisdiction = self.manifest.cells[cell].jurisdiction
        self.pins[key] = Pin(subject_key=key, jurisdiction=jurisdiction, cell=cell, epoch=epoch)
        return self.pins[key]

    def grant(self, key: SubjectKey, cell: str, incarnation: UUID) -> PinGrant:
        pin = self.pins.get(key)
        if pin is None:
            raise UnknownSubject("no pin")
        if pin.cell != cell:
            raise FenceRefused("another cell is the home")
        now = int(time.time())
        return PinGrant(
            iss=DEPLOYMENT,
            sub=key,
            jur=pin.jurisdiction,
            cell=cell,
            epoch=pin.epoch,
            incarnation=incarnation,
            iat=now,
            exp=now + 60,
        )

    async def get(self, request: web.Request) -> web.Response:
        self.asked += 1
        pin = self.pins.get(SubjectKey.parse(request.match_info["key"]))
        if pin is None:
            raise UnknownSubject("no pin")
        return json_response(pin)

    async def claim(self, request: web.Request) -> web.Response:
        self.asked += 1
        key, wanted = SubjectKey.parse(request.match_info["key"]), await read_body(request, ClaimRequest)
        country = wanted.residence or wanted.observed_country or ""
        jurisdiction = wanted.jurisdiction or self.manifest.jurisdiction_of(country)
        if jurisdiction is None:
            raise InvalidInput("a country of no jurisdiction")
        return json_response(self.pins.get(key) or self.pin(key, self.place[jurisdiction]))

    async def put_alias(self, request: web.Request) -> web.Response:
        name = (request.match_info["kind"], request.match_info["alias"])
        wanted = (await read_body(request, AliasRequest)).subject_key
        if self.aliases.setdefault(name, wanted) != wanted:
            raise Conflict("somebody else's alias")
        return web.Response(status=204)

    async def get_alias(self, request: web.Request) -> web.Response:
        kind, alias = request.match_info["kind"], request.match_info["alias"]
        if (kind, alias) not in self.aliases:
            raise NotFound("nobody's alias")
        return json_response(AliasDocument(alias_key=AliasKey.parse(alias), subject_key=self.aliases[kind, alias]))

    async def topology(self, _: web.Request) -> web.Response:
        return json_response(sign_topology(self.operator, DEPLOYMENT, 1, self.manifest.topology()))

    def routes(self, service: Service) -> None:
        service.route("GET", "/v1/pins/{key}", Endpoint.PINS_READ, self.get)
        service.route("PUT", "/v1/pins/{key}", Endpoint.PINS_CLAIM, self.claim)
        service.route("PUT", "/v1/aliases/{kind}/{alias}", Endpoint.ALIASES, self.put_alias)
        service.route("GET", "/v1/aliases/{kind}/{alias}", Endpoint.ALIASES, self.get_alias)
        service.route("GET", "/v1/topology", Endpoint.TOPOLOGY_READ, self.topology)


@dataclass
class Keys:
    """A jurisdiction's data keys, in memory."""

    keys: dict[tuple[UUID, UUID], DataKey] = field(default_factory=dict)
    index: dict[str, bytes] = field(default_factory=dict)

    async def data_keys(self, request: web.Request) -> web.Response:
        asked = await read_body(request, DataKeysRequest)
        for name in asked.keys:
            if asked.create and (name.subject, name.principal) not in self.keys:
                self.keys[name.subject, name.principal] = DataKey(
                    subject=name.subject, principal=name.principal, key=os.urandom(32), index_key=os.urandom(32)
                )
        found = [self.keys.get((name.subject, name.principal)) for name in asked.keys]
        return json_response(DataKeysResponse(keys=[key for key in found if key is not None]))

    async def index_keys(self, request: web.Request) -> web.Response:
        cell = (await read_body(request, IndexKeyRequest)).cell
        return json_response(IndexKeyResponse(key=self.index.setdefault(cell, os.urandom(32))))

    def routes(self, service: Service) -> None:
        service.route("POST", "/v1/data-keys", Endpoint.DATA_KEYS, self.data_keys)
        service.route("POST", "/v1/index-keys", Endpoint.DATA_KEYS, self.index_keys)


@dataclass
class Gateway:
    """Opens fences on the directory's word, and reads shareable columns; the stores are the real ones."""

    cell: str
    jurisdiction: str
    directory: Directory
    fences: FenceStore
    abroad: AbroadStore

    async def open_fence(self, request: web.Request) -> web.Response:
        key = SubjectKey.parse(request.match_info["key"])
        asked = await read_body(request, FenceRequest)
        grant = self.directory.grant(key, self.cell, await self.fences.incarnation())
        fence = await self.fences.open(grant, asked.alias_keys)
        return json_response(FenceResponse(subject_key=key, epoch=fence.epoch, internal_id=fence.internal_id))

    async def read(self, request: web.Request) -> web.Response:
        key, table = SubjectKey.parse(request.match_info["key"]), request.match_info["table"]
        found = await self.abroad.rows(table, key, AbroadQuery.parse(request.query))
        return json_response(found.answer(self.jurisdiction, self.cell))

    def routes(self, service: Service) -> None:
        service.route("POST", "/.domicile/v1/fences/{key}", Endpoint.FENCES, self.open_fence)
        service.route("GET", "/.domicile/v1/abroad/{key}/{table}", Endpoint.ABROAD_READ, self.read)


@dataclass
class Surroundings:
    """Everything around the application of ``eu-1``, running."""

    trust: Trust
    manifest: Manifest
    directory: Directory
    keys: Keys
    us_fences: FenceStore
    stops: dict[str, AsyncExitStack]

    def settings(
        self,
        kind: type[ProcessSettings] = ProcessSettings,
        *,
        name: str = "eu-1.fra",
        jurisdiction: str = "eu",
        **more: Any,
    ) -> ProcessSettings:
        """Settings of the application; ``more`` as in ProcessSettings."""
        (self.trust.folder / "pepper").write_text(PEPPER)
        operators = self.trust.folder / "operators"
        operators.mkdir(exist_ok=True)
        (operators / "operator.pem").write_bytes(self.directory.operator.public_pem())
        values: dict[str, Any] = {
            "directory": [self.manifest.directory.sites[0].address],
            "operators": operators,
            "pepper": self.trust.folder / "pepper",
            **more,
        }
        bind = values.pop("bind", self.manifest.cells["eu-1"].zones["fra"].app)
        return self.trust.settings(jurisdiction, Role.APP, name, bind, kind, **values)

    async def stop(self, part: str) -> None:
        """End ``directory`` or ``keys``."""
        await self.stops[part].aclose()


async def _serve(
    stack: AsyncExitStack, trust: Trust, place: tuple[str, Role, str], bind: str, part: Directory | Keys | Gateway
) -> None:
    jurisdiction, role, name = place
    host = bind.rpartition(":")[0]
    settings = trust.settings(jurisdiction, role, name, bind)
    trust.credentials(jurisdiction, role, name, hosts=(host,))  # in the place of the one for 127.0.0.1
    service = Service(settings, _ready)
    part.routes(service)
    await stack.enter_async_context(service.listen(settings.address(), service.internal_context([Role.APP])))


async def _stores(
    stack: AsyncExitStack, trust: Trust, storage: Storage, cell: str, zone: str
) -> tuple[FenceStore, AbroadStore]:
    pools: list[asyncpg.Pool] = []
    for user in ("domicile_gateway", "domicile_abroad"):
        credentials = trust.credentials(storage.jurisdiction, Role.GATEWAY, f"{cell}.{zone}")
        pool = await open_pool(
            credentials, [storage.address], jurisdiction=storage.jurisdiction, cell=cell, user=user, size=2
        )
        stack.callback(pool.terminate)
        pools.append(pool)
    return FenceStore(pools[0]), AbroadStore(pools[1])


@asynccontextmanager
async def surroundings(
    trust: Trust, eu: Storage, us: Storage, *, travellers: str = "redirect"
) -> AsyncIterator[Surroundings]:
    """Start them all. The storages have the schema applied."""
    world = manifest(eu.address, travellers=travellers)
    directory = Directory(world, Signer.load_or_create(trust.folder / "operator.key"))
    keys = Keys()
    async with AsyncExitStack() as stack:
        stops = {part: await stack.enter_async_context(AsyncExitStack()) for part in ("directory", "keys")}
        address = world.directory.sites[0].address
        await _serve(stops["directory"], trust, (GLOBAL, Role.DIRECTORY, "fra"), address, directory)
        await _serve(stops["keys"], trust, ("eu", Role.KEYS, "fra"), world.jurisdictions["eu"].keys.service[0], keys)
        eu_fences, eu_abroad = await _stores(stack, trust, eu, "eu-1", "fra")
        us_fences, us_abroad = await _stores(stack, trust, us, "us-1", "iad")
        eu_gateway = Gateway("eu-1", "eu", directory, eu_fences, eu_abroad)
        us_gateway = Gateway("us-1", "us", directory, us_fences, us_abroad)
        bind = world.cells["eu-1"].zones["fra"].gateway
        await _serve(stack, trust, ("eu", Role.GATEWAY, "eu-1.fra"), bind, eu_gateway)
        bind = world.cells["us-1"].zones["iad"].gateway
        await _serve(stack, trust, ("us", Role.GATEWAY, "us-1.iad"), bind, us_gateway)
        yield Surroundings(trust, world, directory, keys, us_fences, stops)
