"""The proxies that are measured: the router, and what people run in its place."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from domicile_testing import free_port
from domicile_testing.certificates import DEPLOYMENT

from domicile.model import Identity, Role
from domicile.ops.edge.envoy import Recipe, static
from domicile.ops.edge.equipment import Equipment
from domicile.ops.edge.view import view_of
from domicile.router import head
from domicile.router.settings import RouterSettings
from loadtests.cases import Unmeasured
from loadtests.processes import listening, says, started
from loadtests.programs import envoy, nginx_command
from loadtests.proxies import Pair, by_header, edge_envoy, edge_nginx
from loadtests.stage import ROUTER_ZONE, Stage, command, environment

PLAIN: Final = "public_plain"
"""The router's setting for plain connections to clients, on a loopback address only."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy that runs: its process, and the address of each of its listeners."""

    pid: int
    listeners: Mapping[str, str]


def has_plain_listener() -> bool:
    """Whether this router can be told to listen without TLS."""
    return PLAIN in RouterSettings.model_fields


def is_compiled() -> bool:
    """Whether the router that is started here is the one that `make compiled` made."""
    return not str(head.__file__).endswith(".py")


@contextmanager
def router(built: Stage, *, tls: bool, as_python: bool = False, name: str = "router") -> Iterator[Proxy]:
    """``domicile-router serve`` with its replica loaded. Raises Unmeasured where it has no plain listener.

    ``as_python``: also where a compiled one is there. ``name``: of its state's folder, which must not be there yet.
    """
    if not tls and not has_plain_listener():
        raise Unmeasured(f"this router has no plain listener (no setting DOMICILE_{PLAIN.upper()})")
    state = built.folder / f"{name}-{'tls' if tls else 'plain'}"
    state.mkdir()
    shutil.copy(built.signer, state / "token.key")
    place = built.manifest.routers[ROUTER_ZONE]
    more: dict[str, Any] = {} if tls else {PLAIN: True}
    if "workers" in RouterSettings.model_fields:
        more["workers"] = 1
    settings = built.trust.settings(
        "eu",
        Role.ROUTER,
        ROUTER_ZONE,
        place.internal,
        RouterSettings,
        directory=[built.directory],
        operators=built.trust.folder / "operators",
        pepper=built.trust.folder / "pepper",
        public_bind=place.public,
        public_certificate=built.public.certificate,
        public_key=built.public.key,
        **{"state": state, **more},
    )
    log = state / "log"
    ready = says(log, "ready", "replica-loaded")
    told = environment(settings) | ({"PYTHONPATH": ""} if as_python else {})
    with started(command("domicile-router"), log, ready, environment=told) as pid:
        yield Proxy(pid, {"router": place.public})


@contextmanager
def nginx_edge(built: Stage, *, tls: bool) -> Iterator[Proxy]:
    edge = built.edge("nginx", tls=tls)
    listeners = {name: f"127.0.0.1:{free_port()}" for name in ("map", "buffers", "auth_request")}
    running = nginx_command(edge.folder, edge_nginx(edge, built.homes, listeners, built.authorizer))
    with started(running, edge.folder / "log", listening(*listeners.values())) as pid:
        yield Proxy(pid, listeners)


@contextmanager
def envoy_edge(built: Stage, *, tls: bool) -> Iterator[Proxy]:
    edge = built.edge("envoy", tls=tls)
    address = f"127.0.0.1:{free_port()}"
    with _envoy(edge.folder, edge_envoy(edge, address), address) as pid:
        yield Proxy(pid, {"header": address})


@contextmanager
def envoy_recipe(built: Stage, *, believes_header: bool = False) -> Iterator[Proxy]:
    """What `domicile edge envoy` prints, for plain connections and the routers' keys in a file."""
    name = "header" if believes_header else "token"
    folder = built.folder / f"envoy-recipe-{name}"
    folder.mkdir()
    (folder / "jwks.json").write_text(built.jwks())
    vantage = Identity(DEPLOYMENT, "eu", Role.EDGE, ROUTER_ZONE)
    address = f"127.0.0.1:{free_port()}"
    brought = Equipment(address, None, built.trust.credentials("eu", Role.EDGE, ROUTER_ZONE))
    text = static(view_of(built.manifest, vantage), brought, Recipe(jwks=folder / "jwks.json"))
    with _envoy(folder, by_header(text) if believes_header else text, address) as pid:
        yield Proxy(pid, {name: address})


@contextmanager
def _envoy(folder: Path, configuration: str, address: str) -> Iterator[int]:
    file = folder / "envoy.json"
    file.write_text(configuration)
    running = [envoy(), "-c", str(file), "--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]
    with started(running, folder / "log", listening(address)) as pid:
        yield pid


def aiohttp_edge(built: Stage, *, tls: bool) -> AbstractContextManager[Proxy]:
    return _python_edge(built, "aiohttp", "loadtests.bare", tls=tls)


def splice_edge(built: Stage, *, tls: bool) -> AbstractContextManager[Proxy]:
    return _python_edge(built, "splice", "loadtests.splice", tls=tls)


@contextmanager
def _python_edge(built: Stage, name: str, module: str, *, tls: bool) -> Iterator[Proxy]:
    edge = built.edge(name, tls=tls)
    address = f"127.0.0.1:{free_port()}"
    told = {
        "address": address,
        "public": None if edge.public is None else _texts(edge.public),
        "own": _texts(edge.own),
        "authority": str(edge.authority),
        "cells": dict(edge.cells),
        "homes": built.homes,
    }
    file = edge.folder / "told.json"
    file.write_text(json.dumps(told))
    with started([sys.executable, "-m", module, str(file)], edge.folder / "log", listening(address)) as pid:
        yield Proxy(pid, {name: address})


def _texts(pair: Pair) -> list[str]:
    return [str(pair.certificate), str(pair.key)]
