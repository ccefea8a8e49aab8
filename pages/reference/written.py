"""Which pages there are, and writing them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pages.reference.manifest import SCHEMA_FILE, manifest_page, manifest_schema
from pages.reference.programs import programs_page
from pages.reference.refusals import refusals_page
from pages.reference.series import series_page
from pages.reference.services import openapi_files, services_page
from pages.reference.settings import settings_page

FOLDER: Final = Path(__file__).parents[2] / "docs" / "reference"


def documents() -> dict[str, str]:
    """Each file's name and text."""
    return {
        "manifest.md": manifest_page(),
        SCHEMA_FILE: manifest_schema(),
        "commands.md": programs_page(),
        "settings.md": settings_page(),
        "errors.md": refusals_page(),
        "metrics.md": series_page(),
        "http.md": services_page(),
        **openapi_files(),
    }


def write() -> list[str]:
    """Brings the folder to what the code says; what changed, by name."""
    FOLDER.mkdir(exist_ok=True)
    made = documents()
    changed = [name for name, text in made.items() if _read(FOLDER / name) != text]
    for name in changed:
        (FOLDER / name).write_text(made[name])
    for stray in FOLDER.iterdir():
        if stray.name not in made:
            stray.unlink()
            changed.append(stray.name)
    return changed


def _read(path: Path) -> str | None:
    return path.read_text() if path.exists() else None
