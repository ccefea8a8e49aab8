"""The scanner finds a value in every form that it claims to know, wherever it lies in a file."""

from __future__ import annotations

import base64
import json
import re
from html import escape
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domicile.model import InvalidInput
from domicile.model.sealed import Sealed, frame
from domicile.ops.scan import Report, Scanner, files_below, needles_for_sealed, needles_for_value

VALUE = "zoé.lefèvre+x@mail.example"
FORMS = {
    "utf-8": VALUE.encode(),
    "upper": VALUE.upper().encode(),
    "utf-16-le": VALUE.encode("utf-16-le"),
    "utf-16-be": VALUE.encode("utf-16-be"),
    "hex": VALUE.encode().hex().encode(),
    "HEX": VALUE.encode().hex().upper().encode(),
    "base64": base64.b64encode(VALUE.encode()),
    "base64url": base64.urlsafe_b64encode(VALUE.encode()),
    "base64 within": base64.b64encode(b'{"email": "' + VALUE.encode() + b'"}'),
    "base64 within, shifted": base64.b64encode(b'{"mail": "' + VALUE.encode() + b'"}'),
    "url": quote(VALUE, safe="").encode(),
    "url of every byte": "".join(f"%{b:02X}" for b in VALUE.encode()).encode(),
    "json": json.dumps(VALUE).encode(),
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_found(form: str) -> None:
    scanner = Scanner(needles_for_value("e-mail", VALUE))
    assert scanner.scan_bytes(b"\xff" * 100 + FORMS[form] + b"\0\1")


def test_another_value_is_not_found() -> None:
    scanner = Scanner(needles_for_value("e-mail", VALUE))
    assert scanner.scan_bytes(VALUE.replace("z", "y").encode() * 50) == []


@given(st.binary(min_size=6, max_size=40), st.binary(max_size=5), st.binary(max_size=5))
def test_base64_is_found_at_any_alignment(value: bytes, before: bytes, after: bytes) -> None:
    from domicile.ops.scan import base64_cores

    text = base64.b64encode(before + value + after)
    assert any(core in text for core in base64_cores(value))


def test_a_value_across_two_reads_is_found_once_at_its_offset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("domicile.ops.scan.scanner._CHUNK", 64)
    monkeypatch.setattr("domicile.ops.scan.feeds.BATCH_BYTES", 64)
    path = tmp_path / "log"
    scanner = Scanner(needles_for_value("user id", "heike-1234567"))
    for offset in range(40, 90):
        path.write_bytes(b"." * offset + b"heike-1234567" + b"." * 100)
        report = Report()
        scanner.scan_file(path, report)
        assert {(hit.encoding, hit.offset) for hit in report.hits} == {("utf-8", offset)}
        assert report.read_bytes == offset + 113


def test_sealed_values_are_told_by_jurisdiction() -> None:
    scanner = Scanner(needles_for_sealed("eu"))
    sealed = frame(Sealed("eu", b"n" * 12, b"c" * 32))
    for form in (sealed, sealed.hex().encode(), base64.b64encode(b"x" + sealed)):
        assert scanner.scan_bytes(b"..." + form)
    assert scanner.scan_bytes(frame(Sealed("us", b"n" * 12, b"c" * 32))) == []


def test_short_values_are_refused_rather_than_found_everywhere() -> None:
    with pytest.raises(InvalidInput, match="too short"):
        needles_for_value("plan", "pro")


def test_what_cannot_be_read_is_reported(tmp_path: Path) -> None:
    report = Scanner(needles_for_value("x", "abcdefgh")).scan([tmp_path])
    assert report.unread == [f"{tmp_path}: Is a directory"]


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert list(files_below(tmp_path)) == [tmp_path / "a"]


HOSTILE = 'Zoë "Ö" O\'Hara/<x>&y @ münchen.example'
"""Blanks, quotes, a slash, angle brackets and letters with marks: each escape spells one of them in its own way."""
ESCAPES = {
    "form": quote_plus(HOSTILE),
    "form, lower": re.sub("%[0-9A-F]{2}", lambda match: match[0].lower(), quote_plus(HOSTILE)),
    "url, lower": re.sub("%[0-9A-F]{2}", lambda match: match[0].lower(), quote(HOSTILE, safe="")),
    "url, as browsers spell a path": quote(HOSTILE, safe="/@:!$&'()*+,;="),
    "url, as encodeURIComponent": quote(HOSTILE, safe="!'()*~"),
    "json": json.dumps(HOSTILE)[1:-1],
    "json, in UTF-8": json.dumps(HOSTILE, ensure_ascii=False)[1:-1],
    "json, upper": re.sub(r"\\u[0-9a-f]{4}", lambda match: "\\u" + match[0][2:].upper(), json.dumps(HOSTILE)[1:-1]),
    "json, with slashes escaped": json.dumps(HOSTILE, ensure_ascii=False)[1:-1].replace("/", "\\/"),
    "json, for HTML": json.dumps(HOSTILE, ensure_ascii=False)[1:-1]
    .replace("<", "\\u003c")
    .replace(">", "\\u003e")
    .replace("&", "\\u0026"),
    "json within json": json.dumps(json.dumps(HOSTILE))[3:-3],
    "xml": escape(HOSTILE, quote=True),
    "xml, without quotes": escape(HOSTILE, quote=False),
    "xml, numbers": escape(HOSTILE, quote=True).encode("ascii", "xmlcharrefreplace").decode(),
    "xml, upper": "".join(c if c.isascii() else f"&#x{ord(c):X};" for c in HOSTILE),
    "sql": HOSTILE.replace("'", "''"),
}


@pytest.mark.parametrize("form", ESCAPES)
def test_escapes_of_what_has_to_be_escaped(form: str) -> None:
    scanner = Scanner(needles_for_value("name", HOSTILE))
    assert scanner.scan_bytes(b"x=" + ESCAPES[form].encode() + b";")


@pytest.mark.parametrize("encoding", ["utf-32-le", "utf-32-be", "cp1252", "iso-8859-15"])
def test_other_encodings(encoding: str) -> None:
    assert Scanner(needles_for_value("name", HOSTILE)).scan_bytes(b"\0\1" + HOSTILE.encode(encoding))
