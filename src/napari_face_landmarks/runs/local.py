"""Jobs on this machine: a few processes side by side, each with its share of the cores."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from napari_face_landmarks.runs.job import FileResult, Job, failure, result_from_dict

TRIES = 2
"""How often a job is begun whose process dies."""
OnProgress = Callable[[int, int, int], None]
"""Told the job's number, the frames done and of all."""
OnResult = Callable[[int, FileResult], None]
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


def cores() -> int:
    """Return how many processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_local(jobs: Sequence[Job], processes: int, on_progress: OnProgress, on_result: OnResult) -> None:
    """Do jobs in processes of their own.

    A job whose process dies is begun once more, from its journal; a second time it fails, alone.

    Parameters
    ----------
    jobs : sequence of Job
        Each with the threads that its process may use.
    processes : int
        How many at a time.
    on_progress, on_result : callable
        Called from several threads, but never two at a time.

    Raises
    ------
    KeyboardInterrupt
        After Ctrl-C; every process has ended then.
    Exception
        What `on_progress` or `on_result` raised first, after all jobs are done.
    """
    waiting = deque(enumerate(jobs))
    lock = threading.Lock()
    stopping = threading.Event()
    running: set[subprocess.Popen[str]] = set()

    troubles: list[Exception] = []

    def tell_caller(call: Callable[..., None], *what: Any) -> None:
        try:
            with lock:
                call(*what)
        except Exception as error:  # which must not stop the jobs that are left
            troubles.append(error)

    def work() -> None:
        process: subprocess.Popen[str] | None = None
        while not stopping.is_set():
            with lock:
                if not waiting:
                    break
                index, job = waiting.popleft()
            tell = partial(tell_caller, on_progress, index)
            result: FileResult | None = None
            for attempt in range(1, TRIES + 1):
                if process is None:
                    try:
                        process = _start(job.threads)
                    except OSError as error:  # for lack of memory or of processes
                        reason = f"No process could be started for {job.video} ({error}): do fewer at a time."
                        continue
                    with lock:
                        running.add(process)
                result = _ask(process, job, tell)
                if stopping.is_set():
                    return
                if result is not None:
                    result = dataclasses.replace(result, tries=attempt)
                    break
                with lock:
                    running.discard(process)
                reason = _how_it_died(job, process)
                process = None
            tell_caller(on_result, index, result or failure(job, reason, TRIES))
        if process is not None:
            _stop(process)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(processes, len(jobs)))]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            while thread.is_alive():
                thread.join(0.2)  # so that Ctrl-C is heard
    finally:
        stopping.set()
        with lock:
            left = list(running)
        for process in left:
            _stop(process)
    if troubles:
        raise troubles[0]


def _start(threads: int) -> subprocess.Popen[str]:
    """Start a process in which libraries use so many threads, decoding included."""
    package = str(Path(__file__).resolve().parents[2])
    known = os.environ.get("PYTHONPATH")
    environment = {
        **os.environ,
        **dict.fromkeys(_THREAD_VARIABLES, str(threads)),
        "PYTHONPATH": os.pathsep.join([package, *([known] if known else [])]),
        "PYTHONUNBUFFERED": "1",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "napari_face_landmarks.runs.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        text=True,
        encoding="utf-8",
    )


def _ask(process: subprocess.Popen[str], job: Job, progress: Callable[[int, int], None]) -> FileResult | None:
    """Have a process do a job; return its result, or None where the process died over it."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(job.to_json() + "\n")
        process.stdin.flush()
        for line in process.stdout:
            answer = json.loads(line)
            if "result" in answer:
                return result_from_dict(answer["result"])
            progress(int(answer["done"]), int(answer["total"]))
    except (OSError, ValueError):  # a pipe that broke, or half a line
        pass
    return None


def _stop(process: subprocess.Popen[str]) -> None:
    """End a process that waits for a job, or whose job is not wanted any more."""
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _how_it_died(job: Job, process: subprocess.Popen[str]) -> str:
    _stop(process)
    code = process.returncode
    how = f"with status {code}"
    if code < 0:
        with contextlib.suppress(ValueError):
            how = f"by {signal.Signals(-code).name}"
    return (
        f"The process that tracked {job.video} ended {how}, {TRIES} times: the frames until then are kept; "
        "look for a lack of memory, or track it by itself."
    )
