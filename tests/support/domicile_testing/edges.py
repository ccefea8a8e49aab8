"""Edges of other people's making, in front of a small world's router, by what `domicile edge` prints.

A ``Kind`` is one of the recipes; the behaviour suite runs through each of ``KINDS`` whose program is here. What a kind
cannot do is said in ``cannot``, by the name of the test, with the reason.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from loadtests.cases import Unmeasured
from loadtests.programs import envoy, haproxy, nginx, nginx_module

from domicile.client import DirectoryClient
from domicile.identity import Credentials, Signer, write_private
from domicile.model import Address, Identity, Manifest, Pin, Role
from domicile.model.wire import TOKEN_HEADER
from domicile.ops.edge.envoy import Health, Recipe, Tuning, static
from domicile.ops.edge.equipment import Equipment, Pair
from domicile.ops.edge.haproxy import Tuning as HaproxyTuning
from domicile.ops.edge.haproxy import files as haproxy_files
from domicile.ops.edge.haproxy.configuration import CONFIGURATION
from domicile.ops.edge.haproxy.watch import Watcher
from domicile.ops.edge.nginx import Memory
from domicile.ops.edge.nginx import Tuning as NginxTuning
from domicile.ops.edge.nginx import configuration as nginx_configuration
from domicile.ops.edge.view import View, view_of
from domicile.service import ended
from domicile_testing.certificates import DEPLOYMENT
from domicile_testing.databases import free_port
from domicile_testing.routing import World

IDLE_SECONDS = 1.0
"""How long a zone may be silent, in this suite."""


@dataclass
class Edge:
    """An edge that runs in a zone of a world. ``signer`` signs tokens as a router of the world does. ``asks``: a router
    is asked whom a request is for, and the answer kept."""

    world: World
    address: Address
    folder: Path
    signer: Signer
    pid: int = 0
    asks: bool = False
    _tokens: dict[tuple[Pin, str, float, str], str] = field(default_factory=dict)

    def token(self, pin: Pin, *, issuer: str = DEPLOYMENT, age: float = 0, signer: Signer | None = None) -> str:
        """A residency token of a pin, issued ``age`` seconds ago; the same one each time."""
        told = (pin, issuer, age, (signer or self.signer).kid)
        if told not in self._tokens:
            self._tokens[told] = (signer or self.signer).residency_token(pin, issuer, clock=lambda: time.time() - age)
        return self._tokens[told]

    def client(self, **headers: str) -> aiohttp.ClientSession:
        """Speaks HTTP/1.1 to the edge as clients do, and sends these header fields each time."""
        return aiohttp.ClientSession(
            f"https://{self.address}",
            connector=aiohttp.TCPConnector(ssl=self.world.public_context("eu")),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            headers=headers,
        )

    def of(self, pin: Pin) -> aiohttp.ClientSession:
        """A client with a valid token of this pin."""
        return self.client(**{TOKEN_HEADER: self.token(pin)})


def view(world: World, zone: str = "fra", manifest: Manifest | None = None) -> View:
    """What an edge in this zone sees of the world's topology, or of another."""
    return view_of(manifest or world.manifest, Identity(DEPLOYMENT, "eu", Role.EDGE, zone))


def equipment(world: World, zone: str = "fra", *, plain: bool = False) -> Equipment:
    """Its certificates, made now, and a free address."""
    place = world.folder / f"edge-{zone}"
    certificate, key = world.trust.authorities["eu"].issue_public(["127.0.0.1", "localhost", "eu.acme.example"])
    write_private(place / "public.pem", certificate)
    write_private(place / "public.key", key)
    own = world.trust.credentials("eu", Role.EDGE, zone)
    public = None if plain else Pair(place / "public.pem", place / "public.key")
    return Equipment(f"127.0.0.1:{free_port()}", public, own)


def trusted_signer(world: World, name: str = "edge-tokens") -> Signer:
    """A router's key, published in the world's directory."""
    signer = Signer.load_or_create(world.folder / f"{name}.key")
    world.directory.keys[signer.kid] = signer.public("residency")
    return signer


def require(program: Callable[[], object]) -> None:
    """Skip the test, with the reason, where a program is not here."""
    try:
        program()
    except Unmeasured as error:
        pytest.skip(str(error))


async def reachable(address: str, ended: Callable[[], bool], *, seconds: float = 20) -> None:
    """Returns when somebody listens there. Raises RuntimeError where the process ``ended``, and TimeoutError."""
    place = Address(address)
    async with asyncio.timeout(seconds):
        while True:
            try:
                _, writer = await asyncio.open_connection(place.host, place.port)
            except OSError:
                if ended():
                    raise RuntimeError("the edge ended") from None
                await asyncio.sleep(0.01)
                continue
            writer.close()
            await writer.wait_closed()
            return


@asynccontextmanager
async def started(command: Sequence[str], folder: Path, address: str) -> AsyncIterator[int]:
    """A program that listens at ``address`` inside the context; its process id. What it says is in ``folder``/log."""
    log = folder / "log"
    with log.open("wb") as stream:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=stream, stderr=stream
        )
    try:
        try:
            await reachable(address, lambda: process.returncode is not None)
        except (RuntimeError, TimeoutError) as error:
            raise RuntimeError(f"{command[0]}: {error}\n{log.read_text()[-4000:]}") from None
        yield process.pid
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def envoy_command(file: Path) -> list[str]:
    return [envoy(), "-c", str(file), "--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"]


TUNING = Tuning(idle_seconds=IDLE_SECONDS, health_seconds=0.2, keys_seconds=0.2)


@asynccontextmanager
async def envoy_edge(
    world: World, zone: str, *, asks: bool = False, health: Health = Health.HTTP
) -> AsyncIterator[Edge]:
    brought = equipment(world, zone)
    folder = world.folder / f"envoy-{zone}"
    folder.mkdir()
    edge = Edge(world, brought.address, folder, trusted_signer(world), asks=asks)
    file = folder / "envoy.json"
    file.write_text(static(view(world, zone), brought, Recipe(asks=asks, health=health, tuning=TUNING)))
    async with started(envoy_command(file), folder, brought.listen) as edge.pid:
        yield edge


@dataclass(frozen=True)
class Kind:
    """A recipe. ``program`` raises Unmeasured with the cure where it isn't installed. ``run`` starts it for a world in
    a zone; a router of that zone runs already. ``asks``: a router, and keeps the answer. ``rare``: in the
    suite's long form alone."""

    program: Callable[[], Any]
    run: Callable[[World, str], AbstractAsyncContextManager[Edge]]
    cannot: Mapping[str, str] = field(default_factory=dict)
    asks: bool = False
    rare: bool = False


def nginx_edge(memory: Memory) -> Callable[[World, str], AbstractAsyncContextManager[Edge]]:
    @asynccontextmanager
    async def run(world: World, zone: str) -> AsyncIterator[Edge]:
        brought = equipment(world, zone)
        folder = world.folder / f"nginx-{zone}"
        (folder / "temp").mkdir(parents=True)
        edge = Edge(world, brought.address, folder, trusted_signer(world), asks=True)
        tuning = NginxTuning(idle_seconds=IDLE_SECONDS)
        text = nginx_configuration(view(world, zone), brought, memory, tuning=tuning)
        (folder / "nginx.conf").write_text(text)
        async with started(nginx_command(folder), folder, brought.listen) as edge.pid:
            yield edge

    return run


def nginx_command(folder: Path) -> list[str]:
    """By the ``nginx.conf`` in ``folder``. As root its worker stays root: our folders are nobody else's to enter."""
    user = " user root;" if os.getuid() == 0 else ""
    return [nginx(), "-p", str(folder), "-e", "stderr", "-c", "nginx.conf", "-g", f"daemon off;{user}"]


@asynccontextmanager
async def haproxy_edge(world: World, zone: str) -> AsyncIterator[Edge]:
    """With its map kept, and loaded."""
    brought = equipment(world, zone)
    folder = world.folder / f"haproxy-{zone}"
    folder.mkdir()
    edge = Edge(world, brought.address, folder, trusted_signer(world), asks=True)
    tuning = HaproxyTuning(idle_seconds=IDLE_SECONDS, health_seconds=0.2)
    for name, text in haproxy_files(view(world, zone), brought, folder, tuning=tuning).items():
        write_private(folder / name, text.encode())
    command = [haproxy(), "-db", "-f", str(folder / CONFIGURATION)]
    async with started(command, folder, brought.listen) as edge.pid, watched(world, edge, brought.own):
        yield edge


@asynccontextmanager
async def watched(world: World, edge: Edge, own: Credentials) -> AsyncIterator[None]:
    """The map of an HAProxy follows the world's directory inside the context."""
    directory = DirectoryClient(own, [world.manifest.directory.sites[0].address])
    loaded = asyncio.Event()
    watcher = Watcher(directory, edge.folder, "eu", lambda line: loaded.set() if "in the map" in line else None)
    running = asyncio.create_task(watcher.run())
    try:
        async with asyncio.timeout(10):
            await loaded.wait()
        yield
    finally:
        await ended(running)
        await directory.close()


def with_modules(*names: str) -> Callable[[], None]:
    """Raises Unmeasured where nginx or one of its modules isn't installed."""

    def program() -> None:
        nginx()
        for name in names:
            nginx_module(name)

    return program


_ASKS = "asks a router who is meant, and forwards by itself"
_OF_ASKING = {
    "test_without_a_token_a_router_decides": _ASKS,
    "test_after_a_move_the_new_home_serves": _ASKS,
    "test_a_body_that_cannot_be_sent_again_is_503": _ASKS,
}
_OF_NGINX = _OF_ASKING | {
    "test_a_zone_that_drains_is_left_without_an_answer_lost": "nginx asks nobody about his health",
    "test_an_applications_own_421_passes_through": "of an application's own 421 the status passes, its body does not",
    "test_a_body_is_asked_for_by_whoever_takes_it": "nginx asks for a body before it answers at all",
}
_AGAIN = "the client is told to come again (307), and sends its body itself"
_OF_HAPROXY = {
    "test_what_cannot_be_sent_twice_is_503_and_nothing_of_it_is_on_disk": _AGAIN,
}
_FIRST = "nginx tells its configuration the first of several fields of a name, and sends on no other"
KINDS: dict[str, Kind] = {
    "envoy": Kind(envoy, envoy_edge),
    "envoy-decide": Kind(envoy, partial(envoy_edge, asks=True), _OF_ASKING),
    "nginx-cache": Kind(
        with_modules("http-set-misc", "http-headers-more-filter"),
        nginx_edge(Memory.CACHE),
        _OF_NGINX | {"test_tokens_that_disagree_are_refused": _FIRST},
        asks=True,
        rare=True,
    ),
    "nginx-lua": Kind(with_modules("http-lua"), nginx_edge(Memory.LUA), _OF_NGINX, asks=True),
    "haproxy": Kind(haproxy, haproxy_edge, _OF_ASKING | _OF_HAPROXY, asks=True),
}
