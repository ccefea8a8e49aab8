"""Which methods change nothing: what decides on a subject in the middle of a move, and on a second attempt."""

from __future__ import annotations

from typing import Final

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
"""RFC 9110, 9.2.1, without TRACE, which is not served."""
