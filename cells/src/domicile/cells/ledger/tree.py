"""The Merkle tree over a ledger's lines: roots, and proofs that a line is in it and that it only ever grew.

Hashes and proofs are those of RFC 9162, section 2.1 (RFC 6962's): a leaf is SHA-256 of 0x00 and the line, a node
SHA-256 of 0x01 and its two children. Our own, since the one library that is kept up (``pymerkle``) is under the GPL,
reads its storage synchronously, and pins a cache; its proofs are a few lines of arithmetic here, held to the published
vectors and to each other by tests. Pure: whoever asks for a proof brings the hashes of whole subtrees.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeAlias

HASH_BYTES: Final = 32
EMPTY: Final = hashlib.sha256().digest()
"""The root of a tree without lines."""
Node: TypeAlias = tuple[int, int]
"""(level, index): the whole subtree over the ``2**level`` leaves from ``index * 2**level``."""
Hashes: TypeAlias = Callable[[Node], bytes]


def leaf_hash(line: bytes) -> bytes:
    return hashlib.sha256(b"\0" + line).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()


def covering(start: int, end: int) -> list[Node]:
    """The whole subtrees that the tree over the leaves from ``start`` to ``end`` is made of, from left to right.

    ``start`` is where a subtree of the greater tree begins: a multiple of the power of two at or above the length.
    """
    nodes: list[Node] = []
    while start < end:
        level = (end - start).bit_length() - 1
        nodes.append((level, start >> level))
        start += 1 << level
    return nodes


def _folded(hashes: Sequence[bytes]) -> bytes:
    """Of subtrees that grow smaller from left to right."""
    if not hashes:
        return EMPTY
    *rest, found = hashes
    for left in reversed(rest):
        found = node_hash(left, found)
    return found


def _subroot(start: int, end: int, hashes: Hashes) -> bytes:
    return _folded([hashes(node) for node in covering(start, end)])


def root(size: int, hashes: Hashes) -> bytes:
    """Of the tree over the first ``size`` lines."""
    return _subroot(0, size, hashes)


def _split(count: int) -> int:
    """The largest power of two below ``count``, which is two at least."""
    return 1 << (count - 1).bit_length() - 1


def inclusion(index: int, size: int, hashes: Hashes) -> list[bytes]:
    """The proof that the line at ``index`` is in the tree of ``size`` lines (RFC 9162, 2.1.3.1)."""
    return [_subroot(start, end, hashes) for start, end in inclusion_parts(index, size)]


def inclusion_parts(index: int, size: int) -> list[tuple[int, int]]:
    """Which leaves (from, to) each hash of the proof is over. Raises ValueError for a line that isn't in the tree."""
    if not 0 <= index < size:
        raise ValueError(f"no line {index} in {size}")
    parts: list[tuple[int, int]] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            parts.append((middle, end))
            end = middle
        else:
            parts.append((start, middle))
            start = middle
    return parts[::-1]


def consistency(before: int, size: int, hashes: Hashes) -> list[bytes]:
    """The proof that the tree of ``size`` lines begins with that of ``before`` lines (RFC 9162, 2.1.4.1)."""
    return [_subroot(start, end, hashes) for start, end in consistency_parts(before, size)]


def consistency_parts(before: int, size: int) -> list[tuple[int, int]]:
    """As ``inclusion_parts``. None for an empty or the same tree. Raises ValueError for one that is no smaller."""
    if not 0 <= before <= size:
        raise ValueError(f"{before} lines are not the beginning of {size}")
    if before in (0, size):
        return []
    parts: list[tuple[int, int]] = []
    start, end, whole = 0, size, True
    while end != before:  # of the part that holds the end of the earlier tree
        middle = start + _split(end - start)
        if before <= middle:
            parts.append((middle, end))
            end = middle
        else:
            parts.append((start, middle))
            start, whole = middle, False
    if not whole:
        parts.append((start, end))
    return parts[::-1]


def included(leaf: bytes, index: int, size: int, proof: Sequence[bytes], tree: bytes) -> bool:
    """Whether the proof shows that the leaf is at ``index`` of the tree (RFC 9162, 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    place, last, found = index, size - 1, leaf
    for step in proof:
        if last == 0:
            return False
        if place & 1 or place == last:
            found = node_hash(step, found)
            while not place & 1 and place:
                place >>= 1
                last >>= 1
        else:
            found = node_hash(found, step)
        place >>= 1
        last >>= 1
    return last == 0 and found == tree


def consistent(before: int, size: int, earlier: bytes, later: bytes, proof: Sequence[bytes]) -> bool:
    """Whether the proof shows that one tree grew from the other (RFC 9162, 2.1.4.2)."""
    if before == size:
        return not proof and earlier == later
    if before == 0:
        return not proof and earlier == EMPTY
    if not 0 < before < size:
        return False
    path = list(proof) if before & (before - 1) else [earlier, *proof]  # a power of two is a subtree itself
    if not path:
        return False
    place, last = before - 1, size - 1
    while place & 1:
        place >>= 1
        last >>= 1
    first = second = path[0]
    for step in path[1:]:
        if last == 0:
            return False
        if place & 1 or place == last:
            first, second = node_hash(step, first), node_hash(step, second)
            while not place & 1 and place:
                place >>= 1
                last >>= 1
        else:
            second = node_hash(second, step)
        place >>= 1
        last >>= 1
    return last == 0 and first == earlier and second == later


class Frontier:
    """A tree that lines are added to, of which only the whole subtrees at its edge are kept: ``log2(size)`` hashes."""

    def __init__(self, size: int = 0, hashes: Iterable[bytes] = ()) -> None:
        """``hashes``: of the subtrees in ``covering(0, size)``. Raises ValueError for another number of them."""
        self.size = size
        self.hashes = list(hashes)
        if len(self.hashes) != size.bit_count() or any(len(each) != HASH_BYTES for each in self.hashes):
            raise ValueError("not the edge of a tree of this size")

    def add(self, leaf: bytes) -> None:
        found, size = leaf, self.size
        while size & 1:
            found = node_hash(self.hashes.pop(), found)
            size >>= 1
        self.hashes.append(found)
        self.size += 1

    @property
    def root(self) -> bytes:
        return _folded(self.hashes)
