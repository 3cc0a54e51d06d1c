"""Job of a batch: track a video, write its landmark file and a record of the run next to it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from napari_face_landmarks.data.tracks import Tracks
from napari_face_landmarks.errors import FaceLandmarksError, ResultError, in_one_line, os_errors_as
from napari_face_landmarks.files.atomic import companion_name, make_folder
from napari_face_landmarks.files.json_file import read_json, write_json
from napari_face_landmarks.io.formats import read_tracks, write_tracks
from napari_face_landmarks.models import DEFAULT_BUNDLE, Models, load_models
from napari_face_landmarks.runs.checkpoint import CheckpointedRun, journal_of, run_identity
from napari_face_landmarks.runs.chunks import Chunk, chunk_journal, join_chunks, remove_chunks
from napari_face_landmarks.runs.measures import measure_files, remove_measures, write_measures
from napari_face_landmarks.settings import TrackerSettings, settings_from_dict
from napari_face_landmarks.tracking import FaceTracker
from napari_face_landmarks.tracking.cuts import split_at_cuts
from napari_face_landmarks.video import Video, VideoWarning, open_video

DONE, NO_FACE, BROKEN_OFF, FAILED = "done", "no face", "breaks off", "failed"
REPORT_SECONDS = 0.5
_MAX_RECORD_BYTES = 16 << 20
Progress = Callable[[int, int], None]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Job:
    """A video to track."""

    # video, output: absolute paths
    video: str
    output: str
    format: str | None = None  # the format of `output` if its suffix is ambiguous
    models: str = DEFAULT_BUNDLE  # as for `load_models`
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # fields of `TrackerSettings`
    threads: int = 1
    # the fields of the `Chunk`s that earlier jobs have tracked and this one joins; if empty, the whole video
    # is tracked
    chunks: Sequence[Sequence[int]] = ()
    chunk: Sequence[int] | None = None  # the fields of the `Chunk` that this job tracks into its checkpoint
    # identifies the batch: if a worker is lost after writing the output and the job is repeated, the result
    # does not count as one of an earlier batch
    batch: str = ""
    every: int = 1  # track only every n-th frame
    stream: int | None = None  # number of the video stream to track
    # options of `measures.measure`, whose tables are written next to the output; None for no measures
    measures: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class FileResult:
    """The result of one video of a batch.

    Attributes
    ----------
    video, output : str
        Paths.
    status : {"done", "no face", "breaks off", "failed"}
        Only "done" is a success; with "no face" and "breaks off", the output has the frames that were read.
    reason : str
        Why the status is not "done", in one sentence.
    frames, frames_with_faces, faces : int
        Numbers of frames, of frames with a face, and of faces over all frames, in the output.
    seconds : float
        Duration of tracking, all attempts together.
    warnings : tuple of str
        Warnings about the video, the tracks and their measures.
    earlier : bool
        Whether an earlier run with the same video, models, settings and code wrote the output.
    tries : int
        Number of attempts in this batch.
    """

    video: str
    output: str
    status: str
    reason: str = ""
    frames: int = 0
    frames_with_faces: int = 0
    faces: int = 0
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    earlier: bool = False
    tries: int = 1

    @property
    def fps(self) -> float:
        """Frames per second."""
        return self.frames / self.seconds if self.seconds > 0 else 0.0

    def to_json(self) -> str:
        """Return the result as one line of JSON."""
        return json.dumps(dataclasses.asdict(self))


def result_from_dict(values: Mapping[str, Any]) -> FileResult:
    """Return a result from the parsed JSON of `FileResult.to_json`, or from a record."""
    known = {item.name: values[item.name] for item in dataclasses.fields(FileResult) if item.name in values}
    return FileResult(**{**known, "warnings": tuple(map(str, known.get("warnings", ())))})


def record_of(output: str | Path) -> Path:
    """Return the path of the record next to an output."""
    path = Path(output)
    return path.with_name(companion_name(path.name, ".json"))


def do_job(job: Job, progress: Progress | None = None) -> FileResult:
    """Track the video of a job, or resume; an error becomes a failed result with its reason."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", VideoWarning)  # the result lists them
            with open_video(job.video, job.stream) as video:
                return _run_job(job, video, progress or (lambda done, total: None))
    except FaceLandmarksError as error:
        return failure(job, str(error))
    except MemoryError:
        return failure(job, f"There is not enough memory for {job.video}: track fewer videos at a time.")
    except Exception as error:
        _log.exception("%s failed", job.video)
        return failure(
            job,
            f"{job.video} failed with an unexpected error ({type(error).__name__}: {in_one_line(error)}): "
            "report it with the video.",
        )


def failure(job: Job, reason: str, tries: int = 1) -> FileResult:
    """Return the result of a failed job."""
    return FileResult(job.video, job.output, FAILED, reason, tries=tries)


def _run_job(job: Job, video: Video, progress: Progress) -> FileResult:
    settings = settings_from_dict(job.settings) if job.settings else TrackerSettings()
    tracker = FaceTracker(_models(job.models), settings, job.threads)
    part = range(0, len(video), job.every)
    identity = run_identity(tracker, video, part)
    earlier = _earlier_result(job, identity)
    if earlier is not None:
        record = read_record(job.output)
        measured = record.get("measures") == job.measures and measure_files(job.output)["summary"].is_file()
        if job.measures is None or measured:
            return earlier
        replaced = record.get("said", ())
        kept = tuple(warning for warning in earlier.warnings if warning not in replaced)
        earlier = dataclasses.replace(earlier, warnings=kept)
        result, entries = _with_measures(job, earlier, read_tracks(job.output, job.format))
        write_json(record_of(job.output), {**record, **entries})
        return result
    make_folder(Path(job.output).parent)
    if job.chunk is not None:
        return _track_chunk(job, Chunk(*job.chunk), tracker, video, progress)
    if job.chunks:
        chunks = [Chunk(*numbers) for numbers in job.chunks]
        joined = join_chunks(tracker, video, job.output, chunks, progress)
        if joined is not None:
            result = _write(job, joined, video, identity)
            remove_chunks(job.output)
            return result
    checkpointed = CheckpointedRun.begin(
        tracker, video, journal_of(job.output), resume=True, or_restart=True, part=part
    )
    written = False
    try:
        _track(checkpointed, progress)
        result = _write(job, checkpointed.tracks(), video, identity)
        remove_chunks(job.output)
        written = True
        return result
    finally:
        checkpointed.close(remove=written)


def _track(checkpointed: CheckpointedRun, progress: Progress, states_before: Sequence[int] = ()) -> None:
    """Track all frames, and report progress every `REPORT_SECONDS`."""
    reported = time.monotonic()
    checkpointed.states_before = states_before
    for _ in checkpointed.run:
        if time.monotonic() - reported >= REPORT_SECONDS:
            reported = time.monotonic()
            progress(checkpointed.done, checkpointed.total)


def _write(job: Job, tracks: Tracks, video: Video, identity: Mapping[str, Any]) -> FileResult:
    """Write a preliminary record of a job, its landmarks, and the complete record."""
    # if the job is interrupted after writing the landmarks, the next run recognizes the file as its own
    write_json(record_of(job.output), {"video": job.video, "output": job.output, "run": identity})
    tracks = split_at_cuts(tracks)
    write_tracks(job.output, tracks, job.format)
    result, entries = _with_measures(job, _result(job, tracks, video), tracks)
    record = {
        **dataclasses.asdict(result),
        **entries,
        "output_bytes": Path(job.output).stat().st_size,
        "output_sha256": _sha256(job.output),
        "run": identity,
        "batch": job.batch,
        "stats": tracks.stats.to_dict(),
    }
    write_json(record_of(job.output), record)
    return result


def _with_measures(job: Job, result: FileResult, tracks: Tracks) -> tuple[FileResult, dict[str, Any]]:
    """Write the measures of tracks, or remove those of an earlier result if none are requested.

    Returns the result with the warnings of the measures, and the entries of its record about them.
    """
    added: tuple[str, ...] = ()
    if job.measures is None:
        remove_measures(job.output)
    else:
        added = write_measures(job.output, tracks, job.measures)
    result = dataclasses.replace(result, warnings=(*result.warnings, *added))
    return result, {"warnings": list(result.warnings), "said": list(added), "measures": job.measures}


def _track_chunk(
    job: Job, chunk: Chunk, tracker: FaceTracker, video: Video, progress: Progress
) -> FileResult:
    """Track a chunk into its checkpoint, for the job that joins the chunks."""
    checkpointed = CheckpointedRun.begin(
        tracker,
        video,
        chunk_journal(job.output, chunk),
        resume=True,
        or_restart=True,
        part=range(chunk.start, chunk.stop),
    )
    try:
        _track(checkpointed, progress, (chunk.first, chunk.last))
        return FileResult(job.video, job.output, DONE, frames=checkpointed.done)
    finally:
        checkpointed.close()


@lru_cache(maxsize=2)
def _models(name: str) -> Models:
    return load_models(name)


def _result(job: Job, tracks: Tracks, video: Video) -> FileResult:
    stats = tracks.stats
    status, reason = DONE, ""
    if not video.info.complete or not stats.completed:
        status = BROKEN_OFF
        reason = f"{job.video} is incomplete: the {tracks.n_frames} frames that could be read were tracked."
    elif not stats.faces:
        status = NO_FACE
        reason = (
            f"No face was detected in {job.video}: check that it shows a face that is upright and not too "
            "small."
        )
    return FileResult(
        job.video,
        job.output,
        status,
        reason,
        tracks.n_frames,
        stats.frames_with_faces,
        stats.faces,
        stats.seconds,
        tuple(dict.fromkeys([*video.info.warnings, *tracks.warnings])),
    )


def _earlier_result(job: Job, identity: Mapping[str, Any]) -> FileResult | None:
    """Return the result of an earlier run of the same identity whose output exists, or None.

    Raises a `ResultError` if the existing output must not be replaced.
    """
    try:
        if not Path(job.output).is_file() or not Path(job.output).stat().st_size:
            return None
    except OSError:
        return None
    record = read_record(job.output)
    run, before = record.get("run"), record.get("video")
    if not isinstance(run, dict) or not isinstance(run.get("video"), dict):
        raise ResultError(
            f"{job.output} exists, and has no record of a batch that tracked {job.video} into it: give "
            "another folder, or move the file away."
        )
    same = all(run["video"].get(key) == identity["video"][key] for key in ("bytes", "sha256_of_parts"))
    # an incomplete video may have been tracked while it was still being recorded
    grown = before == job.video and record.get("status") == BROKEN_OFF
    if not same and not grown:
        other = f"an earlier version of {job.video}" if before == job.video else f"another video, {before}"
        raise ResultError(
            f"{job.output} has the landmarks of {other}: give another folder, or move the file away."
        )
    size = Path(job.output).stat().st_size
    unchanged = size == record.get("output_bytes") and _sha256(job.output) == record.get("output_sha256")
    if "output_sha256" in record and not unchanged:
        raise ResultError(
            f"{job.output} was changed after {before} was tracked into it: give another folder, or move the "
            "file away."
        )
    try:
        if run != json.loads(json.dumps(identity)):
            return None
        result = result_from_dict(record)
    except (ValueError, TypeError):
        return None
    earlier = not job.batch or record.get("batch") != job.batch
    return dataclasses.replace(result, video=job.video, output=job.output, earlier=earlier)


def read_record(output: str) -> dict[str, Any]:
    """Return the record of an output; an empty dict if there is none or it cannot be read."""
    try:
        record = read_json(record_of(output), "a record", _MAX_RECORD_BYTES, ResultError, "it is not used")
    except ResultError:
        return {}
    return record if isinstance(record, dict) else {}


def _sha256(path: str) -> str:
    unreadable = os_errors_as(ResultError, f"{path} cannot be read", "choose another folder")
    with unreadable, open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
