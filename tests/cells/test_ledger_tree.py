"""The tree over a ledger's lines: the published roots, and proofs that show what is so and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domicile.cells.ledger.tree import (
    EMPTY,
    Frontier,
    Node,
    consistency,
    consistent,
    covering,
    included,
    inclusion,
    leaf_hash,
    node_hash,
    root,
)

# the lines and roots that Certificate Transparency's own implementations are held to
LINES = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
ROOTS = """
    e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
    6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d
    fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125
    aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77
    d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7
    4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4
    76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef
    ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c
    5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328
""".split()
PATHS = {  # (index, size): the published audit paths
    (0, 8): """
        96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7
        5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e
        6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4
    """.split(),
    (5, 8): """
        bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b
        ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0
        d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7
    """.split(),
    (2, 3): ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
}
GROWTHS = {
    (6, 8): """
        0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a
        ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0
        d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7
    """.split(),
    (2, 5): """
        5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e
        bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b
    """.split(),
}


def hashes_of(leaves: list[bytes]):  # type: ignore[no-untyped-def]
    """By the definition, straight from the leaves."""

    def found(node: Node) -> bytes:
        level, index = node
        if level == 0:
            return leaves[index]
        return node_hash(found((level - 1, 2 * index)), found((level - 1, 2 * index + 1)))

    return found


LEAVES = [leaf_hash(bytes.fromhex(line)) for line in LINES]


@pytest.mark.parametrize("size", range(9))
def test_the_roots_are_the_published_ones(size: int) -> None:
    frontier = Frontier()
    for leaf in LEAVES[:size]:
        frontier.add(leaf)
    assert root(size, hashes_of(LEAVES)).hex() == frontier.root.hex() == ROOTS[size]


@pytest.mark.parametrize("index", PATHS)
def test_the_audit_paths_are_the_published_ones(index: tuple[int, int]) -> None:
    assert [each.hex() for each in inclusion(*index, hashes_of(LEAVES))] == PATHS[index]


@pytest.mark.parametrize("sizes", GROWTHS)
def test_the_consistency_proofs_are_the_published_ones(sizes: tuple[int, int]) -> None:
    assert [each.hex() for each in consistency(*sizes, hashes_of(LEAVES))] == GROWTHS[sizes]


MANY = [leaf_hash(str(number).encode()) for number in range(67)]
FOUND = hashes_of(MANY)
TREES = [root(size, FOUND) for size in range(68)]


def test_every_line_of_every_tree_is_proved_and_no_other_is() -> None:
    for size in range(1, 68):
        for index in range(size):
            proof = inclusion(index, size, FOUND)
            assert included(MANY[index], index, size, proof, TREES[size])
            assert not included(MANY[index], (index + 1) % size, size, proof, TREES[size]) or size == 1
            assert not included(leaf_hash(b"other"), index, size, proof, TREES[size])
            assert not included(MANY[index], index, size, [*proof, EMPTY], TREES[size])


def test_every_growth_is_proved_and_no_other_is() -> None:
    for size in range(68):
        for before in range(size + 1):
            proof = consistency(before, size, FOUND)
            assert consistent(before, size, TREES[before], TREES[size], proof)
            if 0 < before < size:
                assert not consistent(before, size, TREES[before - 1], TREES[size], proof)
                assert not consistent(before, size, TREES[before], TREES[size - 1], proof)
                assert not consistent(before, size, TREES[before], TREES[size], proof[:-1])
                assert not consistent(before, size, TREES[before], TREES[size], [*proof, EMPTY])
                assert not consistent(size, before, TREES[size], TREES[before], proof)


@given(st.lists(st.binary(max_size=4), min_size=1, max_size=40), st.data())
@settings(max_examples=60, deadline=None)
def test_a_line_that_is_changed_added_or_lost_makes_another_tree(lines: list[bytes], data: st.DataObject) -> None:
    leaves = [leaf_hash(line) for line in lines]
    before = data.draw(st.integers(1, len(leaves)))
    at = data.draw(st.integers(0, before - 1))
    other = [*leaves[:at], leaf_hash(b"another line"), *leaves[at + 1 :]]
    held, told = root(before, hashes_of(leaves)), root(len(other), hashes_of(other))
    proof = consistency(before, len(other), hashes_of(other))
    assert not consistent(before, len(other), held, told, proof)
    lost = leaves[:at] + leaves[at + 1 :]
    assert root(len(lost), hashes_of(lost)) != root(len(leaves), hashes_of(leaves))


@given(st.integers(0, 5000), st.integers(0, 300))
@settings(max_examples=100, deadline=None)
def test_a_frontier_goes_on_from_what_was_kept_of_it(size: int, more: int) -> None:
    nodes = covering(0, size)
    assert sum(1 << level for level, _ in nodes) == size
    grown = Frontier()
    for number in range(min(size, 300) + more % 20):
        grown.add(leaf_hash(bytes([number % 251])))
    resumed = Frontier(grown.size, grown.hashes)
    for tree in (grown, resumed):
        tree.add(leaf_hash(b"last"))
    assert grown.root == resumed.root


@pytest.mark.parametrize(("size", "hashes"), [(1, []), (2, [b"x" * 32] * 2), (1, [b"x"])])
def test_a_frontier_that_is_none_is_refused(size: int, hashes: list[bytes]) -> None:
    with pytest.raises(ValueError, match="edge"):
        Frontier(size, hashes)
