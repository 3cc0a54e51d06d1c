"""Tracks carried on from a corrected frame: forwards, backwards, or between two corrected frames."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.clnf.fit import (
    Correction,
    apply_correction,
    fit_alone,
    fit_landmarks,
    measure_correction,
    to_upright,
)
from napari_face_landmarks.correction.constants import BLEND, BLOCK, FAR_OFF
from napari_face_landmarks.data.edit import reset_fit, row_of
from napari_face_landmarks.data.fields import CARRIED, CLNF, NONE, PFLD
from napari_face_landmarks.data.tracks import Tracks
from napari_face_landmarks.errors import ModelError, ResultError
from napari_face_landmarks.ibug import nme
from napari_face_landmarks.models import Models
from napari_face_landmarks.pfld import PfldOutput, crops_of_landmarks, predict_twice
from napari_face_landmarks.settings import TrackerSettings
from napari_face_landmarks.tracking.face_finder import STAY_SHARE, face_scores
from napari_face_landmarks.tracking.frame_source import check_length, check_size, open_source
from napari_face_landmarks.tracking.refinement import Picture, is_unsure, run_clnf
from napari_face_landmarks.tracking.smoothing import smooth_centre
from napari_face_landmarks.video import read_frames
from napari_face_landmarks.video.pixels import to_grey, to_rgb8

Direction = Literal["forwards", "backwards"]
DIRECTIONS: tuple[Direction, ...] = ("forwards", "backwards")
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Placed:
    """A face on one frame of the new stretch."""

    landmarks: Floats
    confidence: Floats
    pose: Floats
    source: int
    score: float


def carry_on(
    models: Models,
    frames: Any,
    tracks: Tracks,
    frame: int,
    face: int,
    direction: Direction = "forwards",
    until: int | None = None,
    settings: TrackerSettings | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tracks:
    """Track a face anew from a frame on, where it is in place.

    What was corrected there is carried along in the space of the shape model. Frames that were corrected by
    hand end the stretch and are never changed: where there is one, the stretch is tracked from there too, and
    the two are blended over its whole length. Where the stretch ends before the track does, it goes over into
    the old track within some frames. A face that is lost ends the stretch as well.

    Parameters
    ----------
    models : Models
    frames : str, Path, Video or array-like, (T, Y, X) or (T, Y, X, 3 or 4)
        The video of the tracks.
    tracks : Tracks
        They are not changed.
    frame, face : int
        The frame's number in the video, and the face; it must have landmarks there.
    direction : {"forwards", "backwards"}
    until : int, optional
        The last frame to track, in the video; the end of the track where not given.
    settings : TrackerSettings, optional
        Those of the tracks where not given.
    progress : callable, optional
        Called with the number of frames done and of all.

    Returns
    -------
    Tracks
        A copy with the stretch.

    Raises
    ------
    ResultError
        If there is no such frame, face or direction.
    VideoError, ImageError
        If the video cannot be read, ends before the last frame of the stretch, or its frames are of another
        size than those of the tracks.
    """
    steps = carry_on_steps(models, frames, tracks, frame, face, direction, until, settings)
    while True:
        try:
            done, total = next(steps)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        if progress is not None:
            progress(done, total)


def carry_on_steps(
    models: Models,
    frames: Any,
    tracks: Tracks,
    frame: int,
    face: int,
    direction: Direction = "forwards",
    until: int | None = None,
    settings: TrackerSettings | None = None,
) -> Generator[tuple[int, int], None, Tracks]:
    """Do `carry_on` step by step: yields the frames done and all of them, and returns the tracks.

    Closing it before its end leaves everything as it was.
    """
    row = row_of(tracks, frame, face)
    if not np.isfinite(tracks.landmarks[row, face]).all():
        raise ResultError(f"Face {face} lacks landmarks on frame {frame}: place them first, or fit it anew.")
    if direction not in DIRECTIONS:
        raise ResultError(f"The direction is {direction!r}: choose forwards or backwards.")
    settings = settings or tracks.settings
    step = 1 if direction == "forwards" else -1
    stop, corrected = _end_of_stretch(tracks, row, face, step, until)
    rows = range(row + step, stop + step, step)
    if not len(rows):
        raise ResultError(
            f"There is nothing to track from frame {frame} {direction}: the track ends there, or the next "
            "frame was corrected by hand."
        )
    total = len(rows) * (2 if corrected is not None else 1)
    source = open_source(frames)
    done = 0
    stretches: list[dict[int, _Placed]] = []
    needed = [row, rows[-1], row if corrected is None else corrected]
    try:
        check_length(int(source.frames.shape[0]), int(tracks.frame_indices[needed].max()))
        check_size(source.size, tracks)
        for first, way in ((row, step), (corrected, -step)):
            stretch: dict[int, _Placed] = {}
            if first is not None:
                wanted = rows if way == step else rows[::-1]
                for placed_row, placed in _follow(
                    models, source.frames, tracks, first, face, wanted, settings
                ):
                    stretch[placed_row] = placed
                    done += 1
                    yield done, total
                _smooth(stretch, tracks, first, face, settings.smoothing_window)
            stretches.append(stretch)
    finally:
        source.close()
    ends_early = corrected is None and stop + step in range(tracks.n_frames)
    return _written(tracks, face, rows, stretches[0], stretches[1], ends_early)


def _end_of_stretch(
    tracks: Tracks, row: int, face: int, step: int, until: int | None
) -> tuple[int, int | None]:
    """Return the last row to track, and that of the corrected frame after it, or None."""
    last = tracks.n_frames - 1 if step > 0 else 0
    if until is not None:
        reached = np.flatnonzero(tracks.frame_indices <= until if step > 0 else tracks.frame_indices >= until)
        if not len(reached):
            return row, None
        last = int(reached[-1] if step > 0 else reached[0])
    if (last - row) * step <= 0:
        return row, None
    marked = np.flatnonzero(tracks.by_hand[:, face].any(axis=-1))
    between = marked[((marked - row) * step > 0) & ((last - marked) * step >= 0)]
    if not len(between):
        return last, None
    corrected = int(between[0] if step > 0 else between[-1])
    whole = bool(np.isfinite(tracks.landmarks[corrected, face]).all())
    return corrected - step, corrected if whole else None


def _pictures(frames: Any, indices: range) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    """Yield frames in the order asked for, up or down; downwards they are decoded block by block."""
    if indices.step > 0:
        for index, picture in zip(indices, read_frames(frames, indices.start, indices.stop), strict=True):
            yield index, to_rgb8(picture, f"Frame {index}")
        return
    for first in range(0, len(indices), BLOCK):
        block = indices[first : first + BLOCK]
        pictures = list(read_frames(frames, block[-1], block[0] + 1))
        for index, picture in zip(block, reversed(pictures), strict=True):
            yield index, to_rgb8(picture, f"Frame {index}")


def _follow(
    models: Models, frames: Any, tracks: Tracks, first: int, face: int, rows: range, settings: TrackerSettings
) -> Generator[tuple[int, _Placed], None, None]:
    """Yield the rows with where the face is found, until it is lost."""
    numbers = tracks.frame_indices
    at = {int(numbers[row]): row for row in rows}
    step = rows.step
    indices = range(int(numbers[first]), int(numbers[rows[-1]]) + step, step)
    landmarks = tracks.landmarks[first, face].copy()
    before = landmarks
    params: npt.NDArray[np.float64] | None = None
    correction: Correction | None = None
    alone = models.pfld is None or settings.refine == "clnf-only"
    for index, rgb in _pictures(frames, indices):
        if index == indices[0]:
            if alone:
                params = fit_landmarks(models.pdm, landmarks)
            else:
                correction = _correction_at(models, rgb, landmarks)
            continue
        if alone and params is not None:
            fit = fit_alone(
                to_grey(rgb), params, models.pdm, models.experts, models.constants_alone, followed=True
            )
            if not fit.converged:
                return
            params = fit.params
            placed = _Placed(fit.landmarks, fit.confidence, params[:6].astype(np.float32), CLNF, float("nan"))
        else:
            crops = crops_of_landmarks((landmarks + (landmarks - before) / 2)[None])
            output = predict_twice(models.pfld, rgb, crops)
            if not face_scores(output)[0] >= STAY_SHARE * settings.min_confidence:
                return
            placed = _place(models, rgb, output, correction, settings)
        before, landmarks = landmarks, placed.landmarks
        if index in at:
            yield at[index], placed


def _correction_at(models: Models, rgb: npt.NDArray[np.uint8], landmarks: Floats) -> Correction | None:
    """Return what leads from PFLD's landmarks on the corrected frame to the corrected ones.

    None where PFLD does not see the face there at all: that says nothing about other frames.
    """
    output = predict_twice(models.pfld, rgb, crops_of_landmarks(landmarks[None]))
    seen = output.landmarks[0]
    if not float(nme(seen, landmarks)) < FAR_OFF:
        return None
    try:
        start = fit_landmarks(models.pdm, seen, output.sigma[0])
        end = fit_landmarks(models.pdm, landmarks, output.sigma[0], start)
    except ModelError:
        return None
    correction = measure_correction(models.pdm, start, end, np.ones(len(seen)), np.zeros(seen.shape))
    carried, params = apply_correction(models.pdm, correction, start, seen)
    return dataclasses.replace(correction, beyond=to_upright(landmarks - carried, params))


def _place(
    models: Models,
    rgb: npt.NDArray[np.uint8],
    output: PfldOutput,
    correction: Correction | None,
    settings: TrackerSettings,
) -> _Placed:
    """Return the face that PFLD sees, with the correction, refined where the settings say so."""
    landmarks, sigma, confidence = output.landmarks[0], output.sigma[0], output.confidence[0]
    score = float(face_scores(output)[0])
    try:
        params = fit_landmarks(models.pdm, landmarks, sigma)
    except ModelError:
        return _Placed(landmarks, confidence, np.full(6, np.nan, np.float32), PFLD, score)
    code = PFLD
    if correction is not None:
        landmarks, params = apply_correction(models.pdm, correction, params, landmarks)
        code = CARRIED
    if settings.refine == "always" or (settings.refine == "auto" and is_unsure(confidence)):
        fit = run_clnf(models, settings, Picture(rgb), landmarks, params, sigma)
        if fit.converged:
            landmarks, params, code = fit.landmarks, fit.params, CLNF
    return _Placed(landmarks, confidence, params[:6].astype(np.float32), code, score)


def _smooth(stretch: dict[int, _Placed], tracks: Tracks, first: int, face: int, window: int) -> None:
    """Smooth a stretch over time, together with the frame that it begins with."""
    raw = {row: placed.landmarks for row, placed in stretch.items()}
    raw[first] = tracks.landmarks[first, face]
    nothing = np.full_like(raw[first], np.nan)
    for row, placed in list(stretch.items()):
        around = range(row - window // 2, row + window // 2 + 1)
        smoothed = smooth_centre(np.stack([raw.get(k, nothing) for k in around])[:, None])[0]
        stretch[row] = dataclasses.replace(placed, landmarks=smoothed)


def _written(
    tracks: Tracks,
    face: int,
    rows: range,
    there: dict[int, _Placed],
    back: dict[int, _Placed],
    ends_early: bool,
) -> Tracks:
    """Return a copy of the tracks with the stretches in it, blended where they meet and at the seam."""
    copy = tracks.copy()
    lost = len(there) < len(rows)
    for number, row in enumerate(rows, 1):
        found = [stretch[row] for stretch in (there, back) if row in stretch]
        if not found:
            continue
        share = number / (len(rows) + 1)  # of the stretch that comes back
        main = found[-1] if len(found) == 2 and share > 0.5 else found[0]
        points, sure = main.landmarks, main.confidence
        if len(found) == 2:
            points = (1 - share) * found[0].landmarks + share * found[1].landmarks
            sure = (1 - share) * found[0].confidence + share * found[1].confidence
        elif row in there and (ends_early or lost) and np.isfinite(tracks.landmarks[row, face]).all():
            left = len(there) - number + 1
            new = min(1.0, left / (BLEND + 1))
            points = new * points + (1 - new) * tracks.landmarks[row, face]
            sure = new * sure + (1 - new) * tracks.confidence[row, face]
        copy.landmarks[row, face], copy.confidence[row, face] = points, sure
        copy.source[row, face], copy.pose[row, face] = main.source, main.pose
        copy.boxes[row, face] = [*points.min(axis=0), *points.max(axis=0), main.score]
        reset_fit(copy, (row, face))
    copy.source[~np.isfinite(copy.landmarks).any(axis=(2, 3))] = NONE
    return copy
