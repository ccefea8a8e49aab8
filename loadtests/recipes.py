"""The recipes of ``domicile edge`` that ask a router whom a request is for, as they are printed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from domicile_testing import free_port
from domicile_testing.certificates import DEPLOYMENT, PEPPER

from domicile.identity import write_private
from domicile.model import Identity, Pepper, Role
from domicile.ops.edge import haproxy as haproxy_recipe
from domicile.ops.edge.equipment import Equipment
from domicile.ops.edge.haproxy.configuration import CONFIGURATION, SUBJECTS
from domicile.ops.edge.nginx import Memory, configuration
from domicile.ops.edge.view import View, view_of
from loadtests.edges import Proxy
from loadtests.processes import listening, started
from loadtests.programs import haproxy, nginx, nginx_module
from loadtests.stage import ROUTER_ZONE, Stage


def _brought(built: Stage, name: str) -> tuple[View, Equipment, Path]:
    """Plain towards clients."""
    folder = built.folder / f"recipe-{name}"
    (folder / "temp").mkdir(parents=True)
    identity = Identity(DEPLOYMENT, "eu", Role.EDGE, ROUTER_ZONE)
    own = built.trust.credentials("eu", Role.EDGE, ROUTER_ZONE)
    return view_of(built.manifest, identity), Equipment(f"127.0.0.1:{free_port()}", None, own), folder


@contextmanager
def nginx_by_lua(built: Stage) -> Iterator[Proxy]:
    """Raises Unmeasured, as the others do. One worker, as every proxy has here."""
    nginx_module("http-lua")
    view, equipment, folder = _brought(built, "lua")
    text = configuration(view, equipment, Memory.LUA)
    (folder / "nginx.conf").write_text(text.replace("worker_processes auto;", "worker_processes 1;"))
    user = " user root;" if os.getuid() == 0 else ""
    command = [nginx(), "-p", str(folder), "-e", "stderr", "-c", "nginx.conf", "-g", f"daemon off;{user}"]
    with started(command, folder / "log", listening(equipment.listen)) as pid:
        yield Proxy(pid, {"lua": equipment.listen})


@contextmanager
def haproxy_by_map(built: Stage) -> Iterator[Proxy]:
    """With every known user in its map, as a watcher leaves it. One thread."""
    view, equipment, folder = _brought(built, "haproxy")
    pepper = Pepper.parse(PEPPER)
    entries = "".join(f"{pepper.subject_key(user).hex()} {cell}/1\n" for user, cell in built.homes.items())
    for name, text in {**haproxy_recipe.files(view, equipment, folder), SUBJECTS: entries}.items():
        written = text.replace("global\n", "global\n    nbthread 1\n", 1) if name == CONFIGURATION else text
        write_private(folder / name, written.encode())
    command = [haproxy(), "-db", "-f", str(folder / CONFIGURATION)]
    with started(command, folder / "log", listening(equipment.listen)) as pid:
        yield Proxy(pid, {"map": equipment.listen})
