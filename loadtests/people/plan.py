"""The one file that says who comes, how fast, and what has to hold.

Every number has its unit in its name. Unknown names are refused, since a misspelt objective would hold nothing.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from domicile.model.errors import InvalidInput
from domicile.model.yaml_text import read_yaml

DEFAULT: Final = Path(__file__).with_name("people.yaml")
Seconds = Annotated[float, Field(gt=0, le=86_400)]


class Kind(StrEnum):
    """What people do. ``ARRIVALS``: the sign-up with which each of the others begins a visit."""

    RESIDENTS = "residents"
    TRAVELLERS = "travellers"
    SIGN_UPS = "sign_ups"
    HOT_CELL = "hot_cell"
    UPLOADS = "uploads"
    WEB_SOCKETS = "web_sockets"
    ARRIVALS = "arrivals"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Pace(_Part):
    seconds: Seconds
    spawn_per_second: float = Field(gt=0, le=1000)


class People(_Part):
    """``think_seconds``: the least and the most between two requests of one user; ``visit``: requests after which he
    comes back as somebody new, so that no user's notes grow with the length of a run."""

    users: int = Field(ge=0, le=10_000)
    think_seconds: tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]] = (0.5, 1.5)
    visit: int = Field(default=60, ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.think_seconds[0] > self.think_seconds[1]:
            raise ValueError("think_seconds: the least comes first, then the most")
        return self


class SignUps(_Part):
    """``burst`` sign-ups of each user in one go, ``every_seconds``; all users' bursts begin together."""

    users: int = Field(ge=0, le=10_000)
    burst: int = Field(default=4, ge=1)
    every_seconds: Seconds = 12


class HotCell(People):
    cell: str = Field(min_length=1)


class Uploads(People):
    """``kilobytes`` of each note: the sample application takes 64,000 characters."""

    kilobytes: int = Field(default=48, ge=1, le=62)


class Mix(_Part):
    residents: People = People(users=0)
    travellers: People = People(users=0)
    sign_ups: SignUps = SignUps(users=0)
    hot_cell: HotCell = HotCell(users=0, cell="none")
    uploads: Uploads = Uploads(users=0)
    web_sockets: People = People(users=0)

    def of(self, kind: Kind) -> People | SignUps:
        found: People | SignUps = getattr(self, kind)
        return found

    def users(self) -> dict[Kind, int]:
        """How many of each kind that comes at all."""
        counted = {kind: self.of(kind).users for kind in Kind if kind is not Kind.ARRIVALS}
        return {kind: users for kind, users in counted.items() if users}


class Drill(_Part):
    scenario: str = Field(min_length=1)
    at_seconds: Seconds
    cell: str | None = None
    rate: float = Field(default=20, ge=1)
    floor: float = Field(default=5, ge=0)
    hold_seconds: float | None = Field(default=None, ge=0)


class Limits(_Part):
    """Of one kind's requests; ``requests``: how many there must have been at least, or nothing was tried."""

    p95_ms: float | None = Field(default=None, gt=0)
    p99_ms: float | None = Field(default=None, gt=0)
    errors_percent: float | None = Field(default=None, ge=0, le=100)
    requests: int | None = Field(default=None, ge=1)


class Objectives(_Part):
    default: Limits = Limits()
    residents: Limits = Limits()
    travellers: Limits = Limits()
    sign_ups: Limits = Limits()
    hot_cell: Limits = Limits()
    uploads: Limits = Limits()
    web_sockets: Limits = Limits()
    arrivals: Limits = Limits()

    def of(self, kind: Kind) -> Limits:
        own: Limits = getattr(self, kind)
        return self.default.model_copy(update=own.model_dump(exclude_none=True))


class WorldPart(_Part):
    ha: bool = False


class Soak(_Part):
    seconds: Seconds = 1800
    every_seconds: Seconds = 5
    warm_up: float = Field(default=0.34, ge=0, lt=0.9)
    memory_mib_per_hour: float = Field(default=60, ge=0)
    descriptors_per_hour: float = Field(default=60, ge=0)
    memory_mib: float = Field(default=6, ge=0)
    descriptors: float = Field(default=20, ge=0)


class Plan(_Part):
    version: Literal[1]
    pace: Pace
    mix: Mix
    drill: Drill | None = None
    world: WorldPart = WorldPart()
    objectives: Objectives = Objectives()
    objectives_in_drill: Objectives = Objectives()
    soak: Soak = Soak()

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if not self.mix.users():
            raise ValueError("mix: nobody comes; give some kind users")
        if self.drill is not None and self.drill.at_seconds >= self.pace.seconds:
            raise ValueError(
                f"drill.at_seconds: {self.drill.at_seconds:g} is after the end at pace.seconds {self.pace.seconds:g}"
            )
        return self


def read_plan(path: Path) -> Plan:
    """Raises InvalidInput (or ManifestError, for what is no YAML) that names each wrong line."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(
            f"cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8'}", where=str(path),
            remedy=f"name a file like {DEFAULT.name}",
        ) from None  # fmt: skip
    data = read_yaml(text, source=str(path))
    try:
        return Plan.model_validate(data)
    except ValidationError as error:
        told = [
            f"{'.'.join(map(str, each['loc'])) or '(top)'}: {each['msg'].removeprefix('Value error, ')}"
            for each in error.errors(include_url=False)
        ]
        raise InvalidInput("; ".join(told), where=str(path), remedy="docs/load.md names every line") from None
