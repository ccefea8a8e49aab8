"""The scanner finds a value in every form that it claims to know, wherever it lies in a file."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from urllib.parse import quote

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
