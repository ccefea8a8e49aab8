"""Records ``domicile demo`` in a terminal of its own and draws what it printed as an SVG that plays by itself, once.

    python -m pages.recording              # some two minutes; writes docs/demo.svg

The times are the run's own, four times as fast. Whoever wants no motion, or shows no animation, sees the last screen.
A file is small and diffs line by line, since it holds text and one list of times; it loads nothing.
"""

from __future__ import annotations

import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fcntl import ioctl
from pathlib import Path
from typing import Final
from xml.sax.saxutils import escape

from rich.text import Text

TARGET: Final = Path(__file__).parents[1] / "docs" / "demo.svg"
COLUMNS: Final = 124
ROWS: Final = 22
SPEED: Final = 4
BOLD: Final = ' class="b"'
_WIDTH, _HEIGHT, _MARGIN = 7.25, 16, 14
_SVG: Final = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="{label}">
<style>
rect {{ fill: #14181f; }}
text {{ fill: #d6dbe3; white-space: pre; }}
text {{ font: 12px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }}
.b {{ font-weight: bold; fill: #fff; }}
@keyframes run {{
{frames}
}}
#lines {{ transform: translateY({last}px); animation: run {seconds}s step-end 1 forwards; }}
@media (prefers-reduced-motion: reduce) {{ #lines {{ animation: none; }} }}
</style>
<rect width="{width}" height="{height}" rx="8"/>
<svg x="{margin}" y="{margin}" width="{inner_width}" height="{inner_height}">
<g id="lines">
{lines}
</g>
</svg>
</svg>
"""


@dataclass(frozen=True, slots=True)
class Line:
    """``at``: seconds after the command was begun."""

    at: float
    text: str


def record(command: Sequence[str], shown: str) -> list[Line]:
    """Every line that a command prints on a terminal. Raises CalledProcessError where it fails."""
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    begun, lines, rest = time.monotonic(), [Line(0.0, f"\x1b[1m$ {shown}\x1b[0m")], ""
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, env=os.environ | {"TERM": "xterm"}
    )
    os.close(theirs)
    try:
        while chunk := _read(ours):
            *whole, rest = (rest + chunk.decode(errors="replace")).split("\r\n")
            lines += [Line(time.monotonic() - begun, text.rstrip()) for text in whole]
    finally:
        os.close(ours)
        status = process.wait()
    if status:
        raise subprocess.CalledProcessError(status, command)
    return lines


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65_536)
    except OSError:  # what Linux says where the other end of a terminal is closed
        return b""


def drawn(lines: Sequence[Line], label: str) -> str:
    """The last line stands at the bottom, as in a terminal."""
    whole = lines[-1].at
    moments: dict[float, int] = {}
    for number, line in enumerate(lines, 1):
        moments[round(100 * line.at / whole, 1)] = number
    frames = "\n".join(f"{percent}% {{ transform: translateY({_offset(n)}px); }}" for percent, n in moments.items())
    inner_width, inner_height = COLUMNS * _WIDTH, ROWS * _HEIGHT
    return _SVG.format(
        width=inner_width + 2 * _MARGIN,
        height=inner_height + 2 * _MARGIN,
        inner_width=inner_width,
        inner_height=inner_height,
        margin=_MARGIN,
        label=escape(label, {'"': "&quot;"}),
        frames=frames,
        last=_offset(len(lines)),
        seconds=round(whole / SPEED, 1),
        lines="\n".join(_line(number, line.text) for number, line in enumerate(lines) if line.text),
    )


def _offset(shown: int) -> int:
    return (ROWS - shown) * _HEIGHT


def _line(number: int, ansi: str) -> str:
    text = Text.from_ansi(ansi)
    bold = any("bold" in str(span.style) for span in text.spans)
    return f'<text y="{(number + 1) * _HEIGHT - 4}"{BOLD if bold else ""}>{escape(text.plain.rstrip())}</text>'


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="domicile-") as folder:
        command = [str(Path(sys.executable).with_name("domicile")), "demo", "--state", f"{folder}/world"]
        lines = record(command, "domicile demo")
    assert not re.search(re.escape(folder), "".join(line.text for line in lines)), "nothing of this machine is shown"
    TARGET.write_text(drawn(lines, f"A terminal: domicile demo. {lines[-1].text}"))
    print(f"{len(lines)} lines, {TARGET.stat().st_size / 1024:.0f} KiB: {TARGET}")


if __name__ == "__main__":
    main()
