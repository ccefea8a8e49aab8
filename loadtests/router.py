"""What a known subject costs the router before a byte moves: the decision (its look-up is with the directory)."""

from __future__ import annotations

import random
from collections.abc import Iterator
from importlib.resources import files
from typing import Final

from domicile.model import Identity, Manifest, Pin, Role, SubjectKey, parse_manifest, read_yaml
from domicile.ops.ports import choose_ports
from domicile.router.decide import Forward, Listener, Question, decide
from loadtests.cases import Case, each

SUBJECTS: Final = 1_000


def _manifest() -> Manifest:
    text = files("domicile.ops").joinpath("default_world.yaml").read_text()
    return parse_manifest(choose_ports(read_yaml(text), set()))


def cases() -> Iterator[Case]:
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
        lambda: each(lambda n: decide(questions[n % 1000], manifest, vantage)),
        at_most=10.0,
    )
