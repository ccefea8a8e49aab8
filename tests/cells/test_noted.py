"""The memory of what is destroyed: no line is lost before its time, whatever becomes of disk, host or clock."""

from __future__ import annotations

import os
from itertools import combinations
from pathlib import Path
from typing import cast
from uuid import UUID, uuid4

import pytest
from domicile_testing import Trust
from domicile_testing.cell import key_section

from domicile.cells.keys import noted
from domicile.cells.keys.noted import SLACK_SECONDS, Noted, NotedFile, kept
from domicile.cells.keys.shreds import DAY, LOG_FILE, Shredder
from domicile.cells.keys.storage import KeyStore
from domicile.identity import authority
from domicile.model import InvalidInput, Role, Unavailable

NOW = 1_800_000_000
ALICE = UUID(int=1)


def line(at: int, *, days: int = 7, subject: UUID | None = None, principal: UUID | None = None) -> Noted:
    until = at + days * DAY if at else 0
    return Noted(cell="eu-1", subject=subject or uuid4(), principal=principal, at=at, until=until)


@pytest.fixture
def file(tmp_path: Path) -> NotedFile:
    return NotedFile(tmp_path / LOG_FILE)


def test_what_no_backup_can_give_back_is_left_out_and_nothing_else() -> None:
    old, young = line(NOW - 8 * DAY - 1), line(NOW - 8 * DAY + 1)
    assert kept([old, young], NOW, 7 * DAY).lines == [young]
    assert kept([old], NOW, 9 * DAY).lines == [old], "backups live for longer by now"
    longer = line(NOW - 20 * DAY, days=30)
    assert kept([longer], NOW, 7 * DAY).lines == [longer], "one that was taken then lives for as long as was said then"
    assert SLACK_SECONDS == DAY


def test_a_line_of_before_there_were_dates_is_dated_now() -> None:
    bare = line(0)
    dated = kept([bare], NOW, 7 * DAY)
    assert (dated.lines[0].at, dated.changed) == (NOW, True)
    assert kept(dated.lines, NOW + 7 * DAY, 7 * DAY).lines == dated.lines
    assert kept(dated.lines, NOW + 8 * DAY + 1, 7 * DAY).lines == []


def test_of_one_key_the_last_line_is_kept() -> None:
    subject = uuid4()
    lines = [line(NOW - 2 + n, subject=subject, principal=who) for n, who in enumerate((None, ALICE, None))]
    assert kept(lines, NOW, DAY).lines == lines[1:]
    assert not kept(lines[1:], NOW, DAY).changed


def test_a_line_that_was_cut_short_spoils_no_other(file: NotedFile, tmp_path: Path) -> None:
    lines = [line(NOW + number) for number in range(3)]
    file.add(lines[0])
    with (tmp_path / LOG_FILE).open("ab") as stream:
        stream.write(b'{"cell": "eu-1", "subje')
    assert file.read() == lines[:1]
    file.add(lines[1])
    assert file.read() == lines[:2]
    (tmp_path / LOG_FILE).write_bytes(b'{"cell": "eu-1"')
    file.add(lines[2])
    assert file.read() == lines[2:]
    (tmp_path / LOG_FILE).write_bytes(b'{"cell": "eu-1"\n')
    with pytest.raises(InvalidInput, match="restore it"):
        file.read()


def test_a_full_disk_notes_nothing_and_says_so(
    file: NotedFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = line(NOW)
    file.add(before)
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:20]))
        with pytest.raises(Unavailable, match="No space"):
            file.add(line(NOW + 1))
    assert file.read() == [before]
    file.add(after := line(NOW + 2))
    assert file.read() == [before, after]
    with pytest.raises(Unavailable):
        NotedFile(tmp_path / "gone" / LOG_FILE).add(before)


def test_a_line_is_durable_with_its_folder_before_it_is_told(
    file: NotedFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    for module in (noted, authority):
        monkeypatch.setattr(module, "sync_folder", synced.append)
    file.add(line(NOW))
    assert synced == [tmp_path]
    file.replace([line(NOW)])
    assert synced == [tmp_path] * 2


@pytest.mark.parametrize("step", ["open", "fsync", "replace"])
def test_an_end_while_it_is_written_anew_leaves_every_line(
    file: NotedFile, tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As kill -9 leaves it: what was done before the step is there, and nothing after it."""

    class Killed(BaseException):
        pass

    def killed(*_: object, **__: object) -> None:
        raise Killed

    lines = [line(NOW + number) for number in range(3)]
    for each in lines:
        file.add(each)
    with monkeypatch.context() as patch:
        patch.setattr(Path if step == "replace" else os, step, killed)
        with pytest.raises(Killed):
            file.replace(lines[:1])
    assert file.read() == lines
    file.replace(lines[1:])
    assert file.read() == lines[1:]
    assert (tmp_path / LOG_FILE).stat().st_mode & 0o777 == 0o600


class Clocked:
    """A key store that has a clock."""

    now = float(NOW)

    async def time(self) -> float:
        return self.now


@pytest.mark.parametrize(("host", "store"), [*combinations((0, 9 * DAY), 2), (9 * DAY, 0), (9 * DAY, 9 * DAY)])
async def test_a_clock_that_jumps_ahead_forgets_nothing(trust: Trust, tmp_path: Path, host: int, store: int) -> None:
    clocked = Clocked()
    clocked.now = NOW + store
    shredder = Shredder(
        cast("KeyStore", clocked), trust.credentials("eu", Role.KEYS, "fra"), key_section(backup_days=7), tmp_path,
        lambda: NOW + host,
    )  # fmt: skip
    file = NotedFile(tmp_path / LOG_FILE)
    file.add(line(NOW))
    gone = await shredder.forget_expired()
    assert (gone, len(file.read())) == ((1, 0) if host and store else (0, 1))
