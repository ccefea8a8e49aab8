"""Every block that a page tells a reader to run is claimed by a test that runs it, or by a reason why none does.

A new block fails here until somebody has written its line. What a claim names is there, and reads the page.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

import pytest
from domicile_testing.documentation import ROOT, blocks, name_of, pages


class Unrun(NamedTuple):
    """``why`` no test runs the block. Its programs and options are checked all the same (test_programs)."""

    why: str


_PAGES: Final = "tests/docs/test_developer_pages.py::test_the_pages_for_application_developers"
_WORLD: Final = "tests/system/test_docs.py"
_OPERATORS: Final = "tests/system/test_operator_pages.py"
_ENGINE: Final = Unrun("needs a database of the reader's own; tests/directory/test_engines_page.py checks each setting")
REGISTER: Final[dict[str, list[str | Unrun]]] = {
    "README.md": ["tests/system/test_demo.py::test_every_step_happens_as_expected"],
    "CONTRIBUTING.md": [
        "tests/docs/test_site.py::test_it_is_built_without_a_warning",
        Unrun("records two minutes of the demo; tests/docs/test_recording.py draws from a small program"),
    ],
    "index.md": [f"{_WORLD}::test_the_way_from_a_clone_to_the_report_of_a_drill"],
    "local-world.md": [f"{_WORLD}::test_the_page_on_the_local_world"] * 2,
    "first-record.md": [_PAGES],
    "classification.md": [_PAGES],
    "queries.md": [_PAGES],
    "abroad.md": [_PAGES],
    "testing.md": [_PAGES],
    "application.md": [f"{_WORLD}::test_the_page_on_writing_an_application"],
    "background-jobs.md": [f"{_WORLD}::test_the_page_on_background_jobs"],
    "edge.md": [f"{_WORLD}::test_the_page_on_edges"],
    "router.md": [f"{_WORLD}::test_the_page_on_the_router"],
    "observe.md": [f"{_OPERATORS}::shell", *[f"{_OPERATORS}::test_observe"] * 2],
    "drills.md": [
        Unrun("index.md has the same commands, and a test runs them"),
        Unrun("a game day is 20 minutes; tests/system/test_drills.py plays one of three, and recovers a killed one"),
    ],
    "scaling.md": ["tests/bench/test_scaling.py::test_the_commands_of_the_page"],
    "load.md": [
        Unrun("minutes of load each; tests/load/test_run.py runs the same program on a real world for some seconds"),
        Unrun("minutes of load; tests/load/test_people.py reads such a file, and refuses wrong ones"),
    ],
    "upgrade.md": [f"{_OPERATORS}::test_an_upgrade"],
    "rotation.md": [
        *["tests/system/test_pepper_rotation.py::test_everybody_is_found_before_amid_and_after_a_rotation"] * 4,
        f"{_OPERATORS}::test_a_signing_key_is_taken_out",
    ],
    "backup.md": [
        f"{_WORLD}::test_the_page_on_backups",
        Unrun("its directory has lost every backup; tests/directory/test_rebuild.py rebuilds a map, the drill "
              "lose-directory a world's"),
    ],
    "pins.md": [f"{_OPERATORS}::test_the_map_of_pins"] * 2,
    "directory-engines.md": [_ENGINE, _ENGINE],
    "kubernetes.md": ["tests/k8s/test_section.py::test_the_page"],
    "performance.md": [Unrun("tens of minutes on a machine that nobody else uses; tests/bench tries its parts")],
    "keys.md": [
        "tests/cells/test_kek_rotation.py::test_the_page_on_keys_rotates_by_its_commands",
        "tests/cells/test_rotation_commands.py::test_the_page_on_keys_rotates_data_keys_by_its_commands",
        f"{_OPERATORS}::test_an_erasure",
        "tests/ops/test_audit_scan.py::test_what_the_pages_show_runs",
    ],
    "scan.md": ["tests/ops/test_audit_scan.py::test_what_the_pages_show_runs"],
    "border.md": [f"{_WORLD}::test_the_page_on_the_border"] * 3,
    "ledger.md": [f"{_OPERATORS}::test_the_ledger"],
}  # fmt: skip


def test_every_block_is_claimed() -> None:
    found = {name_of(page): len(blocks(page)) for page in pages() if blocks(page)}
    claimed = {name: len(claims) for name, claims in REGISTER.items()}
    assert found == claimed, "a block was added or taken away: claim it in REGISTER, by a test that runs it"


@pytest.mark.parametrize("page", sorted(REGISTER))
def test_what_claims_it_is_there_and_names_the_page(page: str) -> None:
    for claim in REGISTER[page]:
        if isinstance(claim, Unrun):
            assert len(claim.why) > 30
            for path in re.findall(r"tests/[\w/]+(?:\.py)?", claim.why):
                assert (ROOT / path).exists(), path
            continue
        path, _, name = claim.partition("::")
        source = (ROOT / path).read_text()
        assert re.search(rf"^(async )?def {name}\(", source, re.MULTILINE), claim
        # README's is the command itself
        assert page in source or page.removesuffix(".md") in source or page == "README.md", (
            f"{path} does not read {page}"
        )


def test_most_are_run() -> None:
    claims = [claim for each in REGISTER.values() for claim in each]
    assert sum(isinstance(claim, Unrun) for claim in claims) <= len(claims) / 4
