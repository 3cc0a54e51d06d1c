"""Frames that should be checked, the worst first, with the reasons."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.quality.limits import Limits
from napari_face_landmarks.quality.series import PARTS, SIDES, Series, spikes, typical_movement

LOST, LOW, JUMP, DISAGREE, ODD, LOW_REGION, REGION_JUMP, UNEVEN = (
    "lost face",
    "low confidence",
    "jump",
    "PFLD and CLNF disagree",
    "unlike a face",
    "low confidence of a region",
    "jump of a region",
    "left unlike right",
)
REASONS = (LOST, LOW, JUMP, DISAGREE, ODD, LOW_REGION, REGION_JUMP, UNEVEN)
NAMES = tuple(PARTS)
LARGEST_GAP = 2
"""Suspicious frames with at most this many other frames between them form one sequence."""
LONGEST = 50
"""Maximum number of frames of a sequence."""
NEARLY = 0.95


@dataclass(frozen=True, slots=True)
class Suspect:
    """A sequence of suspicious frames of one face.

    Attributes
    ----------
    frame : int
        The worst frame (the first with nearly the highest score); for a lost face, the first frame without
        it.
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
    from the shape model, or the face is lost; so is one of which a region (`PARTS`) has a low confidence or
    jumps by itself, relative to the face, and one whose eyes or brows differ between left and right on one
    frame only. Manually corrected faces count as checked. The weight w of a
    reason is 0 at its limit and grows to 1 beyond it; a lost face has the weight 1. The score of a frame is
    ``1 - prod(1 - w)`` over its reasons.

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
    found = {
        LOW: _below(series.confidence, limits.low_confidence),
        JUMP: _above(series.movement, jump),
        DISAGREE: _above(series.by_clnf, np.float32(limits.disagreement)),
        ODD: _above(series.off_model, np.float32(limits.off_model)),
    }
    lowest = min(limits.region_confidence, limits.low_confidence)
    for of_region, of_face, weight in (  # what the face's own says already is not said of a region too
        (LOW_REGION, LOW, _below(series.region_confidence.min(axis=-1), lowest)),
        (REGION_JUMP, JUMP, _above(series.region_movement.max(axis=-1), jump)),
        (UNEVEN, JUMP, _uneven(series, limits)),
    ):
        found[of_region] = np.where(found[of_face] > 0, 0, weight)
    return {reason: np.where(series.manual, 0, weight) for reason, weight in found.items()}


def _uneven(series: Series, limits: Limits) -> npt.NDArray[np.float64]:
    """Return the weight of differences between left and right on one frame only; a jump's limits."""
    found = np.zeros(series.source.shape)
    for side in range(len(SIDES)):
        one = spikes(series.left_minus_right[..., side])
        usual = limits.jump_ratio * typical_movement(one)
        found = np.maximum(found, _above(one, np.fmax(usual, np.float32(limits.jump))))
    return found


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
    for part in np.split(rows, np.flatnonzero(np.diff(rows) > LARGEST_GAP + 1) + 1):
        for start in range(0, len(part), LONGEST):
            rows_of = part[start : start + LONGEST]
            yield int(rows_of[0]), int(rows_of[-1])


def _lost(series: Series, face: int) -> list[Suspect]:
    """Return the sequences of frames on which a face is lost."""
    present = series.present[:, face]
    if not present.any():
        return []
    rows = np.arange(len(present))
    gone = np.flatnonzero(~present & (rows > np.argmax(present)))
    found = []
    for part in np.split(gone, np.flatnonzero(np.diff(gone) > 1) + 1):
        if len(part):
            first, last = int(series.frames[part[0]]), int(series.frames[part[-1]])
            for_good = part[-1] == len(present) - 1
            end = "to the end" if for_good else f"for {len(part)} frame{'s' * (len(part) > 1)}"
            found.append(Suspect(first, face, first, last, (LOST,), 1.0, f"{LOST}: not found {end}"))
    return found


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
    worst = first + int(np.argmax(score[rows] >= NEARLY * top))  # the jump away rather than the jump back
    heaviest = {reason: float(weight[rows].max()) for reason, weight in weights.items()}
    reasons = sorted((reason for reason in heaviest if heaviest[reason] > 0), key=lambda r: -heaviest[r])
    words = []
    for reason in reasons:
        row = first + int(np.argmax(weights[reason][rows]))
        words.append(_in_words(series, reason, row, face))
    return Suspect(
        frame=int(series.frames[worst]),
        face=face,
        first=int(series.frames[first]),
        last=int(series.frames[last]),
        reasons=tuple(reasons),
        score=float(top),
        text="; ".join(words),
    )


def _in_words(series: Series, reason: str, row: int, face: int) -> str:
    if reason == LOW:
        return f"{LOW}: {series.confidence[row, face]:.2f}"
    if reason == JUMP:
        return f"{JUMP}: {percent(series.movement[row, face])} of the inter-ocular distance in one frame"
    if reason == DISAGREE:
        return f"{DISAGREE}: {percent(series.by_clnf[row, face])} of the inter-ocular distance apart"
    if reason == LOW_REGION:
        region = int(series.region_confidence[row, face].argmin())
        return f"{LOW} of the {NAMES[region]}: {series.region_confidence[row, face, region]:.2f}"
    if reason == REGION_JUMP:
        region = int(series.region_movement[row, face].argmax())
        moved = percent(series.region_movement[row, face, region])
        return f"{JUMP} of the {NAMES[region]}: {moved} of the inter-ocular distance, relative to the face"
    if reason == UNEVEN:
        off = spikes(series.left_minus_right[row - 1 : row + 2, face])[1]
        side = int(off.argmax())
        away = percent(off[side])
        return f"{UNEVEN}: the {SIDES[side]} differ by {away} of the inter-ocular distance on this frame only"
    return f"{ODD}: {percent(series.off_model[row, face])} of the inter-ocular distance from the shape model"


def percent(fraction: float) -> str:
    """Format a fraction in percent with two significant digits."""
    value = 100 * float(fraction)
    return f"{value:.0f} %" if value >= 10 else f"{value:.1f} %"
