"""A directory under test: topologies to publish to it, and whoever calls it, each with a certificate of its own."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import aiohttp

from domicile.client import DirectoryClient
from domicile.directory import DirectorySettings, serve_directory
from domicile.identity import Signer, sign_topology, write_private
from domicile.model import GLOBAL, Manifest, Role, SubjectKey, parse_manifest
from domicile.model.wire import TopologyDocument
from domicile_testing.certificates import DEPLOYMENT, Trust
from domicile_testing.databases import free_port

Cells = Mapping[str, tuple[int, str]]
"""Weight and state of each cell; its jurisdiction is its name's first part."""
SETTLED: Cells = {"eu-1": (100, "open"), "eu-2": (100, "open"), "us-1": (100, "open")}
NAMES = {Role.APP: "eu-1.fra", Role.GATEWAY: "eu-1.fra"}
"""Of callers whose name does not matter, in roles that belong to a cell."""


def manifest(cells: Cells = SETTLED) -> Manifest:
    """``eu`` (DE, FR) and ``us`` (US), with these cells."""
    countries = {"eu": "DE", "us": "US"}
    zones = {
        name: {
            "country": countries[name.partition("-")[0]],
            "network": f"127.{position}.0.0/16",
            "app": f"127.{position}.0.1:1",
            "gateway": f"127.{position}.0.1:2",
            "storage": f"127.{position}.0.1:3",
        }
        for position, name in enumerate(cells, 10)
    }
    keys = {jurisdiction: _keys(zones, jurisdiction) for jurisdiction in countries}
    return parse_manifest(
        {
            "version": 1,
            "deployment": DEPLOYMENT,
            "directory": {"sites": [{"zone": "fra", "country": "DE", "address": "127.0.0.1:1"}]},
            "jurisdictions": {
                "eu": {"countries": ["DE", "FR"], "public_host": "eu.example", "keys": {"service": keys["eu"]}},
                "us": {"countries": ["US"], "public_host": "us.example", "keys": {"service": keys["us"]}},
            },
            "cells": {
                name: {
                    "jurisdiction": name.partition("-")[0],
                    "weight": weight,
                    "state": state,
                    "zones": {f"zone-{name}": zones[name]},
                    "accept": ["single-zone", "shared-witness"],
                }
                for name, (weight, state) in cells.items()
            },
        }
    )


def _keys(zones: dict[str, dict[str, str]], jurisdiction: str) -> list[str]:
    return next([z["app"][:-2] + ":4"] for name, z in zones.items() if name.startswith(f"{jurisdiction}-"))


def any_key() -> SubjectKey:
    return SubjectKey(b"\x01" + secrets.token_bytes(16))


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: Any


@dataclass
class RunningDirectory:
    """A listening directory; ``client`` and ``ask`` call it as whoever the test needs."""

    trust: Trust
    address: str
    operator: Signer
    state: Path
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    def client(self, jurisdiction: str, role: Role, name: str | None = None) -> DirectoryClient:
        name = name or NAMES.get(role, "fra")
        client = DirectoryClient(self.trust.credentials(jurisdiction, role, name), [self.address], deadline=10)
        self._stack.push_async_callback(client.close)
        return client

    @property
    def app(self) -> DirectoryClient:
        return self.client("eu", Role.APP)

    def signed(self, revision: int, topology: Manifest, signer: Signer | None = None) -> TopologyDocument:
        return sign_topology(signer or self.operator, DEPLOYMENT, revision, topology.topology())

    async def publish(self, revision: int, cells: Cells = SETTLED) -> None:
        await self.client(GLOBAL, Role.OPERATOR).publish_topology(self.signed(revision, manifest(cells)))

    async def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        jurisdiction: str = "eu",
        role: Role = Role.APP,
        name: str | None = None,
    ) -> Answer:
        """One raw request. Raises aiohttp.ClientError where the connection is refused."""
        credentials = self.trust.credentials(jurisdiction, role, name or NAMES.get(role, "fra"))
        connector = aiohttp.TCPConnector(ssl=credentials.client(GLOBAL, [Role.DIRECTORY]))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.request(method, f"https://{self.address}{path}", json=body) as response,
        ):
            text = await response.text()
            document = await response.json(content_type=None) if "json" in response.content_type else text
            return Answer(response.status, response.headers, document)


def directory_settings(
    trust: Trust, storage: str, operator: Signer, name: str = "fra", **more: object
) -> DirectorySettings:
    folder = trust.folder / "operators"
    write_private(folder / "operator.pem", operator.public_pem())
    bind = f"127.0.0.1:{free_port()}"
    settings = trust.settings(
        GLOBAL, Role.DIRECTORY, name, bind, kind=DirectorySettings, storage=storage, operators=folder, **more
    )
    return cast("DirectorySettings", settings)


def forget_marks(trust: Trust) -> None:
    """For a database that is begun anew: or what was in the one before would be asked of the cells."""
    for mark in trust.folder.rglob("mark.json"):
        mark.unlink()


@asynccontextmanager
async def serving(settings: DirectorySettings, trust: Trust, operator: Signer) -> AsyncIterator[RunningDirectory]:
    async with serve_directory(settings):
        running = RunningDirectory(trust, settings.bind, operator, settings.state)
        async with running._stack:
            yield running
