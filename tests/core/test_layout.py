"""The namespace stays one: a file that mypy would not miss breaks every other distribution."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ["core", "sdk", "directory", "router", "cells", "ops"]


@pytest.mark.parametrize("room", ROOMS)
def test_no_init_lies_directly_under_the_namespace(room: str) -> None:
    namespace = ROOT / room / "src" / "domicile"
    assert namespace.is_dir()
    assert not (namespace / "__init__.py").exists()
