"""A sealed value opens in its own place, under its own key, and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from domicile.model.errors import DomicileError
from domicile.model.key_wire import CellIndexKey, DataKey
from domicile.sdk import Personal, Record, Shareable
from domicile.sdk.codec import Codec
from domicile.sdk.sealing import Sealer
from domicile.sdk.store import StoredRow

ROW, OTHER = UUID(int=1), UUID(int=2)
KEY = AESGCM(b"k" * 32)
HERS = Sealer("eu-1", "eu", UUID(int=3), UUID(int=4), KEY)
VALUE = b'"a value"'
PLACE = ("profiles", "email", ROW)


class Person(Record, table="sealed_people"):
    email: Annotated[str, Personal("user.contact.email")]


class Longer(Record, table="sealed_people"):
    """The same a release later."""

    email: Annotated[str, Personal("user.contact.email")]
    plan: Annotated[str, Shareable("user.account.plan")] = "free"
    name: Annotated[str | None, Personal("user.name", find=True)] = None
    nick: Annotated[str | None, Personal("user.name")] = "none"


class Elsewhere(Record, table="sealed_others"):
    email: Annotated[str, Personal("user.contact.email")]


class Renamed(Record, table="sealed_people"):
    mail: Annotated[str, Personal("user.contact.email")]


def test_what_was_sealed_opens_in_its_place() -> None:
    sealed = HERS.seal(*PLACE, VALUE)
    assert VALUE not in sealed
    assert sealed != HERS.seal(*PLACE, VALUE)
    assert HERS.open(*PLACE, sealed) == VALUE


@pytest.mark.parametrize(
    ("sealer", "place"),
    [
        (HERS, ("notes", "email", ROW)),
        (HERS, ("profiles", "name", ROW)),
        (HERS, ("profiles", "email", OTHER)),
        (HERS, ("profile", "semail", ROW)),
        (replace(HERS, principal=OTHER), PLACE),
        (replace(HERS, subject=OTHER), PLACE),
        (replace(HERS, subject=HERS.principal, principal=HERS.subject), PLACE),
        (replace(HERS, cell="eu-2"), PLACE),
        (replace(HERS, jurisdiction="us"), PLACE),
        (replace(HERS, key=AESGCM(b"x" * 32)), PLACE),
    ],
    ids="table column row spelling principal subject exchanged cell jurisdiction key".split(),
)
def test_in_another_place_it_does_not_open(sealer: Sealer, place: tuple[str, str, UUID]) -> None:
    sealed = HERS.seal(*PLACE, VALUE)
    with pytest.raises(DomicileError, match="does not belong"):
        sealer.open(*place, sealed)


@given(st.data())
def test_altered_anywhere_it_does_not_open(data: st.DataObject) -> None:
    sealed = HERS.seal(*PLACE, VALUE)
    position = data.draw(st.integers(0, len(sealed) - 1))
    flipped = sealed[position] ^ data.draw(st.integers(1, 255))
    altered = sealed[:position] + bytes([flipped]) + sealed[position + 1 :]
    with pytest.raises(DomicileError):
        HERS.open(*PLACE, altered)


@given(st.binary(max_size=64))
def test_what_is_no_sealed_value_is_refused(raw: bytes) -> None:
    with pytest.raises(DomicileError):
        HERS.open(*PLACE, raw)


class OneKey:
    """A key service that has this key for everybody, and answers with it anew each time."""

    secret = b"k" * 32

    async def data_key(self, subject: UUID, principal: UUID, *, create: bool = False) -> DataKey:
        return DataKey(subject=subject, principal=principal, key=self.secret, index_key=b"i" * 32)

    def forget(self, subject: UUID) -> None:
        raise AssertionError

    async def data_keys(self, names: Sequence[tuple[UUID, UUID]], *, create: bool = False) -> list[DataKey]:
        raise AssertionError

    def forget_index(self) -> None:
        raise AssertionError

    def lend_to(self, borrower: Codec) -> None:
        """Until the test ends."""

    async def cell_index_key(self) -> CellIndexKey:
        raise AssertionError


async def test_one_key_makes_one_cipher_however_often_the_client_answers_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[bytes] = []
    keys = OneKey()

    def cipher(secret: bytes) -> AESGCM:
        made.append(secret)
        return AESGCM(secret)

    monkeypatch.setattr("domicile.sdk.codec.AESGCM", cipher)
    codec = Codec(keys, "eu-1", "eu", UUID(int=3))
    person = Person(jurisdiction="eu", id=ROW, email="a@example.eu")
    rows = [await codec.row(person) for _ in range(3)]
    assert made == [b"k" * 32]
    assert (await codec.record(Person, StoredRow(ROW, 1, rows[0].values))).email == person.email
    assert made == [b"k" * 32]
    keys.secret = b"n" * 32
    await codec.row(person)
    assert made == [b"k" * 32, b"n" * 32]


async def test_a_home_that_is_kept_keeps_no_cipher_of_a_key_that_is_not_held_any_more() -> None:
    codec = Codec(OneKey(), "eu-1", "eu", UUID(int=3))
    await codec.row(Person(jurisdiction="eu", id=ROW, email="a@example.eu"))
    own = (UUID(int=3), UUID(int=3))
    codec.hold_only({own: 1, (UUID(int=4), UUID(int=4)): 2})
    assert list(codec._sealers) == [UUID(int=3)]
    codec.hold_only({(UUID(int=4), UUID(int=3)): 2})
    assert not codec._sealers


async def test_requests_are_told_apart_by_all_that_they_do_and_not_by_fields_at_their_default() -> None:
    codec = Codec(OneKey(), "eu-1", "eu", UUID(int=3))

    async def request(record: Record, operation: str = "put", version: int | None = None) -> bytes:
        return (await codec.once(operation, [record], "k", version)).request

    own: dict[str, Any] = {"jurisdiction": "eu", "id": ROW}
    first = await request(Person(email="x", **own))
    assert first == await request(Longer(email="x", **own))
    others = [
        await request(Person(email="x", **own), "put_many"),
        await request(Person(email="x", **own), version=0),
        await request(Person(email="x", **own), version=1),
        await request(Person(email="x", jurisdiction="eu", id=OTHER)),
        await request(Person(email="y", **own)),
        await request(Elsewhere(email="x", **own)),
        await request(Renamed(mail="x", **own)),
        await request(Longer(email="x", plan="pro", **own)),
        await request(Longer(email="x", name="pro", **own)),
        await request(Longer(email="x", nick="pro", **own)),
        await request(Longer(email="x", nick=None, **own)),
    ]
    assert len({first, *others}) == 1 + len(others)
