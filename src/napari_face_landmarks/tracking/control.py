"""Pause, resume and cancel a run from another thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class RunControl:
    """Pause, resume and cancel a run from any thread; requests take effect after the current frame.

    The run calls `wait` between two frames; `forward` passes requests on to another process.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._cancelled, self._may_continue = threading.Event(), threading.Event()
        self._may_continue.set()
        self._receiver: Callable[[str], None] | None = None

    @property
    def cancelled(self) -> bool:
        """Whether cancellation was requested."""
        return self._cancelled.is_set()

    @property
    def paused(self) -> bool:
        """Whether a pause was requested."""
        return not self._may_continue.is_set()

    def cancel(self) -> None:
        """End the run, even if paused."""
        with self._lock:
            self._cancelled.set()
            self._may_continue.set()
            self._send("cancel")

    def pause(self) -> None:
        """Pause the run, unless it is cancelled."""
        with self._lock:
            if not self.cancelled:
                self._may_continue.clear()
                self._send("pause")

    def resume(self) -> None:
        """Continue a paused run."""
        with self._lock:
            self._may_continue.set()
            self._send("resume")

    def forward(self, receiver: Callable[[str], None] | None) -> None:
        """Call `receiver` with the name of each request, beginning with those in effect."""
        with self._lock:
            self._receiver = receiver
            for name, in_effect in (("pause", self.paused), ("cancel", self.cancelled)):
                if in_effect:
                    self._send(name)

    def wait(self) -> float:
        """Wait while the run is paused; return the seconds waited."""
        if not self.paused:
            return 0.0
        start = time.perf_counter()
        self._may_continue.wait()
        return time.perf_counter() - start

    def _send(self, name: str) -> None:
        if self._receiver is not None:
            self._receiver(name)
