"""Asynchronous work on a few threads, or on none, with the same results."""

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
    """Return a valid number of threads, or raise an error."""
    if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= MOST_THREADS:
        raise SettingsError(f"threads is {threads!r}: give a whole number from 1 to {MOST_THREADS}.")
    return threads


def thread_pool(threads: int) -> ThreadPoolExecutor:
    """Return a pool for a run; its threads have a lower priority in a run behind a window."""
    return ThreadPoolExecutor(threads, "face-landmarks", give_way, (works_behind_a_window(),))


class Promise(Generic[T]):
    """The result or exception of submitted work."""

    __slots__ = ("_error", "_finished", "_taken", "_then", "_value", "_waits_for", "_work", "done")

    def __init__(self, work: Callable[[], T]) -> None:
        self.done = False
        self._work: Callable[[], T] | None = work
        self._value: T
        self._error: BaseException | None = None
        self._then: list[Promise[Any]] = []  # what waits for this
        self._waits_for = 0
        self._taken = False  # by a thread that does it
        self._finished = threading.Lock()  # free once it is done
        self._finished.acquire()


class Workers:
    """A small thread pool, used in a ``with`` block by one thread, which helps while it waits for a result.

    At the end of the block, pending work is dropped and all threads have ended. Behind a window there is one
    thread more, since the waiting one does not help.
    """

    def __init__(self, threads: int) -> None:
        self._waiting: SimpleQueue[Promise[Any] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        behind = works_behind_a_window()
        self._helps = threads == 1 or not behind
        self._threads = [
            threading.Thread(target=self._work, args=(behind,), name=f"face-landmarks_{k}", daemon=True)
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
        """Have work done, after other work if given; whether that failed does not matter."""
        promise = Promise(work)
        with self._lock:
            for other in after:
                if not other.done:
                    other._then.append(promise)
                    promise._waits_for += 1
            free = not promise._waits_for
        if free:
            self._waiting.put(promise)
        return promise

    def result(self, promise: Promise[T]) -> T:
        """Return the result of work, or raise its exception; do it, or other work until it is done."""
        if self._helps:
            self._do(promise)
        while not promise.done:
            try:
                other = self._waiting.get_nowait() if self._helps else None
            except Empty:
                other = None
            if other is None:  # another thread is at it, or at what it waits for
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
            del promise  # and the frame that it holds

    def _do(self, promise: Promise[Any]) -> None:
        """Do work, unless it waits for other work or a thread has taken it."""
        with self._lock:
            if promise._taken or promise._waits_for:
                return
            promise._taken = True
        try:
            assert promise._work is not None
            promise._value = promise._work()
        except BaseException as error:
            promise._error = error
        promise._work = None
        with self._lock:
            promise.done = True
            for other in promise._then:
                other._waits_for -= 1
            free = [other for other in promise._then if not other._waits_for]
        for other in free:
            self._waiting.put(other)
        promise._finished.release()
