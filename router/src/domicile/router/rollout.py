"""Changing a router's rules: what counts as a disagreement, and who is among the first to get the new ones. Pure."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from hashlib import blake2b
from typing import Final

from domicile.model import DomicileError, Pin, SubjectKey

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


def drawn_by(live: Reading, new: Reading, known: Callable[..., Pin | None]) -> SubjectKey | None:
    """The key that decides whether its subject is among the first; None where nobody is named.

    The one that the subject is pinned by (``known``: of any of its keys), so that all its requests are drawn alike,
    whatever names it in them, also while two peppers are in use. Under a new pepper it is drawn anew, once, when it
    is renamed: what only names a subject by a key of one pepper (a token) says nothing that holds under another,
    or a key would outlive the pepper that was withdrawn.
    """
    named = [each for each in (live, new) if isinstance(each, tuple) and each]
    if not named:
        return None
    # a token names by one pepper only, what comes beside it by all
    keys = max((each for each in named if not set(each).isdisjoint(named[0])), key=len)
    pin = known(*keys) if len(keys) > 1 else None
    return keys[0] if pin is None else pin.subject_key


def in_rollout(who: bytes, percent: float, salt: bytes) -> bool:
    """Whether ``who`` (a subject key, or a connection's peer) is among the first ``percent`` of all.

    Stable: it depends on nothing else, and nobody drops out when the percentage grows. ``salt`` names the change,
    so that the next one begins with others.
    """
    digest = blake2b(who, digest_size=4, key=salt[:64], person=_PERSON).digest()
    return int.from_bytes(digest, "big") < percent / 100 * _BUCKETS
