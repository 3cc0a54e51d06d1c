"""Number of processor cores, and lower priorities for worker threads to keep the GUI responsive."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from contextvars import ContextVar

NICE = 10
"""Niceness of worker threads; the GUI thread, at 0, gets nine times the processor time of each of them."""

_behind_window: ContextVar[bool] = ContextVar("_behind_window", default=False)


def cores() -> int:
    """Return the number of processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def behind_a_window() -> Iterator[None]:
    """Give threads started in this context a lower priority than the GUI; has an effect on Linux only."""
    before = _behind_window.set(True)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the context ended on another thread
            _behind_window.reset(before)


def works_behind_a_window() -> bool:
    """Return whether threads started in the current context should have a lower priority."""
    return _behind_window.get()


def give_way(wanted: bool) -> None:
    """If `wanted`, lower the priority of the calling thread permanently."""
    if wanted and sys.platform == "linux":
        with contextlib.suppress(OSError):  # the window is then a little less responsive
            thread = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, thread, max(NICE, os.getpriority(os.PRIO_PROCESS, thread)))
