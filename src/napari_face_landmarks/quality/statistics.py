"""Statistics of a run, as numbers and as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.data.fields import SOURCES
from napari_face_landmarks.quality.limits import Limits
from napari_face_landmarks.quality.series import Series
from napari_face_landmarks.quality.suspects import LOST, Suspect, percent

ANGLES = ("pitch", "yaw", "roll")
SOURCE_WORDS = {
    "pfld": "from PFLD without refinement",
    "clnf": "refined by CLNF",
    "carried": "with a carried correction",
    "manual": "manually corrected",
}


@dataclass(frozen=True)
class Extreme:
    """An extreme value and its frame."""

    value: float
    frame: int


@dataclass(frozen=True)
class FaceStatistics:
    """Statistics of one face.

    Attributes
    ----------
    face : int
        Index of the face.
    frames : int
        Frames with this face.
    times_lost : int
        Number of times the face was lost.
    frames_lost : int
        Frames without the face after its first frame.
    confidence : float
        Mean over frames and landmarks.
    low_confidence : int
        Frames with a mean confidence below the limit.
    lowest_confidence : Extreme
        Lowest mean confidence of a frame.
    sources : dict of str to int
        Frames by source: pfld, clnf, carried, manual.
    movement : float or None
        Median movement per frame, in inter-ocular distances.
    fastest : Extreme or None
        Largest movement per frame, in inter-ocular distances.
    by_clnf : float or None
        Mean distance by which CLNF moved the landmarks, in inter-ocular distances; None if it refined none.
    most_by_clnf : Extreme or None
        Largest such distance of a frame.
    pose : dict of str to (float, float)
        Smallest and largest pitch, yaw and roll, degrees; empty if unknown.
    """

    face: int
    frames: int
    times_lost: int
    frames_lost: int
    confidence: float
    low_confidence: int
    lowest_confidence: Extreme
    sources: dict[str, int]
    movement: float | None
    fastest: Extreme | None
    by_clnf: float | None
    most_by_clnf: Extreme | None
    pose: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Statistics:
    """Statistics of a run.

    Attributes
    ----------
    frames : int
    seconds : float or None
        Time from the first frame to the last; None if unknown.
    frames_with_faces : int
        Frames with at least one face.
    faces : tuple of FaceStatistics
        Faces that are present on at least one frame.
    to_check : int
        Number of suspects.
    frames_to_check : int
        Number of their frames.
    limits : Limits
        Limits beyond which a frame is suspicious.
    """

    frames: int
    seconds: float | None
    frames_with_faces: int
    faces: tuple[FaceStatistics, ...]
    to_check: int
    frames_to_check: int
    limits: Limits


def statistics_of(series: Series, suspects: Sequence[Suspect], limits: Limits | None = None) -> Statistics:
    """Compute the statistics of a run.

    Parameters
    ----------
    series : Series
        From `series_of`.
    suspects : sequence of Suspect
        From `find_suspects`.
    limits : Limits, optional
        Limits with which the suspects were found.
    """
    limits = limits or Limits()
    seconds = series.seconds[np.isfinite(series.seconds)]
    present = series.present
    checked = np.zeros(series.n_frames, bool)
    for suspect in suspects:
        start, stop = np.searchsorted(series.frames, [suspect.first, suspect.last + 1])
        checked[start:stop] = True
    faces = [face for face in range(series.n_faces) if present[:, face].any()]
    return Statistics(
        frames=series.n_frames,
        seconds=float(seconds[-1] - seconds[0]) if len(seconds) > 1 else None,
        frames_with_faces=int(present.any(axis=1).sum()),
        faces=tuple(_face_statistics(series, face, suspects, limits) for face in faces),
        to_check=len(suspects),
        frames_to_check=int(checked.sum()),
        limits=limits,
    )


def _face_statistics(
    series: Series, face: int, suspects: Sequence[Suspect], limits: Limits
) -> FaceStatistics:
    present = series.present[:, face]
    confidence = series.confidence[:, face]
    lowest = _extreme(-confidence, series.frames) or Extreme(0.0, int(series.frames[0]))
    codes = np.bincount(series.source[present, face], minlength=len(SOURCES))
    by_clnf, movement = series.by_clnf[:, face], series.movement[:, face]
    known = series.pose[np.isfinite(series.pose[:, face]).all(axis=-1), face]
    return FaceStatistics(
        face=face,
        frames=int(present.sum()),
        times_lost=sum(item.face == face and LOST in item.reasons for item in suspects),
        frames_lost=int((~present[np.argmax(present) :]).sum()),
        confidence=float(np.nanmean(confidence)),
        low_confidence=int((confidence[present] < limits.low_confidence).sum()),
        lowest_confidence=Extreme(abs(lowest.value), lowest.frame),
        sources={name: int(count) for name, count in zip(SOURCES, codes, strict=True) if name != "none"},
        movement=float(np.nanmedian(movement)) if np.isfinite(movement).any() else None,
        fastest=_extreme(movement, series.frames),
        by_clnf=float(np.nanmean(by_clnf)) if np.isfinite(by_clnf).any() else None,
        most_by_clnf=_extreme(by_clnf, series.frames),
        pose={
            name: (float(low), float(high))
            for name, low, high in zip(ANGLES, known.min(axis=0), known.max(axis=0), strict=True)
        }
        if len(known)
        else {},
    )


def _extreme(values: npt.NDArray[np.float32], frames: npt.NDArray[np.int64]) -> Extreme | None:
    if not np.isfinite(values).any():
        return None
    row = int(np.nanargmax(values))
    return Extreme(float(values[row]), int(frames[row]))


def in_words(statistics: Statistics) -> list[str]:
    """Return the statistics as sentences about the run, each face, and the number of frames to check."""
    total = statistics.frames
    if not statistics.faces:
        return [f"{count(total, 'frame')} without a face."]
    time = "" if statistics.seconds is None else f" ({_duration(statistics.seconds)})"
    sentences = [
        f"{count(total, 'frame')}{time}, with a face on {_share(statistics.frames_with_faces, total)}."
    ]
    for face in statistics.faces:
        sentences += _face_in_words(face, statistics)
    if statistics.to_check:
        sequences = count(statistics.to_check, "sequence")
        frames, share = (
            count(statistics.frames_to_check, "frame"),
            percent(statistics.frames_to_check / total),
        )
        sentences.append(f"To check: {sequences} with a total of {frames} ({share}).")
    else:
        sentences.append("No frame needs to be checked.")
    return sentences


def _face_in_words(face: FaceStatistics, statistics: Statistics) -> list[str]:
    presence = [f"on {_share(face.frames, statistics.frames)}"] if len(statistics.faces) > 1 else []
    if face.times_lost:
        times = {1: "once", 2: "twice"}.get(face.times_lost, f"{face.times_lost} times")
        presence.append(f"lost {times}, for a total of {count(face.frames_lost, 'frame')}")
    lowest = face.lowest_confidence
    confidence = (
        f"mean confidence {face.confidence:.2f}, lowest {lowest.value:.2f} on frame {lowest.frame}, below "
        f"{statistics.limits.low_confidence:g} on {face.low_confidence or 'none'}"
    )
    by_source = [
        f"{_share(face.sources[name], face.frames)} {words}"
        for name, words in SOURCE_WORDS.items()
        if face.sources[name]
    ]
    sentences = [*([_sentence(", ".join(presence))] if presence else []), _sentence(confidence)]
    sentences.append(f"Landmarks: {', '.join(by_source)}.")
    if face.by_clnf is not None and face.most_by_clnf is not None:
        sentences.append(
            f"CLNF moved PFLD's landmarks by {percent(face.by_clnf)} of the inter-ocular distance on "
            f"average, and by at most {percent(face.most_by_clnf.value)}, on frame {face.most_by_clnf.frame}."
        )
    if face.movement is not None and face.fastest is not None:
        sentences.append(
            f"Movement per frame: median {percent(face.movement)} of the inter-ocular distance, at most "
            f"{percent(face.fastest.value)}, on frame {face.fastest.frame}."
        )
    if face.pose:
        angles = [f"{name} from {low:.0f}° to {high:.0f}°" for name, (low, high) in face.pose.items()]
        sentences.append(f"Head: {', '.join(angles)}.")
    if len(statistics.faces) > 1:
        sentences[0] = f"Face {face.face}: {sentences[0][0].lower()}{sentences[0][1:]}"
    return sentences


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."


def count(number: int, word: str) -> str:
    """Return a number with its noun: ``1 frame``, ``2 frames``."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _share(part: int, total: int) -> str:
    """Return ``12 (3.4 %)``, or ``all``."""
    if part == total:
        return "all"
    return f"{part} ({percent(part / max(total, 1))})"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds, 1), 60)
    return f"{int(minutes)} min {rest:.0f} s" if minutes else f"{rest:.1f} s"
