"""Thread pool for the stages of tracking; with one thread, work runs in the caller's thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from napari_face_landmarks.errors import SettingsError
from napari_face_landmarks.priority import give_way, works_behind_a_window

T = TypeVar("T")

MOST_THREADS = 64


def checked_threads(threads: object) -> int:
    """Return the number of threads, or raise a `SettingsError` if it is not valid."""
    if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= MOST_THREADS:
        raise SettingsError(f"threads is {threads!r}: give a whole number from 1 to {MOST_THREADS}.")
    return threads


def thread_pool(threads: int) -> ThreadPoolExecutor:
    """Return an executor for a run; its threads have a lower priority behind a GUI."""
    return ThreadPoolExecutor(threads, "face-landmarks", give_way, (works_behind_a_window(),))


class Promise(Generic[T]):
    """Result or exception of submitted work, possibly pending."""

    __slots__ = ("_dependents", "_error", "_finished", "_started", "_value", "_waits_for", "_work", "done")

    def __init__(self, work: Callable[[], T]) -> None:
        self.done = False
        self._work: Callable[[], T] | None = work
        self._value: T
        self._error: BaseException | None = None
        self._dependents: list[Promise[Any]] = []  # work that depends on this
        self._waits_for = 0
        self._started = False  # whether a thread has started it
        self._finished = threading.Lock()  # released once it is done
        self._finished.acquire()


class Workers:
    """Thread pool for a ``with`` block; the calling thread works too while it waits for a result.

    On exit, pending work is dropped and all threads are joined. Behind a GUI the calling thread does not
    work, and there is one more thread instead.
    """

    def __init__(self, threads: int) -> None:
        self._waiting: SimpleQueue[Promise[Any] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        behind_window = works_behind_a_window()
        self._helps = threads == 1 or not behind_window
        self._threads = [
            threading.Thread(
                target=self._work, args=(behind_window,), name=f"face-landmarks_{k}", daemon=True
            )
            for k in range(threads - self._helps)
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        for _each in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()

    def submit(self, work: Callable[[], T], after: Iterable[Promise[Any]] = ()) -> Promise[T]:
        """Submit work that starts once the work in `after`, if any, has finished or failed."""
        promise = Promise(work)
        with self._lock:
            for other in after:
                if not other.done:
                    other._dependents.append(promise)
                    promise._waits_for += 1
            free = not promise._waits_for
        if free:
            self._waiting.put(promise)
        return promise

    def result(self, promise: Promise[T]) -> T:
        """Wait for work and return its result or raise its exception; meanwhile do it or other work."""
        if self._helps:
            self._do(promise)
        while not promise.done:
            try:
                other = self._waiting.get_nowait() if self._helps else None
            except Empty:
                other = None
            if other is None:  # another thread does it, or work it depends on
                with promise._finished:
                    break
            self._do(other)
        if promise._error is not None:
            raise promise._error
        return promise._value

    def _work(self, behind_window: bool) -> None:
        give_way(behind_window)
        while (promise := self._waiting.get()) is not None:
            if not self._closed:
                self._do(promise)
            del promise  # frees its frame

    def _do(self, promise: Promise[Any]) -> None:
        """Do work, unless it depends on unfinished work or another thread has started it."""
        with self._lock:
            if promise._started or promise._waits_for:
                return
            promise._started = True
        try:
            assert promise._work is not None
            promise._value = promise._work()
        except BaseException as error:
            promise._error = error
        promise._work = None
        with self._lock:
            promise.done = True
            for other in promise._dependents:
                other._waits_for -= 1
            free = [other for other in promise._dependents if not other._waits_for]
        for other in free:
            self._waiting.put(other)
        promise._finished.release()
