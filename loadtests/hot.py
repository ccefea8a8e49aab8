"""Where the router's time goes under load: py-spy's samples of its process, by place in the code.

A sample is counted for the innermost Python frame, so that what a function does in C (TLS, hashing, writing to a
socket) counts as its own; the frame's place is a module of ours, or the library it belongs to. The router runs as
Python here: what is compiled has no frames. Samples are by the
clock, so the router has its core to itself: else a write that wakes an application would be charged with its turn.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from loadtests.busy import wrk_answers
from loadtests.cases import Unmeasured
from loadtests.edges import has_plain_listener, router
from loadtests.processes import LOADED_FROM
from loadtests.programs import py_spy
from loadtests.proxies import SMALL
from loadtests.stage import stage

SECONDS: Final = 6
WARM_SECONDS: Final = 2
SAMPLES: Final = 250
SHOWN: Final = 14
IDLE: Final = ("_worker", "concurrent")
"""A thread that waits for work, which py-spy can't tell from one that works."""
_FRAME: Final = re.compile(r"^(?P<function>.*) \((?P<file>[^()]*)\)$")
_LIBRARY: Final = re.compile(r"(?:site-packages|python3\.\d+)/(?!site-packages)([^/.]+)")


def place(file: str) -> str:
    """A module of ours, or the library, that a file belongs to; generated code (dataclasses) has no file."""
    if "/domicile/" in file:
        return "domicile." + file.rpartition("/domicile/")[2].removesuffix(".py").replace("/", ".")
    libraries = _LIBRARY.findall(file)
    return str(libraries[-1]) if libraries else Path(file).stem


def counted(lines: Iterable[str]) -> tuple[Counter[str], Counter[str]]:
    """Samples by place, and by function with its place, of py-spy's raw format (``frame;...;frame count``)."""
    places: Counter[str] = Counter()
    functions: Counter[str] = Counter()
    for line in lines:
        stack, _, count = line.rpartition(" ")
        frame = _FRAME.match(stack.rpartition(";")[2].rpartition(":")[0] + ")")
        if frame is None or not count.strip().isdigit():
            continue
        where = place(frame["file"])
        if (frame["function"], where) == IDLE:
            continue
        places[where] += int(count)
        functions[f"`{frame['function']}` in {where}"] += int(count)
    return places, functions


def shares(counts: Counter[str], shown: int) -> str:
    """The largest, as Markdown table rows."""
    whole = counts.total()
    return "\n".join(f"| {name} | {count / whole:.0%} |" for name, count in counts.most_common(shown))


def report(lines: Iterable[str]) -> str:
    places, functions = counted(lines)
    if not places:
        raise Unmeasured("py-spy took no samples")
    return "\n".join(
        [
            f"{places.total():,} samples in {SECONDS} s of load, each counted for its innermost Python frame.\n",
            "| module or library | share |\n|---|---:|",
            shares(places, SHOWN),
            "\n| function | share |\n|---|---:|",
            shares(functions, SHOWN),
        ]
    )


def sampled() -> str:
    """The report of a router under wrk, over plain connections where it has them. Raises Unmeasured."""
    tls = not has_plain_listener()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with stage(folder, applications_on=LOADED_FROM) as built, router(built, tls=tls, as_python=True) as proxy:
            url = f"{'https' if tls else 'http'}://{proxy.listeners['router']}{SMALL}"
            wrk_answers(built.users_file, url, WARM_SECONDS)
            raw = folder / "samples"
            terms = [
                "-d",
                str(SECONDS),
                "-r",
                str(SAMPLES),
                "-f",
                "raw",
                "-o",
                str(raw),
                "--subprocesses",
                "--full-filenames",
            ]
            spying = subprocess.Popen(
                [py_spy(), "record", "--pid", str(proxy.pid), *terms], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
            wrk_answers(built.users_file, url, SECONDS + 1)
            told, _ = spying.communicate(timeout=30)
            if spying.returncode != 0 or not raw.exists():
                raise Unmeasured(f"py-spy failed: {told.decode(errors='replace').strip()[-200:]}")
            return report(raw.read_text().splitlines())
