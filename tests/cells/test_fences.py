"""Fences are opened on grants that hold, for the cell's own application, over real PostgreSQL and mutual TLS."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import asyncpg
import jwt
import pytest
from domicile_testing import Storage, Trust, free_port
from domicile_testing.cell import Directory, application, caller, gateway_settings, running_directory

from domicile.cells.gateway import GatewaySettings
from domicile.cells.serve import serving_cell
from domicile.identity import Signer
from domicile.model import (
    GLOBAL,
    DomicileError,
    FenceRefused,
    Forbidden,
    InvalidInput,
    Pepper,
    Pin,
    Role,
    SubjectKey,
    TokenType,
    Unavailable,
    UnknownSubject,
    WrongCell,
)
from domicile.model.wire import FenceRequest, FenceResponse

PEPPER = Pepper(1, b"p" * 32)
ISSUER = "acme"


async def fences(cell: asyncpg.Connection) -> dict[SubjectKey, tuple[int, str]]:
    rows = await cell.fetch("SELECT subject_key, epoch, state FROM domicile.fences")
    return {SubjectKey(row["subject_key"]): (row["epoch"], row["state"]) for row in rows}


ALICE = PEPPER.subject_key("alice")


async def test_a_grant_opens_the_fence_and_the_open_fence_needs_no_directory(
    trust: Trust, gateway: str, cell: asyncpg.Connection, directory: Directory
) -> None:
    directory.pin(ALICE, epoch=7)
    async with application(trust, gateway) as app:
        first = await app.open_fence(ALICE, {"email": PEPPER.alias_key("email", "a@example.eu")})
        assert await fences(cell) == {ALICE: (7, "open")}
        directory.pins.clear()
        assert await app.open_fence(ALICE, {}) == first
        assert await app.open_fence(ALICE, {}, min_epoch=7) == first
    assert first.epoch == 7
    assert directory.grants == 1
    stored = await cell.fetchval("SELECT alias_keys FROM domicile.fences")
    assert json.loads(stored) == {"email": str(PEPPER.alias_key("email", "a@example.eu"))}


async def test_an_alias_that_comes_later_is_kept_beside_the_open_fence(
    trust: Trust, gateway: str, cell: asyncpg.Connection, directory: Directory
) -> None:
    directory.pin(ALICE)
    async with application(trust, gateway) as app:
        opened = await app.open_fence(ALICE, {})
        assert await app.open_fence(ALICE, {"username": PEPPER.alias_key("username", "alice")}) == opened
        with pytest.raises(InvalidInput):
            await app.open_fence(ALICE, {"shoe-size": PEPPER.alias_key("username", "alice")})
    assert set(json.loads(await cell.fetchval("SELECT alias_keys FROM domicile.fences"))) == {"username"}


async def test_requests_at_once_open_one_fence(
    trust: Trust, gateway: str, cell: asyncpg.Connection, directory: Directory
) -> None:
    directory.pin(ALICE)
    async with application(trust, gateway) as app:
        answers = await asyncio.gather(*(app.open_fence(ALICE, {}) for _ in range(12)))
    assert len({answer.internal_id for answer in answers}) == 1
    assert await fences(cell) == {ALICE: (1, "open")}


async def test_a_newer_pin_raises_the_fence(
    trust: Trust, gateway: str, cell: asyncpg.Connection, directory: Directory
) -> None:
    directory.pin(ALICE, epoch=1)
    async with application(trust, gateway) as app:
        old = await app.open_fence(ALICE, {})
        directory.pin(ALICE, epoch=3)
        assert await app.open_fence(ALICE, {}) == old
        new = await app.open_fence(ALICE, {}, min_epoch=2)
        assert (new.epoch, new.internal_id) == (3, old.internal_id)
        # the directory knows none so high: the caller gets what holds, and compares
        assert await app.open_fence(ALICE, {}, min_epoch=9) == new
    assert await fences(cell) == {ALICE: (3, "open")}


async def test_a_subject_that_moved_away_is_another_cells(trust: Trust, gateway: str, directory: Directory) -> None:
    directory.pin(ALICE)
    async with application(trust, gateway) as app:
        await app.open_fence(ALICE, {})
        directory.pin(ALICE, cell="eu-2", epoch=2)
        with pytest.raises(WrongCell) as refused:
            await app.open_fence(ALICE, {}, min_epoch=2)
    assert (refused.value.jurisdiction, refused.value.public_host) == ("eu", "eu.example")


@pytest.mark.parametrize("state", ["closed", "retired"])
async def test_a_fence_that_was_closed_opens_at_a_higher_epoch_only(
    trust: Trust, gateway: str, cell: asyncpg.Connection, directory: Directory, state: str
) -> None:
    directory.pin(ALICE, epoch=4)
    async with application(trust, gateway) as app:
        await app.open_fence(ALICE, {})
        await cell.execute("UPDATE domicile.fences SET state = $1", state)
        with pytest.raises(FenceRefused):
            await app.open_fence(ALICE, {})
        assert await fences(cell) == {ALICE: (4, state)}
        directory.pin(ALICE, epoch=5)
        assert (await app.open_fence(ALICE, {})).epoch == 5


async def test_a_subject_without_a_pin_is_unknown(
    trust: Trust, gateway: str, cell: asyncpg.Connection, directory: Directory
) -> None:
    async with application(trust, gateway) as app:
        with pytest.raises(UnknownSubject):
            await app.open_fence(ALICE, {})
    assert await fences(cell) == {}


def _claims(pin: Pin, incarnation: UUID, **change: Any) -> dict[str, Any]:
    now = int(time.time())
    claims = {
        "iss": ISSUER,
        "sub": str(pin.subject_key),
        "jur": pin.jurisdiction,
        "cell": pin.cell,
        "epoch": pin.epoch,
        "incarnation": str(incarnation),
        "iat": now,
        "exp": now + 60,
    }
    return claims | change


def _altered(token: str) -> str:
    head, body, signature = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    body = base64.urlsafe_b64encode(json.dumps(claims | {"epoch": 99}).encode()).rstrip(b"=").decode()
    return f"{head}.{body}.{signature}"


Forge = Callable[[Directory, Signer, Pin, UUID], str]
FORGED: dict[str, Forge] = {
    "a key that nobody published": lambda d, other, pin, i: other.pin_grant(pin, ISSUER, i),
    "a router's key": lambda d, other, pin, i: d.router.pin_grant(pin, ISSUER, i),
    "another key under the directory's kid": lambda d, other, pin, i: jwt.encode(
        _claims(pin, i), other.key, "EdDSA", headers={"kid": d.signer.kid, "typ": "pin-grant"}
    ),
    "no signature at all": lambda d, other, pin, i: jwt.encode(
        _claims(pin, i), "", "none", headers={"kid": d.signer.kid, "typ": "pin-grant"}
    ),
    "a payload changed after signing": lambda d, other, pin, i: _altered(d.signer.pin_grant(pin, ISSUER, i)),
    "another deployment": lambda d, other, pin, i: d.signer.pin_grant(pin, "elsewhere", i),
    "another incarnation": lambda d, other, pin, i: d.signer.pin_grant(pin, ISSUER, uuid4()),
    "another cell": lambda d, other, pin, i: d.signer.pin_grant(pin.model_copy(update={"cell": "eu-2"}), ISSUER, i),
    "another jurisdiction": lambda d, other, pin, i: d.signer.pin_grant(
        pin.model_copy(update={"jurisdiction": "us"}), ISSUER, i
    ),
    "another subject": lambda d, other, pin, i: d.signer.pin_grant(
        pin.model_copy(update={"subject_key": PEPPER.subject_key("bob")}), ISSUER, i
    ),
    "expired": lambda d, other, pin, i: d.signer.pin_grant(pin, ISSUER, i, clock=lambda: time.time() - 1000),
    "expired a moment ago": lambda d, other, pin, i: d.signer.sign(
        _claims(pin, i, exp=int(time.time()) - 1), TokenType.PIN_GRANT
    ),
    "from the future": lambda d, other, pin, i: d.signer.pin_grant(pin, ISSUER, i, clock=lambda: time.time() + 1000),
    "an epoch of zero": lambda d, other, pin, i: d.signer.sign(_claims(pin, i, epoch=0), TokenType.PIN_GRANT),
    "no incarnation": lambda d, other, pin, i: d.signer.sign(
        {name: claim for name, claim in _claims(pin, i).items() if name != "incarnation"}, TokenType.PIN_GRANT
    ),
    "a residency token": lambda d, other, pin, i: d.router.residency_token(pin, ISSUER),
    "a residency token by the directory": lambda d, other, pin, i: d.signer.residency_token(pin, ISSUER),
    "all of a grant, typed a residency token": lambda d, other, pin, i: d.signer.sign(
        _claims(pin, i), TokenType.RESIDENCY
    ),
    "no token": lambda d, other, pin, i: "grant",
}


@pytest.mark.parametrize("fault", FORGED)
async def test_a_grant_that_does_not_hold_opens_nothing(
    trust: Trust, gateway: str, cell: asyncpg.Connection, directory: Directory, tmp_path: Path, fault: str
) -> None:
    other = Signer.load_or_create(tmp_path / "other.key")
    directory.pin(ALICE)
    directory.forge = lambda pin, incarnation: FORGED[fault](directory, other, pin, incarnation)
    async with application(trust, gateway) as app:
        with pytest.raises(FenceRefused):
            await app.open_fence(ALICE, {})
        assert await fences(cell) == {}
        directory.forge = None
        assert (await app.open_fence(ALICE, {})).epoch == 1


async def test_a_grant_below_the_fence_leaves_it_as_it_is(
    trust: Trust, gateway: str, cell: asyncpg.Connection, directory: Directory
) -> None:
    directory.pin(ALICE, epoch=5)
    async with application(trust, gateway) as app:
        await app.open_fence(ALICE, {})
        directory.pin(ALICE, epoch=4)
        with pytest.raises(FenceRefused):
            await app.open_fence(ALICE, {}, min_epoch=6)
    assert await fences(cell) == {ALICE: (5, "open")}


async def test_a_new_signing_key_is_read_once(trust: Trust, gateway: str, directory: Directory, tmp_path: Path) -> None:
    async with application(trust, gateway) as app:
        for name in ("a", "b"):
            directory.pin(PEPPER.subject_key(name))
            await app.open_fence(PEPPER.subject_key(name), {})
        assert directory.key_reads == 1
        directory.signer = Signer.load_or_create(tmp_path / "next.key")
        directory.published = [directory.signer.public("pin-grant")]
        for name in ("c", "d"):
            directory.pin(PEPPER.subject_key(name))
            await app.open_fence(PEPPER.subject_key(name), {})
        assert directory.key_reads == 2


async def test_without_the_directory_open_fences_stay_and_others_wait(
    trust: Trust, cell_storage: Storage, cell: asyncpg.Connection, tmp_path: Path
) -> None:
    async with running_directory(trust, tmp_path) as directory:
        directory.pin(ALICE)
        settings = gateway_settings(trust, cell_storage.address, directory.address)
        async with serving_cell(settings), application(trust, settings.bind) as app:
            opened = await app.open_fence(ALICE, {})
    async with serving_cell(settings), application(trust, settings.bind) as app:
        assert await app.open_fence(ALICE, {}) == opened
        for key, least in ((PEPPER.subject_key("bob"), None), (ALICE, 2)):
            with pytest.raises(Unavailable):
                await app.open_fence(key, {}, min_epoch=least)
    assert await fences(cell) == {ALICE: (1, "open")}


@pytest.mark.parametrize("key", ["alice", "0" * 33, "g" * 34, "0" * 35])
async def test_a_key_of_another_shape_is_refused(trust: Trust, gateway: str, key: str) -> None:
    async with caller(trust, gateway, "eu", Role.APP, "eu-1.fra") as app:
        with pytest.raises(InvalidInput):
            await app.call("POST", f"/.domicile/v1/fences/{key}", body=FenceRequest())


@pytest.mark.parametrize("epoch", ["0", "-1", "1.5", "x", "", str(2**63), "9" * 40])
async def test_a_min_epoch_of_another_shape_is_refused(trust: Trust, gateway: str, epoch: str) -> None:
    async with caller(trust, gateway, "eu", Role.APP, "eu-1.fra") as app:
        with pytest.raises(InvalidInput):
            await app.call("POST", f"/.domicile/v1/fences/{ALICE}?min_epoch={epoch}", body=FenceRequest())


@pytest.mark.parametrize(
    ("jurisdiction", "role", "name", "refusal"),
    [
        # these get through the handshake, and no further
        ("eu", Role.APP, "eu-2.fra", Forbidden),
        ("us", Role.APP, "us-1.iad", Forbidden),
        ("us", Role.APP, "eu-1.fra", Forbidden),
        (GLOBAL, Role.APP, "eu-1.fra", Forbidden),
        ("eu", Role.OPERATOR, "eu-1.fra", Forbidden),
        (GLOBAL, Role.OPERATOR, "root", Forbidden),
        ("eu", Role.GATEWAY, "eu-1.fra", Forbidden),
        # these don't
        ("eu", Role.ROUTER, "fra", Forbidden),
        ("eu", Role.KEYS, "fra", Unavailable),
        ("eu", Role.STORAGE, "eu-1.fra", Unavailable),
        ("eu", Role.LOAD, "fra", Unavailable),
        (GLOBAL, Role.DIRECTORY, "fra", Unavailable),
    ],
)
async def test_nobody_but_the_cells_own_application_opens_a_fence(
    trust: Trust,
    gateway: str,
    cell: asyncpg.Connection,
    directory: Directory,
    jurisdiction: str,
    role: Role,
    name: str,
    refusal: type[DomicileError],
) -> None:
    directory.pin(ALICE)
    async with caller(trust, gateway, jurisdiction, role, name) as somebody:
        with pytest.raises(refusal):
            await somebody.ask(FenceResponse, "POST", f"/.domicile/v1/fences/{ALICE}", body=FenceRequest())
    assert await fences(cell) == {}
    assert directory.grants == 0


async def test_the_gateway_is_ready_when_its_database_is(
    trust: Trust, gateway: str, directory: Directory, cell_storage: Storage
) -> None:
    async with caller(trust, gateway, GLOBAL, Role.OPERATOR, "root") as operator:
        assert b"ready" in await operator.call("GET", "/readyz")
    settings = gateway_settings(trust, f"127.0.0.1:{free_port()}", directory.address)
    async with serving_cell(settings), caller(trust, settings.bind, GLOBAL, Role.OPERATOR, "root") as operator:
        assert b"ok" in await operator.call("GET", "/healthz")
        with pytest.raises(Unavailable):
            await operator.call("GET", "/readyz")


async def test_it_starts_with_its_own_kind_of_certificate_only(trust: Trust, cell_storage: Storage) -> None:
    bind = f"127.0.0.1:{free_port()}"
    where = {"storage": cell_storage.address, "directory": [bind]}
    settings = cast("GatewaySettings", trust.settings("eu", Role.APP, "eu-1.fra", bind, GatewaySettings, **where))
    with pytest.raises(InvalidInput, match="certificate is for app"):
        async with serving_cell(settings):
            pass
    for lacking in ({"storage": cell_storage.address}, {"directory": [bind]}):
        made = trust.settings("eu", Role.GATEWAY, "eu-1.fra", bind, GatewaySettings, **lacking)
        settings = cast("GatewaySettings", made)
        with pytest.raises(InvalidInput):
            async with serving_cell(settings):
                pass
