"""Anchor frames, on which PFLD always runs; between them it runs only on fast or uncertain faces.

Between anchor frames, jaw, brows and nose of a confident, slowly moving face are interpolated between the
previous frame and the next anchor frame. The part models locate eyes and mouth on every frame and verify the
interpolation (`tracking/README.md`, "Anchor frames").
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.ibug import N_LANDMARKS, OUTER_EYES
from napari_face_landmarks.jit import exact_kernel
from napari_face_landmarks.pfld.custom import CustomPfld
from napari_face_landmarks.tracking.context import RunContext
from napari_face_landmarks.tracking.frame_source import FrameSource

Floats = npt.NDArray[np.float32]

MAX_GAP = 0.125
"""Maximum number of seconds between anchor frames: shorter than a brow or jaw movement and its return."""
MAX_DEFORMATION = 0.02
"""Maximum deformation of a region until the next anchor frame (RMS), in inter-ocular distances."""
MAX_MOTION = 0.5
"""Maximum motion of the whole face until the next anchor frame, in inter-ocular distances."""
MAX_EYE_DEVIATION, MAX_LIP_DEVIATION = 0.01, 0.025
"""Maximum deviation of eye corners (mean) and lips (RMS) from the interpolation, inter-ocular distances."""
REGION_ENDS = np.array([0, 17, 22, 27, 36])
"""First landmarks of the interpolated regions (jaw, right brow, left brow, nose), and the end of the nose."""
EYE_CORNERS = np.array([36, 39, 42, 45])
FIRST_LIP = 48


def anchor_interval(context: RunContext, source: FrameSource) -> int:
    """Return the number of frames from one anchor frame to the next; 1 if all frames are anchor frames.

    It is 1 without part models, with a custom network, for unrelated images and for live video.
    """
    models = context.models
    if models.parts is None or isinstance(models.pfld, CustomPfld) or context.live or not source.has_scenes:
        return 1
    rate = math.inf if source.rate is None else source.rate
    return max(1, min(context.settings.pfld_every, math.floor(min(rate, 1e6) * MAX_GAP + 1e-6)))


@exact_kernel
def _eye_distance(landmarks: Floats) -> float:
    """Return the inter-ocular distance of landmarks, (68, 2)."""
    first, last = landmarks[OUTER_EYES[0]], landmarks[OUTER_EYES[1]]
    return math.hypot(float(last[0]) - first[0], float(last[1]) - first[1])


@exact_kernel
def interpolate(
    before: Floats,
    after: Floats,
    spread: Floats,
    next_spread: Floats,
    confidence: Floats,
    next_confidence: Floats,
    steps: int,
    landmarks: Floats,
    sigma: Floats,
    interpolated_confidence: Floats,
) -> bool:
    """Interpolate a face one frame after `before`, given `after` on the anchor frame `steps` after `before`.

    Fills the last three arrays. Returns whether motion and deformation from `before` to `after` are small
    enough for interpolation. Arrays: landmarks (68, 2), the others (68,).
    """
    share = 1.0 / steps
    for i in range(N_LANDMARKS):
        for axis in range(2):
            landmarks[i, axis] = before[i, axis] + share * (after[i, axis] - before[i, axis])
        sigma[i] = spread[i] + share * (next_spread[i] - spread[i])
        interpolated_confidence[i] = confidence[i] + share * (next_confidence[i] - confidence[i])
    unit = _eye_distance(after)
    means = np.zeros(4)
    for i in range(N_LANDMARKS):
        for axis in range(2):
            means[axis] += float(before[i, axis]) / N_LANDMARKS
            means[2 + axis] += float(after[i, axis]) / N_LANDMARKS
    along = across = square = 0.0  # of the similarity transform from `after` to `before`
    for i in range(N_LANDMARKS):
        x, y = after[i, 0] - means[2], after[i, 1] - means[3]
        u, v = before[i, 0] - means[0], before[i, 1] - means[1]
        along += x * u + y * v
        across += x * v - y * u
        square += x * x + y * y
    if not (math.isfinite(along + across + square) and square > 0 and unit > 0):
        return False
    along, across = along / square, across / square
    if not math.hypot(means[2] - means[0], means[3] - means[1]) <= MAX_MOTION * unit:
        return False
    for region in range(len(REGION_ENDS) - 1):
        begin, end = REGION_ENDS[region], REGION_ENDS[region + 1]
        total = 0.0
        for i in range(begin, end):
            x, y = after[i, 0] - means[2], after[i, 1] - means[3]
            total += (along * x - across * y - before[i, 0] + means[0]) ** 2
            total += (along * y + across * x - before[i, 1] + means[1]) ** 2
        if not total <= (end - begin) * (MAX_DEFORMATION * unit) ** 2:
            return False
    return True


@exact_kernel
def is_confirmed(expected: Floats, parts: Floats, anchor_pfld: Floats, anchor_parts: Floats) -> bool:
    """Return whether the part models confirm the interpolated position of a face.

    The offset between the part models' landmarks (`parts`) and the interpolated ones (`expected`) is
    compared with the offset on the next anchor frame, where `anchor_pfld` is PFLD's; all are (68, 2).
    False if no eye corner was moved by the part models on both frames, as there is no evidence then.
    """
    unit = _eye_distance(anchor_pfld)
    corners, lips = 0, 0.0
    off = np.zeros(2)
    for i in EYE_CORNERS:
        moved = parts[i, 0] != expected[i, 0] or parts[i, 1] != expected[i, 1]
        if moved and (anchor_parts[i, 0] != anchor_pfld[i, 0] or anchor_parts[i, 1] != anchor_pfld[i, 1]):
            corners += 1
            for axis in range(2):
                off[axis] += (
                    float(parts[i, axis]) - expected[i, axis] - anchor_parts[i, axis] + anchor_pfld[i, axis]
                )
    for i in range(FIRST_LIP, N_LANDMARKS):
        for axis in range(2):
            lips += (
                float(parts[i, axis]) - expected[i, axis] - anchor_parts[i, axis] + anchor_pfld[i, axis]
            ) ** 2
    if not corners or not math.isfinite(off[0] + off[1] + lips):
        return False
    return (
        math.hypot(off[0], off[1]) <= corners * MAX_EYE_DEVIATION * unit
        and lips <= (N_LANDMARKS - FIRST_LIP) * (MAX_LIP_DEVIATION * unit) ** 2
    )
