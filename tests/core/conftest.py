"""A deployment's authorities, made once: certificates are issued for each test anew."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from domicile_testing import Trust


@pytest.fixture(scope="session")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    return Trust.create(tmp_path_factory.mktemp("trust"))


@pytest.fixture
def logging_as_before() -> Iterator[None]:
    """Undo what ``configure_logs`` does to the whole process."""
    root, ours = logging.getLogger(), logging.getLogger("domicile")
    handlers, levels = root.handlers[:], (root.level, ours.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])
    logging.captureWarnings(False)
