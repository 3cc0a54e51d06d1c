"""Anchor frames: PFLD runs there, and in between only where a face moves much or is uncertain.

Jaw, brows and nose of a confident face that moves little are interpolated between the frame before and the
next anchor frame; the part models locate eyes and mouth on every frame, and show whether the face is where
it is expected (`tracking/README.md`, "Anchor frames").
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

LONGEST_GAP = 0.125
"""Seconds between anchor frames, at most: shorter than a movement of brows or jaw there and back."""
MOST_DEFORMED = 0.02
"""Deformation of a region up to the next anchor frame from which PFLD runs (RMS), inter-ocular distances."""
MOST_MOVED = 0.5
"""Movement of the whole face up to the next anchor frame from which PFLD runs, in inter-ocular distances."""
MOST_OFF, LIPS_OFF = 0.01, 0.025
"""Deviation of the eyes' corners (mean), and of the lips (RMS), from where the interpolation expects them."""
REGION_ENDS = np.array([0, 17, 22, 27, 36])
"""Where jaw, right brow, left brow and nose begin, and the end: what is interpolated."""
EYE_CORNERS = np.array([36, 39, 42, 45])
FIRST_LIP = 48


def anchor_interval(context: RunContext, source: FrameSource) -> int:
    """Return the number of frames from one anchor frame to the next; 1: each is one.

    It is 1 without part models, where frames are unrelated pictures, and where latency matters.
    """
    models = context.models
    if models.parts is None or isinstance(models.pfld, CustomPfld) or context.live or not source.has_scenes:
        return 1
    rate = math.inf if source.rate is None else source.rate
    return max(1, min(context.settings.pfld_every, math.floor(min(rate, 1e6) * LONGEST_GAP + 1e-6)))


@exact_kernel
def _eye_distance(landmarks: Floats) -> float:
    """Return the inter-ocular distance of a face, (68, 2)."""
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
    sure: Floats,
) -> bool:
    """Interpolate a face between a frame and the anchor frame `steps` later, for the next frame.

    Returns whether the face deforms and moves little. The last three arrays are filled; landmarks (68, 2),
    others (68,).
    """
    share = 1.0 / steps
    for i in range(N_LANDMARKS):
        for axis in range(2):
            landmarks[i, axis] = before[i, axis] + share * (after[i, axis] - before[i, axis])
        sigma[i] = spread[i] + share * (next_spread[i] - spread[i])
        sure[i] = confidence[i] + share * (next_confidence[i] - confidence[i])
    unit = _eye_distance(after)
    means = np.zeros(4)
    for i in range(N_LANDMARKS):
        for axis in range(2):
            means[axis] += float(before[i, axis]) / N_LANDMARKS
            means[2 + axis] += float(after[i, axis]) / N_LANDMARKS
    along = across = square = 0.0  # the similarity that takes `after` to `before`
    for i in range(N_LANDMARKS):
        x, y = after[i, 0] - means[2], after[i, 1] - means[3]
        u, v = before[i, 0] - means[0], before[i, 1] - means[1]
        along += x * u + y * v
        across += x * v - y * u
        square += x * x + y * y
    if not (math.isfinite(along + across + square) and square > 0 and unit > 0):
        return False
    along, across = along / square, across / square
    if not math.hypot(means[2] - means[0], means[3] - means[1]) <= MOST_MOVED * unit:
        return False
    for region in range(len(REGION_ENDS) - 1):
        begin, end = REGION_ENDS[region], REGION_ENDS[region + 1]
        total = 0.0
        for i in range(begin, end):
            x, y = after[i, 0] - means[2], after[i, 1] - means[3]
            total += (along * x - across * y - before[i, 0] + means[0]) ** 2
            total += (along * y + across * x - before[i, 1] + means[1]) ** 2
        if not total <= (end - begin) * (MOST_DEFORMED * unit) ** 2:
            return False
    return True


@exact_kernel
def is_confirmed(given: Floats, placed: Floats, anchor_given: Floats, anchor_placed: Floats) -> bool:
    """Return whether the part models find an interpolated face where it is expected.

    They place eyes and mouth (`placed`) at some distance from PFLD (`given`), which hardly changes up to the
    next anchor frame, with whose landmarks these are compared; all are (68, 2). Where they placed no corner
    of an eye there is no evidence.
    """
    unit = _eye_distance(anchor_given)
    seen, lips = 0, 0.0
    off = np.zeros(2)
    for i in EYE_CORNERS:
        moved = placed[i, 0] != given[i, 0] or placed[i, 1] != given[i, 1]
        if moved and (anchor_placed[i, 0] != anchor_given[i, 0] or anchor_placed[i, 1] != anchor_given[i, 1]):
            seen += 1
            for axis in range(2):
                off[axis] += (
                    float(placed[i, axis]) - given[i, axis] - anchor_placed[i, axis] + anchor_given[i, axis]
                )
    for i in range(FIRST_LIP, N_LANDMARKS):
        for axis in range(2):
            lips += (
                float(placed[i, axis]) - given[i, axis] - anchor_placed[i, axis] + anchor_given[i, axis]
            ) ** 2
    if not seen or not math.isfinite(off[0] + off[1] + lips):
        return False
    return (
        math.hypot(off[0], off[1]) <= seen * MOST_OFF * unit
        and lips <= (N_LANDMARKS - FIRST_LIP) * (LIPS_OFF * unit) ** 2
    )
