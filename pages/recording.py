"""Records ``domicile demo`` in a terminal of its own and draws what it printed as an SVG that plays by itself.

    python -m pages.recording              # two minutes; writes docs/demo.svg

The times are the run's own, ten times as fast. Whoever wants no motion, or shows no animation, sees the last screen.
Colours and glyphs are rich's; this module adds the clock.
"""

from __future__ import annotations

import io
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Sequence
from fcntl import ioctl
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.text import Text

TARGET: Final = Path(__file__).parents[1] / "docs" / "demo.svg"
