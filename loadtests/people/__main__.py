"""``python -m loadtests.people``: people of every kind over a world's real front, and objectives that can fail.

Exit status: 0 all objectives met, 3 one was missed, 1 refused, 130 interrupted. Loopback only; it ends by itself.
"""

from __future__ import annotations

import signal
import sys
import time
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Final

import typer

from domicile.model.errors import Unavailable
from domicile.ops.output import emit_json, refusals, table
from loadtests.people.page import render
from loadtests.people.plan import DEFAULT, Plan, read_plan
from loadtests.people.run import Run, write
from loadtests.people.worlds import own_world, running

MISSED: Final = 3
INTERRUPTED: Final = 130


def main(
    config: Annotated[Path, typer.Option(help="Who comes, how fast, and what has to hold.")] = DEFAULT,
    world: Annotated[
        Path | None, typer.Option(help="The state folder of a world that runs; else one is started.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the CSV files and the page.")] = Path("build/load"),
    seconds: Annotated[float | None, typer.Option(help="How long, instead of the file's time.", min=5)] = None,
    soak: Annotated[bool, typer.Option("--soak", help="The long run: memory and descriptors are judged too.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")] = False,
) -> None:
    """Load a local world as its users would, and fail by the objectives of a file.

    Example: python -m loadtests.people --world .domicile --seconds 30
    """
    began = time.monotonic()

    def tell(what: str) -> None:
        if not json_output:
            typer.echo(f"  {time.monotonic() - began:6.1f} s  {what}", err=True)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        with refusals(as_json=json_output), ExitStack() as stack:
            plan = read_plan(config)
            long = seconds or (plan.soak.seconds if soak else plan.pace.seconds)
            plan = _lasting(plan, long)
            if find_spec("locust") is None or find_spec("websocket") is None:
                raise Unavailable(
                    "is not installed", where="locust", remedy="make load, or pip install -e '.[dev,load]'"
                )
            out.mkdir(parents=True, exist_ok=True)
            if world is None:
                tell("starting a world")
                layout = stack.enter_context(own_world(ha=plan.world.ha, logs=out / "world.log"))
            else:
                layout = running(world)
            result = Run(plan, layout, out, soak=soak, seconds=long, tell=tell).run()
            write(result, out)
            (out / "index.html").write_text(render(result.document))
    except KeyboardInterrupt:
        typer.echo("interrupted; what was started is stopped", err=True)
        raise typer.Exit(INTERRUPTED) from None
    if json_output:
        emit_json({key: value for key, value in result.document.items() if key not in ("timeline", "processes")})
    else:
        _show(result.document, out)
    if not result.ok:
        raise typer.Exit(MISSED)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _lasting(plan: Plan, seconds: float) -> Plan:
    """The same plan for another time; a drill that would come after its end comes at a third of it."""
    drill = plan.drill
    if drill is not None and drill.at_seconds >= seconds:
        drill = drill.model_copy(update={"at_seconds": seconds / 3})
    return plan.model_copy(update={"pace": plan.pace.model_copy(update={"seconds": seconds}), "drill": drill})


def _show(document: dict[str, list[dict[str, object]]], out: Path) -> None:
    columns = ["kind", "action", "requests", "errors", "p50_ms", "p95_ms", "p99_ms", "per_second"]
    table(columns, [["–" if row[c] is None else str(row[c]) for c in columns] for row in document["stats"]])
    failed = document["failed"]
    if failed:
        typer.echo("")
        names = ["objective", "limit", "measured"]
        table(names, [[str(row[name]) for name in names] for row in failed], failed=lambda _: True)
    met = len(document["objectives"]) - len(failed)
    typer.echo(f"\n{met} of {len(document['objectives'])} objectives met; {out / 'index.html'}")


if __name__ == "__main__":
    sys.argv[0] = "python -m loadtests.people"
    typer.run(main)
