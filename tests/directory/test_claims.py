"""Claims over real PostgreSQL and mutual TLS: one subject, one pin, one answer, whoever races."""

from __future__ import annotations

import asyncio
import secrets

import asyncpg
import pytest
from domicile_testing import Storage, Trust
from domicile_testing.databases import until
from domicile_testing.directories import RunningDirectory, any_key, directory_settings, manifest, serving

from domicile.client import DirectoryClient
from domicile.directory.second_zone import SecondZone
from domicile.directory.storage import CLAIMS_AT_ONCE, POOL_SIZE, USER
from domicile.directory.storage import Storage as DirectoryStorage
from domicile.identity import Signer
from domicile.model import (
    GLOBAL,
    Address,
    Conflict,
    DomicileError,
    Pin,
    PinState,
    Role,
    SubjectKey,
    Unavailable,
)
from domicile.model.wire import ClaimRequest

GERMANY, AMERICA = ClaimRequest(residence="DE"), ClaimRequest(residence="US")
CLAIMERS = 32


async def counts(database: asyncpg.Connection, jurisdiction: str) -> dict[str, int]:
    """Pins of a jurisdiction by cell, read from the pins themselves."""
    rows = await database.fetch(
        "SELECT cell, count(*) FROM directory.pins WHERE jurisdiction = $1 GROUP BY 1", jurisdiction
    )
    return {row["cell"]: row["count"] for row in rows}


async def placed(database: asyncpg.Connection, jurisdiction: str) -> dict[str, int]:
    """The same, as the round counts them."""
    rows = await database.fetch(
        "SELECT key, (value ->> 'placed')::int AS placed FROM directory.rounds, jsonb_each(cells)"
        " WHERE jurisdiction = $1",
        jurisdiction,
    )
    return {row["key"]: row["placed"] for row in rows if row["placed"]}


async def outcome(client: DirectoryClient, key: SubjectKey, claim: ClaimRequest) -> Pin | type[DomicileError]:
    try:
        return await client.claim(key, claim)
    except DomicileError as error:
        return type(error)


async def test_a_claim_makes_a_pin_and_repeating_it_gives_the_same(directory: RunningDirectory) -> None:
    key = any_key()
    first = await directory.ask("PUT", f"/v1/pins/{key}", {"residence": "FR"})
    assert first.status == 201
    assert first.body["subject_key"] == str(key)
    assert (first.body["jurisdiction"], first.body["epoch"], first.body["state"]) == ("eu", 1, "active")
    again = await directory.ask("PUT", f"/v1/pins/{key}", {"residence": "DE"})
    assert (again.status, again.body) == (200, first.body)
    assert (await directory.app.pin(key)).cell == first.body["cell"]


async def test_concurrent_claims_of_one_subject_agree(
    directory: RunningDirectory, database: asyncpg.Connection
) -> None:
    key = any_key()
    clients = [directory.app for _ in range(CLAIMERS)]
    pins = await asyncio.gather(*(client.claim(key, GERMANY) for client in clients))
    assert len(set(pins)) == 1
    assert await counts(database, "eu") == {pins[0].cell: 1}
    assert await placed(database, "eu") == {pins[0].cell: 1}, "claims that lost are not counted"


async def test_of_claims_that_contradict_each_other_one_jurisdiction_wins(
    directory: RunningDirectory, database: asyncpg.Connection
) -> None:
    for _ in range(5):
        key = any_key()
        claims = [GERMANY, AMERICA] * (CLAIMERS // 2)
        answers = await asyncio.gather(*(outcome(directory.app, key, claim) for claim in claims))
        home = await directory.app.pin(key)
        for claim, answer in zip(claims, answers, strict=True):
            agrees = (claim is GERMANY) == (home.jurisdiction == "eu")
            assert answer == (home if agrees else Conflict)
    assert await counts(database, "eu") == await placed(database, "eu")
    assert await counts(database, "us") == await placed(database, "us")


async def test_concurrent_newcomers_are_counted_exactly_and_within_the_bound(
    directory: RunningDirectory, database: asyncpg.Connection
) -> None:
    clients = [directory.app for _ in range(CLAIMERS)]

    async def sign_up(client: DirectoryClient) -> None:
        for _ in range(4):
            await client.claim(any_key(), GERMANY)

    await asyncio.gather(*map(sign_up, clients))
    by_cell = await counts(database, "eu")
    assert sum(by_cell.values()) == 4 * CLAIMERS
    assert by_cell == await placed(database, "eu")
    assert max(by_cell.values()) <= 1.25 * 2 * CLAIMERS


async def test_two_directory_processes_give_one_answer(
    directory: RunningDirectory, trust: Trust, storage: Storage, operator: Signer
) -> None:
    settings = directory_settings(trust, storage.address, operator, name="iad")
    async with serving(settings, trust, operator) as second:
        keys = [any_key() for _ in range(16)]
        claims = [outcome(each.app, key, GERMANY) for key in keys for each in (directory, second)]
        answers = await asyncio.gather(*claims)
        assert answers[::2] == answers[1::2]
        await directory.publish(2, {"eu-3": (1, "open"), "us-1": (1, "open")})
        assert (await second.app.claim(any_key(), GERMANY)).cell == "eu-3"
        assert await directory.app.keys() == await second.app.keys()
        assert [key.domicile_use for key in await second.app.keys()] == 4 * ["pin-grant"]


async def test_a_traveller_who_signs_up_again_stays_at_home(directory: RunningDirectory) -> None:
    key = any_key()
    home = await directory.app.claim(key, GERMANY)
    for country in ("US", "BR"):
        assert await directory.app.claim(key, ClaimRequest(observed_country=country)) == home
    for claim in (AMERICA, ClaimRequest(jurisdiction="us")):
        answer = await directory.ask("PUT", f"/v1/pins/{key}", claim.model_dump(exclude_none=True))
        assert (answer.status, answer.body["code"]) == (409, "conflict")
    assert await directory.app.pin(key) == home


@pytest.mark.parametrize(
    "claim",
    [{}, {"observed_country": "BR"}, {"residence": "BR"}, {"jurisdiction": "mars"}, {"residence": "Germany"}, []],
)
async def test_a_claim_that_nothing_decides_is_refused_and_leaves_nothing(
    directory: RunningDirectory, database: asyncpg.Connection, claim: object
) -> None:
    key = any_key()
    answer = await directory.ask("PUT", f"/v1/pins/{key}", claim)
    assert (answer.status, answer.body["code"]) == (422, "invalid-input")
    assert await database.fetchval("SELECT count(*) FROM directory.pins") == 0
    assert await database.fetchval("SELECT count(*) FROM directory.rounds") == 0


async def test_a_tombstone_that_an_import_brings_amid_a_claim_is_gone_above(
    directory: RunningDirectory, database: asyncpg.Connection
) -> None:
    key = any_key()
    async with database.transaction():
        await database.execute("INSERT INTO directory.pins VALUES ($1, 'us', 'us-1', 5, 'erased')", key)
        claiming = asyncio.create_task(directory.app.claim(key, GERMANY))
        await until(
            lambda: database.fetchval("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"),
            "the claim waits for it",
        )
    pin = await claiming
    assert (pin.jurisdiction, pin.epoch) == ("eu", 6)


@pytest.mark.parametrize("versions", [(1, 1), (1, 2, 2)])
async def test_two_keys_by_one_pepper_are_refused(
    directory: RunningDirectory, database: asyncpg.Connection, versions: tuple[int, ...]
) -> None:
    first, *others = (SubjectKey(bytes([version]) + secrets.token_bytes(16)) for version in versions)
    claim = {"residence": "DE", "other_keys": list(map(str, others))}
    answer = await directory.ask("PUT", f"/v1/pins/{first}", claim)
    assert (answer.status, answer.body["code"]) == (422, "invalid-input")
    assert await database.fetchval("SELECT count(*) FROM directory.pins") == 0


async def test_before_a_topology_is_published_claims_wait_and_the_directory_is_ready(empty: RunningDirectory) -> None:
    answer = await empty.ask("PUT", f"/v1/pins/{any_key()}", {"residence": "DE"})
    assert (answer.status, answer.body["code"]) == (503, "unavailable")
    assert int(answer.headers["Retry-After"]) > 0
    ready = await empty.ask("GET", "/readyz", jurisdiction="global", role=Role.OPERATOR)
    assert ready.status == 200
    await empty.publish(1)
    assert (await empty.app.claim(any_key(), GERMANY)).jurisdiction == "eu"


async def test_after_a_publication_every_claim_uses_the_new_topology(directory: RunningDirectory) -> None:
    keys = [any_key() for _ in range(20)]
    homes = [await directory.app.claim(key, GERMANY) for key in keys]
    await directory.publish(
        2, {"eu-1": (100, "draining"), "eu-2": (1, "closed"), "eu-3": (1, "open"), "us-1": (1, "open")}
    )
    assert {(await directory.app.claim(any_key(), GERMANY)).cell for _ in range(10)} == {"eu-3"}
    assert [await directory.app.claim(key, GERMANY) for key in keys] == homes, "a new cell moves nobody"


async def test_a_publication_waits_for_the_claims_under_way(
    directory: RunningDirectory, trust: Trust, storage: Storage, database: asyncpg.Connection
) -> None:
    """So that nothing lands in a cell after the publication that closed it was acknowledged."""
    credentials = trust.credentials(GLOBAL, Role.DIRECTORY, "fra")
    async with DirectoryStorage.connect(credentials, [Address(storage.address)], SecondZone.ABSENT) as inside:
        async with inside.about([any_key()]):
            publication = asyncio.create_task(directory.publish(2, {"eu-2": (1, "open"), "us-1": (1, "open")}))
            waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            async with asyncio.timeout(1.5):
                while await database.fetchval(waiting) == 0:
                    assert not publication.done()
            newcomer = asyncio.create_task(directory.app.claim(any_key(), GERMANY))
            async with asyncio.timeout(1.5):
                while await database.fetchval(waiting) < 2:
                    assert not newcomer.done()
        await publication
        assert (await newcomer).cell == "eu-2", "who came after the publication waits for it"


async def test_without_an_open_cell_newcomers_wait_and_others_are_served(directory: RunningDirectory) -> None:
    key = any_key()
    home = await directory.app.claim(key, GERMANY)
    await directory.publish(2, {"eu-1": (1, "draining"), "eu-2": (1, "closed"), "us-1": (1, "open")})
    with pytest.raises(Unavailable, match="eu"):
        await directory.app.claim(any_key(), GERMANY)
    assert await directory.app.claim(key, GERMANY) == home
    assert (await directory.app.claim(any_key(), AMERICA)).cell == "us-1"


async def test_a_claim_whose_caller_has_gone_holds_nothing_up(directory: RunningDirectory) -> None:
    clients = [directory.app for _ in range(CLAIMERS)]
    keys = [any_key() for _ in clients]
    claims = [asyncio.create_task(client.claim(key, GERMANY)) for client, key in zip(clients, keys, strict=True)]
    await asyncio.wait(claims, return_when=asyncio.FIRST_COMPLETED)
    for claim in claims:
        claim.cancel()
    await asyncio.gather(*claims, return_exceptions=True)
    pins = [await directory.app.claim(key, GERMANY) for key in keys]
    assert [pin.state for pin in pins] == [PinState.ACTIVE] * CLAIMERS


async def test_claims_that_wait_for_each_other_leave_room_for_look_ups(
    directory: RunningDirectory, database: asyncpg.Connection
) -> None:
    known = await directory.app.claim(any_key(), GERMANY)
    reader = directory.client("eu", Role.ROUTER)
    async with database.transaction():
        await database.execute("SELECT FROM directory.rounds FOR UPDATE")
        claims = [asyncio.create_task(outcome(directory.app, any_key(), GERMANY)) for _ in range(CLAIMERS)]
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE usename = $1 AND wait_event_type = 'Lock'"
        async with asyncio.timeout(10):
            while await database.fetchval(waiting, USER) < CLAIMS_AT_ONCE:
                pass
        for _ in range(CLAIMERS):
            assert await reader.pin(known.subject_key, fresh=True) == known
        assert await database.fetchval(waiting, USER) == CLAIMS_AT_ONCE < POOL_SIZE
    answers = await asyncio.gather(*claims)
    assert Pin in {type(answer) for answer in answers}, "who waited is served when the lock is free"


async def test_a_topology_that_was_tampered_with_places_nobody(
    directory: RunningDirectory, database: asyncpg.Connection, tmp_path_factory: pytest.TempPathFactory
) -> None:
    stranger = Signer.load_or_create(tmp_path_factory.mktemp("stranger") / "key")
    forged = directory.signed(1, manifest({"eu-9": (1, "open"), "us-1": (1, "open")}), stranger)
    await database.execute("UPDATE directory.topology SET signed = $1, published = now()", forged.signed)
    with pytest.raises(Unavailable, match="believed"):
        await directory.app.claim(any_key(), GERMANY)


async def test_an_identifier_that_is_no_key_is_refused(directory: RunningDirectory) -> None:
    for wrong in ("alice", "A" * 34, "00" * 16, "00" * 18):
        assert (await directory.ask("PUT", f"/v1/pins/{wrong}", {"residence": "DE"})).status == 422
