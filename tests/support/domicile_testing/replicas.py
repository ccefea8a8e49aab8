"""Pins by number, and what other processes do to a replica: importable by a child that knows no test module."""

from __future__ import annotations

import random
from multiprocessing.connection import Connection
from pathlib import Path
from uuid import UUID

from domicile.model import Pin, Position, SubjectKey
from domicile.router.replica import Replica

SIZE = 1 << 26
GENERATION = UUID(int=1)


def at(sequence: int, generation: UUID = GENERATION) -> Position:
    return Position(generation=generation, sequence=sequence)


def numbered(number: int) -> SubjectKey:
    return SubjectKey(b"\1" + number.to_bytes(16, "big"))


def home(number: int, cell: str = "eu-1", epoch: int = 1) -> Pin:
    return Pin(subject_key=numbered(number), jurisdiction=cell.partition("-")[0], cell=cell, epoch=epoch)


def read_on_demand(folder: Path, pipe: Connection) -> None:
    replica = Replica(folder, SIZE)
    while (asked := pipe.recv()) is not None:
        kind, number = asked
        if kind == "renew":
            replica.renew()
        elif kind == "put":
            replica.put(number)
        pipe.send(replica.get(numbered(number)) if kind == "get" else None)


def apply_and_compact(folder: Path, pipe: Connection) -> None:
    """One pin a change, so that the position says how many there are; now and then all is written anew."""
    replica = Replica(folder, SIZE)
    sequence = replica.position.sequence if replica.position else 0
    pipe.send(sequence)
    while True:
        for _ in range(random.randint(1, 40)):
            sequence += 1
            replica.apply([home(sequence)], at(sequence))
        replica.compact()
