"""Behind PgBouncer in transaction mode a home keeps the same promises: no statement outlives its transaction there.

Its servers pass from client to client as they are, and here somebody had
them before who set what he could to the worst.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, cast

import asyncpg
import pytest
from domicile_testing.contract import CHECKS, Letter, letter
from domicile_testing.databases import wait_for
from domicile_testing.harm import HARM

from domicile.model import Unavailable
from domicile.ops import postgres
from domicile.ops.testing import PostgresCell, running_postgres
from domicile.sdk import Home
from domicile.sdk.store import RowStore, local, settings

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


def left_behind() -> dict[str, str]:
    """What a session can set, but what ends it while nobody uses it, which is an outage and shows."""
    without = {*settings.of_session(pooler=True), "local_preload_libraries", "idle_session_timeout"}
    return {**{name: value for name, value in HARM.items() if name not in without}, "statement_timeout": "10s"}


async def spoil(cell: PostgresCell) -> None:
    """Every server of the pooler, by a client that sets what no transaction's end takes back."""
    async with cell.home(Letter), AsyncExitStack() as stack:
        clients = []
        for _ in range(SERVERS):
            client = await asyncpg.connect(
                host=str(cell.pooler), user="domicile_app", database="domicile", statement_cache_size=0
            )
            stack.push_async_callback(client.close)
            await client.execute("BEGIN; SET LOCAL idle_in_transaction_session_timeout = 0")
            clients.append(client)
        assert len({await client.fetchval("SELECT pg_backend_pid()") for client in clients}) == SERVERS
        for client in clients:
            await client.execute(
                "; ".join(f"SET {name} = '{value}'" for name, value in left_behind().items()) + "; COMMIT"
            )


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
            cell = PostgresCell(server, folder)
            asyncio.run(spoil(cell))
            yield cell
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


async def test_what_was_set_on_a_server_before_holds_in_no_transaction_of_a_home(pooled: PostgresCell) -> None:
    """One that writes and one that reads; each setting of a direct connection, but those that count outside of one."""
    await spoil(pooled)  # of the servers of before some ended with their clients
    expected = settings.of_session()
    names = sorted(left_behind())
    names = [name.replace("default_transaction", "transaction") for name in names]
    said = f"SELECT {', '.join(f'current_setting($${name}$$) AS {name.lower()}' for name in names)}"
    wanted = {name.lower(): expected[name.replace("transaction_", "default_transaction_", 1)]
              if name.startswith("transaction_") else expected[name] for name in names}  # fmt: skip
    async with pooled.home(Letter) as home, local.application(cast("Path", pooled.pooler), pooler=True) as pool:
        rows = RowStore(pool, "eu", pooler=True)
        for _ in range(SERVERS):
            async with rows.work(home.subject_key, home.epoch) as work:
                assert await work.query(said, ()) == [wanted]

        async def read(connection: Any) -> dict[str, str]:
            async with rows.reading(connection):
                return dict(await connection.fetchrow(said))

        assert await rows.alone_with(read) == wanted
        async with pool.acquire() as connection:
            assert await connection.fetchval("SELECT current_setting('synchronous_commit')") == "off", "it is there"


async def test_who_is_about_to_move_is_read_and_not_written(pooled: PostgresCell) -> None:
    async with pooled.home(Letter) as home, local.superuser(pooled.folder) as root:
        mine = letter(home, 1)
        await home.put(mine)
        assert await root.fetchval("SELECT domicile.intend($1, 1, 60)", home.subject_key)
        assert (read := await home.get(Letter, mine.id)) is not None
        assert read.weight == mine.weight
        assert [each.id for each in await home.all(Letter)] == [mine.id]
        with pytest.raises(Unavailable, match="about to move"):
            await home.put(mine)
