"""Thirty-two claimers at once, at two directory processes over one database: one home each, and exact counts."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from math import ceil
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from domicile_testing import Storage, Trust
from domicile_testing.directories import Cells, any_key, forget_marks
from domicile_testing.directory_processes import Site, directory_site
from domicile_testing.long import long_form, seeded

from domicile.client import DirectoryClient
from domicile.identity import Signer
from domicile.model import AliasKey, Conflict, Pin, Role, SubjectKey, Unavailable, WrongCell
from domicile.model.wire import ClaimRequest

CLAIMERS = 32
CELLS: Cells = {"eu-1": (300, "open"), "eu-2": (100, "open"), "us-1": (100, "open")}
CLAIMS = {"eu": [ClaimRequest(residence="DE"), ClaimRequest(jurisdiction="eu")], "us": [ClaimRequest(residence="US")]}
Answer = tuple[str, Pin | None]
"""Which jurisdiction was asked for, and the pin; None where the claim was refused as a contradiction."""


@pytest.fixture
async def site(
    trust: Trust, storage: Storage, operator: Signer, database: asyncpg.Connection, tmp_path: Path
) -> AsyncIterator[Site]:
    await database.execute("DROP SCHEMA IF EXISTS directory CASCADE")
    forget_marks(trust)
    async with directory_site(trust, storage, operator, tmp_path) as running:
        await running.only(0).publish(1, CELLS)
        yield running


async def answer(client: DirectoryClient, key: SubjectKey, wish: ClaimRequest) -> Pin | None:
    while True:
        with suppress(Unavailable):
            try:
                return await client.claim(key, wish)
            except Conflict:
                return None


async def claim_all(
    clients: Sequence[DirectoryClient], keys: Sequence[SubjectKey], chance: random.Random
) -> dict[SubjectKey, list[Answer]]:
    """Each subject is claimed four times, at nearly the same time, and by some claimers in the other jurisdiction.

    Who is told "unavailable" asks again: nothing was done.
    """
    answers: dict[SubjectKey, list[Answer]] = {key: [] for key in keys}
    wishes = iter([(key, wish) for key in keys for wish in chance.sample(["eu", "eu", "eu", "us", "us", "us"], 4)])

    async def claimer(client: DirectoryClient) -> None:
        for key, jurisdiction in wishes:
            answers[key].append((jurisdiction, await answer(client, key, chance.choice(CLAIMS[jurisdiction]))))

    await asyncio.gather(*map(claimer, clients))
    return answers


def check_answers(answers: dict[SubjectKey, list[Answer]]) -> dict[SubjectKey, Pin]:
    """The same pin to whoever asked for its jurisdiction, a refusal to all others."""
    pins: dict[SubjectKey, Pin] = {}
    for key, given in answers.items():
        made = {pin for _, pin in given if pin is not None}
        assert len(made) == 1, (key, given)
        pins[key] = made.pop()
        assert (pins[key].subject_key, pins[key].epoch) == (key, 1)
        for jurisdiction, pin in given:
            assert (pin is not None) == (jurisdiction == pins[key].jurisdiction), (key, given)
    return pins


async def check_counts(database: asyncpg.Connection, pins: dict[SubjectKey, Pin]) -> None:
    """The database has these pins and no other; each change was logged once; no cell holds more than its bound."""
    rows = await database.fetch("SELECT subject_key, jurisdiction, cell, epoch, state FROM directory.pins")
    assert {SubjectKey(row["subject_key"]): Pin(**dict(row)) for row in rows} == pins
    logged = await database.fetch("SELECT sequence, subject_key FROM directory.changes ORDER BY sequence")
    assert [row["sequence"] for row in logged] == list(range(1, len(pins) + 1))
    assert {SubjectKey(row["subject_key"]) for row in logged} == set(pins)
    counted = await database.fetch(
        "SELECT key AS cell, (value ->> 'placed')::int AS placed FROM directory.rounds, jsonb_each(cells)"
    )
    by_cell = Counter(pin.cell for pin in pins.values())
    assert {row["cell"]: row["placed"] for row in counted if row["placed"]} == dict(by_cell)
    for jurisdiction in CLAIMS:
        weights = {cell: weight for cell, (weight, _) in CELLS.items() if cell.startswith(jurisdiction)}
        placed = sum(by_cell[cell] for cell in weights)
        for cell, weight in weights.items():
            assert by_cell[cell] <= ceil(1.25 * placed * weight / sum(weights.values())), by_cell


async def check_grants(site: Site, pins: Sequence[Pin]) -> None:
    """Of all cells' gateways, the home's gets a grant, and no other does."""
    gateways = {cell: site.client(cell.partition("-")[0], Role.GATEWAY, f"{cell}.fra") for cell in CELLS}

    async def granted(cell: str, key: SubjectKey) -> bool:
        try:
            return bool(await gateways[cell].grant(key, uuid4()))
        except WrongCell:
            return False

    for pin in pins:
        given = await asyncio.gather(*(granted(cell, pin.subject_key) for cell in CELLS))
        assert [cell for cell, has in zip(CELLS, given, strict=True) if has] == [pin.cell]


async def test_thirty_two_claimers_of_a_thousand_subjects(site: Site, database: asyncpg.Connection) -> None:
    chance = seeded()
    keys = [any_key() for _ in range(1000)]
    clients = [site.client("eu", Role.APP) for _ in range(CLAIMERS)]
    pins = check_answers(await claim_all(clients, keys, chance))
    await check_counts(database, pins)
    await check_grants(site, chance.sample(list(pins.values()), 40))


@pytest.mark.full
async def test_thirty_two_claimers_for_long(site: Site, database: asyncpg.Connection) -> None:
    going_on, chance = long_form(0.06), seeded()
    clients = [site.client("eu", Role.APP) for _ in range(CLAIMERS)]
    pins: dict[SubjectKey, Pin] = {}
    while going_on():
        begun = check_answers(await claim_all(clients, [any_key() for _ in range(1000)], chance))
        again = {key: await clients[0].pin(key) for key in chance.sample(list(begun), 50)}
        assert again.items() <= begun.items()
        pins |= begun
        await check_counts(database, pins)
        await check_grants(site, chance.sample(list(begun.values()), 40))


async def take_one_alias(site: Site, homes: Sequence[Pin]) -> None:
    """Each subject's own home cell asks for the alias, all at once."""
    alias = AliasKey(any_key())
    apps = {cell: site.client(cell.partition("-")[0], Role.APP, f"{cell}.fra") for cell in CELLS}
    takes = [apps[pin.cell].put_alias("email", alias, pin.subject_key) for pin in homes]
    results = await asyncio.gather(*takes, return_exceptions=True)
    holders = [pin.subject_key for pin, result in zip(homes, results, strict=True) if result is None]
    assert holders == [await apps["us-1"].alias("email", alias)]
    assert Counter(type(result) for result in results) == {type(None): 1, Conflict: len(homes) - 1}


async def at_home(site: Site) -> list[Pin]:
    """One subject for each claimer, in all cells."""
    app = site.client("eu", Role.APP)
    wishes = [CLAIMS["eu"][0], CLAIMS["us"][0]] * (CLAIMERS // 2)
    pins = await asyncio.gather(*(app.claim(any_key(), wish) for wish in wishes))
    assert {pin.cell for pin in pins} == set(CELLS)
    return pins


async def test_thirty_two_takers_of_one_alias_have_one_winner(site: Site) -> None:
    homes = await at_home(site)
    for _ in range(5):
        await take_one_alias(site, homes)


@pytest.mark.full
async def test_aliases_are_taken_for_long(site: Site) -> None:
    going_on, homes = long_form(0.03), await at_home(site)
    while going_on():
        await take_one_alias(site, homes)
