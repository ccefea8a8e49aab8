"""What the demo reads for itself: files, and a database by psql, without asking any part of the product.

A scan that finds nothing proves nothing until it has found what was planted: ``controls`` puts a value into
a log and a router's file, in each encoding, and one with a sealed value into a database's table and its WAL,
all in a foreign jurisdiction, and looks for them with the same scanner; and for what ``domicile audit scan`` plants.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from domicile.client import Peer
from domicile.identity import Credentials
from domicile.model.access import Role
from domicile.model.errors import DomicileError, Unavailable
from domicile.model.ids import Peppers
from domicile.model.sealed import Sealed, frame
from domicile.ops import postgres
from domicile.ops.demo.cast import Person
from domicile.ops.owners import Owners
from domicile.ops.scan import Report, Scanner, files_below, needles_for, needles_for_value
from domicile.ops.scan.controls import Control, prove
from domicile.ops.world import World

_NOWHERE: Final = "no-such-place"
_FILE_KINDS: Final = {
    "log": "logs/control.log",
    "router's file": "routers/{zone}/control.mdb",
}


class Evidence:
    """Reads one world's state folder."""

    def __init__(self, world: World) -> None:
        self._root = world.layout.root
        self._layout = world.layout
        self._manifest = world.manifest
        self._owners = Owners(world.layout, world.manifest)
        self._cells = self._owners.cells

    def _outside(self, jurisdiction: str) -> Iterator[Path]:
        return (path for path in files_below(self._root) if self._owners.of(path) != jurisdiction)

    def scan(self, jurisdiction: str, values: Mapping[str, str]) -> Report:
        """Every file outside a jurisdiction, for its users' values and for its sealed values."""
        return Scanner(needles_for(values, jurisdiction)).scan(self._outside(jurisdiction))

    def scan_logs(self, values: Mapping[str, str]) -> Report:
        """Every log, wherever it lies: neither ids nor client addresses may be in any."""
        needles = [needle for label, value in values.items() for needle in needles_for_value(label, value)]
        return Scanner(needles).scan(files_below(self._layout.logs))

    def controls(self, jurisdiction: str) -> dict[str, bool]:
        """Plant values abroad and look for them: whether each kind of file gave up each encoding."""
        value = f"control-é-{secrets.token_hex(8)}"
        sealed = frame(Sealed(jurisdiction, secrets.token_bytes(12), secrets.token_bytes(24)))
        needles = needles_for({"control": value}, jurisdiction)
        wanted = {(needle.label, needle.encoding) for needle in needles}
        scanner = Scanner(needles)
        found: dict[str, bool] = {}
        cell = next(name for name, place in self._cells.items() if place != jurisdiction)
        for kind, template in _FILE_KINDS.items():
            zone = next(zone for zone, place in self._owners.routers.items() if place != jurisdiction)
            path = self._root / template.format(zone=zone)
            path.parent.mkdir(parents=True, exist_ok=True)
            content = b"\n".join(needle.pattern for needle in needles) + b"\n" + sealed
            path.write_bytes(b"x" * secrets.randbelow(4096) + content)
            try:
                hits = scanner.scan(p for p in self._outside(jurisdiction) if p == path).hits
            finally:
                path.unlink()
            found[kind] = {(hit.label, hit.encoding) for hit in hits} == wanted
        found |= self._database_controls(jurisdiction, cell, value)
        control = Control.make()
        packed = prove(Scanner(needles + control.needles(), sealed=True), control)
        return found | {f"{len(packed)} kinds of packed files": all(packed.values())}

    def _database_controls(self, jurisdiction: str, cell: str, value: str) -> dict[str, bool]:
        zone = next(iter(self._manifest.cells[cell].zones))
        data = self._layout.cell(cell, zone) / Role.STORAGE / "data"
        # what is dropped stays in the WAL, where the scan itself must not take it for a stray: hence a name of its own
        sealed = frame(Sealed(_NOWHERE, secrets.token_bytes(12), secrets.token_bytes(24)))
        columns = f"'{value}'::text AS v, '\\x{sealed.hex()}'::bytea AS s"
        self._psql(cell, postgres.SUPERUSER, f"CREATE TABLE control AS SELECT {columns}; CHECKPOINT;")
        needles = needles_for({"control": value}, _NOWHERE)
        wanted = {needle.label for needle in needles}
        try:
            scanner = Scanner(needles)
            hits = scanner.scan(path for path in self._outside(jurisdiction) if path.is_relative_to(data)).hits
        finally:
            self._psql(cell, postgres.SUPERUSER, "DROP TABLE control; CHECKPOINT;")
        places = {"database": "base", "WAL": "pg_wal"}
        return {
            kind: {hit.label for hit in hits if hit.path.relative_to(data).parts[0] == part} == wanted
            for kind, part in places.items()
        }

    def failed_statement(self, who: Person) -> str:
        """A value of ``who`` in a statement that a US cell's database refuses: what it then logs is scanned later."""
        cell = next(name for name, place in self._cells.items() if place == "us")
        try:
            self._psql(cell, "domicile_app", f"SELECT '{who.email}'::uuid")
        except Unavailable:
            return "refused"
        return "ACCEPTED"

    # -- what the ledger says --------------------------------------------------------------------------

    async def write_abroad(self, who: Person) -> str:
        """Try to write to a European at the gateway of the home cells, as the application of a US cell."""
        cell = next(name for name, place in self._cells.items() if place == "us")
        folder = self._layout.cell(cell, next(iter(self._manifest.cells[cell].zones))) / Role.APP
        own = Credentials(folder / "cert.pem", folder / "key.pem", self._layout.authorities)
        key = Peppers.parse(self._layout.pepper.read_text()).current.subject_key(who.user)
        home = next(name for name, place in self._cells.items() if place != "us")
        zones = self._manifest.cells[home].zones.values()
        async with Peer(
            own,
            [zone.gateway for zone in zones],
            jurisdiction=self._cells[home],
            role=Role.GATEWAY,
            cell=home,
            networks=[zone.network for zone in zones],
        ) as gateway:
            try:
                await gateway.call("PUT", f"/.domicile/v1/abroad/{key}/profiles")
            except DomicileError as error:
                return error.code
        return "ACCEPTED"

    def ledger(self, source: str, destination: str) -> str:
        """What ``domicile audit show`` answers an operator of the source, in few words."""
        asked = [
            sys.executable,
            "-m",
            "domicile.ops.main",
            "audit",
            "show",
            "--from",
            source,
            "--to",
            destination,
            "--json",
        ]
        done = subprocess.run(
            asked, capture_output=True, text=True, timeout=60, check=False,
            env=os.environ | {"DOMICILE_STATE": str(self._root)},
        )  # fmt: skip
        try:
            said = json.loads(done.stdout)
            lines: dict[str, int] = {}
            for row in said["rows"]:
                if row["kind"] != "hairpin":  # reported by routers when their interval ends
                    name = f"{row['kind']} {row['outcome']}"
                    lines[name] = lines.get(name, 0) + row["lines"]
            signed = sum(each["ok"] for each in said["ledgers"])
        except (ValueError, KeyError, TypeError):
            return f"no answer, exit status {done.returncode}"
        told = ", ".join(f"{count} {name}" for name, count in sorted(lines.items())) or "nothing"
        return f"{told}; {signed} ledgers as signed"

    # -- a row that isn't at home --------------------------------------------------------------------

    def mislabelled_row(self, who: Person) -> str:
        """Insert a European's row labelled ``us`` into a US cell, as the application's own role, by psql."""
        cell = next(name for name, place in self._cells.items() if place == "us")
        key = Peppers.parse(self._layout.pepper.read_text()).current.subject_key(who.user)
        listed = self._psql(
            cell,
            "domicile_app",
            "SELECT column_name || ' ' || data_type FROM information_schema.columns "
            "WHERE table_name = 'profiles' AND column_default IS NULL",
        )
        columns = dict(line.split(" ", 1) for line in listed.splitlines())
        if "subject_key" not in columns:
            return f"no table to try: {listed[:80]!r}"
        own = {"jurisdiction": "'us'", "subject_key": f"'\\x{key}'", "principal_key": f"'\\x{key}'", "epoch": "1"}
        by_type = {
            "bytea": "'\\x00'",
            "uuid": "gen_random_uuid()",
            "bigint": "1",
            "integer": "1",
            "date": "'1990-01-01'",
            "timestamp with time zone": "now()",
        }
        values = [own.get(name, by_type.get(kind, "'x'")) for name, kind in columns.items()]
        names = [f'"{name}"' for name in columns]
        statement = (
            f"SET domicile.subject = '{key}'; "  # noqa: S608 - the names are the database's own
            f"INSERT INTO profiles ({', '.join(names)}) VALUES ({', '.join(values)})"
        )
        try:
            self._psql(cell, "domicile_app", statement)
        except Unavailable as error:
            return "refused: no open fence" if "fence" in error.what else f"refused otherwise: {error.what}"
        return "ACCEPTED"

    def _psql(self, cell: str, user: str, statement: str) -> str:
        """One statement by PostgreSQL's own client, through the server's private socket."""
        zone = next(iter(self._manifest.cells[cell].zones))
        with _short(self._layout.cell(cell, zone) / Role.STORAGE) as socket:
            command = [str(postgres.binary("psql")), "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-h", str(socket)]
            result = subprocess.run(
                [*command, "-U", user, "-d", postgres.DATABASE, "-c", statement],
                capture_output=True,
                text=True,
                check=False,
                timeout=30,
                env={**os.environ, "PGCONNECT_TIMEOUT": "10"},
            )
        if result.returncode != 0:
            raise Unavailable(result.stderr.strip(), where=f"psql into {cell} as {user}")
        return result.stdout.strip()


@contextmanager
def _short(folder: Path) -> Iterator[Path]:
    """A short name for a folder: a Unix socket's path is limited to some 100 bytes (unix(7))."""
    with tempfile.TemporaryDirectory(prefix="dom") as place:
        link = Path(place) / "s"
        link.symlink_to(folder)
        yield link
