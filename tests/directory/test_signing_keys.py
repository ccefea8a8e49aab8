"""Keys that sign grants change under traffic: two are published at any time, and no grant is refused for it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from domicile_testing import Storage, Trust
from domicile_testing.directories import RunningDirectory, any_key, directory_settings, serving

from domicile.cells.gateway.grants import Grants
from domicile.identity import Keyring, Signer, retirement_seconds
from domicile.model import GLOBAL, Conflict, FenceRefused, Forbidden, Identity, NotFound, Pin, Role, Unavailable
from domicile.model.wire import ClaimRequest, SigningKey

DAY = 86_400.0


class Published:
    """A key set that remembers what it was told, and may be out of reach."""

    def __init__(self) -> None:
        self.keys: dict[str, SigningKey] = {}
        self.retired: list[str] = []
        self.away = False

    async def publish_key(self, key: SigningKey) -> None:
        if self.away:
            raise Unavailable("away")
        if key.kid in self.retired:
            raise Conflict("retired")
        self.keys[key.kid] = key

    async def retire_key(self, kid: str) -> None:
        if self.away:
            raise Unavailable("away")
        if kid not in self.keys:
            raise NotFound("no such key")
        self.retired.append(kid)


async def test_a_set_that_was_put_back_to_before_a_key_holds_nothing_up(tmp_path: Path) -> None:
    """A process that could not retire it would not start, nor turn its keys ever again."""
    ring = Keyring(tmp_path / "grant.key", "pin-grant")
    await ring.publish(Published())
    ring.turn()
    published = Published()
    await ring.publish(published)
    assert published.keys.keys() == {ring.current.kid, ring.following.kid}
    assert not published.retired
    ring.turn()
    await ring.publish(published)
    assert len(published.retired) == 1


async def test_the_keys_of_tokens_are_told_apart_from_those_of_grants(directory: RunningDirectory) -> None:
    """Who verifies tokens and looks at no ``typ`` must not know a key that signs grants."""
    own = Signer.load_or_create(directory.trust.folder / "another-router.key").public("residency")
    path = f"/v1/signing-keys/{own.kid}"
    answer = await directory.ask("PUT", path, own.model_dump(mode="json"), role=Role.ROUTER, name="fra")
    assert answer.status in (200, 201, 204)
    whole = (await directory.ask("GET", "/.well-known/jwks.json", role=Role.EDGE, name="fra")).body["keys"]
    some = (await directory.ask("GET", "/v1/jwks/residency", role=Role.EDGE, name="fra")).body["keys"]
    assert {key["domicile_use"] for key in whole} == {"residency", "pin-grant"}
    assert some == [key for key in whole if key["domicile_use"] == "residency"]
    assert own.kid in {key["kid"] for key in some}


async def test_what_follows_is_published_before_it_signs(tmp_path: Path) -> None:
    published = Published()
    ring = Keyring(tmp_path / "grant.key", "pin-grant")
    await ring.publish(published)
    for _ in range(3):
        before = ring.current.kid
        following = ring.following.kid
        assert {before, following} <= published.keys.keys()
        ring.turn()
        assert ring.current.kid == following
        assert published.retired.count(before) == 0
        await ring.publish(published)
        assert published.retired.count(before) == 1
        assert ring.following.kid in published.keys
    again = Keyring(tmp_path / "grant.key", "pin-grant")
    assert (again.current.kid, again.following.kid) == (ring.current.kid, ring.following.kid)
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in tmp_path.iterdir())


@pytest.mark.parametrize("cut", ["write_private", "utime", "replace"])
async def test_a_turn_that_is_cut_off_leaves_good_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: str
) -> None:
    published = Published()
    ring = Keyring(tmp_path / "grant.key", "pin-grant")
    await ring.publish(published)
    owner = {"write_private": "domicile.identity.keyring", "utime": "os", "replace": "pathlib.Path"}[cut]

    def fail(*_: object, **__: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(f"{owner}.{cut}", fail)
        with pytest.raises(OSError, match="no space"):
            ring.turn()
    restarted = Keyring(tmp_path / "grant.key", "pin-grant")
    assert restarted.current.kid in published.keys
    await restarted.publish(published)
    assert restarted.current.kid not in published.retired
    assert restarted.following.kid in published.keys


async def test_a_key_is_in_force_for_its_period_and_not_before_it_is_published(tmp_path: Path) -> None:
    published = Published()
    path = tmp_path / "grant.key"
    ring = Keyring(path, "pin-grant")
    first = ring.current.kid

    async def after(days: float, until: Callable[[], bool]) -> None:
        made = path.stat().st_mtime
        os.utime(path, (made - days * DAY, made - days * DAY))
        task = asyncio.create_task(ring.keep(published, 30 * DAY, check=0.001))
        async with asyncio.timeout(10):
            while not until():  # noqa: ASYNC110 - nobody is told of a turn
                await asyncio.sleep(0.001)
        task.cancel()

    await after(29.9, lambda: len(published.keys) == 2)
    assert ring.current.kid == first
    published.away = True
    told = len(published.keys)
    task = asyncio.create_task(ring.keep(published, 1e-9, check=0.001))
    for _ in range(50):
        await asyncio.sleep(0)
    task.cancel()
    assert (ring.current.kid, len(published.keys)) == (first, told)
    published.away = False
    await after(30.1, lambda: first in published.retired)
    assert ring.current.kid != first


async def test_of_several_processes_over_one_folder_one_turns_and_all_sign_alike(tmp_path: Path) -> None:
    published = Published()
    rings = [Keyring(tmp_path / "token.key", "residency") for _ in range(3)]
    first = rings[0].current.kid
    tasks = [asyncio.create_task(ring.keep(published, 30 * DAY, check=0.001)) for ring in rings]

    async def until(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110 - nobody is told of a turn
                await asyncio.sleep(0.001)

    def age() -> None:
        os.utime(tmp_path / "token.key", (0, 0))

    await until(lambda: len(published.keys) == 2)
    age()
    await until(lambda: {ring.current.kid for ring in rings} not in ({first}, set()))
    await until(lambda: len({ring.current.kid for ring in rings}) == 1)
    assert published.retired == [first]
    second = rings[0].current.kid
    leader = next(task for task, ring in zip(tasks, rings, strict=True) if ring._lock is not None)
    leader.cancel()
    await asyncio.wait([leader])
    age()
    left = [ring for task, ring in zip(tasks, rings, strict=True) if task is not leader]
    await until(lambda: all(ring.current.kid != second for ring in left))
    assert published.retired == [first, second]
    for task in tasks:
        task.cancel()


async def test_grants_are_believed_through_any_number_of_turns(
    trust: Trust, storage: Storage, operator: Signer, empty: RunningDirectory
) -> None:
    assert empty.address
    settings = directory_settings(trust, storage.address, operator, name="iad").model_copy(
        update={"key_days": 0.3 / DAY}
    )
    async with serving(settings, trust, operator) as turning:
        await turning.publish(1)
        pins = [await turning.app.claim(any_key(), ClaimRequest(residence="US")) for _ in range(4)]
        identity = Identity("acme", "us", Role.GATEWAY, "us-1.iad")
        grants = Grants(turning.client("us", Role.GATEWAY, "us-1.iad"), identity)
        seen: set[str] = set()
        incarnation = uuid4()

        async def ask(pin: Pin) -> None:
            while len(seen) < 6:
                grant = await grants.fetch(pin.subject_key, incarnation)
                assert grant.sub == pin.subject_key
                seen.update(key.kid for key in await turning.app.keys())

        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            for pin in pins:
                group.create_task(ask(pin))


async def test_a_key_leaves_the_set_when_nothing_by_it_is_good_any_more(
    directory: RunningDirectory, database: asyncpg.Connection, tmp_path: Path
) -> None:
    key = Signer.load_or_create(tmp_path / "token.key").public("residency")
    router = directory.client("us", Role.ROUTER, "iad")
    await router.publish_key(key)
    with pytest.raises(NotFound):
        await directory.client("eu", Role.ROUTER, "fra").retire_key(key.kid)
    for _ in range(2):
        await router.retire_key(key.kid)
    assert key in await router.keys(), "a token of a moment ago is good"
    left = await database.fetchval(
        "SELECT extract(epoch FROM expires - now())::float8 FROM directory.signing_keys WHERE kid = $1", key.kid
    )
    assert 900 < left <= retirement_seconds("residency")
    await database.execute("UPDATE directory.signing_keys SET expires = now() WHERE kid = $1", key.kid)
    assert key not in await router.keys()
    with pytest.raises(Conflict):
        await router.publish_key(key)


async def test_an_operator_takes_a_stolen_key_out_at_once(directory: RunningDirectory) -> None:
    (pin,) = [await directory.app.claim(any_key(), ClaimRequest(residence="US"))]
    now = 0.0
    identity = Identity("acme", "us", Role.GATEWAY, "us-1.iad")
    grants = Grants(directory.client("us", Role.GATEWAY, "us-1.iad"), identity, clock=lambda: now)
    await grants.fetch(pin.subject_key, uuid4())
    for key in await directory.app.keys():
        with pytest.raises(Forbidden):
            await directory.client("us", Role.OPERATOR).revoke_key(key.kid)
        await directory.client(GLOBAL, Role.OPERATOR).revoke_key(key.kid)
    assert await directory.app.keys() == []
    await grants.fetch(pin.subject_key, uuid4())
    now = 60.0
    with pytest.raises(FenceRefused, match="not published"):
        await grants.fetch(pin.subject_key, uuid4())
