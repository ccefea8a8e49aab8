"""A subject is named by another key while it is served: nothing is refused, and no row is left behind."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated
from uuid import UUID, uuid4

import asyncpg
import pytest
from domicile_testing import Storage, Trust
from domicile_testing.certificates import PEPPER
from domicile_testing.homes import Surroundings

from domicile.model import Pepper, Peppers, Role, SubjectKey
from domicile.sample import Note, Profile
from domicile.sdk import Conflict, Home, Personal, Principal, Record, Residency, UnknownSubject
from domicile.sdk.store import FenceStore, apply_schema, open_pool

Somebody = Callable[[], tuple[str, SubjectKey]]
BOTH = "2:" + "cd" * 32 + "\n" + PEPPER
NEW, OLD = Peppers.parse(BOTH).current, Pepper.parse(PEPPER)


@pytest.fixture
async def eu_fences(trust: Trust, eu: Storage) -> AsyncIterator[FenceStore]:
    credentials = trust.credentials("eu", Role.GATEWAY, "eu-1.fra")
    pool = await open_pool(credentials, [eu.address], jurisdiction="eu", cell="eu-1", user="domicile_gateway")
    yield FenceStore(pool)
    pool.terminate()


@asynccontextmanager
async def with_peppers(around: Surroundings, folder: Path, text: str) -> AsyncIterator[Residency]:
    file = folder / "peppers"
    file.write_text(text)
    async with Residency.connect(around.settings(state=folder, pepper=file)) as residency:
        yield residency


async def signed_up(residency: Residency, user: str) -> Home:
    home = await residency.claim(user, residence="DE", aliases={"email": f"{user}@example.eu"})
    fields = {"user": user, "email": f"{user}@example.eu", "password": "x", "born": None, "plan": "pro"}
    await home.put(home.new(Profile, **fields))
    return home


async def test_rows_are_found_by_the_new_key_and_by_the_one_before(
    around: Surroundings,
    residency: Residency,
    eu_fences: FenceStore,
    eu_root: asyncpg.Connection,
    somebody: Somebody,
    tmp_path: Path,
) -> None:
    user, old = somebody()
    before = await signed_up(residency, user)
    new = NEW.subject_key(user)
    own, other = (f"{user}@example.eu", "somebody@example.eu")
    # one of them is not the subject's any more
    aliases = {OLD.alias_key("email", each): NEW.alias_key("email", each) for each in (own, other)}
    for _ in range(2):
        fence = await eu_fences.rekey(old, new, aliases)
        assert (fence.subject_key, fence.epoch, fence.state) == (new, before.epoch, "open")
    (row,) = await eu_root.fetch("SELECT subject_key, principal_key, version FROM profiles WHERE subject_key = $1", new)
    assert (row["principal_key"], row["version"]) == (new, 1)
    assert await eu_root.fetchval("SELECT count(*) FROM profiles WHERE subject_key = $1", old) == 0
    kept = await eu_root.fetchval("SELECT alias_keys::text FROM domicile.fences WHERE subject_key = $1", new)
    assert json.loads(kept) == {"email": str(NEW.alias_key("email", own))}
    for home in (before, await residency.home(user)):
        (found,) = await home.find(Profile, email=f"{user}@example.eu")
        assert found.user == user
        async with home.transaction() as transaction:
            await transaction.put(found.model_copy(update={"plan": f"{found.plan}+"}), version=found.version)
    async with with_peppers(around, tmp_path, BOTH) as later:
        around.directory.pin(new)
        home = await later.home(user)
        assert home.subject_key == new
        assert [profile.plan for profile in await home.all(Profile)] == ["pro++"]
        assert (await later.fence(old)) == (await later.fence(new))


class Received(Record, table="received"):
    sender: Annotated[UUID, Principal("user.unique_id")]
    text: Annotated[str, Personal("user.content.private")]


async def test_rows_stay_about_whom_they_were(
    residency: Residency, eu_fences: FenceStore, eu_root: asyncpg.Connection, somebody: Somebody
) -> None:
    await apply_schema(eu_root, "eu-1", "eu", [Received])
    user, old = somebody()
    home, sender = await signed_up(residency, user), uuid4()
    await home.put_many([home.new(Received, sender=who, text="x") for who in (sender, home.internal_id)])
    await eu_fences.rekey(old, NEW.subject_key(user), {})
    assert {each.sender for each in await home.all(Received)} == {sender, home.internal_id}
    for who in (sender, home.internal_id):
        (found,) = await home.find(Received, sender=who)
        assert (await home.update(found, text="y")).sender == who
        assert await home.put(home.new(Received, id=found.id, sender=who, text="z")) == 3


async def test_a_home_that_was_open_goes_on_through_the_change(
    residency: Residency, eu_fences: FenceStore, eu_root: asyncpg.Connection, somebody: Somebody
) -> None:
    """Writers that never look up anything anew, while their subject is renamed to and fro."""
    user, old = somebody()
    home = await signed_up(residency, user)
    new = NEW.subject_key(user)
    done = asyncio.Event()
    written: list[str] = []

    async def write(name: int) -> None:
        number = 0
        while not done.is_set():
            note = home.new(Note, text=f"{name}/{number}", topic="t")
            await home.put(note, version=0)
            written.append(note.text)
            number += 1
            found = await home.get(Note, note.id)
            assert found is not None
            assert found.text == note.text

    writers = [asyncio.create_task(write(name)) for name in range(4)]
    key, other = old, new
    for turn in range(6):
        while len(written) < 10 * (turn + 1):
            await asyncio.wait(writers, timeout=0.01, return_when=asyncio.FIRST_EXCEPTION)
            assert not [writer for writer in writers if writer.done()], [w.exception() for w in writers if w.done()]
        assert (await eu_fences.rekey(key, other, {})).subject_key == other
        key, other = other, key
    done.set()
    await asyncio.gather(*writers)
    assert sorted(note.text for note in await home.all(Note)) == sorted(written)
    assert await eu_root.fetchval("SELECT count(*) FROM notes WHERE subject_key = $1", key) == len(written)
    assert await eu_root.fetchval("SELECT count(*) FROM notes WHERE subject_key = $1", other) == 0


async def test_from_abroad_too_either_key_finds_the_rows(
    around: Surroundings, residency: Residency, us_fences: FenceStore, us_root: asyncpg.Connection, somebody: Somebody
) -> None:
    user, old = somebody()
    around.directory.pin(old, "us-1")
    await us_fences.open(around.directory.grant(old, "us-1", await us_fences.incarnation()), {})
    row = uuid4()
    await us_root.execute(
        'INSERT INTO profiles (jurisdiction, subject_key, principal_key, id, epoch, "user", email, email_index, '
        "password, plan) VALUES ('us', $1, $1, $2, 1, $3, $3, $3, $3, 'pro')",
        bytes(old),
        row,
        b"x",
    )
    abroad = await residency.abroad(user)
    assert [each.id for each in await abroad.find(Profile, plan="pro")] == [row]
    await us_fences.rekey(old, NEW.subject_key(user), {})
    assert [each.id for each in await abroad.find(Profile, plan="pro")] == [row]


async def test_a_fence_that_is_not_there_and_a_key_that_is_taken_are_told_apart(
    residency: Residency, eu_fences: FenceStore, somebody: Somebody
) -> None:
    (one, first), (two, second) = somebody(), somebody()
    for user in (one, two):
        await signed_up(residency, user)
    with pytest.raises(UnknownSubject):
        await eu_fences.rekey(somebody()[1], NEW.subject_key("x"), {})
    with pytest.raises(Conflict):
        await eu_fences.rekey(first, second, {})
    assert (await residency.home(one)).subject_key == first


async def test_a_key_of_before_is_forgotten_with_its_pepper(
    residency: Residency, eu_fences: FenceStore, somebody: Somebody
) -> None:
    user, old = somebody()
    await signed_up(residency, user)
    await eu_fences.rekey(old, NEW.subject_key(user), {})
    assert await residency.fence(old) is not None
    assert await eu_fences.forget_previous(7) == 0
    assert await eu_fences.forget_previous(old.pepper_version) >= 1
    assert await residency.fence(old) is None
    assert await residency.fence(NEW.subject_key(user)) is not None


async def test_no_second_fence_is_opened_for_who_was_renamed(
    around: Surroundings, residency: Residency, eu_fences: FenceStore, eu_root: asyncpg.Connection, somebody: Somebody
) -> None:
    """A grant for the key of before, made a moment earlier, comes late."""
    user, old = somebody()
    await signed_up(residency, user)
    late = around.directory.grant(old, "eu-1", await eu_fences.incarnation())
    new = NEW.subject_key(user)
    renamed = await eu_fences.rekey(old, new, {})
    assert await eu_fences.open(late, {}) == renamed
    count = "SELECT count(*) FROM domicile.fences WHERE subject_key = ANY ($1)"
    assert await eu_root.fetchval(count, [bytes(old), bytes(new)]) == 1


async def test_only_the_gateways_role_renames(eu: Storage, residency: Residency, somebody: Somebody) -> None:
    user, old = somebody()
    home = await signed_up(residency, user)
    app = await asyncpg.connect(
        host=eu.host, port=eu.port, user="domicile_app", database="domicile", ssl=eu.context(Role.APP, "eu-1.fra")
    )
    try:
        new = Pepper(2, b"x" * 32).subject_key(user)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await app.execute("SELECT domicile.rekey_fence($1, $2, '{}')", old, new)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await app.execute("SET SESSION AUTHORIZATION domicile_gateway")
        await app.execute(f"SET domicile.subject = '{old}'; SET domicile.epoch = '{home.epoch}'")
        with pytest.raises(asyncpg.PostgresError) as refused:
            await app.execute("UPDATE profiles SET subject_key = $1", new)
        assert refused.value.sqlstate in ("DM003", "42501")
    finally:
        await app.close()
