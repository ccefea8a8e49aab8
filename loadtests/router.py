"""What a known subject costs the router before a byte moves: the decision, and the look-up in its replica."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final

import lmdb

from domicile.model import Identity, Manifest, Pin, Role, SubjectKey, pack_pin, parse_manifest, read_yaml
from domicile.ops.ports import choose_ports
from domicile.router.decide import Forward, Listener, Question, decide
from domicile.router.replica import Replica

ROUNDS: Final = 9
LOOPS: Final = 20_000
PINS: Final = 100_000


@dataclass(frozen=True, slots=True)
class Case:
    """One figure: ``ours`` and ``peer`` each run a round and give it; smaller is better."""

    name: str
    unit: str
    ours: Callable[[], float]
    peer: Callable[[], float] | None
    against: str
    at_most: float
    rounds: int = ROUNDS


def _each(call: Callable[[int], object]) -> float:
    """Microseconds a call, over ``LOOPS`` calls."""
    started = time.perf_counter()
    for number in range(LOOPS):
        call(number)
    return (time.perf_counter() - started) / LOOPS * 1e6


def _manifest() -> Manifest:
    text = files("domicile.ops").joinpath("default_world.yaml").read_text()
    return parse_manifest(choose_ports(read_yaml(text), set()))


def cases() -> Iterator[Case]:
    manifest = _manifest()
    vantage = Identity("acme", "eu", Role.ROUTER, "fra")
    chance = random.Random(7)
    keys = [SubjectKey(b"\1" + chance.randbytes(16)) for _ in range(PINS)]
    pins = [Pin(subject_key=key, jurisdiction="eu", cell="eu-1", epoch=1) for key in keys]
    questions = [Question("/profile", "GET", True, Listener.PUBLIC, pin) for pin in pins[:1000]]
    assert isinstance(decide(questions[0], manifest, vantage), Forward)
    yield Case(
        "routing decision, known subject, in process",
        "us",
        lambda: _each(lambda n: decide(questions[n % 1000], manifest, vantage)),
        None,
        "",
        10.0,
    )
    with tempfile.TemporaryDirectory() as folder:
        with lmdb.open(f"{folder}/pins", map_size=256 << 20) as bare, bare.begin(write=True) as transaction:
            for pin in sorted(pins, key=lambda pin: pin.subject_key):
                transaction.put(bytes(pin.subject_key), pack_pin(pin))
        replica = Replica(Path(folder) / "pins", 256 << 20)
        wanted = [keys[chance.randrange(PINS)] for _ in range(LOOPS)]
        assert replica.get(wanted[0]) is not None
        ours = lambda: _each(lambda n: replica.get(wanted[n]))  # noqa: E731
        yield Case(f"pin replica look-up, {PINS:,} pins", "us", ours, None, "", 5.0)
        replica.close()
