"""Subject keys and alias keys: known answers, limits, and one spelling for each alias."""

from __future__ import annotations

import copy
import hashlib
import json
import pickle
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from domicile.model import ALIAS_KINDS, AliasKey, InvalidInput, Pepper, SubjectKey, normalise_alias

SECRET = bytes(range(32))
PEPPER = Pepper(1, SECRET)
NOT_SURROGATE = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
SUBJECT_IDS = st.text(NOT_SURROGATE, min_size=1, max_size=64)


def documented(version: int, secret: bytes, person: bytes, message: bytes) -> bytes:
    """A key as the documents describe it, written out once more."""
    return bytes([version]) + hashlib.blake2b(message, digest_size=16, key=secret, person=person).digest()


@pytest.mark.parametrize(
    ("version", "secret", "subject", "expected"),
    [
        (1, bytes(range(32)), "alice", "014a450695d01bf4a155fc48f6e0b0efbc"),
        (1, bytes(range(32)), "Alice", "01c6e31f620a6ab1c6eb8cff1fc24e1387"),
        (7, b"\xff" * 64, "josé@example.eu", "07cf4a7821e48fc15a8b1543df693ef3ec"),
    ],
)
def test_subject_keys_have_known_answers(version: int, secret: bytes, subject: str, expected: str) -> None:
    key = Pepper(version, secret).subject_key(subject)
    assert str(key) == expected
    assert key == documented(version, secret, b"domicile/subj", subject.encode())


def test_alias_keys_have_a_known_answer() -> None:
    key = PEPPER.alias_key("email", "Alice@Example.EU")
    assert str(key) == "017d14b8766e7a3e4dcda7f01dcdb68dd1"
    assert key == documented(1, SECRET, b"domicile/alias", b"email\0alice@example.eu")


@given(SUBJECT_IDS, st.integers(0, 255), st.binary(min_size=32, max_size=64))
def test_every_subject_key_is_the_documented_one(subject: str, version: int, secret: bytes) -> None:
    key = Pepper(version, secret).subject_key(subject)
    assert key == documented(version, secret, b"domicile/subj", subject.encode())
    assert len(key) == 17
    assert key.pepper_version == version
    assert SubjectKey.parse(str(key)) == key


def test_ids_are_taken_byte_for_byte() -> None:
    """The application's ids are its own: two spellings that look alike are two subjects."""
    composed, decomposed = "jos\u00e9", "jose\u0301"
    assert unicodedata.normalize("NFC", decomposed) == composed
    assert PEPPER.subject_key(composed) != PEPPER.subject_key(decomposed)
    assert PEPPER.subject_key(" a") != PEPPER.subject_key("a")


def test_another_pepper_or_kind_gives_another_key() -> None:
    keys = {
        bytes(PEPPER.subject_key("a")),
        bytes(Pepper(2, SECRET).subject_key("a")),
        bytes(Pepper(1, b"x" * 32).subject_key("a")),
        *(bytes(PEPPER.alias_key(kind, value)) for kind, value in
          [("email", "a@b.c"), ("username", "a@b.c"), ("username", "a"), ("phone", "+4930123456")]),
    }  # fmt: skip
    assert len(keys) == 7


@pytest.mark.parametrize("subject", ["", "a" * 257, "é" * 129, "a\0b", "\ud800", "a\udfff"])
def test_a_subject_id_out_of_bounds_is_refused_and_not_quoted(subject: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        PEPPER.subject_key(subject)
    assert len(subject) < 2 or subject not in str(caught.value)


@pytest.mark.parametrize("subject", ["a", "a" * 256, "é" * 128])
def test_a_subject_id_at_the_bounds_is_taken(subject: str) -> None:
    assert PEPPER.subject_key(subject)


@pytest.mark.parametrize(("version", "size"), [(-1, 32), (256, 32), (1, 31), (1, 65), (1, 0)])
def test_a_pepper_out_of_bounds_is_refused(version: int, size: int) -> None:
    with pytest.raises(InvalidInput):
        Pepper(version, b"x" * size)


@pytest.mark.parametrize(
    "text",
    ["", "1", "1:", ":" + "ab" * 32, "1:" + "AB" * 32, "1:" + "ab" * 31, "1:" + "ab" * 65, "1:" + "a" * 65,
     "x:" + "ab" * 32, "-1:" + "ab" * 32, "256:" + "ab" * 32, "²:" + "ab" * 32, "1 " + "ab" * 32,
     "1:" + "ab" * 32 + "\n2:" + "ab" * 32],
)  # fmt: skip
def test_a_malformed_pepper_file_is_refused_without_its_secret(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Pepper.parse(text)
    assert "abab" not in str(caught.value).lower()


def test_a_pepper_file_is_read_and_its_secret_never_shown() -> None:
    pepper = Pepper.parse(f"3:{SECRET.hex()}\n")
    assert pepper == Pepper(3, SECRET)
    assert SECRET.hex() not in repr(pepper)
    assert str(SECRET) not in repr(pepper)


@pytest.mark.parametrize("kind", [SubjectKey, AliasKey])
@pytest.mark.parametrize(
    "text", ["", "0" * 33, "0" * 35, "0" * 32 + "G0", "A" * 34, "0" * 33 + "\n", "٠" * 34, "0x" + "0" * 32]
)
def test_junk_is_no_key(kind: type[SubjectKey | AliasKey], text: str) -> None:
    with pytest.raises(InvalidInput):
        kind.parse(text)


@given(st.binary(max_size=40).filter(lambda raw: len(raw) != 17))
def test_another_length_is_no_key(raw: bytes) -> None:
    with pytest.raises(InvalidInput):
        SubjectKey(raw)


@given(st.binary(min_size=17, max_size=17))
def test_a_key_survives_text_copy_and_pickle(raw: bytes) -> None:
    key = SubjectKey(raw)
    assert SubjectKey.parse(str(key)) == copy.deepcopy(key) == pickle.loads(pickle.dumps(key)) == key
    assert repr(key) == f"SubjectKey({raw.hex()})"


class Holder(BaseModel):
    subject: SubjectKey
    alias: AliasKey | None = None


@given(st.binary(min_size=17, max_size=17))
def test_a_key_is_hexadecimal_on_the_wire(raw: bytes) -> None:
    holder = Holder(subject=SubjectKey(raw), alias=AliasKey(raw))
    text = holder.model_dump_json()
    assert json.loads(text) == {"subject": raw.hex(), "alias": raw.hex()}
    again = Holder.model_validate_json(text)
    assert again == holder
    assert type(again.subject) is SubjectKey
    assert type(again.alias) is AliasKey
    assert Holder.model_validate({"subject": raw.hex()}).subject == raw
    assert Holder.model_validate({"subject": raw}).subject == raw


@pytest.mark.parametrize("value", ["", "00", 17, None, 1.5, ["00"] * 17, b"short", "G" * 34, AliasKey(bytes(17))])
def test_what_is_no_key_is_refused_by_a_model(value: object) -> None:
    with pytest.raises(ValidationError):
        Holder.model_validate({"subject": value})


@pytest.mark.parametrize("document", ['{"subject": 5}', '{"subject": "00"}', '{"subject": null}', '{"subject": []}'])
def test_what_is_no_key_is_refused_on_the_wire(document: str) -> None:
    with pytest.raises(ValidationError):
        Holder.model_validate_json(document)


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("email", "Alice@Example.EU", "alice@example.eu"),
        ("email", "  a@b.c\n", "a@b.c"),
        ("email", "\uff21\uff20b.c", "a@b.c"),
        ("email", "STRASSE@x.de", "strasse@x.de"),
        ("email", "stra\u00dfe@x.de", "strasse@x.de"),
        ("email", "\ufb01n@b.c", "fin@b.c"),
        ("email", "jose\u0301@b.c", "jos\u00e9@b.c"),
        ("email", '"a@b"@c.d', '"a@b"@c.d'),
        ("phone", "+49 (30) 123-456", "+4930123456"),
        ("phone", "+1.202.555.0100", "+12025550100"),
        ("phone", "\uff0b\uff14\uff19 30123456", "+4930123456"),
        ("phone", "+1234567", "+1234567"),
        ("phone", "+123456789012345", "+123456789012345"),
        ("username", " Alice ", "alice"),
        ("username", "\u1e9e", "ss"),
    ],
)
def test_aliases_are_normalised(kind: str, value: str, expected: str) -> None:
    assert normalise_alias(kind, value) == expected


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        *(("email", v) for v in
          ["", "a", "@b.c", "a@", "a@b", "a b@c.d", "a@b .c", "a\0@b.c", "a\x1b@b.c", "a@b.c\x00", "\ud800@b.c"]),
        *(("phone", v) for v in
          ["", "030 123456", "0049 30 123456", "+0123456", "+123456", "+1234567890123456", "+49abc123", "++493012"]),
        *(("username", v) for v in ["", "  ", "a b", "a\tb", "a\0b", "\udfff"]),
        *((k, "+1" * 200 + "@b.c") for k in ALIAS_KINDS),
        ("username", "\ufdfa" * 60),
        ("Email", "a@b.c"),
        ("", "a@b.c"),
    ],
)  # fmt: skip
def test_what_is_no_alias_is_refused_and_not_quoted(kind: str, value: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        normalise_alias(kind, value)
    assert len(value.strip()) < 3 or value not in str(caught.value)


def test_an_alias_in_the_place_of_its_kind_is_not_quoted() -> None:
    with pytest.raises(InvalidInput) as caught:
        normalise_alias("alice@example.eu", "email")
    assert "alice" not in str(caught.value)


@given(st.sampled_from(ALIAS_KINDS), st.text(max_size=40) | st.from_regex(r"\A[^@\s]{1,9}@[^@\s]{1,5}\.[^@\s]{1,5}\Z"))
def test_normalising_twice_changes_nothing(kind: str, value: str) -> None:
    try:
        once = normalise_alias(kind, value)
    except InvalidInput:
        return
    assert normalise_alias(kind, once) == once
    assert unicodedata.is_normalized("NFKC", once)
    assert PEPPER.alias_key(kind, value) == PEPPER.alias_key(kind, once)


@given(st.text(NOT_SURROGATE, max_size=20).map(lambda s: s + "@b.c"))
def test_case_alone_makes_no_second_email(value: str) -> None:
    try:
        once = normalise_alias("email", value)
        other = normalise_alias("email", value.casefold())
    except InvalidInput:
        return
    assert once == other


@pytest.mark.parametrize("code_point", ["\u0345", "\u03d3", "\u0390", "\u1fb7", "\u01c5", "\u2126", "\u1e9b\u0323"])
def test_characters_on_which_folding_and_nfkc_quarrel(code_point: str) -> None:
    once = normalise_alias("username", f"a{code_point}")
    assert normalise_alias("username", once) == once
