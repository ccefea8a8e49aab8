"""The whole story, over real HTTP against real processes: the product's own acceptance test."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from domicile_testing.worlds import domicile, processes_of

pytestmark = [pytest.mark.system, pytest.mark.xdist_group("world")]


def test_every_step_happens_as_expected(tmp_path: Path) -> None:
    state = tmp_path / "s"
    done = domicile("demo", "--json", "--state", str(state), seconds=200)
    document = json.loads(done.stdout)
    assert [row for row in document["rows"] if not row["ok"]] == []
    assert (done.returncode, document["ok"]) == (0, True)
    assert all(set(row) == {"step", "tried", "expected", "happened", "ok"} for row in document["rows"])
    steps = [row["step"] for row in document["rows"]]
    for step in ("sign-up", "log-in", "traveller", "abroad", "forgery", "wrong label", "directory stopped", "scan"):
        assert step in steps
    assert processes_of(state) == []
