"""One pass of rules over a text, each linear in its length, none of which keeps or tells what it saw.

Every pattern has a bounded length and begins at a place that is found without trying (a digit behind no word
character, an ``@``), so that no input makes a rule go back over more than a few hundred characters.
"""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import pairwise
from math import log2
from typing import Final

import phonenumbers
from stdnum import iban, luhn

from domicile.detect.identifiers import identifiers
from domicile.detect.text import readings
from domicile.model import InvalidInput
from domicile.model.sealed import MAGIC, parse

MAX_TEXT: Final = 1 << 20
"""Characters of one value that are looked at; a longer one is itself a finding."""

Spans = Iterator[tuple[int, int]]


class Rule(StrEnum):
    """What a value looks like."""

    EMAIL = "email"
    PHONE = "phone"
    IBAN = "iban"
    CARD = "card"
    IDENTIFIER = "national-identifier"
    ADDRESS = "ip-address"
    TOKEN = "token"
    SEALED = "sealed-value"
    TOO_LONG = "too-long"


@dataclass(frozen=True, slots=True)
class Finding:
    """That a rule matched, and where in the text as normalised: never what it matched."""

    rule: Rule
    start: int
    end: int


_DIGIT: Final = re.compile(r"\d")
_WITHOUT_DIGITS: Final = frozenset({Rule.EMAIL, Rule.ADDRESS})


class Detector:
    """Looks for values that look personal. Holds no state: one may serve every thread.

    ``countries`` (ISO 3166-1 alpha-2) are those whose national telephone numbers are known; a number with ``+`` is
    known everywhere. ``without`` names rules that do not apply, such as TOKEN to a column of keyed pseudonyms.
    """

    def __init__(self, countries: Sequence[str] = (), *, without: frozenset[Rule] = frozenset()) -> None:
        unknown = sorted(set(countries) - phonenumbers.SUPPORTED_REGIONS)
        if unknown:
            raise InvalidInput(f"countries without telephone numbers: {', '.join(unknown)}")
        self._countries = tuple(countries)
        rules: dict[Rule, Callable[[str, str], Spans]] = {
            Rule.EMAIL: _emails,
            Rule.PHONE: self._phones,
            Rule.IBAN: _ibans,
            Rule.CARD: _cards,
            Rule.IDENTIFIER: identifiers,
            Rule.ADDRESS: _addresses,
            Rule.TOKEN: _tokens,
            Rule.SEALED: _sealed,
        }
        self._rules = [(rule, look) for rule, look in rules.items() if rule not in without]
        self._wordy = [(rule, look) for rule, look in self._rules if rule in _WITHOUT_DIGITS]
        self._sealed = Rule.SEALED not in without

    def findings(self, value: str | bytes, topic: str = "") -> list[Finding]:
        """All findings in a value; ``topic`` says what it is about, such as the column it stands in."""
        if isinstance(value, bytes):
            if self._sealed and MAGIC in value:
                return [Finding(Rule.SEALED, value.index(MAGIC), len(value))]
            value = value.decode("utf-8", "replace")
        found = [] if len(value) <= MAX_TEXT else [Finding(Rule.TOO_LONG, MAX_TEXT, len(value))]
        topic = topic.replace("_", " ").replace("-", " ")
        for text in readings(value[:MAX_TEXT]):
            rules = self._rules if _DIGIT.search(text) else self._wordy
            found += [Finding(rule, *span) for rule, look in rules for span in look(text, topic)]
        return list(dict.fromkeys(found))

    def _phones(self, text: str, topic: str) -> Spans:
        for match in _NUMBER.finditer(text):
            written = match.group()
            if _DATE.search(written) or _OCTETS.fullmatch(written):
                continue
            if written[0] == "+":
                if _valid_phone(written, None):
                    yield match.span()
            elif (
                _grouped_phone(written)
                or _PHONE_WORDS.search(topic)
                or _PHONE_WORDS.search(text, max(0, match.start() - 32), match.start())
            ) and any(_valid_phone(written, country) for country in self._countries):
                yield match.span()


_LOCAL: Final = re.compile(r"(?:[\w.!#$&'*+/=?^`{|}~-]|%(?![0-9a-fA-F]{2})){1,64}$")
_DOMAIN: Final = re.compile(r"(?:\w[\w-]{0,62}\.){1,8}([^\W\d_]{2,24})(?![\w-])|\[[0-9a-fA-F:.]{7,39}\]")
_FILES: Final = frozenset(
    {"css", "gif", "htm", "html", "jpeg", "jpg", "js", "json", "png", "svg", "webp", "yaml", "yml"}
)


def _emails(text: str, topic: str) -> Spans:
    """RFC 5321 mailboxes, from each ``@`` outwards; ``icon@2x.png`` is a file."""
    at = text.find("@")
    while at >= 0:
        local = _LOCAL.search(text[max(0, at - 64) : at])
        domain = _DOMAIN.match(text, at + 1, at + 1 + 253)
        if local and domain and (domain.group(1) or "").lower() not in _FILES:
            yield at - len(local.group()), domain.end()
        at = text.find("@", at + 1)


_NUMBER: Final = re.compile(r"(?<![\w.,/-])\+?\(?\d(?:[ ().\-/]{0,3}\d){6,16}(?![\w-])", re.ASCII)
_DATE: Final = re.compile(
    r"(?<!\d)(?:(?:19|20)\d{2}[-/.](?:0[1-9]|1[0-2])[-/.](?:0[1-9]|[12]\d|3[01])|(?:0[1-9]|[12]\d|3[01])[-/.](?:0[1-9]|[12]\d|3[01])[-/.](?:19|20)\d{2})(?!\d)"
)
_OCTETS: Final = re.compile(r"\d{1,3}(?:\.\d{1,3}){3}")
_GROUPED: Final = re.compile(
    r"\(?0\d{1,4}[)/ .-]{1,3}\d[\d .-]{4,}|\(\d{3}\) ?\d{3}-\d{4}|\d{3}([-.])\d{3}\1\d{4}|\d{5} \d{5,6}"
)
_PHONE_WORDS: Final = re.compile(
    r"(?<![^\W_])(?:phone|tel|telephone|telefon\w*|t[eé]l[eé]phone|tel[eé]fono|mobile?|mobil\w*|cell|handy|fax|call|whatsapp|sms|rufnummer)"
    r"(?![^\W_])",
    re.IGNORECASE,
)


def _grouped_phone(written: str) -> bool:
    """Written as people group a national number, so that no word need name it."""
    return _GROUPED.fullmatch(written) is not None


def _valid_phone(written: str, country: str | None) -> bool:
    try:
        return phonenumbers.is_valid_number(phonenumbers.parse(written, country))
    except phonenumbers.NumberParseException:
        return False


_IBAN: Final = re.compile(r"(?<!\w)[A-Za-z]{2}\d{2}(?:[ -]?[A-Za-z0-9]){11,30}", re.ASCII)
_IBAN_COUNTRY: Final = 15
_SEPARATOR: Final = re.compile(r"[ -]")


def _ibans(text: str, topic: str) -> Spans:
    """ISO 13616, with its check; a word behind it may belong to the match, so shorter ends are tried as well."""
    for match in _IBAN.finditer(text):
        written = _SEPARATOR.sub("", match.group()).upper()
        if any(iban.is_valid(written[:length]) for length in range(len(written), _IBAN_COUNTRY - 1, -1)):
            yield match.span()


_CARD: Final = re.compile(r"(?<![\w.,-])\d(?:[ -]?\d){12,18}(?![\w-])", re.ASCII)
_ISSUERS: Final = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}"
    r"|3[47]\d{13}|3(?:0[0-5]|[689]\d)\d{11}|6(?:011|5\d\d|4[4-9]\d)\d{12}|35(?:2[89]|[3-8]\d)\d{12}|62\d{14,17}"
)


def _cards(text: str, topic: str) -> Spans:
    """Payment cards (ISO/IEC 7812): a known issuer's length and first digits, and the Luhn check."""
    for match in _CARD.finditer(text):
        digits = _SEPARATOR.sub("", match.group())
        if _ISSUERS.fullmatch(digits) and luhn.is_valid(digits):
            yield match.span()


_V4: Final = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?!\w|\.\d)", re.ASCII)
_V6: Final = re.compile(r"(?<![\w:.])(?=[0-9a-fA-F]{0,4}:)[0-9a-fA-F:]{3,39}(?:\.\d{1,3}){0,3}(?![\w:])", re.ASCII)


def _addresses(text: str, topic: str) -> Spans:
    """Addresses of a network; loopback and unspecified ones point to nobody."""
    for pattern in (_V4, _V6):
        for match in pattern.finditer(text):
            address = _address(match.group())
            if address and not (address.is_loopback or address.is_unspecified):
                yield match.span()


def _address(written: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(written)
    except ValueError:
        return None


_RUN: Final = re.compile(r"[A-Za-z0-9+/_=.~-]{16,}", re.ASCII)
_JWT: Final = re.compile(r"(?<![\w-])eyJ[\w-]{8,}\.[\w-]{8,}", re.ASCII)
_UUID: Final = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", re.IGNORECASE)
_HEX: Final = re.compile(r"[0-9a-f]{24,}|[0-9A-F]{24,}")
_LOOKED_AT: Final = 4096


def _tokens(text: str, topic: str) -> Spans:
    """Runs that a generator made: keys, sessions, identifiers by chance (Shannon entropy of the characters)."""
    for run in _RUN.finditer(text):
        whole = run.group()
        if _JWT.search(whole) or _UUID.search(whole) or any(_random(part) for part in re.split(r"[/.~]", whole)):
            yield run.span()


def _random(part: str) -> bool:
    if _HEX.fullmatch(part):
        return not part.isdigit() and _entropy(part) >= 3.0
    if len(part) < 20 or not any(map(str.isdigit, part)):
        return False
    changes = sum(_class(one) != _class(next_) for one, next_ in pairwise(part))
    return changes >= len(part) * 0.3 and _entropy(part) >= 3.6


def _class(character: str) -> int:
    return 0 if character.isdigit() else 1 if character.islower() else 2 if character.isupper() else 3


def _entropy(part: str) -> float:
    """In bits for each character."""
    return -sum(n / len(part) * log2(n / len(part)) for n in Counter(part).values())


_BASE64: Final = re.compile(base64.b64encode(MAGIC + b"\0\0")[:5].decode() + r"[A-Za-z0-9+/_-]{40,}")
_HEXADECIMAL: Final = re.compile(MAGIC.hex() + r"[0-9a-f]{60,}", re.IGNORECASE)
_ORDINARY: Final = str.maketrans("-_", "+/")


def _sealed(text: str, topic: str) -> Spans:
    """A sealed value in base64 or hexadecimal: even unreadable it is not anonymous."""
    for match in _BASE64.finditer(text):
        head = match.group()[:_LOOKED_AT].translate(_ORDINARY)
        if _is_sealed(base64.b64decode(head[: len(head) // 4 * 4])):
            yield match.span()
    for match in _HEXADECIMAL.finditer(text):
        head = match.group()[:_LOOKED_AT]
        if _is_sealed(bytes.fromhex(head[: len(head) // 2 * 2])):
            yield match.span()


def _is_sealed(raw: bytes) -> bool:
    try:
        parse(raw)
    except InvalidInput:
        return False
    return True
