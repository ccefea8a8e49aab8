"""Every link within the repository leads somewhere, to a heading too where it names one. No network is asked."""

from __future__ import annotations

from pathlib import Path

from domicile_testing.documentation import DOCS, ROOT, anchors, blocks, links, name_of, pages
from pages.navigation import WAYS, navigation


def broken(page: Path) -> list[str]:
    found = []
    for link in links(page):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        inside = target.is_relative_to(ROOT)
        if not inside or not target.exists() or (anchor and anchor not in anchors(target)):
            found.append(link)
    return found


def test_links_lead_somewhere() -> None:
    assert {name_of(page): found for page in pages() if (found := broken(page))} == {}


def test_one_that_leads_nowhere_is_seen(tmp_path: Path) -> None:
    page = DOCS / "index.md"
    written = tmp_path / "index.md"
    written.write_text("# Here\n[a](#here) [b](#there) [c](gone.md) [d](https://example.org/)\n")
    assert broken(written) == ["#here", "#there", "gone.md"], "outside of the repository nothing counts"
    assert "from-a-clone-to-the-report-of-a-drill" in anchors(page)


def test_each_page_has_its_place_in_the_navigation() -> None:
    placed = [page for way in navigation() for places in way.values() for place in places for page in place.values()]
    assert len(set(placed)) == len(placed)
    assert set(placed) == {name_of(page) for page in pages() if page.is_relative_to(DOCS)}, "see pages/navigation.py"


def test_the_index_sends_each_reader_on() -> None:
    sent = {link.partition("#")[0] for link in links(DOCS / "index.md")}
    for way, places in WAYS.items():
        missing = {page for page in places.values() if (DOCS / page).exists()} - sent - {"index.md"}
        assert missing == set(), way


def test_no_diagram_needs_a_script_from_elsewhere() -> None:
    drawn = [name_of(page) for page in pages() if blocks(page, "mermaid")]
    assert drawn == [], "the site's theme would load it: draw an SVG"
