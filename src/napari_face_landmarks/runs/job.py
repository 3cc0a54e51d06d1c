"""One video of a batch: tracked into its file, with a record of the run next to it."""

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
from napari_face_landmarks.runs.chunks import Piece, join_pieces, piece_journal, remove_pieces
from napari_face_landmarks.runs.measures import measure_files, remove_measures, write_measures
from napari_face_landmarks.settings import TrackerSettings, settings_from_dict
from napari_face_landmarks.tracking import FaceTracker
from napari_face_landmarks.tracking.cuts import split_at_cuts
from napari_face_landmarks.video import Video, VideoWarning, open_video

DONE, NO_FACE, BROKEN_OFF, FAILED = "done", "no face", "breaks off", "failed"
REPORT_SECONDS = 0.5
LARGEST_RECORD = 16 << 20
Progress = Callable[[int, int], None]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Job:
    """A video to track."""

    # video, output: absolute paths
    video: str
    output: str
    format: str | None = None  # the format of `output`, where its suffix is ambiguous
    models: str = DEFAULT_BUNDLE  # as `load_models` takes it
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # fields of `TrackerSettings`
    threads: int = 1
    # the fields of each `Piece` from which `output` is joined, tracked by jobs before this one; where there
    # are none, the whole video is tracked
    pieces: Sequence[Sequence[int]] = ()
    piece: Sequence[int] | None = None  # the only piece that this job tracks, into its checkpoint
    # identifies the batch: a job that is done again, because its worker was lost before it could report, is
    # no result of an earlier run
    batch: str = ""
    every: int = 1  # track only every n-th frame
    stream: int | None = None  # which of the file's video streams to track
    # options of `measures.measure`, whose tables are written next to the output; None for no measures
    measures: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class FileResult:
    """The outcome of a video of a batch.

    Attributes
    ----------
    video, output : str
        Paths.
    status : {"done", "no face", "breaks off", "failed"}
        Only "done" is a success; after "no face" and "breaks off" the output has what there is.
    reason : str
        Why it is not "done", in one sentence.
    frames, frames_with_faces, faces : int
        Counts over the output.
    seconds : float
        What tracking took, all tries together.
    warnings : tuple of str
    earlier : bool
        Whether the output existed already, of a run of the same identity.
    tries : int
        How often it was begun in this batch.
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
    """Return the result that `FileResult.to_json` wrote."""
    known = {item.name: values[item.name] for item in dataclasses.fields(FileResult) if item.name in values}
    return FileResult(**{**known, "warnings": tuple(map(str, known.get("warnings", ())))})


def record_of(output: str | Path) -> Path:
    """Return the path of the record that is written next to an output."""
    path = Path(output)
    return path.with_name(companion_name(path.name, ".json"))


def do_job(job: Job, progress: Progress | None = None) -> FileResult:
    """Track one video into its file, or resume; any error becomes a result with its reason."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", VideoWarning)  # they are in the result
            with open_video(job.video, job.stream) as video:
                return _do(job, video, progress or (lambda done, total: None))
    except FaceLandmarksError as error:
        return failure(job, str(error))
    except MemoryError:
        return failure(job, f"There is not enough memory for {job.video}: track fewer videos at a time.")
    except Exception as error:
        _log.exception("%s failed", job.video)
        return failure(
            job,
            f"{job.video} stopped at an unexpected error ({type(error).__name__}: {in_one_line(error)}): "
            "report it with the video.",
        )


def failure(job: Job, reason: str, tries: int = 1) -> FileResult:
    """Return the result of a failed job."""
    return FileResult(job.video, job.output, FAILED, reason, tries=tries)


def _do(job: Job, video: Video, progress: Progress) -> FileResult:
    settings = settings_from_dict(job.settings) if job.settings else TrackerSettings()
    tracker = FaceTracker(_models(job.models), settings, job.threads)
    part = range(0, len(video), job.every)
    identity = run_identity(tracker, video, part)
    before = _earlier(job, identity)
    if before is not None:
        record = read_record(job.output)
        there = record.get("measures") == job.measures and measure_files(job.output)["summary"].is_file()
        if job.measures is None or there:
            return before
        said = record.get("said", ())
        before = dataclasses.replace(before, warnings=tuple(w for w in before.warnings if w not in said))
        again, measured = _measured(job, before, read_tracks(job.output, job.format))
        write_json(record_of(job.output), {**record, **measured})
        return again
    make_folder(Path(job.output).parent)
    if job.piece is not None:
        return _do_piece(job, Piece(*job.piece), tracker, video, progress)
    if job.pieces:
        pieces = [Piece(*numbers) for numbers in job.pieces]
        joined = join_pieces(tracker, video, job.output, pieces, progress)
        if joined is not None:
            result = _write(job, joined, video, identity)
            remove_pieces(job.output)
            return result
    checkpointed = CheckpointedRun.begin(
        tracker, video, journal_of(job.output), resume=True, or_restart=True, part=part
    )
    whole = False
    try:
        _follow(checkpointed, progress)
        result = _write(job, checkpointed.tracks(), video, identity)
        remove_pieces(job.output)
        whole = True
        return result
    finally:
        checkpointed.close(remove=whole)


def _follow(checkpointed: CheckpointedRun, progress: Progress, states_before: Sequence[int] = ()) -> None:
    reported = time.monotonic()
    checkpointed.states_before = states_before
    for _ in checkpointed.run:
        if time.monotonic() - reported >= REPORT_SECONDS:
            reported = time.monotonic()
            progress(checkpointed.done, checkpointed.total)


def _write(job: Job, tracks: Tracks, video: Video, identity: Mapping[str, Any]) -> FileResult:
    """Write a preliminary record of a job, its landmarks, and the complete record."""
    # so that a run that is stopped between the two recognizes its own file
    write_json(record_of(job.output), {"video": job.video, "output": job.output, "run": identity})
    tracks = split_at_cuts(tracks)
    write_tracks(job.output, tracks, job.format)
    result, measured = _measured(job, _result(job, tracks, video), tracks)
    record = {
        **dataclasses.asdict(result),
        **measured,
        "output_bytes": Path(job.output).stat().st_size,
        "output_sha256": _sha256(job.output),
        "run": identity,
        "batch": job.batch,
        "stats": tracks.stats.to_dict(),
    }
    write_json(record_of(job.output), record)
    return result


def _measured(job: Job, result: FileResult, tracks: Tracks) -> tuple[FileResult, dict[str, Any]]:
    """Write the measures of tracks, or remove those of an earlier result where none are wanted.

    Their warnings are added to the result's. Also returned is what its record has of them.
    """
    said: tuple[str, ...] = ()
    if job.measures is None:
        remove_measures(job.output)
    else:
        said = write_measures(job.output, tracks, job.measures)
    result = dataclasses.replace(result, warnings=(*result.warnings, *said))
    return result, {"warnings": list(result.warnings), "said": list(said), "measures": job.measures}


def _do_piece(job: Job, piece: Piece, tracker: FaceTracker, video: Video, progress: Progress) -> FileResult:
    """Track a piece into its checkpoint, for the job that joins the pieces."""
    checkpointed = CheckpointedRun.begin(
        tracker,
        video,
        piece_journal(job.output, piece),
        resume=True,
        or_restart=True,
        part=range(piece.start, piece.stop),
    )
    try:
        _follow(checkpointed, progress, (piece.first, piece.last))
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
        reason = f"{job.video} breaks off: the {tracks.n_frames} frames that could be read are in its file."
    elif not stats.faces:
        status = NO_FACE
        reason = (
            f"No face was found on any frame of {job.video}: check that it shows a face, upright and not too "
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


def _earlier(job: Job, identity: Mapping[str, Any]) -> FileResult | None:
    """Return the result of an earlier run of the same identity whose output exists, or None."""
    try:
        if not Path(job.output).is_file() or not Path(job.output).stat().st_size:
            return None
    except OSError:
        return None
    record = read_record(job.output)
    run, before = record.get("run"), record.get("video")
    if not isinstance(run, dict) or not isinstance(run.get("video"), dict):
        raise ResultError(
            f"{job.output} exists, and no record of a batch says that it is of {job.video}: give "
            "another folder, or move the file away."
        )
    same = all(run["video"].get(key) == identity["video"][key] for key in ("bytes", "sha256_of_parts"))
    grown = before == job.video and record.get("status") == BROKEN_OFF  # it was still being written then
    if not same and not grown:
        whose = f"{job.video} as it was before" if before == job.video else f"another video, {before}"
        raise ResultError(
            f"{job.output} holds the landmarks of {whose}: give another folder, or move the file away."
        )
    size = Path(job.output).stat().st_size
    as_written = size == record.get("output_bytes") and _sha256(job.output) == record.get("output_sha256")
    if "output_sha256" in record and not as_written:
        raise ResultError(
            f"{job.output} was changed after {before} was tracked into it: give another folder, or move the "
            "file away."
        )
    try:
        if run != json.loads(json.dumps(identity)):
            return None
        found = result_from_dict(record)
    except (ValueError, TypeError):
        return None
    earlier = not job.batch or record.get("batch") != job.batch
    return dataclasses.replace(found, video=job.video, output=job.output, earlier=earlier)


def read_record(output: str) -> dict[str, Any]:
    """Return the record of an output; an empty one where there is none, or it cannot be read."""
    try:
        record = read_json(record_of(output), "a record", LARGEST_RECORD, ResultError, "it is not used")
    except ResultError:
        return {}
    return record if isinstance(record, dict) else {}


def _sha256(path: str) -> str:
    """Return the SHA-256 of a file."""
    unreadable = os_errors_as(ResultError, f"{path} cannot be read", "choose another folder")
    with unreadable, open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
