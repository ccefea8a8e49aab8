"""The pages that show a test of the reader's own: each is written into a folder, and run as the page says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

from domicile_testing.documentation import DOCS, blocks
from domicile_testing.worlds import clean_environment

PAGES: Final = ("first-record", "classification", "queries", "abroad", "testing")


def test_the_pages_for_application_developers(tmp_path: Path) -> None:
    """In one run, since each starts a database of its own otherwise."""
    names = []
    for page in PAGES:
        path = DOCS / f"{page}.md"
        (written,) = re.findall(r"[Ww]rite `(test_\w+\.py)`", path.read_text())
        (program,), (command,) = blocks(path, "python"), blocks(path)
        assert command == f"pytest -q {written}\n", page
        (tmp_path / written).write_text(program)
        names.append(written)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *names],
        cwd=tmp_path,
        env=clean_environment() | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^10 passed", done.stdout, re.MULTILINE), done.stdout
