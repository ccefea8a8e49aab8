"""A cell's database writes no value into its own log, whatever statement fails and however it ends."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
from domicile_testing import Storage, Trust, running_storage
from domicile_testing.cell import superuser
from domicile_testing.databases import wait_for

from domicile.model import Endpoint
from domicile.ops.scan import Scanner, files_below, needles_for_value

CANARY = "hans.canary@example.eu"


@pytest.fixture
def logged(trust: Trust, tmp_path: Path) -> Iterator[Storage]:
    with running_storage(trust, tmp_path / "pg", Endpoint.CELL_STORAGE, "eu", "eu-1.fra", None) as running:
        yield running


async def test_neither_errors_nor_a_crash_quote_a_value(logged: Storage) -> None:
    async with superuser(logged) as connection:
        await connection.execute("CREATE TABLE t (id text PRIMARY KEY, n int CHECK (n > 0))")
        for statement in (
            f"SELECT '{CANARY}'::uuid",
            f"SELECT '{CANARY}'::int",
            f'SELECT * FROM "{CANARY}"',
            f"DO $$ BEGIN RAISE WARNING '{CANARY}'; RAISE EXCEPTION '{CANARY}'; END $$",
            f"INSERT INTO t VALUES ('{CANARY}', 1), ('{CANARY}', 1)",
            f"INSERT INTO t VALUES ('{CANARY}', 0)",
            f"{CANARY}",
        ):
            with pytest.raises(asyncpg.PostgresError):
                await connection.execute(statement)
        with pytest.raises(asyncpg.PostgresError):
            await connection.fetchval("SELECT $1::text::int", CANARY)
        backend = await connection.fetchval("SELECT pg_backend_pid()")
        with contextlib.suppress(asyncpg.PostgresError, ConnectionError, TimeoutError):
            await connection.execute(f"SELECT '{CANARY}', pg_terminate_backend({backend})")
    log = logged.folder / "log"
    async with superuser(logged) as connection:
        with contextlib.suppress(asyncpg.PostgresError, ConnectionError):
            await connection.execute(f"SELECT '{CANARY}'")
            os.kill(await connection.fetchval("SELECT pg_backend_pid()"), signal.SIGKILL)
            await connection.execute("SELECT 1")
    wait_for(lambda: "terminated by signal 9" in log.read_text(), "the crash in the log")
    wait_for(lambda: log.read_text().count("ready to accept connections") == 2, "the recovery")
    report = Scanner(needles_for_value("canary", CANARY)).scan([log])
    assert (report.files, report.hits, report.unread) == (1, [], [])
    assert log in list(files_below(logged.folder)), "the log lies where the scan of a world would find it"
