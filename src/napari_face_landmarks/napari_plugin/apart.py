"""A run in a process of its own: the window and the run do not wait for each other's turn at Python.

The process does what `background` would do on a thread, and tells what it has done ten times a second over
its standard output; words from the window come over its standard input. Both ends are this program, so what
goes between them is pickled.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.errors import FaceLandmarksError
from napari_face_landmarks.napari_plugin.background import BackgroundRun, track_here
from napari_face_landmarks.priority import NICE
from napari_face_landmarks.settings import TrackerSettings
from napari_face_landmarks.tracking.regions import Regions
from napari_face_landmarks.tracking.results import FrameResult, Tracks
from napari_face_landmarks.video import Film, Video

SECONDS = 0.1  # between two pieces of news
WORTH_IT = 250
"""Frames: a process takes a second to begin."""
SECONDS_TO_END = 5.0
BEGIN = f"import sys; sys.path[:] = sys.argv[1:]; from {__name__} import main; main()"
"""What the process runs: with the same places to import from as here."""


@dataclass(frozen=True)
class Order:
    """What the process is to do; the parts are those of `BackgroundRun`."""

    models: str
    settings: TrackerSettings
    film: Film
    start: int
    stop: int
    go_on: bool
    regions: Regions
    journals: Path | None


class News(NamedTuple):
    """What has happened since the last news; `picture` is a frame that a follower need not decode again."""

    message: str
    notice: str | None
    results: list[FrameResult]
    picture: tuple[int, npt.NDArray[np.uint8]] | None


class End(NamedTuple):
    """How the run ended."""

    error: str | None
    tracks: Tracks | None


def order_of(run: BackgroundRun) -> Order | None:
    """Return what a process would have to do for a run; None where it is better done on a thread here.

    That is where the frames are no file's, where there are few of them, or where this Python is built into a
    program and cannot be started by itself.
    """
    if run.models is None or not isinstance(run.frames, Video) or run.stop - run.start < WORTH_IT:
        return None
    if getattr(sys, "frozen", False) or not sys.executable:
        return None
    return Order(
        run.models,
        run.settings,
        run.frames.film,
        run.start,
        run.stop,
        run.go_on,
        run.regions,
        run.journals,
    )


def track_apart(run: BackgroundRun, order: Order) -> Generator[None, None, bool]:
    """Have a run done by another process, yielding after each piece of news; return whether it began.

    Where it ended by itself before its time, the finished frames are put together here.
    """
    run.message = "Starting …"
    try:
        process = _started(order)
    except OSError:
        return False
    words, told = _streams(process)
    run.listen(partial(_tell, words))
    begun = False
    try:
        for news in _read(told):
            begun = True
            if isinstance(news, End):
                run.error, run.tracks = news
                return True
            run.message = news.message
            run.notice = news.notice
            run.results.extend(news.results)
            if news.picture is not None:
                run.frames.keep(*news.picture)
            yield
    finally:
        run.listen(None)
        _end(process)
    if begun:
        run.error = f"The process of the run ended by itself ({_why(process.returncode)}): run it again."
        run.tracks = run.put_together()
    return begun


def _started(order: Order) -> subprocess.Popen[bytes]:
    flags = 0
    if sys.platform == "win32":
        flags = subprocess.CREATE_NO_WINDOW | subprocess.BELOW_NORMAL_PRIORITY_CLASS
    process = subprocess.Popen(
        [sys.executable, "-c", BEGIN, *sys.path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        creationflags=flags,
    )
    _tell(_streams(process)[0], order)
    return process


def _streams(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    assert process.stdin is not None
    assert process.stdout is not None
    return process.stdin, process.stdout


def _tell(stream: IO[bytes], what: Any) -> None:
    with suppress(OSError, ValueError):  # the other end has gone or is closed; reading from it will tell
        pickle.dump(what, stream, protocol=pickle.HIGHEST_PROTOCOL)
        stream.flush()


def _read(stream: IO[bytes]) -> Generator[Any]:
    """Yield what the other end tells until it has nothing more to tell."""
    while True:
        try:
            yield pickle.load(stream)
        except (EOFError, OSError, ValueError, pickle.UnpicklingError):
            return


def _end(process: subprocess.Popen[bytes]) -> None:
    """Wait until the process has ended: that its input does is the sign for it to stop."""
    for stream in _streams(process):
        with suppress(OSError):
            stream.close()
    try:
        process.wait(SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _why(code: int) -> str:
    return f"killed by signal {-code}" if code < 0 else f"exit status {code}"


# in the process


def main() -> None:
    """Do one run: take the order from standard input, tell the news on standard output."""
    from napari_face_landmarks.models import load_models

    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no news
    if sys.platform != "win32":
        os.nice(NICE)
    words = _read(sys.stdin.buffer)
    order: Order = next(words)
    run = BackgroundRun(
        partial(load_models, order.models),
        order.settings,
        Video(order.film),
        order.start,
        order.stop,
        order.go_on,
        regions=order.regions,
        journals=order.journals,
    )
    ended = threading.Event()
    listener = threading.Thread(target=_obey, args=(run, words), daemon=True)
    reporter = threading.Thread(target=_report, args=(run, out, ended), daemon=True)
    listener.start()
    reporter.start()
    for _ in track_here(run):
        pass
    ended.set()
    reporter.join()
    _tell(out, End(run.error, run.tracks))
    listener.join()  # until the window has taken it and closes the line


def _obey(run: BackgroundRun, words: Generator[Any]) -> None:
    """Do what the window says; where it has gone, stop as if it had cancelled the run."""
    for word in words:
        if word == "show":
            run.shows = run.frames.keeps_frames = True
        elif word == "hide":
            run.shows = run.frames.keeps_frames = False
        else:
            {"pause": run.pause, "resume": run.resume, "cancel": run.cancel}[word]()
    run.cancel()


def _report(run: BackgroundRun, out: IO[bytes], ended: threading.Event) -> None:
    told, last = 0, False
    while not last:
        last = ended.wait(SECONDS)
        results = run.results[told:]
        told += len(results)
        picture = None
        if run.shows and results:
            number = results[-1].index
            with suppress(FaceLandmarksError):  # the run itself will tell
                picture = number, run.frames[number]
        _tell(out, News(run.message, run.notice, results, picture))
