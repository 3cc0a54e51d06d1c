"""Worker processes for the jobs of a batch and, as `RemoteRun`, for the long runs of the dock.

A worker reads requests, lines of JSON, from its standard input and answers with lines of JSON on its standard
output:

- ``{"job": {...}}`` is passed to `do_job`; the answers are ``{"done": 12, "total": 300}`` repeatedly and
  ``{"result": {...}}`` at the end.
- ``{"run": {...}}`` is a `RunRequest`; an answer reports its progress ten times a second. ``frames`` is the
  number of finished frames (`frame_type`) that follow the line. If ``picture`` is a frame number and not
  null, the pixels of this frame follow them. ``end`` is true in the last answer.
- ``"pause"``, ``"resume"``, ``"cancel"``, ``"show"`` and ``"hide"`` (send pixels or not) control a run.

When its input is closed, a worker cancels its run and exits.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from napari_face_landmarks.data.frame import FrameResult, unstack_frames
from napari_face_landmarks.data.stats import RunStats
from napari_face_landmarks.data.tracks import Tracks, collect
from napari_face_landmarks.errors import FaceLandmarksError, ResultError, VideoError, in_one_line
from napari_face_landmarks.jit import COMPILED
from napari_face_landmarks.models import load_models
from napari_face_landmarks.priority import NICE
from napari_face_landmarks.processes import start_python
from napari_face_landmarks.runs.checkpoint import frame_to_bytes, frame_type, open_run
from napari_face_landmarks.runs.job import FileResult, Job, do_job, failure, result_from_dict
from napari_face_landmarks.settings import TrackerSettings
from napari_face_landmarks.tracking import FaceTracker
from napari_face_landmarks.tracking.control import RunControl
from napari_face_landmarks.tracking.regions import regions_from_dict
from napari_face_landmarks.tracking.run import Run
from napari_face_landmarks.video import Video, VideoWarning, open_video
from napari_face_landmarks.video.container import limit_threads

TRIES = 2
"""Maximum number of attempts if the process of a job dies."""
_PROGRESS_SECONDS = 0.1
_STOP_SECONDS = 5.0
_MAX_LINE_BYTES = 16 << 20
BEGIN = f"""
import os
answers = os.dup(1)
os.dup2(2, 1)  # keeps text that libraries print out of the answers
from {__name__} import main
main(answers)
"""
LOADING = "Loading the models …"
PREPARING = "Starting the tracker …"
OnProgress = Callable[[int, int, int], None]
"""Called with the index of the job, the number of tracked frames and the total."""
OnResult = Callable[[int, FileResult], None]
Message = dict[str, Any]
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "OPENCV_FOR_THREADS_NUM",
)
_log = logging.getLogger(__name__)


class Worker:
    """The parent's handle of a worker process; raises an `OSError` if none can be started.

    `threads` limits the threads of its libraries. On Windows, a `background` worker has no console window and
    a lower priority.
    """

    def __init__(self, threads: int | None = None, background: bool = False) -> None:
        limits = {} if threads is None else dict.fromkeys(_THREAD_VARIABLES, str(threads))
        self.process = start_python(
            BEGIN,
            limits,
            background,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if background else subprocess.DEVNULL,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._requests, self.answers = self.process.stdin, self.process.stdout

    def send(self, message: Message | str) -> None:
        """Send a request; if the process has ended, the error appears when its answers are read."""
        with suppress(OSError, ValueError):
            _send(self._requests, message)

    def messages(self) -> Iterator[Message]:
        """Yield the answers of the process until it ends."""
        with suppress(OSError, ValueError):  # an incomplete line of a killed process
            while line := self.answers.readline(_MAX_LINE_BYTES):
                yield json.loads(line)

    def stop(self) -> None:
        """End the process by closing its input."""
        with suppress(OSError):
            self._requests.close()
        try:
            self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.answers.close()

    def ending(self) -> str:
        """Stop the process and return how it ended, as a phrase."""
        self.stop()
        code = self.process.returncode
        if code < 0:
            with suppress(ValueError):
                return f"by {signal.Signals(-code).name}"
        return f"with status {code}"


def _send(stream: IO[bytes], message: Message | str, *payload: Any) -> None:
    stream.write(json.dumps(message).encode() + b"\n")
    for part in payload:
        stream.write(memoryview(part).cast("B"))
    stream.flush()


# jobs


def run_local(
    jobs: Sequence[Job],
    processes: int,
    on_progress: OnProgress,
    on_result: OnResult,
    cancelled: Callable[[], bool] = lambda: False,
) -> None:
    """Run jobs in worker processes on this machine, `processes` at a time.

    A job whose process dies is resumed once and then fails. Callbacks are called from several threads, but
    never simultaneously. `cancelled` is called a few times a second; once it returns True, all processes are
    stopped.
    """
    waiting = deque(enumerate(jobs))
    lock = threading.Lock()
    stopping = threading.Event()
    running: set[Worker] = set()
    errors: list[Exception] = []

    def call_back(callback: Callable[..., None], *arguments: Any) -> None:
        try:
            with lock:
                callback(*arguments)
        except Exception as error:  # the other jobs continue
            errors.append(error)

    def work() -> None:
        worker: Worker | None = None
        while not stopping.is_set():
            with lock:
                if not waiting:
                    break
                index, job = waiting.popleft()
            result, worker = _attempt(job, worker, running, stopping, partial(call_back, on_progress, index))
            if stopping.is_set():
                return
            call_back(on_result, index, result)
        if worker is not None:
            worker.stop()

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(processes, len(jobs)))]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            while thread.is_alive() and not stopping.is_set():
                thread.join(0.2)  # returns regularly, so that Ctrl-C is handled
                if cancelled():
                    stopping.set()
    finally:
        stopping.set()
        for worker in list(running):
            worker.stop()
    if errors:
        raise errors[0]


def _attempt(
    job: Job,
    worker: Worker | None,
    running: set[Worker],
    stopping: threading.Event,
    progress: Callable[[int, int], None],
) -> tuple[FileResult, Worker | None]:
    """Run a job, and resume it if its process dies; return its result and the worker for the next job."""
    reason = ""
    for attempt in range(1, TRIES + 1):
        if worker is None:
            try:
                worker = Worker(job.threads)
            except OSError as error:  # out of memory or processes
                reason = f"No process could be started for {job.video} ({error}): run fewer jobs at a time."
                continue
            running.add(worker)
        result = _request(worker, job, progress)
        if result is not None:
            return dataclasses.replace(result, tries=attempt), worker
        if stopping.is_set():
            break
        running.discard(worker)
        reason = (
            f"The process that tracked {job.video} ended {worker.ending()}, {TRIES} times: frames tracked "
            "until then are kept; check the memory, or track this video alone."
        )
        worker = None
    return failure(job, reason, TRIES), worker


def _request(worker: Worker, job: Job, progress: Callable[[int, int], None]) -> FileResult | None:
    """Run a job in a worker; return its result, or None if the process died."""
    worker.send({"job": dataclasses.asdict(job)})
    for answer in worker.messages():
        if "result" in answer:
            return result_from_dict(answer["result"])
        progress(int(answer["done"]), int(answer["total"]))
    return None


# runs


@dataclasses.dataclass(frozen=True)
class RunRequest:
    """Request for a run over a video file."""

    models: str  # as for `load_models`
    settings: Mapping[str, Any]  # fields of `TrackerSettings`
    video: str  # path; if empty, only the kernels are compiled
    file: Sequence[Any]  # `IndexedVideo.state`; an error is raised if the file has changed
    # start, stop: the frames to track
    start: int
    stop: int
    resume: bool  # whether to resume an interrupted run with the same identity
    regions: Mapping[str, Any]  # from `Regions.to_dict`
    checkpoints: str | None  # folder of the checkpoint files; None for no checkpoint
    stream: int | None = None  # number of the video stream


class RemoteRun(Iterator[FrameResult]):
    """A run in a worker process, with the interface of `Run`; raises an `OSError` if none can be started.

    `video` is the video of the request, if any; frames for display are added to its cache. `stats` and
    `warnings` are the last reported ones, `message` describes the start of the run before the first result.
    """

    def __init__(self, request: RunRequest, video: Video | None, control: RunControl) -> None:
        self.control, self.stats, self.message = control, RunStats(), ""
        self._video, self._settings = video, TrackerSettings(**request.settings)
        self.warnings: list[str] = []
        self._meta: Message = {}
        self._pending: deque[FrameResult] = deque()
        self._remaining = request.stop - request.start
        self._worker = Worker(background=True)
        self._worker.send({"run": dataclasses.asdict(request)})
        self._answers = self._worker.messages()
        self._filling = self.fill(self._pending)
        self._first = next(self._answers, None)
        if self._first is None:
            raise OSError(f"The worker process ended {self._worker.ending()}.")
        control.forward(self._worker.send)

    def show(self, enabled: bool) -> None:
        """Start or stop receiving the pixels of the newest frames, which the local video caches."""
        self._worker.send("show" if enabled else "hide")

    def fill(self, results: list[FrameResult] | deque[FrameResult]) -> Iterator[int]:
        """Append new results; yield their number, which may be 0, ten times a second."""
        answer, self._first = self._first, None
        while answer is not None:
            new = self._read(answer)
            results.extend(new)
            yield len(new)
            if answer["end"]:
                if answer["error"] is not None:
                    raise ResultError(answer["error"])
                return
            answer = next(self._answers, None)
        raise ResultError(f"The worker process of the run ended {self._worker.ending()}: run it again.")

    def __next__(self) -> FrameResult:
        """Return the next frame's result."""
        while not self._pending:
            next(self._filling)  # raises StopIteration at the end
        return self._pending.popleft()

    def _read(self, answer: Message) -> list[FrameResult]:
        """Process an answer and return the results that follow it."""
        kind = frame_type(self._settings.max_faces)
        count = min(int(answer["frames"]), self._remaining)
        self._remaining -= count
        stream = self._worker.answers
        with suppress(OSError, ValueError):  # incomplete data of a killed process
            rows = np.frombuffer(stream.read(count * kind.itemsize), kind, count)
            if self._video is not None and answer["picture"] is not None:
                shape = self._video.shape[1:]
                size = int(np.prod(shape))
                pixels = np.frombuffer(stream.read(size), np.uint8, size)
                self._video.keep(int(answer["picture"]), pixels.reshape(shape))
            self.stats, self.message = RunStats(**answer["stats"]), answer["message"]
            self.warnings, self._meta = answer["warnings"], answer["meta"]
            return list(unstack_frames({name: rows[name].copy() for name in kind.names or ()}))
        return []

    def tracks(self, results: Sequence[FrameResult]) -> Tracks:
        """Return results of this run as `Tracks`, with the latest statistics and warnings."""
        assert self._video is not None
        return collect(
            results,
            settings=self._settings,
            stats=self.stats,
            timestamps=self._video.info.timestamps,
            warnings=self.warnings,
            meta=self._meta,
        )

    def close(self) -> None:
        """End the run and its process."""
        self.control.forward(None)
        self._worker.stop()


# executed in the worker process


def main(handle: int) -> None:
    """Process requests from the standard input until it is closed; write answers to a file handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is handled by the parent process
    answers = os.fdopen(handle, "wb")
    requests: queue.Queue[Message] = queue.Queue()
    run = _WorkerRun()
    listener = threading.Thread(target=_listen, args=(requests, run), daemon=True)
    listener.start()
    while "run" not in (request := requests.get()):
        job = Job(**request["job"])
        limit_threads(job.threads)
        result = do_job(job, lambda done, total: _send(answers, {"done": done, "total": total}))
        _send(answers, {"result": dataclasses.asdict(result)})
    run.track(RunRequest(**request["run"]), answers)
    listener.join()  # until the parent closes the input


def _listen(requests: queue.Queue[Message], run: _WorkerRun) -> None:
    for line in sys.stdin.buffer:
        message = json.loads(line)
        if isinstance(message, str):
            run.handle_command(message)
        else:
            requests.put(message)
    run.control.cancel()
    run.idle.wait()
    os._exit(0)  # safe, as the checkpoint is valid at any time


class _WorkerRun:
    """The run of a worker and its progress reports."""

    def __init__(self) -> None:
        self.control = RunControl()
        self.idle = threading.Event()
        self.idle.set()
        self._sends_pixels = False
        self._video: Video | None = None
        self._run: Run | None = None
        self._results: list[FrameResult] = []
        self._message = LOADING

    def handle_command(self, command: str) -> None:
        """Execute a command of the parent process."""
        if command in ("show", "hide"):
            self._sends_pixels = command == "show"
            if self._video is not None:
                self._video.keeps_frames = self._sends_pixels
        else:
            control = self.control
            {"pause": control.pause, "resume": control.resume, "cancel": control.cancel}[command]()

    def track(self, request: RunRequest, answers: IO[bytes]) -> None:
        """Track the frames of a request and report progress."""
        self.idle.clear()
        if sys.platform != "win32":
            os.nice(NICE)
        ended = threading.Event()
        settings = TrackerSettings(**request.settings)
        reporter = threading.Thread(target=self._report, args=(settings.max_faces, answers, ended))
        reporter.start()
        error = None
        try:
            self._track(request, settings)
        except Exception as reason:
            error = error_sentence(reason)
        ended.set()
        reporter.join()
        with suppress(OSError):
            _send(answers, self._progress(error, end=True))
        self.idle.set()

    def _track(self, request: RunRequest, settings: TrackerSettings) -> None:
        if not request.video:
            self._message = PREPARING
            FaceTracker(load_models(request.models), settings).prepare()
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", VideoWarning)  # shown when the window opened the video
            video = self._video = open_video(request.video, request.stream)
        video.keeps_frames = self._sends_pixels
        if list(video.source.state) != list(request.file):
            raise VideoError(f"{request.video} has changed since it was opened: open it again.")
        tracker = FaceTracker(load_models(request.models), settings)
        self._message = PREPARING
        folder = None if request.checkpoints is None else Path(request.checkpoints)
        regions = regions_from_dict(request.regions)
        with open_run(tracker, video, request.start, request.stop, request.resume, regions, folder) as (
            run,
            earlier,
        ):
            run.control, self._run = self.control, run
            self._results.extend(earlier)
            for result in run:
                self._results.append(result)
                self._message = ""

    def _progress(self, error: str | None = None, end: bool = False) -> Message:
        run = self._run
        return {
            "message": start_message(self._message),
            "stats": dataclasses.asdict(RunStats() if run is None else run.stats),
            "warnings": [] if run is None else list(run.all_warnings()),
            "meta": {} if run is None else run.meta(),
            "frames": 0,
            "picture": None,
            "end": end,
            "error": error,
        }

    def _report(self, max_faces: int, answers: IO[bytes], ended: threading.Event) -> None:
        kind = frame_type(max_faces)
        reported, last = 0, False
        while not last:
            last = ended.wait(_PROGRESS_SECONDS)
            results = self._results[reported:]
            reported += len(results)
            message = {**self._progress(), "frames": len(results)}
            payload: list[Any] = [b"".join(frame_to_bytes(result, kind) for result in results)]
            if self._sends_pixels and results and self._video is not None:
                with suppress(FaceLandmarksError):  # the run itself raises it too
                    payload.append(self._video[results[-1].index])
                    message["picture"] = results[-1].index
            with suppress(OSError):
                _send(answers, message, *payload)


def start_message(message: str) -> str:
    """Return the message shown at the start of a run, with the number of compiled kernels, if any."""
    if message != PREPARING or not COMPILED:
        return message
    return (
        f"First run after an installation: compiling, up to half a minute ({len(COMPILED)} kernels so far) …"
    )


def error_sentence(error: Exception) -> str:
    """Return an error as one sentence; unexpected errors are logged."""
    if isinstance(error, FaceLandmarksError):
        return str(error)
    _log.error("The run failed", exc_info=error)
    return f"The run failed with an unexpected error ({type(error).__name__}: {in_one_line(error)})."
