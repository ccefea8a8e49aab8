"""The recording is of a real run, small, and loads nothing; whatever draws it keeps each line and its time."""

from __future__ import annotations

import re
import subprocess
import sys
from xml.etree import ElementTree

import pytest
from domicile_testing.documentation import DOCS, ROOT
from pages.recording import ROWS, TARGET, Line, drawn, record

PROGRAM = """
import sys, time
assert sys.stdout.isatty()
print("\\x1b[1mstep\\x1b[0m  <ok> & more", flush=True)
time.sleep(0.3)
print("the end")
"""


def texts(svg: str) -> list[str]:
    return ["".join(each.itertext()) for each in ElementTree.fromstring(svg).iter() if each.tag.endswith("}text")]


def test_a_program_is_recorded_on_a_terminal_with_its_times() -> None:
    lines = record([sys.executable, "-c", PROGRAM], "program")
    assert [line.text.count("\x1b") > 0 for line in lines] == [True, True, False]
    assert lines[2].at - lines[1].at >= 0.25
    svg = drawn(lines, 'a "label"')
    assert texts(svg) == ["$ program", "step  <ok> & more", "the end"]
    assert 'aria-label="a &quot;label&quot;"' in svg
    assert svg.count('class="b"') == 2


def test_a_program_that_fails_is_not_drawn() -> None:
    with pytest.raises(subprocess.CalledProcessError):
        record([sys.executable, "-c", "raise SystemExit(3)"], "program")


def test_the_last_line_stands_at_the_bottom() -> None:
    svg = drawn([Line(number / 10, f"line {number}") for number in range(ROWS + 8)], "x")
    assert "transform: translateY(-128px); animation" in svg, "where nothing moves, the last screen is shown"
    assert re.search(r"^100\.0% { transform: translateY\(-128px\); }$", svg, re.MULTILINE)


@pytest.mark.parametrize("name", ["demo.svg", "picture.svg"])
def test_what_is_in_the_pages_is_small_and_loads_nothing(name: str) -> None:
    text = (DOCS / name).read_text()
    ElementTree.fromstring(text)
    assert len(text) < 150_000
    assert re.findall(r"\w+=\"https?://[^\"]+", text) == ['xmlns="http://www.w3.org/2000/svg']
    assert not re.search(r"<(script|image|foreignObject|a|use)\b|href=|@import|url\((?!#)", text)


def test_the_demo_that_is_shown_went_well() -> None:
    assert TARGET == DOCS / "demo.svg"
    told = texts(TARGET.read_text())
    assert told[0] == "$ domicile demo"
    assert re.fullmatch(r"(\d+) of \1 steps as expected, in \d+ s", told[-1] if "steps" in told[-1] else told[-2])
    assert str(ROOT) not in TARGET.read_text()
