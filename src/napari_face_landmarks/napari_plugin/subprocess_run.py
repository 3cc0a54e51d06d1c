"""A run in a process of its own: the window and the run do not wait for each other's turn at Python.

The process does what `background` would do on a thread. Over its standard input it gets lines of JSON, the
order and then words; ten times a second it tells on its standard output what it has done: a line of JSON,
then the finished frames as a journal has them (`frame_type`), then the pixels of a frame to show, if any.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Generator, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from napari_face_landmarks.data.frame import unstack_frames
from napari_face_landmarks.data.stats import RunStats
from napari_face_landmarks.data.tracks import collect
from napari_face_landmarks.errors import FaceLandmarksError, VideoError
from napari_face_landmarks.napari_plugin.run_controller import BackgroundRun, track_here
from napari_face_landmarks.priority import NICE
from napari_face_landmarks.runs.checkpoint import frame_to_bytes, frame_type
from napari_face_landmarks.runs.worker import serve
from napari_face_landmarks.settings import TrackerSettings
from napari_face_landmarks.tracking.regions import regions_from_dict
from napari_face_landmarks.video import Video, VideoWarning, open_video

SECONDS = 0.1  # between two pieces of news
WORTH_IT = 250
"""Frames: a process takes a second to begin."""
SECONDS_TO_END = 5.0
LONGEST_LINE = 16 << 20
BEGIN = f"import sys; sys.path[:] = sys.argv[1:]; from {__name__} import main; main()"
"""What the process runs: with the same places to import from as here."""

Said = dict[str, Any]


def order_of(run: BackgroundRun) -> Said | None:
    """Return what a process would have to do for a run; None where it is better done on a thread here.

    That is where the frames are no file's, where there are few of them, or where this Python is built into a
    program and cannot be started by itself.
    """
    if run.models is None or not isinstance(run.frames, Video) or run.stop - run.start < WORTH_IT:
        return None
    if getattr(sys, "frozen", False) or not sys.executable:
        return None
    return {
        "models": run.models,
        "settings": run.settings.to_dict(),
        "video": run.frames.info.path,
        "state": list(run.frames.film.state),
        "start": run.start,
        "stop": run.stop,
        "go_on": run.go_on,
        "regions": run.regions.to_dict(),
        "journals": None if run.journals is None else str(run.journals),
    }


def track_apart(run: BackgroundRun, order: Said) -> Generator[None, None, bool]:
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
        for said in _news(told, run):
            begun = True
            if "error" in said:
                run.error = said["error"]
                if said["stats"] is not None:
                    run.tracks = collect(
                        run.results,
                        settings=run.settings,
                        stats=RunStats(**said["stats"]),
                        timestamps=run.frames.info.timestamps,
                        warnings=said["warnings"],
                        meta=said["meta"],
                    )
                return True
            run.message, run.notice = said["message"], said["notice"]
            yield
    finally:
        run.listen(None)
        _end(process)
    if begun:
        run.error = f"The process of the run ended by itself ({_why(process.returncode)}): run it again."
        run.tracks = run.put_together()
    return begun


def _news(stream: IO[bytes], run: BackgroundRun) -> Iterator[Said]:
    """Yield what the process tells until it has nothing more to tell; frames are taken over into the run."""
    kind = frame_type(run.settings.max_faces)
    with suppress(OSError, ValueError):  # half a message, where the process was killed
        while line := stream.readline(LONGEST_LINE):
            said: Said = json.loads(line)
            count = min(int(said.get("frames", 0)), run.stop - run.start)
            rows = np.frombuffer(stream.read(count * kind.itemsize), kind, count)
            run.results.extend(unstack_frames({name: rows[name].copy() for name in kind.names or ()}))
            if said.get("picture") is not None:
                shape = run.frames.shape[1:]
                size = int(np.prod(shape))
                picture = np.frombuffer(stream.read(size), np.uint8, size).reshape(shape)
                run.frames.keep(int(said["picture"]), picture)
            yield said


def _started(order: Said) -> subprocess.Popen[bytes]:
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


def _tell(stream: IO[bytes], what: Said | str, *parts: Any) -> None:
    with suppress(OSError, ValueError):  # the other end has gone or is closed; reading from it will tell
        stream.write(json.dumps(what).encode() + b"\n")
        for part in parts:
            stream.write(memoryview(part).cast("B"))
        stream.flush()


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
    out = serve()
    if sys.platform != "win32":
        os.nice(NICE)
    order: Said = json.loads(sys.stdin.buffer.readline(LONGEST_LINE))
    try:
        run = _run_of(order)
    except FaceLandmarksError as error:
        _tell(out, {"error": str(error), "stats": None})
        return
    ended = threading.Event()
    listener = threading.Thread(target=_obey, args=(run, sys.stdin.buffer), daemon=True)
    reporter = threading.Thread(target=_report, args=(run, out, ended), daemon=True)
    listener.start()
    reporter.start()
    for _ in track_here(run):
        pass
    ended.set()
    reporter.join()
    end: Said = {"error": run.error, "stats": None}
    if run.tracks is not None:
        end["stats"] = dataclasses.asdict(run.tracks.stats)
        end["warnings"], end["meta"] = list(run.tracks.warnings), dict(run.tracks.meta)
    _tell(out, end)
    listener.join()  # until the window has taken it and closes the line


def _run_of(order: Mapping[str, Any]) -> BackgroundRun:
    from napari_face_landmarks.models import load_models

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VideoWarning)  # told when it was opened in the window
        video = open_video(order["video"])
    if list(video.film.state) != order["state"]:
        raise VideoError(f"{order['video']} has changed since it was opened: open it again.")
    return BackgroundRun(
        partial(load_models, order["models"]),
        TrackerSettings(**order["settings"]),
        video,
        order["start"],
        order["stop"],
        order["go_on"],
        regions=regions_from_dict(order["regions"]),
        journals=None if order["journals"] is None else Path(order["journals"]),
    )


def _obey(run: BackgroundRun, words: IO[bytes]) -> None:
    """Do what the window says; where it has gone, stop as if it had cancelled the run."""
    for line in words:
        word = json.loads(line)
        if word in ("show", "hide"):
            run.shows = run.frames.keeps_frames = word == "show"
        else:
            {"pause": run.pause, "resume": run.resume, "cancel": run.cancel}[word]()
    run.cancel()


def _report(run: BackgroundRun, out: IO[bytes], ended: threading.Event) -> None:
    kind = frame_type(run.settings.max_faces)
    told, last = 0, False
    while not last:
        last = ended.wait(SECONDS)
        results = run.results[told:]
        told += len(results)
        said: Said = {"message": run.message, "notice": run.notice, "frames": len(results), "picture": None}
        parts: list[Any] = [b"".join(frame_to_bytes(result, kind) for result in results)]
        if run.shows and results:
            with suppress(FaceLandmarksError):  # the run itself will tell
                parts.append(run.frames[results[-1].index])
                said["picture"] = results[-1].index
        _tell(out, said, *parts)
