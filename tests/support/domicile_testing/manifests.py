"""A manifest that loads, to be changed by a test, and why a changed one does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from domicile.model import ManifestError, parse_manifest
from domicile_testing.routing import manifest_data


def valid() -> dict[str, Any]:
    return manifest_data(Path("trust"))


def problems_of(data: dict[str, Any]) -> list[tuple[str, str]]:
    """Path and reason of each; fails where there are none."""
    with pytest.raises(ManifestError) as caught:
        parse_manifest(data)
    return [(problem.path, problem.reason) for problem in caught.value.problems]
