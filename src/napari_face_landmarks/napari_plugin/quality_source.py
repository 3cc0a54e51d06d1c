"""Where the quality dock has its numbers from: a layer's tracks, its points, or a run that goes on; no Qt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from napari_face_landmarks.data.frame import FrameResult
from napari_face_landmarks.data.tracks import Tracks, collect
from napari_face_landmarks.errors import FaceLandmarksError
from napari_face_landmarks.napari_plugin.points_layer import tracks_of_points
from napari_face_landmarks.quality import Check, Limits, Series, check, join_series, series_of

FRAMES_AT_A_TIME = 400
"""Frames of a run that are looked at in one go: some milliseconds on the GUI's thread."""


@dataclass(frozen=True)
class Material:
    """What a layer of landmarks is checked from, taken on the GUI's thread, for another one.

    Attributes
    ----------
    tracks : Tracks or None
        Of the run or the file, where no point was changed since.
    data, attributes
        Copies of the points, where there is no such thing.
    """

    tracks: Tracks | None
    data: Any = None
    attributes: dict[str, Any] | None = None


def material_of(layer: Any, changed: bool) -> Material:
    """Return what a layer is to be checked from; `changed` tells whether its points were."""
    tracks = layer.metadata.get("tracks")
    if isinstance(tracks, Tracks) and not changed:
        return Material(tracks)
    attributes = {
        "name": layer.name,
        "features": layer.features.copy(),
        "shown": np.array(layer.shown),
        "metadata": dict(layer.metadata),
    }
    return Material(None, np.array(layer.data), attributes)


def check_material(material: Material, limits: Limits) -> Check | str:
    """Check a layer; return what was found, or why it cannot be checked, in a sentence."""
    try:
        if material.tracks is not None:
            return check(material.tracks, limits)
        return check(tracks_of_points(material.data, material.attributes or {}), limits)
    except FaceLandmarksError as error:
        return str(error)


def grown_series(series: Series | None, results: Sequence[FrameResult], fps: Any = None) -> Series | None:
    """Return the series of a run with at most `FRAMES_AT_A_TIME` more of its finished frames.

    Parameters
    ----------
    series : Series or None
        Of the first frames of `results`.
    results : sequence of FrameResult
        All that are finished.
    fps : float, optional
        For the time of each frame.
    """
    done = 0 if series is None else series.n_frames
    fresh = results[max(done - 1, 0) : done + FRAMES_AT_A_TIME]
    if len(fresh) <= min(done, 1):
        return series
    seconds = None
    if isinstance(fps, (int, float)) and fps > 0:
        seconds = np.arange(fresh[-1].index + 1) / float(fps)
    more = series_of(collect(fresh, timestamps=seconds))
    return more if series is None else join_series(series, more)
