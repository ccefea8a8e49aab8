"""Header lines: a head that llhttp has accepted, by name, and what of it goes on, in one canonical spelling.

What is to be done with a field is looked up by its name, and names are remembered. So are whole lines of a few names
that say what a program takes or gives, the same for everybody. No other value ever is, so that no cookie, credential,
address or path of anybody stays in memory after its request.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from enum import IntEnum
from typing import Final, overload

MAX_NAMES: Final = 1024
MAX_NAME_BYTES: Final = 64
MAX_LINES: Final = 1024
MAX_LINE_BYTES: Final = 128
_SPACE: Final = b" \t\r\n"


class Use(IntEnum):
    """What a field's value is for, beside going on or not."""

    NONE = 0
    LOOKED_UP = 1
    REMEMBERED = 2


Name = tuple[str, bytes, int]
"""A name in lower case; how its line begins, empty where the field ends here; a ``Use``."""


class Names:
    """``passes``: whether a field of that name, in lower case, goes on. ``special``: names that are looked up.
    ``alike``: names whose lines may be remembered.

    ``known``: by each spelling that came. ``steady``: lines that go on exactly as they are.
    """

    def __init__(self, passes: Callable[[str], bool], special: Collection[str], alike: Collection[str] = ()) -> None:
        self._passes = passes
        self._alike = frozenset(alike)
        self.special: Final = frozenset(special)
        self.known: Final[dict[bytes, Name]] = {}
        self.steady: Final[set[bytes]] = set()

    def learn(self, name: bytes) -> Name:
        low = name.decode().lower()
        begins = name + b": " if self._passes(low) else b""
        use = Use.NONE
        if low in self.special:
            use = Use.LOOKED_UP
        elif begins and low in self._alike:
            use = Use.REMEMBERED
        made = (low, begins, int(use))
        if len(name) <= MAX_NAME_BYTES:
            if len(self.known) >= MAX_NAMES:
                self.known.clear()
            self.known[name] = made
        return made

    def remember(self, line: bytes) -> None:
        if len(line) <= MAX_LINE_BYTES:
            if len(self.steady) >= MAX_LINES:
                self.steady.clear()
            self.steady.add(line)


class Fields:
    """The fields of one head: each name's values in their order, names without regard to case.

    ``lines``: those that go on. ``special``: values of the names that are looked up, by name in lower case.
    ``alike``: no other field came than these and those that may be remembered. ``cookies``: as
    ``domicile.router.headers`` has taken them apart, for as long as the request takes.
    """

    __slots__ = ("_names", "_raw", "alike", "cookies", "lines", "special")

    def __init__(self, names: Names, raw: Sequence[bytes] = ()) -> None:
        """``raw``: lines with their ends, each with a colon and white space around its value only."""
        self._names = names
        self._raw = raw
        self.lines = lines = []  # type: list[bytes]
        self.special = special = {}  # type: dict[str, list[bytes]]
        self.alike = True
        self.cookies: tuple[list[bytes], bytes] | None = None
        known, steady = names.known, names.steady
        for line in raw:
            if line in steady:
                lines.append(line)
                continue
            name, _, value = line.partition(b":")
            low, begins, use = known.get(name) or names.learn(name)
            if begins and not use and value[0] == 32 and value[1] > 32 and value[-3] > 32:
                self.alike = False
                lines.append(line)  # one space before its value, none behind: spelt as it would be written
                continue
            value = value.strip(_SPACE)
            if begins:
                line = begins + value + b"\r\n"
                lines.append(line)
            if use:
                if use == 2:  # Use.REMEMBERED, whose look-up would cost as much as the rest of this
                    names.remember(line)
                elif low in special:
                    special[low].append(value)
                else:
                    special[low] = [value]
            else:
                self.alike = False

    @classmethod
    def of(cls, pairs: Iterable[tuple[str, str]], names: Names) -> Fields:
        """For requests that did not come over a wire."""
        return cls(names, [f"{name}: {value}\r\n".encode("utf-8", "surrogateescape") for name, value in pairs])

    def getall(self, name: str, default: list[str], /) -> list[str]:
        low = name.lower()
        if low in self._names.special:
            values = self.special.get(low)
        else:
            wanted = low.encode()
            parts = [line.partition(b":") for line in self._raw]
            values = [value.strip(_SPACE) for name, _, value in parts if name.lower() == wanted]
        return [value.decode("utf-8", "surrogateescape") for value in values] if values else default

    @overload
    def get(self, name: str, /) -> str | None: ...
    @overload
    def get(self, name: str, default: str, /) -> str: ...
    def get(self, name: str, default: str | None = None, /) -> str | None:
        """The first of them."""
        values = self.getall(name, [])
        return values[0] if values else default

    def without(self, omitted: Collection[str]) -> list[bytes]:
        """The lines that go on, but those of some names (in lower case)."""
        return [line for line in self.lines if line.partition(b":")[0].decode().lower() not in omitted]


def written(pairs: Iterable[tuple[str, str]]) -> bytes:
    """Lines of the router's own, and of fields that it changed."""
    return "".join([f"{name}: {value}\r\n" for name, value in pairs]).encode("utf-8", "surrogateescape")
