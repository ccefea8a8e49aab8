"""Memory for keys that are held for a while: locked, so that it is never swapped out, and wiped when given back.

Locking (mlock, POSIX) and keeping out of core files (MADV_DONTDUMP, Linux) are the platform's; where it refuses, keys
are held all the same and ``locked`` says so. A copy that is in use at the moment is Python's and lies where it likes.
"""

from __future__ import annotations

import ctypes
import mmap
from typing import Final

_MADV_DONTDUMP: Final = getattr(mmap, "MADV_DONTDUMP", None)


class LockedSlots:
    """``count`` places for ``size`` bytes each. ``put`` where none is free is an IndexError: evict first."""

    def __init__(self, count: int, size: int) -> None:
        self._size = size
        self._memory = mmap.mmap(-1, count * size)
        self._free = list(range(count))
        self.locked = _lock(self._memory)

    def put(self, secret: bytes) -> int:
        assert len(secret) == self._size
        slot = self._free.pop()
        self._memory[slot * self._size : (slot + 1) * self._size] = secret
        return slot

    def get(self, slot: int) -> bytes:
        return self._memory[slot * self._size : (slot + 1) * self._size]

    def wipe(self, slot: int) -> None:
        self._memory[slot * self._size : (slot + 1) * self._size] = bytes(self._size)
        self._free.append(slot)


def _lock(memory: mmap.mmap) -> bool:
    if _MADV_DONTDUMP is not None:
        memory.madvise(_MADV_DONTDUMP)
    try:
        mlock = ctypes.CDLL(None, use_errno=True).mlock
    except (AttributeError, OSError, TypeError):
        return False
    place = ctypes.c_char.from_buffer(memory)
    return bool(mlock(ctypes.c_void_p(ctypes.addressof(place)), ctypes.c_size_t(len(memory))) == 0)
