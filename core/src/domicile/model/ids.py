"""Names and keys: what a part may call a place, and the only forms in which a person may be named.

A subject id is personal data. What leaves a cell is its subject key: one byte of pepper version, then
BLAKE2b-128 (RFC 7693) of the id, keyed with that pepper and personalised ``domicile/subj``. An alias key
is the same over ``kind NUL normalised value``, personalised ``domicile/alias``.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass
from typing import Annotated, Any, Final, Self

from pydantic import AfterValidator, GetCoreSchemaHandler, StringConstraints
from pydantic_core import CoreSchema, core_schema

from domicile.model.errors import InvalidInput
from domicile.model.geography import COUNTRIES

KEY_BYTES: Final = 17
MAX_IDENTIFIER_BYTES: Final = 256
MIN_PEPPER_BYTES: Final = 32
MAX_PEPPERS: Final = 4
_SUBJECT_PERSON: Final = b"domicile/subj"
_ALIAS_PERSON: Final = b"domicile/alias"

_NAME = r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$"
Name = Annotated[str, StringConstraints(pattern=_NAME, max_length=32)]
MAX_JURISDICTION_BYTES: Final = 15
JurisdictionName = Annotated[str, StringConstraints(pattern=_NAME, max_length=MAX_JURISDICTION_BYTES)]
"""Short, because a sealed value names its jurisdiction in its head."""
CellName = Name
ZoneName = Name
RESERVED_JURISDICTIONS: Final = frozenset({"global"})


def _country(code: str) -> str:
    if code not in COUNTRIES:
        raise ValueError(f"{code!r} is not an ISO 3166-1 alpha-2 country code (upper case, such as DE)")
    return code


Country = Annotated[str, AfterValidator(_country)]


class _Key(bytes):
    """17 bytes that name somebody without saying who; written as 34 hexadecimal digits."""

    __slots__ = ()

    def __new__(cls, raw: bytes) -> Self:
        if len(raw) != KEY_BYTES:
            raise InvalidInput(f"a {cls.__name__} has {KEY_BYTES} bytes, not {len(raw)}")
        return super().__new__(cls, raw)

    @classmethod
    def parse(cls, text: str) -> Self:
        """From 34 hexadecimal digits; raises InvalidInput otherwise."""
        if len(text) != 2 * KEY_BYTES or not re.fullmatch(r"[0-9a-f]+", text):
            raise InvalidInput(f"a {cls.__name__} is {2 * KEY_BYTES} lower-case hexadecimal digits")
        return cls(bytes.fromhex(text))

    @property
    def pepper_version(self) -> int:
        return self[0]

    def __str__(self) -> str:
        return self.hex()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.hex()})"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def load(value: Any) -> _Key:
            if isinstance(value, cls):
                return value
            if isinstance(value, _Key):
                raise ValueError(f"a {type(value).__name__} is no {cls.__name__}")
            try:
                return cls.parse(value) if isinstance(value, str) else cls(value)
            except (InvalidInput, TypeError) as error:
                raise ValueError(str(error)) from None

        text = core_schema.str_schema(pattern=f"^[0-9a-f]{{{2 * KEY_BYTES}}}$")
        return core_schema.json_or_python_schema(
            json_schema=core_schema.no_info_after_validator_function(load, text),
            python_schema=core_schema.no_info_plain_validator_function(load),
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda key: key.hex(), return_schema=core_schema.str_schema()
            ),
        )


class SubjectKey(_Key):
    """The only form of a subject's identity that leaves a cell. Pseudonymous; in law still personal data."""

    __slots__ = ()


class AliasKey(_Key):
    """Keyed hash of a normalised e-mail address, phone number or user name."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Pepper:
    """The secret that turns ids into keys. Cells and routers hold it; the directory never does."""

    version: int
    secret: bytes

    def __post_init__(self) -> None:
        if not 0 <= self.version <= 255:
            raise InvalidInput(f"a pepper's version is 0 to 255, not {self.version}")
        if not MIN_PEPPER_BYTES <= len(self.secret) <= 64:
            raise InvalidInput(f"a pepper has {MIN_PEPPER_BYTES} to 64 bytes, not {len(self.secret)}")

    def __repr__(self) -> str:
        return f"Pepper(version={self.version}, secret=...)"

    @classmethod
    def parse(cls, text: str) -> Pepper:
        """From a line of a pepper file: ``VERSION:HEX``. Raises InvalidInput without quoting the secret."""
        version, _, secret = text.strip().partition(":")
        if not version.isascii() or not version.isdigit() or not re.fullmatch(r"([0-9a-f]{2})+", secret):
            raise InvalidInput("a pepper file holds VERSION:HEX on each line", remedy="such as 1:9f86d0...")
        return cls(int(version), bytes.fromhex(secret))

    def _digest(self, message: bytes, person: bytes) -> bytes:
        digest = hashlib.blake2b(message, digest_size=16, key=self.secret, person=person).digest()
        return bytes([self.version]) + digest

    def subject_key(self, subject_id: str) -> SubjectKey:
        """The key of an application's own id, taken byte for byte as UTF-8 (no normalisation)."""
        raw = subject_id.encode("utf-8", "surrogatepass")
        if not raw or len(raw) > MAX_IDENTIFIER_BYTES:
            raise InvalidInput(f"a subject id has 1 to {MAX_IDENTIFIER_BYTES} bytes, not {len(raw)}")
        if "\0" in subject_id or any("\ud800" <= c <= "\udfff" for c in subject_id):
            raise InvalidInput("a subject id holds neither NUL nor lone surrogates")
        return SubjectKey(self._digest(raw, _SUBJECT_PERSON))

    def alias_key(self, kind: str, value: str) -> AliasKey:
        """The key of an alias; ``kind`` is ``email``, ``phone`` or ``username``."""
        message = kind.encode() + b"\0" + normalise_alias(kind, value).encode()
        return AliasKey(self._digest(message, _ALIAS_PERSON))


@dataclass(frozen=True, slots=True)
class Peppers:
    """The pepper in force, and those that keys were made with before or soon will be: a rotation is a campaign.

    Whoever looks somebody up tries a key of each, and whoever claims names them all, so that nobody is taken for
    somebody new because two processes are not at the same pepper yet.
    """

    current: Pepper
    others: tuple[Pepper, ...] = ()

    def __post_init__(self) -> None:
        versions = [pepper.version for pepper in (self.current, *self.others)]
        if len(versions) > MAX_PEPPERS:
            raise InvalidInput(f"at most {MAX_PEPPERS} peppers, not {len(versions)}")
        if len(set(versions)) != len(versions):
            raise InvalidInput("two peppers of one version")

    @classmethod
    def parse(cls, text: str) -> Peppers:
        """From a pepper file: the one in force on the first line, others on further ones."""
        current, *others = text.strip().split("\n")
        return cls(Pepper.parse(current), tuple(map(Pepper.parse, others)))

    def subject_keys(self, subject_id: str) -> tuple[SubjectKey, ...]:
        """An id's key by each pepper, the one in force first."""
        return tuple(pepper.subject_key(subject_id) for pepper in (self.current, *self.others))

    def alias_keys(self, kind: str, value: str) -> tuple[AliasKey, ...]:
        """An alias's key by each pepper, the one in force first."""
        return tuple(pepper.alias_key(kind, value) for pepper in (self.current, *self.others))


def _spaced(value: str) -> bool:
    return any(c.isspace() or unicodedata.category(c) == "Cc" for c in value)


def _folded(value: str) -> str:
    """Without case, in NFKC. Folding can undo NFKC and the reverse, so both run until nothing changes."""
    while (folded := unicodedata.normalize("NFKC", value.casefold())) != value:
        value = folded
    return value


def _email(value: str) -> str:
    address = _folded(value).strip()
    local, _, domain = address.rpartition("@")
    if not local or "." not in domain or _spaced(address):
        raise InvalidInput("an e-mail alias has the form local@domain.tld")
    return address


def _phone(value: str) -> str:
    digits = re.sub(r"[\s().-]", "", value)
    if not re.fullmatch(r"\+[1-9][0-9]{6,14}", digits):
        raise InvalidInput("a phone alias is in international form (ITU-T E.164), such as +49 30 123456")
    return digits


def _username(value: str) -> str:
    name = _folded(value).strip()
    if not name or _spaced(name):
        raise InvalidInput("a user name is not empty and holds no spaces")
    return name


_NORMALISERS: Final = {"email": _email, "phone": _phone, "username": _username}
ALIAS_KINDS: Final = tuple(_NORMALISERS)


def normalise_alias(kind: str, value: str) -> str:
    """One spelling for each alias: NFKC (Unicode UAX 15), then the kind's own rule.

    Case is folded in an e-mail's local part too: RFC 5321 allows a host to tell case apart, hardly any
    does, and two accounts that differ by case alone are a worse fault than one that is refused.
    """
    if kind not in _NORMALISERS:
        # not quoted: who mixes up the two arguments has put the alias here
        raise InvalidInput("unknown alias kind", remedy=f"one of {', '.join(ALIAS_KINDS)}")
    if any("\ud800" <= c <= "\udfff" for c in value):
        raise InvalidInput("an alias holds no lone surrogates")
    if len(value.encode()) <= MAX_IDENTIFIER_BYTES:
        alias = _NORMALISERS[kind](unicodedata.normalize("NFKC", value))
        if len(alias.encode()) <= MAX_IDENTIFIER_BYTES:  # NFKC may lengthen it
            return alias
    raise InvalidInput(f"an alias has at most {MAX_IDENTIFIER_BYTES} bytes")
