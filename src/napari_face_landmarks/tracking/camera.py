"""Focal length of the camera, and position and rotation of the head in camera coordinates."""

from __future__ import annotations

import dataclasses
import math
import re

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.clnf.pdm import euler_angles, rotation_matrix
from napari_face_landmarks.data.tracks import Tracks
from napari_face_landmarks.errors import SettingsError
from napari_face_landmarks.tracking.frame_view import recorded_view

FOCAL = "focal"
"""Entry of `Tracks.meta`: the focal length given by the user, in pixels of the displayed frame."""
FILM_DIAGONAL = math.hypot(36.0, 24.0)
"""Diagonal of a 35 mm film frame in millimetres, for "35 mm equivalent" focal lengths."""
AMBIGUOUS_BELOW = 300.0
"""A focal length below this needs a unit: it could be in pixels or in millimetres."""
Floats = npt.NDArray[np.float64]


def focal_in_pixels(focal: float | str, size: tuple[int, int]) -> float:
    """Return a focal length in pixels.

    Parameters
    ----------
    focal : float or str
        Pixels, or the 35 mm equivalent (same diagonal angle of view) in millimetres, such as ``"26mm"``.
        Values below 300 pixels need the unit: ``"250px"``.
    size : (int, int)
        Height and width of the displayed frames, pixels.

    Raises
    ------
    SettingsError
        If it cannot be parsed, is implausible, or needs a unit.

    Examples
    --------
    >>> round(focal_in_pixels("26mm", (1080, 1920)))
    1324
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*(px|mm|)\s*", str(focal).lower())
    value, unit = (float(found[1]), found[2]) if found else (0.0, "px")
    if not unit and 0 < value < AMBIGUOUS_BELOW:
        raise SettingsError(
            f"The focal length {focal!r:.40} needs a unit: give {value:g}px for pixels, or {value:g}mm for "
            "millimetres (35 mm equivalent)."
        )
    if unit == "mm":
        value *= math.hypot(*size) / FILM_DIAGONAL
    if not 0.1 <= value / max(size) <= 100:
        raise SettingsError(
            f"The focal length {focal!r:.40} is not valid: give pixels, such as 1300, or millimetres (35 mm "
            "equivalent), such as 26mm."
        )
    return value


def with_focal(tracks: Tracks, focal: float | str) -> Tracks:
    """Return a copy of the tracks with the focal length of the camera recorded, for head poses."""
    size = shown_size(tracks)
    if size is None:
        raise SettingsError("The frame size is not known: give the focal length when tracking.")
    return dataclasses.replace(tracks, meta={**tracks.meta, FOCAL: focal_in_pixels(focal, size)})


def recorded_focal(tracks: Tracks) -> float | None:
    """Return the focal length recorded in tracks, pixels, or None."""
    focal = tracks.meta.get(FOCAL)
    known = isinstance(focal, (int, float)) and math.isfinite(focal) and focal > 0
    return float(focal) if known and focal is not None else None


def shown_size(tracks: Tracks) -> tuple[int, int] | None:
    """Return height and width of the tracked frames as displayed: upright, with square pixels."""
    height, width = tracks.meta.get("height"), tracks.meta.get("width")
    if height is None or width is None:
        return None
    return recorded_view(tracks, (int(height), int(width))).seen_size


def default_focal(size: tuple[int, int]) -> float:
    """Return OpenFace's default focal length, pixels: 500 px at 640 x 480."""
    height, width = size
    return (500 * width / 640 + 500 * height / 480) / 2


def head_position(
    pose: npt.NDArray[np.floating], size: tuple[int, int], focal: float | None = None
) -> Floats:
    """Return the head position in camera coordinates, (N, 3) mm: x right, y down, z away from the camera.

    The optical axis passes through the image centre. Under weak perspective, z = focal length / scale.
    Arrays: `pose` (N, 6).
    """
    height, width = size
    focal_px = default_focal(size) if focal is None else focal
    pose = pose.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = focal_px / pose[:, 0]
        x = (pose[:, 4] - width / 2) * z / focal_px
        y = (pose[:, 5] - height / 2) * z / focal_px
    return np.stack([x, y, z], axis=1)


def head_rotation(pose: npt.NDArray[np.floating], size: tuple[int, int], focal: float) -> Floats:
    """Return the head rotation in camera coordinates, (N, 3) radians: pitch, yaw, roll.

    `Tracks.pose` is relative to the line of sight, so that a head at the edge of the image that faces the
    camera has a yaw of 0. The rotation of the line of sight is added.
    """
    rotations = np.full((len(pose), 3), np.nan)
    for row, position in enumerate(head_position(pose, size, focal)):
        if not np.isfinite(position).all():
            continue
        ray = position / np.linalg.norm(position)
        axis = np.cross([0.0, 0.0, 1.0], ray)
        cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
        sight = np.eye(3) + cross + cross @ cross / (1 + ray[2])  # the smallest rotation from z to the ray
        rotations[row] = euler_angles(sight @ rotation_matrix(pose[row, 1:4].astype(np.float64)))
    return rotations
