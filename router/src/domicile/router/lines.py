"""Header lines: what llhttp read of a head, by name, and what of it goes on, in one canonical spelling.

What is to be done with a field is looked up by its name, and names are remembered; values never are, so that no
cookie, credential, address or path of anybody stays in memory after its request.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Final, overload

MAX_NAMES: Final = 1024
MAX_NAME_BYTES: Final = 64
Pair = tuple[bytes, bytes]
Name = tuple[str, bytes, bool]
"""A name in lower case; how its line begins, empty where the field ends here; whether its values are looked up."""


class Names:
    """``passes``: whether a field of that name, in lower case, goes on. ``special``: names that are looked up."""

    def __init__(self, passes: Callable[[str], bool], special: Collection[str]) -> None:
        self._passes = passes
        self.special: Final = frozenset(special)
        self.known: dict[bytes, Name] = {}

    def learn(self, name: bytes) -> Name:
        low = name.decode("ascii").lower()
        made = (low, name + b": " if self._passes(low) else b"", low in self.special)
        if len(name) <= MAX_NAME_BYTES:
            if len(self.known) >= MAX_NAMES:
                self.known.clear()
            self.known[name] = made
        return made


class Fields:
    """The fields of one head: each name's values in their order, names without regard to case.

    ``pairs``: as llhttp read them, without white space around the values.
    """

    __slots__ = ("_names", "_special", "lines", "pairs")

    def __init__(self, pairs: list[Pair], names: Names) -> None:
        """``lines``: those that go on."""
        self.pairs = pairs
        self._names = names
        self._special = special = dict[str, list[bytes]]()
        self.lines = lines = list[bytes]()
        known = names.known
        for name, value in pairs:
            low, begins, is_special = known.get(name) or names.learn(name)
            if begins:
                lines.append(begins + value + b"\r\n")
            if is_special:
                if low in special:
                    special[low].append(value)
                else:
                    special[low] = [value]

    @classmethod
    def of(cls, pairs: Iterable[tuple[str, str]]) -> Fields:
        """For requests that did not come over a wire."""
        encoded = [(name.encode("ascii"), value.encode("utf-8", "surrogateescape")) for name, value in pairs]
        return cls(encoded, Names(lambda _: True, ()))

    def raw(self, low: str) -> list[bytes] | None:
        """Values of a special name; None for none."""
        return self._special.get(low)

    def getall(self, name: str, default: list[str], /) -> list[str]:
        low = name.lower()
        values = (
            self._special.get(low)
            if low in self._names.special
            else [value for name, value in self.pairs if name.lower() == low.encode()]
        )
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
        known = [(self._names.known.get(name) or self._names.learn(name), value) for name, value in self.pairs]
        return [begins + value + b"\r\n" for (low, begins, _), value in known if begins and low not in omitted]


def written(pairs: Iterable[tuple[str, str]]) -> bytes:
    """Lines of the router's own, and of fields that it changed."""
    return "".join([f"{name}: {value}\r\n" for name, value in pairs]).encode("utf-8", "surrogateescape")
