"""Keys rest where they may and nowhere else; what was shredded stays closed, whatever backup of the cell comes back."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from domicile_testing import Storage, Trust, free_port, running_storage
from domicile_testing.cell import key_client, key_section, key_settings
from domicile_testing.homes import Surroundings

from domicile.cells.keys import KeySettings, serve_holder, serve_keys
from domicile.client import KeyClient
from domicile.identity import verify_receipt
from domicile.model import DomicileError, Endpoint, KeyDestroyed, NotFound, Role, SubjectKey, WrongJurisdiction
from domicile.ops import postgres
from domicile.ops.scan import Needle, Report, Scanner, byte_forms, files_below, needles_for_value
from domicile.sample import Note
from domicile.sdk import Residency
from domicile.sdk.home import Home, Vault
from domicile.sdk.store import FenceReader, RowStore, open_pool

Somebody = Callable[[], tuple[str, SubjectKey]]
CANARY = "canary-of-a-shredded-note"


@pytest.fixture(scope="module")
def key_storage(trust: Trust) -> Iterator[Storage]:
    with running_storage(trust, trust.folder / "keys", Endpoint.KEY_STORAGE, "eu", "fra", "domicile_keys") as running:
        yield running


@asynccontextmanager
async def key_service(around: Surroundings, storage: Storage) -> AsyncIterator[KeySettings]:
    """The real one, in the place of the small one."""
    await around.stop("keys")
    address = around.manifest.jurisdictions["eu"].keys.service[0]
    settings = key_settings(around.trust, storage).model_copy(update={"bind": address})
    async with serve_keys(settings, key_section(service=[address])):
        yield settings


def base_backup(running: Storage, folder: Path) -> None:
    folder.mkdir(mode=0o700)
    command = [str(postgres.binary("pg_basebackup")), "-h", str(running.folder), "-U", postgres.SUPERUSER]
    command += ["-D", str(folder / "data"), "-X", "stream", "-c", "fast", "--no-sync"]
    done = subprocess.run(
        postgres.launched(command, ends_with=signal.SIGTERM, unprivileged=True),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (folder / "created").touch()


@asynccontextmanager
async def home_in(around: Surroundings, storage: Storage, keys: str, key: SubjectKey) -> AsyncIterator[Home]:
    """The subject's home as an application that starts anew finds it in this database: nothing is held in memory."""
    credentials = around.trust.credentials("eu", Role.APP, "eu-1.fra")
    pool = await open_pool(credentials, [storage.address], jurisdiction="eu", cell="eu-1", user="domicile_app", size=2)
    try:
        async with key_client(around.trust, keys) as client:
            fence = await FenceReader(pool).fence(key)
            assert fence is not None
            yield Home(Vault(RowStore(pool, "eu"), client, "eu-1", "eu"), fence)
    finally:
        pool.terminate()


@asynccontextmanager
async def restored_from(around: Surroundings, folder: Path) -> AsyncIterator[Storage]:
    """A server of its own for a backup. Its end is waited for in a thread: its clients are closed by this loop."""
    with ExitStack() as stack:
        running = running_storage(around.trust, folder, Endpoint.CELL_STORAGE, "eu", "eu-1.fra", None)
        yield stack.enter_context(running)
        await asyncio.to_thread(stack.close)


async def test_a_restored_backup_of_the_cell_stays_closed_after_a_shred(
    around: Surroundings, eu: Storage, key_storage: Storage, somebody: Somebody, tmp_path: Path
) -> None:
    name, key = somebody()
    other_name, other_key = somebody()
    async with key_service(around, key_storage) as keys, Residency.connect(around.settings()) as residency:
        notes = {}
        for each, whose in ((name, key), (other_name, other_key)):
            home = await residency.claim(each, residence="DE")
            note = home.new(Note, text=CANARY, topic="general")
            await home.put(note)
            notes[whose] = note.id
        base_backup(eu, tmp_path / "before")
        base_backup(eu, tmp_path / "after")
        async with (  # the control: such a backup does open
            restored_from(around, tmp_path / "before") as restored,
            home_in(around, restored, keys.bind, key) as there,
        ):
            found = await there.get(Note, notes[key])
            assert found is not None
            assert found.text == CANARY
        async with home_in(around, eu, keys.bind, key) as there:
            subject = there._fence.internal_id
        async with key_client(around.trust, keys.bind) as client:
            receipt = verify_receipt(
                (await client.shred(subject)).receipt, "acme", (await client.receipt_key()).encode()
            )
            assert receipt.principals == [subject]
        async with restored_from(around, tmp_path / "after") as restored:
            for place in (restored, eu):
                async with home_in(around, place, keys.bind, key) as there:
                    fresh = there.new(Note, text="x", topic="y")
                    for read in (there.get(Note, notes[key]), there.all(Note), there.put(fresh)):
                        with pytest.raises(KeyDestroyed):
                            await read
            async with home_in(around, restored, keys.bind, other_key) as there:
                found = await there.get(Note, notes[other_key])
                assert found is not None
                assert found.text == CANARY
    scanner, report = Scanner(needles_for_value("note", CANARY)), Report()
    for path in files_below(tmp_path / "after"):
        scanner.scan_file(path, report)
    assert report.hits == []
    assert report.files > 100
    planted = tmp_path / "planted"
    planted.write_text(CANARY)
    assert scanner.scan([planted]).hits


async def test_a_base_backup_of_one_jurisdiction_opens_nothing_and_takes_nothing_in_another(
    around: Surroundings, eu: Storage, key_storage: Storage, somebody: Somebody, tmp_path: Path
) -> None:
    """Copied file by file, past every target and seal, and started as ``us``'s own with a key service of ``us``."""
    name, key = somebody()
    async with key_service(around, key_storage), Residency.connect(around.settings()) as residency:
        home = await residency.claim(name, residence="DE")
        note = home.new(Note, text=CANARY, topic="general")
        await home.put(note)
        base_backup(eu, tmp_path / "copy")
    folders, there = around.trust.folder / "keys-us", around.trust.credentials("us", Role.APP, "us-1.iad")
    with ExitStack() as stack:
        kept = running_storage(around.trust, folders, Endpoint.KEY_STORAGE, "us", "iad", "domicile_keys")
        copy = running_storage(around.trust, tmp_path / "copy", Endpoint.CELL_STORAGE, "us", "us-1.iad", None)
        storage = stack.enter_context(copy)
        keys = key_settings(around.trust, stack.enter_context(kept), jurisdiction="us", name="iad")
        pool = await open_pool(there, [storage.address], jurisdiction="us", cell="us-1", user="domicile_app", size=2)
        client = KeyClient(there, [keys.bind], jurisdiction="us", cell="us-1", cache_seconds=60)
        async with serve_keys(keys, key_section()):
            fence = await FenceReader(pool).fence(key)
            assert fence is not None, "its rows are there to be read"
            abroad = Home(Vault(RowStore(pool, "us"), client, "us-1", "us"), fence)
            with pytest.raises(NotFound):
                await abroad.get(Note, note.id)
            with pytest.raises(WrongJurisdiction):
                await abroad.put(abroad.new(Note, text="x", topic="y"))
            with pytest.raises(DomicileError, match="does not belong in its place"):
                await abroad.get(Note, note.id)  # with a key of us for him, made by the attempt to put
            assert await pool.fetch("SELECT FROM notes") == [], "the application's role sees no row by itself"
            await client.close()
        pool.terminate()
        await asyncio.to_thread(stack.close)


async def test_no_data_key_and_no_customers_key_rests_with_the_service(trust: Trust, key_storage: Storage) -> None:
    holder = trust.settings("eu", Role.HOLDER, "bank.fra", f"127.0.0.1:{free_port()}")
    settings = key_settings(trust, key_storage)
    section = key_section(domains={"bank": {"country": "DE", "holder": [holder.bind]}})
    async with serve_holder(holder), serve_keys(settings, section), key_client(trust, settings.bind) as client:
        his, other = uuid4(), uuid4()
        await client.assign(his, "bank")
        keys = [await client.data_key(each, each, create=True) for each in (his, other)]
        index_key = (await client.cell_index_key()).key
    customers = (holder.state / "kek" / "1.key").read_bytes()
    own = (settings.state / "kek" / "default" / "1.key").read_bytes()
    secrets = {"index key": index_key} | {f"data key {n}": key.key for n, key in enumerate(keys)}
    secrets |= {f"subject's index key {n}": key.index_key for n, key in enumerate(keys)}

    def found(folders: list[Path], looked_for: dict[str, bytes]) -> set[str]:
        needles = [
            Needle(label, encoding, pattern)
            for label, raw in looked_for.items()
            for encoding, pattern in (("raw", raw), *byte_forms(raw))
        ]
        report = Scanner(needles).scan(path for folder in folders for path in files_below(folder))
        assert report.files
        assert not report.unread
        return {hit.label for hit in report.hits}

    everywhere = [settings.state, key_storage.folder, holder.state]
    assert found(everywhere, secrets) == set()
    # a key-encryption key rests with its holder, and with nobody else
    keks = {"own": own, "customer's": customers}
    assert found([key_storage.folder], keks) == set()
    assert found([settings.state], keks) == {"own"}
    assert found([holder.state], keks) == {"customer's"}
