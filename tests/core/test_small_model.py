"""Countries, field classes, sealed frames, pins: the small pieces of the vocabulary."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from typing import Any

import pycountry
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from domicile.model import (
    COUNTRIES,
    InvalidInput,
    ModelError,
    Personal,
    Pin,
    PinGrant,
    PinState,
    ResidencyToken,
    Shareable,
    SubjectKey,
    UnsupportedQuery,
    Withheld,
    sealed,
)
from domicile.model.ids import Country
from domicile.model.key_wire import DataKey, IndexKeyResponse
from domicile.model.sealed import Sealed
from domicile.model.wire import Problem, ResolveRequest

NAMES = st.from_regex(r"\A[a-z][a-z0-9]{0,5}(-[a-z0-9]{1,4}){0,1}\Z")
KEYS = st.binary(min_size=17, max_size=17).map(SubjectKey)
PINS = st.builds(
    Pin,
    subject_key=KEYS,
    jurisdiction=NAMES,
    cell=NAMES,
    epoch=st.integers(1, 2**63 - 1),
    state=st.sampled_from(PinState),
)


# --- countries


def test_the_countries_are_those_of_the_standard() -> None:
    assert {country.alpha_2 for country in pycountry.countries} == COUNTRIES


class Place(BaseModel):
    country: Country


@pytest.mark.parametrize("code", ["", "de", "DEU", "XX", "EU", "UK", "D", " DE", "DE\n", None, False, 276])
def test_what_is_no_country_is_refused(code: object) -> None:
    with pytest.raises(ValidationError):
        Place.model_validate({"country": code})


@pytest.mark.parametrize("code", sorted(COUNTRIES))
def test_every_country_is_taken(code: str) -> None:
    assert Place(country=code).country == code


# --- field classes


@pytest.mark.parametrize("category", ["user", "system", "user.contact.email", "user.demographic.date_of_birth"])
def test_categories_are_fideslang_names(category: str) -> None:
    assert Personal(category).category == Shareable(category).category == category


@pytest.mark.parametrize("kind", [Personal, Shareable])
@pytest.mark.parametrize(
    "category", ["", "contact", "user.", ".user", "User.contact", "user..email", "user.contact email", "user.1"]
)
def test_anything_else_is_no_category(kind: Callable[[str], object], category: str) -> None:
    with pytest.raises(ModelError):
        kind(category)


def test_a_personal_field_is_sealed_and_not_found_unless_it_says_so() -> None:
    plain = Personal("user.contact.email")
    assert (plain.sealed, plain.find) == (True, False)
    assert Personal("user.contact.email", find="cell").find == "cell"
    with pytest.raises(ModelError):
        Personal("user.contact.email", find=True, sealed=False)
    with pytest.raises(ModelError):
        Personal("user.contact.email", find="subject")  # type: ignore[arg-type]


HELD = Withheld("user.contact.email", "eu")
USES: dict[str, Callable[[], object]] = {
    "str": lambda: str(HELD),
    "format": lambda: f"{HELD}",
    "percent": lambda: "%s" % HELD,  # noqa: UP031
    "equal": lambda: HELD == "a@b.c",
    "equal itself": lambda: HELD == HELD,
    "differs": lambda: HELD != "a@b.c",
    "less": lambda: HELD < "a",
    "more or equal": lambda: HELD >= "a",
    "hash": lambda: hash(HELD),
    "set": lambda: {HELD},
    "json": lambda: json.dumps({"email": HELD}, default=str),
    "pickle": lambda: pickle.dumps(HELD),
    "copy": lambda: copy.copy(HELD),
    "deepcopy": lambda: copy.deepcopy({"email": HELD}),
    "bool": lambda: bool(HELD),
    "iterate": lambda: list(HELD),
    "length": lambda: len(HELD),
    "int": lambda: int(HELD),
    "float": lambda: float(HELD),
    "bytes": lambda: bytes(HELD),
    "member of a list": lambda: "a@b.c" in [HELD],
}


@pytest.mark.parametrize("use", USES)
def test_a_withheld_value_refuses_to_be_used(use: str) -> None:
    with pytest.raises(UnsupportedQuery):
        USES[use]()


def test_json_knows_no_withheld_value_by_itself() -> None:
    with pytest.raises(TypeError):
        json.dumps({"email": HELD})


def test_a_withheld_value_may_be_seen_in_a_debugger_and_tested_for() -> None:
    assert repr(HELD) == "<withheld user.contact.email in eu>"
    assert isinstance(HELD, Withheld)
    assert (HELD.category, HELD.jurisdiction) == ("user.contact.email", "eu")
    with pytest.raises(AttributeError):
        HELD.value = "a@b.c"  # type: ignore[attr-defined]


# --- sealed frames


@given(
    st.sampled_from(["e", "eu", "us-2", "a23456789012345"]), st.binary(min_size=12, max_size=12), st.binary(min_size=16)
)
def test_a_sealed_frame_comes_apart_as_it_was_put_together(code: str, nonce: bytes, ciphertext: bytes) -> None:
    value = Sealed(code, nonce, ciphertext)
    raw = sealed.frame(value)
    assert raw == b"\xd0MS\x01" + bytes([len(code)]) + code.encode() + nonce + ciphertext
    assert raw.startswith(sealed.prefix(code))
    assert sealed.parse(raw) == value


@given(st.binary(max_size=80) | st.binary(max_size=60).map(lambda raw: sealed.MAGIC + raw))
def test_junk_is_refused_or_is_a_frame(raw: bytes) -> None:
    try:
        parsed = sealed.parse(raw)
    except InvalidInput:
        return
    assert sealed.frame(parsed) == raw


def test_a_frame_cut_anywhere_is_refused() -> None:
    raw = sealed.frame(Sealed("eu", bytes(12), bytes(16)))
    for end in range(len(raw)):
        with pytest.raises(InvalidInput):
            sealed.parse(raw[:end])


@pytest.mark.parametrize("code", ["", "EU", "é", "a" * 16, "eu/", "-eu", "a" * 300])
def test_what_names_no_jurisdiction_makes_no_prefix(code: str) -> None:
    with pytest.raises(InvalidInput):
        sealed.prefix(code)


@pytest.mark.parametrize("code", [b"", b"EU", b"\xff\xff", b"a" * 16, b"e/u"])
def test_a_frame_that_names_no_jurisdiction_is_refused(code: bytes) -> None:
    with pytest.raises(InvalidInput):
        sealed.parse(sealed.MAGIC + bytes([len(code)]) + code + bytes(28))


# --- pins


@given(PINS)
def test_a_pin_survives_the_wire(pin: Pin) -> None:
    assert Pin.model_validate_json(pin.model_dump_json()) == pin


GOOD = {"subject_key": "00" * 17, "jurisdiction": "eu", "cell": "eu-1", "epoch": 1}
CLAIMS = {"iss": "acme", "sub": "00" * 17, "jur": "eu", "cell": "eu-1", "epoch": 1, "iat": 1, "exp": 2}
GRANT = CLAIMS | {"incarnation": "00000000-0000-0000-0000-000000000001"}
WRONG: dict[str, list[Any]] = {
    "epoch": [0, -1, 2**63, None, "x", 1.5],
    "jurisdiction": ["", "EU", "a" * 16, None, 3],
    "jur": ["", "EU", "a" * 16, None],
    "cell": ["", "Eu-1", "a" * 33, "eu_1", None],
    "sub": ["", "00", None, "0" * 33 + "G"],
    "subject_key": ["", "00", None],
    "state": ["", "gone", None],
    "incarnation": ["", "1", None],
    "iss": [None, 1],
    "exp": [None, "x"],
    "iat": [None, "x"],
}


@pytest.mark.parametrize(("model", "good"), [(Pin, GOOD), (ResidencyToken, CLAIMS), (PinGrant, GRANT)])
def test_each_wrong_member_is_refused_and_unknown_ones_are_ignored(
    model: type[BaseModel], good: dict[str, Any]
) -> None:
    assert model.model_validate(good | {"later": 1}) == model.model_validate(good)
    for name in good:
        with pytest.raises(ValidationError):
            model.model_validate({k: v for k, v in good.items() if k != name})
    for name in model.model_fields:
        for value in WRONG[name]:
            with pytest.raises(ValidationError):
                model.model_validate(good | {name: value})


@given(st.builds(PinGrant, iss=NAMES, sub=KEYS, jur=NAMES, cell=NAMES, epoch=st.integers(1, 2**63 - 1),
                 incarnation=st.uuids(), iat=st.integers(0, 2**40), exp=st.integers(0, 2**40)))  # fmt: skip
def test_a_grant_survives_the_wire(grant: PinGrant) -> None:
    assert PinGrant.model_validate_json(grant.model_dump_json()) == grant


@given(st.text(max_size=60) | st.dictionaries(st.text(max_size=5), st.integers()).map(json.dumps))
def test_junk_is_no_grant(text: str) -> None:
    with pytest.raises(ValidationError):
        PinGrant.model_validate_json(text)


# --- wire


def test_a_batch_is_bounded() -> None:
    key = SubjectKey(bytes(17))
    assert len(ResolveRequest(subject_keys=[key] * 1000).subject_keys) == 1000
    for count in (0, 1001):
        with pytest.raises(ValidationError):
            ResolveRequest(subject_keys=[key] * count)


def test_secrets_are_bytes_on_the_wire_and_in_no_repr() -> None:
    secret = bytes(range(200, 232))
    key = DataKey.model_validate({"subject": "0" * 32, "principal": "0" * 32, "key": secret, "index_key": secret})
    assert DataKey.model_validate_json(key.model_dump_json()) == key
    assert IndexKeyResponse.model_validate_json(IndexKeyResponse(key=secret).model_dump_json()).key == secret
    assert "key=b" not in repr(key)
    assert "key=b" not in repr(IndexKeyResponse(key=secret))


def test_a_reader_ignores_members_of_a_later_version() -> None:
    problem = Problem.model_validate({"title": "t", "status": 400, "code": "c", "later": {"x": 1}})
    assert "later" not in problem.model_dump()
