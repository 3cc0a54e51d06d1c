"""Frames that should be checked, the worst first, with the reasons."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.quality.limits import Limits
from napari_face_landmarks.quality.series import PARTS, SIDES, Series, spikes, typical_movement

LOST, LOW, JUMP, DISAGREE, OFF_MODEL, LOW_REGION, REGION_JUMP, ASYMMETRY = (
    "lost face",
    "low confidence",
    "jump",
    "PFLD and CLNF disagree",
    "unlike a face",
    "low confidence of a region",
    "jump of a region",
    "left unlike right",
)
REASONS = (LOST, LOW, JUMP, DISAGREE, OFF_MODEL, LOW_REGION, REGION_JUMP, ASYMMETRY)
NAMES = tuple(PARTS)
OF_DISTANCE = " of the inter-ocular distance"
"""Part of the reasons, which short lists may omit."""
MAX_GAP = 2
"""Suspicious frames with at most this many other frames between them form one sequence."""
MAX_LENGTH = 50
"""Maximum number of frames of a sequence."""
WORST_SHARE = 0.95
"""Share of the highest score of a sequence from which a frame can be its worst."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """A sequence of suspicious frames of one face.

    Attributes
    ----------
    frame : int
        The worst frame (the first whose score is close to the highest); for a lost face, the first frame
        without it.
    face : int
        Index of the face.
    first, last : int
        First and last frame, inclusive.
    reasons : tuple of str
        Items of `REASONS`, the most severe first.
    score : float
        Score of the worst frame, from 0 to 1.
    text : str
        The reasons with their values.
    """

    frame: int
    face: int
    first: int
    last: int
    reasons: tuple[str, ...]
    score: float
    text: str


def find_suspects(series: Series, limits: Limits | None = None) -> list[Suspect]:
    """Return the suspicious frames of a run, the worst first.

    A face is suspicious if its mean confidence is low, its landmarks jump, CLNF moved them far, they are far
    from the shape model, or the face is lost; also if a region (`PARTS`) has a low confidence or jumps
    relative to the face, or if eyes or brows differ between left and right on one frame only. Manually
    corrected faces count as checked. The weight w of a reason is 0 at its limit and grows to 1 beyond it; a
    lost face has the weight 1. The score of a frame is ``1 - prod(1 - w)`` over its reasons.

    Parameters
    ----------
    series : Series
        From `series_of`.
    limits : Limits, optional
        Limits beyond which a frame is suspicious. Default: `Limits()`.

    Returns
    -------
    list of Suspect
        Ordered by descending score, then by frame and face.
    """
    limits = limits or Limits()
    weights = _weights(series, limits)
    suspects = []
    for face in range(series.n_faces):
        suspects += _lost(series, face)
        of_face = {reason: weight[:, face] for reason, weight in weights.items()}
        score = 1 - np.prod([1 - weight for weight in of_face.values()], axis=0)
        suspects += [_suspect(series, face, first, last, of_face, score) for first, last in _spans(score > 0)]
    return sorted(suspects, key=lambda item: (-item.score, item.frame, item.face))


def _weights(series: Series, limits: Limits) -> dict[str, npt.NDArray[np.float64]]:
    """Return the weight of each reason, (T, F) float64, 0 to 1."""
    jump = np.fmax(limits.jump_ratio * typical_movement(series.movement), np.float32(limits.jump))
    weights = {
        LOW: _below(series.confidence, limits.low_confidence),
        JUMP: _above(series.movement, jump),
        DISAGREE: _above(series.by_clnf, np.float32(limits.disagreement)),
        OFF_MODEL: _above(series.off_model, np.float32(limits.off_model)),
    }
    lowest = min(limits.region_confidence, limits.low_confidence)
    for region_reason, face_reason, weight in (  # a region is not listed for the same reason as its face
        (LOW_REGION, LOW, _below(series.region_confidence.min(axis=-1), lowest)),
        (REGION_JUMP, JUMP, _above(series.region_movement.max(axis=-1), jump)),
        (ASYMMETRY, JUMP, _asymmetry(series, limits)),
    ):
        weights[region_reason] = np.where(weights[face_reason] > 0, 0, weight)
    return {reason: np.where(series.manual, 0, weight) for reason, weight in weights.items()}


def _asymmetry(series: Series, limits: Limits) -> npt.NDArray[np.float64]:
    """Return the weight of left-right differences on single frames; the limits are those of jumps."""
    weights = np.zeros(series.source.shape)
    for part in range(len(SIDES)):
        heights = spikes(series.left_minus_right[..., part])
        typical = limits.jump_ratio * typical_movement(heights)
        weights = np.maximum(weights, _above(heights, np.fmax(typical, np.float32(limits.jump))))
    return weights


def _below(values: npt.NDArray[np.float32], limit: float) -> npt.NDArray[np.float64]:
    weight = (limit - values.astype(np.float64)) / max(limit, 1e-9)
    return np.asarray(np.clip(np.nan_to_num(weight), 0, 1))


def _above(
    values: npt.NDArray[np.float32], limit: npt.NDArray[np.float32] | np.float32
) -> npt.NDArray[np.float64]:
    weight = 1 - np.asarray(limit, dtype=np.float64) / np.maximum(values.astype(np.float64), 1e-9)
    return np.asarray(np.clip(np.nan_to_num(weight), 0, 1))


def _spans(mask: npt.NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Yield the first and last row of each sequence."""
    rows = np.flatnonzero(mask)
    for sequence in np.split(rows, np.flatnonzero(np.diff(rows) > MAX_GAP + 1) + 1):
        for start in range(0, len(sequence), MAX_LENGTH):
            part = sequence[start : start + MAX_LENGTH]
            yield int(part[0]), int(part[-1])


def _lost(series: Series, face: int) -> list[Suspect]:
    """Return the sequences of frames on which a face is lost."""
    present = series.present[:, face]
    if not present.any():
        return []
    rows = np.arange(len(present))
    absent = np.flatnonzero(~present & (rows > np.argmax(present)))
    suspects = []
    for part in np.split(absent, np.flatnonzero(np.diff(absent) > 1) + 1):
        if len(part):
            first, last = int(series.frames[part[0]]), int(series.frames[part[-1]])
            to_end = part[-1] == len(present) - 1
            duration = "to the end" if to_end else f"for {len(part)} frame{'s' * (len(part) > 1)}"
            suspects.append(Suspect(first, face, first, last, (LOST,), 1.0, f"{LOST}: not found {duration}"))
    return suspects


def _suspect(
    series: Series,
    face: int,
    first: int,
    last: int,
    weights: dict[str, npt.NDArray[np.float64]],
    score: npt.NDArray[np.float64],
) -> Suspect:
    rows = slice(first, last + 1)
    top = score[rows].max()
    # the first of several: a jump rather than the jump back
    worst = first + int(np.argmax(score[rows] >= WORST_SHARE * top))
    greatest = {reason: float(weight[rows].max()) for reason, weight in weights.items()}
    reasons = sorted((reason for reason in greatest if greatest[reason] > 0), key=lambda r: -greatest[r])
    texts = []
    for reason in reasons:
        row = first + int(np.argmax(weights[reason][rows]))
        texts.append(_in_words(series, reason, row, face))
    return Suspect(
        frame=int(series.frames[worst]),
        face=face,
        first=int(series.frames[first]),
        last=int(series.frames[last]),
        reasons=tuple(reasons),
        score=float(top),
        text="; ".join(texts),
    )


def _in_words(series: Series, reason: str, row: int, face: int) -> str:
    if reason == LOW:
        return f"{LOW}: {series.confidence[row, face]:.2f}"
    if reason == JUMP:
        return f"{JUMP}: {percent(series.movement[row, face])}{OF_DISTANCE} in one frame"
    if reason == DISAGREE:
        return f"{DISAGREE}: {percent(series.by_clnf[row, face])}{OF_DISTANCE} apart"
    if reason == LOW_REGION:
        region = int(series.region_confidence[row, face].argmin())
        return f"{LOW} of the {NAMES[region]}: {series.region_confidence[row, face, region]:.2f}"
    if reason == REGION_JUMP:
        region = int(series.region_movement[row, face].argmax())
        moved = percent(series.region_movement[row, face, region])
        return f"{JUMP} of the {NAMES[region]}: {moved}{OF_DISTANCE}, relative to the face"
    if reason == ASYMMETRY:
        heights = spikes(series.left_minus_right[row - 1 : row + 2, face])[1]
        part, height = SIDES[int(heights.argmax())], percent(heights.max())
        return f"{ASYMMETRY}: the {part} differ by {height}{OF_DISTANCE} on this frame only"
    distance = percent(series.off_model[row, face])
    return f"{OFF_MODEL}: {distance}{OF_DISTANCE} from the shape model"


def percent(fraction: float) -> str:
    """Format a fraction in percent with two significant digits."""
    value = 100 * float(fraction)
    return f"{value:.0f} %" if value >= 10 else f"{value:.1f} %"
