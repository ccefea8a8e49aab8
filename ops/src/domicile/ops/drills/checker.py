"""Whether a register's history is linearizable (Wing and Gong 1993, with Lowe's memory of configurations, 2017).

A subject's fenced reads and writes have to look as if each took effect at one moment between its beginning and its
end (Herlihy and Wing 1990). Values are written once each. An ``info`` write may have taken effect at any later time
or never, so one whose value nobody read is left out: leaving it out forbids no order that keeping it allows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from domicile.ops.drills.history import Kind, Op, Outcome

MAX_CONFIGURATIONS: Final = 200_000


def linearizable(history: Sequence[Op], initial: int = 0, *, most: int = MAX_CONFIGURATIONS) -> bool | None:
    """``history``: one subject's reads and writes; None where ``most`` configurations did not settle it."""
    seen_values = {op.value for op in history if op.kind is Kind.READ and op.ok}
    ops = sorted(
        (
            op
            for op in history
            if (op.kind is Kind.READ and op.ok)
            or (op.kind is Kind.WRITE and (op.ok or (op.outcome is Outcome.INFO and op.value in seen_values)))
        ),
        key=lambda op: op.invoked,
    )
    ends = [op.completed if op.ok and op.completed is not None else math.inf for op in ops]
    must = [index for index, op in enumerate(ops) if op.ok]
    visited: set[tuple[int, int]] = set()
    # a configuration: the index before which everything has taken effect, the set of the rest that has, the value
    stack: list[tuple[int, int, int]] = [(0, 0, initial)]
    while stack:
        first, done, value = _advance(ops, ends, *stack.pop())
        if (done, value) in visited:
            continue
        visited.add((done, value))
        if len(visited) > most:
            return None
        if all(done >> index & 1 for index in must if index >= first):
            return True
        for index in _candidates(ops, ends, first, done):
            op = ops[index]
            if op.kind is Kind.WRITE and op.value is not None:
                stack.append((first, done | 1 << index, op.value))
    return False


def _candidates(ops: Sequence[Op], ends: Sequence[float], first: int, done: int) -> list[int]:
    """Which may be next: those that began before the first of the rest ended."""
    found, bound = [], math.inf
    for index in range(first, len(ops)):
        if done >> index & 1:
            continue
        if ops[index].invoked > bound:
            break
        found.append(index)
        bound = min(bound, ends[index])
    return [index for index in found if ops[index].invoked <= bound]


def _advance(ops: Sequence[Op], ends: Sequence[float], first: int, done: int, value: int) -> tuple[int, int, int]:
    """Let every read of ``value`` that may be next take effect: that hinders nothing that comes later."""
    while True:
        while first < len(ops) and done >> first & 1:
            first += 1
        reads = [
            index
            for index in _candidates(ops, ends, first, done)
            if ops[index].kind is Kind.READ and ops[index].value == value
        ]
        if not reads:
            return first, done, value
        for index in reads:
            done |= 1 << index
