"""The router's own copy of the whole blind map, so that a known subject costs one local look-up and no network.

LMDB on disk: it outlives a restart, with or without a directory, and any number of processes of one router read
it while one writes what the directory's change log says (``domicile.router.follow``). Its folder holds

    current     the name of the environment that is read now
    pins-*/     that environment
    loading/    the next one while it is built, so that a load that was cut off is resumed
    opening     locked while an environment is opened or made; following: locked by the process that follows
    heard       its time of modification: when the directory last said that this copy is up to date
    told        its time of modification: when the directory last said anything of its log

Within a generation of the directory's database no epoch goes back, whoever writes; a new generation is loaded
beside the old one and then takes its place whole. What was a copy only is never repaired: it is loaded anew.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import struct
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import rmtree
from typing import Final, TypeAlias
from uuid import UUID

import lmdb

from domicile.model import InvalidInput, Pin, PinState, Position, SubjectKey, Unavailable
from domicile.model.snapshot import STATES, Block
from domicile.telemetry import warn

SPARSE_BYTES: Final = 56
"""A file with more bytes a pin than this is written anew, in the order of keys, which takes some 30."""
SMALL_BYTES: Final = 1 << 20
MAX_TOLD: Final = 10_000
"""Pins that are kept as objects; some 7 MB at most."""
_COPIED: Final = 5_000
_HEAD: Final = struct.Struct(">H")
_POSITION: Final = struct.Struct(">16sQ")
_MAX_HOMES: Final = 1 << 14
_BROKEN: Final = (lmdb.InvalidError, lmdb.CorruptedError, lmdb.VersionMismatchError, lmdb.PageNotFoundError)


Raw: TypeAlias = "bytes | memoryview"


class ReplicaFull(Unavailable):
    """The disk, or the bound that the replica was given, is full."""


class _Retired(Exception):
    """The environment was replaced while it was written to."""


def _value(epoch: int, state: int, home: int) -> bytes:
    """2 bytes of state and home, then the epoch without its leading zeros: 3 bytes for most pins."""
    return _HEAD.pack(state << 14 | home) + epoch.to_bytes((epoch.bit_length() + 7) // 8, "big")


def _epoch(value: Raw) -> int:
    return int.from_bytes(value[2:], "big")


class _Environment:
    """One LMDB file: ``pins`` by key, ``meta`` about all of them, ``met`` the keys of pins put one by one.

    ``told``: pins that were read last, by key, and what they were read from.
    """

    def __init__(self, folder: Path, size: int, *, durable: bool = True) -> None:
        # made here: LMDB would give the folder the files' mode, and nobody but root can enter one without x
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder = folder
        self.env = lmdb.open(str(folder), map_size=size, max_dbs=3, mode=0o600, metasync=False, sync=durable)
        self.pins = self.env.open_db(b"pins")
        self.meta = self.env.open_db(b"meta")
        self.met = self.env.open_db(b"met")
        self.homes: list[tuple[str, str]] = []
        self.told: dict[SubjectKey, tuple[bytes, Pin]] = {}
        self._writes = threading.Lock()
        with self.env.begin() as transaction:
            self.read_homes(transaction)

    def read_homes(self, transaction: lmdb.Transaction) -> None:
        names = bytes(transaction.get(b"homes", db=self.meta) or b"").decode().split()
        # their order never changes, they only become more
        self.homes = [(jurisdiction, cell) for jurisdiction, _, cell in (name.partition("/") for name in names)]

    @contextmanager
    def writing(self) -> Iterator[lmdb.Transaction]:
        """Committed on leaving. Raises _Retired where another environment has taken this one's place."""
        with self._writes:
            before = self.homes
            try:
                with self.env.begin(write=True) as transaction:
                    if transaction.get(b"retired", db=self.meta):
                        raise _Retired
                    self.read_homes(transaction)
                    before = list(self.homes)
                    yield transaction
            except BaseException as error:
                self.homes = before
                if not isinstance(error, lmdb.Error) or isinstance(error, _BROKEN):
                    raise
                # the file system's refusals come as errors without a class of their own
                warn("replica-full", error=type(error).__name__)
                raise ReplicaFull(
                    "the pin replica cannot be written", remedy="free disk space, or allow more"
                ) from None

    def close(self) -> None:
        """Once nobody writes."""
        with self._writes:
            self.env.close()

    def home(self, transaction: lmdb.Transaction, jurisdiction: str, cell: str) -> int:
        """The number of a home, given to it now if it has none."""
        home = (jurisdiction, cell)
        if home not in self.homes:
            if len(self.homes) >= _MAX_HOMES:
                raise ReplicaFull("more homes than the pin replica can number")
            self.homes.append(home)
            transaction.put(b"homes", "\n".join(map("/".join, self.homes)).encode(), db=self.meta)
        return self.homes.index(home)

    def read(self, transaction: lmdb.Transaction, key: Raw, value: Raw) -> Pin:
        (head,) = _HEAD.unpack_from(value)
        home = head & _MAX_HOMES - 1
        if home >= len(self.homes):  # another process has numbered it
            self.read_homes(transaction)
        jurisdiction, cell = self.homes[home]
        name = key if type(key) is SubjectKey else SubjectKey(bytes(key))
        return Pin.trusted(name, jurisdiction, cell, _epoch(value), STATES[head >> 14])

    def store(self, transaction: lmdb.Transaction, pin: Pin) -> Pin:
        """The pin that now stands: the one that was there, unless this one's epoch is higher."""
        key = bytes(pin.subject_key)
        known = transaction.get(key, db=self.pins)
        if known is not None and _epoch(known) >= pin.epoch:
            return self.read(transaction, key, known)
        home = self.home(transaction, pin.jurisdiction, pin.cell)
        transaction.put(key, _value(pin.epoch, STATES.index(PinState(pin.state)), home), db=self.pins)
        return pin

    def position(self, transaction: lmdb.Transaction) -> Position | None:
        raw = transaction.get(b"position", db=self.meta)
        if raw is None:
            return None
        generation, sequence = _POSITION.unpack(raw)
        return Position(generation=UUID(bytes=generation), sequence=sequence)

    def set_position(self, transaction: lmdb.Transaction, position: Position) -> None:
        transaction.put(b"position", _POSITION.pack(position.generation.bytes, position.sequence), db=self.meta)

    def count(self) -> int:
        with self.env.begin() as transaction:
            entries: int = transaction.stat(self.pins)["entries"]
            return entries

    def bytes(self) -> int:
        """What of the file was ever written: its name's size may be that of the map."""
        written: int = (self.env.info()["last_pgno"] + 1) * self.env.stat()["psize"]
        return written


class Loading:
    """The next environment while it is built: blocks in the order of their keys, then ``Replica.adopt``."""

    def __init__(self, environment: _Environment) -> None:
        self._environment = environment

    @property
    def position(self) -> Position | None:
        """Where the snapshot that this one began with stood; None before that."""
        with self._environment.env.begin() as transaction:
            return self._environment.position(transaction)

    @property
    def last_key(self) -> bytes:
        """Up to where it has come; empty at the beginning."""
        with self._environment.env.begin() as transaction, transaction.cursor(self._environment.pins) as cursor:
            return cursor.key() if cursor.last() else b""

    def begin(self, position: Position) -> None:
        with self._environment.writing() as transaction:
            self._environment.set_position(transaction, position)

    def add(self, block: Block) -> None:
        """Raises InvalidInput for a block that does not follow the last one."""
        environment = self._environment
        with environment.writing() as transaction:
            homes = []
            for name in block.homes:
                jurisdiction, _, cell = name.partition("/")
                homes.append(environment.home(transaction, jurisdiction, cell))
            items = [(key, _value(epoch, state, homes[home])) for key, epoch, state, home in block]
            self._append(transaction, items)

    def copy(self, source: _Environment) -> None:
        """Everything of another environment, position and numbers of homes included, as one snapshot of it."""
        environment = self._environment
        with source.env.begin() as old, old.cursor(source.pins) as cursor:
            with environment.writing() as transaction:
                for name in (b"homes", b"position"):
                    if (value := old.get(name, db=source.meta)) is not None:
                        transaction.put(name, value, db=environment.meta)
            items: list[tuple[bytes, bytes]] = []
            for item in cursor:
                items.append(item)
                if len(items) >= _COPIED:
                    with environment.writing() as transaction:
                        self._append(transaction, items)
                    items = []
            with environment.writing() as transaction:
                self._append(transaction, items)

    def _append(self, transaction: lmdb.Transaction, items: list[tuple[bytes, bytes]]) -> None:
        with transaction.cursor(self._environment.pins) as cursor:
            _, added = cursor.putmulti(items, append=True)
        if added != len(items):
            raise InvalidInput("a snapshot whose keys are not in order")

    def close(self) -> None:
        """What was added stays on disk: it is gone on with, or adopted."""
        self._environment.env.sync(True)
        self._environment.close()


class Replica:
    """Pins on disk, at most ``size`` bytes of them. Reads are memory look-ups; a write is durable when it returns.

    ``get`` and ``renew`` belong to one thread, writes to any; the old environment goes when its last user has.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self._folder = folder
        self._size = size
        self._broken = False
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._opening():
            self._now = self._open()

    @contextmanager
    def _locked(self, name: str, how: int) -> Iterator[None]:
        with (self._folder / name).open("ab") as file:
            fcntl.flock(file, how)
            yield

    @contextmanager
    def _opening(self) -> Iterator[None]:
        with self._locked("opening", fcntl.LOCK_EX):
            yield

    def _current(self) -> Path | None:
        try:
            name = (self._folder / "current").read_text()
        except (FileNotFoundError, UnicodeDecodeError):
            return None
        folder = self._folder / name
        return folder if name.startswith("pins-") and "/" not in name and folder.is_dir() else None

    def _open(self) -> _Environment:
        folder = self._current()
        if folder is not None:
            try:
                return _Environment(folder, self._size)
            except (*_BROKEN, ValueError) as error:
                # a copy: what it held is asked for anew
                warn("replica-rebuilt", error=type(error).__name__)
        fresh = _Environment(self._folder / f"pins-{secrets.token_hex(8)}", self._size)
        self._name(fresh.folder)
        return fresh

    def _name(self, folder: Path) -> None:
        """From here on ``folder`` is read, and no other is kept."""
        draft = self._folder / "current.new"
        with draft.open("w") as file:
            file.write(folder.name)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._folder / "current")
        for old in self._folder.glob("pins-*"):
            if old != folder:
                rmtree(old, ignore_errors=True)  # who has it open still reads it

    def get(self, key: SubjectKey) -> Pin | None:
        """The same object for as long as its record is the same, for most of those who are asked for often."""
        now = self._now
        try:
            with now.env.begin(db=now.pins) as transaction:
                value = transaction.get(key)
                if value is None:
                    return None
                told = now.told.get(key)
                if told is not None and told[0] == value:
                    return told[1]
                pin = now.read(transaction, key, value)
            if len(now.told) >= MAX_TOLD:
                now.told.clear()
            now.told[key] = (value, pin)
            return pin
        except (lmdb.Error, IndexError, struct.error, UnicodeDecodeError) as error:
            warn("replica-record-unreadable", error=type(error).__name__)
            self.distrust()
            return None

    def put(self, pin: Pin) -> Pin:
        """Store a pin unless one of the same or a later epoch is there; the one that now stands.

        A replica that cannot be written changes nothing in the answer: the pin comes from the directory.
        """
        while True:
            now = self._now
            try:
                with now.writing() as transaction:
                    stands = now.store(transaction, pin)
                    if stands is pin:
                        transaction.put(bytes(pin.subject_key), b"", db=now.met)
                return stands
            except _Retired:
                self.renew()
                if self._now is now:
                    return pin
            except (ReplicaFull, *_BROKEN):
                return pin

    def renew(self) -> None:
        """Read what is current now, where another process has put a new environment in the old one's place."""
        folder = self._current()
        if folder is not None and folder != self._now.folder:
            with self._opening():
                if self._current() != self._now.folder:
                    self._now = self._open()

    # --- what the one process does that follows the directory

    @contextmanager
    def following(self) -> Iterator[bool]:
        """Whether this process is the one that writes what the directory says; no other is, until it leaves."""
        with (self._folder / "following").open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            self.renew()
            self._now.env.reader_check()  # readers that were killed keep pages from being used again
            yield True

    @property
    def position(self) -> Position | None:
        """How far it has come; None where it must be loaded: it never was, or what it holds cannot be read."""
        if self._broken:
            return None
        now = self._now
        with now.env.begin() as transaction:
            return now.position(transaction)

    def distrust(self) -> None:
        """What it holds cannot be read, or not be written to: it is to be loaded anew."""
        self._broken = True

    def apply(self, pins: Iterable[Pin], position: Position) -> None:
        """Changes in the order of the log, and how far they go. Raises ReplicaFull, and has changed nothing then."""
        now = self._now
        with now.writing() as transaction:
            for pin in pins:
                now.store(transaction, pin)
            now.set_position(transaction, position)

    def heard(self) -> None:
        """The directory has just said how far the log goes, and this replica has all of it."""
        self._mark("heard")

    def told(self) -> None:
        """The directory has just said something of its log, whether or not it could be taken."""
        self._mark("told")

    def _mark(self, name: str) -> None:
        path = self._folder / name
        path.touch(mode=0o600)
        os.utime(path)

    def _since(self, name: str) -> float:
        try:
            return max(0.0, time.time() - (self._folder / name).stat().st_mtime)
        except FileNotFoundError:
            return float("inf")

    def staleness(self) -> float:
        """Seconds since any process of this router ``heard``; infinite before the first time."""
        return self._since("heard")

    def silence(self) -> float:
        """Seconds since any process of this router was ``told`` something; infinite before the first time."""
        return self._since("told")

    def count(self) -> int:
        return self._now.count()

    def sparse(self) -> bool:
        written = self._now.bytes()
        return written > SMALL_BYTES and written > SPARSE_BYTES * self._now.count()

    @property
    def bytes_per_pin(self) -> float:
        return self._now.bytes() / max(1, self._now.count())

    def loading(self, *, resume: bool = True) -> Loading:
        """Begin the next environment, or go on with the one that was begun."""
        folder = self._folder / "loading"
        fresh = not (resume and folder.is_dir())
        if fresh:
            rmtree(folder, ignore_errors=True)
            with suppress(ReplicaFull, _Retired, *_BROKEN), self._now.writing() as transaction:
                transaction.drop(self._now.met, delete=False)  # older than what will be read
        try:
            environment = _Environment(folder, self._size, durable=False)
        except (*_BROKEN, ValueError):
            if fresh:
                raise
            return self.loading(resume=False)
        return Loading(environment)

    def compact(self) -> None:
        """Write it anew in the order of its keys."""
        loading = self.loading(resume=False)
        loading.copy(self._now)
        self.adopt(loading)

    def adopt(self, loading: Loading) -> None:
        """Put what was loaded in the place of what is current, for every process.

        Pins that were put one by one meanwhile are carried over where their epoch is the higher one, if the
        generation is the same. Nobody else writes until that is done, nor into the old environment after it.
        """
        new, old = loading._environment, self._now
        with self._opening():
            try:
                with old.writing() as transaction:
                    with new.env.begin() as reading:
                        generations = [each and each.generation for each in
                                       (old.position(transaction), new.position(reading))]  # fmt: skip
                    if not self._broken and generations[0] in (None, generations[1]):
                        self._carry(transaction, old, new)
                    transaction.put(b"retired", b"1", db=old.meta)
                    self._move(loading)
            except (ReplicaFull, *_BROKEN):
                # the old one cannot be written: then nobody can have put anything into it
                self._move(loading)
        self._broken = False

    @staticmethod
    def _carry(transaction: lmdb.Transaction, old: _Environment, new: _Environment) -> None:
        with transaction.cursor(old.met) as cursor, new.writing() as writing:
            for key in cursor.iternext(keys=True, values=False):
                value = transaction.get(key, db=old.pins)
                if value is not None:
                    new.store(writing, old.read(transaction, key, value))
                    writing.put(key, b"", db=new.met)

    def _move(self, loading: Loading) -> None:
        target = self._folder / f"pins-{secrets.token_hex(8)}"
        source = loading._environment.folder
        loading.close()
        source.rename(target)
        self._name(target)
        self._now = _Environment(target, self._size)

    def close(self) -> None:
        self._now.close()
