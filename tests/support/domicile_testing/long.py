"""How long the long form of a test goes on: a share of what `make test-full FULL_SECONDS=...` was given."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from typing import Final

import pytest


def full_seconds() -> float:
    """What all long forms together were given."""
    return float(os.environ.get("DOMICILE_TEST_SECONDS", "300"))


MINUTES: Final = pytest.mark.skipif(
    full_seconds() < 300, reason="takes minutes by itself: make test-full FULL_SECONDS=300, or more"
)
"""Of a test that starts whole worlds with standbys, or builds what is released: no bounded run has the time."""


def long_form(share: float) -> Callable[[], bool]:
    """Whether there is time for another round; ``share`` of all the seconds, counted from now."""
    deadline = time.monotonic() + share * full_seconds()
    return lambda: time.monotonic() < deadline


def seeded() -> random.Random:
    """Chance of another seed each time; a failed test's output names it."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    return random.Random(seed)
