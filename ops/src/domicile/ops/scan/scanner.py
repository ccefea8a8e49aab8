"""Files, one after another, through one search."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from domicile.ops.scan.feeds import Feed, Job, Search
from domicile.ops.scan.formats import KnownFormats
from domicile.ops.scan.needles import Needle
from domicile.ops.scan.report import Hit, Report

_CHUNK: Final = 1 << 20


class Scanner:
    """``sealed``: the sealed values of any jurisdiction but the file's owner are hits, too."""

    def __init__(self, needles: Iterable[Needle], *, sealed: bool = False) -> None:
        self._search = Search(needles, KnownFormats(), sealed=sealed)

    def scan_bytes(self, content: bytes, *, owner: str | None = None) -> list[Hit]:
        """What is in ``content`` and in the streams packed in it."""
        report = Report()
        feed = Feed(Job(self._search, report, Path("-"), owner, len(content)))
        feed.push(content)
        feed.finish()
        return report.hits

    def scan_file(self, path: Path, report: Report, owner: str | None = None) -> None:
        """Read a file whole, and its name. Raises OSError where it can't be read."""
        with path.open("rb") as stream:
            status = os.fstat(stream.fileno())
            if stat.S_ISREG(status.st_mode):
                job = Job(self._search, report, path, owner, status.st_size)
                self._name(job, path.name)
                feed = Feed(job)
                while chunk := stream.read(_CHUNK):
                    report.read_bytes += len(chunk)
                    feed.push(chunk)
                feed.finish()
                report.files += 1

    def _name(self, job: Job, name: str) -> None:
        raw = name.encode(errors="surrogateescape")
        for number, start, _ in self._search.matches(raw):
            if self._search.signature(number) is None:
                job.hit(number, raw, start, start, "its name")

    def scan(
        self,
        paths: Iterable[Path],
        owner: Callable[[Path], str | None] = lambda _: None,
        report: Report | None = None,
    ) -> Report:
        """Files that vanish while a world runs (temporary ones, recycled WAL) are no gap; others are.

        ``owner``: the jurisdiction that a file lies in. ``report`` is filled as it goes, for who looks on.
        """
        report = Report() if report is None else report
        for path in paths:
            try:
                self.scan_file(path, report, owner(path))
            except FileNotFoundError:
                continue
            except OSError as error:
                report.miss(self.shown(path), error.strerror or type(error).__name__)
        return report

    def shown(self, path: Path) -> str:
        return self._search.shown(str(path))


def files_below(root: Path, unread: Callable[[OSError], None] | None = None) -> Iterator[Path]:
    """Every regular file below ``root``, or ``root`` itself; links aren't followed, sockets and pipes hold no bytes.

    ``unread`` is told of folders that can't be listed.
    """
    if root.is_file() and not root.is_symlink():
        yield root
        return
    for folder, folders, names in os.walk(root, onerror=unread):
        folders.sort()
        for name in sorted(names):
            path = Path(folder, name)
            try:
                mode = path.lstat().st_mode
            except OSError:
                continue
            if stat.S_ISREG(mode):
                yield path
