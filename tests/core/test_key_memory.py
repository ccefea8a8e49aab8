"""Memory for keys: locked where the platform allows, and wiped before somebody else's lie there."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from domicile.client.memory import LockedSlots


def test_a_slot_is_wiped_before_the_next_secret_lies_in_it() -> None:
    slots = LockedSlots(2, 4)
    first, second = slots.put(b"aaaa"), slots.put(b"bbbb")
    assert (slots.get(first), slots.get(second)) == (b"aaaa", b"bbbb")
    with pytest.raises(IndexError):
        slots.put(b"cccc")
    slots.wipe(first)
    assert (slots.get(first), slots.get(second)) == (bytes(4), b"bbbb")
    assert slots.put(b"cccc") == first
    assert slots.get(second) == b"bbbb"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells how much is locked")
def test_it_is_locked_where_the_platform_allows() -> None:
    def locked_kib() -> int:
        (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmLck")]
        return int(line.split()[1])

    before = locked_kib()
    slots = LockedSlots(1024, 64)
    allowed = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    if slots.locked:
        assert locked_kib() - before == 64
    else:
        assert allowed != resource.RLIM_INFINITY
