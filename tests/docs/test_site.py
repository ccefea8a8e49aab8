"""The site: built without a warning, read in a browser at two widths, and nothing comes from elsewhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path

import pytest
from domicile_testing import free_port
from domicile_testing.chromium import browser, with_chromium
from domicile_testing.documentation import DOCS, ROOT

pytestmark = [
    pytest.mark.full,
    pytest.mark.xdist_group("site"),
    pytest.mark.skipif(find_spec("mkdocs") is None, reason="the site's generator is not installed (make docs)"),
]
PHONE, DESK = 400, 1280


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    """As ``make docs`` does, after it has brought the reference up to date."""
    command = [sys.executable, "-m", "pages.site", str(folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_it_is_built_without_a_warning(site: Path) -> None:
    """What CONTRIBUTING.md says to run."""
    assert "pages.site" in (ROOT / "Makefile").read_text()
    built = {path.relative_to(site).with_suffix(".md").as_posix() for path in site.rglob("*.html")} - {"404.md"}
    assert built == {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}


class Loads(HTMLParser):
    """What a browser fetches for a page; links that a reader may follow are none of it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        source = given.get("href") if tag == "link" and given.get("rel") != "canonical" else given.get("src")
        if source and "//" in source:
            self.found.append(source)


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    for path in site.rglob("*.html"):
        page = Loads()
        page.feed(path.read_text())
        assert page.found == [], path.name
    for path in site.rglob("*.css"):
        assert "url(http" not in path.read_text(), path.name


@contextmanager
def served(folder: Path) -> Iterator[str]:
    address = f"127.0.0.1:{free_port()}"
    port = address.rpartition(":")[2]
    command = [sys.executable, "-m", "http.server", port, "--bind", "127.0.0.1", "-d", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ)
    try:
        yield address
    finally:
        process.kill()
        process.wait()


@with_chromium
async def test_it_reads_on_a_phone_and_on_a_desk(site: Path, tmp_path: Path) -> None:
    with served(site) as address:
        async with browser(tmp_path / "chromium", {"site.example": address}, []) as page:
            wide, strange = {}, set()
            for width in (PHONE, DESK):
                await page.call(
                    "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
                )
                for path in sorted(site.rglob("*.html")):
                    name = path.relative_to(site).as_posix()
                    await page.open(f"http://site.example/{name}#")
                    needed = await page.run("document.documentElement.scrollWidth")
                    if needed > width:
                        wide[name] = needed
                    asked = await page.run("JSON.stringify(performance.getEntriesByType('resource').map(x => x.name))")
                    strange |= {each for each in json.loads(asked) if not each.startswith("http://site.example/")}
            assert wide == {}, "wider than its window"
            assert strange == set()
