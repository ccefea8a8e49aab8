"""Where backups lie: a port as narrow as an object store's, and a folder that stands for one.

A target belongs to one jurisdiction of one deployment, and says so itself: what was mounted in the wrong place, or
copied from abroad, is refused before a byte is written or read. An object appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, Protocol, Self

from pydantic import ValidationError

from domicile.model.errors import InvalidInput, NotFound, Unavailable, WrongJurisdiction
from domicile.model.pins import Frozen

OWNER_FILE: Final = "target.json"
_DRAFT: Final = ".draft-"


class Object(NamedTuple):
    name: str
    size: int


class Target(Protocol):
    """Names are relative paths. Each method raises Unavailable where the target can't be used."""

    def put(self, name: str) -> AbstractContextManager[BinaryIO]:
        """What is written is there, durable, under ``name`` when the context is left; after an error nothing is."""
        ...

    def get(self, name: str) -> AbstractContextManager[BinaryIO]:
        """Raises NotFound."""
        ...

    def list(self, prefix: str) -> list[Object]:
        """Objects below a folder, by name."""
        ...

    def delete(self, name: str) -> None:
        """Whether or not it was there."""
        ...

    def tidy(self) -> int:
        """Remove what interrupted writers left; how many."""
        ...


class Owner(Frozen):
    deployment: str
    jurisdiction: str


def unusable(error: OSError, where: str) -> Unavailable:
    reason = (error.strerror or type(error).__name__).lower()
    return Unavailable(f"the backup target cannot be used: {reason}", where=where)


@contextmanager
def _reachable(where: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise NotFound("no such object", where=str(where)) from None
    except OSError as error:
        raise unusable(error, str(where)) from None


class FolderTarget:
    """A target in a folder, which ``adopt`` makes a jurisdiction's.

    Every other method raises Unavailable where nothing says whose it is (unmounted, or another disk in its place), and
    makes nothing: a target made anew on the wrong disk would look like one that never had a backup. All raise
    WrongJurisdiction for another's.
    """

    def __init__(self, folder: Path, owner: Owner) -> None:
        self._folder = folder
        self._owner = owner

    def adopt(self) -> Self:
        """From now on it is the owner's, if it was empty or not there. Raises InvalidInput for what is not empty."""
        with _reachable(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            path = self._folder / OWNER_FILE
            if not path.exists():
                if any(self._folder.iterdir()):
                    raise InvalidInput(
                        "is not empty and no backup target", where=str(self._folder), remedy="name a folder of its own"
                    )
                draft = path.with_name(f"{_DRAFT}{secrets.token_hex(8)}")
                draft.write_text(self._owner.model_dump_json())
                draft.replace(path)
            self.check()
        return self

    def check(self) -> None:
        """Raise Unavailable where the target is not there, WrongJurisdiction for another's."""
        path = self._folder / OWNER_FILE
        try:
            with _reachable(path):
                found = Owner.model_validate_json(path.read_bytes())
        except NotFound:
            raise Unavailable(
                "the backup target is not there",
                where=str(path),
                remedy=f"mount it; for a new one, `domicile backup adopt {self._owner.jurisdiction}`",
            ) from None
        except ValidationError:
            raise InvalidInput(
                "is damaged", where=str(path), remedy="restore it; it says whose target this is"
            ) from None
        if found != self._owner:
            raise WrongJurisdiction(
                f"the target is {found.jurisdiction}'s of {found.deployment}, not {self._owner.jurisdiction}'s",
                where=str(self._folder),
                remedy="name a target of the jurisdiction's own",
            )

    @contextmanager
    def put(self, name: str) -> Iterator[BinaryIO]:
        self.check()
        path = self._folder / name
        draft = path.with_name(f"{_DRAFT}{secrets.token_hex(8)}")
        with _reachable(path):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            stream = open(draft, "xb", opener=lambda name, flags: os.open(name, flags, 0o600))  # noqa: SIM115
        try:
            with _reachable(path), stream:  # to close it writes what is left
                fcntl.flock(stream, fcntl.LOCK_EX)  # what ``tidy`` can lock, nobody writes any more
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
                draft.replace(path)
            with _reachable(path):
                _sync(path.parent)
        finally:
            with contextlib.suppress(OSError):  # ``tidy`` removes it
                draft.unlink()

    @contextmanager
    def get(self, name: str) -> Iterator[BinaryIO]:
        self.check()
        path = self._folder / name
        with _reachable(path):
            stream = path.open("rb")
        with stream:
            yield stream

    def list(self, prefix: str) -> list[Object]:
        self.check()
        with _reachable(self._folder):
            found = [
                Object(path.relative_to(self._folder).as_posix(), path.stat().st_size)
                for path in (self._folder / prefix).rglob("*")
                if not path.name.startswith(".") and path.is_file()
            ]
        return sorted(each for each in found if each.name != OWNER_FILE)

    def delete(self, name: str) -> None:
        self.check()
        with _reachable(self._folder):
            (self._folder / name).unlink(missing_ok=True)

    def tidy(self) -> int:
        self.check()
        removed = 0
        with _reachable(self._folder):
            for path in self._folder.rglob(f"{_DRAFT}*"):
                with path.open("rb") as stream:
                    try:
                        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:
                        continue
                    path.unlink(missing_ok=True)
                    removed += 1
        return removed


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
