"""What is packed is opened, however deep and wherever it begins; what can't be is said; bombs stay small."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import lzma
import os
import random
import secrets
import tarfile
import tempfile
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import lz4.frame
import pytest
from backports import zstd
from domicile_testing.long import long_form, seeded
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from domicile.model.key_wire import WrappedKey
from domicile.model.sealed import Sealed, frame
from domicile.ops.backup.sealed import Head, sealing
from domicile.ops.scan import Report, Scanner, feeds, files_below, needles_for_value, pglz
from domicile.ops.scan.controls import Control, prove

VALUE = "zoé.lefèvre+x@mail.example"
RAW = VALUE.encode()
SCANNER = Scanner(needles_for_value("e-mail", VALUE), sealed=True)
CONTENT = RAW[:16] + b"\n" + RAW[8:] + b"\n" + b"a line of little meaning\n" * 60 + RAW + b"\nmore\n" * 20


def zipped(content: bytes, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.writestr("first", b"x" * 100)
        archive.writestr("second", content)
    return out.getvalue()


def tarred(content: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        entry = tarfile.TarInfo("a/" + "long" * 40)
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "zlib": zlib.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstd.compress,
    "lz4": lz4.frame.compress,
    "zip": zipped,
    "zip, bzip2": lambda content: zipped(content, zipfile.ZIP_BZIP2),
    "tar": tarred,
}


def scan(path: Path, content: bytes) -> Report:
    path.write_bytes(content)
    return SCANNER.scan([path])


@pytest.mark.parametrize("packer", PACKERS)
def test_each_packing_is_opened_at_any_place_and_after_another(tmp_path: Path, packer: str) -> None:
    packed = PACKERS[packer](CONTENT)
    assert (RAW in packed) == (packer == "tar")
    for content in (packed, b"before" + packed + b"behind", PACKERS["gzip"](b"another") + packed, packed * 3):
        report = scan(tmp_path / "f", content)
        assert {hit.label for hit in report.hits} == {"e-mail"}
        assert report.unread == []
    assert report.matches >= 3


@pytest.mark.parametrize("packer", PACKERS)
def test_a_stream_that_is_cut_short_is_searched_as_far_as_it_goes(tmp_path: Path, packer: str) -> None:
    content = CONTENT + b"".join(secrets.token_hex(20).encode() + b"\n" for _ in range(9000))
    if packer in ("bzip2", "zip, bzip2"):
        content *= 4  # a block of it is whole, or nothing
    packed = PACKERS[packer](content)
    report = scan(tmp_path / "f", packed[: len(packed) * 3 // 4])
    assert report.hits
    assert report.unread or report.remarks, "said that it is not whole"


def test_streams_within_streams_up_to_a_depth_that_is_said(tmp_path: Path) -> None:
    content = CONTENT
    for depth in range(1, 12):
        content = gzip.compress(content)
        report = scan(tmp_path / "f", content)
        assert bool(report.hits) == (depth <= feeds.MAX_DEPTH)
        assert bool(report.unread) == (depth > feeds.MAX_DEPTH)


def test_across_every_boundary_of_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "BATCH_BYTES", 512)
    packed = gzip.compress(CONTENT)
    for offset in range(0, 1100, 7):
        assert scan(tmp_path / "f", b"." * offset + packed).hits, offset
        assert scan(tmp_path / "f", b"." * offset + RAW + b"." * 600).matches == 1, offset


@pytest.mark.parametrize("bomb", ["gzip", "bzip2", "xz", "zstd", "zip", "lz4"])
def test_a_bomb_is_bounded_and_said(tmp_path: Path, bomb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "GRACE_BYTES", 4 << 20)
    monkeypatch.setattr(feeds, "MAX_RATIO", 20)
    packed = PACKERS[bomb](bytes(64 << 20))
    tracemalloc.start()
    try:
        report = scan(tmp_path / "f", packed)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert any("expands past 20 times" in line for line in report.unread), report.unread
    assert report.stream_bytes <= (4 << 20) + 20 * len(packed) + (2 << 20)
    assert peak < 48 << 20


def test_made_up_beginnings_cost_no_more_than_their_size(tmp_path: Path) -> None:
    """Streams that begin within each other would cost the square of a file's size."""
    stored = b"\0" + (65535).to_bytes(2, "little") + (0).to_bytes(2, "little")
    for unit in (b"\x78\x9c" + stored, b"\x1f\x8b\x08\0\0\0\0\0\0\3" + stored, b"PK\3\4" + bytes(26), b"\x78\x01"):
        path = tmp_path / "f"
        small, large = [_seconds(path, unit * (size // len(unit))) for size in (256 << 10, 2 << 20)]
        assert large < 8 * small * 4 + 1.0


def _seconds(path: Path, content: bytes) -> float:
    started = time.process_time()
    scan(path, content)
    return time.process_time() - started


def test_what_is_not_opened_is_said(tmp_path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a", b"x")
    encrypted = bytearray(out.getvalue())
    encrypted[6] |= 1
    for content, reason in (
        (bytes(encrypted), "encrypted"),
        (b"age-encryption.org/v1\n" + os.urandom(9000), "age"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(100), "7z"),
        (os.urandom(50_000), "looks encrypted"),
        (gzip.compress(os.urandom(50_000)), "looks encrypted"),
        (gzip.compress(b"x" * 1000)[:-9], "cut short"),
    ):
        report = scan(tmp_path / "f", content)
        assert len(report.unread) == 1
        assert reason in report.unread[0]


def test_files_and_folders_that_may_not_be_read_are_said() -> None:
    """Root may read all: there it is nobody who scans."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        for place in ("open", "closed"):
            (folder / place).mkdir()
            (folder / place).chmod(0o755)  # whatever the umask
            (folder / place / "f").write_bytes(RAW)
            (folder / place / "f").chmod(0o644)
        (folder / "g").write_bytes(RAW)
        (folder / "g").chmod(0)
        (folder / "closed").chmod(0)
        missed: list[str] = []
        root = os.getuid() == 0
        if root:
            os.seteuid(65534)
        try:
            report = SCANNER.scan(files_below(folder, lambda error: missed.append(str(error.filename))))
        finally:
            if root:
                os.seteuid(0)
            (folder / "closed").chmod(0o700)
        assert missed == [str(folder / "closed")]
        assert report.unread == [f"{folder / 'g'}: Permission denied"]
        assert [hit.path for hit in report.hits] == [folder / "open" / "f"]


def test_a_name_that_holds_a_value_is_a_hit_and_is_not_told(tmp_path: Path) -> None:
    path = tmp_path / f"{VALUE}.7z"
    report = scan(path, b"7z\xbc\xaf\x27\x1c")
    assert [hit.inside for hit in report.hits] == ["its name"]
    assert report.unread == ["(a name that holds a value): 7z is not opened"]
    inside = scan(tmp_path / "t", tarred(b"x").replace(b"a/" + b"long" * 7, RAW.ljust(30, b"x")))
    assert VALUE not in str([hit.inside for hit in inside.hits])


def test_a_tar_whose_first_checksum_is_no_number_is_searched_as_it_is(tmp_path: Path) -> None:
    damaged = bytearray(tarred(CONTENT))
    damaged[148:156] = b"\0\0wxyz\0\0"
    assert scan(tmp_path / "f", bytes(damaged)).hits
    assert scan(tmp_path / "f", gzip.compress(bytes(damaged))).hits, "packed, too"


def test_base64_that_is_broken_into_lines() -> None:
    for before in (b"", b"x", b"xx"):
        text = base64.encodebytes(b"." * 40 + before + RAW * 2 + b"." * 40)
        for broken in (text, text.replace(b"\n", b"\r\n  ")):
            assert SCANNER.scan_bytes(b"-----\n" + broken), before
    assert not SCANNER.scan_bytes(base64.encodebytes(b"." * 200))


def test_real_telemetry(tmp_path: Path) -> None:
    """Spans as the exporter sends them, packed as a collector keeps them."""
    exported = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exported))
    tracer = provider.get_tracer("test")
    for number in range(50):
        with tracer.start_as_current_span("a request", attributes={"path": f"/{number}", "who": VALUE[:-1]}):
            pass
    for pack in (gzip.compress, zstd.compress, bytes):
        harmless = encode_spans(exported.get_finished_spans()).SerializeToString()
        assert scan(tmp_path / "spans", pack(harmless)).hits == []
        with tracer.start_as_current_span("a request", attributes={"who": VALUE}):
            pass
        telling = encode_spans(exported.get_finished_spans()).SerializeToString()
        assert scan(tmp_path / "spans", pack(telling)).hits
        exported.clear()
    provider.shutdown()


def test_sealed_values_of_any_other_jurisdiction_are_told_by_where_they_lie(tmp_path: Path) -> None:
    path = tmp_path / "f"
    eu = frame(Sealed("eu", b"n" * 12, b"c" * 32))
    far = frame(Sealed("no-such-place", b"n" * 12, b"c" * 32))
    for shape in (bytes, lambda raw: raw.hex().encode(), lambda raw: base64.b64encode(b"x" + raw), zlib.compress):
        path.write_bytes(b"..." + shape(eu + b"..." + far))
        assert {h.label for h in SCANNER.scan([path], lambda _: "eu").hits} == {"sealed value of no-such-place"}
        assert {h.label for h in SCANNER.scan([path], lambda _: "us").hits} >= {"sealed value of eu"}
    path.write_bytes(b"\xd0\x4dS\x01\x02E?" + b"\xd0\x4dS\x01\x7fabc" + b"\xd0\x4dS\x01")
    assert SCANNER.scan([path]).hits == [], "the magic alone is chance"


def test_controls_are_found_by_a_sound_scanner_and_missed_by_a_lame_one(monkeypatch: pytest.MonkeyPatch) -> None:
    control = Control.make()
    sound = Scanner(control.needles(), sealed=True)
    assert set(prove(sound, control).values()) == {True}
    hidden = {kind for kind, content in control.kinds().items() if control.value.encode() not in content}
    assert len(hidden) >= 18
    monkeypatch.setattr(feeds, "MAX_DEPTH", 0)
    found = prove(Scanner(control.needles(), sealed=True), control)
    assert {kind for kind, seen in found.items() if not seen} == hidden - {"base64 in lines", "backup"}


def test_a_backup_is_told_where_it_is_foreign_and_is_no_gap_at_home(tmp_path: Path) -> None:
    path, far = tmp_path / "f", io.BytesIO()
    key = WrappedKey(value=b"w", version=1, check=b"c")
    head = Head(deployment="acme", jurisdiction="eu", database="eu-1", system="7", name="n", key=key)
    with sealing(far, head, secrets.token_bytes(32)) as stream:
        stream.write(secrets.token_bytes(1 << 20) + RAW)
    path.write_bytes(far.getvalue())
    owned: list[tuple[str | None, list[str]]] = [("eu", []), ("us", ["backup of eu"]), (None, ["backup of eu"])]
    for owner, hits in owned:
        report = Report()
        SCANNER.scan_file(path, report, owner)
        assert [hit.label for hit in report.hits] == hits
        assert (report.at_home, report.unread) == (not hits, [])
        assert report.kinds == {"backup": 1}
    path.write_bytes(zlib.compress(far.getvalue()))
    assert [hit.inside for hit in SCANNER.scan([path], lambda _: "us").hits] == ["zlib"], "packed, too"
    path.write_bytes(far.getvalue()[:20] + b"}" + far.getvalue()[21:])
    assert SCANNER.scan([path], lambda _: "eu").unread == [f"{path}: is a backup whose head is damaged"]
    path.write_bytes(far.getvalue() + VALUE.encode())
    assert [hit.label for hit in SCANNER.scan([path], lambda _: "eu").hits] == ["e-mail"], "what is behind it is read"


@given(st.binary(max_size=3000))
def test_pglz_gives_back_what_it_packed(raw: bytes) -> None:
    assert pglz.decompress(pglz.compress(raw), len(raw)) == (raw, True)
    for size in (len(raw) + 1, max(0, len(raw) - 1)):
        found, whole = pglz.decompress(pglz.compress(raw), size)
        assert not whole or not raw
        assert raw.startswith(found)


@given(st.binary(max_size=400), st.integers(0, 5000))
@settings(max_examples=50)
def test_pglz_reads_nothing_that_is_not_there(packed: bytes, size: int) -> None:
    found, _ = pglz.decompress(packed, size)
    assert len(found) <= size


@pytest.mark.full
def test_whatever_is_packed_in_whatever_is_found_and_damage_ends_nothing(tmp_path: Path) -> None:
    """Long form: packings by chance, three deep, in chance bytes and in pieces of any size; then with damage."""
    chance, more = seeded(), long_form(0.05)
    path = tmp_path / "f"
    while more():
        content = CONTENT
        for _ in range(chance.randrange(1, 4)):
            content = PACKERS[chance.choice(list(PACKERS))](content + chance.randbytes(chance.randrange(200)))
        content = chance.randbytes(chance.randrange(3000)) + content + chance.randbytes(chance.randrange(3000))
        report = scan(path, content)
        assert report.hits, path.write_bytes(content)
        scan(path, _damaged(chance, content))
        scan(path, b"".join(_damaged(chance, kind) for kind in Control.make().kinds().values()))


def _damaged(chance: random.Random, content: bytes) -> bytes:
    damaged = bytearray(content)
    for _ in range(chance.randrange(1, 20)):
        damaged[chance.randrange(len(damaged))] = chance.randrange(256)
    return bytes(damaged)
