"""By what a subject is named: aliases that one subject holds, keys of two peppers at once, and their end."""

from __future__ import annotations

import asyncio
import secrets
from uuid import uuid4

import asyncpg
import pytest
from domicile_testing.databases import until
from domicile_testing.directories import RunningDirectory

from domicile.client import Change, DirectoryClient
from domicile.directory.transactions import SQL
from domicile.model import (
    GLOBAL,
    Conflict,
    DomicileError,
    NotFound,
    Pepper,
    Peppers,
    Pin,
    PinState,
    Position,
    Role,
    SubjectKey,
    UnknownSubject,
    WrongCell,
)
from domicile.model.wire import AliasRekey, ClaimRequest, PepperCount, RekeyRequest

OLD, NEW = Pepper(1, b"o" * 32), Pepper(2, b"n" * 32)
BEFORE, AFTER = Peppers(OLD, (NEW,)), Peppers(NEW, (OLD,))
"""What processes are given on either side of the change of the pepper in force."""
CLAIMERS = 32


def someone() -> str:
    return f"user-{secrets.token_hex(8)}"


def request(others: list[SubjectKey], residence: str = "DE") -> ClaimRequest:
    return ClaimRequest(residence=residence, other_keys=others)


async def claim(client: DirectoryClient, peppers: Peppers, user: str, residence: str = "DE") -> Pin:
    key, *others = peppers.subject_keys(user)
    return await client.claim(key, request(others, residence))


def gateway(directory: RunningDirectory, pin: Pin) -> DirectoryClient:
    return directory.client(pin.jurisdiction, Role.GATEWAY, f"{pin.cell}.fra")


def app(directory: RunningDirectory, pin: Pin) -> DirectoryClient:
    return directory.client(pin.jurisdiction, Role.APP, f"{pin.cell}.fra")


def operator(directory: RunningDirectory) -> DirectoryClient:
    return directory.client(GLOBAL, Role.OPERATOR)


def renamed(kind: str, value: str) -> AliasRekey:
    new, old = AFTER.alias_keys(kind, value)
    return AliasRekey.model_validate({"kind": kind, "alias_key": old, "successor": new})


async def counted(directory: RunningDirectory) -> dict[int, PepperCount]:
    return {count.version: count for count in (await operator(directory).peppers()).versions}


async def pins(database: asyncpg.Connection) -> list[Pin]:
    rows = await database.fetch("SELECT subject_key, jurisdiction, cell, epoch, state FROM directory.pins ORDER BY 1")
    return [Pin(**dict(row)) for row in rows]


async def test_processes_at_either_pepper_give_a_subject_one_home(
    directory: RunningDirectory, database: asyncpg.Connection
) -> None:
    await claim(directory.app, Peppers(OLD), someone())
    await operator(directory).announce_pepper(2)
    clients = [directory.app for _ in range(CLAIMERS)]
    for _ in range(4):
        user = someone()
        sides = [BEFORE, AFTER] * (CLAIMERS // 2)
        found = await asyncio.gather(*(claim(c, side, user) for c, side in zip(clients, sides, strict=True)))
        assert len(set(found)) == 1
    assert len(await pins(database)) == 5


async def test_at_either_pepper_one_jurisdiction_wins(
    directory: RunningDirectory, database: asyncpg.Connection
) -> None:
    await claim(directory.app, Peppers(OLD), someone())
    await operator(directory).announce_pepper(2)
    user = someone()
    claims = [(BEFORE, "DE"), (AFTER, "US")] * 8
    answers = await asyncio.gather(
        *(claim(directory.app, side, user, where) for side, where in claims), return_exceptions=True
    )
    (mine,) = {answer for answer in answers if isinstance(answer, Pin)}
    assert {type(answer) for answer in answers if not isinstance(answer, Pin)} == {Conflict}
    assert mine in await pins(database)
    assert len(await pins(database)) == 2


async def test_a_claim_names_its_subject_by_every_pepper_in_use(
    directory: RunningDirectory, database: asyncpg.Connection
) -> None:
    user = someone()
    home = await claim(directory.app, Peppers(OLD), user)
    with pytest.raises(Conflict, match="not announced"):
        await claim(directory.app, AFTER, someone())
    assert await claim(directory.app, BEFORE, user) == home, "a pepper that comes may be named before it is announced"
    await operator(directory).announce_pepper(2)
    await operator(directory).announce_pepper(2)
    for short in (Peppers(OLD), Peppers(NEW)):
        with pytest.raises(Conflict, match="left out"):
            await claim(directory.app, short, someone())
    assert await claim(directory.app, AFTER, user) == home
    assert await pins(database) == [home]
    with pytest.raises(DomicileError, match="may not use"):
        await directory.client("eu", Role.OPERATOR).announce_pepper(3)


async def test_an_alias_under_one_pepper_is_taken_under_the_other(directory: RunningDirectory) -> None:
    mine = await claim(directory.app, BEFORE, someone())
    await operator(directory).announce_pepper(2)
    other = await claim(directory.app, BEFORE, someone())
    while other.cell != mine.cell:
        other = await claim(directory.app, BEFORE, someone())
    client = app(directory, mine)
    old, new = BEFORE.alias_keys("email", "a@example.eu")
    await client.put_alias("email", old, mine.subject_key, [new])
    with pytest.raises(Conflict, match="another subject"):
        await client.put_alias("email", new, other.subject_key, [old])
    with pytest.raises(Conflict, match="left out"):
        await client.put_alias("email", new, other.subject_key)
    await client.put_alias("email", new, mine.subject_key, [old])
    assert await client.alias("email", new) == mine.subject_key
    with pytest.raises(NotFound):
        await client.alias("email", old)


async def test_claimers_of_one_alias_under_either_pepper_leave_one_holder(
    directory: RunningDirectory, database: asyncpg.Connection
) -> None:
    first = await claim(directory.app, BEFORE, someone())
    await operator(directory).announce_pepper(2)
    subjects = [first]
    while len(subjects) < 8:
        pin = await claim(directory.app, BEFORE, someone())
        subjects += [pin] if pin.cell == first.cell else []
    old, new = BEFORE.alias_keys("email", "one@example.eu")

    async def take(number: int) -> type[DomicileError] | None:
        keys = (old, new) if number % 2 else (new, old)
        try:
            await app(directory, first).put_alias(
                "email", keys[0], subjects[number % len(subjects)].subject_key, keys[1:]
            )
        except DomicileError as error:
            return type(error)
        return None

    answers = await asyncio.gather(*map(take, range(CLAIMERS)))
    assert set(answers) == {None, Conflict}
    rows = await database.fetch("SELECT subject_key FROM directory.aliases")
    assert len(rows) == 1
    holder = [pin.subject_key for pin in subjects].index(SubjectKey(rows[0]["subject_key"]))
    assert {n % len(subjects) for n, answer in enumerate(answers) if answer is None} == {holder}


async def test_who_is_renamed_stays_at_home_at_the_same_epoch(
    directory: RunningDirectory, database: asyncpg.Connection
) -> None:
    user = someone()
    pin = await claim(directory.app, BEFORE, user)
    await operator(directory).announce_pepper(2)
    old, new = BEFORE.subject_keys(user)
    own = app(directory, pin)
    await own.put_alias("email", OLD.alias_key("email", "a@example.eu"), old, [NEW.alias_key("email", "a@example.eu")])
    await own.put_alias("phone", OLD.alias_key("phone", "+4930123456"), old, [NEW.alias_key("phone", "+4930123456")])
    change = RekeyRequest(successor=new, aliases=[renamed("email", "a@example.eu")])
    elsewhere = directory.client("us", Role.GATEWAY, "us-1.iad")
    with pytest.raises(WrongCell):
        await elsewhere.rekey(old, change)
    for _ in range(2):
        after = await gateway(directory, pin).rekey(old, change)
        assert after == pin.model_copy(update={"subject_key": new})
    tombstone = pin.model_copy(update={"state": PinState.ERASED, "epoch": pin.epoch + 2})
    assert await pins(database) == [tombstone, after]
    for side in (BEFORE, AFTER):
        assert await claim(directory.app, side, user) == after
    assert await own.alias("email", NEW.alias_key("email", "a@example.eu")) == new
    assert await own.alias("phone", OLD.alias_key("phone", "+4930123456")) == new, "an alias that was not given"
    with pytest.raises(NotFound):
        await own.alias("email", OLD.alias_key("email", "a@example.eu"))
    with pytest.raises(UnknownSubject):
        await own.put_alias("email", NEW.alias_key("email", "b@example.eu"), old, [OLD.alias_key("email", "b@x.eu")])
    assert await gateway(directory, pin).grant(new, uuid4())
    with pytest.raises(Conflict):
        await gateway(directory, pin).grant(old, uuid4())
    # aliases that a campaign comes to later
    await gateway(directory, pin).rekey(new, RekeyRequest(successor=new, aliases=[renamed("phone", "+4930123456")]))
    assert await own.alias("phone", NEW.alias_key("phone", "+4930123456")) == new


async def test_a_campaign_gives_nobody_an_alias_that_is_not_theirs_any_more(
    directory: RunningDirectory, database: asyncpg.Connection
) -> None:
    user = someone()
    pin = await claim(directory.app, BEFORE, user)
    await operator(directory).announce_pepper(2)
    old, new = BEFORE.subject_keys(user)
    own, keys = app(directory, pin), BEFORE.alias_keys("email", "a@example.eu")
    await own.put_alias("email", keys[0], old, [keys[1]])
    await own.delete_alias("email", keys[0], old)
    other = await claim(directory.app, BEFORE, someone())
    await app(directory, other).put_alias("phone", OLD.alias_key("phone", "+4930123456"), other.subject_key,
                                          [NEW.alias_key("phone", "+4930123456")])  # fmt: skip
    before = await database.fetch("SELECT * FROM directory.aliases")
    list_of_before = [renamed("email", "a@example.eu"), renamed("phone", "+4930123456")]
    for _ in range(2):
        await gateway(directory, pin).rekey(old, RekeyRequest(successor=new, aliases=list_of_before))
        assert await database.fetch("SELECT * FROM directory.aliases") == before


async def test_nobody_is_named_by_a_pepper_that_is_not_announced(directory: RunningDirectory) -> None:
    """It would be announced by that, and each claim of a process without it refused."""
    user = someone()
    pin = await claim(directory.app, Peppers(OLD), user)
    with pytest.raises(Conflict, match="pepper 2 is not announced"):
        await gateway(directory, pin).rekey(pin.subject_key, RekeyRequest(successor=NEW.subject_key(user)))
    alone = RekeyRequest(successor=pin.subject_key, aliases=[renamed("email", "a@example.eu")])
    with pytest.raises(Conflict, match="pepper 2 is not announced"):
        await gateway(directory, pin).rekey(pin.subject_key, alone)
    assert (await gateway(directory, pin).reconciliation()).announced == [1]
    await claim(directory.app, Peppers(OLD), someone())


async def test_a_rotation_can_be_undone(directory: RunningDirectory) -> None:
    user = someone()
    pin = await claim(directory.app, BEFORE, user)
    await operator(directory).announce_pepper(2)
    old, new = BEFORE.subject_keys(user)
    await gateway(directory, pin).rekey(old, RekeyRequest(successor=new))
    back = await gateway(directory, pin).rekey(new, RekeyRequest(successor=old))
    assert (back.subject_key, back.cell, back.state) == (old, pin.cell, PinState.ACTIVE)
    assert back.epoch > pin.epoch + 1, "an epoch never falls"
    assert await claim(directory.app, AFTER, user) == back


async def test_another_subjects_key_is_no_successor(directory: RunningDirectory) -> None:
    mine = await claim(directory.app, BEFORE, someone())
    await operator(directory).announce_pepper(2)
    other = await claim(directory.app, AFTER, someone())
    with pytest.raises(Conflict, match="another subject"):
        await gateway(directory, mine).rekey(mine.subject_key, RekeyRequest(successor=other.subject_key))
    with pytest.raises(UnknownSubject):
        await gateway(directory, mine).rekey(OLD.subject_key(someone()), RekeyRequest(successor=other.subject_key))


async def test_readers_hear_of_both_names(directory: RunningDirectory, database: asyncpg.Connection) -> None:
    user = someone()
    pin = await claim(directory.app, BEFORE, user)
    await operator(directory).announce_pepper(2)
    (row,) = await database.fetch("SELECT generation, sequence FROM directory.clock")
    start = Position(generation=row["generation"], sequence=row["sequence"])
    old, new = BEFORE.subject_keys(user)
    await gateway(directory, pin).rekey(old, RekeyRequest(successor=new))
    heard: list[Change] = []
    async for changes in directory.client("eu", Role.ROUTER).follow(start):
        heard += [change for change in changes if change.pin is not None]
        if len(heard) == 2:
            break
    states = {change.pin.subject_key: change.pin.state for change in heard if change.pin is not None}
    assert states == {new: PinState.ACTIVE, old: PinState.ERASED}


async def test_an_erased_subject_releases_its_aliases_and_comes_back_above_its_epoch(
    directory: RunningDirectory, database: asyncpg.Connection
) -> None:
    user, alias = someone(), OLD.alias_key("email", "a@example.eu")
    pin = await claim(directory.app, Peppers(OLD), user)
    await app(directory, pin).put_alias("email", alias, pin.subject_key)
    with pytest.raises(WrongCell):
        await directory.client("us", Role.GATEWAY, "us-1.iad").erase(pin.subject_key, pin.epoch)
    with pytest.raises(Conflict, match="epoch"):
        await gateway(directory, pin).erase(pin.subject_key, 7)
    for _ in range(2):
        tombstone = await gateway(directory, pin).erase(pin.subject_key, pin.epoch)
        assert (tombstone.state, tombstone.epoch) == (PinState.ERASED, pin.epoch + 1)
    with pytest.raises(NotFound):
        await directory.app.alias("email", alias)
    other = await claim(directory.app, Peppers(OLD), someone())
    await app(directory, other).put_alias("email", alias, other.subject_key)
    again = await claim(directory.app, Peppers(OLD), user, "US")
    assert (again.jurisdiction, again.epoch, again.state) == ("us", pin.epoch + 2, PinState.ACTIVE)
    with pytest.raises(WrongCell):
        await gateway(directory, pin).erase(pin.subject_key, pin.epoch)
    assert again in await pins(database)


async def test_an_epoch_survives_erasure_and_another_pepper(directory: RunningDirectory) -> None:
    user = someone()
    pin = await claim(directory.app, BEFORE, user)
    await gateway(directory, pin).erase(pin.subject_key, pin.epoch)
    await operator(directory).announce_pepper(2)
    again = await claim(directory.app, AFTER, user)
    assert (again.subject_key, again.epoch) == (NEW.subject_key(user), pin.epoch + 2)


async def test_a_pepper_is_forgotten_once_it_names_nobody(
    directory: RunningDirectory, database: asyncpg.Connection
) -> None:
    user = someone()
    pin = await claim(directory.app, BEFORE, user)
    await operator(directory).announce_pepper(2)
    alias = OLD.alias_key("email", "a@example.eu")
    await app(directory, pin).put_alias("email", alias, pin.subject_key, [NEW.alias_key("email", "a@example.eu")])
    assert await counted(directory) == {
        1: PepperCount(version=1, pins=1, tombstones=0, aliases=1, forgotten=False),
        2: PepperCount(version=2, pins=0, tombstones=0, aliases=0, forgotten=False),
    }
    with pytest.raises(Conflict, match="still names"):
        await operator(directory).forget_pepper(1)
    new = NEW.subject_key(user)
    await gateway(directory, pin).rekey(pin.subject_key, RekeyRequest(successor=new))
    with pytest.raises(Conflict, match="still names"):
        await operator(directory).forget_pepper(1)
    aliases = [renamed("email", "a@example.eu")]
    await gateway(directory, pin).rekey(new, RekeyRequest(successor=new, aliases=aliases))
    generation = await database.fetchval("SELECT generation FROM directory.clock")
    for _ in range(2):
        await operator(directory).forget_pepper(1)
    assert [each.subject_key for each in await pins(database)] == [new]
    assert (await counted(directory))[1] == PepperCount(version=1, pins=0, tombstones=0, aliases=0, forgotten=True)
    assert await database.fetchval("SELECT generation FROM directory.clock") != generation, "readers load the map anew"
    assert (await gateway(directory, pin).reconciliation()).forgotten == [1]
    assert not (await gateway(directory, pin).reconciliation()).reconciling
    # a process that was left behind can't bring it back
    with pytest.raises(Conflict, match="not announced"):
        await claim(directory.app, BEFORE, someone())
    with pytest.raises(asyncpg.PostgresError, match="forgotten"):
        await database.execute(
            "INSERT INTO directory.pins VALUES ($1, 'eu', 'eu-1', 9, 'active')", bytes(OLD.subject_key(user))
        )
    with pytest.raises(Conflict, match="forgotten"):
        await operator(directory).announce_pepper(1)
    assert await claim(directory.app, AFTER, user) == await directory.app.pin(new)
    assert (await claim(directory.app, Peppers(NEW), someone())).epoch == 1


async def test_a_forgetting_that_was_cut_off_goes_on(
    directory: RunningDirectory, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("domicile.directory.storage.FORGOTTEN", 2)
    await operator(directory).announce_pepper(1)
    await operator(directory).announce_pepper(2)
    users = [someone() for _ in range(7)]
    homes = [await claim(directory.app, AFTER, user) for user in users]
    left = [(bytes(OLD.subject_key(user)), "eu", "eu-1", 1, "erased") for user in users]
    await database.executemany("INSERT INTO directory.pins VALUES ($1, $2, $3, $4, $5)", left)
    generation = await database.fetchval("SELECT generation FROM directory.clock")
    assert not await database.fetchval(SQL["forget_pepper"], 1, 3)
    assert (await counted(directory))[1].tombstones == 4
    assert await database.fetchval("SELECT generation FROM directory.clock") == generation
    await operator(directory).forget_pepper(1)
    assert (await counted(directory))[1] == PepperCount(version=1, pins=0, tombstones=0, aliases=0, forgotten=True)
    after = await database.fetchval("SELECT generation FROM directory.clock")
    assert after != generation, "readers load the map anew"
    await operator(directory).forget_pepper(1)
    assert await database.fetchval("SELECT generation FROM directory.clock") == after, "and once only"
    assert sorted(await pins(database), key=str) == sorted(homes, key=str)


async def test_the_key_of_before_is_not_taken_for_an_erased_subject(directory: RunningDirectory) -> None:
    """Whoever asks by it must not be told that something is done which is not."""
    user = someone()
    pin = await claim(directory.app, BEFORE, user)
    await operator(directory).announce_pepper(2)
    old, new = BEFORE.subject_keys(user)
    keys = BEFORE.alias_keys("email", "a@example.eu")
    await app(directory, pin).put_alias("email", keys[0], old, [keys[1]])
    await gateway(directory, pin).rekey(old, RekeyRequest(successor=new))
    with pytest.raises(Conflict, match="erased"):
        await gateway(directory, pin).erase(old, pin.epoch)
    with pytest.raises(UnknownSubject):
        await app(directory, pin).delete_alias("email", keys[0], old)
    assert (await directory.app.pin(new)).state is PinState.ACTIVE
    assert await directory.app.alias("email", keys[0]) == new


async def test_the_first_two_claims_of_all_cannot_miss_each_other(
    directory: RunningDirectory, database: asyncpg.Connection
) -> None:
    user = someone()
    await database.execute("INSERT INTO directory.rounds VALUES ('eu', '{}')")
    async with database.transaction():
        await database.execute("SELECT FROM directory.rounds FOR UPDATE")
        claims = [asyncio.create_task(claim(directory.app, Peppers(pepper), user)) for pepper in (OLD, NEW)]
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        await until(lambda: _is(database, waiting, 2), "both claims to wait")
    found = await asyncio.gather(*claims, return_exceptions=True)
    assert [type(each) for each in found if isinstance(each, Exception)] == [Conflict]
    assert len(await pins(database)) == 1


async def test_an_alias_that_is_being_given_is_not_missed_when_its_pepper_is_forgotten(
    directory: RunningDirectory, database: asyncpg.Connection
) -> None:
    pin = await claim(directory.app, AFTER, someone())
    await operator(directory).announce_pepper(1)
    keys = BEFORE.alias_keys("email", "a@example.eu")
    async with database.transaction():
        await database.execute(SQL["lock_names"], 0x646F6D61, [bytes(keys[0])])
        given = asyncio.create_task(app(directory, pin).put_alias("email", keys[0], pin.subject_key, [keys[1]]))
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        await until(lambda: _is(database, waiting, 1), "the alias to wait")
        forgotten = asyncio.create_task(operator(directory).forget_pepper(1))
        await until(lambda: _is(database, waiting, 2), "the pepper to wait")
    await given
    with pytest.raises(Conflict, match="still names"):
        await forgotten


async def _is(database: asyncpg.Connection, query: str, count: int) -> bool:
    found: int = await database.fetchval(query)
    return found == count
