"""``domicile edge``: prints a configuration of the proxy that a fleet runs itself."""

from __future__ import annotations

import asyncio
import logging
import signal
from pathlib import Path
from typing import Annotated

import typer

from domicile.model.errors import InvalidInput
from domicile.ops.edge.envoy import Health, Recipe, follow, static
from domicile.ops.edge.equipment import Equipment, Pair
from domicile.ops.edge.source import Source, read_address, residency_keys
from domicile.ops.layout import Layout
from domicile.ops.output import StateOption, refusals

app = typer.Typer(help="Print a configuration for an edge of one's own.", no_args_is_help=True)

ListenOption = Annotated[str, typer.Option("--listen", help="host:port that clients reach.")]
CertificateOption = Annotated[
    Path | None,
    typer.Option("--public-certificate", help="Shown to clients (PEM); without, plain HTTP on a loopback address."),
]
KeyOption = Annotated[Path | None, typer.Option("--public-key", help="Its private key (PEM).")]
RouterAuthorityOption = Annotated[
    Path | None,
    typer.Option(
        "--router-authority",
        help="Who signs the routers' public certificates (PEM).",
        show_default="the jurisdiction's authority",
    ),
]
ZoneOption = Annotated[str | None, typer.Option("--zone", help="Of a local world's router, beside which the edge is.")]


def equipment_of(
    source: Source, listen: str, certificate: Path | None, key: Path | None, router_authority: Path | None
) -> Equipment:
    """Raises InvalidInput for half a pair, and what Equipment raises."""
    if (certificate is None) != (key is None):
        raise InvalidInput("one is nothing without the other", where="--public-certificate, --public-key")
    public = Pair(certificate.absolute(), key.absolute()) if certificate and key else source.public
    authority = None if router_authority is None else router_authority.absolute()
    return Equipment(read_address(listen, "--listen"), public, source.own, authority)


@app.callback()
def _edge() -> None:
    """The edge's certificate is a local world's (--zone), or DOMICILE_CERTIFICATE, _KEY and _AUTHORITIES, with
    DOMICILE_DIRECTORY and _OPERATORS for the published topology."""


@app.command("envoy")
def envoy_command(
    listen: ListenOption,
    public_certificate: CertificateOption = None,
    public_key: KeyOption = None,
    router_authority: RouterAuthorityOption = None,
    jwks: Annotated[
        Path | None,
        typer.Option(help="A file of keys, as the directory's /v1/jwks/residency has them, in its place."),
    ] = None,
    decide: Annotated[
        bool, typer.Option("--decide", help="Ask a router about each request, in place of verifying tokens.")
    ] = False,
    health: Annotated[Health, typer.Option(help="How applications are asked whether they are ready.")] = Health.HTTP,
    watch: Annotated[
        Path | None,
        typer.Option(help="Keep the files in this folder in step with the topology, until Ctrl-C; print nothing else."),
    ] = None,
    admin: Annotated[str | None, typer.Option(help="host:port of Envoy's own administration; none without.")] = None,
    zone: ZoneOption = None,
    state: StateOption = None,
) -> None:
    """Print a bootstrap file for Envoy, or keep the files that a running Envoy follows.

    Example: domicile edge envoy --zone fra --listen 127.0.0.1:8443 > envoy.json && envoy -c envoy.json
    """
    with refusals():
        source = Source.found(Layout.at(state), zone)
        equipment = equipment_of(source, listen, public_certificate, public_key, router_authority)
        recipe = Recipe(
            asks=decide,
            health=health,
            jwks=None if jwks is None else residency_keys(jwks),
            admin=None if admin is None else read_address(admin, "--admin"),
        )
        if watch is None:
            typer.echo(static(asyncio.run(source.view()), equipment, recipe), nl=False)
            return
        logging.getLogger("domicile").addHandler(logging.NullHandler())  # what is logged is told in a line
        asyncio.run(_following(source, equipment, watch, recipe))


async def _following(source: Source, equipment: Equipment, place: Path, recipe: Recipe) -> None:
    """Until SIGINT or SIGTERM."""
    task = asyncio.ensure_future(follow(source, equipment, place, recipe, told=lambda line: typer.echo(line, err=True)))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()
