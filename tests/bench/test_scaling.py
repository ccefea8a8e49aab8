"""The arithmetic of docs/scaling.md, the page that shows it, and the followers' outage in short."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
from domicile_testing.documentation import DOCS, ROOT, blocks
from domicile_testing.long import MINUTES
from loadtests.followers import Shape, follow, plot
from loadtests.footprint import _measure
from loadtests.scaling import COSTS, SIZES, Assumed, Costs, limits, report, size

PAGE = (DOCS / "scaling.md").read_text()
COST = Costs.load()


def test_every_cost_was_measured_and_says_by_what(tmp_path: Path) -> None:
    text = COSTS.read_text()
    wrong = tmp_path / "costs.yaml"
    for bad in (re.sub(r"value: [\d.]+", "value: 0", text, count=1), text.replace("put_us:", "putt_us:")):
        wrong.write_text(bad)
        with pytest.raises(ValueError, match=r"was not measured|is missing, or too much"):
            Costs.load(wrong)


def test_twice_the_users_cost_twice_and_twice_the_cells_halve_each() -> None:
    one, two = size(COST, Assumed(), 1_000_000, 4), size(COST, Assumed(), 2_000_000, 4)
    for name in ("requests_per_s", "cores_routers", "cores_cells", "cell_gb", "hairpin_gb_month"):
        assert getattr(two, name) == pytest.approx(2 * getattr(one, name))
    parted = size(COST, Assumed(), 1_000_000, 8)
    assert parted.cell_gb == pytest.approx(one.cell_gb / 2)
    assert parted.cores_cells == pytest.approx(one.cores_cells)
    assert (parted.databases, parted.nodes) == (11, 33), "cells, a key store for each jurisdiction, the directory"


@pytest.mark.parametrize(
    ("assumed", "grows"),
    [
        ({"requests": 100}, "cores_routers"),
        ({"writes": 10}, "wal_gb_per_cell_day"),
        ({"travellers": 0.5}, "hairpin_gb_month"),
        ({"cache_seconds": 10}, "unwraps_per_s"),
        ({"routers_per_jurisdiction": 40}, "changes_gb_month"),
        ({"rows": 1000}, "cell_gb"),
        ({"peak": 8}, "cores_keys"),
    ],
)
def test_who_does_more_needs_more(assumed: dict[str, float], grows: str) -> None:
    usual = size(COST, Assumed(), 1_000_000, 4)
    assert getattr(size(COST, replace(Assumed(), **assumed), 1_000_000, 4), grows) > getattr(usual, grows)


def test_figures_by_hand() -> None:
    """A million people who ask once a day each, evenly: 11.57 requests a second."""
    even = replace(Assumed(), requests=1, writes=0, peak=1, travellers=0, full=1, response_kb=0)
    told = size(replace(COST, request_us=1000, get_us=2000), even, 1_000_000, 1)
    assert told.requests_per_s == pytest.approx(11.574, rel=1e-3)
    assert told.cores_routers == pytest.approx(0.011574, rel=1e-3)
    assert told.cores_cells == pytest.approx(0.023148, rel=1e-3)
    assert told.hairpin_gb_month == told.wal_gb_per_cell_day == 0


def test_the_limit_that_comes_first_is_told_first() -> None:
    found = limits(COST, Assumed(), size(COST, Assumed(), 100_000_000, 30))
    assert [each.at_users for each in found] == sorted(each.at_users for each in found)
    for each in found:
        assert each.at_users == pytest.approx(100_000_000 * each.most / each.used)


def test_the_page_has_what_the_command_prints() -> None:
    assert report(COST, Assumed(), SIZES) in PAGE, "python -m loadtests.scaling, and put it into the page"


def test_the_commands_of_the_page() -> None:
    """docs/scaling.md"""
    (block,) = blocks(DOCS / "scaling.md")
    for line in block.splitlines():
        words = line.partition("#")[0].split()
        program, *arguments = words[1:] if words[0] == "PYTHONPATH=tests/support" else words
        if "--measure" in arguments or "loadtests.followers" in arguments:
            arguments = [*arguments[:2], "--help"]  # minutes; test_every_router_is_there_after_an_outage runs it
        done = subprocess.run(
            [sys.executable if program == "python" else program, *arguments],
            cwd=ROOT,
            env={"PYTHONPATH": "tests/support", "PATH": ""},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        if "--json" in arguments:
            assert json.loads(done.stdout)["deployments"]


@pytest.mark.parametrize(
    "wrong", [["--jurisdictions", "0"], ["--writes", "60"], ["--travellers", "3"], ["--joined", "-1"], ["--users", "0"]]
)
def test_what_makes_no_sense_is_refused(wrong: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "loadtests.scaling", *wrong], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


def test_help_names_every_assumption() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "loadtests.scaling", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for field in fields(Assumed):
        assert f"--{field.name.replace('_', '-')}" in done.stdout


@pytest.mark.full
@pytest.mark.timeout(240)
async def test_every_router_is_there_after_an_outage(tmp_path: Path) -> None:
    told = await follow(Shape(routers=40, pins=500, before=4, outage=5, after=8, changes=20), tmp_path)
    document = told.document()
    assert document["ok"], document
    assert len(told.caught_up_s) == 40
    assert document["acknowledged"] > 20
    away = [each for each in told.samples if told.killed_at + 4 < each.at < told.ready_at]
    assert max(each.following for each in away) == 0, "nobody hears a log that is gone"
    assert max(each.staleness_max for each in told.samples) > 4
    assert told.samples[-1].following == 40
    picture = plot(told)
    assert picture.count("<polyline") == 4
    assert "nan" not in picture


@MINUTES
@pytest.mark.full
@pytest.mark.timeout(240)
async def test_what_is_measured_is_near_what_the_file_says() -> None:
    found = await _measure()
    for name in ("subject_cell_bytes", "subject_directory_bytes", "subject_keys_bytes", "row_bytes", "change_bytes"):
        assert found[name] == pytest.approx(asdict(COST)[name], rel=0.35), name
