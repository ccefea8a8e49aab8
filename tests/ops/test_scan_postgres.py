"""True files of PostgreSQL give up what is packed in them: rows, values out of line, WAL, dumps, base backups."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from domicile.model.sealed import Sealed, frame
from domicile.ops import postgres
from domicile.ops.scan import Report, Scanner, files_below, needles_for
from domicile.ops.testing import running_postgres

DEBIAN = Path("/usr/lib/postgresql/15/bin")
VALUE = "zoé.lefèvre+x@mail.example"
SEALED = frame(Sealed("eu", b"n" * 12, b"c" * 32))
LABELS = {"e-mail", "sealed value of eu"}
FILLER = " ".join(f"line {number} of a page that says little" for number in range(60))
"""Compresses well, and holds no needle: what is found behind it was unpacked."""


@dataclass(frozen=True)
class Server:
    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def run(self, program: str, *arguments: str) -> str:
        command = [str(postgres.binary(program)), "-h", str(self.folder), "-U", postgres.SUPERUSER, *arguments]
        done = subprocess.run(
            postgres.launched(command, ends_with=signal.SIGTERM, unprivileged=True),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def sql(self, *statements: str) -> str:
        commands = [word for statement in statements for word in ("-c", statement)]
        return self.run("psql", "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", "postgres", *commands)

    def file(self, table: str) -> Path:
        return self.data / self.sql(f"SELECT pg_relation_filepath('{table}')")

    def toast(self, table: str) -> Path:
        name = self.sql(f"SELECT reltoastrelid::regclass FROM pg_class WHERE oid = '{table}'::regclass")
        return self.file(name)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_postgres() as folder:
        yield Server(folder)


def scan(*paths: Path) -> Report:
    found = Scanner(needles_for({"e-mail": VALUE}, "eu")).scan(path for root in paths for path in files_below(root))
    assert found.unread == []
    return found


def labels(report: Report) -> set[str]:
    return {hit.label for hit in report.hits}


def raw_holds(path: Path) -> bool:
    return VALUE.encode() in path.read_bytes()


def noise(size: int) -> str:
    """Words by chance: they compress by half, so that a long text goes out of line in many chunks."""
    return " ".join(f"word{secrets.randbelow(400)}" for _ in range(size // 7))[:size]


def hex_noise(size: int) -> str:
    return secrets.token_hex(size // 2)


def test_a_value_that_is_compressed_in_its_row_or_in_an_index(server: Server) -> None:
    server.sql(
        "CREATE TABLE inline (id int, t text)",
        f"INSERT INTO inline SELECT n, repeat('{FILLER}', 2) || '{VALUE}' FROM generate_series(1, 3) n",
        f"CREATE TABLE indexed (t text); INSERT INTO indexed SELECT repeat('{FILLER}', 2) || '{VALUE}'",
        "CREATE INDEX compressed_key ON indexed (t)",
        "CHECKPOINT",
    )
    for path in (server.file("inline"), server.file("compressed_key")):
        assert not raw_holds(path)
        report = scan(path)
        assert labels(report) == {"e-mail"}
        assert {hit.inside for hit in report.hits} == {"pglz value"}


def test_values_out_of_line_are_put_together(server: Server) -> None:
    server.sql(
        "CREATE TABLE long (t text)",
        "CREATE TABLE plain (t text); ALTER TABLE plain ALTER t SET STORAGE EXTERNAL",
        "CREATE TABLE bytes (b bytea)",
    )
    for _ in range(3):
        server.sql(f"INSERT INTO long VALUES ('{noise(9000)}{VALUE}{noise(9000)}')")
    chunk = 1996
    edge = hex_noise(2 * chunk)[: chunk - 10]
    server.sql(
        f"INSERT INTO plain VALUES ('{edge}{VALUE}{hex_noise(4000)}')",
        f"INSERT INTO bytes VALUES ('\\x{SEALED.hex()}{secrets.token_hex(3 * chunk + 1 - len(SEALED))}')",
        "CHECKPOINT",
    )
    assert not raw_holds(server.toast("long"))
    assert {hit.inside for hit in scan(server.toast("long")).hits} == {"pglz value"}
    assert not raw_holds(server.toast("plain")), "it lies across two chunks"
    assert {hit.inside for hit in scan(server.toast("plain")).hits} == {"value out of line"}
    assert labels(scan(server.toast("bytes"))) == {"sealed value of eu"}


def test_chunks_out_of_order_and_of_a_dead_value(server: Server) -> None:
    """Free space is filled anyhow: chunks of one value lie where others were."""
    server.sql("CREATE TABLE mixed (id int PRIMARY KEY, t text)", "ALTER TABLE mixed SET (autovacuum_enabled = off)")
    for number in range(6):
        server.sql(f"INSERT INTO mixed VALUES ({number}, '{noise(9000)}')")
    server.sql("DELETE FROM mixed WHERE id IN (1, 4)", "VACUUM mixed")
    server.sql(f"INSERT INTO mixed VALUES (9, '{noise(20000)}{VALUE}')", "CHECKPOINT")
    assert labels(scan(server.toast("mixed"))) == {"e-mail"}
    server.sql("DELETE FROM mixed WHERE id = 9", "CHECKPOINT")
    assert labels(scan(server.toast("mixed"))) == {"e-mail"}, "what was deleted lies there until it is vacuumed"


def next_segment(server: Server) -> str:
    server.sql("SELECT pg_switch_wal()")
    return server.sql("SELECT pg_walfile_name(pg_current_wal_insert_lsn())")


def segments(server: Server, *, since: str) -> list[Path]:
    end = server.sql("SELECT pg_walfile_name(pg_current_wal_lsn())")
    found = [path for path in sorted((server.data / "pg_wal").iterdir()) if since <= path.name <= end]
    assert found
    return found


def test_wal_whole_images_compressed_images_rows_and_page_ends(server: Server) -> None:
    begin = next_segment(server)
    server.sql("CREATE TABLE logged (id int, t text)", f"INSERT INTO logged VALUES (1, '{noise(9000)}{VALUE}')")
    report = scan(*segments(server, since=begin))
    assert {hit.inside for hit in report.hits} == {"pglz value"}, "out of line, by its records alone"
    server.sql("CREATE TABLE imaged (id int, t text)", f"INSERT INTO imaged VALUES (1, '{FILLER[:900]}{VALUE}')")
    begin = server.sql("SELECT pg_switch_wal(); CHECKPOINT; SELECT pg_walfile_name(pg_current_wal_lsn())").splitlines()[
        -1
    ]
    server.sql("SET wal_compression = pglz; UPDATE imaged SET id = 2")
    report = scan(*segments(server, since=begin))
    assert "page image in WAL (pglz)" in {hit.inside for hit in report.hits}
    begin = next_segment(server)
    server.sql("CREATE TABLE many (t text)", f"INSERT INTO many SELECT '{VALUE}' FROM generate_series(1, 5000)")
    path = server.data / "pg_wal" / begin
    raw = path.read_bytes().count(VALUE.encode())
    through = Scanner(needles_for({"e-mail": VALUE}, "eu")).scan([path])
    assert raw < 5000, "some lie across the end of a page"
    assert through.matches - raw >= 5000


def test_a_record_across_two_segments(server: Server) -> None:
    begin = next_segment(server)
    server.sql(
        "CREATE TABLE crossing (t text)",
        "SELECT pg_logical_emit_message(true, 'x', repeat('y', (x'ff0000'::int - 65536)"
        " - (pg_current_wal_insert_lsn() - '0/0')::bigint::int % 16777216))",
        f"INSERT INTO crossing SELECT repeat('{FILLER}', 2) || '{VALUE}' FROM generate_series(1, 900)",
    )
    first = server.data / "pg_wal" / begin
    alone, reread = Report(), Report()
    scanner = Scanner(needles_for({"e-mail": VALUE}, "eu"))
    scanner.scan_file(first, reread)
    copy = first.parent.parent.parent / begin
    shutil.copy(first, copy)  # the next segment does not lie beside it
    scanner.scan_file(copy, alone)
    copy.unlink()
    assert reread.matches - alone.matches == 1


@pytest.mark.parametrize("form", ["plain", "custom", "custom -Z0", "directory", "tar", "directory -Z0"])
def test_dumps(server: Server, tmp_path: Path, form: str) -> None:
    database = f"dumped_{form.replace(' -', '_')}".lower()
    server.sql(f"CREATE DATABASE {database}")
    statements = [
        "CREATE TABLE d (id int, t text, b bytea)",
        "INSERT INTO d SELECT n, 'x' || n, NULL FROM generate_series(1, 9000) n",
        f"INSERT INTO d VALUES (0, '{VALUE}', '\\x{SEALED.hex()}')",
        "SELECT lo_from_bytea(7, 'a large object')",
    ]
    server.run("psql", "-X", "-q", "-d", database, "-c", "; ".join(statements))
    kind, _, level = form.partition(" ")
    place = tmp_path / "dump"
    server.run("pg_dump", "-d", database, f"-F{kind[0]}", *([level] if level else []), "-f", str(place))
    report = scan(place)
    assert labels(report) == LABELS
    if form in ("custom", "directory"):
        assert report.streams["zlib" if form == "custom" else "gzip"] > 0
        assert all(hit.inside for hit in report.hits)


def test_a_base_backup_as_a_packed_tar(server: Server, tmp_path: Path) -> None:
    server.sql("CREATE TABLE backed (t text)", f"INSERT INTO backed VALUES ('{noise(9000)}{VALUE}')", "CHECKPOINT")
    name = str(server.toast("backed").relative_to(server.data))
    server.run("pg_basebackup", "-D", str(tmp_path / "b"), "-Ft", "-z", "-X", "fetch", "-c", "fast", "--no-sync")
    report = scan(tmp_path / "b")
    assert f"gzip > tar: {name} > pglz value" in {hit.inside for hit in report.hits}


@pytest.mark.skipif(not (DEBIAN / "postgres").exists(), reason="needs Debian's PostgreSQL 15, which knows lz4 and zstd")
def test_lz4_and_zstd_of_debians_postgresql(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("pg15")
    data = folder / "data"
    environment = os.environ | {"LC_ALL": "C"}

    def run(*command: str, stdin: str = "") -> None:
        done = subprocess.run(
            postgres.launched(command, ends_with=signal.SIGTERM, unprivileged=True),
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env=environment,
        )
        assert done.returncode == 0, done.stderr

    run(str(DEBIAN / "initdb"), "-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync")
    insert = f"INSERT INTO t VALUES (repeat('{FILLER}', 2) || '{VALUE}')"
    lines = ["CREATE TABLE t (t text COMPRESSION lz4)", insert, f"INSERT INTO t VALUES ('{noise(9000)}{VALUE}')"]
    lines += ["CREATE TABLE i (id int, t text)", f"INSERT INTO i VALUES (1, '{FILLER[:900]}{VALUE}')"]
    for method in ("lz4", "zstd"):
        lines += ["CHECKPOINT", f"SET wal_compression = {method}", "UPDATE i SET id = id + 1"]
    run(str(DEBIAN / "postgres"), "--single", "-D", str(data), "postgres", stdin="\n".join(lines) + "\n")
    inside = {hit.inside for hit in scan(data).hits}
    assert {"lz4 value", "page image in WAL (lz4)", "page image in WAL (zstd)"} <= inside
