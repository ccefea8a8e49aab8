"""The supervisor's life: prepare, start, tell, watch, stop; whatever ends it ends the world."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

import typer

from domicile.model.errors import DomicileError, Unavailable
from domicile.ops.control import controlled
from domicile.ops.layout import Layout
from domicile.ops.manifests import local_manifest
from domicile.ops.output import as_refusal, emit_json, refusal_document, refusal_lines
from domicile.ops.plan import SAMPLE, highly_available
from domicile.ops.world import World


class Reporter:
    """Progress on a terminal, none in a pipe; a detached supervisor tells its starter through a pipe.

    Writing to a starter that died raises BrokenPipeError, which ends the start: that is the leash.
    """

    def __init__(self, descriptor: int | None, *, quiet: bool = False) -> None:
        self._pipe = os.fdopen(descriptor, "w", buffering=1) if descriptor is not None else None
        self._terminal = not quiet and sys.stderr.isatty()

    def progress(self, part: str, what: str) -> None:
        if self._pipe is not None:
            self._pipe.write(f"  {part:<20} {what}\n")
        elif self._terminal or "ended with" in what:
            typer.echo(f"  {part:<20} {what}", err=True)

    def error(self, error: DomicileError) -> None:
        """To a starter that still listens, as one line of JSON."""
        if self._pipe is not None:
            told = {"document": refusal_document(error), "lines": refusal_lines(error)}
            with suppress(BrokenPipeError):
                self._pipe.write(json.dumps(told) + "\n")

    def ready(self) -> None:
        """The starter may go; from here on nobody listens."""
        if self._pipe is not None:
            self._pipe.write("ready\n")
            self._pipe.close()
            self._pipe = None
            self._terminal = False


def describe(world: World) -> str:
    """What a new user can do next, with addresses that work."""
    zone, router = next(iter(world.manifest.routers.items()), ("", None))
    lines = [f"\nready: {len(world.manifest.cells)} cells; `domicile status` shows every process, Ctrl-C stops them"]
    if router is not None:
        home = world.manifest.jurisdiction_of(router.country) or ""
        authority = world.layout.authorities / f"{home}.pem"
        lines.append(f"try: curl --cacert {authority} https://{router.public}/about   (through the router in {zone})")
    return "\n".join(lines)


def supervise(
    layout: Layout,
    manifest: Path | None,
    *,
    log_level: str,
    app: str = SAMPLE,
    as_json: bool = False,
    ready_descriptor: int | None = None,
    ha: Collection[str] | None = None,
    restarts: bool = False,
    backups: bool = False,
    rehearsed: bool = False,
) -> None:
    """Run a world in the foreground until SIGINT, SIGTERM or SIGHUP. Raises DomicileError where it can't start."""
    reporter = Reporter(ready_descriptor, quiet=as_json)
    try:
        asyncio.run(
            _supervise(
                layout,
                manifest,
                reporter,
                log_level=log_level,
                app=app,
                as_json=as_json,
                ha=ha,
                restarts=restarts,
                backups=backups,
                rehearsed=rehearsed,
            )
        )
    except Exception as error:
        reporter.error(as_refusal(error))
        raise


async def _supervise(
    layout: Layout,
    manifest: Path | None,
    reporter: Reporter,
    *,
    log_level: str,
    app: str,
    as_json: bool,
    ha: Collection[str] | None,
    restarts: bool,
    backups: bool,
    rehearsed: bool,
) -> None:
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, told.set)
    layout.prepare()
    world = await start_world(
        layout,
        manifest,
        reporter,
        told,
        log_level=log_level,
        app=app,
        ha=ha,
        restarts=restarts,
        backups=backups,
        rehearsed=rehearsed,
    )
    if world is None:
        raise SystemExit(130)
    try:
        if as_json:
            emit_json({"ok": True, "state": str(layout.root), "supervisor": os.getpid()})
            sys.stdout.flush()
        elif sys.stderr.isatty():
            typer.echo(describe(world), err=True)
        async with controlled(world):
            reporter.ready()
            await world.watch(told)
    finally:
        world.stop()


async def start_world(
    layout: Layout,
    manifest: Path | None,
    reporter: Reporter,
    told: asyncio.Event,
    *,
    log_level: str = "info",
    app: str = SAMPLE,
    ha: Collection[str] | None = None,
    restarts: bool = False,
    backups: bool = False,
    rehearsed: bool = False,
) -> World | None:
    """Start a world; None where ``told`` was set meanwhile. Whatever fails, nothing is left running.

    ``ha``: the cells whose databases get a standby, none named for every database; None for no standby at all.
    ``restarts``: whether the world starts a part again that ends by itself.
    ``backups``: every jurisdiction without a backup target gets one in the state folder.
    ``rehearsed``: what drills need beside processes is arranged.
    """
    world = World.acquire(layout, progress=reporter.progress, log_level=log_level, app=app, restarts=restarts)
    try:
        everything = ha is not None and not ha
        loaded = local_manifest(manifest, layout, backups=backups, second_keys=everything)
        world.prepare(loaded, () if ha is None else highly_available(loaded, ha), rehearsed=rehearsed)
        starting = asyncio.create_task(world.start())
        telling = asyncio.create_task(told.wait())
        await asyncio.wait({starting, telling}, return_when=asyncio.FIRST_COMPLETED)
        telling.cancel()
        if not starting.done():
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            world.stop()
            return None
        starting.result()
    except BrokenPipeError:
        world.stop()
        raise Unavailable("the starter ended before the world was ready") from None
    except BaseException:
        world.stop()
        raise
    return world
