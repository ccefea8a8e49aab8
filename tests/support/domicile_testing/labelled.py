"""Values that look personal and values that do not, made by chance from a seed, each alone and within prose.

The prose is the reference of Python's language and library, which every Python brings: free text that nobody wrote
for a detector, full of numbers, names of hosts, hexadecimal and code.
"""

from __future__ import annotations

import random
import re
import string
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from ipaddress import IPv6Address
from pydoc_data.topics import topics
from uuid import UUID

import phonenumbers
from stdnum import iban, luhn

from domicile.detect import Rule
from domicile.model.sealed import Sealed, frame

COUNTRIES = ("DE", "FR", "US", "GB", "BR", "IN")


@dataclass(frozen=True)
class Labelled:
    text: str
    rule: Rule | None
    topic: str = ""


def positives(seed: int, count: int) -> Iterator[Labelled]:
    """``count`` values of each rule, alone."""
    rng = random.Random(seed)
    for rule, make in _MAKERS.items():
        for _ in range(count):
            text, topic = make(rng)
            yield Labelled(text, rule, topic)


def negatives(seed: int, count: int) -> Iterator[Labelled]:
    """``count`` values of each kind that a release is made of and that point to nobody."""
    rng = random.Random(seed)
    for make in _INNOCENT:
        for _ in range(count):
            yield Labelled(make(rng), None)


def prose() -> list[str]:
    """Paragraphs of free text, those left out that show an address or a number as an example."""
    paragraphs = [part.strip() for text in topics.values() for part in re.split(r"\n\s*\n", text)]
    return [each for each in paragraphs if len(each) > 40]


def in_prose(seed: int, count: int) -> Iterator[Labelled]:
    """A value of each rule put between the words of a paragraph."""
    rng = random.Random(seed)
    paragraphs = prose()
    for labelled in positives(seed, count):
        words = rng.choice(paragraphs).split(" ")
        place = rng.randrange(len(words) + 1)
        said = f"{labelled.topic} {labelled.text}" if labelled.topic else labelled.text
        yield Labelled(" ".join([*words[:place], said, *words[place:]]), labelled.rule)


def _digits(rng: random.Random, count: int) -> str:
    return "".join(rng.choices(string.digits, k=count))


def _email(rng: random.Random) -> tuple[str, str]:
    local = rng.choice(["anna", "j.doe", "max+news", "o'brien", "x_y-z", "jürgen"]) + _digits(rng, rng.randrange(4))
    host = rng.choice(
        ["example.org", "mail.example.co.uk", "xn--bcher-kva.example", "bücher.example", "a-b.example.com"]
    )
    return rng.choice([f"{local}@{host}", f"<{local}@{host}>", f"mailto:{local}@{host}", f"{local.upper()}@{host}"]), ""


def _phone(rng: random.Random) -> tuple[str, str]:
    while True:
        country = rng.choice(COUNTRIES)
        example = phonenumbers.example_number_for_type(country, rng.choice([0, 1]))
        if example is None:
            continue
        national = str(example.national_number)
        number = phonenumbers.PhoneNumber(example.country_code, int(national[:-4] + _digits(rng, 4)))
        if phonenumbers.is_valid_number(number):
            break
    formats = phonenumbers.PhoneNumberFormat
    if rng.random() < 0.7:
        return phonenumbers.format_number(number, rng.choice([formats.E164, formats.INTERNATIONAL])), ""
    return phonenumbers.format_number(number, formats.NATIONAL), rng.choice(["phone", "mobile", "call"])


def _iban(rng: random.Random) -> tuple[str, str]:
    while True:
        country, shape = rng.choice([("DE", 18), ("NL", 0), ("FR", 23), ("ES", 20), ("BE", 12)])
        body = "ABNA" + _digits(rng, 10) if country == "NL" else _digits(rng, shape)
        made = country + iban.calc_check_digits(country + "00" + body) + body
        if iban.is_valid(made):
            return rng.choice([made, " ".join(re.findall(".{1,4}", made)), made.lower()]), ""


def _card(rng: random.Random) -> tuple[str, str]:
    prefix, length = rng.choice([("4", 16), ("53", 16), ("37", 15), ("6011", 16), ("2221", 16)])
    body = prefix + _digits(rng, length - len(prefix) - 1)
    number = body + luhn.calc_check_digit(body)
    return rng.choice([number, " ".join(re.findall(".{1,4}", number)), "-".join(re.findall(".{1,4}", number))]), ""


_SHAPES = (
    ("us.ssn", "{3}-{2}-{4}", ""),
    ("us.ssn", "{9}", "ssn"),
    ("br.cpf", "{3}.{3}.{3}-{2}", ""),
    ("br.cpf", "{11}", "CPF"),
    ("de.idnr", "{11}", "Steuer-ID"),
    ("nl.bsn", "{9}", "BSN"),
    ("pl.pesel", "{11}", "PESEL"),
    ("in_.aadhaar", "{4} {4} {4}", ""),
    ("gb.nhs", "{3} {3} {4}", "NHS number"),
    ("fr.nir", "1 {2} 0{1} {2} {3} {3} {2}", ""),
    ("es.dni", "{8}-A", ""),
    ("ch.ssn", "756.{4}.{4}.{2}", ""),
)


def _identifier(rng: random.Random) -> tuple[str, str]:
    module, shape, word = rng.choice(_SHAPES)
    is_valid: Callable[[str], bool] = import_module(f"stdnum.{module}").is_valid
    while True:
        made = re.sub(r"\{(\d+)\}", lambda match: _digits(rng, int(match.group(1))), shape)
        made = made[:-1] + rng.choice("TRWAGMYFPDXBNJZSQVHLCKE") if made.endswith("A") else made
        if is_valid(made):
            return made, word


def _address(rng: random.Random) -> tuple[str, str]:
    if rng.random() < 0.5:
        return ".".join(str(rng.randrange(1, 126)) for _ in range(4)), ""
    return str(IPv6Address((0x20010DB8 << 96) | rng.getrandbits(96))), ""


def _token(rng: random.Random) -> tuple[str, str]:
    raw = rng.randbytes(rng.choice([20, 24, 32, 48]))
    uuid = str(UUID(bytes=rng.randbytes(16), version=4))
    return rng.choice([raw.hex(), urlsafe_b64encode(raw).decode().rstrip("="), uuid]), ""


def _sealed(rng: random.Random) -> tuple[str, str]:
    made = frame(Sealed(rng.choice(["eu", "us", "br"]), rng.randbytes(12), rng.randbytes(40)))
    return rng.choice([made.hex(), urlsafe_b64encode(made).decode().rstrip("=")]), ""


_MAKERS: dict[Rule, Callable[[random.Random], tuple[str, str]]] = {
    Rule.EMAIL: _email,
    Rule.PHONE: _phone,
    Rule.IBAN: _iban,
    Rule.CARD: _card,
    Rule.IDENTIFIER: _identifier,
    Rule.ADDRESS: _address,
    Rule.TOKEN: _token,
    Rule.SEALED: _sealed,
}

_WORDS = ("blue", "large", "monthly", "premium", "north", "steel", "annual", "basic", "hotel", "diesel")

_INNOCENT: tuple[Callable[[random.Random], str], ...] = (
    lambda rng: f"{rng.randrange(1950, 2030)}-{rng.randrange(1, 13):02}-{rng.randrange(1, 29):02}",
    lambda rng: f"{rng.randrange(1, 29):02}.{rng.randrange(1, 13):02}.{rng.randrange(1950, 2030)}",
    lambda rng: (
        f"2026-11-{rng.randrange(1, 29):02}T{rng.randrange(24):02}:{rng.randrange(60):02}:17.{_digits(rng, 6)}Z"
    ),
    lambda rng: f"{rng.uniform(0, 1e6):.2f} EUR",
    lambda rng: f"{rng.randrange(10**6):,}",
    lambda rng: str(rng.randrange(10 ** rng.randrange(3, 13))),
    lambda rng: f"ORD-{_digits(rng, 8)}",
    lambda rng: f"v{rng.randrange(30)}.{rng.randrange(30)}.{rng.randrange(30)}",
    lambda rng: f"{rng.choice(_WORDS)}-{rng.choice(_WORDS)}-{rng.randrange(100)}",
    lambda rng: " ".join(rng.choices(_WORDS, k=6)),
    lambda rng: f"{rng.uniform(-90, 90):.1f}",
    lambda rng: f"{rng.random():.16f}",
    lambda rng: f"{rng.choice('ABCDEFGH')}{_digits(rng, 2)} {rng.randrange(20)}-{rng.randrange(20, 40)} years",
    lambda rng: f"/{rng.choice(_WORDS)}/{rng.choice(_WORDS)}/{rng.randrange(1000)}?page={rng.randrange(9)}",
    lambda rng: f"@{rng.choice(_WORDS)} icon@2x.png",
    lambda rng: f"{rng.choice(_WORDS)}.{rng.choice(_WORDS)}.{rng.choice(_WORDS)}_{rng.randrange(99)}",
    lambda rng: f"{rng.randrange(24):02}:{rng.randrange(60):02}:{rng.randrange(60):02}",
    lambda rng: f"#{rng.getrandbits(24):06x}",
    lambda rng: f"{rng.randrange(1, 9999)} items of {rng.randrange(1, 9999)}, {rng.randrange(100)} %",
    lambda rng: "".join(rng.choice(_WORDS).title() for _ in range(4)),
)
