"""Iteration ahead of the consumer in a background thread."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from queue import SimpleQueue
from typing import TypeVar

from napari_face_landmarks.priority import give_way, works_behind_a_window

T = TypeVar("T")


class _Failure:
    def __init__(self, error: BaseException) -> None:
        self.error = error


_END = object()


def prefetch(items: Iterable[T], depth: int = 4) -> Iterator[T]:
    """Iterate over `items` in a background thread, at most `depth` items ahead of the consumer.

    Parameters
    ----------
    items : iterable
        For example the frames of a video, which are decoded without the GIL. It is advanced, and closed if
        it is a generator, in the background thread only.
    depth : int
        Maximum number of waiting items.

    Yields
    ------
    object
        The items in order. An exception raised by `items` is raised here after the preceding items.

    Notes
    -----
    The thread starts when the first item is requested and ends before this generator is exhausted, closed
    or collected.
    """
    waiting: SimpleQueue[object] = SimpleQueue()
    room: SimpleQueue[None] = SimpleQueue()  # one entry per item that may still be added to `waiting`
    stopped = threading.Event()
    for _ in range(max(1, depth)):
        room.put(None)
    arguments = (items, waiting, room, stopped, works_behind_a_window())
    worker = threading.Thread(target=_fill, args=arguments, name="prefetch", daemon=True)
    worker.start()
    try:
        while (item := waiting.get()) is not _END:
            if isinstance(item, _Failure):
                raise item.error
            room.put(None)
            yield item  # type: ignore[misc]
    finally:
        stopped.set()
        room.put(None)  # the thread may be waiting for room
        worker.join()


def _fill(
    items: Iterable[T],
    waiting: SimpleQueue[object],
    room: SimpleQueue[None],
    stopped: threading.Event,
    behind_window: bool,
) -> None:
    give_way(behind_window)
    try:
        iterator = iter(items)
        try:
            for item in iterator:
                room.get()
                if stopped.is_set():
                    return
                waiting.put(item)
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()
    except BaseException as error:
        waiting.put(_Failure(error))
    else:
        waiting.put(_END)
