"""Where backups lie: a target in a country of the jurisdiction whose data they hold, and for how long."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Annotated

from pydantic import AfterValidator, Field

from domicile.model.errors import ManifestProblem
from domicile.model.ids import Country
from domicile.model.rules import Strict


def _folder(text: str) -> str:
    path = PurePosixPath(text)
    if not text.isprintable() or ".." in path.parts or path.parts in ((), ("/",)):
        raise ValueError("is no folder of its own: a path without .., such as backups/eu")
    return str(path)


class BackupTarget(Strict):
    """``folder``: absolute, or below the world's state folder; it stands for an object store in ``country``.

    ``keep_days``: any moment of so many days can be restored. ``every_hours``: between two base backups that the
    agent takes by itself; between them the log is kept.
    """

    country: Country
    folder: Annotated[str, Field(min_length=1, max_length=1024), AfterValidator(_folder)]
    keep_days: int = Field(default=14, ge=0, le=3650, strict=True)
    every_hours: int = Field(default=24, ge=1, le=24 * 31, strict=True)


def check_target(
    path: str, name: str, target: BackupTarget, countries: Collection[str], receipt_days: int | None = None
) -> Iterator[ManifestProblem]:
    """A target lies where its data is.

    ``receipt_days``: how long a shredded key may live in a backup of its key store, as receipts say.
    """
    if target.country not in countries:
        yield ManifestProblem(
            f"{path}.country",
            f"{target.country} lies outside {name}",
            "a backup is a copy of the data, and stays where its data is",
        )
    if receipt_days is not None and target.keep_days * 24 + target.every_hours > receipt_days * 24:
        yield ManifestProblem(
            f"{path}.keep_days",
            f"a backup of the key store would live for {target.keep_days} days and {target.every_hours} hours",
            f"receipts say {receipt_days} days, see keys.backup_days",
        )


def check_apart(targets: Mapping[str, BackupTarget]) -> Iterator[ManifestProblem]:
    """No target lies in another's: a folder holds the backups of one jurisdiction. By path in the manifest."""
    seen: dict[str, PurePosixPath] = {}
    for path, target in targets.items():
        folder = PurePosixPath(target.folder)
        for other, theirs in seen.items():
            if folder.is_relative_to(theirs) or theirs.is_relative_to(folder):
                yield ManifestProblem(f"{path}.folder", f"{folder} is also the target at {other}", "give each its own")
        seen[path] = folder
