"""Behind PgBouncer in transaction mode a home keeps the same promises: no statement outlives its transaction there."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from domicile_testing.contract import CHECKS, Letter, letter
from domicile_testing.databases import wait_for

from domicile.ops import postgres
from domicile.ops.testing import PostgresCell, running_postgres
from domicile.sdk import Home

PGBOUNCER = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin:/usr/local/bin")
pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="no pgbouncer here (Debian: apt-get install pgbouncer)")
SERVERS = 2
CONFIGURATION = """
[databases]
domicile = host={server} dbname=domicile

[pgbouncer]
unix_socket_dir = {folder}
listen_addr =
listen_port = 5432
auth_type = trust
auth_file = {folder}/users
pool_mode = transaction
default_pool_size = {servers}
logfile = {folder}/log
"""


@pytest.fixture(scope="module")
def pooled() -> Iterator[PostgresCell]:
    assert PGBOUNCER is not None
    with running_postgres() as server, tempfile.TemporaryDirectory(prefix="domicile-") as name:
        folder = Path(name)
        (folder / "users").write_text('"domicile_app" ""\n')
        (folder / "pgbouncer.ini").write_text(CONFIGURATION.format(server=server, folder=folder, servers=SERVERS))
        command = [PGBOUNCER, str(folder / "pgbouncer.ini")]
        bouncer = subprocess.Popen(
            postgres.launched(command, ends_with=signal.SIGINT, unprivileged=True), stderr=subprocess.DEVNULL
        )
        try:
            wait_for(lambda: (folder / postgres.SOCKET).exists(), "pgbouncer")
            yield PostgresCell(server, folder)
        finally:
            bouncer.terminate()
            bouncer.wait(30)


@pytest.mark.parametrize("name", CHECKS)
async def test_a_home_behind_a_pooler(pooled: PostgresCell, name: str) -> None:
    await CHECKS[name](pooled, lambda home: home)


async def test_many_homes_share_few_servers_and_never_meet(pooled: PostgresCell) -> None:
    async def work(number: int) -> None:
        async with pooled.home(Letter) as home:
            mine = [letter(home, number) for _ in range(5)]
            await asyncio.gather(*(home.put(each) for each in mine), rows(home, number))
            assert {each.weight for each in await home.all(Letter)} == {number}
            assert len(await home.all(Letter)) == 8

    async def rows(home: Home, number: int) -> None:
        async with home.transaction() as transaction:
            await transaction.put_many([letter(home, number) for _ in range(3)])
            found = await transaction.sql("SELECT DISTINCT weight FROM letters")
            assert found == [{"weight": number}]

    await asyncio.gather(*(work(number) for number in range(12)))
