"""The router's figures: what a known subject costs before a byte moves (its look-up is with the directory), and the
whole of it beside other proxies."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from importlib.resources import files
from typing import Final

from domicile.model import Identity, Manifest, Pin, Role, SubjectKey, parse_manifest, read_yaml
from domicile.ops.ports import choose_ports
from domicile.router.decide import Forward, Listener, Question, decide
from loadtests import beside
from loadtests.cases import Case, Missing, Race, each

SUBJECTS: Final = 1_000


def _manifest() -> Manifest:
    text = files("domicile.ops").joinpath("default_world.yaml").read_text()
    return parse_manifest(choose_ports(read_yaml(text), set()))


def cases() -> Iterator[Case | Race | Missing]:
    manifest = _manifest()
    vantage = Identity("acme", "eu", Role.ROUTER, "fra")
    chance = random.Random(7)
    keys = [SubjectKey(b"\1" + chance.randbytes(16)) for _ in range(SUBJECTS)]
    pins = [Pin(subject_key=key, jurisdiction="eu", cell="eu-1", epoch=1) for key in keys]
    questions = [Question("/profile", "GET", True, Listener.PUBLIC, pin) for pin in pins]
    assert isinstance(decide(questions[0], manifest, vantage), Forward)
    yield Case(
        "routing decision, known subject, in process",
        "us",
        lambda: each(lambda n: decide(questions[n % SUBJECTS], manifest, vantage), clock=time.process_time),
        at_most=10.0,
    )
    yield from beside.cases()
