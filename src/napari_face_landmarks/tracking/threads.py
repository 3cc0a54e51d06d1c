"""Work done ahead of its turn, on a few threads or on none, with the same results."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

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


class Workers:
    """A few threads for work whose result is asked for later; with one thread, work is done when it comes.

    To be used in a ``with`` block: at its end, work not begun is dropped and every thread has ended.

    Parameters
    ----------
    threads : int
        How many pieces of work are done at a time, at most.
    """

    def __init__(self, threads: int) -> None:
        self._pool = thread_pool(threads) if threads > 1 else None
        self._lock = threading.Lock()
        self._closed = False

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._closed = True
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def submit(self, work: Callable[[], T], after: Future[T] | None = None) -> Future[T]:
        """Have work done, and give its result or its exception.

        Parameters
        ----------
        work : callable
            Called once, without arguments.
        after : Future, optional
            What has to be done before it is begun; whether that failed does not matter.
        """
        promise: Future[T] = Future()
        if self._pool is None:
            _do(work, promise)
        elif after is None:
            self._begin(work, promise)
        else:
            after.add_done_callback(lambda _: self._begin(work, promise))
        return promise

    def _begin(self, work: Callable[[], T], promise: Future[T]) -> None:
        with self._lock:
            if self._pool is not None and not self._closed:
                self._pool.submit(_do, work, promise)
                return
        promise.cancel()  # and what waits for it


def _do(work: Callable[[], T], promise: Future[T]) -> None:
    try:
        promise.set_result(work())
    except BaseException as error:
        promise.set_exception(error)
