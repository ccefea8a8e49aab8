"""What a target holds, what it needs to keep, and what it refuses: without any database."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import resource
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from typer.testing import CliRunner

from domicile.model.errors import Conflict, InvalidInput, NotFound, Unavailable, WrongJurisdiction
from domicile.model.key_wire import WrappedKey
from domicile.ops.backup.agent import adopt_first
from domicile.ops.backup.catalog import (
    Base,
    Line,
    base_name,
    card_name,
    choose,
    holes,
    line_from,
    lines_of,
    needless,
    number_of,
    segment_at,
    spans,
    timeline_of,
)
from domicile.ops.backup.commands import counted
from domicile.ops.backup.keys import FileKeys, Keyring
from domicile.ops.backup.restore import parse_moment
from domicile.ops.backup.sealed import Head, opening, read_head, sealing
from domicile.ops.backup.store import Store
from domicile.ops.backup.targets import FolderTarget, Owner
from domicile.ops.main import app
from domicile.ops.switching import clear_interrupted, finish_switch, interrupted, put_in_place, staging

EU = Owner(deployment="acme", jurisdiction="eu")
START = datetime(2026, 1, 1, tzinfo=UTC)
KEY = os.urandom(32)
HEAD = Head(
    deployment="acme",
    jurisdiction="eu",
    database="eu-1",
    system="7",
    name="eu-1/7/log/0",
    key=WrappedKey(value=b"w", version=1, check=b"c"),
)


def segment(number: int) -> str:
    return segment_at(1, f"{number // 256:X}/{(number % 256) << 24:X}")


def base(days: float, first: int, system: str = "7") -> Base:
    moment = START + timedelta(days=days)
    return Base(
        id=f"b{days}", database="eu-1", system=system, started=moment, ended=moment, first=segment(first),
        last=segment(first), plain=1, size=1,
    )  # fmt: skip


def sealed(data: bytes) -> bytes:
    sink = io.BytesIO()
    with sealing(sink, HEAD, KEY) as stream:
        stream.write(data)
    return sink.getvalue()


def opened(raw: bytes, key: bytes = KEY) -> bytes:
    source = io.BytesIO(raw)
    with opening(source, read_head(source, "here"), key, "here") as stream:
        return stream.read()


def test_what_is_sealed_opens_and_shows_nothing() -> None:
    data = b"canary@example.org" * 100_000 + os.urandom(3 << 20)
    raw = sealed(data)
    assert opened(raw) == data
    assert b"canary" not in raw
    assert opened(sealed(b"")) == b""


@pytest.mark.parametrize("change", ["cut", "flipped", "longer", "another head", "a segment left out", "another key"])
def test_what_is_not_whole_is_refused(change: str) -> None:
    raw = sealed(os.urandom(3 << 20))
    middle = len(raw) // 2
    altered = {
        "cut": raw[:-1],
        "flipped": raw[:middle] + bytes([raw[middle] ^ 1]) + raw[middle + 1 :],
        "longer": raw + b"x",
        "another head": raw.replace(b'"eu-1"', b'"eu-2"', 1),
        "a segment left out": raw[:middle] + raw[middle + (1 << 20) :],
        "another key": raw,
    }[change]
    with pytest.raises(InvalidInput, match="altered, cut short"):
        opened(altered, os.urandom(32) if change == "another key" else KEY)


def test_a_file_of_anybody_is_no_backup() -> None:
    with pytest.raises(InvalidInput, match="no backup of ours"):
        opened(b"\x00" * 64)


moments = st.lists(st.integers(0, 60), min_size=1, max_size=8, unique=True)


@given(days=moments, now=st.integers(0, 90), keep=st.integers(0, 30), back=st.floats(0, 1))
def test_no_moment_that_is_kept_loses_what_it_needs(days: list[int], now: int, keep: int, back: float) -> None:
    """Base backups a segment a day apart, the log whole: each moment of the window is restored as before."""
    bases = [base(day, day) for day in sorted(days)]
    segments = [segment(number) for number in range(max(days) + 1)]
    clock = START + timedelta(days=max(now, max(days)))
    over = needless(bases, segments, clock, timedelta(days=keep))
    left = [each for each in bases if each not in over.bases]
    log = set(segments) - set(over.segments)
    assert bases[-1] in left
    at = clock - timedelta(days=keep * back)
    before = [each for each in bases if each.ended <= at]
    if before:
        wanted = choose(left, at)
        assert wanted == choose(bases, at)
        assert {segment(number) for number in range(number_of(wanted.first), max(days) + 1)} <= log


def test_a_hole_in_the_log_is_seen() -> None:
    numbers = [3, 4, 6, 7]
    log = [segment(number) for number in numbers]
    assert spans(log) == [(3, 4), (6, 7)]
    assert holes(base(1, 3), log) == [5]
    assert holes(base(1, 6), log) == []
    assert number_of(segment(300)) == 300


def test_what_a_timeline_wrote_after_it_was_left_is_none_of_its_childs() -> None:
    """Restored to a moment in segment 5: timeline 2 goes on there, and what timeline 1 wrote later is no part of it."""
    abandoned = [segment(number) for number in range(3, 9)]
    own = [segment_at(2, f"0/{number << 24:X}") for number in (5, 7)]
    lines = lines_of({2: f"1\t0/5000060\tbefore {START}\n"}, [*abandoned, *own])
    line = line_from(base(1, 3), lines)
    assert line == Line(2, {1: 5})
    held = [each for each in [*abandoned, *own] if line.has(each)]
    assert [(timeline_of(each), number_of(each)) for each in held] == [(1, 3), (1, 4), (1, 5), (2, 5), (2, 7)]
    assert holes(base(1, 3), held) == [6], "though the timeline that was left has a segment of that number"
    assert line_from(base(2, 6), lines).timeline == 1, "taken after the moment that was restored"
    assert line_from(base(2, 6), []).timeline == 1


def test_the_base_backup_to_begin_with() -> None:
    bases = [base(1, 1), base(3, 3)]
    assert choose(bases, None) == bases[1]
    assert choose(bases, START + timedelta(days=2)) == bases[0]
    with pytest.raises(NotFound, match="the first one ended at 2026-01-02"):
        choose(bases, START)
    with pytest.raises(InvalidInput, match="after --at"):
        choose(bases, START + timedelta(days=2), bases[1].id)


@pytest.mark.parametrize("text", ["yesterday", "2026-01-01T10:00:00"])
def test_a_time_has_an_offset(text: str) -> None:
    with pytest.raises(InvalidInput, match="--at"):
        parse_moment(text)


def test_a_target_is_one_jurisdictions(tmp_path: Path) -> None:
    FolderTarget(tmp_path / "t", EU).adopt()
    with pytest.raises(WrongJurisdiction, match="eu's of acme, not us's"):
        FolderTarget(tmp_path / "t", Owner(deployment="acme", jurisdiction="us")).adopt()
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").touch()
    with pytest.raises(InvalidInput, match="not empty"):
        FolderTarget(tmp_path / "home", EU).adopt()


def test_a_target_that_is_gone_is_not_made_anew(tmp_path: Path) -> None:
    """By the agent's first start alone, which it remembers; a folder that the manifest names later is another one."""
    folder, state = tmp_path / "t", tmp_path / "state"
    target = FolderTarget(folder, EU)
    with pytest.raises(Unavailable, match="not there"):
        target.list("eu-1")
    assert not folder.exists()
    adopt_first(target, "t", state)
    assert target.list("eu-1") == []
    folder.rename(tmp_path / "unmounted")
    folder.mkdir()
    adopt_first(target, "t", state)
    uses: list[Callable[[], object]] = [
        lambda: target.list(""), target.tidy, lambda: target.delete("a"), lambda: target.get("a").__enter__(),
        lambda: target.put("a").__enter__(),
    ]  # fmt: skip
    for use in uses:
        with pytest.raises(Unavailable, match="not there"):
            use()
    assert names_in(folder) == []
    adopt_first(target, "another", state)
    assert target.list("") == []


def test_a_target_that_takes_no_more_is_told(tmp_path: Path) -> None:
    """By a limit of the process on files, at the head, in the midst and when the stream is ended."""
    target = FolderTarget(tmp_path / "t", EU).adopt()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for size in (0, 100, 2 << 20, (3 << 20) + 50):
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
            with (
                pytest.raises(Unavailable, match="cannot be used: file too large"),
                target.put("a") as sink,
                sealing(sink, HEAD, KEY) as stream,
            ):
                stream.write(os.urandom(3 << 20))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert names_in(tmp_path / "t") == ["target.json"]


def test_a_target_that_does_not_read_is_not_called_damaged() -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > 1 << 20:
                raise OSError(errno.EIO, "Input/output error")
            return super().read(size)

    source = Broken(sealed(os.urandom(3 << 20)))
    with (
        pytest.raises(Unavailable, match="cannot be used: input/output error"),
        opening(source, read_head(source, "here"), KEY, "here") as stream,
    ):
        stream.read()


def test_an_object_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = FolderTarget(tmp_path / "t", EU).adopt()

    def fail(stream: BinaryIO) -> None:
        stream.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), target.put("a/b") as stream:
        fail(stream)
    assert target.list("a") == []
    assert list((tmp_path / "t" / "a").iterdir()) == []
    with target.put("a/b") as stream:
        stream.write(b"whole")
        assert target.list("a") == []
        assert target.tidy() == 0, "somebody writes it"
    (tmp_path / "t" / "a" / ".draft-1").touch()
    assert target.tidy() == 1
    assert [each.size for each in target.list("a")] == [5]
    (tmp_path / "t").rename(tmp_path / "gone")
    with pytest.raises(Unavailable, match="not there"), target.put("a/c"):
        pass


def store_at(folder: Path, owner: Owner = EU, keys: Path | None = None) -> Store:
    ring = Keyring(FileKeys(keys or folder / "keys", owner.jurisdiction, own=True), "acme", owner.jurisdiction)
    return Store(FolderTarget(folder / "t", owner).adopt(), ring, owner, "eu-1")


async def test_log_is_kept_once_and_another_under_its_name_is_refused(tmp_path: Path) -> None:
    store, name = store_at(tmp_path), segment(1)
    (tmp_path / name).write_bytes(b"log" * 100)
    key = await store.key()
    await store.keep_log("7", tmp_path / name, f"{name}.partial", key)
    assert store.log_files("7") == [f"{name}.partial"]
    for _ in range(2):
        await store.keep_log("7", tmp_path / name, name, key)
    assert store.log_files("7") == [name]
    await store_at(tmp_path).fetch_log("7", name, tmp_path / "t")
    assert (tmp_path / "t" / name).read_bytes() == b"log" * 100
    (tmp_path / name).write_bytes(b"other")
    with pytest.raises(Conflict, match="another log"):
        await store.keep_log("7", tmp_path / name, name, key)


async def test_what_is_put_under_another_name_is_refused(tmp_path: Path) -> None:
    store, name = store_at(tmp_path), segment(1)
    (tmp_path / name).write_bytes(b"log")
    await store.keep_log("7", tmp_path / name, name, await store.key())
    place = tmp_path / "t" / "eu-1" / "7" / "log"
    (place / name).rename(place / segment(2))
    with pytest.raises(InvalidInput, match=name):
        await store.fetch_log("7", segment(2), tmp_path)


async def carded(store: Store, days: float, data: bytes = b"tar") -> Base:
    key, draft = await store.key(), base(days, int(days))
    with store.writing(base_name(draft), draft.system, key) as stream:
        stream.write(data)
    made = draft.model_copy(update={"size": store.size_of(base_name(draft))})
    store.record(made, key)
    return made


def _flip(path: Path) -> None:
    raw = path.read_bytes()
    path.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        pytest.param(lambda tar, card, other: card.write_text('{"last": "zz"}'), "no backup of ours", id="written"),
        pytest.param(lambda tar, card, other: card.write_bytes(b""), "no backup of ours", id="empty"),
        pytest.param(lambda tar, card, other: _flip(card), "altered", id="flipped"),
        pytest.param(
            lambda tar, card, other: card.write_bytes(other.read_bytes()), "is eu-1/7/base/b2", id="another's"
        ),
        pytest.param(lambda tar, card, other: tar.unlink(), "its base backup is missing", id="no data"),
        pytest.param(lambda tar, card, other: tar.write_bytes(b"x"), "has 1 bytes, where", id="cut"),
    ],
)
async def test_a_base_backup_that_cannot_be_used_hides_no_other(
    tmp_path: Path, damage: Callable[[Path, Path, Path], object], why: str
) -> None:
    store = store_at(tmp_path)
    broken, sound = await carded(store, 1), await carded(store, 2)
    await store.keep_log("7", _file(tmp_path, segment(0)), segment(0), await store.key())
    place = tmp_path / "t" / "eu-1" / "7" / "base"
    damage(place / f"{broken.id}.tar", place / f"{broken.id}.card", place / f"{sound.id}.card")
    survey = await store.survey()
    assert survey.bases == [sound]
    assert {name: why in error.what for name, error in survey.unusable.items()} == {card_name(broken): True}
    pruned = await store.prune(timedelta(days=1), START + timedelta(days=60))
    assert pruned.unusable.keys() == survey.unusable.keys()
    assert pruned.deleted == [], "whose log it may be is not known"
    (place / f"{broken.id}.card").unlink()
    assert segment(0) in str((await store.prune(timedelta(days=1), START + timedelta(days=60))).deleted)


async def test_where_no_base_backup_can_be_used_it_is_said_why(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    assert await store.bases() == []
    made = await carded(store, 1)
    assert await store.bases() == [made]
    (tmp_path / "t" / base_name(made)).unlink()
    with pytest.raises(InvalidInput, match="its base backup is missing"):
        await store.bases()


def _file(folder: Path, name: str) -> Path:
    (folder / name).write_bytes(b"log")
    return folder / name


def test_domiciles_own_rows_are_told_apart() -> None:
    rows = {"domicile.fences": 3, "domicile.cell": 1, "public.notes": 1200}
    assert counted(rows) == "1,200 rows in 1 tables, and 4 rows in 2 tables of Domicile's own"
    assert counted({"directory.pins": 2}) == "2 rows in 1 tables of Domicile's own"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["up", "--backups", "/nowhere/backups"], "--backups takes no value"),
        (["restart"], "what to restart?"),
    ],
)
def test_what_was_meant_otherwise_is_said(tmp_path: Path, words: list[str], said: str) -> None:
    done = CliRunner().invoke(app, [*words, "--state", str(tmp_path)])
    assert done.exit_code == 1
    assert said in " ".join(done.output.split())


def test_a_card_names_segments() -> None:
    with pytest.raises(ValidationError):
        Base.model_validate(base(1, 1).model_dump() | {"last": "zz"})


def names_in(folder: Path) -> Sequence[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_restore_that_is_interrupted_leaves_the_data_of_before(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()

    def interrupted(place: Path) -> None:
        (place / "data").mkdir()
        with pytest.raises(InvalidInput, match="under way"), staging(tmp_path):
            pass
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), staging(tmp_path) as place:
        interrupted(place)
    assert names_in(tmp_path) == ["data", "restoring.lock"]


def test_a_switch_is_whole_wherever_it_was_killed(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with staging(tmp_path) as place:
        (place / "data").mkdir()
        (place / "data" / "new").touch()
        before = put_in_place(tmp_path, place)
    assert before is not None
    assert names_in(tmp_path / "data") == ["new"]
    # killed between the two renames
    (tmp_path / "restoring").mkdir()
    (tmp_path / "restoring" / "ready").touch()
    (tmp_path / "data").rename(tmp_path / "restoring" / "data")
    finish_switch(tmp_path)
    assert names_in(tmp_path / "data") == ["new"]
    finish_switch(tmp_path)


def test_what_a_killed_restore_left_is_found_and_removed(tmp_path: Path) -> None:
    cell, keys = tmp_path / "cells/eu-1/fra/storage", tmp_path / "keys/eu/backup/verify"
    with staging(cell) as place:
        (place / "data").mkdir()
        assert interrupted(tmp_path) == [], "it goes on"
        clear_interrupted(tmp_path)
        assert place.exists()
    for folder in (cell, keys):
        (folder / "restoring" / "data").mkdir(parents=True)
    assert interrupted(tmp_path) == [cell, keys]
    clear_interrupted(tmp_path)
    assert interrupted(tmp_path) == []
    assert not (cell / "restoring").exists()
    # killed between the two renames: what is restored is kept
    (cell / "restoring" / "data" / "new").mkdir(parents=True)
    (cell / "restoring" / "ready").touch()
    clear_interrupted(tmp_path)
    assert names_in(cell / "data") == ["new"]


async def test_who_makes_the_first_key_at_once_makes_one(tmp_path: Path) -> None:
    keys = FileKeys(tmp_path / "kek", "eu", own=True)
    made = await asyncio.gather(*(keys.make("eu-1") for _ in range(16)))
    assert [await keys.open("eu-1", each.wrapped) for each in made] == made
    assert names_in(tmp_path / "kek") == ["1.key"]
