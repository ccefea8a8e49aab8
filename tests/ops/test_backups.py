"""A cell's database backed up while it is written, brought back to a moment, and settled with a directory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import pytest
from domicile_testing import Storage, Trust, running_storage
from domicile_testing.cell import superuser
from domicile_testing.databases import until
from domicile_testing.directories import any_key

from domicile.cells.gateway.restores import Settler, Verdict, judge
from domicile.model import Endpoint, Identity, InvalidInput, Pin, PinGrant, PinState, Role, SubjectKey, Unavailable
from domicile.model.backups import BackupTarget
from domicile.model.wire import ResolveResponse
from domicile.ops import postgres
from domicile.ops.backup import keeper as keeping
from domicile.ops.backup.base import take
from domicile.ops.backup.catalog import Base, segment_at
from domicile.ops.backup.keeper import Keeper
from domicile.ops.backup.keys import FileKeys, Keyring
from domicile.ops.backup.passage import Passage
from domicile.ops.backup.scratch import bring, count_rows, ends_early, last_commit, recovered
from domicile.ops.backup.store import Store
from domicile.ops.backup.targets import FolderTarget, Owner
from domicile.ops.switching import staging
from domicile.sample import Note, Profile
from domicile.sdk.store import FenceStore, apply_schema
from domicile.sdk.store.local import superuser as socket_superuser
from domicile.sdk.store.restoring import begin_restored, last_restore
from domicile.service import ended

EU = Owner(deployment="acme", jurisdiction="eu")
CELL = Identity("acme", "eu", Role.GATEWAY, "eu-1.fra")
CANARY = b"canary-7f3a@example.org"


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    folder: Path = tmp_path_factory.mktemp("backups")
    return Trust.create(folder)


@pytest.fixture(scope="module")
def storage(trust: Trust) -> Iterator[Storage]:
    with running_storage(trust, trust.folder / "pg", Endpoint.CELL_STORAGE, "eu", "eu-1.fra", None) as running:
        yield running


@pytest.fixture
async def root(storage: Storage) -> AsyncIterator[asyncpg.Connection]:
    async with superuser(storage) as connection:
        await apply_schema(connection, "eu-1", "eu", [Profile, Note])
        await connection.execute("CREATE TABLE IF NOT EXISTS moments (what text PRIMARY KEY)")
        yield connection


@pytest.fixture
def store(tmp_path: Path) -> Store:
    ring = Keyring(FileKeys(tmp_path / "keys", "eu", own=True), "acme", "eu")
    return Store(FolderTarget(tmp_path / "target", EU).adopt(), ring, EU, "eu-1")


@pytest.fixture
def passage(trust: Trust, storage: Storage) -> Passage:
    return Passage(trust.credentials("eu", Role.BACKUP, "fra"), [storage.address])


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(keeping, "PARTIAL_SECONDS", 0.2)


@asynccontextmanager
async def keeping_log(store: Store, passage: Passage, folder: Path) -> AsyncIterator[Keeper]:
    target = BackupTarget(country="DE", folder="unused")
    keeper = Keeper(store, passage, target, folder / "spool" / "eu-1")
    running = asyncio.create_task(keeper.run())
    try:
        yield keeper
    finally:
        await ended(running)


async def based(store: Store) -> Base:
    """The first base backup that the keeper takes by itself."""

    async def there() -> bool:
        return bool((await store.survey()).bases)

    await until(there, "a base backup")
    return (await store.bases())[0]


async def kept(store: Store, base: Base, root: asyncpg.Connection) -> None:
    """Until everything that was committed is in the target."""
    await root.execute("SELECT pg_logical_emit_message(true, 'test', 'a segment with nothing in it is not ended')")
    position = await root.fetchval("SELECT pg_switch_wal()::text")
    segment = segment_at(1, position)

    async def there() -> bool:
        return segment in store.log_files(base.system)

    await until(there, "the log to be kept")


@asynccontextmanager
async def restored(store: Store, base: Base, at: datetime | None, folder: Path) -> AsyncIterator[Path]:
    """The socket of what comes back."""
    with staging(folder) as place:
        await bring(store, base, at, place, lambda _: None)
        async with recovered(place, lambda _: None) as socket:
            yield socket


async def hold(root: asyncpg.Connection, state: str = "open", epoch: int = 1) -> SubjectKey:
    key = any_key()
    await root.execute("INSERT INTO domicile.fences (subject_key, epoch, state) VALUES ($1, $2, $3)", key, epoch, state)
    return key


@dataclass
class Directory:
    """What a directory answers about subjects of this cell."""

    pins: dict[SubjectKey, Pin] = field(default_factory=dict)

    def pin(self, key: SubjectKey, epoch: int = 1, cell: str = "eu-1", state: PinState = PinState.ACTIVE) -> None:
        self.pins[key] = Pin(subject_key=key, jurisdiction=cell[:2], cell=cell, epoch=epoch, state=state)

    async def resolve(self, keys: list[SubjectKey]) -> ResolveResponse:
        known = [self.pins[key] for key in keys if key in self.pins]
        return ResolveResponse(pins=known, unknown=[key for key in keys if key not in self.pins])

    async def fetch(self, key: SubjectKey, incarnation: UUID) -> PinGrant:
        pin = self.pins[key]
        now = int(time.time())
        return PinGrant(
            iss="acme", sub=key, jur=pin.jurisdiction, cell=pin.cell, epoch=pin.epoch, incarnation=incarnation,
            iat=now, exp=now + 60,
        )  # fmt: skip


async def test_a_full_cycle(
    root: asyncpg.Connection, store: Store, passage: Passage, tmp_path: Path, quick: None
) -> None:
    """Backed up under a writer, restored to a moment, closed, and settled; nothing in clear on the way."""
    await root.execute("TRUNCATE domicile.fences, moments")
    at_home, moved, forgotten = [await hold(root) for _ in range(3)]
    ahead = await hold(root, epoch=3)
    away = await hold(root, state="retired")
    await root.execute("INSERT INTO moments VALUES ($1)", CANARY.decode())
    await root.execute(
        "INSERT INTO notes (jurisdiction, subject_key, principal_key, id, epoch, version, text, topic)"
        " VALUES ('eu', $1, $1, $2, 1, 1, '', 'a')",
        moved,
        uuid4(),
    )
    async with keeping_log(store, passage, tmp_path) as keeper:
        base = await based(store)
        await root.execute("INSERT INTO moments VALUES ('early')")
        moment = await root.fetchval("SELECT clock_timestamp()")
        await root.execute("INSERT INTO moments VALUES ('late')")
        newcomer = await hold(root)
        await kept(store, base, root)
        keeper.check()
    written = b"".join(path.read_bytes() for path in (tmp_path / "target").rglob("*") if path.is_file())
    assert CANARY not in written
    assert b"early" not in written
    async with store.reading(f"eu-1/{base.system}/base/{base.id}.tar") as stream:
        assert CANARY in stream.read(), "it is in what was sealed"
    before = await root.fetchval("SELECT incarnation FROM domicile.cell")
    with staging(tmp_path / "restored") as place:
        await bring(store, base, moment, place, lambda _: None)
        async with recovered(place, lambda _: None) as socket, socket_superuser(socket) as back:
            assert {row[0] for row in await back.fetch("SELECT what FROM moments")} == {CANARY.decode(), "early"}
            upto = last_commit(place)
            assert upto is not None
            assert moment - timedelta(seconds=10) < upto <= moment
            assert (await count_rows(socket))["public.moments"] == 2
            assert await begin_restored(back, upto) == 4
            await _settle(back, socket, before, at_home, moved, forgotten, ahead)
            assert await back.fetchval("SELECT state FROM domicile.fences WHERE subject_key = $1", away) == "retired"
            assert not await back.fetchval("SELECT count(*) FROM domicile.fences WHERE subject_key = $1", newcomer)


async def test_a_segment_of_a_timeline_that_was_left_keeps_no_other_from_being_kept(
    root: asyncpg.Connection, store: Store, passage: Passage, tmp_path: Path, quick: None
) -> None:
    """pg_receivewal, which follows a failover by itself, leaves what it had of the old timeline where it is."""
    async with keeping_log(store, passage, tmp_path):
        base = await based(store)
        (tmp_path / "spool" / "eu-1" / f"{0:024X}.partial").write_bytes(b"left")
        await root.execute("INSERT INTO moments VALUES ('beside a segment that was left')")
        written = time.time_ns()

        async def there() -> bool:
            found = (tmp_path / "target").rglob("*.partial")
            return any(path.stat().st_mtime_ns > written for path in found if path.stem.strip("0"))

        await until(there, "the segment being written to be kept")
        async with restored(store, base, None, tmp_path / "restored") as socket, socket_superuser(socket) as back:
            found = await back.fetchval("SELECT count(*) FROM moments WHERE what = 'beside a segment that was left'")
            assert found == 1


async def test_a_moment_after_the_last_commit_is_as_late_as_the_log_goes(
    root: asyncpg.Connection, store: Store, passage: Passage, tmp_path: Path
) -> None:
    """A database where nobody writes proves no moment; only who asks for exactly that one is refused."""
    await root.execute("INSERT INTO moments VALUES ('before the base backup')")
    async with passage.open() as socket:
        base = await take(socket, store, lambda done, total: None)
    late = base.ended + timedelta(days=1)
    with staging(tmp_path / "restored") as place:
        await bring(store, base, late, place, lambda _: None)
        with pytest.raises(InvalidInput, match="holds no commit as late as that"):
            async with recovered(place, lambda _: None, exact=True):
                pass
        async with recovered(place, lambda _: None) as socket, socket_superuser(socket) as back:
            assert await back.fetchval("SELECT count(*) FROM moments WHERE what = 'before the base backup'") == 1
        assert ends_early(place)
        settings = (place / "data" / "postgresql.auto.conf").read_text()
        assert "recovery_target" not in settings


async def test_what_was_written_after_a_restore_is_backed_up_and_restored_again(
    root: asyncpg.Connection, store: Store, passage: Passage, tmp_path: Path
) -> None:
    """The restored database is on a timeline of its own, from whose backup the next one comes."""
    await root.execute("INSERT INTO moments VALUES ('before the first restore')")
    async with passage.open() as socket:
        first = await take(socket, store, lambda done, total: None)
    async with restored(store, first, None, tmp_path / "first") as socket:
        async with socket_superuser(socket) as back:
            await back.execute("INSERT INTO moments VALUES ('after the first restore')")
        second = await take(socket, store, lambda done, total: None)
    assert (second.system, first.first[:8], second.first[:8]) == (first.system, "00000001", "00000002")
    await root.execute("INSERT INTO moments VALUES ('in what was left')")
    async with restored(store, second, None, tmp_path / "second") as socket, socket_superuser(socket) as back:
        found = {row["what"] for row in await back.fetch("SELECT what FROM moments WHERE what LIKE '%restore'")}
        assert found == {"before the first restore", "after the first restore"}
        assert not await back.fetchval("SELECT count(*) FROM moments WHERE what = 'in what was left'")
        assert await back.fetchval("SELECT timeline_id FROM pg_control_checkpoint()") == 3


async def _settle(
    back: asyncpg.Connection,
    socket: Path,
    before: UUID,
    at_home: SubjectKey,
    moved: SubjectKey,
    forgotten: SubjectKey,
    ahead: SubjectKey,
) -> None:
    """Every fence is closed until the directory has spoken; then each is what it says."""

    async def states() -> dict[bytes, tuple[str, int]]:
        rows = await back.fetch("SELECT subject_key, state, epoch FROM domicile.fences")
        return {row["subject_key"]: (row["state"], row["epoch"]) for row in rows}

    assert not any(state == "open" for state, _ in (await states()).values())
    assert await back.fetchval("SELECT incarnation FROM domicile.cell") != before
    with pytest.raises(asyncpg.PostgresError) as refused:
        await back.execute("UPDATE notes SET topic = 'b'")
    assert refused.value.sqlstate == "DM001"
    directory = Directory()
    directory.pin(at_home)
    directory.pin(ahead, epoch=5)
    directory.pin(moved, epoch=2, cell="us-1")
    async with asyncpg.create_pool(host=str(socket), user="domicile_gateway", database="domicile", min_size=1) as pool:
        fences = FenceStore(pool)
        settler = Settler(CELL, fences, directory, directory)  # type: ignore[arg-type]
        await settler.settle_all()
        found = await states()
        assert found[at_home] == ("open", 1)
        assert found[ahead] == ("open", 5)
        assert found[moved] == ("retired", 1)
        assert found[forgotten] == ("closed", 1), "nobody is let in on a guess"
        assert await back.fetchval("SELECT count(*) FROM notes") == 0, "a row of who lives abroad by now"
        last = await last_restore(back)
        assert last is not None
        assert (last.reopened, last.behind, last.moved, last.unclear, last.rows_gone) == (1, 1, 1, 1, 1)
        assert (last.remaining, last.ended) == (1, None)
        directory.pin(forgotten, epoch=2, state=PinState.ERASED)
        await settler.settle_all()
        last = await last_restore(back)
        assert last is not None
        assert last.ended is not None
        assert (last.erased, last.unclear, last.remaining) == (1, 0, 0)
        assert not await fences.is_settling()


@pytest.mark.parametrize(
    ("pin", "verdict"),
    [
        pytest.param(None, Verdict.UNKNOWN, id="never heard of"),
        pytest.param(("eu-1", 4, "active"), Verdict.REOPENED, id="at home"),
        pytest.param(("eu-1", 6, "active"), Verdict.BEHIND, id="moved away and back"),
        pytest.param(("eu-1", 3, "active"), Verdict.CONTRADICTED, id="the directory is behind"),
        pytest.param(("us-1", 5, "active"), Verdict.MOVED, id="moved"),
        pytest.param(("us-1", 4, "active"), Verdict.CONTRADICTED, id="two homes at one epoch"),
        pytest.param(("eu-1", 4, "moving"), Verdict.WAIT, id="moving"),
        pytest.param(("eu-1", 5, "erased"), Verdict.ERASED, id="erased"),
        pytest.param(("eu-1", 6, "erased"), Verdict.RENAMED, id="has another name by now"),
        pytest.param(("us-1", 7, "erased"), Verdict.ERASED, id="moved, and erased there"),
    ],
)
def test_what_a_closed_fence_is(pin: tuple[str, int, str] | None, verdict: Verdict) -> None:
    key = any_key()
    found = None
    if pin is not None:
        cell, epoch, state = pin
        found = Pin(subject_key=key, jurisdiction=cell[:2], cell=cell, epoch=epoch, state=PinState(state))
    assert judge(4, found, CELL) is verdict


@pytest.mark.full
async def test_a_target_that_is_gone_is_told_and_nothing_is_lost(
    root: asyncpg.Connection,
    store: Store,
    passage: Passage,
    tmp_path: Path,
    quick: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Past the spool's bound the database keeps the log; when the target is back all of it is there."""
    monkeypatch.setattr(keeping, "SPOOL_BYTES", 16 << 20)
    monkeypatch.setattr(keeping, "ALARM_SECONDS", 1.0)
    async with keeping_log(store, passage, tmp_path) as keeper:
        base = await based(store)
        (tmp_path / "target").rename(tmp_path / "unmounted")

        async def alarmed() -> bool:
            return keeper.lag > 1.0

        for number in range(4):
            await root.execute("INSERT INTO moments VALUES ($1)", f"meanwhile {number}")
            await root.execute("SELECT pg_switch_wal()")
        await until(alarmed, "the alarm")
        with pytest.raises(Unavailable, match=r"has not been in its backup target .* \(unavailable\)"):
            keeper.check()

        def spooled() -> int:
            return sum(path.stat().st_size for path in (tmp_path / "spool" / "eu-1").iterdir())

        held, lag = spooled(), keeper.lag  # more than the bound by what came within one beat

        async def later() -> bool:
            return keeper.lag > lag + 1.0

        for number in range(4, 8):
            await root.execute("INSERT INTO moments VALUES ($1)", f"meanwhile {number}")
            await root.execute("SELECT pg_switch_wal()")
        await until(later, "another second without a target")
        assert spooled() <= held + (16 << 20), "the database keeps the rest"
        (tmp_path / "unmounted").rename(tmp_path / "target")
        await kept(store, base, root)

        async def well() -> bool:
            return keeper.lag < 1.0

        await until(well, "the alarm to end")
        keeper.check()
    async with restored(store, base, None, tmp_path / "back") as socket, socket_superuser(socket) as back:
        assert await back.fetchval("SELECT count(*) FROM moments WHERE what LIKE 'meanwhile%'") == 8


@pytest.mark.full
async def test_a_log_that_the_database_gave_up_is_counted_and_begun_anew(
    root: asyncpg.Connection, store: Store, passage: Passage, tmp_path: Path, quick: None
) -> None:
    """Its disk is bounded; what is lost by that is said, and a base backup taken across the hole."""
    async with keeping_log(store, passage, tmp_path):
        await based(store)
    losses = keeping.LOG_LOSSES.labels("eu-1")._value.get()  # type: ignore[attr-defined]
    await root.execute("ALTER SYSTEM SET max_slot_wal_keep_size = '16MB'")
    await root.execute("SELECT pg_reload_conf()")
    try:
        for _ in range(5):
            await root.execute("INSERT INTO moments VALUES ($1)", str(uuid4()))
            await root.execute("SELECT pg_switch_wal()")
        await root.execute("CHECKPOINT")
        assert await root.fetchval("SELECT wal_status FROM pg_replication_slots") == "lost"
    finally:
        await root.execute("ALTER SYSTEM RESET max_slot_wal_keep_size")
        await root.execute("SELECT pg_reload_conf()")
    async with keeping_log(store, passage, tmp_path):

        async def another() -> bool:
            return len(await store.bases()) == 2

        await root.execute("SELECT pg_switch_wal()")
        await until(another, "a base backup after the hole")
    assert keeping.LOG_LOSSES.labels("eu-1")._value.get() == losses + 1  # type: ignore[attr-defined]


async def test_a_backup_that_fails_leaves_nothing(
    store: Store, passage: Passage, tmp_path: Path, root: asyncpg.Connection
) -> None:
    async def broken() -> None:
        async with passage.open() as socket:
            await take(socket, store, interrupt)

    def interrupt(done: int, total: int) -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await broken()
    assert await store.bases() == []
    assert [path.name for path in (tmp_path / "target").rglob("*") if path.is_file()] == ["target.json"]

    async def ended_there() -> bool:
        return not await root.fetchval("SELECT count(*) FROM pg_stat_replication")

    await until(ended_there, "the server to notice")


@pytest.mark.parametrize(("jurisdiction", "role"), [("us", Role.BACKUP), ("eu", Role.KEYS)])
async def test_nobody_else_takes_one(
    trust: Trust, storage: Storage, store: Store, jurisdiction: str, role: Role
) -> None:
    other = Passage(trust.credentials(jurisdiction, role, "iad"), [storage.address])
    async with other.open() as socket:
        with pytest.raises(Unavailable):
            await take(socket, store, lambda done, total: None)
    assert await store.bases() == []


async def test_a_backups_certificate_reads_no_row(storage: Storage, root: asyncpg.Connection) -> None:
    connection = await asyncpg.connect(
        host=storage.host, port=storage.port, user=postgres.BACKUP_USER, database="domicile",
        ssl=storage.context(Role.BACKUP, "fra"),
    )  # fmt: skip
    try:
        for table in ("notes", "domicile.fences", "moments"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.fetch(f"SELECT * FROM {table}")
    finally:
        await connection.close()
