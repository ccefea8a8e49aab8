"""What docs/router.md shows as a manifest loads as one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from domicile_testing.manifests import valid

from domicile.model import parse_manifest, read_yaml

PAGE = (Path(__file__).parents[2] / "docs" / "router.md").read_text()
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


def merged(into: dict[str, Any], block: dict[str, Any]) -> dict[str, Any]:
    for name, value in block.items():
        known = into.get(name)
        into[name] = merged(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return into


@pytest.mark.parametrize("number", range(4))
def test_every_fragment_is_part_of_a_manifest_that_loads(number: int) -> None:
    assert len(BLOCKS) == 4
    block = read_yaml(BLOCKS[number])
    assert isinstance(block, dict)
    parse_manifest(merged(valid(), block))
