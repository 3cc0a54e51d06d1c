"""Propagation of a correction: forwards, backwards, or between two corrected frames."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator
from contextlib import closing
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.clnf.fit import (
    Correction,
    apply_correction,
    fit_landmarks,
    measure_correction,
    to_upright,
)
from napari_face_landmarks.correction.constants import BLEND, FAR_OFF
from napari_face_landmarks.data.edit import reset_fit, row_of
from napari_face_landmarks.data.fields import MANUAL, NONE
from napari_face_landmarks.data.frame import FrameResult, empty_frame
from napari_face_landmarks.data.tracks import Tracks
from napari_face_landmarks.errors import FaceLandmarksError, ModelError, ResultError, VideoError
from napari_face_landmarks.ibug import nme
from napari_face_landmarks.models import Models
from napari_face_landmarks.parts import refine_parts
from napari_face_landmarks.pfld import crops_of_landmarks, predict_twice
from napari_face_landmarks.tracking.clnf_tracker import fit_next, set_face
from napari_face_landmarks.tracking.context import Frames, RunContext, Tracked
from napari_face_landmarks.tracking.face_finder import STAY_SHARE, face_scores
from napari_face_landmarks.tracking.frame_source import FrameSource, check_length, check_size, open_source
from napari_face_landmarks.tracking.pfld_tracker import set_output
from napari_face_landmarks.tracking.refinement import GreyFrame, refine_face, set_refined
from napari_face_landmarks.tracking.run import Run
from napari_face_landmarks.tracking.state import ClnfFace, FacesState, Refinement
from napari_face_landmarks.video.pixels import to_grey

Direction = Literal["forwards", "backwards"]
DIRECTIONS: tuple[Direction, ...] = ("forwards", "backwards")
Floats = npt.NDArray[np.float32]


def carry_on(
    models: Models,
    frames: Any,
    tracks: Tracks,
    frame: int,
    face: int,
    direction: Direction = "forwards",
    until: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tracks:
    """Propagate the landmarks of a face on a frame to the frames after or before it.

    The correction there is applied on the other frames in the space of the PDM, and refined as the settings
    say. Frames that were corrected by hand end the stretch and are never changed: where there is one, the
    face is tracked from there too, and the two are blended over the whole stretch. Where the stretch ends
    before the track does, it is blended into the old track within some frames. A face that is lost ends the
    stretch as well.

    Parameters
    ----------
    models : Models
    frames : str, Path, Video or array-like, (T, Y, X) or (T, Y, X, 3 or 4)
        The video of the tracks.
    tracks : Tracks
        They are not changed. Their settings say how to refine and smooth.
    frame, face : int
        The frame's number in the video, and the face; it must have landmarks there.
    direction : {"forwards", "backwards"}
    until : int, optional
        The last frame to track, in the video; the end of the track where not given.
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
    steps = carry_on_steps(models, frames, tracks, frame, face, direction, until)
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
) -> Generator[tuple[int, int], None, Tracks]:
    """Do `carry_on` step by step: yields the frames done and all of them, and returns the tracks.

    Closing it before its end leaves everything as it was.
    """
    row = row_of(tracks, frame, face)
    if not np.isfinite(tracks.landmarks[row, face]).all():
        raise ResultError(f"Face {face} lacks landmarks on frame {frame}: place them first, or refit it.")
    if direction not in DIRECTIONS:
        raise ResultError(f"The direction is {direction!r}: choose forwards or backwards.")
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
    context = RunContext(models, tracks.settings)
    done = 0
    stretches: list[dict[int, FrameResult]] = []
    needed = [row, rows[-1], row if corrected is None else corrected]
    try:
        check_length(int(source.frames.shape[0]), int(tracks.frame_indices[needed].max()))
        check_size(source.size, tracks)
        for first, wanted in ((row, rows), (corrected, rows[::-1])):
            if first is None:
                stretches.append({})
                continue
            stretch: dict[int, FrameResult] = {}
            for found_row, result in _stretch(context, source, tracks, first, face, wanted):
                if result.source[0] != NONE:
                    stretch[found_row] = result
                done += 1
                yield done, total
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


def _stretch(
    context: RunContext, source: FrameSource, tracks: Tracks, first: int, face: int, rows: range
) -> Generator[tuple[int, FrameResult], None, None]:
    """Track a face from row `first` through `rows`; yield each of these rows with its result."""
    numbers = tracks.frame_indices
    begin, end = int(numbers[first]), int(numbers[rows[-1]])
    source = dataclasses.replace(
        source,
        start=min(begin, end),
        stop=max(begin, end) + 1,
        backwards=rows.step < 0,
        opened=False,
        pixel_aspect=1.0,  # the tracks' landmarks are in the pixels of the file
    )
    row_at = {int(numbers[row]): row for row in rows}
    with closing(Run(context, source, partial(_follow, tracks.landmarks[first, face]))) as run:
        for result in run:
            if result.index in row_at:
                yield row_at[result.index], result


def _follow(
    landmarks: Floats, context: RunContext, frames: Frames, _: FacesState | None
) -> Generator[Tracked, None, None]:
    """Track one face from its landmarks, (68, 2), on the first frame, until it is lost."""
    models, settings = context.models, context.settings
    without_pfld = models.pfld is None or settings.refine == "clnf-only"
    before, state = landmarks, Refinement()
    params = fit_landmarks(models.pdm, landmarks) if without_pfld else None
    for number, (index, frame) in enumerate(frames):
        result = empty_frame(index, 1)
        if isinstance(frame, FaceLandmarksError):
            if isinstance(frame, VideoError) or number == 0:
                raise frame
        elif number == 0:
            if params is None:
                state = Refinement(manual=_correction_at(models, frame, landmarks))
            result.landmarks[0] = landmarks
            result.source[0] = MANUAL
        elif params is not None:
            fit = fit_next(models, to_grey(frame), params, context.engine)
            if not fit.converged:
                return
            params = fit.params
            set_face(result, 0, ClnfFace(fit, float("nan")))
        else:
            crops = crops_of_landmarks((landmarks + (landmarks - before) / 2)[None])
            output = predict_twice(models.pfld, frame, crops)
            if not face_scores(output)[0] >= STAY_SHARE * settings.min_confidence:
                return
            refined = refine_face(context, GreyFrame(frame), output, 0, index, state)
            state = refined.after
            set_output(result, 0, output, 0)
            set_refined(result, 0, refined)
        if result.source[0] != NONE:
            before, landmarks = landmarks, result.landmarks[0].copy()
        yield result, None


def _correction_at(models: Models, rgb: npt.NDArray[np.uint8], landmarks: Floats) -> Correction | None:
    """Return what leads from PFLD's landmarks on the corrected frame to the corrected ones.

    None where PFLD does not see the face there at all: that says nothing about other frames.
    """
    output = predict_twice(models.pfld, rgb, crops_of_landmarks(landmarks[None]))
    if models.parts is not None:  # as `refine_face` starts from
        output = refine_parts(models.parts, rgb, output)[0]
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


def _written(
    tracks: Tracks,
    face: int,
    rows: range,
    there: dict[int, FrameResult],
    back: dict[int, FrameResult],
    ends_early: bool,
) -> Tracks:
    """Return a copy of the tracks with the stretches in it, blended where they meet and at the seam."""
    copy = tracks.copy()
    lost = rows[-1] not in there
    for number, row in enumerate(rows, 1):
        found = [stretch[row] for stretch in (there, back) if row in stretch]
        if not found:
            continue
        share = number / (len(rows) + 1)  # of the stretch that comes back
        main = found[-1] if len(found) == 2 and share > 0.5 else found[0]
        points, confidence = main.landmarks[0], main.confidence[0]
        if len(found) == 2:
            points = (1 - share) * found[0].landmarks[0] + share * found[1].landmarks[0]
            confidence = (1 - share) * found[0].confidence[0] + share * found[1].confidence[0]
        elif row in there and (ends_early or lost) and np.isfinite(tracks.landmarks[row, face]).all():
            left = len(there) - number + 1
            new = min(1.0, left / (BLEND + 1))
            points = new * points + (1 - new) * tracks.landmarks[row, face]
            confidence = new * confidence + (1 - new) * tracks.confidence[row, face]
        copy.landmarks[row, face], copy.confidence[row, face] = points, confidence
        copy.source[row, face], copy.pose[row, face] = main.source[0], main.pose[0]
        copy.boxes[row, face] = [*points.min(axis=0), *points.max(axis=0), main.boxes[0, 4]]
        reset_fit(copy, (row, face))
    copy.source[~np.isfinite(copy.landmarks).any(axis=(2, 3))] = NONE
    return copy
