"""What an operator declares before anything may leave: source, columns, each column's treatment, and the bounds.

A declaration is data: a YAML file, or these models in Python. It is held to the classes that ``domicile schema apply``
recorded when it is declared, and again when it runs, so that a personal column without a treatment is refused before
a single row is read. A column counts by what it was recorded as, whatever the export calls it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from domicile.model.errors import InvalidInput, ManifestError
from domicile.model.ids import CellName, JurisdictionName, Name
from domicile.model.yaml_text import read_yaml

MAX_COLUMNS: Final = 64
ColumnName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,54}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class AsItIs(_Strict):
    """The value as it is: of a shareable column alone."""

    treatment: Literal["shareable"]


class Drop(_Strict):
    """The column is named, and left at home."""

    treatment: Literal["drop"]


class Generalise(_Strict):
    """A group in the value's place: by ``hierarchy`` (value to group, else ``other``) or by ``bins``, lower bounds.

    ``bins: [18, 30, 50]`` makes ``<18``, ``18-30``, ``30-50`` and ``50+``; an upper bound is not in its bin.
    """

    treatment: Literal["generalise"]
    hierarchy: dict[str, str] | None = Field(default=None, min_length=1, max_length=10_000)
    other: str = Field(default="other", min_length=1, max_length=64)
    bins: list[int] | None = Field(default=None, min_length=1, max_length=100)

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.hierarchy is None) == (self.bins is None):
            raise ValueError("names a hierarchy or bins, one of the two")
        if self.bins is not None and any(low >= high for low, high in pairwise(self.bins)):
            raise ValueError("bins grow from one to the next")
        return self


class Truncate(_Strict):
    """The first characters, such as of a postcode."""

    treatment: Literal["truncate"]
    length: int = Field(ge=1, le=8)


class Pseudonym(_Strict):
    """26 letters that stand for the value: keyed by a secret of the home cell, and others for each destination."""

    treatment: Literal["pseudonym"]


class Coarsen(_Strict):
    """A date as its ``month`` (2026-05), ``quarter`` (2026-Q2), ``year`` (2026) or ``decade`` (2020s)."""

    treatment: Literal["date"]
    to: Literal["month", "quarter", "year", "decade"]


class TopCode(_Strict):
    """A number, or the nearer bound where it lies beyond ``above`` or ``below``."""

    treatment: Literal["topcode"]
    above: int | None = None
    below: int | None = None

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.above is None and self.below is None:
            raise ValueError("names a bound, above or below")
        if self.above is not None and self.below is not None and self.below >= self.above:
            raise ValueError("has its bound below under the one above")
        return self


class RemoveText(_Strict):
    """Whether there was a text at all."""

    treatment: Literal["remove-text"]


Treatment = AsItIs | Drop | Generalise | Truncate | Pseudonym | Coarsen | TopCode | RemoveText
Treated = Annotated[Treatment, Field(discriminator="treatment")]


class Destination(_Strict):
    jurisdiction: JurisdictionName
    cell: CellName


class Source(_Strict):
    """``records``: a table of records; ``sql``: one SELECT over tables of records (see ``lineage``)."""

    records: ColumnName | None = None
    sql: str | None = Field(default=None, max_length=10_000)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.records is None) == (self.sql is None):
            raise ValueError("names records or sql, one of the two")
        return self


class Sensitive(_Strict):
    """``l``: how many different values each class holds at least (l-diversity, Machanavajjhala 2007: distinct)."""

    column: ColumnName
    l: int = Field(ge=2, le=100)  # noqa: E741 - its name in the literature


class Declaration(_Strict):
    """One export. ``name`` and ``lineage``: releases of one lineage are held against each other, whatever their name.

    ``k``: how many subjects share each combination of ``quasi_identifiers`` (k-anonymity, Sweeney 2002). ``group``: how
    many are in a group that an aggregate is of; it counts where it is above k. ``max_suppressed``: which share of the
    rows may be left out to get there; beyond it nothing leaves. ``not_identifiers``: columns that, by the declarer's
    word, single nobody out; every other one is a quasi-identifier, the sensitive one, or a pseudonym.
    """

    name: Name
    to: Destination
    purpose: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_:.#/-]{0,99}$")]
    source: Source
    columns: dict[ColumnName, Treated] = Field(min_length=1, max_length=MAX_COLUMNS)
    quasi_identifiers: list[ColumnName]
    not_identifiers: list[ColumnName] = []
    sensitive: Sensitive | None = None
    k: int = Field(ge=2, le=100_000)
    group: int = Field(default=0, ge=0, le=100_000)
    max_suppressed: float = Field(default=0.05, ge=0, lt=1)
    lineage: Name | None = None

    @property
    def family(self) -> str:
        return self.lineage or self.name

    @property
    def least(self) -> int:
        """How many subjects any class that leaves holds at least."""
        return max(self.k, self.group)

    @property
    def leaving(self) -> list[str]:
        """The columns of the output, in their order."""
        return [name for name, treatment in self.columns.items() if not isinstance(treatment, Drop)]

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    @model_validator(mode="after")
    def _each_has_a_part(self) -> Self:
        for problem in self._problems():
            raise ValueError(problem)
        return self

    def _problems(self) -> Iterator[str]:
        leaving = self.leaving
        if not leaving:
            yield "leaves nothing: every column is dropped"
        parts = [*self.quasi_identifiers, *self.not_identifiers]
        if self.sensitive is not None:
            parts.append(self.sensitive.column)
        for name in parts:
            if name not in leaving:
                yield f"{name} is given a part, and is no column that leaves"
        if len(set(parts)) != len(parts):
            yield "a column has one part: quasi_identifiers, sensitive or not_identifiers"
        for name in leaving:
            if name not in parts and not isinstance(self.columns[name], Pseudonym):
                yield (f"{name} has no part: name it in quasi_identifiers, as the sensitive one, or in not_identifiers")
            if name in parts and isinstance(self.columns[name], Pseudonym):
                yield f"{name} is a pseudonym, which is of one subject alone: it has no other part"


def parse_declaration(text: str, *, source: str = "declaration") -> Declaration:
    """From YAML. Raises InvalidInput that says where, and quotes no value."""
    try:
        data = read_yaml(text, source=source)
    except ManifestError as error:
        raise InvalidInput(str(error.problems[0]), where=source, remedy="mend the file") from None
    return declared(data, source=source)


def declared(data: object, *, source: str = "declaration") -> Declaration:
    """From plain data. Raises InvalidInput that says where, and quotes no value."""
    try:
        return Declaration.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    what = first["msg"].removeprefix("Value error, ")
    if first["type"] in ("union_tag_not_found", "union_tag_invalid"):
        what = "a column without a known treatment"
    raise InvalidInput(f"{place}: {what}" if place else what, where=source, remedy="see docs/border.md")
