"""What may be told in telemetry: attributes that were declared, with values that do not look personal.

Fails closed: what is not declared is dropped, and so is what cannot be looked at. Whatever is dropped is counted by
reason, never by value; many drops in a short time raise a gauge, since somebody has begun to log what he should not.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from threading import Lock
from typing import Any, Final

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge

from domicile.detect import Detector, Rule
from domicile.model.errors import InvalidInput
from domicile.model.fields import Withheld
from domicile.model.ids import AliasKey, SubjectKey
from domicile.sdk.records import Record

MAX_DEPTH: Final = 8
"""How deep lists and mappings may lie in each other; what lies deeper is dropped."""
BURST: Final = 20
BURST_SECONDS: Final = 60.0
_NAME: Final = re.compile(r"[A-Za-z_][\w.-]{0,127}", re.ASCII)
_PERSONAL: Final = re.compile(
    r"(?:^|[._-])(?:e[._-]?mail|phone|mobile|(?:first|last|full|sur|given|family|user|nick|display)[._-]?name|iban|ssn|passport"
    r"|(?:date[._-]?of[._-]?)?birth(?:day|date)?|dob|postcode|zip(?:[._-]?code)?|street|password|passwd|secret|token|session(?:[._-]?id)?"
    r"|cookie|authorization|(?:client|remote|peer|user)[._-]?(?:ip|addr(?:ess)?)|ip[._-]?addr(?:ess)?|latitude|longitude|gender|diagnosis|msisdn|(?:tax|national)[._-]?id|card[._-]?number|cvv|(?:user|subject|customer|account)[._-]?id"
    r"|subject[._-]?key|enduser[._-]\w+)(?:$|[._-])",
    re.IGNORECASE,
)
_CAMEL: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_TYPED: Final = (Record, Withheld, SubjectKey, AliasKey)
_LARGE: Final = 10_000


class Reason(StrEnum):
    """Why something was dropped; one more for each rule of the detector, by its name."""

    UNDECLARED = "undeclared"
    TYPE = "type"
    DEPTH = "depth"
    UNREADABLE = "unreadable"


class TelemetryGate:
    """``allowed``: names of attributes that may be told. Names that say that they hold something personal
    (``user.email``) cannot be declared: InvalidInput. ``countries``: whose national telephone numbers are recognised.

    Metrics, in ``registry``: ``domicile_telemetry_dropped_total`` by reason, and ``domicile_telemetry_burst``, which
    is 1 while ``burst`` or more drops lie within the last minute. ``clock``: monotonic seconds.
    """

    def __init__(
        self,
        allowed: Sequence[str],
        *,
        countries: Sequence[str] = (),
        burst: int = BURST,
        registry: CollectorRegistry = REGISTRY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        for name in allowed:
            if not _NAME.fullmatch(name):
                raise InvalidInput("is no attribute's name", where=repr(name)[:60], remedy="letters, digits, . _ -")
            if personal_name(name):
                raise InvalidInput("names something personal", where=name, remedy="tell a code or a count instead")
        self.allowed = frozenset(allowed)
        self._detector = Detector(countries)
        self._clock = clock
        self._lock = Lock()
        self._drops: deque[float] = deque(maxlen=burst)
        self._dropped = Counter("domicile_telemetry_dropped", "Left out of telemetry", ["reason"], registry=registry)
        gauge = Gauge("domicile_telemetry_burst", "1 while much is being left out of telemetry", registry=registry)
        gauge.set_function(lambda: float(self.burst()))

    def burst(self) -> bool:
        """Whether so many drops lie within the last minute that somebody should look."""
        with self._lock:
            full = len(self._drops) == self._drops.maxlen
            return full and self._clock() - self._drops[0] <= BURST_SECONDS

    def drop(self, reason: str) -> None:
        """Count what was left out."""
        with self._lock:
            self._drops.append(self._clock())
        self._dropped.labels(reason).inc()

    def attributes(self, given: Mapping[str, Any] | None) -> dict[str, Any]:
        """The declared ones whose values may be told. Members of a mapping are declared by their path (``a.b``)."""
        return {} if not given else self._mapping(given, "", 0)

    def text(self, said: object) -> Rule | None:
        """What a text shows that it should not; None where it may be told."""
        found = self._detector.findings(said if isinstance(said, str | bytes) else str(said))
        return found[0].rule if found else None

    def _mapping(self, given: Mapping[str, Any], path: str, depth: int) -> dict[str, Any]:
        kept: dict[str, Any] = {}
        for name, value in given.items():
            full = f"{path}{name}"
            within = isinstance(value, Mapping) and any(each.startswith(f"{full}.") for each in self.allowed)
            if full not in self.allowed and not within:
                self.drop(Reason.UNDECLARED)
                continue
            reason, clean = self._value(value, full, depth + 1)
            if reason is None:
                kept[name] = clean
            else:
                self.drop(reason)
        return kept

    def _value(self, value: Any, path: str, depth: int) -> tuple[str | None, Any]:
        """Why a value is dropped, or None and what is told in its place."""
        if depth > MAX_DEPTH:
            return Reason.DEPTH, None
        match value:
            case _ if isinstance(value, _TYPED):
                return Reason.TYPE, None
            case None | bool():
                return None, value
            case int() | float():
                return (self._found(str(value), path) if abs(value) >= _LARGE else None), value
            case str() | bytes():
                return self._found(value, path), value
            case Mapping():
                return None, self._mapping(value, f"{path}.", depth)
            case list() | tuple() | set() | frozenset():
                looked = [self._value(each, path, depth + 1) for each in value]
                return next((reason for reason, _ in looked if reason), None), tuple(clean for _, clean in looked)
        return Reason.UNREADABLE, None

    def typed(self, value: Any, depth: int = 0) -> bool:
        """Whether it is, or holds, something that is personal by its type; what lies too deep counts as such."""
        if isinstance(value, _TYPED) or depth > MAX_DEPTH:
            return True
        if isinstance(value, Mapping):
            return any(self.typed(each, depth + 1) for each in value.values())
        within = value if isinstance(value, list | tuple | set | frozenset) else ()
        return any(self.typed(each, depth + 1) for each in within)

    def _found(self, value: str | bytes, path: str) -> str | None:
        found = self._detector.findings(value, path.replace(".", " "))
        return found[0].rule if found else None


def personal_name(name: str) -> bool:
    """Whether an attribute's name says that it holds something personal. Pure."""
    return _PERSONAL.search(_CAMEL.sub("_", name)) is not None
