"""Where backups lie: a target in a country of the jurisdiction whose data they hold, and for how long."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from pathlib import PurePosixPath
from typing import Annotated, NamedTuple

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


class Placed(NamedTuple):
    """A target as a manifest has it at ``path``, whose data lies in ``countries`` (of ``name``).

    ``receipt_days``: how long a shredded key may live in a backup of its key store, as receipts say.
    """

    path: str
    name: str
    target: BackupTarget | None
    countries: Collection[str]
    receipt_days: int | None


def check_targets(places: Iterable[Placed]) -> Iterator[ManifestProblem]:
    """A target lies where its data is, holds the backups of one jurisdiction, and ends with the receipts' word."""
    seen: dict[str, PurePosixPath] = {}
    for path, name, target, countries, receipt_days in places:
        if target is None:
            continue
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
        folder = PurePosixPath(target.folder)
        for other, theirs in seen.items():
            if folder.is_relative_to(theirs) or theirs.is_relative_to(folder):
                yield ManifestProblem(f"{path}.folder", f"{folder} is also the target at {other}", "give each its own")
        seen[path] = folder
