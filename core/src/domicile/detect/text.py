"""Text as a detector reads it: one spelling of each character, and nothing that hides between them.

A full-width ``＠``, an Arabic digit or a zero-width space changes nothing for the person who reads a value back.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final
from urllib.parse import unquote

_ESCAPED: Final = re.compile(r"%[0-9a-fA-F]{2}")
_SPACES: Final = re.compile(r"[^\S\n]")


def plain(text: str) -> str:
    """Compatibility forms, digits, dashes and spaces made ASCII's, invisible characters dropped (Unicode, UAX 15)."""
    if text.isascii():
        return text
    return _SPACES.sub(" ", "".join(map(_plain, unicodedata.normalize("NFKC", text))))


def _plain(character: str) -> str:
    if character.isascii():
        return character
    category = unicodedata.category(character)
    if category == "Cf":
        return ""
    if category == "Nd":
        return str(unicodedata.digit(character))
    return "-" if category == "Pd" or character == "\u2212" else character


def readings(text: str) -> tuple[str, ...]:
    """The text, and what it says when its percent-escapes are undone, where it has any."""
    first = plain(text)
    if "%" not in first or not _ESCAPED.search(first):
        return (first,)
    return (first, plain(unquote(first, errors="replace")))
