"""The key service over real PostgreSQL and mutual TLS: one key for each, for its own cell, and for nobody else."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import AsyncIterator
from uuid import NAMESPACE_OID, UUID, uuid4, uuid5

import pytest
from domicile_testing import Storage, Trust
from domicile_testing.cell import key_client, key_section, key_settings, superuser
from domicile_testing.databases import until

from domicile.cells.keys import audit, serve_keys
from domicile.client import Peer
from domicile.model import (
    DomicileError,
    Forbidden,
    InvalidInput,
    NotFound,
    Role,
    Unavailable,
)
from domicile.model.key_wire import (
    DataKey,
    DataKeyRef,
    DataKeysRequest,
    DataKeysResponse,
    IndexKeyRequest,
    IndexKeyResponse,
)
from domicile.telemetry import HOLDER_FAILURES

SECTION = key_section()


def principal(name: str = "alice") -> UUID:
    return uuid5(NAMESPACE_OID, name)


@pytest.fixture
async def service(trust: Trust, key_storage: Storage) -> AsyncIterator[str]:
    """The address of a running key service of ``eu``."""
    settings = key_settings(trust, key_storage)
    async with serve_keys(settings, SECTION):
        yield settings.bind


def peer(trust: Trust, address: str, jurisdiction: str = "eu", role: Role = Role.APP, name: str = "eu-1.fra") -> Peer:
    """Anybody, calling the key service of ``eu``."""
    return Peer(trust.credentials(jurisdiction, role, name), [address], jurisdiction="eu", role=Role.KEYS)


async def unwrap(
    caller: Peer, refs: list[tuple[UUID, UUID]], *, create: bool = True, cell: str = "eu-1"
) -> list[DataKey]:
    references = [DataKeyRef(subject=subject, principal=whose) for subject, whose in refs]
    body = DataKeysRequest(cell=cell, keys=references, create=create)
    return (await caller.ask(DataKeysResponse, "POST", "/v1/data-keys", body=body)).keys


async def test_a_key_is_made_once_and_stays_across_a_restart(trust: Trust, key_storage: Storage) -> None:
    subject = uuid4()
    answers = []
    for _ in range(2):
        settings = key_settings(trust, key_storage)
        async with serve_keys(settings, SECTION), key_client(trust, settings.bind) as keys:
            answers.append(await keys.data_key(subject, principal(), create=True))
    assert answers[0] == answers[1]
    assert answers[0].key != answers[0].index_key
    kek = settings.state / "kek" / "default" / "1.key"
    assert stat.S_IMODE(kek.stat().st_mode) == 0o600
    assert len(kek.read_bytes()) == 32


async def test_each_subject_and_each_principal_has_keys_of_its_own(trust: Trust, service: str) -> None:
    first, second = uuid4(), uuid4()
    refs = [(first, principal("a")), (first, principal("b")), (second, principal("a"))]
    async with peer(trust, service) as caller:
        answer = await unwrap(caller, refs)
    assert {(key.subject, key.principal) for key in answer} == set(refs)
    assert len({secret for key in answer for secret in (key.key, key.index_key)}) == 6


async def test_an_absent_key_is_left_out_and_not_made(trust: Trust, service: str) -> None:
    there, absent = (uuid4(), principal()), (uuid4(), principal())
    async with peer(trust, service) as caller:
        (made,) = await unwrap(caller, [there])
        assert await unwrap(caller, [absent, there], create=False) == [made]
        assert await unwrap(caller, [absent], create=False) == []
    async with key_client(trust, service) as keys:
        with pytest.raises(NotFound):
            await keys.data_key(*absent)


async def test_a_reference_named_twice_is_one_key(trust: Trust, service: str) -> None:
    ref = (uuid4(), principal())
    async with peer(trust, service) as caller:
        assert len(await unwrap(caller, [ref, ref])) == 1


async def test_callers_that_make_one_key_at_once_get_the_same(trust: Trust, key_storage: Storage) -> None:
    refs = [(uuid4(), principal(str(n))) for n in range(40)]
    one, two = key_settings(trust, key_storage), key_settings(trust, key_storage)
    async with (
        serve_keys(one, SECTION),
        serve_keys(two, SECTION),
        peer(trust, one.bind) as first,
        peer(trust, two.bind) as second,
    ):
        # batches in opposite orders, so that locks taken in the order of arrival would deadlock
        calls = [unwrap(first, refs) for _ in range(6)] + [unwrap(second, refs[::-1]) for _ in range(6)]
        answers = await asyncio.gather(*calls)
    assert {len(answer) for answer in answers} == {40}
    for ref in refs:
        assert len({key.key for answer in answers for key in answer if (key.subject, key.principal) == ref}) == 1
    async with superuser(key_storage) as connection:
        subjects = [subject for subject, _ in refs]
        assert await connection.fetchval("SELECT count(*) FROM keys.data_keys WHERE subject = ANY($1)", subjects) == 40


async def test_an_index_key_belongs_to_a_cell(trust: Trust, service: str) -> None:
    async with key_client(trust, service, "eu-1") as first, key_client(trust, service, "eu-1") as again:
        one, same = await asyncio.gather(first.cell_index_key(), again.cell_index_key())
    async with key_client(trust, service, "eu-2") as second:
        assert one == same != await second.cell_index_key()


async def test_a_request_that_names_another_cell_is_refused(trust: Trust, service: str) -> None:
    async with peer(trust, service, name="eu-2.fra") as caller:
        with pytest.raises(Forbidden):
            await unwrap(caller, [(uuid4(), principal())], cell="eu-1")
        with pytest.raises(Forbidden):
            await caller.ask(IndexKeyResponse, "POST", "/v1/index-keys", body=IndexKeyRequest(cell="eu-1"))


@pytest.mark.parametrize("create", [False, True])
async def test_another_cells_key_is_refused_and_nothing_made(
    trust: Trust, key_storage: Storage, service: str, create: bool
) -> None:
    owned, fresh = (uuid4(), principal()), (uuid4(), principal())
    async with peer(trust, service, name="eu-1.fra") as owner:
        await unwrap(owner, [owned])
    async with peer(trust, service, name="eu-2.fra") as sibling:
        with pytest.raises(Forbidden):
            await unwrap(sibling, [fresh, owned], create=create, cell="eu-2")
    async with superuser(key_storage) as connection:
        assert await connection.fetchval("SELECT count(*) FROM keys.data_keys WHERE subject = $1", fresh[0]) == 0


@pytest.mark.parametrize(
    ("jurisdiction", "role", "name", "refusal"),
    [
        # these don't get through the handshake
        ("us", Role.APP, "us-1.iad", Unavailable),
        ("us", Role.OPERATOR, "iad", Unavailable),
        ("us", Role.GATEWAY, "us-1.iad", Unavailable),
        ("eu", Role.GATEWAY, "eu-2.par", Forbidden),
        ("eu", Role.ROUTER, "fra", Unavailable),
        ("eu", Role.KEYS, "fra", Forbidden),  # its own certificate, which may ask how it is
        ("eu", Role.STORAGE, "eu-1.fra", Unavailable),
        ("eu", Role.LOAD, "fra", Unavailable),
        ("global", Role.DIRECTORY, "fra", Unavailable),
        # these do, for the sake of health
        ("eu", Role.OPERATOR, "fra", Forbidden),
        ("global", Role.OPERATOR, "root", Forbidden),
        ("global", Role.APP, "eu-1.fra", Forbidden),
    ],
)
@pytest.mark.parametrize("path", ["/v1/data-keys", "/v1/index-keys"])
async def test_who_is_not_of_the_cell_gets_no_key(
    trust: Trust,
    service: str,
    path: str,
    jurisdiction: str,
    role: Role,
    name: str,
    refusal: type[DomicileError],
) -> None:
    body = DataKeysRequest(cell="eu-1", keys=[DataKeyRef(subject=uuid4(), principal=principal())], create=True)
    async with peer(trust, service, jurisdiction, role, name) as caller:
        with pytest.raises(refusal):
            await caller.call("POST", path, body=body)


@pytest.mark.parametrize("jurisdiction", ["eu", "global"])
async def test_an_operator_sees_its_health(trust: Trust, service: str, jurisdiction: str) -> None:
    async with peer(trust, service, jurisdiction, Role.OPERATOR, "root") as operator:
        assert b"ready" in await operator.call("GET", "/readyz")


async def test_a_batch_has_a_bound(trust: Trust, service: str) -> None:
    references = [DataKeyRef(subject=uuid4(), principal=principal()) for _ in range(1001)]
    too_many = DataKeysRequest.model_construct(cell="eu-1", keys=references, create=True)
    async with peer(trust, service) as caller:
        with pytest.raises(InvalidInput):
            await caller.call("POST", "/v1/data-keys", body=too_many)
        assert len(await unwrap(caller, [(ref.subject, ref.principal) for ref in references[:1000]])) == 1000


async def test_each_key_that_is_handed_out_or_refused_is_audited(
    trust: Trust, key_storage: Storage, service: str
) -> None:
    one, two = (uuid4(), principal()), (uuid4(), principal())
    caller_name, stranger_name = (f"spiffe://acme/eu/app/{cell}.fra" for cell in ("eu-3", "eu-4"))
    async with superuser(key_storage) as connection:
        await connection.execute("TRUNCATE keys.audit")
        async with peer(trust, service, name="eu-3.fra") as caller, peer(trust, service, name="eu-4.fra") as stranger:
            await unwrap(caller, [one], cell="eu-3")
            await unwrap(caller, [one, two], cell="eu-3")
            for _ in range(2):
                await caller.ask(IndexKeyResponse, "POST", "/v1/index-keys", body=IndexKeyRequest(cell="eu-3"))
            for cell in ("eu-3", "eu-4"):  # in another cell's name, and another cell's key in its own name
                with pytest.raises(Forbidden):
                    await unwrap(stranger, [one], cell=cell)
        rows = await connection.fetch("SELECT caller, cell, action, subject, principal FROM keys.audit ORDER BY time")
    assert [tuple(row) for row in rows] == [
        (caller_name, "eu-3", "made", *one),
        (caller_name, "eu-3", "unwrapped", *one),
        (caller_name, "eu-3", "made", *two),
        (caller_name, "eu-3", "made", None, None),
        (caller_name, "eu-3", "unwrapped", None, None),
        (stranger_name, "eu-4", "refused", *one),
        (stranger_name, "eu-4", "refused", *one),
    ]


async def test_the_audit_is_forgotten_in_steps_and_no_day_too_early(
    trust: Trust, key_storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "STEP", 100)
    settings = key_settings(trust, key_storage)
    async with superuser(key_storage) as connection:
        async with serve_keys(settings, SECTION):
            pass
        await connection.execute("TRUNCATE keys.audit")
        await connection.execute(
            "INSERT INTO keys.audit (time, caller, cell, action)"
            " SELECT now() - make_interval(days => age), 'x', 'eu-1', 'made'"
            " FROM generate_series(1, 200) n, unnest(ARRAY[0, 6, 8, 500]) age"
        )
        left = "SELECT count(*) FROM keys.audit WHERE time < now() - interval '7 days'"
        one, two = (key_settings(trust, key_storage) for _ in range(2))
        week = key_section(audit_days=7)
        async with serve_keys(one, week), serve_keys(two, week), peer(trust, one.bind) as caller:

            async def pruned() -> bool:
                return not await connection.fetchval(left)

            await until(pruned, "the old entries to be gone")
            await unwrap(caller, [(uuid4(), principal())])
        assert await connection.fetchval("SELECT count(*) FROM keys.audit") == 401


async def test_the_database_holds_no_key_in_clear(trust: Trust, key_storage: Storage, service: str) -> None:
    async with peer(trust, service) as caller:
        (key,) = await unwrap(caller, [(uuid4(), principal())])
    async with key_client(trust, service) as keys:
        index_key = (await keys.cell_index_key()).key
    kek = (key_settings(trust, key_storage).state / "kek" / "default" / "1.key").read_bytes()
    async with superuser(key_storage) as connection:
        stored = b"".join(
            [
                row[0]
                for row in await connection.fetch(
                    "SELECT wrapped FROM keys.data_keys UNION ALL SELECT wrapped FROM keys.index_keys"
                    " UNION ALL SELECT check_value FROM keys.data_keys UNION ALL SELECT check_value FROM keys.keks"
                )
            ]
        )
    assert stored
    for secret in (key.key, key.index_key, index_key, kek):
        assert secret not in stored


async def test_a_wrapped_key_in_another_row_does_not_open(trust: Trust, key_storage: Storage, service: str) -> None:
    mine, other = (uuid4(), principal()), (uuid4(), principal())
    async with peer(trust, service) as caller:
        (key,) = await unwrap(caller, [mine])
        await unwrap(caller, [other])
        async with superuser(key_storage) as connection:
            await connection.execute(
                "UPDATE keys.data_keys SET wrapped = (SELECT wrapped FROM keys.data_keys WHERE subject = $1)"
                " WHERE subject = $2",
                mine[0],
                other[0],
            )
        failures = HOLDER_FAILURES.labels("default", "unavailable")._value.get()
        with pytest.raises(Unavailable, match="does not open"):
            await unwrap(caller, [other])
        assert HOLDER_FAILURES.labels("default", "unavailable")._value.get() > failures
        assert await unwrap(caller, [mine]) == [key]


@pytest.mark.parametrize(
    "content", [None, b"", b"k" * 31, b"another key of the right length."], ids=["gone", "empty", "short", "another"]
)
async def test_without_its_key_encryption_key_it_refuses_to_start(
    trust: Trust, key_storage: Storage, content: bytes | None
) -> None:
    settings = key_settings(trust, key_storage)
    ref = (uuid4(), principal())
    async with serve_keys(settings, SECTION), peer(trust, settings.bind) as caller:
        before = await unwrap(caller, [ref])
    path = settings.state / "kek" / "default" / "1.key"
    right = path.read_bytes()
    try:
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)
        with pytest.raises(InvalidInput, match="restore the file from its backup"):
            async with serve_keys(settings, SECTION):
                pass
        assert (path.read_bytes() if path.exists() else None) == content
    finally:
        path.write_bytes(right)
    async with serve_keys(settings, SECTION), peer(trust, settings.bind) as caller:
        assert await unwrap(caller, [ref], create=False) == before


async def test_it_starts_with_its_own_kind_of_certificate_only(trust: Trust, key_storage: Storage) -> None:
    settings = key_settings(trust, key_storage, role=Role.APP, name="eu-1.fra")
    with pytest.raises(InvalidInput, match="certificate is for app"):
        async with serve_keys(settings, SECTION):
            pass
    with pytest.raises(InvalidInput, match="DOMICILE_STORAGE"):
        async with serve_keys(key_settings(trust, None), SECTION):
            pass


async def test_another_jurisdictions_key_store_is_not_opened(trust: Trust, key_storage: Storage) -> None:
    settings = key_settings(trust, key_storage, jurisdiction="us", name="iad")
    with pytest.raises(Unavailable, match="key store"):
        async with serve_keys(settings, SECTION):
            pass
    assert not (settings.state / "kek").exists()
