"""The frames that a person should check, the worst first, each with its reasons."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.quality.limits import Limits
from napari_face_landmarks.quality.series import Series, usual_movement

LOST, LOW, JUMP, DISAGREE, ODD = (
    "lost face",
    "low confidence",
    "jump",
    "PFLD and CLNF disagree",
    "unlike a face",
)
REASONS = (LOST, LOW, JUMP, DISAGREE, ODD)
LARGEST_GAP = 2
"""Suspicious frames are grouped if at most this many good ones lie between them."""
LONGEST = 50
"""The most frames of a group."""
NEARLY = 0.95
"""The first frame of a group with at least this fraction of the highest score stands for it."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """Consecutive frames of one face that should be checked.

    Attributes
    ----------
    frame : int
        The worst frame, or the first of those that are nearly as bad; where a face is lost, the first
        without it.
    face : int
        Index of the face.
    first, last : int
        First and last frame, both included.
    reasons : tuple of str
        Of `REASONS`, by falling weight.
    score : float
        Of the worst frame, from 0 to 1.
    text : str
        The reasons in words, with the numbers.
    """

    frame: int
    face: int
    first: int
    last: int
    reasons: tuple[str, ...]
    score: float
    text: str


def find_suspects(series: Series, limits: Limits | None = None) -> list[Suspect]:
    """Return the frames of a run that a person should check, the worst first.

    A face is suspicious where the mean confidence of its landmarks is low, where they jump, where CLNF moved
    PFLD's landmarks far, where they are far from the point distribution model, and where it is lost: absent
    after it was present. Faces with manual landmarks count as checked. The weight of a reason grows with the
    amount by which its limit is exceeded (0 at the limit, at most 1); that of a lost face is 1. Several
    weights w on a frame give the score ``1 - prod(1 - w)``.

    Parameters
    ----------
    series : Series
        Of `series_of`.
    limits : Limits, optional
        Beyond which a frame is suspicious; the defaults where not given.

    Returns
    -------
    list of Suspect
        Ordered by falling score, then by frame and face.
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
    jump = np.fmax(limits.jump_ratio * usual_movement(series.movement), np.float32(limits.jump))
    found = {
        LOW: _below(series.confidence, limits.low_confidence),
        JUMP: _above(series.movement, jump),
        DISAGREE: _above(series.by_clnf, np.float32(limits.disagreement)),
        ODD: _above(series.off_model, np.float32(limits.off_model)),
    }
    return {reason: np.where(series.manual, 0, weight) for reason, weight in found.items()}


def _below(values: npt.NDArray[np.float32], limit: float) -> npt.NDArray[np.float64]:
    weight = (limit - values.astype(np.float64)) / max(limit, 1e-9)
    return np.asarray(np.clip(np.nan_to_num(weight), 0, 1))


def _above(
    values: npt.NDArray[np.float32], limit: npt.NDArray[np.float32] | np.float32
) -> npt.NDArray[np.float64]:
    weight = 1 - np.asarray(limit, dtype=np.float64) / np.maximum(values.astype(np.float64), 1e-9)
    return np.asarray(np.clip(np.nan_to_num(weight), 0, 1))


def _spans(mask: npt.NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Yield the first and the last row of each group."""
    rows = np.flatnonzero(mask)
    for part in np.split(rows, np.flatnonzero(np.diff(rows) > LARGEST_GAP + 1) + 1):
        for start in range(0, len(part), LONGEST):
            piece = part[start : start + LONGEST]
            yield int(piece[0]), int(piece[-1])


def _lost(series: Series, face: int) -> list[Suspect]:
    """Return the frames on which a face is absent after it was present."""
    there = series.present[:, face]
    if not there.any():
        return []
    rows = np.arange(len(there))
    gone = np.flatnonzero(~there & (rows > np.argmax(there)))
    found = []
    for part in np.split(gone, np.flatnonzero(np.diff(gone) > 1) + 1):
        if len(part):
            first, last = int(series.frames[part[0]]), int(series.frames[part[-1]])
            for_good = part[-1] == len(there) - 1
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
        return f"{JUMP}: {percent(series.movement[row, face])} of the inter-ocular distance in a frame"
    if reason == DISAGREE:
        return f"{DISAGREE}: {percent(series.by_clnf[row, face])} of the inter-ocular distance apart"
    return f"{ODD}: {percent(series.off_model[row, face])} of the inter-ocular distance off the shape model"


def percent(fraction: float) -> str:
    """Return a fraction in percent, with two significant digits."""
    value = 100 * float(fraction)
    return f"{value:.0f} %" if value >= 10 else f"{value:.1f} %"
