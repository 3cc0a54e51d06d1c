"""What tracking gives: one frame's result, a still's fit, and the tracks of a whole run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.ibug import N_LANDMARKS, OUTER_EYES
from napari_face_landmarks.settings import TrackerSettings

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas
    import xarray

Floats = npt.NDArray[np.float32]

SOURCES = ("none", "pfld", "clnf", "carried", "manual")
"""What the codes 0 to 4 of `source` mean: where a face's landmarks come from."""
NONE, PFLD, CLNF, CARRIED, MANUAL = range(len(SOURCES))
STAGES = ("decode", "detect", "pfld", "clnf", "smoothing")
LOW_CONFIDENCE = 0.5
"""A face on a frame counts as of low confidence where the mean over its landmarks is lower."""
BY_CLNF, OFF_MODEL = 0, 1
"""Places in `misfit`: how far CLNF moved PFLD's landmarks; how far they are from the shape model's."""


@dataclass(frozen=True, slots=True)
class FaceFit:
    """The faces of one picture.

    Attributes
    ----------
    landmarks : ndarray, (F, 68, 2), float32
        Pixels, x then y.
    confidence : ndarray, (F, 68), float32
        Probability that the landmark is within 8 % of the inter-ocular distance of the truth.
    pose : ndarray, (F, 6), float32
        Scale, pitch, yaw, roll (radians), tx, ty (pixels) of the point distribution model.
    source : ndarray, (F,), uint8
        Index into `SOURCES`.
    boxes : ndarray, (F, 5), float32
        x0, y0, x1, y1 of the landmarks and the face score.
    """

    landmarks: Floats
    confidence: Floats
    pose: Floats
    source: npt.NDArray[np.uint8]
    boxes: Floats


@dataclass(frozen=True, slots=True)
class FrameResult:
    """The faces of one frame of a run; every array has one row per slot, ``settings.max_faces`` of them.

    Attributes
    ----------
    index : int
        The frame's index in the source.
    landmarks, confidence, pose, source, boxes
        As in `FaceFit`; NaN (confidence 0, source 0) where a slot has no face.
    misfit : ndarray, (F, 2), float32
        As in `Tracks`, (T, F, 2).
    """

    index: int
    landmarks: Floats
    confidence: Floats
    pose: Floats
    source: npt.NDArray[np.uint8]
    boxes: Floats
    misfit: Floats


def empty_frame(index: int, max_faces: int) -> FrameResult:
    """Return the result of a frame without faces."""
    return FrameResult(
        index=index,
        landmarks=np.full((max_faces, N_LANDMARKS, 2), np.nan, np.float32),
        confidence=np.zeros((max_faces, N_LANDMARKS), np.float32),
        pose=np.full((max_faces, 6), np.nan, np.float32),
        source=np.zeros(max_faces, np.uint8),
        boxes=np.full((max_faces, 5), np.nan, np.float32),
        misfit=np.full((max_faces, 2), np.nan, np.float32),
    )


def misfit_of(
    landmarks: npt.NDArray[Any], given: npt.NDArray[Any] | None, expressed: npt.NDArray[Any] | None
) -> Floats:
    """Return how far a face's landmarks are from where PFLD and the shape model have them, (2,) float32.

    Parameters
    ----------
    landmarks : ndarray, (68, 2)
        Pixels.
    given : ndarray, (68, 2), or None
        PFLD's, where `landmarks` are refined ones.
    expressed : ndarray, (68, 2), or None
        What the shape model makes of them.

    Returns
    -------
    ndarray, (2,), float32
        Mean distances, in fractions of the inter-ocular distance; NaN for what is None.
    """
    (x0, y0), (x1, y1) = landmarks[OUTER_EYES[0]].tolist(), landmarks[OUTER_EYES[1]].tolist()
    across = max(math.hypot(x1 - x0, y1 - y0), 1e-6)
    found = np.full(2, np.nan, np.float32)
    for place, other in ((BY_CLNF, given), (OFF_MODEL, expressed)):
        if other is not None:
            apart = landmarks - other
            found[place] = np.sqrt((apart * apart).sum(axis=-1)).mean() / across
    return found


@dataclass(slots=True)
class RunStats:
    """The counts of a run; while it goes on they grow and may be read from another thread.

    Attributes
    ----------
    frames : int
        Frames finished.
    seconds : float
        Wall time of the run so far, without `prepare_seconds`.
    prepare_seconds : float
        Time that compiling or loading the kernels took before the first frame.
    stage_seconds : dict of str to float
        Time spent in decode, detect, pfld, clnf and smoothing; with several threads they overlap.
    stage_calls : dict of str to int
        How often each stage ran.
    frames_with_faces, faces, refined, carried, low_confidence : int
        Frames with a face; faces over all frames; those refined by CLNF, those that carry its correction, and
        those whose mean confidence is low.
    completed : bool
        Whether the run reached the end of what it was to track.
    """

    frames: int = 0
    seconds: float = 0.0
    prepare_seconds: float = 0.0
    stage_seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    stage_calls: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STAGES, 0))
    frames_with_faces: int = 0
    faces: int = 0
    refined: int = 0
    carried: int = 0
    low_confidence: int = 0
    completed: bool = False

    @property
    def fps(self) -> float:
        """Frames a second, end to end."""
        return self.frames / self.seconds if self.seconds > 0 else 0.0

    def count(self, result: FrameResult) -> None:
        """Add a finished frame."""
        sources = result.source.tolist()
        present = [slot for slot, source in enumerate(sources) if source > NONE]
        self.frames += 1
        self.frames_with_faces += bool(present)
        self.faces += len(present)
        self.refined += sources.count(CLNF)
        self.carried += sources.count(CARRIED)
        self.low_confidence += sum(bool(result.confidence[slot].mean() < LOW_CONFIDENCE) for slot in present)

    def add_time(self, stage: str, seconds: float) -> None:
        """Add to the time spent in a stage."""
        self.stage_seconds[stage] += seconds
        self.stage_calls[stage] += 1

    def to_dict(self) -> dict[str, Any]:
        """Return the counts as plain values, ready for JSON."""
        return {**dataclasses.asdict(self), "fps": self.fps}


@dataclass(frozen=True)
class Tracks:
    """The landmarks of every face on every frame of a run.

    Attributes
    ----------
    landmarks : ndarray, (T, F, 68, 2), float32
        Pixels, x then y, pixel centres at whole numbers; NaN where there is no face.
    confidence : ndarray, (T, F, 68), float32
        Probability that the landmark is within 8 % of the inter-ocular distance of the truth; 0 where there
        is no face.
    source : ndarray, (T, F), uint8
        Index into `SOURCES`: none, pfld, clnf, carried, manual.
    pose : ndarray, (T, F, 6), float32
        Scale (pixels per unit of the model), pitch, yaw, roll (radians), tx, ty (pixels).
    boxes : ndarray, (T, F, 5), float32
        x0, y0, x1, y1 of the landmarks and the face score.
    frame_indices : ndarray, (T,), int64
        Each frame's index in the source.
    timestamps : ndarray, (T,), float64
        Seconds, from the file where it has them, else the frame's index over the frame rate (NaN if unknown).
    settings : TrackerSettings
        How the run was made.
    stats : RunStats
        Counts and times of the run.
    warnings : tuple of str
        What went wrong on the way, a sentence each.
    meta : dict
        Version, models, size of the frames, frame rate.
    misfit : ndarray, (T, F, 2), float32
        Mean distance of the landmarks, before smoothing, from PFLD's where CLNF refined them, and from what
        the shape model can express; in fractions of the inter-ocular distance, NaN where not known. An array
        of another shape than the landmarks' counts as not known.
    by_hand : ndarray, (T, F, 68), bool
        Which landmarks were placed by hand; none where not given. A face that has one on a frame has the
        source "manual" there, and nothing that tracks or fits anew moves those landmarks.
    """

    landmarks: Floats
    confidence: Floats
    source: npt.NDArray[np.uint8]
    pose: Floats
    boxes: Floats
    frame_indices: npt.NDArray[np.int64]
    timestamps: npt.NDArray[np.float64]
    settings: TrackerSettings = field(default_factory=TrackerSettings)
    stats: RunStats = field(default_factory=RunStats)
    warnings: tuple[str, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)
    misfit: Floats = field(default_factory=lambda: np.zeros((0, 0, 2), np.float32))
    by_hand: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros((0, 0, N_LANDMARKS), np.bool_))

    def __post_init__(self) -> None:
        if self.by_hand.shape != (*self.source.shape, N_LANDMARKS):
            object.__setattr__(self, "by_hand", np.zeros((*self.source.shape, N_LANDMARKS), np.bool_))
        each = (*self.source.shape, 2)
        if self.misfit.shape != each:
            object.__setattr__(self, "misfit", np.full(each, np.nan, np.float32))

    @property
    def n_frames(self) -> int:
        """The number of frames, T."""
        return int(self.landmarks.shape[0])

    @property
    def n_faces(self) -> int:
        """The number of faces (slots), F."""
        return int(self.landmarks.shape[1])

    @property
    def present(self) -> npt.NDArray[np.bool_]:
        """Where there is a face, (T, F) bool."""
        return np.asarray(self.source > NONE)

    def save(self, path: str | Path, format: str | None = None) -> None:
        """Write the tracks to a file, which appears whole or not at all.

        Parameters
        ----------
        path : path-like
            Its suffix chooses the format: ``.npz`` has all there is, ``.csv`` is in OpenFace's columns; see
            `export.FORMATS` for all.
        format : str, optional
            The format, where several share the suffix: ``"tidy-csv"`` for example.

        Raises
        ------
        ResultError
            If there is no such format, a library it needs is missing, or the file cannot be written.
        """
        from napari_face_landmarks.io.formats import write_tracks

        write_tracks(path, self, format)

    @staticmethod
    def load(path: str | Path, format: str | None = None) -> Tracks:
        """Read tracks from a file of any of the formats, whoever wrote it.

        Parameters
        ----------
        path : path-like
            The file.
        format : str, optional
            Its format; found out from the file where not given.

        Raises
        ------
        ResultError
            If the file cannot be read or is of no such format, or a library it needs is missing.
        """
        from napari_face_landmarks.io.formats import read_tracks

        return read_tracks(path, format)

    def to_dataframe(self) -> pandas.DataFrame:
        """Return one row per frame and face, with the columns of the CSV file."""
        from napari_face_landmarks.io import to_dataframe

        return to_dataframe(self)

    def to_xarray(self) -> xarray.Dataset:
        """Return the tracks as a dataset in the conventions of movement; needs xarray."""
        from napari_face_landmarks.io.movement import to_xarray

        return to_xarray(self)

    def plot(self) -> matplotlib.figure.Figure:
        """Return a figure of confidence, head pose and movement over time; needs matplotlib."""
        from napari_face_landmarks.visualization.figure import plot_tracks

        return plot_tracks(self)

    def _repr_html_(self) -> str:
        """Return a short summary, which Jupyter shows."""
        from napari_face_landmarks.visualization.figure import summary_as_html

        return summary_as_html(self)

    def to_layer_data(self, image_layer: Any = None) -> list[Any]:
        """Return napari layer tuples (data, attributes, "points") of the tracks.

        Parameters
        ----------
        image_layer : napari.layers.Image, optional
            The layer that was tracked; its transforms are copied.
        """
        from napari_face_landmarks.napari_plugin.points_layer import tracks_to_layer_data

        return tracks_to_layer_data(self, image_layer)


def collect(
    results: Sequence[FrameResult],
    *,
    settings: TrackerSettings | None = None,
    stats: RunStats | None = None,
    timestamps: npt.NDArray[np.floating] | None = None,
    warnings: Sequence[str] = (),
    meta: Mapping[str, Any] | None = None,
) -> Tracks:
    """Put the frames of a run together: what `FaceTracker.track`, the widget and the command line share.

    Parameters
    ----------
    results : sequence of FrameResult
        In the order of the frames; may be fewer than the run was to give.
    settings, stats, warnings, meta
        Carried over to the tracks.
    timestamps : ndarray, (N,), optional
        Seconds of every frame of the source, looked up by each result's index; NaN where it has none.
    """
    settings = settings or TrackerSettings()
    rows = list(results) or [empty_frame(0, settings.max_faces)]
    keep = slice(len(results))
    indices = np.array([row.index for row in rows], dtype=np.int64)[keep]
    seconds = np.full(len(indices), np.nan)
    if timestamps is not None:
        known = indices < len(timestamps)
        seconds[known] = np.asarray(timestamps, dtype=np.float64)[indices[known]]
    return Tracks(
        landmarks=np.stack([row.landmarks for row in rows])[keep],
        confidence=np.stack([row.confidence for row in rows])[keep],
        source=np.stack([row.source for row in rows])[keep],
        pose=np.stack([row.pose for row in rows])[keep],
        boxes=np.stack([row.boxes for row in rows])[keep],
        frame_indices=indices,
        timestamps=seconds,
        settings=settings,
        stats=stats or RunStats(),
        warnings=tuple(warnings),
        meta=dict(meta or {}),
        misfit=np.stack([row.misfit for row in rows])[keep],
    )
