"""What a process of this machine holds in its memory, read as a debugger would (proc(5), /proc/PID/mem)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

CHUNK = 4 << 20


def regions(pid: int) -> Iterator[tuple[int, int]]:
    """Start and end of each readable region; those of the kernel's own hold nothing of the process."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        span, rights, *rest = line.split(maxsplit=5)
        if rights.startswith("r") and not (len(rest) == 4 and rest[3] in ("[vvar]", "[vsyscall]", "[vvar_vclock]")):
            start, _, end = span.partition("-")
            yield int(start, 16), int(end, 16)


def found_in_memory(pid: int, patterns: Iterable[bytes]) -> tuple[set[bytes], int]:
    """Which of the patterns a process holds anywhere, and how many bytes were read.

    Raises PermissionError where this user may not look.
    """
    wanted = set(patterns)
    longest = max(map(len, wanted))
    found: set[bytes] = set()
    total = 0
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for start, end in regions(pid):
            tail = b""
            for position in range(start, end, CHUNK):
                try:
                    memory.seek(position)
                    content = memory.read(min(CHUNK, end - position))
                except (OSError, OverflowError):  # unmapped meanwhile, or never backed by memory
                    break
                total += len(content)
                found |= {pattern for pattern in wanted if pattern in tail + content}
                tail = content[-longest:]
    return found, total
