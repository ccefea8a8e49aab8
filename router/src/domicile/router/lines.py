"""Header lines: what llhttp read, held to one canonical spelling, and what of it goes on.

Lines that come again and again (``Accept``, ``User-Agent``, ...) are looked up whole instead of being made anew. Which
names those are is an allow-list, so that no cookie, credential, address or path of anybody stays in memory
after its request; how many, and how long, is bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, overload

MAX_KEPT: Final = 2048
MAX_KEPT_BYTES: Final = 256
Line = tuple[str, str, bytes]
"""A name in lower case, its value as text, and the line that goes on: empty where the field ends here."""
Pair = tuple[bytes, bytes]

REQUEST_NAMES: Final = frozenset(
    "accept accept-charset accept-encoding accept-language cache-control connection dnt host pragma priority "
    "sec-ch-ua sec-ch-ua-mobile sec-ch-ua-platform sec-fetch-dest sec-fetch-mode sec-fetch-site sec-fetch-user "
    "sec-gpc te transfer-encoding upgrade upgrade-insecure-requests user-agent".split()
)
ANSWER_NAMES: Final = frozenset(
    "accept-ranges access-control-allow-credentials access-control-allow-headers access-control-allow-methods "
    "access-control-allow-origin access-control-expose-headers access-control-max-age age cache-control "
    "connection content-encoding content-language content-length content-security-policy content-type "
    "cross-origin-opener-policy date keep-alive permissions-policy pragma referrer-policy server "
    "strict-transport-security transfer-encoding vary x-content-type-options x-frame-options x-xss-protection".split()
)


class Fields:
    """The fields of one head: each name's values in their order, names without regard to case."""

    __slots__ = ("_values",)

    def __init__(self, values: dict[str, list[str]]) -> None:
        """``values``: by names in lower case."""
        self._values = values

    @classmethod
    def of(cls, pairs: Iterable[tuple[str, str]]) -> Fields:
        values: dict[str, list[str]] = {}
        for name, value in pairs:
            values.setdefault(name.lower(), []).append(value)
        return cls(values)

    def getall(self, name: str, default: list[str], /) -> list[str]:
        return self._values.get(name.lower(), default)

    @overload
    def get(self, name: str, /) -> str | None: ...
    @overload
    def get(self, name: str, default: str, /) -> str: ...
    def get(self, name: str, default: str | None = None, /) -> str | None:
        """The first of them."""
        values = self._values.get(name.lower())
        return default if values is None else values[0]

    def __contains__(self, name: str) -> bool:
        return name.lower() in self._values


class Lines:
    """Makes lines of what llhttp read: names are tokens, values hold no control character but the tab.

    ``passes``: whether a field of that name goes on. ``kept``: names whose lines are looked up.
    """

    def __init__(self, passes: Callable[[str], bool], kept: frozenset[str]) -> None:
        self._passes = passes
        self._names = kept
        self.kept: dict[Pair, Line] = {}

    def read(self, pairs: list[Pair]) -> tuple[list[Line], dict[str, list[str]]]:
        """Lines in their order, and their values by name."""
        kept = self.kept
        lines: list[Line] = []
        values: dict[str, list[str]] = {}
        for pair in pairs:
            line = kept.get(pair) or self._make(pair)
            lines.append(line)
            name = line[0]
            if name in values:
                values[name].append(line[1])
            else:
                values[name] = [line[1]]
        return lines, values

    def _make(self, pair: Pair) -> Line:
        name, value = pair
        text = name.decode("ascii").lower()
        value = value.strip(b" \t")
        line = (
            text,
            value.decode("utf-8", "surrogateescape"),
            b"%b: %b\r\n" % (name, value) if self._passes(text) else b"",
        )
        if text in self._names and len(name) + len(value) <= MAX_KEPT_BYTES:
            if len(self.kept) >= MAX_KEPT:
                self.kept.clear()
            self.kept[pair] = line
        return line


def written(pairs: Iterable[tuple[str, str]]) -> bytes:
    """Lines of the router's own, and of fields that it changed."""
    return "".join([f"{name}: {value}\r\n" for name, value in pairs]).encode("utf-8", "surrogateescape")
