"""Many videos: found, distributed to processes or a cluster, and summarized in a table."""

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
from napari_face_landmarks.runs.checkpoint import journal_of
from napari_face_landmarks.runs.chunks import cut, remove_pieces
from napari_face_landmarks.runs.job import FileResult, Job, failure, record_of
from napari_face_landmarks.runs.measures import MEASURES_TABLE, join_summaries
from napari_face_landmarks.runs.places import find_videos, left_out, place_outputs, recorded_outputs
from napari_face_landmarks.runs.summary import append_to_summary, begin_summary, write_summary
from napari_face_landmarks.runs.worker import OnProgress, OnResult, run_local
from napari_face_landmarks.settings import TrackerSettings, as_settings, settings_from_dict
from napari_face_landmarks.video import VideoWarning, probe

MOST_PROCESSES = 256
LARGEST_SETTINGS = 1 << 20
Progress = Callable[[str, int, int], None]
"""Called with a video's path, the frames done and of all."""


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
    """Track many videos, each into its own file in one folder; a video that fails does not stop the others.

    The landmarks are those of `FaceTracker.track`. Videos whose file exists already, made from the same video
    by the same code with the same models and settings, are skipped. One whose file is of another video, or of
    no batch, or was changed since, fails, and the file stays. The folder gets ``batch-summary.csv`` and
    ``batch-summary.txt``, and next to each file a record of its run.

    Parameters
    ----------
    inputs : path-like or sequence of path-like
        Videos, folders of videos (with the folders in them), and patterns such as ``day1/*.mp4``. Folders
        without videos, in which there are pictures, are a video each.
    output : path-like
        The folder; created where it is missing, like the folders within an input folder in it.
    models : str or Path, optional
        As `load_models` takes it: a name or folder, as each process loads its own.
    settings : TrackerSettings, dict or str, optional
        As `FaceTracker` takes it; the defaults where not given.
    format : str, optional
        As ``Tracks.save`` takes it; by default OpenFace's CSV.
    jobs : int, optional
        Processes at a time; by default one for each processor core.
    scheduler : str, optional
        Address of a Dask scheduler, whose workers are used instead of local processes. They must see the
        videos and the folder under the same paths.
    resume : bool
        Resume runs that were interrupted; by default they start again.
    cut_at : int, optional
        Cut videos of at least twice as many frames into pieces of about so many, tracked in parallel. Pieces
        are joined where the landmarks agree within 1e-4 px, else tracked again from the one before.
    every : int
        Track only every n-th frame, as `FaceTracker.track`; not with `cut_at`.
    stream : int, optional
        Which of the video streams of each file to track, as `open_video` takes it.
    measures : bool or mapping
        Whether to measure each video, or keyword arguments of `measures.measure` to do so with. Tables
        (``.measures.csv``, ``.blinks.csv``, ``.summary.csv``) are written next to each result, and
        ``batch-measures.csv`` has one row for each video and face.
    progress : callable, optional
        Called with a video's path, the frames done and of all, now and then.
    on_result : callable, optional
        Called with each video's result.
    cancelled : callable, optional
        Asked a few times a second; once it returns True the batch ends. What is done is kept, and with
        `resume` another call resumes the videos that were begun. Not asked with a `scheduler`.

    Returns
    -------
    list of FileResult
        In the order of the videos.

    Raises
    ------
    FaceLandmarksError
        If there are no videos, the folder cannot be used or another batch uses it, there are no such
        models, or the scheduler cannot be reached; and after all are done, if the summary cannot be written.
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
        note = left_out(self.inputs, folder, {Path(job.video) for job in plan})
        with _locked_folder(folder):
            with suppress(ResultError):  # the error comes when it is written at the end
                begin_summary(folder)
            if not self.resume:
                for job in plan:
                    _remove_checkpoints(Path(job.output))
            if self.cut_at is not None:
                plan = self._track_pieces(plan, self.cut_at, processes)

            def take(index: int, result: FileResult) -> None:
                self.results[index] = result
                with suppress(OSError):  # a table open elsewhere, a full disk: it is written again at the end
                    append_to_summary(folder, result)
                if self.on_result is not None:
                    self.on_result(result)

            if not self.cancelled():
                self._do(plan, min(processes, len(plan)), partial(self._report, plan), take)
            for index, job in enumerate(plan):
                if index not in self.results:  # cancelled, or a thread here failed
                    self.results[index] = failure(job, f"{job.video} was not tracked: start the batch again.")
            ordered = [self.results[index] for index in range(len(plan))]
            write_summary(folder, ordered, note)
            if self._measures() is not None or (folder / MEASURES_TABLE).exists():  # of an earlier batch
                join_summaries(folder, [(result.video, result.output) for result in ordered])
        return ordered

    def _check_frames(self) -> None:
        every: Any = self.every  # of a script, of any type
        stream: Any = self.stream
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise SettingsError(f"every is {every!r}: give the number of frames from one to the next.")
        if isinstance(stream, bool) or not isinstance(stream, int | None):
            raise SettingsError(f"stream is {stream!r}: give the number of a video stream, from 0.")
        if every > 1 and self.cut_at is not None:
            raise SettingsError("Chunks are of consecutive frames: leave out either every or the cut.")

    def _plan(self, folder: Path, processes: int) -> list[Job]:
        """Return a job for each video, all checked."""
        suffix = ".csv" if self.format is None else format_named(self.format).suffixes[0]
        places = place_outputs(find_videos(self.inputs), folder, suffix, recorded_outputs(folder, suffix))
        models = DEFAULT_BUNDLE if self.models is None else _checked_models(self.models)
        settings = as_settings(self.settings).to_dict()
        threads = max(1, cores() // min(processes, len(places))) if self.scheduler is None else 1
        job = Job("", "", self.format, models, settings, threads, batch=secrets.token_hex(8))
        job = dataclasses.replace(job, every=self.every, stream=self.stream, measures=self._measures())
        return [dataclasses.replace(job, video=str(video), output=str(path)) for video, path in places]

    def _measures(self) -> dict[str, Any] | None:
        """Return keyword arguments of `measures.measure`, or None where nothing is measured."""
        if isinstance(self.measures, bool):
            return {} if self.measures else None
        return dict(self.measures)

    def _do(self, jobs: Sequence[Job], processes: int, on_progress: OnProgress, on_result: OnResult) -> None:
        if self.scheduler is None:
            run_local(jobs, processes, on_progress, on_result, self.cancelled)
            return
        from napari_face_landmarks.runs.dask import run_on_cluster

        run_on_cluster(jobs, self.scheduler, on_progress, on_result)

    def _report(self, plan: Sequence[Job], index: int, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(plan[index].video, done, total)

    def _track_pieces(self, plan: Sequence[Job], length: int, processes: int) -> list[Job]:
        """Track the pieces of long videos; return the jobs, those of cut videos with their pieces."""
        jobs = [_cut(job, length, settings_from_dict(job.settings)) for job in plan]
        parts = [(index, piece) for index, job in enumerate(jobs) for piece in job.pieces]
        pieces = [dataclasses.replace(jobs[i], pieces=(), piece=piece, threads=1) for i, piece in parts]
        done_of: dict[int, int] = {}

        def report(number: int, done: int, total: int) -> None:
            done_of[number] = done
            index = parts[number][0]
            done = sum(done_of.get(n, 0) for n, (i, _) in enumerate(parts) if i == index)
            self._report(plan, index, done, sum(piece[3] - piece[0] for i, piece in parts if i == index))

        if pieces:
            self._do(pieces, processes, report, lambda number, result: None)
        return jobs


def _remove_checkpoints(output: Path) -> None:
    """Remove the remains of interrupted runs into an output, except those of `track`."""
    if not output.exists() or record_of(output).exists():
        _forget(journal_of(output))
        remove_pieces(output)


def _cut(job: Job, length: int, settings: TrackerSettings) -> Job:
    """Return a job with the pieces that its video is cut into; one that cannot be read is not cut."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", VideoWarning)
            info = probe(job.video, job.stream)
    except FaceLandmarksError:
        return job
    pieces = cut(info.n_frames, length, settings, float(info.fps))
    if len(pieces) < 2 or not info.complete:
        return job
    return dataclasses.replace(job, pieces=[list(dataclasses.astuple(piece)) for piece in pieces])


@contextmanager
def _locked_folder(folder: Path) -> Iterator[None]:
    """Create the folder, and lock it against other batches."""
    path = folder / ".batch.lock"
    with os_errors_as(ResultError, f"Nothing can be written in {folder}", "choose another folder"):
        folder.mkdir(parents=True, exist_ok=True)
        stream = open(path, "a+b")  # noqa: SIM115  # closed below
    with stream:
        if not try_to_lock(stream):
            raise ResultError(
                f"Another batch is running in {folder}: wait until it has ended, or choose another folder."
            )
        yield


def _forget(checkpoint: Path) -> None:
    """Empty the checkpoint of an interrupted run, unless another process uses it."""
    with (
        os_errors_as(ResultError, f"{checkpoint} cannot be written", "choose another folder"),
        suppress(FileNotFoundError),
        open(checkpoint, "r+b") as stream,
    ):
        if try_to_lock(stream):
            stream.truncate(0)


def read_settings(path: str | os.PathLike[str]) -> TrackerSettings:
    """Read settings from a JSON file: an object of names and values, or one that has such as "settings"."""
    values = read_json(path, "settings", LARGEST_SETTINGS, SettingsError, "give a JSON file of settings")
    if isinstance(values, dict) and isinstance(values.get("settings"), dict):
        values = values["settings"]
    if not isinstance(values, dict):
        raise SettingsError(f"{os.fspath(path)} holds no settings: give a JSON object of names and values.")
    try:
        return settings_from_dict(values)
    except SettingsError as error:
        raise SettingsError(f"{os.fspath(path)}: {error}") from None


def _checked_models(models: str | Path) -> str:
    """Return models with an absolute path, for processes with other working folders."""
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
    if isinstance(jobs, bool) or not isinstance(jobs, int) or not 1 <= jobs <= MOST_PROCESSES:
        raise SettingsError(f"jobs is {jobs!r}: give a whole number from 1 to {MOST_PROCESSES}.")
    return jobs


def succeeded(results: Sequence[FileResult]) -> bool:
    """Return whether every video is done."""
    return all(result.status == "done" for result in results)
