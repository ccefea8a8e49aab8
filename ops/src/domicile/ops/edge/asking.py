"""``domicile edge nginx`` and ``domicile edge haproxy``: recipes that ask a router whom a request is for."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer

from domicile.identity import write_private
from domicile.model.access import Role
from domicile.model.errors import InvalidInput
from domicile.ops.edge import haproxy
from domicile.ops.edge.commands import (
    CertificateOption,
    KeyOption,
    ListenOption,
    RouterAuthorityOption,
    ZoneOption,
    equipment_of,
)
from domicile.ops.edge.haproxy.watch import Watcher
from domicile.ops.edge.nginx import Memory, Tuning, configuration
from domicile.ops.edge.source import Source
from domicile.ops.layout import Layout
from domicile.ops.output import StateOption, refusals


def nginx_command(
    listen: ListenOption,
    public_certificate: CertificateOption = None,
    public_key: KeyOption = None,
    router_authority: RouterAuthorityOption = None,
    memory: Annotated[
        Memory, typer.Option(help="Where a router's decisions are kept: nginx's cache, or Lua's shared dictionary.")
    ] = Memory.LUA,
    modules: Annotated[Path, typer.Option(help="The folder of nginx's modules.")] = Tuning().modules,  # noqa: B008
    zone: ZoneOption = None,
    state: StateOption = None,
) -> None:
    """Print a configuration for nginx. Its paths are relative to nginx's prefix, in which `temp` must be there.

    Example: domicile edge nginx --zone fra --listen 127.0.0.1:8443 > edge/nginx.conf && nginx -p edge -c nginx.conf
    """
    with refusals():
        source = Source.found(Layout.at(state), zone)
        equipment = equipment_of(source, listen, public_certificate, public_key, router_authority)
        sys.stdout.write(configuration(asyncio.run(source.view()), equipment, memory, tuning=Tuning(modules=modules)))


def haproxy_command(
    into: Annotated[Path, typer.Option(help="The folder for its files; two of them hold private keys.")],
    listen: Annotated[str | None, typer.Option("--listen", help="host:port that clients reach.")] = None,
    public_certificate: CertificateOption = None,
    public_key: KeyOption = None,
    router_authority: RouterAuthorityOption = None,
    watch: Annotated[bool, typer.Option("--watch", help="Keep the map of the running HAProxy, without end.")] = False,
    zone: ZoneOption = None,
    state: StateOption = None,
) -> None:
    """Write a folder for HAProxy (haproxy.cfg, its Lua, empty maps), or keep the map of the one that runs from it.

    Example: domicile edge haproxy --zone fra --listen 127.0.0.1:8443 --into edge && haproxy -D -f edge/haproxy.cfg
    && domicile edge haproxy --zone fra --into edge --watch
    """
    with refusals():
        source = Source.found(Layout.at(state), zone)
        folder = into.absolute()
        if watch:
            said = {
                "--listen": listen, "--public-certificate": public_certificate, "--public-key": public_key,
                "--router-authority": router_authority,
            }  # fmt: skip
            if idle := [option for option, value in said.items() if value is not None]:
                raise InvalidInput("is for writing the files, not for keeping the map", where=", ".join(idle))
            if source.vantage.role is not Role.EDGE:
                raise InvalidInput("the certificate is no edge's", where=source.vantage.uri)
            asyncio.run(_watch(source, folder))
        elif listen is None:
            raise InvalidInput("says where clients come in", where="--listen", remedy="such as 0.0.0.0:443; or --watch")
        else:
            equipment = equipment_of(source, listen, public_certificate, public_key, router_authority)
            for name, text in haproxy.files(asyncio.run(source.view()), equipment, folder).items():
                write_private(folder / name, text.encode())
            typer.echo(f"{folder / 'haproxy.cfg'}; keep its map with --watch", err=True)


async def _watch(source: Source, folder: Path) -> None:
    async with source.asking() as directory:
        await Watcher(directory, folder, source.vantage.jurisdiction, lambda line: typer.echo(line, err=True)).run()
