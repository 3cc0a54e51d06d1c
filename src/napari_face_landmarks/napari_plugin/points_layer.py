"""Conversion between tracks and Points layers, and tracking of image layers; no Qt, no display."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from napari_face_landmarks.data.edit import HAND_ERROR, reset_fit
from napari_face_landmarks.data.fields import MANUAL, NONE, PFLD, SOURCES
from napari_face_landmarks.data.tracks import Tracks, empty_tracks
from napari_face_landmarks.errors import ResultError
from napari_face_landmarks.ibug import N_LANDMARKS, inter_ocular
from napari_face_landmarks.io.common import MAX_FACES, boxes_of
from napari_face_landmarks.napari_plugin.layers import VIDEO, frames_of_layer
from napari_face_landmarks.visualization.colours import DEFAULT_MODE, ColourMode, landmark_colours

if TYPE_CHECKING:
    from napari_face_landmarks.models import Models
    from napari_face_landmarks.settings import TrackerSettings


POINT_SIZE = 0.03  # diameter over the side of the landmarks' bounding box (geometric mean of the sides)
MIN_POINT_SIZE = 1.0  # px
BORDER_COLOUR = "#101010"
BORDER_WIDTH = np.float32(0.12)  # over the diameter; napari creates an array of this dtype
ANTIALIASING = 0.3
"""px on the screen; napari's default of 1 widens the border so much that it covers a point of 3 px."""
CANVAS_LIMITS = (0, 10_000)
"""Diameter on the screen, px. napari draws points enlarged to the lower limit as border only."""

_SOURCE_NAMES = np.array(SOURCES, dtype=object)


@dataclass(frozen=True)
class PointRows:
    """Landmarks as N rows of a Points layer, ordered by frame, face and landmark."""

    data: npt.NDArray[np.float32]  # (N, 3) frame, y, x, or (N, 2) y, x, px; Fortran order for fast slicing
    size: npt.NDArray[np.float32]  # diameter, px, in proportion to the face
    landmark: npt.NDArray[np.int32]  # 0 to 67
    face: npt.NDArray[np.int32]
    confidence: npt.NDArray[np.float32]  # 0 to 1
    source: npt.NDArray[np.uint8]  # index into `SOURCES`
    found: npt.NDArray[np.bool_]  # False where there is no face; there `data` is 0

    def colours(self, by: ColourMode = DEFAULT_MODE) -> npt.NDArray[np.float32]:
        """Return the colour of each row, (N, 4) float32, RGBA, 0 to 1."""
        return landmark_colours(by, self.confidence, self.source, self.landmark)


def blank_rows(frame_indices: npt.ArrayLike, n_faces: int, ndim: int) -> PointRows:
    """Return hidden rows for frames (T,), to which landmarks can be written.

    Parameters
    ----------
    frame_indices : array-like, (T,)
        Index of each frame in the video.
    n_faces : int
        Number of faces per frame.
    ndim : int
        3 for rows (t, y, x), 2 for (y, x).
    """
    frames = np.asarray(frame_indices, dtype=np.float32)
    n_frames = len(frames)
    count = n_frames * n_faces * N_LANDMARKS
    data = np.zeros((count, ndim), dtype=np.float32, order="F")
    if ndim == 3:
        data[:, 0] = np.repeat(frames, n_faces * N_LANDMARKS)
    return PointRows(
        data=data,
        size=np.full(count, MIN_POINT_SIZE, dtype=np.float32),
        landmark=np.tile(np.arange(N_LANDMARKS, dtype=np.int32), n_frames * n_faces),
        face=np.tile(np.repeat(np.arange(n_faces, dtype=np.int32), N_LANDMARKS), n_frames),
        confidence=np.zeros(count, dtype=np.float32),
        source=np.zeros(count, dtype=np.uint8),
        found=np.zeros(count, dtype=np.bool_),
    )


def point_rows(
    landmarks: npt.NDArray[Any],
    confidence: npt.NDArray[Any],
    source: npt.NDArray[Any],
    frame_indices: npt.NDArray[Any],
    ndim: int,
) -> PointRows:
    """Convert landmarks to rows of a Points layer.

    Parameters
    ----------
    landmarks : ndarray, (T, F, 68, 2)
        Pixels, x then y; NaN where there is no face.
    confidence : ndarray, (T, F, 68)
        0 to 1.
    source : ndarray, (T, F)
        Index into `SOURCES`.
    frame_indices : ndarray, (T,)
        Index of each frame in the video.
    ndim : int
        3 for rows (t, y, x), 2 for (y, x).

    Returns
    -------
    PointRows
        ``T * F * 68`` rows.
    """
    found = np.asarray(np.isfinite(landmarks).all(axis=-1))
    rows = blank_rows(frame_indices, landmarks.shape[1], ndim)
    rows.data[:, -2] = np.where(found, landmarks[..., 1], 0).ravel()
    rows.data[:, -1] = np.where(found, landmarks[..., 0], 0).ravel()
    return dataclasses.replace(
        rows,
        size=np.repeat(_point_sizes(landmarks, found), N_LANDMARKS),
        confidence=np.array(confidence, dtype=np.float32).ravel(),  # a copy, which the layer may edit
        source=np.repeat(np.asarray(source, dtype=np.uint8).ravel(), N_LANDMARKS),
        found=found.ravel(),
    )


def take_found(rows: PointRows) -> PointRows:
    """Return the rows where there is a face."""
    if rows.found.all():
        return rows
    kept = {item.name: getattr(rows, item.name)[rows.found] for item in dataclasses.fields(rows)}
    return PointRows(**{**kept, "data": np.asfortranarray(kept["data"])})


def features_of(rows: PointRows) -> pd.DataFrame:
    """Return the features of the rows: landmark, face, confidence and source (by name).

    The names have dtype object: napari converts every column to an array whenever a point is selected, which
    is slow for a categorical column of a long video.
    """
    columns = {
        "landmark": rows.landmark,
        "face": rows.face,
        "confidence": rows.confidence,
        "source": pd.Series(source_names(rows.source), dtype=object, copy=False),
    }
    return pd.DataFrame(columns, copy=False)


def source_names(source: npt.NDArray[Any]) -> npt.NDArray[np.object_]:
    """Return the names of source codes, (N,) of str."""
    return np.asarray(_SOURCE_NAMES[source])


def source_codes(names: pd.Series[Any]) -> npt.NDArray[np.uint8]:
    """Return the code of each source name, (N,) uint8; 0 ("none") for unknown and missing names."""
    codes, unique = pd.factorize(names)
    known = [SOURCES.index(name) if name in SOURCES else 0 for name in unique] + [0]  # last: missing
    return np.asarray(np.array(known, np.uint8)[codes])


def _point_sizes(landmarks: npt.NDArray[Any], found: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """Return the diameter of the points of each face, (T * F,), px."""
    mask = found[..., np.newaxis]
    low = np.where(mask, landmarks, np.inf).min(axis=2)
    high = np.where(mask, landmarks, -np.inf).max(axis=2)
    sides = np.where(np.any(found, axis=2, keepdims=True), high - low, 0)
    size = np.maximum(POINT_SIZE * np.sqrt(sides.prod(axis=-1)), MIN_POINT_SIZE)
    return np.asarray(size, dtype=np.float32).ravel()


def style_of_points() -> dict[str, Any]:
    """Return the attributes of a Points layer for landmarks, except colours and sizes."""
    return {
        "symbol": "disc",
        "border_color": BORDER_COLOUR,
        "border_width": BORDER_WIDTH,
        "canvas_size_limits": CANVAS_LIMITS,
        "antialiasing": ANTIALIASING,
    }


LayerDataTuple = tuple[Any, dict[str, Any], str]

MOVED = 1e-3  # px; points farther than this from the tracks' landmarks were moved by the user
TRANSFORMS = ("scale", "translate", "rotate", "shear", "units", "axis_labels")


def transforms_of(image_layer: Any) -> dict[str, Any]:
    """Return the transforms, units and axis labels of an image layer, for a landmarks layer on it."""
    transforms = {name: getattr(image_layer, name) for name in TRANSFORMS if hasattr(image_layer, name)}
    transforms["affine"] = np.array(image_layer.affine.affine_matrix)
    return transforms


def layer_name(image_layer: Any | None) -> str:
    """Return the name of the landmarks layer of `image_layer`."""
    return "Face landmarks" if image_layer is None else f"{image_layer.name} landmarks"


def layer_metadata(tracks: Tracks, image_layer: Any | None) -> dict[str, Any]:
    """Return the metadata of a landmarks layer: tracks, settings, frame rate and image layer."""
    fps = tracks.meta.get("fps")
    if fps is None and image_layer is not None:
        fps = image_layer.metadata.get("fps")
    known = {} if image_layer is None else {VIDEO: image_layer.unique_id}
    tracks = _with_seconds(tracks, fps)
    return {"tracks": tracks, "settings": tracks.settings.to_dict(), "fps": fps, **known}


def _with_seconds(tracks: Tracks, fps: Any) -> Tracks:
    """Add time stamps from the layer's frame rate to tracks without them, such as those of an array."""
    if not isinstance(fps, (int, float)) or not fps > 0 or np.isfinite(tracks.timestamps).any():
        return tracks
    return dataclasses.replace(
        tracks, timestamps=tracks.frame_indices / float(fps), meta={**tracks.meta, "fps": float(fps)}
    )


def rows_of_tracks(tracks: Tracks, ndim: int) -> PointRows:
    """Return the rows of all detected landmarks for a layer of `ndim` dimensions."""
    rows = point_rows(tracks.landmarks, tracks.confidence, tracks.source, tracks.frame_indices, ndim)
    return take_found(rows)


def tracks_to_layer_data(tracks: Tracks, image_layer: Any | None = None) -> list[LayerDataTuple]:
    """Return the landmarks as a napari Points layer.

    Parameters
    ----------
    tracks : Tracks
        The landmarks; missing faces have no points.
    image_layer : napari.layers.Image, optional
        The layer in which they were tracked. Its transforms are copied; if it is a single image, the points
        have no time axis.

    Returns
    -------
    list of one tuple
        ``(data, attributes, "points")``: data (N, 3) float32, frame, y, x (or (N, 2), y, x); features
        ``landmark`` (0 to 67), ``face``, ``confidence`` and ``source``; colour by confidence (viridis, dark
        blue 0 to yellow 1); metadata ``tracks``, ``settings`` and ``fps``.
    """
    rows = rows_of_tracks(tracks, 3 if image_layer is None else int(image_layer.ndim))
    attributes = {
        "name": layer_name(image_layer),
        "features": features_of(rows),
        "metadata": layer_metadata(tracks, image_layer),
        **style_of_points(),
    }
    if len(rows.data):  # napari refuses empty arrays of colours
        attributes |= {"face_color": rows.colours(), "size": rows.size}
    if image_layer is not None:
        attributes |= transforms_of(image_layer)
    return [(rows.data, attributes, "points")]


def track_layer(
    image_layer: Any,
    settings: TrackerSettings | None = None,
    models: Models | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> list[LayerDataTuple]:
    """Track the faces of an image layer; for napari scripts, with or without a window.

    Parameters
    ----------
    image_layer : napari.layers.Image
        A video (T, Y, X) or a single image (Y, X), greyscale, RGB or RGBA.
    settings : TrackerSettings, optional
        By default, the default settings.
    models : Models, optional
        As returned by `load_models`; by default, the default bundle.
    progress : callable, optional
        Called as ``progress(done, total)`` with numbers of frames.

    Returns
    -------
    list of one tuple
        A Points layer as from `tracks_to_layer_data`; ``Layer.create(*result[0])`` creates it.

    Raises
    ------
    ImageError
        If the layer cannot be read as a video.
    ModelError
        If the default bundle is missing or altered.

    Examples
    --------
    >>> from napari.components import ViewerModel
    >>> from napari.layers import Layer
    >>> viewer = ViewerModel()
    >>> layer = viewer.add_image(frames, rgb=True)  # doctest: +SKIP
    >>> viewer.add_layer(Layer.create(*track_layer(layer)[0]))  # doctest: +SKIP
    """
    from napari_face_landmarks.models import load_models
    from napari_face_landmarks.tracking import FaceTracker

    frames = frames_of_layer(image_layer)
    tracker = FaceTracker(load_models() if models is None else models, settings)
    return tracks_to_layer_data(tracker.track(frames, progress=progress), image_layer)


def tracks_of_layer(points_layer: Any) -> Tracks:
    """Return the landmarks of a Points layer in their current state, including manual corrections.

    Parameters
    ----------
    points_layer : napari.layers.Points
        With the features ``landmark`` and ``face``, as in layers created by this plugin.

    Returns
    -------
    Tracks
        As from `tracks_of_points`.

    Raises
    ------
    ResultError
        If the layer has no landmarks.
    """
    if not hasattr(points_layer, "features") or not hasattr(points_layer, "shown"):
        raise ResultError(
            f"The layer {str(points_layer)!r} is not a Points layer: choose one with landmarks."
        )
    data, attributes, _ = points_layer.as_layer_data_tuple()
    return tracks_of_points(data, attributes)


def copy_of_points(layer: Any) -> tuple[npt.NDArray[Any], dict[str, Any]]:
    """Return copies of a layer's points and of the attributes that `tracks_of_points` needs."""
    attributes = {
        "name": layer.name,
        "features": layer.features.copy(),
        "shown": np.array(layer.shown),
        "metadata": dict(layer.metadata),
    }
    return np.array(layer.data), attributes


def tracks_of_points(data: Any, attributes: Mapping[str, Any]) -> Tracks:
    """Return the landmarks in a Points layer's data and attributes.

    Parameters
    ----------
    data : array-like, (N, 3) or (N, 2)
        Frame, y, x (or y, x), px of the image.
    attributes : mapping
        Attributes of the layer as in ``layer.as_layer_data_tuple()[1]``. The features ``landmark`` and
        ``face`` are required; ``confidence``, ``source``, and the metadata ``tracks`` and ``fps`` optional.

    Returns
    -------
    Tracks
        The source of faces with moved or added points is "manual"; faces whose points were all deleted are
        missing. Hidden points are ignored, and so are all but the first of several points for a landmark.

    Raises
    ------
    ResultError
        If the points are not landmarks.
    """
    name = f"The layer {str(attributes.get('name', 'of points'))!r}"
    features = pd.DataFrame(attributes.get("features", {}))
    metadata = attributes.get("metadata", {})
    before = metadata.get("tracks")
    before = before if isinstance(before, Tracks) else None
    points = np.asarray(data, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] not in (2, 3) or not {"landmark", "face"} <= set(features.columns):
        raise ResultError(
            f"{name} has no landmarks: choose one of this plugin, with the features landmark and face."
        )
    row = _rows_of_landmarks(points, features, attributes.get("shown", True), before)
    if before is None and not len(row):
        raise ResultError(f"{name} has no landmarks yet: track a video first.")
    frames = row["frame"].to_numpy()
    indices = np.unique(frames if before is None else np.concatenate([before.frame_indices, frames]))
    n_faces = max(int(row["face"].max()) + 1 if len(row) else 0, 0 if before is None else before.n_faces)
    tracks = _writable_tracks(indices, n_faces, before, metadata.get("fps"))
    old = tracks.landmarks.copy()
    tracks.landmarks[...] = np.nan
    t, f, k = np.searchsorted(indices, frames), row["face"].to_numpy(), row["landmark"].to_numpy()
    tracks.landmarks[t, f, k] = row[["x", "y"]].to_numpy()
    there = np.isfinite(tracks.landmarks).all(axis=-1)
    if "confidence" in row:
        tracks.confidence[t, f, k] = np.clip(np.nan_to_num(row["confidence"].to_numpy(np.float64)), 0, 1)
    tracks.confidence[~there] = 0
    if before is None:
        tracks.source[t, f] = [SOURCES.index(name) if name in SOURCES else PFLD for name in row["source"]]
        tracks.by_hand[t, f, k] = (row["source"] == SOURCES[MANUAL]).to_numpy()
        changed = there
    else:
        changed = there & ~(np.abs(tracks.landmarks - old).max(axis=-1) <= MOVED)
        tracks.source[changed.any(axis=-1)] = MANUAL
        tracks.by_hand[changed], tracks.confidence[changed] = True, 1
        by_hand_sigma = HAND_ERROR * inter_ocular(tracks.landmarks)[..., None]
        tracks.sigma[...] = np.where(changed, by_hand_sigma, tracks.sigma)
        changed |= there != np.isfinite(old).all(axis=-1)
    by_hand = (row["source"] == SOURCES[MANUAL]).to_numpy()
    tracks.source[t[by_hand], f[by_hand]] = MANUAL
    tracks.source[~there.any(axis=-1)] = NONE
    boxes, edited = boxes_of(tracks.landmarks), changed.any(axis=-1)
    tracks.boxes[edited, :4] = boxes[edited, :4]
    tracks.boxes[tracks.source == NONE] = tracks.pose[tracks.source == NONE] = np.nan
    reset_fit(tracks, edited)
    tracks.by_hand[~there], tracks.sigma[~there] = False, np.nan
    return tracks


def _rows_of_landmarks(
    points: npt.NDArray[Any], features: pd.DataFrame, shown: Any, before: Tracks | None
) -> pd.DataFrame:
    """Return a table of frame, face, landmark, x, y, source and confidence of the valid points."""
    row = pd.DataFrame({"y": points[:, -2], "x": points[:, -1]})
    still = 0 if before is None or not before.n_frames else int(before.frame_indices[0])
    row["frame"] = np.rint(points[:, 0]) if points.shape[1] == 3 else still
    for column in ("landmark", "face", "confidence"):
        if column in features:
            row[column] = pd.to_numeric(features[column], errors="coerce").to_numpy(np.float64)
    row["source"] = features["source"].astype(str).to_numpy() if "source" in features else SOURCES[PFLD]
    numbers = row[["x", "y", "frame", "landmark", "face"]].to_numpy(np.float64)
    good = np.isfinite(numbers).all(axis=1) & np.broadcast_to(np.asarray(shown, dtype=bool), len(row))
    row = row[good & (numbers[:, 2:] >= 0).all(axis=1)]
    row = row[(row["landmark"] < N_LANDMARKS) & (row["face"] < MAX_FACES)]
    row = row.astype({"frame": np.int64, "landmark": np.int64, "face": np.int64})
    return row.drop_duplicates(["frame", "face", "landmark"])


def _writable_tracks(indices: npt.NDArray[Any], n_faces: int, before: Tracks | None, fps: Any) -> Tracks:
    """Return writable tracks of the frames `indices`: a copy of `before`, empty on frames it lacks."""
    known = isinstance(fps, (int, float)) and fps > 0
    tracks = empty_tracks(
        indices,
        n_faces,
        timestamps=indices / float(fps) if known else None,
        meta={"fps": float(fps)} if known else {},
    )
    if before is None:
        return tracks
    where = np.searchsorted(indices, before.frame_indices)
    for name, array in before.arrays().items():
        getattr(tracks, name)[where, : before.n_faces] = array
    tracks.timestamps[where] = before.timestamps
    return dataclasses.replace(
        tracks,
        settings=before.settings,
        stats=before.stats,
        warnings=before.warnings,
        meta={**before.meta, **({"fps": fps} if known else {})},
    )
