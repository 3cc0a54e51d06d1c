"""Processor cores, and thread priorities below that of the GUI, so that the window stays responsive."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from contextvars import ContextVar

NICE = 10
"""Niceness of worker threads: the GUI thread gets nine times the processor time of each of them."""

_behind_window: ContextVar[bool] = ContextVar("_behind_window", default=False)


def cores() -> int:
    """Return how many processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def behind_a_window() -> Iterator[None]:
    """Start threads in this context with a priority below that of the GUI.

    Has an effect on Linux only, where each thread has its own priority.
    """
    before = _behind_window.set(True)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the context ended on another thread
            _behind_window.reset(before)


def works_behind_a_window() -> bool:
    """Return whether threads started here should have a lower priority."""
    return _behind_window.get()


def give_way(wanted: bool) -> None:
    """Lower the priority of this thread permanently, if `wanted`."""
    if wanted and sys.platform == "linux":
        with contextlib.suppress(OSError):  # the window is then a little less responsive
            this = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, this, max(NICE, os.getpriority(os.PRIO_PROCESS, this)))
