"""The last look at what leaves, and the first at what arrives: values that look personal, by the detector.

Personal values turn up where nobody declared them: in a shareable free text, in a topic that somebody typed. A hit
names the column and the rule, and never the value.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from domicile.cells.border.treatments import is_pseudonym
from domicile.detect import Detector, Rule
from domicile.model.errors import Forbidden

MAX_REMEMBERED: Final = 10_000
"""Values of one column that were found harmless, and need not be looked at again: anonymised ones repeat."""


class Inspector:
    """Of one release. ``countries``: whose national telephone numbers are known."""

    def __init__(self, columns: Sequence[str], pseudonyms: Iterable[str], countries: Sequence[str]) -> None:
        self._columns = tuple(columns)
        self._topics = [name.replace("_", " ") for name in columns]
        self._pseudonyms = frozenset(pseudonyms)
        self._detector = Detector(countries)
        self._harmless: list[set[str]] = [set() for _ in columns]

    def look(self, values: Sequence[Any]) -> None:
        """Raises Forbidden for a row with a value that looks personal."""
        for place, value in enumerate(values):
            if value is None or isinstance(value, bool):
                continue
            name = self._columns[place]
            if name in self._pseudonyms:
                if not is_pseudonym(value):
                    raise Forbidden("a value that is no pseudonym of ours", where=name)
                continue
            text = value if isinstance(value, str) else repr(value)
            known = self._harmless[place]
            if text in known:
                continue
            found = self._detector.findings(text, self._topics[place])
            if found:
                rules = [each.rule for each in found]
                rule = Rule.SEALED if Rule.SEALED in rules else rules[0]  # which is a token as well
                raise Forbidden(
                    f"a value that looks personal ({rule})", where=name, remedy="treat the column, or drop it"
                )
            if len(known) < MAX_REMEMBERED and len(text) <= 256:
                known.add(text)
