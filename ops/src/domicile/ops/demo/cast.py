"""The people of the demo: from a dozen countries, with values that occur nowhere else.

Each run makes new ones, so that a hit of the scan can only come from this run.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Final

# real addresses, one for each country, as the shipped country database knows them
_PLACES: Final = {
    "DE": ("5.9.0.1", "Heike Brünning"),
    "FR": ("212.27.48.10", "Zoé Lefèvre"),
    "NL": ("145.97.0.1", "Sanne de Wit"),
    "ES": ("80.58.61.250", "Íñigo Muñoz"),
    "IT": ("151.1.1.1", "Chiara Bellò"),
    "SE": ("192.36.148.17", "Åsa Lindström"),
    "PL": ("194.204.159.1", "Łukasz Wójcik"),
    "BE": ("193.190.198.1", "Lotte Peeters"),
    "IE": ("87.32.0.1", "Siobhán Ó Briain"),
    "CZ": ("195.113.144.1", "Jiří Dvořák"),
    "FI": ("94.237.0.1", "Aino Mäkelä"),
    "PT": ("193.136.0.1", "João Simões"),
    "US": ("18.0.0.1", "Dakota Whitfield"),
}
SECOND_AMERICAN: Final = ("128.101.101.101", "Madison Kowalczyk")
OUTSIDE: Final = ("JP", "133.11.0.1")


@dataclass(frozen=True, slots=True)
class Person:
    """One user of the sample application. ``residence`` is declared; without it the address decides."""

    user: str
    email: str
    name: str
    password: str
    born: str
    note: str
    country: str
    address: str
    residence: str | None = None

    def sign_up(self) -> dict[str, str]:
        body = {"user": self.user, "email": self.email, "password": self.password, "born": self.born, "plan": "pro"}
        return body | ({"residence": self.residence} if self.residence else {})

    def values(self) -> dict[str, str]:
        """What must never rest abroad, by a label that gives nothing away."""
        return {
            f"{self.country} user id": self.user,
            f"{self.country} e-mail": self.email,
            f"{self.country} note": self.note,
            f"{self.country} password": self.password,
            f"{self.country} client address": self.address,
        }


def person(country: str, address: str, name: str, residence: str | None = None) -> Person:
    tag = secrets.token_hex(5)
    first = name.split()[0].casefold()
    ascii_name = first.encode("ascii", "ignore").decode() or "user"
    return Person(
        user=f"{ascii_name}-{tag}",
        email=f"{ascii_name}.{tag}@mail.example",
        name=name,
        password=f"pw-{secrets.token_urlsafe(12)}",
        born=f"19{secrets.randbelow(40) + 55}-0{secrets.randbelow(9) + 1}-1{secrets.randbelow(9)}",
        note=f"{name} was here, {tag}",
        country=country,
        address=address,
        residence=residence,
    )


def cast() -> list[Person]:
    """Thirteen people, one a country; the Spaniard declares a residence, since she signs up from New York."""
    people = []
    for country, (address, name) in _PLACES.items():
        people.append(person(country, address, name, residence=country if country == "ES" else None))
    people.append(person("US", *SECOND_AMERICAN))
    return people
