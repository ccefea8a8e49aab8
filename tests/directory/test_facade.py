"""What the room shows the others, and that the rest of it is its own."""

from __future__ import annotations

import domicile.directory


def test_the_facade_is_frozen() -> None:
    assert sorted(domicile.directory.__all__) == ["DirectorySettings", "serve_directory"]
