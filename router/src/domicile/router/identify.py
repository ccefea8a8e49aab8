"""Who a request says it is for: every identity rule is read, and what they find must be one and the same subject.

Where the manifest has ``rules_next``, both sets are read; each disagreement is counted, and a stable share of the
subjects is served by the new set.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

from domicile.model import (
    DomicileError,
    IdentitiesDisagree,
    Manifest,
    Peppers,
    Pin,
    ResidencyToken,
    Router,
    SubjectKey,
    TokenInvalid,
    Unauthenticated,
)
from domicile.model.rules import Rule, classes_of, identity_rules, is_unpinned
from domicile.router.keys import ResidencyKeys
from domicile.router.readers import Evidence, HeaderReader, Later, Proof, Reader, readers
from domicile.router.rollout import disagreement, drawn_by, in_rollout
from domicile.router.sessions import Sessions
from domicile.telemetry import RULE_DISAGREEMENTS

_NONE: Final[frozenset[str]] = frozenset()
Note = Callable[[str, str], None]
"""Told the label of each rule and what it found, a code or a refusal's text: nothing of the request itself."""


class Identified(NamedTuple):
    """``keys``: whom the request is for, by each pepper; none for nobody.

    ``authenticated``: by the application's JWT or a trusted peer. ``token``: a valid one that came along.

    ``rule``: the one that fired. ``distrusted``: fields, in lower case, that a rule believes from others than who
    sent this request: they go no further. ``until``: when the first of its proofs expires (seconds since 1970).
    """

    keys: tuple[SubjectKey, ...]
    authenticated: bool
    token: ResidencyToken | None
    rule: str | None = None
    distrusted: frozenset[str] = _NONE
    until: float = math.inf


class RuleSet:
    """Rules that were compiled for one router."""

    def __init__(
        self,
        rules: Sequence[Rule],
        manifest: Manifest,
        tokens: ResidencyKeys,
        sessions: Sessions | None,
        peppers: Peppers,
    ) -> None:
        self._classes = classes_of(rules)
        written = identity_rules(rules, sessions=sessions is not None)
        self._readers = readers(written, tokens, sessions, peppers, manifest)
        self._headers = [each for each in self._readers if isinstance(each, HeaderReader)]
        told = "\n".join(rule.model_dump_json() for rule in rules)
        self.digest: Final = blake2b(told.encode(), digest_size=16).digest()

    def is_unpinned(self, path: str) -> bool:
        return bool(self._classes) and is_unpinned(self._classes, path)

    def distrusted(self, evidence: Evidence) -> frozenset[str]:
        if not self._headers:
            return _NONE
        trusted = {each.name.lower() for each in self._headers if each.trusts(evidence)}
        return frozenset(each.name.lower() for each in self._headers) - trusted

    def glance(self, evidence: Evidence) -> Identified | None:
        """What ``read`` finds, where one reader alone says something and nothing has to be waited for; else None."""
        found: Proof | None = None
        fired: Reader | None = None
        try:
            for each in self._readers:
                proof = each.glance(evidence)
                if proof is not None:
                    if found is not None:
                        return None  # whether they agree is for ``read`` to say
                    found, fired = proof, each
        except (Later, DomicileError):
            return None  # a refusal may not be the last word
        if found is None or fired is None:
            return None
        return Identified(found.keys, found.authenticated, found.token, fired.label, self.distrusted(evidence))

    async def read(self, evidence: Evidence, note: Note | None = None) -> Identified:
        """Raises TokenInvalid, IdentitiesDisagree, BadRequest, Unavailable; Unauthenticated where nobody is found
        on a pinned path."""
        fired: Reader | None = None
        named: tuple[SubjectKey, ...] = ()
        keys: frozenset[SubjectKey] = frozenset()
        authenticated = False
        token: ResidencyToken | None = None
        invalid: TokenInvalid | None = None
        until = math.inf
        for each in self._readers:
            try:
                proof = await each.read(evidence)
            except DomicileError as error:
                if note is not None:
                    note(each.label, error.what)
                if each.strict or not isinstance(error, TokenInvalid):
                    raise
                invalid = error
                continue
            if note is not None:
                note(each.label, _outcome(each, proof, evidence))
            if proof is None:
                continue
            if fired is None:
                fired = each
            elif keys.isdisjoint(proof.keys):
                raise IdentitiesDisagree(f"two rules name different subjects: {fired.label}, {each.label}")
            if len(proof.keys) > len(named):  # a token knows its subject by one pepper only
                named = proof.keys
                keys = frozenset(named)
            authenticated = authenticated or proof.authenticated
            token = token or proof.token
            until = min(until, proof.until)
        if fired is None and evidence.pinned:
            raise invalid or Unauthenticated("this path is a subject's own", remedy="send a session token")
        return Identified(
            named,
            authenticated,
            token,
            fired.label if fired is not None else None,
            self.distrusted(evidence),
            until,
        )


def _outcome(each: Reader, proof: Proof | None, evidence: Evidence) -> str:
    if proof is not None:
        return "found"
    if isinstance(each, HeaderReader) and not each.trusts(evidence):
        return "not a trusted peer"
    return "nothing"


class Identifier:
    """Reads requests by ``rules``, and by ``rules_next`` where there are some. ``known``: a pin by any of its keys."""

    def __init__(
        self,
        manifest: Manifest,
        place: Router,
        tokens: ResidencyKeys,
        sessions: Sessions | None,
        peppers: Peppers,
        known: Callable[..., Pin | None],
    ) -> None:
        self._known = known
        self.live: Final = RuleSet(place.rules, manifest, tokens, sessions, peppers)
        self.new: Final = (
            None if place.rules_next is None else RuleSet(place.rules_next.rules, manifest, tokens, sessions, peppers)
        )
        self._percent = place.rules_next.percent if place.rules_next is not None else 0.0

    def glance(self, evidence: Evidence) -> Identified | None:
        """As ``RuleSet.glance``; None for everybody while there are two sets of rules to be compared."""
        return self.live.glance(evidence) if self.new is None else None

    async def identify(self, evidence: Evidence, note: Note | None = None) -> Identified:
        """Raises as ``RuleSet.read`` does. ``note`` is told of the rules that count for this request."""
        if self.new is None:
            return await self.live.read(evidence, note)
        outcomes = [await _tried(rules, evidence) for rules in (self.live, self.new)]
        live, new = (each.keys if isinstance(each, Identified) else each for each in outcomes)
        kind = disagreement(live, new, same_class=self.new.is_unpinned(evidence.path) != evidence.pinned)
        if kind is not None:
            RULE_DISAGREEMENTS.labels(kind.value).inc()
        key = drawn_by(live, new, self._known)
        who = (evidence.peer or "").encode() if key is None else bytes(key)
        chosen = in_rollout(who, self._percent, self.new.digest)
        if note is not None:
            note("rules_next", f"{kind or 'agree'}, {'in' if chosen else 'not in'} the first {self._percent:g} %")
            await _tried(self.new if chosen else self.live, evidence, note)
        outcome = outcomes[chosen]
        if isinstance(outcome, DomicileError):
            raise outcome
        return outcome


async def _tried(rules: RuleSet, evidence: Evidence, note: Note | None = None) -> Identified | DomicileError:
    try:
        return await rules.read(evidence, note)
    except DomicileError as error:
        return error
