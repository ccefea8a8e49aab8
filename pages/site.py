"""``python -m pages.site [FOLDER]``: builds the site (``build/site``), and fails on whatever its generator warns of."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

CONFIGURATION: Final = Path(__file__).with_name("mkdocs.yml")


def build(folder: Path) -> int:
    """The exit status of the generator."""
    os.environ["NO_MKDOCS_2_WARNING"] = "true"  # an advertisement of its theme for the one after it
    from mkdocs.__main__ import cli

    return int(
        cli.main(["build", "--clean", "--strict", "-f", str(CONFIGURATION), "-d", str(folder)], standalone_mode=False)
        or 0
    )


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else CONFIGURATION.parents[1] / "build" / "site").resolve()
    if status := build(target):
        sys.exit(status)
    print(f"the site: {target / 'index.html'}")
