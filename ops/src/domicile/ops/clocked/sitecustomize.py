"""For Python under libfaketime, found by PYTHONPATH and imported before anything else: sleeping that works there.

CPython sleeps until a moment of the monotonic clock (``clock_nanosleep`` with ``TIMER_ABSTIME``), which libfaketime
0.9.10 turns into one that is no moment (EINVAL). To wait for nothing for so long comes to the same.
"""

import select
import time
from typing import SupportsIndex


def sleep(seconds: float | SupportsIndex, /) -> None:
    wait = float(seconds)
    if wait < 0:
        raise ValueError("sleep length must be non-negative")
    select.select((), (), (), wait)


time.sleep = sleep
