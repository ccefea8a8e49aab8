"""File descriptors: each connection takes one, and a process is often allowed fewer than its settings speak of.

What clients may take is bounded before they have all of them: without any left, nobody is accepted, no home is
reached, and healthy endpoints look as if they had failed.
"""

from __future__ import annotations

import resource
from typing import Final

UNSORTED: Final = 1024
"""Connections, at most, that have not said yet whose they are."""


def raise_limit() -> int:
    """Take all that this process may have; how many files that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (ValueError, OSError):  # macOS calls more unlimited than it grants
            return soft
    return hard if hard != resource.RLIM_INFINITY else 1 << 30


def share_out(limit: int) -> tuple[int, int]:
    """How many clients there may be, and how many of whom it is not known yet. Pure.

    Half of all, and a quarter: what is left is for homes, a spliced connection's other side, and the router's own.
    """
    return max(1, limit // 2), max(1, min(UNSORTED, limit // 4))
