"""``domicile drill`` and ``domicile report``: read options, run, show, and end by the verdict."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections import Counter
from typing import Annotated, Any, Final

import typer

from domicile.model.errors import InvalidInput
from domicile.ops.drills.faults import Journal
from domicile.ops.drills.gameday import game_day
from domicile.ops.drills.local import LocalWorld
from domicile.ops.drills.reports import Reports, contract_of
from domicile.ops.drills.runner import RECOVER_SECONDS, Conduct, prepare, recover, until_right
from domicile.ops.drills.scenarios import ABORT, SCENARIOS, Target, Until, scenario
from domicile.ops.drills.verdict import EXIT_STATUS, Verdict
from domicile.ops.layout import Layout
from domicile.ops.output import JsonOption, StateOption, emit_json, refusals, table

INTERRUPTED: Final = 130
ALL: Final = "all"


class Progress:
    """Live on a terminal, silent in a pipe: what happened, and under it one line that tells the seconds."""

    def __init__(self, *, shown: bool) -> None:
        self._shown = shown
        self._began = asyncio.get_running_loop().time()
        self._said = ""

    def tell(self, what: str) -> None:
        """Without a word: the time goes on."""
        if not self._shown:
            return
        self._said = what or self._said
        second = asyncio.get_running_loop().time() - self._began
        sys.stderr.write(f"\r\x1b[K  {second:6.1f} s  {self._said}" + ("\n" if what else ""))
        sys.stderr.flush()

    def close(self) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")


def drill_command(
    names: Annotated[
        list[str] | None, typer.Argument(help="Scenarios, one after the other, or `all`; --list shows them.")
    ] = None,
    cell: Annotated[str, typer.Option(help="The cell to break; else the scenario's own choice.")] = "",
    zone: Annotated[str, typer.Option(help="The zone to break.")] = "",
    jurisdiction: Annotated[str, typer.Option(help="Where to break something.")] = "",
    rate: Annotated[float, typer.Option(help="Writes a second that the load asks for.", min=1)] = 250.0,
    floor: Annotated[
        float, typer.Option(help="Acknowledged writes a second without which nothing is broken.", min=0)
    ] = 200.0,
    before: Annotated[float, typer.Option(help="Seconds of load before the fault.", min=2)] = 10.0,
    hold: Annotated[
        float | None,
        typer.Option(help="Seconds that the fault lasts at least.", min=0, show_default="the scenario's own"),
    ] = None,
    after: Annotated[float, typer.Option(help="Seconds of load after the recovery.", min=1)] = 10.0,
    users: Annotated[int, typer.Option(help="Users of each cell that write.", min=1, max=50)] = 4,
    keep: Annotated[int, typer.Option(help="Cells of a jurisdiction that have to stay.", min=0)] = 1,
    wait: Annotated[float, typer.Option(help="Seconds between two drills.", min=0)] = 15.0,
    force: Annotated[bool, typer.Option("--force", help="Also where a standby is not in sync.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen; touch nothing.")] = False,
    put_right: Annotated[bool, typer.Option("--recover", help="Undo what a killed drill left.")] = False,
    listed: Annotated[bool, typer.Option("--list", help="Show the scenarios.")] = False,
    state: StateOption = None,
    json_output: JsonOption = False,
) -> None:
    """Break something on purpose, under load, and measure what it costs; then put it right.

    Exit status: 0 held, 3 failed, 4 aborted (the worst one of several), 1 refused, 130 interrupted.

    Example: domicile drill kill-leader --cell eu-1
    """
    with refusals(as_json=json_output):
        if listed:
            _list(as_json=json_output)
            return
        layout = Layout.at(state)
        journal = Journal(layout.drills)
        if put_right:
            if names:
                raise InvalidInput("either scenarios or --recover", where="drill", remedy="leave one out")
            count, missing = asyncio.run(_recover(layout, journal, quiet=json_output))
            if json_output:
                emit_json({"ok": not missing, "undone": count, "missing": missing})
            else:
                typer.echo(f"undone: {count} faults" if count else "nothing is broken by a drill")
                if missing:
                    typer.echo(f"not whole yet: {', '.join(missing)}; `domicile status` shows it", err=True)
            if missing:
                raise typer.Exit(1)
            return
        chosen = [scenario(name) for name in (list(SCENARIOS) if names == [ALL] else names or [])]
        if not chosen:
            raise InvalidInput("which scenario?", where="drill", remedy="name one; `domicile drill --list` shows them")
        target = Target(cell=cell, zone=zone, jurisdiction=jurisdiction)
        conduct = Conduct(
            rate=rate,
            floor=floor,
            users=users,
            before_seconds=before,
            after_seconds=after,
            keep=keep,
            hold_seconds=hold,
            force=force,
        )
        world = LocalWorld(layout)
        if dry_run:
            plans = []
            for each in chosen:
                _, plan, method = asyncio.run(prepare(world, each, target, conduct))
                plans.append(
                    {
                        "scenario": each.name,
                        "hypothesis": each.hypothesis,
                        "target": plan.target,
                        "method": method,
                        "faults": [str(fault) for fault in plan.faults],
                        "radius": f"{each.radius}: {', '.join(sorted(plan.touched)) or 'none'}",
                        "undone": f"after {each.seconds if hold is None else hold:g} s"
                        + (f", when {each.until}" if each.until is Until.LED_ELSEWHERE else ""),
                        "abort": ABORT,
                        "objectives": [f"{o.measure} at most {o.limit:g}" for o in each.all_objectives],
                    }
                )
            _dry(plans, as_json=json_output)
            return
        reports = Reports(layout.reports)
        with journal.alone():
            documents, interrupted = asyncio.run(
                _run(world, layout, journal, reports, chosen, target, conduct, wait=wait, quiet=json_output)
            )
    _show(documents, reports, as_json=json_output, several=len(chosen) > 1)
    if interrupted:
        raise typer.Exit(INTERRUPTED)
    worst = max((EXIT_STATUS[Verdict(each["verdict"])] for each in documents), key=_badness, default=0)
    if worst:
        raise typer.Exit(worst)


def _badness(status: int) -> int:
    """A failure is worse than a drill that told nothing."""
    return [EXIT_STATUS[verdict] for verdict in (Verdict.HELD, Verdict.ABORTED, Verdict.FAILED)].index(status)


async def _recover(layout: Layout, journal: Journal, *, quiet: bool) -> tuple[int, list[str]]:
    """How many faults were undone, and what is still missing in a world that had some."""
    progress = Progress(shown=not quiet and sys.stderr.isatty())
    with journal.alone():
        if not journal.faults():
            return 0, []
        world = LocalWorld(layout)
        count = await recover(world, journal, progress.tell)
        return count, await until_right(world, RECOVER_SECONDS, progress.tell)


async def _run(
    world: LocalWorld, layout: Layout, journal: Journal, reports: Reports, *rest: Any, quiet: bool, wait: float
) -> tuple[list[dict[str, Any]], bool]:
    progress = Progress(shown=not quiet and sys.stderr.isatty())
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        return await game_day(world, journal, layout.drills, reports, *rest, wait=wait, tell=progress.tell)
    finally:
        progress.close()


def _list(*, as_json: bool) -> None:
    if as_json:
        rows = [{"scenario": s.name, "hypothesis": s.hypothesis, "radius": s.radius} for s in SCENARIOS.values()]
        emit_json({"ok": True, "scenarios": rows})
    else:
        table(["scenario", "may touch", "hypothesis"], [[s.name, s.radius, s.hypothesis] for s in SCENARIOS.values()])


def _dry(plans: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        emit_json({"ok": True, "plans": plans})
        return
    for plan in plans:
        typer.echo(f"{plan['scenario']}: {plan['hypothesis']}")
        for key in ("target", "method", "faults", "radius", "undone", "abort", "objectives"):
            value = plan[key]
            typer.echo(f"  {key:<11}{'; '.join(value) if isinstance(value, list) else value}")
    typer.echo("nothing was touched")


_COLUMNS: Final = (
    "scenario", "verdict", "detection_s", "rto_s", "acknowledged", "lost", "stale_reads", "personal_bytes_across",
)  # fmt: skip


def _cells(document: dict[str, Any]) -> list[str]:
    return ["–" if document[name] is None else str(document[name]) for name in _COLUMNS]


def _show(documents: list[dict[str, Any]], reports: Reports, *, as_json: bool, several: bool) -> None:
    if as_json:
        shown = [contract_of(document) for document in documents]
        emit_json({"ok": _all_held(documents), "drills": shown} if several else shown[0])
        return
    table(list(_COLUMNS), [_cells(each) for each in documents], failed=lambda row: row[1] == Verdict.FAILED)
    for document in documents:
        typer.echo(f"{document['scenario']}: {document['verdict']}: {document['reason']}")
        typer.echo(f"  {reports.page(document)}")
    if several:
        counted = Counter(document["verdict"] for document in documents)
        typer.echo(", ".join(f"{count} {verdict}" for verdict, count in counted.items()))


def _all_held(documents: list[dict[str, Any]]) -> bool:
    return all(document["verdict"] == Verdict.HELD for document in documents)


report = typer.Typer(no_args_is_help=True, help="Reports of drills: list, show, compare.")


@report.command("list")
def list_command(state: StateOption = None, json_output: JsonOption = False) -> None:
    """The drills of this state folder, the oldest first. Example: domicile report list"""
    with refusals(as_json=json_output):
        documents = Reports(Layout.at(state).reports).all()
    if json_output:
        emit_json({"ok": True, "reports": [{"id": each["id"], **contract_of(each)} for each in documents]})
    else:
        table(["id", *_COLUMNS], [[each["id"], *_cells(each)] for each in documents])


NameArgument = Annotated[str, typer.Argument(help="A report's id, or `latest`.")]


@report.command("show")
def show_command(name: NameArgument = "latest", state: StateOption = None, json_output: JsonOption = False) -> None:
    """One drill: its objectives, what was measured, and where its page lies. Example: domicile report show latest"""
    with refusals(as_json=json_output):
        reports = Reports(Layout.at(state).reports)
        document = reports.get(name)
    if json_output:
        emit_json(document)
        return
    typer.echo(f"{document['id']}: {document['verdict']}: {document['reason']}")
    typer.echo(f"{document['hypothesis']}\n{document['target']}, by {document['method']}")
    words = {True: "yes", False: "NO", None: "not told"}
    rows = [[o["objective"], f"{o['at_most']:g}", str(o["measured"]), words[o["met"]]] for o in document["objectives"]]
    table(["objective", "at most", "measured", "met"], rows, failed=lambda row: row[3] == "NO")
    for mark in document["marks"]:
        typer.echo(f"  {mark['at_s']:7.1f} s  {mark['what']}")
    typer.echo(str(reports.page(document)))


@report.command("compare")
def compare_command(
    first: NameArgument, second: NameArgument = "latest", state: StateOption = None, json_output: JsonOption = False
) -> None:
    """Two drills side by side. Example: domicile report compare 20260105T100000Z-kill-leader latest"""
    with refusals(as_json=json_output):
        reports = Reports(Layout.at(state).reports)
        both = [reports.get(first), reports.get(second)]
        if both[0]["scenario"] != both[1]["scenario"]:
            raise InvalidInput(
                f"are a {both[0]['scenario']} and a {both[1]['scenario']}", where="report compare",
                remedy="name two drills of one scenario",
            )  # fmt: skip
    rows = comparison(*both)
    if json_output:
        emit_json(
            {"ok": True, "rows": [dict(zip(("measure", "first", "second", "change"), r, strict=True)) for r in rows]}
        )
    else:
        table(["measure", both[0]["id"], both[1]["id"], "change"], rows)


_COMPARED: Final = (
    *_COLUMNS[1:4], "reads_rto_s", *_COLUMNS[4:], "writes_per_second", "strangers_served",
)  # fmt: skip


def comparison(first: dict[str, Any], second: dict[str, Any]) -> list[list[str]]:
    """Measure by measure, with the change where both are numbers. Pure."""
    pairs = [(name, first[name], second[name]) for name in _COMPARED]
    for window in ("before", "during", "after"):
        old, new = (each["latency"].get(window, {}).get("p99_ms") for each in (first, second))
        pairs.append((f"p99_ms {window}", old, new))
    rows = []
    for name, old, new in pairs:
        numbers = isinstance(old, (int, float)) and isinstance(new, (int, float))
        change = f"{new - old:+g}" if numbers and new != old else ""
        rows.append([name, *("–" if value is None else str(value) for value in (old, new)), change])
    return rows
