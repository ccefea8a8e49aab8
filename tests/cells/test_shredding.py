"""Shredding: what one key sealed opens no more, anywhere, also after what was backed up comes back."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from domicile_testing import Storage, Trust
from domicile_testing.cell import key_client, key_section, key_settings, superuser
from domicile_testing.databases import until

from domicile.cells.keys import serve_keys
from domicile.identity import Authority, Signer, check_endorsed, endorse, verify_receipt
from domicile.model import Forbidden, KeyDestroyed, Role, TokenInvalid, TokenType, Unavailable

SECTION = key_section(backup_days=7)
ALICE, BOB = UUID(int=1), UUID(int=2)


async def test_a_principals_key_is_destroyed_and_the_others_stay(trust: Trust, key_storage: Storage) -> None:
    subject, settings = uuid4(), key_settings(trust, key_storage)
    async with serve_keys(settings, SECTION), key_client(trust, settings.bind) as keys:
        for principal in (ALICE, BOB):
            await keys.data_key(subject, principal, create=True)
        before = int(time.time())
        receipt = (await keys.shred(subject, ALICE)).receipt
        for create in (False, True):  # its own cache is dead at once, and no new key takes its place
            with pytest.raises(KeyDestroyed):
                await keys.data_key(subject, ALICE, create=create)
        assert (await keys.data_key(subject, BOB)).principal == BOB
        said = verify_receipt(receipt, "acme", (await keys.receipt_key()).encode())
    assert (said.jur, said.cell, said.subject, said.principals) == ("eu", "eu-1", subject, [ALICE])
    assert said.store == "spiffe://acme/eu/keys/fra"
    assert not said.whole_subject
    assert before <= said.iat <= time.time()
    assert (said.caches_until - said.iat, said.backups_until - said.iat) == (60, 7 * 86_400)
    async with superuser(key_storage) as connection:
        rows = await connection.fetch("SELECT principal FROM keys.data_keys WHERE subject = $1", subject)
    assert [row[0] for row in rows] == [BOB]


async def test_a_subject_goes_with_all_of_its_principals_and_those_to_come(trust: Trust, key_storage: Storage) -> None:
    subject, settings = uuid4(), key_settings(trust, key_storage)
    async with serve_keys(settings, SECTION), key_client(trust, settings.bind) as keys:
        for principal in (ALICE, BOB):
            await keys.data_key(subject, principal, create=True)
        public = (await keys.receipt_key()).encode()
        first = verify_receipt((await keys.shred(subject)).receipt, "acme", public)
        again = verify_receipt((await keys.shred(subject)).receipt, "acme", public)
        assert first.principals == again.principals == [ALICE, BOB]
        assert first.whole_subject
        for principal in (ALICE, UUID(int=3)):
            with pytest.raises(KeyDestroyed):
                await keys.data_key(subject, principal, create=True)


async def test_a_key_that_is_made_at_that_moment_does_not_survive(trust: Trust, key_storage: Storage) -> None:
    settings = key_settings(trust, key_storage)
    async with serve_keys(settings, SECTION), key_client(trust, settings.bind) as keys:
        subjects = [uuid4() for _ in range(40)]

        async def make(subject: UUID) -> None:
            async with asyncio.timeout(30):
                with suppress(KeyDestroyed):
                    await keys.data_key(subject, ALICE, create=True)

        calls = [call for subject in subjects for call in (make(subject), keys.shred(subject, ALICE))]
        await asyncio.gather(*calls)
    async with superuser(key_storage) as connection:
        assert await connection.fetchval("SELECT count(*) FROM keys.data_keys WHERE subject = ANY ($1)", subjects) == 0


async def test_another_cell_destroys_nothing_and_is_not_noted(trust: Trust, key_storage: Storage) -> None:
    subject, settings = uuid4(), key_settings(trust, key_storage)
    async with serve_keys(settings, SECTION), key_client(trust, settings.bind) as keys:
        await keys.data_key(subject, ALICE, create=True)
        async with key_client(trust, settings.bind, "eu-2") as sibling:
            with pytest.raises(Forbidden):
                await sibling.shred(subject)
    assert str(subject) not in (settings.state / "shredded.log").read_text()
    async with serve_keys(settings, SECTION), key_client(trust, settings.bind) as keys:
        assert (await keys.data_key(subject, ALICE)).subject == subject


async def test_a_restored_key_store_gives_no_destroyed_key_back(trust: Trust, key_storage: Storage) -> None:
    """The rows of a backup are put back under a service that starts again."""
    subject, other, settings = uuid4(), uuid4(), key_settings(trust, key_storage)
    async with serve_keys(settings, SECTION), key_client(trust, settings.bind) as keys:
        for each in (subject, other):
            await keys.data_key(each, each, create=True)
        async with superuser(key_storage) as connection:
            backup = await connection.fetch("SELECT * FROM keys.data_keys WHERE subject = $1", subject)
            await keys.shred(subject)
    with (settings.state / "shredded.log").open("ab") as log:
        log.write(b'{"cell": "eu-1", "subje')  # a shred that ended before it was acknowledged
    async with superuser(key_storage) as connection:
        await connection.execute("DELETE FROM keys.shredded WHERE subject = $1", subject)
        await connection.execute("UPDATE keys.subjects SET destroyed = NULL WHERE subject = $1", subject)
        await connection.copy_records_to_table("data_keys", schema_name="keys", records=[tuple(row) for row in backup])
        for _ in range(2):
            async with serve_keys(settings, SECTION), key_client(trust, settings.bind) as keys:
                with pytest.raises(KeyDestroyed):
                    await keys.data_key(subject, subject, create=True)
                assert (await keys.data_key(other, other)).subject == other
                await keys.shred(uuid4())  # the log goes on after the line that was cut off
        assert await connection.fetchval("SELECT count(*) FROM keys.data_keys WHERE subject = $1", subject) == 0


async def test_a_store_that_is_restored_under_a_service_gives_no_destroyed_key_back(
    trust: Trust, key_storage: Storage
) -> None:
    """The service goes on; what it asks next is another server, with the rows of a backup."""
    subject, other, settings = uuid4(), uuid4(), key_settings(trust, key_storage)
    async with serve_keys(settings, SECTION), key_client(trust, settings.bind) as keys:
        for each in (subject, other):
            await keys.data_key(each, each, create=True)
        async with superuser(key_storage) as connection:
            backup = await connection.fetch("SELECT * FROM keys.data_keys WHERE subject = $1", subject)
            await keys.shred(subject)
            await connection.execute("DELETE FROM keys.shredded WHERE subject = $1", subject)
            await connection.execute("UPDATE keys.subjects SET destroyed = NULL WHERE subject = $1", subject)
            rows = [tuple(row) for row in backup]
            await connection.copy_records_to_table("data_keys", schema_name="keys", records=rows)
        key_storage.kill()
        key_storage.start()

        async with key_client(trust, settings.bind) as fresh:

            async def refused() -> bool:
                """The first answer that there is."""
                with suppress(Unavailable):
                    with pytest.raises(KeyDestroyed):
                        await fresh.data_key(subject, subject)
                    return True
                return False

            await until(refused, "the server to be back")
            assert (await fresh.data_key(other, other)).subject == other
    async with superuser(key_storage) as connection:
        assert await connection.fetchval("SELECT count(*) FROM keys.data_keys WHERE subject = $1", subject) == 0


async def test_a_receipt_is_believed_by_its_own_key_alone(trust: Trust, key_storage: Storage, tmp_path: Path) -> None:
    settings = key_settings(trust, key_storage)
    async with serve_keys(settings, SECTION), key_client(trust, settings.bind) as keys:
        answer, public = await keys.shred(uuid4()), (await keys.receipt_key()).encode()
    receipt, endorsed = answer.receipt, answer.key.encode()
    verify_receipt(receipt, "acme", public)
    said = verify_receipt(receipt, "acme", endorsed)
    authorities = {name: (trust.folder / "authorities" / f"{name}.pem").read_bytes() for name in ("eu", "us")}
    check_endorsed(endorsed, said, authorities["us"] + authorities["eu"])
    stranger = Signer.load_or_create(tmp_path / "stranger.key").public_pem()
    gateway = trust.credentials("eu", Role.GATEWAY, "eu-1.fra")
    unbelieved = [
        (public, said, authorities["eu"]),
        (stranger + endorsed.removeprefix(public), said, authorities["eu"]),
        (endorsed, said, authorities["us"]),
        (endorsed, said, Authority.create("acme", "eu").pem()),
        (endorsed, said.model_copy(update={"store": said.store + "x"}), authorities["eu"]),
        (endorsed, said.model_copy(update={"iat": said.iat + 91 * 86_400}), authorities["eu"]),
        (endorse(public, gateway), said, authorities["eu"]),
        (endorse(public, gateway), said.model_copy(update={"store": gateway.identity.uri}), authorities["eu"]),
    ]
    for key, claimed, authority in unbelieved:
        with pytest.raises(TokenInvalid):
            check_endorsed(key, claimed, authority)
    other = Signer.load_or_create(tmp_path / "other.key")
    head, body, signature = receipt.split(".")
    forged = [
        (receipt, "other", public),
        (receipt, "acme", other.public_pem()),
        (receipt, "acme", b"no key"),
        (f"{head}.{body[:-2]}AA.{signature}", "acme", public),
        (other.sign({"iss": "acme"}, TokenType.SHRED_RECEIPT), "acme", other.public_pem()),
        (other.sign({"iss": "acme"}, TokenType.PIN_GRANT), "acme", other.public_pem()),
    ]
    for text, deployment, key in forged:
        with pytest.raises(TokenInvalid):
            verify_receipt(text, deployment, key)
