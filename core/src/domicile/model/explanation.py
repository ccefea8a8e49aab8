"""What an operator asks a router to explain, and what it answers: the same request, decided and not forwarded.

The question holds a request's credentials, so that it is never shown or logged. The answer holds nothing of them;
what of it is personal (the subject key, the pin) is left out for an operator of another jurisdiction than the home's.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints

from domicile.model.ids import CellName, Country, JurisdictionName, SubjectKey, ZoneName
from domicile.model.pins import Epoch, Frozen, PinState
from domicile.model.rules import router_name

_Method = Annotated[str, StringConstraints(pattern=r"^[A-Z]{1,32}$")]
_Name = Annotated[str, StringConstraints(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}$")]
_Value = Annotated[str, StringConstraints(pattern=r"^[\x20-\x7e\t]*$", max_length=16384)]
_Url = Annotated[str, StringConstraints(pattern=r"^https?://[^\s/?#]+([/?][^\s#]*)?$", max_length=8192)]


class ExplainRequest(Frozen):
    """``peer``: the address that the request would come from; without one, nobody's that a rule trusts.

    ``router``: the identity of another one that it would come from, on the internal listener; else on the public one.
    """

    method: _Method
    url: _Url = Field(repr=False)
    headers: list[tuple[_Name, _Value]] = Field(default_factory=list, max_length=128, repr=False)
    peer: Annotated[str, StringConstraints(max_length=64)] | None = Field(default=None, repr=False)
    router: Annotated[str, StringConstraints(max_length=256), AfterValidator(router_name)] | None = None


class RuleReading(Frozen):
    """One rule, and what it found: a few words, nothing of the request."""

    rule: str
    found: str


class Explanation(Frozen):
    """``rule``: the one that fired. ``status``: what the router itself would answer; none where it would forward.

    ``country``: what the application would be told of where it comes from. ``home``: the jurisdiction that the subject
    is pinned to. ``to``: the zones to try, in order. ``withheld``: subject key, pin and zones are left out, since the
    operator is of another jurisdiction than the home.
    """

    zone: ZoneName
    jurisdiction: JurisdictionName
    listener: Literal["public", "internal"] = "public"
    path_class: Literal["pinned", "unpinned"] | None = None
    country: Country | None = None
    rules: list[RuleReading] = Field(default_factory=list)
    rule: str | None = None
    pin_from: Literal["replica", "directory"] | None = None
    home: JurisdictionName | None = None
    subject_key: SubjectKey | None = None
    cell: CellName | None = None
    epoch: Epoch | None = None
    state: PinState | None = None
    decision: Literal["forward", "redirect", "hairpin", "refuse"]
    status: int | None = None
    code: str | None = None
    why: str
    to: list[str] = Field(default_factory=list)
    public_host: str | None = None
    withheld: bool = False
