"""A database node cut off from everybody by a packet filter, while all of its processes run.

The kernel knows by its control group whose socket a packet comes from and whose it goes to: within the node it passes,
across its border it is dropped, in both directions, of connections that are open already too. On one machine no
address could tell that: whatever goes out by loopback comes from the same one.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from domicile.model.errors import Unavailable

GROUPS: Final = Path("/sys/fs/cgroup")
"""Below which the packet filter names control groups."""
_MARK: Final = 0x646F6D00
_LEVEL: Final = 2
"""Of a node's group, counted from the root of all groups."""


def table_of(groups: Path) -> str:
    return groups.name.replace("-", "_")


def rules(groups: Path, nodes: Sequence[str]) -> str:
    """What nft reads: each of ``nodes`` alone. A SYN with ACK passes, as it belongs to no whole socket yet; it answers
    a SYN, which did not pass."""
    marking, dropping = [], []
    for number, node in enumerate(nodes):
        group = f'socket cgroupv2 level {_LEVEL} {{}}"{groups.relative_to(GROUPS) / node}"'
        mark = f"{_MARK + number:#x}"
        marking.append(f"{group.format('')} meta mark set {mark}")
        dropping += [
            f"{group.format('')} meta mark != {mark} drop",
            f"meta mark {mark} {group.format('!= ')} drop",
        ]
    lines = [
        f"table inet {table_of(groups)} {{",
        "chain out { type filter hook output priority 0; policy accept;",
        *marking,
        "}",
        "chain in { type filter hook input priority 0; policy accept;",
        "tcp flags & (syn | ack) == (syn | ack) accept",
        *dropping,
        "}",
        "}",
    ]
    return "\n".join(lines) + "\n"


def cut(groups: Path, nodes: Sequence[str]) -> None:
    """Raises Unavailable."""
    _nft(["-f", "-"], rules(groups, nodes))


def mend(groups: Path) -> None:
    """Harmless where nothing is cut."""
    _nft(["-f", "-"], f"table inet {table_of(groups)}\ndelete table inet {table_of(groups)}\n")


def _nft(arguments: list[str], text: str) -> None:
    try:
        done = subprocess.run(["nft", *arguments], input=text, capture_output=True, text=True, check=False, timeout=30)
    except FileNotFoundError:
        raise Unavailable("is not installed (Debian: apt-get install nftables)", where="nft") from None
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["no reason given"])[0]
        raise Unavailable(f"the packet filter refused: {said}", where="nft")
