"""Where drills let bytes rest: a small disk for a node's data, and what was lost, until it is back."""

from __future__ import annotations

from pathlib import Path

import pytest
from domicile_testing.good_manifest import DATA

from domicile.model import parse_manifest
from domicile.ops.drills.local import scan_files
from domicile.ops.drills.losses import LOST
from domicile.ops.layout import Layout
from domicile.ops.rehearsal import DISK

VALUE = "drill-0123456789abcdef"


@pytest.mark.parametrize("place", [DISK, LOST])
def test_what_drills_set_aside_is_searched_as_the_nodes_own(tmp_path: Path, place: str) -> None:
    layout, manifest = Layout(tmp_path / "s"), parse_manifest(DATA)
    layout.prepare()
    found = {}
    for cell in ("eu-1", "us-1"):
        zone = next(iter(manifest.cells[cell].zones))
        folder = layout.cell(cell, zone) / "storage" / place / "base"
        folder.mkdir(parents=True)
        (folder / "16384").write_text(f"a row {VALUE}-7 of a table")
        found[cell] = scan_files(layout, manifest, 0.0, {"eu": VALUE})
    assert found["eu-1"].trusted
    assert found["eu-1"].bytes_across == 0
    assert found["us-1"].bytes_across > 0
    assert all("cells/us-1" in each for each in found["us-1"].places)
