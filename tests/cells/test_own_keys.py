"""A wrapped key opens under its own key-encryption key, for its own owner, and a version is one key for good."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from uuid import UUID

import pytest

from domicile.cells.keys.holders import Plain, Wrapped, data_key_context, index_key_context
from domicile.cells.keys.own import OwnHolder
from domicile.identity.wrapping import KeyEncryptionKey
from domicile.model import InvalidInput, Unavailable

ONE, TWO = UUID(int=1), UUID(int=2)
ALICE, BOB = UUID(int=3), UUID(int=4)
SECRET, KEYS = b"k" * 32, b"d" * 64
KEK = KeyEncryptionKey(SECRET, "eu", "default")
HERS = data_key_context("eu", "default", ONE, ALICE)


class Register:
    """What the key store's database records of versions."""

    def __init__(self) -> None:
        self.recorded: dict[int, bytes] = {}

    async def keks(self, domain: str) -> Mapping[int, bytes]:
        return dict(self.recorded)

    async def add_kek(self, domain: str, version: int, check_value: bytes) -> None:
        self.recorded.setdefault(version, check_value)


async def started(folder: Path, register: Register, jurisdiction: str = "eu") -> OwnHolder:
    holder = OwnHolder(folder, jurisdiction, "default", register)
    await holder.start()
    return holder


def test_what_was_wrapped_opens_for_its_owner() -> None:
    wrapped = KEK.wrap(KEYS, HERS)
    assert KEYS not in wrapped
    assert KEK.unwrap(wrapped, HERS) == KEYS
    assert wrapped != KEK.wrap(KEYS, HERS)


@pytest.mark.parametrize(
    "context",
    [
        data_key_context("eu", "default", TWO, ALICE),
        data_key_context("eu", "default", ONE, BOB),
        data_key_context("us", "default", ONE, ALICE),
        data_key_context("eu", "customer", ONE, ALICE),
        data_key_context("eud", "efault", ONE, ALICE),
        index_key_context("eu", "default", "eu-1"),
        b"",
    ],
)
def test_another_owner_jurisdiction_or_domain_opens_nothing(context: bytes) -> None:
    with pytest.raises(Unavailable):
        KEK.unwrap(KEK.wrap(KEYS, HERS), context)


def test_another_key_or_a_damaged_value_opens_nothing() -> None:
    wrapped = KEK.wrap(KEYS, HERS)
    with pytest.raises(Unavailable):
        KeyEncryptionKey(b"x" * 32, "eu", "default").unwrap(wrapped, HERS)
    for cut in (b"", wrapped[:11], wrapped[:-1], wrapped[:-1] + bytes([wrapped[-1] ^ 1])):
        with pytest.raises(Unavailable):
            KEK.unwrap(cut, HERS)
    checks = {KeyEncryptionKey(SECRET, *scope).check_value for scope in (("eu", "default"), ("us", "default"))}
    checks |= {KeyEncryptionKey(b"x" * 32, "eu", "default").check_value}
    assert len(checks) == 3


async def test_a_new_domain_gets_a_key_and_keeps_it(tmp_path: Path) -> None:
    folder, register = tmp_path / "kek", Register()
    (wrapped,) = await (await started(folder, register)).wrap([Plain(HERS, KEYS)])
    assert wrapped.version == 1
    # a start that ended between the file and the database's record of it takes the file up again
    forgotten = Register()
    assert await (await started(folder, forgotten)).unwrap([wrapped]) == [KEYS]
    assert forgotten.recorded == register.recorded
    assert (folder / "1.key").stat().st_mode & 0o777 == 0o600


async def test_a_recorded_version_never_gets_another_key(tmp_path: Path) -> None:
    register, path = Register(), tmp_path / "1.key"
    register.recorded[1] = KEK.check_value
    with pytest.raises(InvalidInput, match="missing"):
        await started(tmp_path, register)
    assert not path.exists()
    path.write_bytes(b"x" * 32)
    with pytest.raises(InvalidInput, match="not the key-encryption key"):
        await started(tmp_path, register)
    path.write_bytes(SECRET)
    with pytest.raises(InvalidInput, match="not the key-encryption key"):
        await started(tmp_path, register, "us")
    await started(tmp_path, register)


async def test_a_new_version_wraps_and_the_old_one_still_opens(tmp_path: Path) -> None:
    register = Register()
    one = await started(tmp_path, register)
    two = await started(tmp_path, register)
    (old,) = await one.wrap([Plain(HERS, KEYS)])
    version = await one.rotate()
    # the other process was never told
    assert await two.version() == version
    (new,) = await two.wrap([Plain(HERS, KEYS)])
    assert (old.version, new.version) == (1, version)
    assert await one.unwrap([old, new]) == await two.unwrap([new, old]) == [KEYS, KEYS]
    with pytest.raises(Unavailable):
        await one.unwrap([Wrapped(HERS, version, old.value)])


async def test_a_number_that_the_register_forgot_never_names_another_key(tmp_path: Path) -> None:
    """The key store is restored to before a rotation, and rotated again: at the same host, or at one that was not told.

    What was wrapped in the meantime, such as a backup's own key, opens under its number for good.
    """
    one, two = await on_two_hosts(tmp_path)
    await one.rotate()
    (lost,) = await one.wrap([Plain(HERS, KEYS)])
    restored = Register()
    restored.recorded = {1: (await one._register.keks("default"))[1]}
    again = await started(tmp_path / "a", restored)
    assert await again.version() == 1
    assert await again.rotate() == lost.version, "the file that is there is not made anew"
    assert await again.unwrap([lost]) == [KEYS]
    for number in range(3):
        folder = tmp_path / f"c{number}"
        folder.mkdir()
        (folder / "1.key").write_bytes((tmp_path / "b" / "1.key").read_bytes())
        elsewhere = Register()
        elsewhere.recorded = {1: restored.recorded[1]}
        assert await (await started(folder, elsewhere)).rotate() != lost.version
    two._register = restored
    with pytest.raises(InvalidInput, match="missing"):
        await two.unwrap([lost])


async def test_a_file_that_is_laid_out_for_all_hosts_is_the_next_version(tmp_path: Path) -> None:
    one, two = await on_two_hosts(tmp_path)
    for folder in ("a", "b"):
        (tmp_path / folder / "41.key").write_bytes(b"n" * 32)
        (tmp_path / folder / "40.key").write_bytes(b"m" * 32)
        (tmp_path / folder / "notes.key").write_bytes(b"no key")
    assert await one.rotate() == 40
    (wrapped,) = await one.wrap([Plain(HERS, KEYS)])
    assert await two.unwrap([wrapped]) == [KEYS]
    assert await two.rotate() == 41


async def on_two_hosts(folder: Path) -> tuple[OwnHolder, OwnHolder]:
    """Over one register, each with the first version's file in a folder of its own: ``a`` and ``b``."""
    register = Register()
    one = await started(folder / "a", register)
    (folder / "b").mkdir()
    (folder / "b" / "1.key").write_bytes((folder / "a" / "1.key").read_bytes())
    return one, await started(folder / "b", register)


async def test_a_process_without_the_new_version_s_file_says_so(tmp_path: Path) -> None:
    one, two = await on_two_hosts(tmp_path)
    name = f"{await one.rotate()}.key"
    (new,) = await one.wrap([Plain(HERS, KEYS)])
    with pytest.raises(InvalidInput, match="missing"):
        await two.unwrap([new])
    (tmp_path / "b" / name).write_bytes((tmp_path / "a" / name).read_bytes())
    assert await two.unwrap([new]) == [KEYS]


async def test_a_host_with_another_key_of_that_version_does_not_use_it(tmp_path: Path) -> None:
    one, two = await on_two_hosts(tmp_path)
    (tmp_path / "a" / "2.key").write_bytes(b"y" * 32)
    (tmp_path / "b" / "2.key").write_bytes(b"x" * 32)  # laid out there, too, and not the same
    assert await one.rotate() == 2
    for call in (two.wrap([Plain(HERS, KEYS)]), two.rotate()):
        with pytest.raises(InvalidInput, match="not the key-encryption key"):
            await call


async def test_rotations_at_once_in_one_process_are_one_after_the_other(tmp_path: Path) -> None:
    holder = await started(tmp_path, Register())
    first, second = await asyncio.gather(holder.rotate(), holder.rotate())
    assert 1 < first < second
