"""docs/law.md and docs/comparison.md: what they name is there, and what they claim has its source and its date."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from domicile_testing.documentation import DOCS, ROOT

PAGE = (DOCS / "law.md").read_text()
LAWS = {
    "GDPR": [
        "4(5)",
        "5(1)(f)",
        "17",
        "25(1)",
        "25(2)",
        "28",
        "30",
        "32(1)(a)",
        "32(1)(c)",
        "32(1)(d)",
        "44",
        "45, 46",
        "48",
        "49",
    ],
    "LGPD": ["15, 16", "18", "33-36", "46, 47", "48"],
    "DPDP": ["8(4)", "8(5)", "8(6)", "8(7)", "12", "16(1)", "16(2)"],
}


def rows(law: str) -> Iterator[list[str]]:
    text = PAGE.partition(f"\n## {law}\n")[2].partition("\n## ")[0]
    for line in text.splitlines():
        if line.startswith("| ") and not line.startswith(("| article", "| section")):
            yield [part.strip() for part in line.strip("|").split(" | ")]


@pytest.mark.parametrize("law", LAWS)
def test_each_row_names_an_article_a_mechanism_and_tests(law: str) -> None:
    found = list(rows(law))
    for row in found:
        assert len(row) == 4, row
        assert all(row), row
        assert re.fullmatch(r"`tests/[a-z0-9_/]+\.py`(, `tests/[a-z0-9_/]+\.py`)*", row[3]), row
    for article in LAWS[law]:
        assert any(row[0].startswith(article) for row in found), article


def test_each_named_test_is_there() -> None:
    for path in set(re.findall(r"`(tests/[^`]+)`", PAGE)):
        assert re.search(r"^(async )?def test_", (ROOT / path).read_text(), re.MULTILINE), path


def test_it_says_what_it_is_not() -> None:
    assert "This is no legal advice" in PAGE


def test_what_is_said_of_neighbours_is_dated_and_has_its_source() -> None:
    text = (DOCS / "comparison.md").read_text()
    sections = re.split(r"^## ", text, flags=re.MULTILINE)[1:-1]
    assert [section.split()[0] for section in sections] == ["GitLab", "CockroachDB", "Vitess", "InCountry", "Envoy"]
    for section in sections:
        assert re.search(r"\(Read 20\d\d-\d\d-\d\d", section), section[:40]
        assert re.search(r"\]\(https://", section), section[:40]
        assert "**Take it**" in section, section[:40]
