"""What is looked for, and every form in which it may lie in a file.

A value is sought as UTF-8 (composed and decomposed), UTF-16 and UTF-32 (both byte orders), Latin-1 and its kin,
hexadecimal (both cases), base64 (standard and URL alphabet, at each of the three alignments), URL and form, JSON (also
within JSON), C, octal (PostgreSQL's ``escape``), quoted-printable, XML and SQL escapes. The head of a sealed value is
sought in the forms that bytes take.
"""

from __future__ import annotations

import base64
import binascii
import json
import quopri
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from html import escape
from typing import Final
from urllib.parse import quote, quote_plus

from domicile.model.errors import InvalidInput
from domicile.model.ids import MAX_JURISDICTION_BYTES
from domicile.model.sealed import MAGIC, prefix

MIN_VALUE_BYTES: Final = 6
MAX_VALUE_BYTES: Final = 1024
IN_LINES: Final = frozenset({"hex", "base64"})
"""Encodings that tools break into lines (RFC 2045, RFC 7468)."""
_ALPHABET: Final = bytes.maketrans(b"-_", b"+/")
_PATH: Final = "/@:!$&'()*+,;="
"""What a browser leaves as it is in a path (RFC 3986, 3.3)."""
_PERCENT: Final = re.compile("%[0-9A-F]{2}")
_UNICODE: Final = re.compile(r"\\u([0-9a-f]{4})")
_NAME: Final = re.compile(rb"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")


@dataclass(frozen=True, slots=True)
class Needle:
    """Something that must not be found: ``label`` names it in a report without saying what it is.

    ``home``: the jurisdiction where it may lie; None for nowhere.
    """

    label: str
    encoding: str
    pattern: bytes
    home: str | None = None


def base64_cores(raw: bytes) -> set[bytes]:
    """What of ``raw`` shows in any base64 text that holds it, for each alignment within three bytes.

    The first and last symbols mix with the neighbours' bits and are left out (RFC 4648, section 4).
    """
    cores = {core for _, core in _aligned(raw)}
    return cores | {core.translate(bytes.maketrans(b"+/", b"-_")) for core in cores}


def _aligned(raw: bytes) -> Iterator[tuple[bytes, bytes]]:
    """For each alignment the symbols before the core, as they are after zeros, and the core."""
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + raw).rstrip(b"=")
        start = -(-shift * 8 // 6)
        yield encoded[:start], encoded[start : (shift + len(raw)) * 8 // 6]


def byte_forms(raw: bytes) -> Iterator[tuple[str, bytes]]:
    yield "hex", raw.hex().encode()
    yield "hex", raw.hex().upper().encode()
    for core in base64_cores(raw):
        yield "base64", core


def _escaped(raw: bytes, form: str) -> bytes:
    """Bytes outside printable ASCII, and the backslash, in a form such as ``\\x{:02x}``."""
    return b"".join(bytes([b]) if 32 <= b < 127 and b != 92 else form.format(b).encode() for b in raw)


def escapes(raw: bytes) -> Iterator[tuple[str, bytes]]:
    """With one backslash, and with two, as in PostgreSQL's COPY and in a string within JSON."""
    for form in ("\\{:03o}", "\\\\{:03o}", "\\x{:02x}", "\\\\x{:02x}"):
        yield "escaped", _escaped(raw, form)
    yield "escaped", b"".join(b"\\x%02x" % b for b in raw)


def needles_for_value(label: str, value: str, home: str | None = None) -> list[Needle]:
    """Each form of one value. Raises InvalidInput for one too short to be told from chance, or too long."""
    raw = value.encode()
    if len(raw) < MIN_VALUE_BYTES:
        raise InvalidInput(f"{label} is too short to search for", remedy=f"at least {MIN_VALUE_BYTES} bytes")
    if len(raw) > MAX_VALUE_BYTES:
        raise InvalidInput(f"{label} is too long to search for", remedy=f"{MAX_VALUE_BYTES} bytes of it are enough")
    forms = [("utf-8", raw), ("utf-8", value.casefold().encode()), ("utf-8", value.upper().encode())]
    forms += [("utf-8", unicodedata.normalize(form, value).encode()) for form in ("NFC", "NFD")]
    forms += [(name, value.encode(name)) for name in ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")]
    spelled = [*(("url", text) for text in _in_urls(value)), *(("json", text) for text in _in_json(value))]
    spelled += [*(("xml", text) for text in _in_markup(value)), ("sql", value.replace("'", "''"))]
    forms += [(name, text.encode()) for name, text in spelled]
    if not value.isascii():
        forms += [("quoted-printable", quopri.encodestring(raw).replace(b"=\n", b"").rstrip(b"\n"))]
        forms += [(name, value.encode(name)) for name in ("latin-1", "cp1252", "iso-8859-15") if _fits(value, name)]
    return _distinct(label, home, [*forms, *escapes(raw), *byte_forms(raw)])


def _fits(value: str, encoding: str) -> bool:
    try:
        value.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _in_urls(value: str) -> Iterator[str]:
    """As in a query, a form, a path of a browser and ``encodeURIComponent``; digits of both cases (RFC 3986, 2.1)."""
    for safe in ("", "/", _PATH, "!'()*"):
        for text in (quote(value, safe=safe), quote_plus(value, safe=safe)):
            yield text
            yield _PERCENT.sub(lambda match: match[0].lower(), text)
    for form in ("%{:02x}", "%{:02X}"):
        yield "".join(form.format(byte) for byte in value.encode())


def _in_json(value: str) -> Iterator[str]:
    """With what need not be escaped (RFC 8259, 7) as it is or escaped; also once more, as a string within a string."""
    for ascii_only in (True, False):
        once = json.dumps(value, ensure_ascii=ascii_only)[1:-1]
        for marked in ("", "<>&", "<>&'"):
            text = "".join(f"\\u{ord(c):04x}" if c in marked else c for c in once)
            for each in (text, text.replace("/", "\\/")):
                yield each
                yield _UNICODE.sub(lambda match: "\\u" + match[1].upper(), each)
        yield json.dumps(once)[1:-1]


def _in_markup(value: str) -> Iterator[str]:
    """XML and HTML: named or numbered, quotes as they are or not, numbers of both bases."""
    for text in (
        value,
        escape(value, quote=False),
        escape(value, quote=True),
        escape(value).replace("&#x27;", "&#39;"),
    ):
        yield text
        for form in ("&#{};", "&#x{:x};", "&#x{:X};"):
            yield "".join(c if c.isascii() else form.format(ord(c)) for c in text)


def _distinct(label: str, home: str | None, forms: Iterable[tuple[str, bytes]]) -> list[Needle]:
    """One needle for each pattern, under the first encoding that gives it."""
    encodings: dict[bytes, str] = {}
    for encoding, pattern in forms:
        encodings.setdefault(pattern, encoding)
    return [Needle(label, encoding, pattern, home) for pattern, encoding in encodings.items()]


def needles_for_sealed(jurisdiction: str) -> list[Needle]:
    """The head of every sealed value of a jurisdiction."""
    head = prefix(jurisdiction)
    forms = [("raw", head), *escapes(head), *byte_forms(head)]
    return _distinct(f"sealed value of {jurisdiction}", jurisdiction, forms)


def needles_for(values: Mapping[str, str], jurisdiction: str) -> list[Needle]:
    found = [needle for label, value in values.items() for needle in needles_for_value(label, value)]
    return found + needles_for_sealed(jurisdiction)


@dataclass(frozen=True, slots=True)
class SealedHead:
    """The magic of a sealed value of any jurisdiction; which, stands behind it."""

    encoding: str
    pattern: bytes
    before: bytes = b""
    """Base64: the symbols that stand before the pattern at its alignment."""

    def jurisdiction(self, found: bytes) -> str | None:
        """Of the value that ``found`` begins with; None where it is no sealed value after all."""
        size = len(MAGIC) + 1 + MAX_JURISDICTION_BYTES
        try:
            if self.encoding == "hex":
                match = re.match(rb"(?:[0-9a-fA-F]{2})*", found[: 2 * size])
                raw = bytes.fromhex(match[0].decode()) if match else b""
            elif self.encoding == "base64":
                match = re.match(rb"[A-Za-z0-9+/]*", (self.before + found[: 2 * size]).translate(_ALPHABET))
                text = match[0] if match else b""
                raw = base64.b64decode(text[: len(text) // 4 * 4])[len(self.before) and len(self.before) - 1 :]
            else:
                raw = found
        except (ValueError, binascii.Error):
            return None
        if not raw.startswith(MAGIC) or len(raw) <= len(MAGIC):
            return None
        code = raw[len(MAGIC) + 1 :][: raw[len(MAGIC)]]
        whole = len(code) == raw[len(MAGIC)] <= MAX_JURISDICTION_BYTES
        return code.decode() if whole and _NAME.fullmatch(code) else None


def sealed_heads() -> list[SealedHead]:
    found = [
        SealedHead("raw", MAGIC),
        SealedHead("hex", MAGIC.hex().encode()),
        SealedHead("hex", MAGIC.hex().upper().encode()),
    ]
    for before, core in _aligned(MAGIC):
        found.append(SealedHead("base64", core, before))
        url = core.translate(bytes.maketrans(b"+/", b"-_"))
        if url != core:
            found.append(SealedHead("base64", url, before))
    return found
