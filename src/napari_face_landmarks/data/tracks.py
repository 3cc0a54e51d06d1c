"""Tracks, the faces of all frames of a run, and the function that assembles them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.data.fields import FIELDS, SOURCES, TRACKED, FaceArrays, document, empty_arrays
from napari_face_landmarks.data.frame import FrameResult, stack_frames
from napari_face_landmarks.data.stats import RunStats
from napari_face_landmarks.errors import ResultError
from napari_face_landmarks.settings import TrackerSettings

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas
    import xarray


@dataclass(frozen=True, kw_only=True)
class Tracks(FaceArrays):
    """Landmarks of all faces on all frames of a run.

    Attributes
    ----------
    frame_indices : ndarray, (T,), int64
        Index of each frame in the source, from 0.
    timestamps : ndarray, (T,), float64
        Seconds, from the file if it has time stamps, else frame index over frame rate; NaN if unknown.
    settings : TrackerSettings
    stats : RunStats
        Counts and times of the run.
    warnings : tuple of str
        Problems during the run, one sentence each.
    meta : dict
        Version, models, frame size, frame rate, names of faces.
    """

    frame_indices: npt.NDArray[np.int64]
    timestamps: npt.NDArray[np.float64]
    settings: TrackerSettings = field(default_factory=TrackerSettings)
    stats: RunStats = field(default_factory=RunStats)
    warnings: tuple[str, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Fill in missing arrays; raise a `ResultError` if shapes are inconsistent."""
        super().__post_init__()
        leading = self.source.shape
        shapes = {item.name: (*leading, *item.shape) for item in FIELDS}
        for name, shape in (shapes | dict.fromkeys(("frame_indices", "timestamps"), leading[:1])).items():
            if getattr(self, name).shape != shape:
                raise ResultError(f"{name} has the shape {getattr(self, name).shape}: tracks need {shape}.")

    @property
    def n_frames(self) -> int:
        """The number of frames, T."""
        return int(self.landmarks.shape[0])

    @property
    def n_faces(self) -> int:
        """The number of faces, F."""
        return int(self.landmarks.shape[1])

    def copy(self) -> Tracks:
        """Return tracks with copies of the face arrays, which may be changed in place."""
        return self.with_arrays({name: array.copy() for name, array in self.arrays().items()})

    def with_arrays(self, arrays: Mapping[str, npt.NDArray[Any]]) -> Tracks:
        """Return tracks with face arrays replaced by name; everything else is shared."""
        return dataclasses.replace(self, **dict[str, Any](arrays))

    def take_frames(self, rows: Any) -> Tracks:
        """Return the frames selected by `rows`: a slice, indices or a mask of the first axis."""
        arrays = {name: array[rows] for name, array in self.arrays().items()}
        return dataclasses.replace(
            self,
            **dict[str, Any](arrays),
            frame_indices=self.frame_indices[rows],
            timestamps=self.timestamps[rows],
        )

    def take_faces(self, faces: Any) -> Tracks:
        """Return the faces selected by `faces`, in order: a slice, indices or a mask of the second axis."""
        return self.with_arrays({name: array[:, faces] for name, array in self.arrays().items()})

    def with_room_for(self, n_faces: int) -> Tracks:
        """Return tracks with at least `n_faces` faces; added faces are present on no frame."""
        added = n_faces - self.n_faces
        if added <= 0:
            return self
        return self.with_arrays(
            {
                item.name: np.concatenate([getattr(self, item.name), item.empty(self.n_frames, added)], 1)
                for item in FIELDS
            }
        )

    def save(self, path: str | Path, format: str | None = None) -> None:
        """Write the tracks to a file, atomically.

        Parameters
        ----------
        path : path-like
            Its suffix selects the format: ``.npz`` keeps everything, ``.csv`` has OpenFace's columns; see
            `io.FORMATS` for all.
        format : str, optional
            The format, if several share the suffix, such as ``"tidy-csv"``.

        Raises
        ------
        ResultError
            If there is no such format, a required library is missing, or the file cannot be written.
        """
        from napari_face_landmarks.io.formats import write_tracks

        write_tracks(path, self, format)

    @staticmethod
    def load(path: str | Path, format: str | None = None) -> Tracks:
        """Read tracks from a file of any supported format.

        Parameters
        ----------
        path : path-like
            The file.
        format : str, optional
            Its format; by default recognised from the content.

        Raises
        ------
        ResultError
            If the file cannot be read or has another format, or a required library is missing.
        """
        from napari_face_landmarks.io.formats import read_tracks

        return read_tracks(path, format)

    def to_dataframe(self) -> pandas.DataFrame:
        """Return one row per frame and face, with the columns of the CSV file."""
        from napari_face_landmarks.io import to_dataframe

        return to_dataframe(self)

    def to_xarray(self) -> xarray.Dataset:
        """Return a dataset in movement's conventions; needs xarray."""
        from napari_face_landmarks.io.movement import to_xarray

        return to_xarray(self)

    def plot(self) -> matplotlib.figure.Figure:
        """Return a figure of confidence, head pose and movement over time; needs matplotlib."""
        from napari_face_landmarks.visualization.figure import plot_tracks

        return plot_tracks(self)

    def __repr__(self) -> str:
        """Return a summary of at most ten lines."""
        present, meta, seconds = self.present, self.meta, self.timestamps[np.isfinite(self.timestamps)]
        frames = f"{self.frame_indices[0]} to {self.frame_indices[-1]}" if self.n_frames else "none"
        counts = [f"{name} {int((self.source == code).sum())}" for code, name in enumerate(SOURCES) if code]
        confidence = self.confidence[present]
        faces = ", ".join(f"face {k} on {int(present[:, k].sum())}" for k in range(min(self.n_faces, 5)))
        faces += ", …" if self.n_faces > 5 else ""
        size, fps = f"{meta.get('width', '?')} x {meta.get('height', '?')}", meta.get("fps") or "?"
        lines = [
            f"Tracks: {self.n_frames} frames ({frames}), {self.n_faces} faces",
            f"frames with a face: {int(present.any(axis=1).sum())} ({faces})",
            f"time: {seconds[0]:.3f} to {seconds[-1]:.3f} s" if len(seconds) else "time: unknown",
            f"video: {size} px, {fps} frames per second",
            f"source: {', '.join(counts)}",
            f"confidence: {confidence.mean():.3f} on average" if confidence.size else "confidence: no face",
            f"manual landmarks: {int(self.by_hand.sum())}",
            f"models: {meta.get('models', '?')} {meta.get('models_version', '')}".rstrip(),
            f"refine: {self.settings.refine}",
            f"warnings: {len(self.warnings)}" + (f" ({self.warnings[0][:100]})" if self.warnings else ""),
        ]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """Return a short summary for Jupyter."""
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


document(Tracks, "T, F")


def collect(
    frames: Sequence[FrameResult] | Mapping[str, npt.NDArray[Any]],
    *,
    settings: TrackerSettings | None = None,
    stats: RunStats | None = None,
    timestamps: npt.NDArray[np.floating] | Sequence[float] | None = None,
    warnings: Sequence[str] = (),
    meta: Mapping[str, Any] | None = None,
) -> Tracks:
    """Assemble tracks from the frames of a run.

    `frames` are results in order, or arrays from `stack_frames` or `checkpoint.read_frames`; `timestamps` are
    those of all frames of the source in seconds (NaN if unknown). Other parameters are attributes of
    `Tracks`.
    """
    settings = settings or TrackerSettings()
    arrays = frames if isinstance(frames, Mapping) else stack_frames(frames, settings.max_faces)
    indices = arrays["index"].astype(np.int64)
    seconds = np.full(len(indices), np.nan)
    if timestamps is not None:
        known = indices < len(timestamps)
        seconds[known] = np.asarray(timestamps, dtype=np.float64)[indices[known]]
    return Tracks(
        **{item.name: arrays[item.name] for item in TRACKED},
        frame_indices=indices,
        timestamps=seconds,
        settings=settings,
        stats=stats or RunStats(),
        warnings=tuple(warnings),
        meta=dict(meta or {}),
    )


def empty_tracks(
    frame_indices: npt.ArrayLike, n_faces: int, timestamps: npt.ArrayLike | None = None, **more: Any
) -> Tracks:
    """Return tracks without faces on frames with `frame_indices` (T,) and `timestamps` (T,)."""
    indices = np.asarray(frame_indices, dtype=np.int64)
    seconds = np.full(len(indices), np.nan) if timestamps is None else np.asarray(timestamps, np.float64)
    more |= empty_arrays(len(indices), n_faces)
    return Tracks(frame_indices=indices, timestamps=seconds, **more)


def frame_rate_of(tracks: Tracks) -> float | None:
    """Return the frames per second, from the metadata or the time stamps; None if unknown."""
    fps = tracks.meta.get("fps")
    if isinstance(fps, (int, float)) and np.isfinite(fps) and fps > 0:
        return float(fps)
    steps = np.diff(tracks.frame_indices)
    seconds = np.diff(tracks.timestamps)
    valid = np.isfinite(seconds) & (seconds > 0) & (steps > 0)
    return float(steps[valid].sum() / seconds[valid].sum()) if valid.any() else None


def seconds_of(tracks: Tracks) -> npt.NDArray[np.float64] | None:
    """Return the time of each frame in seconds, (T,); None unless all are known."""
    if np.isfinite(tracks.timestamps).all() and (np.diff(tracks.timestamps) > 0).all():
        return tracks.timestamps
    fps = frame_rate_of(tracks)
    return None if fps is None else tracks.frame_indices / fps
