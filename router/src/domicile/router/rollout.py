"""Changing a router's rules: what counts as a disagreement, and who is among the first to get the new ones. Pure."""

from __future__ import annotations

from enum import StrEnum
from hashlib import blake2b
from typing import Final

from domicile.model import DomicileError, SubjectKey

_BUCKETS: Final = 1 << 32
_PERSON: Final = b"domicile/roll"


class Disagreement(StrEnum):
    """How ``rules_next`` reads a request otherwise than ``rules``."""

    SUBJECT = "subject"  # another one
    LOST = "lost"  # nobody, where rules find somebody
    GAINED = "gained"  # somebody, where rules find nobody
    REFUSED = "refused"  # refused, where rules are content
    ADMITTED = "admitted"  # content, where rules refuse
    REASON = "reason"  # refused for another reason
    CLASS = "class"  # the same, but the path is pinned for one and not for the other


Reading = tuple[SubjectKey, ...] | DomicileError
"""What rules make of a request: whose it is, by each pepper (nobody's: none), or a refusal."""


def disagreement(live: Reading, new: Reading, *, same_class: bool) -> Disagreement | None:
    if isinstance(live, DomicileError) or isinstance(new, DomicileError):
        if not isinstance(live, DomicileError):
            return Disagreement.REFUSED
        if not isinstance(new, DomicileError):
            return Disagreement.ADMITTED
        if live.code != new.code:
            return Disagreement.REASON
    elif live or new:
        if not live or not new:
            return Disagreement.LOST if live else Disagreement.GAINED
        if set(live).isdisjoint(new):
            return Disagreement.SUBJECT
    return None if same_class else Disagreement.CLASS


def in_rollout(who: bytes, percent: float, salt: bytes) -> bool:
    """Whether ``who`` (a subject key, or a connection's peer) is among the first ``percent`` of all.

    Stable: it depends on nothing else, and nobody drops out when the percentage grows. ``salt`` names the change,
    so that the next one begins with others.
    """
    digest = blake2b(who, digest_size=4, key=salt[:64], person=_PERSON).digest()
    return int.from_bytes(digest, "big") < percent / 100 * _BUCKETS
