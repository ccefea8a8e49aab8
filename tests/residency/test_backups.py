"""A backup of ``eu``, carried to ``us``: refused by the target, by the head and by the keys, each on its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from domicile_testing.good_manifest import changed

from domicile.model import ManifestError, Unavailable, WrongJurisdiction, parse_manifest
from domicile.ops.backup.keys import FileKeys, Keyring
from domicile.ops.backup.sealed import MAGIC
from domicile.ops.backup.store import Store
from domicile.ops.backup.targets import FolderTarget, Owner

CANARY = b"canary-41ce@example.org"
NAME = "eu-1/7/log/000000010000000000000001"


def owner(jurisdiction: str) -> Owner:
    return Owner(deployment="acme", jurisdiction=jurisdiction)


def store(folder: Path, jurisdiction: str, target: str) -> Store:
    """Of a cell ``eu-1``, by the keys of ``jurisdiction``."""
    keys = FileKeys(folder / "keys" / jurisdiction, jurisdiction, own=True)
    where = FolderTarget(folder / target, owner(jurisdiction)).adopt()
    return Store(where, Keyring(keys, "acme", jurisdiction), owner(jurisdiction), "eu-1")


@pytest.fixture
async def carried(tmp_path: Path) -> Path:
    """``us``'s target, with ``eu``'s backup in it as it was copied there."""
    home = store(tmp_path, "eu", "eu")
    key = await home.key()
    with home.writing(NAME, "7", key) as stream:
        stream.write(CANARY * 10_000)
    abroad = store(tmp_path, "us", "us")
    await abroad.key()
    place = tmp_path / "us" / NAME
    place.parent.mkdir(parents=True)
    (tmp_path / "eu" / NAME).rename(place)
    return place


async def test_its_bytes_show_nothing(carried: Path) -> None:
    assert CANARY not in carried.read_bytes()


async def test_its_target_takes_nobody_elses(carried: Path, tmp_path: Path) -> None:
    with pytest.raises(WrongJurisdiction):
        store(tmp_path, "us", "eu")


async def test_its_head_is_refused_before_anybody_is_asked_for_a_key(carried: Path, tmp_path: Path) -> None:
    with pytest.raises(WrongJurisdiction, match="a backup of eu of acme is not opened in us"):
        async with store(tmp_path, "us", "us").reading(NAME):
            pass


async def test_a_head_that_lies_opens_nothing(carried: Path, tmp_path: Path) -> None:
    """Labelled ``us``, which anybody can write: its key was wrapped by another key-encryption key, for ``eu``."""
    raw = carried.read_bytes()
    forged = raw.replace(b'"jurisdiction":"eu"', b'"jurisdiction":"us"', 1)
    assert forged != raw
    assert forged.startswith(MAGIC)
    carried.write_bytes(forged)
    with pytest.raises(Unavailable, match="does not open under version 1"):
        async with store(tmp_path, "us", "us").reading(NAME):
            pass
    # not even with eu's own file, brought along
    (tmp_path / "keys" / "us" / "1.key").write_bytes((tmp_path / "keys" / "eu" / "1.key").read_bytes())
    with pytest.raises(Unavailable, match="does not open under version 1"):
        async with store(tmp_path, "us", "us").reading(NAME):
            pass


EU = {"country": "DE", "folder": "/b/eu"}


@pytest.mark.parametrize(
    ("path", "target", "said"),
    [
        ("jurisdictions/eu/backups", EU | {"country": "US"}, "jurisdictions.eu.backups.country: US lies outside eu"),
        ("directory/backups", EU | {"country": "US"}, "directory.backups.country: US lies outside the directory's"),
        ("jurisdictions/us/backups", EU | {"country": "US", "folder": "/b/eu/x"}, "is also the target at"),
        ("jurisdictions/eu/backups", EU | {"keep_days": 30}, "jurisdictions.eu.backups.keep_days: a backup of the key"),
        ("jurisdictions/eu/backups", EU | {"folder": "../us"}, "jurisdictions.eu.backups.folder: is no folder of its"),
    ],
)
def test_a_manifest_that_names_one_elsewhere_does_not_load(path: str, target: object, said: str) -> None:
    with pytest.raises(ManifestError) as refused:
        parse_manifest(changed(("jurisdictions/eu/backups", EU), (path, target)))
    assert any(said in str(problem) for problem in refused.value.problems), refused.value.problems


def test_a_manifest_with_targets_loads() -> None:
    loaded = parse_manifest(changed(("jurisdictions/eu/backups", EU)))
    assert loaded.jurisdictions["eu"].backups is not None
