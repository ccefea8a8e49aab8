"""``domicile audit scan``: what lies where it must not, proved on controls first; the verdict is the exit status."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from pydantic import BaseModel, ConfigDict, ValidationError

from domicile.model.errors import InvalidInput, Unavailable
from domicile.model.sealed import prefix
from domicile.ops.layout import Layout
from domicile.ops.manifests import load_file
from domicile.ops.output import JsonOption, emit_json, refusals, table
from domicile.ops.owners import Owners
from domicile.ops.scan.controls import Control, prove
from domicile.ops.scan.needles import Needle, needles_for_sealed, needles_for_value
from domicile.ops.scan.report import Report
from domicile.ops.scan.scanner import Scanner, files_below

CLEAN, FOUND, INCOMPLETE, UNTRUSTED, INTERRUPTED = 0, 3, 4, 5, 130
MAX_CANARIES: Final = 10_000
_BEAT_SECONDS: Final = 0.5

app = typer.Typer(name="audit", no_args_is_help=True, help="Prove what was promised: look for what must not be there.")


@app.callback()
def _audit() -> None:
    """Prove what was promised."""


class Canary(BaseModel):
    """A line of the file of canaries. ``jurisdiction``: where it may lie; without one nowhere."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    value: str
    label: str | None = None
    jurisdiction: str | None = None


@dataclass(frozen=True)
class _Outcome:
    report: Report
    controls: dict[str, bool]
    interrupted: bool
    seconds: float

    @property
    def status(self) -> tuple[str, int]:
        if not all(self.controls.values()):
            return "cannot be trusted", UNTRUSTED
        if self.report.hits:
            return "found", FOUND
        if self.interrupted:
            return "interrupted", INTERRUPTED
        if self.report.unread or self.report.unread_more:
            return "nothing found, not everything read", INCOMPLETE
        return "nothing found", CLEAN


def scan_command(
    paths: Annotated[
        list[Path] | None, typer.Argument(help="Files and folders; the world's state without any.")
    ] = None,
    home: Annotated[
        str | None, typer.Option(help="The jurisdiction that the paths lie in: its own values may be there.")
    ] = None,
    canaries: Annotated[
        Path | None,
        typer.Option(help='Values to look for, a JSON object a line ({"label", "value", "jurisdiction"}); - is stdin.'),
    ] = None,
    state: Annotated[
        Path | None, typer.Option("--state", help="Folder of a world's state.", envvar="DOMICILE_STATE")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Look for foreign sealed values, and for given values, in every file and in the streams packed inside.

    Opens gzip, zlib, bzip2, xz, zstd, lz4, zip, tar, dumps of pg_dump, and what PostgreSQL compresses in rows, out of
    line and in WAL. Proves itself on planted controls first. Exit status: 0 nothing found, 3 found, 4 nothing found but
    not everything could be read, 5 a control was missed and nothing can be trusted, 1 refused, 130 interrupted.

    Example: domicile audit scan /var/lib/postgresql /var/log --home eu --canaries canaries.jsonl
    """
    with refusals(as_json=json_output):
        owner, roots, known = _places(paths or [], home, state)
        needles = _needles(canaries) + [needle for place in known for needle in needles_for_sealed(place)]
        outcome = _scan(needles, roots, owner, shown=sys.stderr.isatty() and not json_output)
    verdict, status = outcome.status
    if json_output:
        document = outcome.report.document() | {"controls": outcome.controls}
        emit_json({"ok": status == CLEAN, "verdict": verdict, **document})
    else:
        _print(outcome, verdict)
    if status:
        raise typer.Exit(status)


app.command("scan")(scan_command)


def _places(
    paths: list[Path], home: str | None, state: Path | None
) -> tuple[Callable[[Path], str | None], list[Path], list[str]]:
    """Who owns each file, where to look, and which jurisdictions are known by name."""
    if home is not None:
        prefix(home)  # raises InvalidInput for what is no jurisdiction's name
    for path in paths:
        if not path.exists():
            raise InvalidInput("is not there", where=str(path), remedy="name files and folders that are")
    if paths:
        return lambda _: home, paths, []
    if home is not None:
        raise InvalidInput("is for paths", where="--home", remedy="name the paths that lie there")
    layout = Layout.at(state)
    if not layout.manifest.exists():
        raise Unavailable("no world lies here", where=str(layout.root), remedy="name paths, or --state")
    manifest = load_file(layout.manifest)
    return Owners(layout, manifest).of, [layout.root], list(manifest.jurisdictions)


def _needles(path: Path | None) -> list[Needle]:
    """Of a file: a value is never an argument, which every user of a machine can read. Raises InvalidInput."""
    if path is None:
        return []
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text()
    except UnicodeDecodeError:
        raise InvalidInput("is not UTF-8", where=str(path), remedy="save it as UTF-8 text") from None
    found: list[Needle] = []
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) > MAX_CANARIES:
        raise InvalidInput(f"has more than {MAX_CANARIES:,} lines", where=str(path), remedy="split it")
    for number, line in enumerate(lines, 1):
        try:
            canary = Canary.model_validate(json.loads(line))
        except (ValidationError, ValueError):
            raise InvalidInput(
                "is no canary", where=f"{path}, line {number}", remedy='{"label": "e-mail 7", "value": "..."}'
            ) from None
        found += needles_for_value(canary.label or f"canary {number}", canary.value, canary.jurisdiction)
    return found


def _scan(needles: list[Needle], roots: list[Path], owner: Callable[[Path], str | None], *, shown: bool) -> _Outcome:
    started = time.monotonic()
    control, report = Control.make(), Report()
    scanner = Scanner(needles + control.needles(), sealed=True)
    controls: dict[str, bool] = {}
    interrupted = False
    try:
        controls = prove(scanner, control)
        if all(controls.values()):
            scanner.scan(_with_progress(_files(roots, report, scanner), report, shown=shown), owner, report)
    except KeyboardInterrupt:
        interrupted = True
    return _Outcome(report, controls, interrupted, time.monotonic() - started)


def _files(roots: list[Path], report: Report, scanner: Scanner) -> Iterator[Path]:
    def unread(error: OSError) -> None:
        report.miss(scanner.shown(Path(error.filename or "?")), error.strerror or "cannot be listed")

    for root in roots:
        yield from files_below(root, unread)


def _with_progress(files: Iterator[Path], report: Report, *, shown: bool) -> Iterator[Path]:
    next_beat = 0.0
    for path in files:
        if shown and time.monotonic() >= next_beat:
            next_beat = time.monotonic() + _BEAT_SECONDS
            told = f"{report.files:,} files, {report.read_bytes >> 20:,} MiB, {len(report.hits):,} hits"
            sys.stderr.write(f"\r{told}\x1b[K")
            sys.stderr.flush()
        yield path
    if shown:
        sys.stderr.write("\r\x1b[K")


def _print(outcome: _Outcome, verdict: str) -> None:
    report = outcome.report
    if report.hits:
        rows = [[h.label, h.encoding, str(h.path), h.inside, str(h.offset)] for h in report.hits]
        table(["what", "as", "file", "inside", "at byte"], rows, failed=lambda _: True)
        typer.echo("")
    for line in report.unread:
        typer.echo(f"not read: {line}")
    if report.unread_more:
        typer.echo(f"not read: {report.unread_more:,} more")
    missed = [kind for kind, found in outcome.controls.items() if not found]
    for kind in missed:
        typer.echo(f"control missed: {kind}")
    coverage: list[tuple[str, Any]] = [("files", report.kinds), ("streams opened", +report.streams)]
    coverage += [("in part", report.remarks)]
    for name, counted in coverage:
        if counted:
            typer.echo(f"{name}: " + ", ".join(f"{count:,} {kind}" for kind, count in counted.most_common()))
    found = f"{len(outcome.controls) - len(missed)} of {len(outcome.controls)} controls found"
    sizes = f"{report.read_bytes >> 20:,} MiB, and {report.stream_bytes >> 20:,} MiB in streams"
    typer.echo(f"{report.files:,} files, {sizes}, in {outcome.seconds:.1f} s; {found}")
    typer.echo(f"{verdict}: {report.matches:,} matches in {len({h.path for h in report.hits}):,} files")
