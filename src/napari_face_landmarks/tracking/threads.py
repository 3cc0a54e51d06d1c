"""Work done ahead of its turn, on a few threads or on none, with the same results."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, Generic, TypeAlias, TypeVar

from napari_face_landmarks.errors import SettingsError
from napari_face_landmarks.priority import give_way, works_behind_a_window

T = TypeVar("T")

MOST_THREADS = 64


def checked_threads(threads: object) -> int:
    """Return a number of threads that the user gave, or refuse it in a sentence."""
    if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= MOST_THREADS:
        raise SettingsError(f"threads is {threads!r}: give a whole number from 1 to {MOST_THREADS}.")
    return threads


def thread_pool(threads: int) -> ThreadPoolExecutor:
    """Return a pool for the work of a run, whose threads give way to a window that it is behind."""
    return ThreadPoolExecutor(threads, "face-landmarks", give_way, (works_behind_a_window(),))


class Done(Generic[T]):
    """The result of work that was done when it came, as a `Future` gives it, without its locks."""

    __slots__ = ("_error", "_value")

    def __init__(self, work: Callable[[], T]) -> None:
        self._error: BaseException | None = None
        try:
            self._value = work()
        except BaseException as error:
            self._error = error

    def done(self) -> bool:
        """Return True."""
        return True

    def result(self, timeout: float | None = None) -> T:
        """Return what the work gave, or raise its exception."""
        if self._error is not None:
            raise self._error
        return self._value


Promise: TypeAlias = Future[T] | Done[T]
"""What work that was submitted gives."""


class Workers:
    """A small thread pool; with one thread, work is done when it is submitted.

    A context manager: at its end, pending work is dropped and all threads have ended.
    """

    def __init__(self, threads: int) -> None:
        self._waiting: SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        behind = works_behind_a_window()
        self._threads = [
            threading.Thread(target=self._work, args=(behind,), name=f"face-landmarks_{k}", daemon=True)
            for k in range(threads if threads > 1 else 0)
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._closed = True
        for _each in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()

    def submit(self, work: Callable[[], T], after: Promise[T] | None = None) -> Promise[T]:
        """Do work, after other work (failed or not) if given; return a promise of its result or exception."""
        if not self._threads:
            return Done(work)
        promise: Future[T] = Future()
        if isinstance(after, Future):
            after.add_done_callback(lambda _: self._begin(work, promise))
        else:
            self._begin(work, promise)
        return promise

    def _begin(self, work: Callable[[], T], promise: Future[T]) -> None:
        with self._lock:
            if not self._closed:
                self._waiting.put((work, promise))
                return
        promise.cancel()  # and what waits for it

    def _work(self, behind_window: bool) -> None:
        give_way(behind_window)
        while (item := self._waiting.get()) is not None:
            if self._closed:
                item[1].cancel()
            else:
                _do(*item)
            del item  # and the frame that it holds


def _do(work: Callable[[], T], promise: Future[T]) -> None:
    try:
        promise.set_result(work())
    except BaseException as error:
        promise.set_exception(error)
