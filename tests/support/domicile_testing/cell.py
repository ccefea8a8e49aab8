"""What tests of a cell's services need around them: a directory of a few pins, callers, a superuser."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
from aiohttp import web

from domicile.cells.gateway import GatewaySettings
from domicile.cells.keys import KeySettings
from domicile.client import GatewayClient, KeyClient, Peer
from domicile.identity import Signer, sign_topology, write_private
from domicile.model import (
    GLOBAL,
    Endpoint,
    Manifest,
    NotFound,
    Pin,
    Role,
    SubjectKey,
    UnknownSubject,
    WrongCell,
    parse_manifest,
)
from domicile.model.key_domains import KeySection
from domicile.model.wire import JWKS, GrantRequest, GrantResponse, SigningKey, TopologyDocument
from domicile.service import PEER, ProcessSettings, Service, json_response, read_body
from domicile_testing.certificates import DEPLOYMENT, Trust
from domicile_testing.databases import Storage, free_port


@dataclass
class Directory:
    """A directory of a few pins over real mutual TLS. ``forge`` replaces the grant that it would sign."""

    address: str
    signer: Signer
    router: Signer
    published: list[SigningKey]
    pins: dict[SubjectKey, Pin] = field(default_factory=dict)
    forge: Callable[[Pin, UUID], str] | None = None
    grants: int = 0
    key_reads: int = 0
    topology: TopologyDocument | None = None

    def pin(self, key: SubjectKey, *, cell: str = "eu-1", epoch: int = 1) -> Pin:
        self.pins[key] = Pin(subject_key=key, jurisdiction="eu", cell=cell, epoch=epoch)
        return self.pins[key]

    async def grant(self, request: web.Request) -> web.Response:
        self.grants += 1
        asked = await read_body(request, GrantRequest)
        pin = self.pins.get(SubjectKey.parse(request.match_info["key"]))
        if pin is None:
            raise UnknownSubject("no pin")
        if self.forge is not None:
            return json_response(GrantResponse(grant=self.forge(pin, asked.incarnation)))
        if pin.cell != request[PEER].cell:
            raise WrongCell(
                "another cell is the home",
                jurisdiction=pin.jurisdiction,
                cell=pin.cell,
                subject_key=str(pin.subject_key),
                public_host="eu.example",
            )
        return json_response(GrantResponse(grant=self.signer.pin_grant(pin, DEPLOYMENT, asked.incarnation)))

    async def get_topology(self, _: web.Request) -> web.Response:
        if self.topology is None:
            raise NotFound("no topology was published")
        return json_response(self.topology)

    async def keys(self, _: web.Request) -> web.Response:
        self.key_reads += 1
        return json_response(JWKS(keys=self.published))


@asynccontextmanager
async def running_directory(trust: Trust, folder: Path) -> AsyncIterator[Directory]:
    settings = trust.settings(GLOBAL, Role.DIRECTORY, "fra", f"127.0.0.1:{free_port()}")
    signer, router = Signer.load_or_create(folder / "grant.key"), Signer.load_or_create(folder / "router.key")
    served = Directory(settings.bind, signer, router, [signer.public("pin-grant"), router.public("residency")])

    async def ready() -> None: ...

    service = Service(settings, ready)
    service.route("POST", "/v1/pins/{key}/grants", Endpoint.PINS_GRANT, served.grant)
    service.route("GET", "/v1/topology", Endpoint.TOPOLOGY_READ, served.get_topology)
    service.route("GET", "/.well-known/jwks.json", Endpoint.PINS_READ, served.keys)
    async with service.listen(settings.address(), service.internal_context([Role.GATEWAY])):
        yield served


@asynccontextmanager
async def superuser(storage: Storage) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(
        host=storage.host,
        port=storage.port,
        user="postgres",
        database="domicile",
        ssl=storage.context(Role.OPERATOR, "fra"),
    )
    try:
        yield connection
    finally:
        await connection.close()


async def forget_ledger(connection: asyncpg.Connection) -> None:
    """As only a superuser can: past the triggers."""
    await connection.execute(
        "SET session_replication_role = replica; TRUNCATE ledger.lines, ledger.tiles, ledger.heads, ledger.alarms; "
        "RESET session_replication_role"
    )


def gateway_settings(trust: Trust, storage: str, directory: str, **more: Any) -> GatewaySettings:
    bind = f"127.0.0.1:{free_port()}"
    made = trust.settings(
        "eu", Role.GATEWAY, "eu-1.fra", bind, GatewaySettings, storage=storage, directory=[directory], **more
    )
    assert isinstance(made, GatewaySettings)
    return made


def manifest(gateway: str, keys: str = "127.0.0.1:2", storage: str = "127.0.0.1:4", **section: object) -> Manifest:
    """A manifest whose cell ``eu-1`` has its gateway and storage, and ``eu`` its key service, at these addresses.

    ``section``: more of what it says of keys, as in KeySection.
    """
    return parse_manifest(
        {
            "version": 1,
            "deployment": DEPLOYMENT,
            "directory": {"sites": [{"zone": "fra", "country": "DE", "address": "127.0.0.1:1"}]},
            "jurisdictions": {
                "eu": {"countries": ["DE"], "public_host": "eu.example", "keys": {"service": [keys], **section}}
            },
            "cells": {
                "eu-1": {
                    "jurisdiction": "eu",
                    "accept": ["single-zone", "shared-witness"],
                    "zones": {
                        "fra": {
                            "country": "DE",
                            "network": "127.0.0.0/8",
                            "app": "127.0.0.1:3",
                            "storage": storage,
                            "gateway": gateway,
                        }
                    },
                }
            },
        }
    )


@asynccontextmanager
async def application(
    trust: Trust, gateway: str, jurisdiction: str = "eu", name: str = "eu-1.fra"
) -> AsyncIterator[GatewayClient]:
    client = GatewayClient(trust.credentials(jurisdiction, Role.APP, name), manifest(gateway), "eu-1")
    try:
        yield client
    finally:
        await client.close()


def caller(trust: Trust, gateway: str, jurisdiction: str, role: Role, name: str) -> Peer:
    """Anybody, calling the gateway of ``eu-1``."""
    return Peer(
        trust.credentials(jurisdiction, role, name), [gateway], jurisdiction="eu", role=Role.GATEWAY, cell="eu-1"
    )


def key_section(**more: object) -> KeySection:
    """What a manifest says of a jurisdiction's keys; ``more`` as in KeySection."""
    return KeySection.model_validate({"service": ["127.0.0.1:2"], "cache_seconds": 60, **more})


def key_settings(
    trust: Trust,
    storage: Storage | None,
    *,
    jurisdiction: str = "eu",
    role: Role = Role.KEYS,
    name: str = "fra",
) -> KeySettings:
    """Of a key service."""
    bind = f"127.0.0.1:{free_port()}"
    addresses = [] if storage is None else [storage.address]
    found = trust.settings(jurisdiction, role, name, bind, KeySettings, storage=addresses)
    assert isinstance(found, KeySettings)
    return found


@asynccontextmanager
async def key_client(trust: Trust, address: str, cell: str = "eu-1") -> AsyncIterator[KeyClient]:
    """An application's client of the key service of ``eu`` at ``address``."""
    credentials = trust.credentials("eu", Role.APP, f"{cell}.fra")
    keys = KeyClient(credentials, [address], jurisdiction="eu", cell=cell, cache_seconds=60)
    try:
        yield keys
    finally:
        await keys.close()


def variables(trust: Trust, settings: ProcessSettings) -> dict[str, str]:
    """What a program of the cell's room is told, with a directory that is not there."""
    return {
        "DOMICILE_DEPLOYMENT": settings.deployment,
        "DOMICILE_PROCESS": settings.process,
        "DOMICILE_BIND": settings.bind,
        "DOMICILE_CERTIFICATE": str(settings.certificate),
        "DOMICILE_KEY": str(settings.key),
        "DOMICILE_AUTHORITIES": str(settings.authorities),
        "DOMICILE_STATE": str(settings.state),
        "DOMICILE_DIRECTORY": f"127.0.0.1:{free_port()}",
        "DOMICILE_OPERATORS": str(trust.folder / "operators"),
    }


def keep_topology(trust: Trust, settings: ProcessSettings, known: Manifest) -> None:
    """As a process kept it when the directory was there, signed by an operator whom it knows."""
    operator = Signer.load_or_create(trust.folder / "operator.key")
    (trust.folder / "operators").mkdir(exist_ok=True)
    write_private(trust.folder / "operators" / "operator.pem", operator.public_pem())
    signed = sign_topology(operator, DEPLOYMENT, 1, known.topology())
    write_private(settings.state / "topology.json", signed.model_dump_json().encode())
