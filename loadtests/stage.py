"""What surrounds a measured proxy: known users, a directory that pins them, cells that answer, and the proxies.

The directory, its PostgreSQL and the router are the processes that a deployment runs, started by their own
commands; the applications behind every proxy are one nginx, since what they do is not measured.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from domicile_testing import Trust, free_port, running_storage
from domicile_testing.cell import superuser
from domicile_testing.certificates import DEPLOYMENT, PEPPER
from domicile_testing.directories import directory_settings

from domicile.client import DirectoryClient
from domicile.identity import Signer, sign_topology, write_private
from domicile.model import GLOBAL, Endpoint, Manifest, Pepper, Pin, Role, parse_manifest
from domicile.model.wire import TOKEN_COOKIE
from domicile.service import ProcessSettings
from loadtests.processes import LOADED_FROM, SERVED_ON, listening, says, started
from loadtests.programs import nginx_command
from loadtests.proxies import Edge, Pair, applications_nginx

KNOWN: Final = 100_000
WITH_TOKENS: Final = 5_000
"""The users that send requests: each of them often enough for whatever a proxy remembers of a user."""
ROUTER_ZONE: Final = "fra"
ZONES: Final = {
    "eu-1": ("fra", "DE", "127.10.1.1"),
    "eu-2": ("par", "FR", "127.10.2.1"),
    "eu-3": ("ams", "NL", "127.10.3.1"),
}
HANGING: Final = "eu-3"
LIVE: Final = ("eu-1", "eu-2")
FILL: Final = (
    "INSERT INTO directory.pins SELECT key, 'eu', cell, 1, 'active'"
    " FROM unnest($1::bytea[], $2::text[]) AS made_up (key, cell)"
)


@dataclass(frozen=True, slots=True)
class User:
    """A known user; ``token``: the residency token of those that send requests, else empty."""

    id: str
    cell: str
    token: str


@dataclass
class Stage:
    """All but the proxies. ``homes``: cell of every known user that isn't pinned to the hanging one."""

    folder: Path
    trust: Trust
    manifest: Manifest
    signer: Path
    public: Pair
    authorizer: str
    directory: str = ""
    active: list[User] = field(default_factory=list)
    stuck: list[User] = field(default_factory=list)
    homes: dict[str, str] = field(default_factory=dict)

    @property
    def users_file(self) -> Path:
        """Of ``active``, for ``load.lua``."""
        return self.folder / "users.tsv"

    def edge(self, name: str, *, tls: bool) -> Edge:
        """What a proxy of this name is given, in a folder of its own."""
        place = self.folder / f"{name}-{'tls' if tls else 'plain'}"
        place.mkdir(exist_ok=True)
        own = self.trust.credentials("eu", Role.ROUTER, "edge")
        cells = {cell: self.application(cell)[0] for cell in LIVE}
        return Edge(place, self.public if tls else None, Pair(own.certificate, own.key), self.authority, cells)

    @property
    def authority(self) -> Path:
        return self.trust.folder / "authorities" / "eu.pem"

    def application(self, cell: str) -> tuple[str, Pair]:
        """Address and certificate of a cell's application."""
        zone, _, host = ZONES[cell]
        credentials = self.trust.credentials("eu", Role.APP, f"{cell}.{zone}", (host, "localhost"))
        return self.manifest.cells[cell].zones[zone].app, Pair(credentials.certificate, credentials.key)

    def jwks(self) -> str:
        """The routers' published keys, as the directory serves them."""
        key = Signer.load_or_create(self.signer).public("residency")
        return json.dumps({"keys": [key.model_dump(mode="json", by_alias=True)]})


def _addresses(host: str, count: int) -> list[str]:
    found: set[str] = set()
    while len(found) < count:
        found.add(f"{host}:{free_port(host)}")
    return sorted(found)


def _manifest(folder: Path, directory: str) -> Manifest:
    cells = {}
    for cell, (zone, country, host) in ZONES.items():
        app, gateway, storage = _addresses(host, 3)
        network = host.rpartition(".")[0] + ".0/24"
        place = {"country": country, "network": network, "app": app, "gateway": gateway, "storage": storage}
        cells[cell] = {"jurisdiction": "eu", "zones": {zone: place}, "accept": ["single-zone", "shared-witness"]}
    keys, public, internal = _addresses(ZONES["eu-1"][2], 3)
    eu = {"countries": ["DE", "FR", "NL"], "public_host": "eu.example", "keys": {"service": [keys]}}
    return parse_manifest(
        {
            "version": 1,
            "deployment": DEPLOYMENT,
            "directory": {"sites": [{"zone": "fra", "country": "DE", "address": directory}]},
            "jurisdictions": {"eu": eu},
            "cells": cells,
            "routers": {ROUTER_ZONE: {"country": "DE", "public": public, "internal": internal}},
            "identity": {"jwks": str(folder / "app-jwks.json"), "issuer": "https://id.example", "audience": "bench"},
        }
    )


def environment(settings: ProcessSettings) -> dict[str, str]:
    told = settings.model_dump(mode="json", include=set(settings.model_fields_set))
    texts = {name: ",".join(value) if isinstance(value, list) else str(value) for name, value in told.items()}
    return {f"DOMICILE_{name.upper()}": text for name, text in texts.items()}


def command(name: str) -> list[str]:
    return [str(Path(sys.executable).with_name(name)), "serve"]


@contextmanager
def stage(folder: Path, *, applications_on: int = SERVED_ON) -> Iterator[Stage]:
    """A world around the proxies. Raises Unmeasured where a part of it doesn't start.

    ``applications_on``: their core; by default the proxy's, so that it is kept busy.
    """
    trust = Trust.create(folder, ("eu", GLOBAL))
    operator = Signer.load_or_create(folder / "operator.key")
    sessions = Signer.load_or_create(folder / "sessions.key").public("residency")
    jwk = {"kty": "OKP", "crv": "Ed25519", "kid": "app", "x": sessions.x, "alg": "EdDSA", "use": "sig"}
    (folder / "app-jwks.json").write_text(json.dumps({"keys": [jwk]}))
    certificate, key = trust.authorities["eu"].issue_public([ZONES["eu-1"][2], "127.0.0.1", "localhost"])
    write_private(folder / "public.pem", certificate)
    write_private(folder / "public.key", key)
    with ExitStack() as stack:
        storage = stack.enter_context(
            running_storage(trust, folder / "pg", Endpoint.DIRECTORY_STORAGE, GLOBAL, "fra", "domicile_directory")
        )
        settings = directory_settings(trust, storage.address, operator)
        public = Pair(folder / "public.pem", folder / "public.key")
        manifest = _manifest(folder, settings.bind)
        built = Stage(folder, trust, manifest, folder / "token.key", public, f"127.0.0.1:{free_port()}", settings.bind)
        log = folder / "directory.log"
        ready = says(log, "ready")
        told = environment(settings)
        stack.enter_context(started(command("domicile-directory"), log, ready, core=LOADED_FROM, environment=told))
        pins = _populate(built)

        async def fill() -> None:
            async with superuser(storage) as database:
                await database.execute(FILL, [pin.subject_key for pin in pins], [pin.cell for pin in pins])
            client = DirectoryClient(trust.credentials(GLOBAL, Role.OPERATOR, "root"), [settings.bind])
            await client.publish_topology(sign_topology(operator, DEPLOYMENT, 1, manifest.topology()))
            await client.close()

        asyncio.run(fill())
        stack.enter_context(_applications(built, applications_on))
        yield built


def _populate(built: Stage) -> list[Pin]:
    """Make up the users; give back everybody's pin."""
    pepper = Pepper.parse(PEPPER)
    signer = Signer.load_or_create(built.signer)
    chance = random.Random(4)
    active = set(chance.sample(range(KNOWN), WITH_TOKENS))
    pins = []
    for number in range(KNOWN):
        cell = HANGING if number % 100 == 0 else LIVE[number % 2]
        name = f"user-{number:06}"
        pin = Pin(subject_key=pepper.subject_key(name), jurisdiction="eu", cell=cell, epoch=1)
        pins.append(pin)
        if cell != HANGING:
            built.homes[name] = cell
        if number in active:
            user = User(name, cell, signer.residency_token(pin, DEPLOYMENT))
            (built.stuck if cell == HANGING else built.active).append(user)
    lines = (f"{user.id}\t{user.cell}\t{user.token}\n" for user in built.active)
    built.users_file.write_text("".join(lines))
    return pins


@contextmanager
def _applications(built: Stage, core: int) -> Iterator[None]:
    folder = built.folder / "applications"
    folder.mkdir()
    cells = {cell: built.application(cell) for cell in ZONES}
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(4096)  # the kernel takes connections, and nobody ever reads from them
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        text = applications_nginx(folder, cells, HANGING, address, built.authority, built.authorizer)
        addresses = [address for address, _ in cells.values()]
        ready = listening(*addresses, built.authorizer)
        with started(nginx_command(folder, text), folder / "log", ready, core=core):
            yield


def head(user: User, path: str, host: str, number: int = 0) -> bytes:
    """A request of a user, as ``load.lua`` writes them."""
    lines: Sequence[str] = [
        f"GET {path}?page={number % 97} HTTP/1.1",
        f"Host: {host}",
        "Accept: application/json",
        "Accept-Encoding: gzip, br",
        f"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:{100 + number % 40}.0) Gecko/20100101 Firefox/128.0",
        f"Accept-Language: de-DE,de;q=0.{number % 9 + 1}",
        f"X-Request-Id: {number:016x}",
        f"X-User: {user.id}",
        f"X-Cell: {user.cell}",
        f"Cookie: theme=dark; sid=s{user.id}; {TOKEN_COOKIE}={user.token}",
        "",
        "",
    ]
    return "\r\n".join(lines).encode()
