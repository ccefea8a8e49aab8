"""What a run writes into the page on performance, and that it changes nothing else there."""

from __future__ import annotations

from pathlib import Path

import pytest
from loadtests.bench import PARTS
from loadtests.cases import Missing, Row
from loadtests.hot import counted, place
from loadtests.page import replaced, table

ROW = Row("router / nginx", 12345.678, "req/CPU-s", "nginx", 0.4, "ratio >= 0.5", False, 5)
TEXT = "before\n<!-- x -->\nold\n<!-- end of x -->\nafter\n"


def test_only_what_stands_between_the_markers_is_replaced() -> None:
    once = replaced(TEXT, "x", "new\n")
    assert once == TEXT.replace("old", "new")
    assert replaced(once, "x", "new") == once


@pytest.mark.parametrize("text", ["", "<!-- x -->", "<!-- end of x -->", TEXT.replace("x", "y")])
def test_a_page_without_the_place_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no place for x"):
        replaced(text, "x", "new")


def test_the_page_has_a_place_for_all_that_a_run_writes() -> None:
    text = (Path(__file__).parents[2] / "docs" / "performance.md").read_text()
    for name in [*(f"bench {part}" for part in PARTS), "samples"]:
        assert replaced(text, name, "new") != text


def test_a_miss_is_as_plain_as_a_hit_and_what_is_missing_is_told_once() -> None:
    found = table([ROW, Missing("a", "no nginx"), Missing("b", "no nginx")])
    assert "| router / nginx | 12,346 req/CPU-s | 0.40 | ratio >= 0.5 | **no** | nginx |" in found
    assert "Not measured, because no nginx: a; b." in found


def test_samples_count_for_the_innermost_frame() -> None:
    ours = "/venv/../src/domicile/router/front.py"
    lines = [
        f'process 1:"x";run (/usr/lib/python3.11/asyncio/runners.py:118);_route ({ours}:14) 3',
        f"_route ({ours}:20) 2",
        f"_route ({ours}:20);verify (/v/lib/python3.11/site-packages/jwt/api_jws.py:9) 4",
        "_worker (/usr/lib/python3.11/concurrent/futures/thread.py:81) 100",
        "",
    ]
    places, functions = counted(lines)
    assert places == {"domicile.router.front": 5, "jwt": 4}
    assert functions == {"`_route` in domicile.router.front": 5, "`verify` in jwt": 4}


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("/x/core/src/domicile/model/pins.py", "domicile.model.pins"),
        ("/v/lib/python3.11/site-packages/aiohttp/web.py", "aiohttp"),
        ("/usr/lib/python3.11/json/decoder.py", "json"),
        ("/usr/lib/python3.11/ssl.py", "ssl"),
        ("<string>", "<string>"),
    ],
)
def test_a_file_belongs_to_a_module_or_a_library(file: str, expected: str) -> None:
    assert place(file) == expected
