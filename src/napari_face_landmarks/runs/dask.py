"""Execution of jobs on a Dask cluster."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import secrets
import threading
from collections.abc import Sequence
from typing import Any

from napari_face_landmarks.errors import ResultError, in_one_line
from napari_face_landmarks.runs.job import FileResult, Job, do_job, failure, result_from_dict
from napari_face_landmarks.runs.worker import OnProgress, OnResult
from napari_face_landmarks.video.container import limit_threads

CONNECT_SECONDS = 20
TOPIC = "napari-face-landmarks"


def run_on_cluster(jobs: Sequence[Job], scheduler: str, on_progress: OnProgress, on_result: OnResult) -> None:
    """Run jobs on a Dask cluster whose workers see the same paths; callbacks are as for `run_local`.

    If a worker is lost, its job resumes from its checkpoint on another worker. It fails after as many losses
    as the scheduler allows (``distributed.scheduler.allowed-failures``, 3).
    """
    try:
        from distributed import Client, as_completed
    except ImportError:
        raise ResultError(
            'Dask distributed is not installed: pip install "napari-face-landmarks[cluster]".'
        ) from None
    client = Client.__new__(Client)
    try:
        client.__init__(scheduler, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        client.status = "closed"  # otherwise the finalizer waits for the incomplete client and logs that
        raise ResultError(
            f"No Dask scheduler answers at {scheduler} ({in_one_line(error)}): check the address."
        ) from None
    lock, errors = threading.Lock(), list[Exception]()
    topic = f"{TOPIC}-{secrets.token_hex(4)}"

    def on_event(event: Any) -> None:
        _, message = event
        with lock:
            on_progress(int(message["job"]), int(message["done"]), int(message["total"]))

    with client:
        client.subscribe_topic(topic, on_event)
        numbers = {}
        for index, job in enumerate(jobs):
            future = client.submit(
                _run_remotely, json.dumps(dataclasses.asdict(job)), index, topic, pure=False
            )
            numbers[future] = index
        try:
            for future in as_completed(list(numbers), loop=client.loop):
                index = numbers[future]
                result = _result(future, jobs[index])
                try:
                    with lock:
                        on_result(index, result)
                except Exception as error:  # the other jobs continue
                    errors.append(error)
        finally:
            client.cancel(list(numbers))
            with contextlib.suppress(Exception):  # the scheduler may have stopped
                client.unsubscribe_topic(topic)
    if errors:
        raise errors[0]


def _result(future: Any, job: Job) -> FileResult:
    if future.status == "finished":
        return result_from_dict(json.loads(future.result()))
    if future.status == "cancelled":
        return failure(job, f"{job.video} was cancelled on the cluster: start the batch again.")
    error = future.exception()
    if type(error).__name__ == "KilledWorker":
        return failure(
            job,
            f"The workers that tracked {job.video} were lost repeatedly: frames tracked until then are kept; "
            "check the memory of the cluster.",
        )
    return failure(
        job,
        f"{job.video} failed on the cluster ({type(error).__name__}: {in_one_line(error)}): check that its "
        "workers have the same version of napari-face-landmarks.",
    )


def _run_remotely(text: str, index: int, topic: str) -> str:
    """Run a job on a worker, resuming from the checkpoint of a lost worker if there is one."""
    from distributed import get_worker

    worker = get_worker()
    job = Job(**json.loads(text))
    limit_threads(job.threads)

    def report(done: int, total: int) -> None:
        worker.log_event(topic, {"job": index, "done": done, "total": total})

    return do_job(job, report).to_json()
