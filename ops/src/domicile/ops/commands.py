"""The commands of the local world: thin shells that read options, call the parts and print."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from domicile.model.access import GLOBAL
from domicile.model.errors import DomicileError, InvalidInput, Unavailable
from domicile.ops.clusters import members, settled
from domicile.ops.control import Outcome, ask
from domicile.ops.demo.story import play
from domicile.ops.ending import stop_world
from domicile.ops.health import PATRONI, PROBE_SECONDS, RUNNING, SILENT, Prober
from domicile.ops.layout import Layout
from domicile.ops.manifests import load_file
from domicile.ops.output import JsonOption, StateOption, emit_json, refusal_document, refusals, table
from domicile.ops.plan import SAMPLE
from domicile.ops.record import ProcessRecord, WorldRecord
from domicile.ops.supervise import supervise
from domicile.ops.switching import RESTORING, interrupted
from domicile.ops.world import publish

ManifestArgument = Annotated[Path, typer.Argument(help="A manifest, such as domicile.yaml.")]


def up_command(
    manifest: Annotated[Path | None, typer.Argument(help="A manifest; the default world without one.")] = None,
    state: StateOption = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return when the world is ready; keep it running.")] = False,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
    ha: Annotated[bool, typer.Option("--ha", help="Give every database a standby and a witness.")] = False,
    ha_cell: Annotated[list[str] | None, typer.Option("--ha-cell", help="Only this cell's; may be repeated.")] = None,
    backups: Annotated[
        bool, typer.Option("--backups", help="Keep each database's log and backups in a target in the state folder.")
    ] = False,
    rehearsal: Annotated[
        bool, typer.Option("--rehearsal", help="Arrange a small disk, a clock and a packet filter for drills.")
    ] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Start a part again, 5 s after it ended.")] = False,
    app: Annotated[str, typer.Option(help="The application of each cell: a module that names its records.")] = SAMPLE,
    json_output: JsonOption = False,
    ready_descriptor: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Start a world on this machine: databases, directory, cells, routers, an application (the sample).

    Runs until Ctrl-C or `domicile down`. Example: domicile up --detach && domicile status
    """
    layout = Layout.at(state)
    with refusals(as_json=json_output):
        if log_level not in ("debug", "info", "warning", "error"):
            raise InvalidInput(
                f"{log_level!r} is no log level", where="--log-level", remedy="debug, info, warning, error"
            )
        if backups and manifest is not None and not manifest.is_file():
            raise InvalidInput(
                "is no manifest, and --backups takes no value", where=str(manifest), remedy="see docs/backup.md"
            )
        standbys = ha_cell or ([] if ha else None)
        if detach:
            _detached(
                layout,
                manifest,
                log_level,
                app,
                standbys,
                restart=restart,
                backups=backups,
                rehearsal=rehearsal,
                json_output=json_output,
            )
            return
        supervise(
            layout,
            manifest,
            log_level=log_level,
            app=app,
            as_json=json_output,
            ready_descriptor=ready_descriptor,
            ha=standbys,
            backups=backups,
            rehearsed=rehearsal,
            restarts=restart,
        )


def _detached(
    layout: Layout,
    manifest: Path | None,
    log_level: str,
    app: str,
    standbys: list[str] | None,
    *,
    backups: bool,
    rehearsal: bool,
    restart: bool,
    json_output: bool,
) -> None:
    """Start a supervisor in a session of its own; relay what it prints until it is ready or gone.

    The pipe is also its leash: while it starts, a starter that dies takes the world with it.
    """
    reader, writer = os.pipe()
    command = [sys.executable, "-m", "domicile.ops.main", "up", "--state", str(layout.root), "--log-level", log_level]
    command += ["--app", app, "--ready-descriptor", str(writer)]
    if restart:
        command.append("--restart")
    if standbys is not None:
        command += ["--ha", *(word for cell in standbys for word in ("--ha-cell", cell))]
    if backups:
        command.append("--backups")
    if rehearsal:
        command.append("--rehearsal")
    if manifest is not None:
        command.append(str(manifest.absolute()))
    child = subprocess.Popen(
        command,
        pass_fds=[writer],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(writer)
    ready = False
    refused: dict[str, Any] | None = None
    try:
        with os.fdopen(reader) as stream:
            for line in stream:
                if line == "ready\n":
                    ready = True
                    break
                if line.startswith("{"):
                    refused = json.loads(line)
                elif sys.stderr.isatty() and not json_output:
                    typer.echo(line, nl=False, err=True)
    except KeyboardInterrupt:
        child.send_signal(signal.SIGTERM)
        child.wait()
        raise typer.Exit(130) from None
    if not ready:
        status = child.wait()
        if refused is None:
            raise Unavailable(f"the supervisor ended with status {status}", remedy="run `domicile up` without --detach")
        if json_output:
            emit_json(refused["document"])
        else:
            for line in refused["lines"]:
                typer.echo(line, err=True)
        raise typer.Exit(1)
    if json_output:
        record = WorldRecord.read(layout)
        emit_json({"ok": True, "state": str(layout.root), "processes": len(record.processes) if record else 0})


def down_command(
    state: StateOption = None,
    erase: Annotated[
        bool, typer.Option("--erase", help="Delete the state folder too, data and keys included.")
    ] = False,
    json_output: JsonOption = False,
) -> None:
    """Stop the world of a state folder. Example: domicile down --erase"""
    layout = Layout.at(state)
    with refusals(as_json=json_output):
        was_running, left = stop_world(layout)
        erased = erase and layout.marker.exists()
        if erased:
            shutil.rmtree(layout.root)
    if json_output:
        emit_json({"ok": True, "was_running": was_running, "ended": left, "erased": erased})
        return
    typer.echo("stopped" if was_running else f"no world runs in {layout.root}")
    for name in left:
        typer.echo(f"ended {name}, which a killed supervisor had left")
    if erased:
        typer.echo(f"erased {layout.root}")


def status_command(state: StateOption = None, json_output: JsonOption = False) -> None:
    """Tell the state of each process; exit status 1 unless all run.

    running; unready: it lives, and does not serve; silent: it lives, and did not answer in time, as on a busy machine;
    stopped. Example: domicile status --json
    """
    layout = Layout.at(state)
    with refusals(as_json=json_output):
        record = WorldRecord.read(layout)
        if record is None:
            raise Unavailable("no world runs here", where=str(layout.root), remedy="start one with `domicile up`")
        states, clusters = asyncio.run(_states(layout, record))
    rows = [
        {
            "name": process.name,
            "role": process.role,
            "jurisdiction": process.jurisdiction,
            "zone": process.zone,
            "state": found,
            "address": process.address,
            "pid": process.pid,
            "restarts": process.restarts,
        }
        for process, found in zip(record.processes, states, strict=True)
    ]
    supervised = record.supervisor.process() is not None
    whole = all(found == RUNNING for found in states) and all(settled(nodes) for nodes in clusters.values())
    ok = supervised and record.phase == "running" and whole
    nodes = [node for found in clusters.values() for node in found]
    left = [str(folder / RESTORING) for folder in interrupted(layout.root)]
    if json_output:
        phase = record.phase if supervised else "unsupervised"
        emit_json({"ok": ok, "phase": phase, "processes": rows, "clusters": nodes, "left": left})
    else:
        columns = ["name", "role", "jurisdiction", "zone", "state", "address", "pid"]
        table(columns, [[str(row[c]) for c in columns] for row in rows], failed=lambda row: row[4] != RUNNING)
        if nodes:
            columns = list(nodes[0])
            shown = [["" if node[c] is None else str(node[c]) for c in columns] for node in nodes]
            table(columns, shown, failed=lambda row: row[3] not in ("running", "streaming"))
        if not supervised:
            typer.echo("the supervisor is gone: `domicile down` clears what it left", err=True)
        for folder in left:
            typer.echo(f"a killed restore left data in {folder}; the next restore of it or `up` removes it", err=True)
        for name in [name for name, found in clusters.items() if not found]:
            typer.echo(f"{name}: no node said within {PROBE_SECONDS:g} s how its cluster is", err=True)
        for row in rows:
            if row["state"] != RUNNING:
                said = f"silent: no word within {PROBE_SECONDS:g} s" if row["state"] == SILENT else row["state"]
                typer.echo(f"{row['name']} is {said}; see {layout.log(str(row['name']))}", err=True)
    if not ok:
        raise typer.Exit(1)


async def _states(layout: Layout, record: WorldRecord) -> tuple[list[str], dict[str, list[dict[str, Any]]]]:
    """The state of each process, and the nodes of each database that has a standby, by its name."""
    prober = Prober(layout)
    clusters: dict[str, list[ProcessRecord]] = {}
    for process in record.processes:
        if process.role == PATRONI:
            clusters.setdefault(process.name.partition("-patroni")[0], []).append(process)

    async def nodes(cluster: str) -> list[dict[str, Any]]:
        for node in clusters[cluster]:
            if (document := await prober.cluster(node)) is not None:
                return members(cluster, document)
        return []

    states = asyncio.gather(*(prober.state(process) for process in record.processes))
    told = await asyncio.gather(*(nodes(cluster) for cluster in clusters))
    return list(await states), dict(zip(clusters, told, strict=True))


def restart_command(
    parts: Annotated[list[str] | None, typer.Argument(help="Names that `domicile status` shows.")] = None,
    rolling: Annotated[
        bool,
        typer.Option("--rolling", help="In the order of an upgrade, clusters by a switchover; without names, all."),
    ] = False,
    state: StateOption = None,
    json_output: JsonOption = False,
) -> None:
    """End parts of a running world, if they have not ended, and start them again, one after the other.

    Ctrl-C brings the part under way to its end, begins no other, and says what is left; a second one waits for nothing.
    Examples: domicile restart us-1-patroni; domicile restart --rolling
    """
    done: list[dict[str, str]] = []

    def tell(part: str, what: str) -> None:
        done.append({"part": part, "what": what})
        if not json_output:
            typer.echo(f"{part}: {what}")

    with refusals(as_json=json_output):
        if not parts and not rolling:
            raise InvalidInput("what to restart?", where="restart", remedy="name parts, or say --rolling for all")
        try:
            question = {"rolling": rolling, "parts": parts or []}
            outcome = asyncio.run(_asked(Layout.at(state), question, tell))
        except KeyboardInterrupt:
            typer.echo("left to itself: the part under way is brought to its end, and no other is begun", err=True)
            raise typer.Exit(130) from None
    on = f"go on with `domicile restart {'--rolling ' if rolling else ''}{' '.join(outcome.left)}`"
    ok = not outcome.error and not outcome.left
    if json_output:
        refused = refusal_document(DomicileError(outcome.error)) if outcome.error else {"ok": ok}
        emit_json({**refused, "parts": done, "left": outcome.left})
    elif outcome.error:
        typer.echo(f"domicile: {outcome.error}" + (f"; {on}" if outcome.left else ""), err=True)
    elif outcome.left:
        typer.echo(f"stopped, with nothing half restarted; {on}", err=True)
    if not ok:
        raise typer.Exit(1 if outcome.error else 130)


async def _asked(layout: Layout, question: dict[str, Any], tell: Callable[[str, str], None]) -> Outcome:
    """Raises KeyboardInterrupt at the second Ctrl-C."""
    stop, asking = asyncio.Event(), asyncio.current_task()
    assert asking is not None
    given_up = False

    def interrupted() -> None:
        nonlocal given_up
        given_up = stop.is_set()
        if given_up:
            asking.cancel()
        stop.set()

    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, interrupted)
    try:
        return await ask(layout, question, tell, stop)
    except asyncio.CancelledError:
        if given_up:
            raise KeyboardInterrupt from None
        raise


def demo_command(
    state: StateOption = None,
    json_output: JsonOption = False,
) -> None:
    """Start a world, play a story of travellers, forgers and outages against it, print the verdict, stop it.

    Example: domicile demo --json
    """
    with refusals(as_json=json_output):
        started = time.monotonic()
        rows = play(state, quiet=json_output)
    ok = bool(rows) and all(row.ok for row in rows)
    if json_output:
        emit_json({"ok": ok, "rows": [row.document() for row in rows]})
    else:
        shown = [[row.step, row.tried, row.expected, row.happened, "yes" if row.ok else "NO"] for row in rows]
        table(["step", "tried", "expected", "happened", "ok"], shown, failed=lambda row: row[4] != "yes")
        held = sum(row.ok for row in rows)
        typer.echo(f"\n{held} of {len(rows)} steps as expected, in {time.monotonic() - started:.0f} s")
    if not ok:
        raise typer.Exit(1)


def check_command(manifest: ManifestArgument = Path("domicile.yaml"), json_output: JsonOption = False) -> None:
    """Load a manifest as every part would; print each reason why it does not load.

    Example: domicile check domicile.yaml
    """
    with refusals(as_json=json_output):
        loaded = load_file(manifest)
    losses = loaded.losses()
    if json_output:
        emit_json({"ok": True, "problems": [], "accepted": losses})
        return
    cells, places = len(loaded.cells), len(loaded.jurisdictions)
    typer.echo(f"{manifest}: sound; {cells} cells in {places} jurisdictions, {len(loaded.routers)} routers")
    for loss in losses:
        typer.echo(f"accepted: {loss}")


def apply_command(
    manifest: ManifestArgument = Path("domicile.yaml"), state: StateOption = None, json_output: JsonOption = False
) -> None:
    """Sign a manifest's topology as the operator and publish it as the next revision.

    Example: domicile apply .domicile/domicile.yaml
    """
    layout = Layout.at(state)
    with refusals(as_json=json_output):
        loaded = load_file(manifest)
        if not (layout.operator(GLOBAL) / "signing.key").exists():
            raise InvalidInput("holds no operator's key", where=str(layout.root), remedy="name the --state that does")
        revision = asyncio.run(publish(loaded, layout))
    if json_output:
        emit_json({"ok": True, "revision": revision})
    else:
        typer.echo(f"published as revision {revision}")
