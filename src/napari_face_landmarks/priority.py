"""Threads that give way to a window: it answers at once, and the work behind it takes what is left."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from contextvars import ContextVar

NICE = 10
"""How much threads give way: the window's gets nine times the processor time of each of them."""

_behind_window: ContextVar[bool] = ContextVar("_behind_window", default=False)


@contextlib.contextmanager
def behind_a_window() -> Iterator[None]:
    """Have the threads that are begun in this context give way to the window of their process.

    On Linux, where a thread has a priority of its own; elsewhere nothing changes.
    """
    before = _behind_window.set(True)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # ended on another thread than it began on
            _behind_window.reset(before)


def works_behind_a_window() -> bool:
    """Return whether the threads that are begun here are to give way."""
    return _behind_window.get()


def give_way(wanted: bool) -> None:
    """Lower the priority of this thread, for good, if that is wanted."""
    if wanted and sys.platform == "linux":
        with contextlib.suppress(OSError):  # then the window waits a little
            this = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, this, max(NICE, os.getpriority(os.PRIO_PROCESS, this)))
