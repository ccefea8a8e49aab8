"""What the load did, in a form that a checker reads: one line of JSON when an operation begins, one when it ends.

As Jepsen writes histories: ``ok`` was done, ``fail`` was not, ``info`` nobody knows. A process does one thing at a
time, and its number is never used again after an ``info``, whose operation may take effect at any later time.
Times are seconds of the machine's monotonic clock, which all processes of one machine share.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO, Any


class Kind(StrEnum):
    """``add`` puts a row of its own; ``write`` and ``read`` are a subject's one register; ``final`` reads all that is
    left of a subject after the drill; ``sign-up`` is a new subject."""

    ADD = "add"
    WRITE = "write"
    READ = "read"
    FINAL = "final"
    SIGN_UP = "sign-up"


class Outcome(StrEnum):
    OK = "ok"
    FAIL = "fail"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class Op:
    """One operation. ``value``: the number that was written or read; ``rows``: of ``final``, every number that is
    there; ``error``: status and code of a refusal, or an exception's class."""

    process: int
    kind: Kind
    subject: str
    cell: str
    invoked: float
    completed: float | None
    outcome: Outcome
    value: int | None = None
    rows: tuple[int, ...] = ()
    error: str = ""

    @property
    def ok(self) -> bool:
        return self.outcome is Outcome.OK


class Recorder:
    """Writes one process's file. Every line is whole or missing: whoever is killed leaves no half one but the last."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def invoke(self, process: int, kind: Kind, subject: str, cell: str, now: float, value: int | None = None) -> None:
        self._line(process=process, type="invoke", f=kind, subject=subject, cell=cell, time=now, value=value)

    def complete(
        self,
        process: int,
        outcome: Outcome,
        now: float,
        value: int | None = None,
        *,
        rows: Iterable[int] = (),
        error: str = "",
    ) -> None:
        found: dict[str, Any] = {"process": process, "type": outcome, "time": now}
        if value is not None:
            found["value"] = value
        if listed := list(rows):
            found["rows"] = listed
        if error:
            found["error"] = error
        self._line(**found)

    def _line(self, **fields: Any) -> None:
        self._stream.write(json.dumps(fields, separators=(",", ":")) + "\n")


def read_history(path: Path) -> list[Op]:
    """The operations of a file in the order in which they began; one without an end is ``info``."""
    reader = HistoryReader(path)
    reader.more()
    return reader.all()


class HistoryReader:
    """Reads a file while it is being written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0
        self._begun: dict[int, dict[str, Any]] = {}
        self.ended: list[Op] = []

    def more(self) -> list[Op]:
        """What ended since it was last asked; a last line that is not whole is left for the next time."""
        try:
            with self._path.open("rb") as stream:
                stream.seek(self._position)
                content = stream.read()
        except FileNotFoundError:
            return []
        whole = content[: content.rfind(b"\n") + 1]
        self._position += len(whole)
        found = list(self._operations(whole.splitlines()))
        self.ended += found
        return found

    def all(self) -> list[Op]:
        open_ones = [_operation(begun, {"type": Outcome.INFO, "error": "no answer"}) for begun in self._begun.values()]
        return sorted(self.ended + open_ones, key=lambda op: op.invoked)

    def _operations(self, lines: Iterable[bytes]) -> Iterator[Op]:
        for line in lines:
            entry: dict[str, Any] = json.loads(line)
            if entry["type"] == "invoke":
                self._begun[entry["process"]] = entry
            else:
                yield _operation(self._begun.pop(entry["process"]), entry)


def _operation(invoke: dict[str, Any], completion: dict[str, Any]) -> Op:
    return Op(
        process=invoke["process"],
        kind=Kind(invoke["f"]),
        subject=invoke["subject"],
        cell=invoke["cell"],
        invoked=invoke["time"],
        completed=completion.get("time"),
        outcome=Outcome(completion["type"]),
        value=completion.get("value", invoke.get("value")),
        rows=tuple(completion.get("rows", ())),
        error=completion.get("error", ""),
    )
