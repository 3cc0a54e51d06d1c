"""Tracking of many videos in worker processes or on a Dask cluster, with a summary table."""

from __future__ import annotations

import dataclasses
import os
import secrets
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypedDict, Unpack

from napari_face_landmarks.errors import FaceLandmarksError, ResultError, SettingsError, os_errors_as
from napari_face_landmarks.files.json_file import read_json
from napari_face_landmarks.files.lock import try_to_lock
from napari_face_landmarks.io.formats import format_named
from napari_face_landmarks.models import DEFAULT_BUNDLE, bundle_folder
from napari_face_landmarks.models.bundle import check_name
from napari_face_landmarks.priority import cores
from napari_face_landmarks.runs.batch_files import find_videos, place_outputs, recorded_outputs, skipped_files
from napari_face_landmarks.runs.checkpoint import journal_of
from napari_face_landmarks.runs.chunks import chunks_of, remove_chunks
from napari_face_landmarks.runs.job import FileResult, Job, failure, record_of
from napari_face_landmarks.runs.measures import MEASURES_TABLE, join_summaries
from napari_face_landmarks.runs.summary import append_to_summary, begin_summary, write_summary
from napari_face_landmarks.runs.worker import OnProgress, OnResult, run_local
from napari_face_landmarks.settings import TrackerSettings, as_settings, settings_from_dict
from napari_face_landmarks.video import VideoWarning, probe

MAX_PROCESSES = 256
_MAX_SETTINGS_BYTES = 1 << 20
Progress = Callable[[str, int, int], None]
"""Called with a video's path, the number of tracked frames and the total."""


class BatchOptions(TypedDict, total=False):
    """The keyword arguments of `track_many`, described there."""

    models: str | Path | None
    settings: TrackerSettings | Mapping[str, Any] | str | None
    format: str | None
    jobs: int | None
    scheduler: str | None
    resume: bool
    cut_at: int | None
    every: int
    stream: int | None
    measures: Mapping[str, Any] | bool
    progress: Progress | None
    on_result: Callable[[FileResult], None] | None
    cancelled: Callable[[], bool]


def track_many(
    inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    **options: Unpack[BatchOptions],
) -> list[FileResult]:
    """Track many videos; each gets a landmark file in one folder, and failures do not stop the others.

    The landmarks are those of `FaceTracker.track`. A video is skipped if its landmark file already exists and
    was made from the same video with the same code, models and settings. If the existing file belongs to
    another video, was not written by a batch or was changed since, the video fails and the file is kept. The
    folder also gets ``batch-summary.csv`` and ``batch-summary.txt``, and a record of the run next to each
    landmark file.

    Parameters
    ----------
    inputs : path-like or sequence of path-like
        Videos, folders of videos (recursively), and patterns such as ``day1/*.mp4``. In a folder without
        videos, each folder of images counts as a video.
    output : path-like
        The output folder, created if missing, with the same subfolders as the input folders.
    models : str or Path, optional
        Name or folder of the models, as for `load_models`; each process loads them.
    settings : TrackerSettings, dict or str, optional
        As for `FaceTracker`; the defaults if omitted.
    format : str, optional
        As for ``Tracks.save``; by default OpenFace's CSV.
    jobs : int, optional
        Maximum number of processes; by default one per processor core.
    scheduler : str, optional
        Address of a Dask scheduler, whose workers are used instead of local processes. They must see the
        videos and the folder under the same paths.
    resume : bool
        Resume interrupted runs; by default they start again.
    cut_at : int, optional
        Divide videos of at least twice as many frames into chunks of about this many frames, tracked in
        parallel. Chunks are joined where the landmarks agree within 1e-4 px, otherwise tracked again from the
        end of the previous chunk.
    every : int
        Track only every n-th frame, as in `FaceTracker.track`; cannot be combined with `cut_at`.
    stream : int, optional
        Number of the video stream to track in each file, as for `open_video`.
    measures : bool or mapping
        Whether to measure each video, or keyword arguments for `measures.measure`. Tables
        (``.measures.csv``, ``.blinks.csv``, ``.summary.csv``) are written next to each result, and
        ``batch-measures.csv`` has one row for each video and face.
    progress : callable, optional
        Called repeatedly with a video's path, the number of tracked frames and the total.
    on_result : callable, optional
        Called with each video's result.
    cancelled : callable, optional
        Called a few times a second; the batch ends once it returns True. Finished results are kept, and a
        call with `resume` resumes the unfinished videos. Not called with a `scheduler`.

    Returns
    -------
    list of FileResult
        One per video, in order.

    Raises
    ------
    FaceLandmarksError
        If there are no videos, the folder cannot be written or is in use by another batch, the models do not
        exist, or the scheduler cannot be reached; after tracking, if the summary cannot be written.
    """
    return _Batch(inputs, output, **options).run()


@dataclass
class _Batch:
    """A batch: the arguments of `track_many`, and its results so far."""

    inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
    output: str | os.PathLike[str]
    models: str | Path | None = None
    settings: TrackerSettings | Mapping[str, Any] | str | None = None
    format: str | None = None
    jobs: int | None = None
    scheduler: str | None = None
    resume: bool = False
    cut_at: int | None = None
    every: int = 1
    stream: int | None = None
    measures: Mapping[str, Any] | bool = False
    progress: Progress | None = None
    on_result: Callable[[FileResult], None] | None = None
    cancelled: Callable[[], bool] = lambda: False
    results: dict[int, FileResult] = field(default_factory=dict)

    def run(self) -> list[FileResult]:
        """Run the batch."""
        processes = _checked_jobs(self.jobs)
        self._check_frames()
        folder = Path(self.output).absolute()
        plan = self._plan(folder, processes)
        note = skipped_files(self.inputs, folder, {Path(job.video) for job in plan})
        with _locked_folder(folder):
            with suppress(ResultError):  # raised when the summary is written at the end
                begin_summary(folder)
            if not self.resume:
                for job in plan:
                    _remove_checkpoints(Path(job.output))
            if self.cut_at is not None:
                plan = self._track_chunks(plan, self.cut_at, processes)

            def finish(index: int, result: FileResult) -> None:
                self.results[index] = result
                with suppress(OSError):  # an open table or a full disk: it is written again at the end
                    append_to_summary(folder, result)
                if self.on_result is not None:
                    self.on_result(result)

            if not self.cancelled():
                self._execute(plan, min(processes, len(plan)), partial(self._report, plan), finish)
            for index, job in enumerate(plan):
                if index not in self.results:  # cancelled, or a thread of this process failed
                    self.results[index] = failure(job, f"{job.video} was not tracked: start the batch again.")
            ordered = [self.results[index] for index in range(len(plan))]
            write_summary(folder, ordered, note)
            # an earlier batch may have written the table
            if self._measures() is not None or (folder / MEASURES_TABLE).exists():
                join_summaries(folder, [(result.video, result.output) for result in ordered])
        return ordered

    def _check_frames(self) -> None:
        every: Any = self.every  # scripts may pass any type
        stream: Any = self.stream
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise SettingsError(f"every is {every!r}: give a whole number of frames, 1 or more.")
        if isinstance(stream, bool) or not isinstance(stream, int | None):
            raise SettingsError(f"stream is {stream!r}: give the number of a video stream, from 0.")
        if every > 1 and self.cut_at is not None:
            raise SettingsError("Chunks consist of consecutive frames: use either every or the cut.")

    def _plan(self, folder: Path, processes: int) -> list[Job]:
        """Return a validated job for each video."""
        suffix = ".csv" if self.format is None else format_named(self.format).suffixes[0]
        outputs = place_outputs(find_videos(self.inputs), folder, suffix, recorded_outputs(folder, suffix))
        models = DEFAULT_BUNDLE if self.models is None else _checked_models(self.models)
        settings = as_settings(self.settings).to_dict()
        threads = max(1, cores() // min(processes, len(outputs))) if self.scheduler is None else 1
        job = Job("", "", self.format, models, settings, threads, batch=secrets.token_hex(8))
        job = dataclasses.replace(job, every=self.every, stream=self.stream, measures=self._measures())
        return [dataclasses.replace(job, video=str(video), output=str(path)) for video, path in outputs]

    def _measures(self) -> dict[str, Any] | None:
        """Return keyword arguments of `measures.measure`, or None if nothing is measured."""
        if isinstance(self.measures, bool):
            return {} if self.measures else None
        return dict(self.measures)

    def _execute(
        self, jobs: Sequence[Job], processes: int, on_progress: OnProgress, on_result: OnResult
    ) -> None:
        if self.scheduler is None:
            run_local(jobs, processes, on_progress, on_result, self.cancelled)
            return
        from napari_face_landmarks.runs.dask import run_on_cluster

        run_on_cluster(jobs, self.scheduler, on_progress, on_result)

    def _report(self, plan: Sequence[Job], index: int, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(plan[index].video, done, total)

    def _track_chunks(self, plan: Sequence[Job], length: int, processes: int) -> list[Job]:
        """Track the chunks of long videos; return the jobs, with their chunks to be joined."""
        jobs = [_with_chunks(job, length, settings_from_dict(job.settings)) for job in plan]
        chunks = [(index, chunk) for index, job in enumerate(jobs) for chunk in job.chunks]
        chunk_jobs = [dataclasses.replace(jobs[i], chunks=(), chunk=chunk, threads=1) for i, chunk in chunks]
        done_in: dict[int, int] = {}

        def report(number: int, done: int, total: int) -> None:
            done_in[number] = done
            index = chunks[number][0]
            done = sum(done_in.get(n, 0) for n, (i, _) in enumerate(chunks) if i == index)
            self._report(plan, index, done, sum(chunk[3] - chunk[0] for i, chunk in chunks if i == index))

        if chunk_jobs:
            self._execute(chunk_jobs, processes, report, lambda number, result: None)
        return jobs


def _remove_checkpoints(output: Path) -> None:
    """Remove the checkpoints of interrupted batch runs into an output, but not those of `track`."""
    if not output.exists() or record_of(output).exists():
        _clear_checkpoint(journal_of(output))
        remove_chunks(output)


def _with_chunks(job: Job, length: int, settings: TrackerSettings) -> Job:
    """Return a job with the chunks of its video; an incomplete or unreadable video is not divided."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", VideoWarning)
            info = probe(job.video, job.stream)
    except FaceLandmarksError:
        return job
    chunks = chunks_of(info.n_frames, length, settings, float(info.fps))
    if len(chunks) < 2 or not info.complete:
        return job
    return dataclasses.replace(job, chunks=[list(dataclasses.astuple(chunk)) for chunk in chunks])


@contextmanager
def _locked_folder(folder: Path) -> Iterator[None]:
    """Create the folder and lock it against other batches."""
    path = folder / ".batch.lock"
    with os_errors_as(ResultError, f"Files cannot be written in {folder}", "choose another folder"):
        folder.mkdir(parents=True, exist_ok=True)
        stream = open(path, "a+b")  # noqa: SIM115  # closed below
    with stream:
        if not try_to_lock(stream):
            raise ResultError(
                f"Another batch is running in {folder}: wait until it has ended, or choose another folder."
            )
        yield


def _clear_checkpoint(checkpoint: Path) -> None:
    """Empty the checkpoint of an interrupted run unless another process uses it."""
    with (
        os_errors_as(ResultError, f"{checkpoint} cannot be written", "choose another folder"),
        suppress(FileNotFoundError),
        open(checkpoint, "r+b") as stream,
    ):
        if try_to_lock(stream):
            stream.truncate(0)


def read_settings(path: str | os.PathLike[str]) -> TrackerSettings:
    """Read settings from a JSON file: an object of names and values, at the top or under "settings"."""
    values = read_json(path, "settings", _MAX_SETTINGS_BYTES, SettingsError, "give a JSON file of settings")
    if isinstance(values, dict) and isinstance(values.get("settings"), dict):
        values = values["settings"]
    if not isinstance(values, dict):
        raise SettingsError(f"{os.fspath(path)} has no settings: give a JSON object of names and values.")
    try:
        return settings_from_dict(values)
    except SettingsError as error:
        raise SettingsError(f"{os.fspath(path)}: {error}") from None


def _checked_models(models: str | Path) -> str:
    """Return models, a folder as an absolute path, since worker processes may run in other folders."""
    check_name(models)
    models = str(models)
    if models.startswith("openface"):
        return models
    folder = Path(models)
    if folder.is_dir():
        return str(folder.absolute())
    bundle_folder(models)
    return models


def _checked_jobs(jobs: object) -> int:
    if jobs is None:
        return cores()
    if isinstance(jobs, bool) or not isinstance(jobs, int) or not 1 <= jobs <= MAX_PROCESSES:
        raise SettingsError(f"jobs is {jobs!r}: give a whole number from 1 to {MAX_PROCESSES}.")
    return jobs


def succeeded(results: Sequence[FileResult]) -> bool:
    """Return whether every video was tracked successfully."""
    return all(result.status == "done" for result in results)
