"""The other routes: look-ups, grants, aliases, topology and signing keys, each with what it refuses."""

from __future__ import annotations

import asyncio
from pathlib import Path
from uuid import uuid4

import asyncpg
import jwt
import pytest
from domicile_testing import Storage, Trust
from domicile_testing.certificates import DEPLOYMENT
from domicile_testing.directories import RunningDirectory, any_key, directory_settings, manifest, serving

from domicile.client import Topology
from domicile.identity import Signer, Verifier, sign_topology
from domicile.model import (
    GLOBAL,
    AliasKey,
    Conflict,
    NotFound,
    Pin,
    Role,
    SubjectKey,
    UnknownSubject,
    WrongCell,
)
from domicile.model.wire import ClaimRequest, TopologyDocument

GERMANY = ClaimRequest(residence="DE")


def any_alias() -> AliasKey:
    return AliasKey(any_key())


async def home_of(directory: RunningDirectory, key: SubjectKey) -> Pin:
    return await directory.app.claim(key, GERMANY)


async def at_eu_1(directory: RunningDirectory) -> SubjectKey:
    """A subject of the cell that ``directory.app`` belongs to."""
    while (await home_of(directory, key := any_key())).cell != "eu-1":
        pass
    return key


async def test_an_unknown_subject_is_not_found_and_that_may_be_cached(directory: RunningDirectory) -> None:
    answer = await directory.ask("GET", f"/v1/pins/{any_key()}", role=Role.ROUTER)
    assert (answer.status, answer.body["code"]) == (404, "unknown-subject")
    assert answer.headers["Cache-Control"] == "max-age=5"
    assert answer.headers["Content-Type"].startswith("application/problem+json")


async def test_a_batch_tells_pins_from_unknown_keys_in_the_order_asked(directory: RunningDirectory) -> None:
    router = directory.client("us", Role.ROUTER, "iad")
    pins = [await home_of(directory, any_key()) for _ in range(3)]
    unknown = [any_key(), any_key()]
    keys = [pins[0].subject_key, unknown[0], pins[2].subject_key, pins[1].subject_key, unknown[1], unknown[0]]
    answer = await router.resolve(keys)
    assert answer.pins == [pins[0], pins[2], pins[1]]
    assert answer.unknown == unknown


async def test_a_batch_has_one_to_a_thousand_keys(directory: RunningDirectory) -> None:
    for count, status in ((0, 422), (1, 200), (1000, 200), (1001, 422)):
        keys = [str(any_key()) for _ in range(count)]
        assert (await directory.ask("POST", "/v1/pins:resolve", {"subject_keys": keys})).status == status


async def test_the_home_cells_gateway_gets_a_grant_that_verifies(directory: RunningDirectory) -> None:
    pin = await home_of(directory, any_key())
    gateway = directory.client("eu", Role.GATEWAY, f"{pin.cell}.fra")
    incarnation = uuid4()
    grant = await gateway.grant(pin.subject_key, incarnation)
    statement = Verifier(DEPLOYMENT, await gateway.keys()).pin_grant(grant)
    assert (statement.sub, statement.cell, statement.jur) == (pin.subject_key, pin.cell, "eu")
    assert (statement.epoch, statement.incarnation) == (1, incarnation)


async def test_no_other_gateway_gets_a_grant(directory: RunningDirectory) -> None:
    pin = await home_of(directory, any_key())
    sibling = "eu-2" if pin.cell == "eu-1" else "eu-1"
    for jurisdiction, name in (("eu", f"{sibling}.fra"), ("us", "us-1.iad"), ("us", f"{pin.cell}.iad")):
        with pytest.raises(WrongCell) as refused:
            await directory.client(jurisdiction, Role.GATEWAY, name).grant(pin.subject_key, uuid4())
        assert refused.value.jurisdiction == "eu"
    with pytest.raises(UnknownSubject):
        await directory.client("eu", Role.GATEWAY).grant(any_key(), uuid4())


@pytest.mark.parametrize("state", ["moving", "erased"])
async def test_only_an_active_pin_is_granted(
    directory: RunningDirectory, database: asyncpg.Connection, state: str
) -> None:
    pin = await home_of(directory, any_key())
    await database.execute("UPDATE directory.pins SET state = $1, epoch = epoch + 1", state)
    with pytest.raises(Conflict, match=state):
        await directory.client("eu", Role.GATEWAY, f"{pin.cell}.fra").grant(pin.subject_key, uuid4())


async def test_an_alias_belongs_to_one_subject(directory: RunningDirectory) -> None:
    mine, other = await at_eu_1(directory), await at_eu_1(directory)
    alias = any_alias()
    path = f"/v1/aliases/email/{alias}"
    assert (await directory.ask("PUT", path, {"subject_key": str(mine)})).status == 201
    assert (await directory.ask("PUT", path, {"subject_key": str(mine)})).status == 200
    refused = await directory.ask("PUT", path, {"subject_key": str(other)})
    assert (refused.status, refused.body["code"]) == (409, "conflict")
    assert str(mine) not in str(refused.body), "a refusal does not tell whose it is"
    assert await directory.app.alias("email", alias) == mine
    with pytest.raises(NotFound):
        await directory.app.alias("phone", alias)


async def test_concurrent_takers_of_one_alias_have_one_winner(directory: RunningDirectory) -> None:
    keys = [await at_eu_1(directory) for _ in range(16)]
    clients = [directory.app for _ in keys]
    alias = any_alias()
    takes = [client.put_alias("email", alias, key) for client, key in zip(clients, keys, strict=True)]
    results = await asyncio.gather(*takes, return_exceptions=True)
    winners = [key for key, result in zip(keys, results, strict=True) if result is None]
    assert winners == [await directory.app.alias("email", alias)]
    assert [type(result) for result in results if result is not None] == [Conflict] * 15


async def test_an_alias_needs_a_pinned_subject_and_a_known_kind(directory: RunningDirectory) -> None:
    key, alias = any_key(), any_alias()
    with pytest.raises(UnknownSubject):
        await directory.app.put_alias("email", alias, key)
    key = await at_eu_1(directory)
    assert (await directory.ask("PUT", f"/v1/aliases/fax/{alias}", {"subject_key": str(key)})).status == 422
    assert (await directory.ask("PUT", "/v1/aliases/email/jo@example.eu", {"subject_key": str(key)})).status == 422
    with pytest.raises(NotFound):
        await directory.app.alias("email", alias)


async def test_only_the_home_cell_ties_and_unties_a_subjects_alias(directory: RunningDirectory) -> None:
    key, alias = await at_eu_1(directory), any_alias()
    path = f"/v1/aliases/email/{alias}"
    for stranger in (("us", "us-1.zone-us-1"), ("eu", "eu-2.zone-eu-2")):
        with pytest.raises(WrongCell):
            await directory.client(stranger[0], Role.APP, stranger[1]).put_alias("email", alias, key)
    await directory.app.put_alias("email", alias, key)
    for stranger in (("us", "us-1.zone-us-1"), ("eu", "eu-2.zone-eu-2")):
        with pytest.raises(WrongCell):
            await directory.client(stranger[0], Role.APP, stranger[1]).delete_alias("email", alias, key)
    assert await directory.app.alias("email", alias) == key
    refused = await directory.ask("DELETE", f"{path}?subject_key={any_key()}")
    assert (refused.status, refused.body["code"]) == (404, "unknown-subject")


async def test_deleting_an_alias_may_be_repeated_and_never_takes_anothers(directory: RunningDirectory) -> None:
    mine, other, alias = await at_eu_1(directory), await at_eu_1(directory), any_alias()
    await directory.app.put_alias("email", alias, mine)
    assert (await directory.ask("DELETE", f"/v1/aliases/email/{alias}")).status == 422
    await directory.app.delete_alias("email", alias, other)
    assert await directory.app.alias("email", alias) == mine
    await directory.app.delete_alias("email", alias, mine)
    await directory.app.delete_alias("email", alias, mine)
    with pytest.raises(NotFound):
        await directory.app.alias("email", alias)


async def test_a_published_topology_is_what_processes_load(empty: RunningDirectory, tmp_path: Path) -> None:
    router = empty.client("eu", Role.ROUTER)
    with pytest.raises(NotFound):
        await router.topology()
    await empty.publish(1)
    loaded = await Topology(router, DEPLOYMENT, [empty.operator.public_pem()], tmp_path / "topology.json").load()
    assert loaded == manifest()


@pytest.mark.parametrize("revision", [1, 3, 4])
async def test_a_revision_other_than_the_next_is_refused(directory: RunningDirectory, revision: int) -> None:
    with pytest.raises(Conflict, match="next topology revision is 2"):
        await directory.publish(revision)
    await directory.publish(2)
    assert (await directory.client("eu", Role.ROUTER).topology()).revision == 2


async def test_the_first_revision_is_one(empty: RunningDirectory) -> None:
    with pytest.raises(Conflict, match="is 1, not 2"):
        await empty.publish(2)
    await empty.publish(1)


async def test_of_concurrent_publications_one_is_the_next(directory: RunningDirectory) -> None:
    tries = [directory.publish(2, {"eu-1": (n, "open"), "us-1": (1, "open")}) for n in range(1, 9)]
    results = await asyncio.gather(*tries, return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["Conflict"] * 7 + ["NoneType"]


async def test_only_a_sound_topology_that_an_operator_signed_is_taken(
    directory: RunningDirectory, tmp_path: Path
) -> None:
    stranger = Signer.load_or_create(tmp_path / "stranger.key")
    good = directory.signed(2, manifest())
    broken = manifest().topology()
    broken["cells"]["eu-1"]["jurisdiction"] = "us"
    foreign = manifest().topology() | {"deployment": "other"}
    cases: list[tuple[TopologyDocument, int, str]] = [
        (directory.signed(2, manifest(), stranger), 401, "token-invalid"),
        (good.model_copy(update={"revision": 3}), 401, "token-invalid"),
        (good.model_copy(update={"signed": good.signed[:-8] + "AAAAAAAA"}), 401, "token-invalid"),
        (sign_topology(directory.operator, "other", 2, manifest().topology()), 401, "token-invalid"),
        (sign_topology(directory.operator, DEPLOYMENT, 2, broken), 422, "manifest-invalid"),
        (sign_topology(directory.operator, DEPLOYMENT, 2, foreign), 422, "invalid-input"),
    ]
    for document, status, code in cases:
        answer = await directory.ask(
            "PUT", "/v1/topology", document.model_dump(), jurisdiction=GLOBAL, role=Role.OPERATOR
        )
        assert (answer.status, answer.body["code"]) == (status, code)
    assert (await directory.client("eu", Role.ROUTER).topology()).revision == 1


async def test_routers_publish_their_residency_keys_and_only_those(directory: RunningDirectory, tmp_path: Path) -> None:
    signer = Signer.load_or_create(tmp_path / "token.key")
    key = signer.public("residency")
    router = directory.client("us", Role.ROUTER, "iad")
    await router.publish_key(key)
    await router.publish_key(key)
    assert [k for k in await router.keys() if k.domicile_use == "residency"] == [key]

    async def refused(path_kid: str, **changes: str) -> int:
        body = key.model_dump() | changes
        return (await directory.ask("PUT", f"/v1/signing-keys/{path_kid}", body, role=Role.ROUTER)).status

    assert await refused(key.kid, domicile_use="pin-grant") == 403
    assert await refused("another") == 422
    assert await refused("another", kid="another") == 422
    assert await refused(key.kid, kty="RSA") == 422
    assert await refused(key.kid, x="A" * 43) == 422
    grant_key = next(k for k in await router.keys() if k.domicile_use == "pin-grant")
    with pytest.raises(Conflict):
        await router.publish_key(grant_key.model_copy(update={"domicile_use": "residency"}))
    assert len(await router.keys()) == 3


async def test_a_restarted_directory_signs_with_the_same_key(
    empty: RunningDirectory, trust: Trust, storage: Storage, operator: Signer
) -> None:
    before = await empty.app.keys()
    assert [key.domicile_use for key in before] == ["pin-grant", "pin-grant"]
    assert (empty.state / "grant.key").stat().st_mode & 0o777 == 0o600
    async with serving(directory_settings(trust, storage.address, operator), trust, operator) as again:
        assert await again.app.keys() == before


async def test_a_grant_is_no_residency_token(directory: RunningDirectory) -> None:
    pin = await home_of(directory, any_key())
    grant = await directory.client("eu", Role.GATEWAY, f"{pin.cell}.fra").grant(pin.subject_key, uuid4())
    header = jwt.get_unverified_header(grant)
    assert header["typ"] == "pin-grant"
    assert header["kid"] in {key.kid for key in await directory.app.keys()}
