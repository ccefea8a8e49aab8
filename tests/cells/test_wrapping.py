"""A wrapped key opens under its own key-encryption key, for its own owner, and a domain has one such key for good."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest

from domicile.cells.keys.wrapping import KeyEncryptionKey, settle
from domicile.model import InvalidInput, Unavailable

ONE, TWO = UUID(int=1), UUID(int=2)
ALICE, BOB = UUID(int=3), UUID(int=4)
SECRET, KEYS = b"k" * 32, b"d" * 64
KEK = KeyEncryptionKey(SECRET, "eu", "default")


def test_what_was_wrapped_opens_for_its_owner() -> None:
    wrapped = KEK.wrap_data_key(ONE, ALICE, KEYS)
    assert KEYS not in wrapped
    assert KEK.unwrap_data_key(ONE, ALICE, wrapped) == KEYS
    assert wrapped != KEK.wrap_data_key(ONE, ALICE, KEYS)


@pytest.mark.parametrize(
    "kek",
    [
        KeyEncryptionKey(b"x" * 32, "eu", "default"),
        KeyEncryptionKey(SECRET, "us", "default"),
        KeyEncryptionKey(SECRET, "eu", "customer"),
        KeyEncryptionKey(SECRET, "eud", "efault"),
    ],
)
def test_another_secret_jurisdiction_or_domain_opens_nothing(kek: KeyEncryptionKey) -> None:
    assert kek.check_value != KEK.check_value
    with pytest.raises(Unavailable):
        kek.unwrap_data_key(ONE, ALICE, KEK.wrap_data_key(ONE, ALICE, KEYS))
    with pytest.raises(Unavailable):
        kek.unwrap_index_key("eu-1", KEK.wrap_index_key("eu-1", SECRET))


def test_another_owner_opens_nothing() -> None:
    wrapped = KEK.wrap_data_key(ONE, ALICE, KEYS)
    for subject, principal in ((TWO, ALICE), (ONE, BOB)):
        with pytest.raises(Unavailable):
            KEK.unwrap_data_key(subject, principal, wrapped)
    with pytest.raises(Unavailable):
        KEK.unwrap_index_key("eu-2", KEK.wrap_index_key("eu-1", SECRET))
    with pytest.raises(Unavailable):
        KEK.unwrap_index_key("eu-1", wrapped)
    for cut in (b"", wrapped[:11], wrapped[:-1], wrapped[:-1] + bytes([wrapped[-1] ^ 1])):
        with pytest.raises(Unavailable):
            KEK.unwrap_data_key(ONE, ALICE, cut)


def test_a_new_domain_gets_a_key_and_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "state" / "kek.key"
    made = settle(path, "eu", "default", None)
    # a start that ended between the file and the database's record of it takes the file up again
    assert settle(path, "eu", "default", None).check_value == made.check_value
    assert settle(path, "eu", "default", made.check_value).check_value == made.check_value


def test_a_known_domain_never_gets_another_key(tmp_path: Path) -> None:
    path = tmp_path / "kek.key"
    with pytest.raises(InvalidInput, match="missing"):
        settle(path, "eu", "default", KEK.check_value)
    assert not path.exists()
    path.write_bytes(b"x" * 32)
    with pytest.raises(InvalidInput, match="not the key-encryption key"):
        settle(path, "eu", "default", KEK.check_value)
    path.write_bytes(SECRET)
    with pytest.raises(InvalidInput, match="not the key-encryption key"):
        settle(path, "us", "default", KEK.check_value)
