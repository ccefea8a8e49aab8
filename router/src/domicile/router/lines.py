"""Header lines: what llhttp reads of a head, by name, and what of it goes on, in one canonical spelling.

What is to be done with a field is looked up by its name, and names are remembered; values never are, so that no
cookie, credential, address or path of anybody stays in memory after its request.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Final, overload

MAX_NAMES: Final = 1024
MAX_NAME_BYTES: Final = 64
Name = tuple[str, bytes, bool]
"""A name in lower case; how its line begins, empty where the field ends here; whether its values are looked up."""


class Names:
    """``passes``: whether a field of that name, in lower case, goes on. ``special``: names that are looked up."""

    def __init__(self, passes: Callable[[str], bool], special: Collection[str]) -> None:
        self._passes = passes
        self.special: Final = frozenset(special)
        self.known: Final[dict[bytes, Name]] = {}

    def learn(self, name: bytes) -> Name:
        low = name.decode().lower()
        made = (low, name + b": " if self._passes(low) else b"", low in self.special)
        if len(name) <= MAX_NAME_BYTES:
            if len(self.known) >= MAX_NAMES:
                self.known.clear()
            self.known[name] = made
        return made


class Fields:
    """The fields of one head: each name's values in their order, names without regard to case.

    ``lines``: those that go on. ``special``: values of the names that are looked up, by name in lower case.
    """

    __slots__ = ("_known", "_names", "_pairs", "count", "lines", "special")

    def __init__(self, names: Names) -> None:
        self.lines: list[bytes] = []
        self.special: dict[str, list[bytes]] = {}
        self.count = 0
        self._pairs: list[tuple[bytes, bytes]] = []
        self._names = names
        self._known = names.known

    def add(self, name: bytes, value: bytes) -> None:
        """``value`` may end in white space, as llhttp gives it."""
        self.count += 1
        low, begins, is_special = self._known.get(name) or self._names.learn(name)
        if value[-1:] in (b" ", b"\t"):
            value = value.rstrip(b" \t")
        self._pairs.append((name, value))
        if begins:
            self.lines.append(begins + value + b"\r\n")
        if is_special:
            if low in self.special:
                self.special[low].append(value)
            else:
                self.special[low] = [value]

    @classmethod
    def of(cls, pairs: Iterable[tuple[str, str]]) -> Fields:
        """For requests that did not come over a wire."""
        made = cls(Names(lambda _: True, ()))
        for name, value in pairs:
            made.add(name.encode(), value.encode("utf-8", "surrogateescape"))
        return made

    def getall(self, name: str, default: list[str], /) -> list[str]:
        low = name.lower()
        if low in self._names.special:
            values = self.special.get(low)
        else:
            wanted = low.encode()
            values = [value for name, value in self._pairs if name.lower() == wanted]
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
        known = [(self._known.get(name) or self._names.learn(name), value) for name, value in self._pairs]
        return [begins + value + b"\r\n" for (low, begins, _), value in known if begins and low not in omitted]


def written(pairs: Iterable[tuple[str, str]]) -> bytes:
    """Lines of the router's own, and of fields that it changed."""
    return "".join([f"{name}: {value}\r\n" for name, value in pairs]).encode("utf-8", "surrogateescape")
