"""Propagation of a correction: forwards, backwards, or between two corrected frames."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.clnf.fit import fit_landmarks, log_responses
from napari_face_landmarks.clnf.pdm import rotation_matrix
from napari_face_landmarks.correction import constants
from napari_face_landmarks.correction.refit import warn_of_other_models
from napari_face_landmarks.data.edit import row_of
from napari_face_landmarks.data.fields import CARRIED, MANUAL, NONE, OFF_MODEL
from napari_face_landmarks.data.frame import FrameResult, empty_frame
from napari_face_landmarks.data.tracks import Tracks
from napari_face_landmarks.errors import FaceLandmarksError, ResultError, VideoError
from napari_face_landmarks.ibug import N_LANDMARKS, REGIONS, inter_ocular, nme
from napari_face_landmarks.models import Models
from napari_face_landmarks.pfld import crops_of_landmarks, predict_twice
from napari_face_landmarks.tracking.clnf_tracker import fit_next, set_face
from napari_face_landmarks.tracking.context import Frames, RunContext, Tracked
from napari_face_landmarks.tracking.face_finder import STAY_SHARE, face_scores
from napari_face_landmarks.tracking.frame_source import (
    FrameSource,
    check_length,
    check_size,
    open_source,
    recorded_stream,
)
from napari_face_landmarks.tracking.frame_view import recorded_view
from napari_face_landmarks.tracking.pfld_tracker import set_output
from napari_face_landmarks.tracking.refinement import GreyFrame, misfit_of, refine_face, set_refined
from napari_face_landmarks.tracking.run import Run
from napari_face_landmarks.tracking.state import ClnfFace, FacesState, Refinement
from napari_face_landmarks.video.pixels import to_grey

Direction = Literal["forwards", "backwards", "everywhere"]
DIRECTIONS: tuple[Direction, ...] = ("forwards", "backwards", "everywhere")
Floats = npt.NDArray[np.float32]


def propagate(
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

    The face is tracked from there with the settings of the tracks. The offset of its manual landmarks from
    those that the tracker finds on their frame is added on the others, in the face's own plane, and
    neighbouring landmarks of the same part follow them. The offset is reduced only where the image
    contradicts it: where the patch experts respond less to the corrected landmarks, compared with the
    automatic ones, than on the corrected frame, or PFLD is more confident than there. Manually corrected
    frames end the stretch and are never changed: from such a frame the face is tracked too, and both results
    are blended over the whole stretch. If the stretch ends before the track does, it is blended into the old
    track within some frames. The stretch also ends where the face is lost.

    Parameters
    ----------
    models : Models
    frames : str, Path, Video or array-like, (T, Y, X) or (T, Y, X, 3 or 4)
        The video of the tracks.
    tracks : Tracks
        They are not changed. Their settings determine refinement and smoothing.
    frame, face : int
        The frame's number in the video, and the face; it must have landmarks there.
    direction : {"forwards", "backwards", "everywhere"}
        Everywhere is from each frame on which the face was corrected, `frame` or not, to the next, and from
        the first and the last to the ends of the track; `until` is not used then.
    until : int, optional
        The last frame to track, in the video; by default the end of the track.
    progress : callable, optional
        Called with the number of frames done and of all.

    Returns
    -------
    Tracks
        A copy with the propagated landmarks.

    Raises
    ------
    ResultError
        If there is no such frame, face or direction.
    VideoError, ImageError
        If the video cannot be read, ends before the last frame of the stretch, or its frames are of another
        size than those of the tracks.

    Warns
    -----
    CorrectionWarning
        If the tracks were made with other models.
    """
    warn_of_other_models(models, tracks)
    steps = propagate_steps(models, frames, tracks, frame, face, direction, until)
    while True:
        try:
            done, total = next(steps)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        if progress is not None:
            progress(done, total)


def propagate_steps(
    models: Models,
    frames: Any,
    tracks: Tracks,
    frame: int,
    face: int,
    direction: Direction = "forwards",
    until: int | None = None,
) -> Generator[tuple[int, int], None, Tracks]:
    """As `propagate`, step by step: yields the frames done and of all, and returns the tracks.

    Closing it before its end changes nothing.
    """
    row = row_of(tracks, frame, face)
    if not np.isfinite(tracks.landmarks[row, face]).all():
        raise ResultError(f"Face {face} lacks landmarks on frame {frame}: place them first, or refit it.")
    if direction not in DIRECTIONS:
        raise ResultError(f"The direction is {direction!r}: choose forwards, backwards or everywhere.")
    if direction == "everywhere":
        return (yield from _everywhere(models, frames, tracks, face))
    step = 1 if direction == "forwards" else -1
    stop, corrected = _end_of_stretch(tracks, row, face, step, until)
    rows = range(row + step, stop + step, step)
    if not len(rows):
        raise ResultError(
            f"There is nothing to track from frame {frame} {direction}: the track ends there, or the next "
            "frame was corrected by hand."
        )
    total = len(rows) * (2 if corrected is not None else 1)
    source = open_source(frames, stream=recorded_stream(tracks))
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


def _everywhere(
    models: Models, frames: Any, tracks: Tracks, face: int
) -> Generator[tuple[int, int], None, Tracks]:
    """Propagate all corrections of a face, as `propagate_steps`."""
    corrected = np.flatnonzero(tracks.by_hand[:, face].any(axis=-1)).tolist()
    last = tracks.n_frames - 1
    ways: list[tuple[int, Direction]] = [(row, "forwards") for row in corrected if row < last]
    ways = [(row, way) for row, way in ways if row + 1 not in corrected]
    if corrected and corrected[0] > 0:
        ways.insert(0, (corrected[0], "backwards"))
    if not ways:
        raise ResultError(f"Face {face} has no frame to propagate from: correct it on a frame first.")
    ends = [*corrected, last]
    lengths = [
        row if way == "backwards" else min(end for end in ends if end > row) - row for row, way in ways
    ]
    done = 0
    for (row, way), length in zip(ways, lengths, strict=True):
        steps = propagate_steps(models, frames, tracks, int(tracks.frame_indices[row]), face, way)
        while True:
            try:
                part, whole = next(steps)
            except StopIteration as end:
                tracks = end.value
                break
            yield round(done + length * part / whole), sum(lengths)
        done += length
    return tracks


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
    source = replace(
        source,
        start=min(begin, end),
        stop=max(begin, end) + 1,
        backwards=rows.step < 0,
        opened=False,
        view=recorded_view(tracks, source.size),
    )
    row_at = {int(numbers[row]): row for row in rows}
    seen = source.view.seen(tracks.landmarks[first, face])
    with closing(Run(context, source, partial(_follow, seen, tracks.by_hand[first, face]))) as run:
        for result in run:
            if result.index in row_at:
                yield row_at[result.index], result


def _follow(
    landmarks: Floats,
    by_hand: npt.NDArray[np.bool_],
    context: RunContext,
    frames: Frames,
    _: FacesState | None,
) -> Generator[Tracked, None, None]:
    """Track one face from its landmarks, (68, 2), on the first frame, until it is lost, with their offset.

    `by_hand` are the manual ones, whose offset from the automatic ones of that frame is added on the others.
    """
    models = context.models
    by_pfld = models.pfld is not None and context.settings.refine != "clnf-only"
    automatic = _by_pfld if by_pfld else _by_clnf
    state: Any = Refinement() if by_pfld else fit_landmarks(models.pdm, landmarks)
    before, offset = landmarks, None
    for number, (index, frame) in enumerate(frames):
        if isinstance(frame, FaceLandmarksError):
            if isinstance(frame, VideoError) or number == 0:
                raise frame
            yield empty_frame(index, 1), None
            continue
        found = automatic(
            context, frame, index, np.asarray(landmarks + (landmarks - before) / 2, np.float32), state
        )
        if number == 0:
            if found is not None and by_hand.any():
                offset = _offset_of(context, frame, found, landmarks, by_hand)
            result = empty_frame(index, 1)
            result.landmarks[0], result.source[0] = landmarks, MANUAL
        elif found is None:
            return
        else:
            result, state = found.result, found.state
            before, landmarks = landmarks, result.landmarks[0].copy()
            if offset is not None:
                offset = _add_offset(context, frame, found, offset)
        yield result, None


@dataclass(frozen=True, slots=True)
class _Automatic:
    """A face that the tracker found: its arrays, the parameters of the PDM, and the tracker's next state."""

    result: FrameResult
    params: npt.NDArray[np.float64]
    state: Any


def _by_pfld(
    context: RunContext, frame: npt.NDArray[np.uint8], index: int, near: Floats, state: Refinement
) -> _Automatic | None:
    output = predict_twice(context.models.pfld, frame, crops_of_landmarks(near[None]))
    if not face_scores(output)[0] >= STAY_SHARE * context.settings.min_confidence:
        return None
    refined = refine_face(context, GreyFrame(frame), output, 0, index, state)
    result = empty_frame(index, 1)
    set_output(result, 0, output, 0)
    set_refined(result, 0, refined)
    return _Automatic(result, refined.params, refined.after)


def _by_clnf(
    context: RunContext, frame: npt.NDArray[np.uint8], index: int, _: Floats, state: npt.NDArray[np.float64]
) -> _Automatic | None:
    fit = fit_next(context.models, to_grey(frame), state, context.engine)
    if not fit.converged:
        return None
    result = empty_frame(index, 1)
    set_face(result, 0, ClnfFace(fit, float("nan")))
    return _Automatic(result, fit.params, fit.params)


@dataclass(frozen=True, slots=True)
class _Offset:
    """Corrected minus automatic landmarks of a frame."""

    moved: npt.NDArray[np.float64]  # (68, 2); units of the PDM, along the axes of its face
    # (68,); evidence for the corrected over the automatic landmarks on that frame; see `_gain`
    gain: npt.NDArray[np.float64]
    share: npt.NDArray[np.float64]  # (68,); remaining share of the offset on the last frame


def _offset_of(
    context: RunContext,
    frame: npt.NDArray[np.uint8],
    found: _Automatic,
    landmarks: Floats,
    by_hand: npt.NDArray[np.bool_],
) -> _Offset | None:
    """Return the offset of all landmarks from that of the manual ones; None where the face is not found."""
    auto = found.result.landmarks[0].astype(np.float64)
    if not (np.isfinite(found.params).all() and float(nme(auto, landmarks)) < constants.FAR_OFF):
        return None
    axes = _axes(found.params)
    moved = (landmarks - auto)[by_hand] @ np.linalg.inv(axes).T
    apart = np.linalg.norm(auto[:, None] - auto, axis=-1) / (constants.SPREAD * float(inter_ocular(auto)))
    kernel = (np.exp(-0.5 * apart**2) * FOLLOWS)[:, by_hand]
    moved = kernel @ np.linalg.solve(kernel[by_hand] + constants.HAND_NOISE * np.eye(len(moved)), moved)
    return _Offset(moved, _gain(context, frame, found, moved @ axes.T), np.ones(N_LANDMARKS))


def _gain(
    context: RunContext, frame: npt.NDArray[np.uint8], found: _Automatic, offset: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return the evidence of patch experts and PFLD for an offset, (68,), one value for a facial region."""
    auto = found.result.landmarks[0]
    model = context.models.clnf(context.engine)
    here, there = log_responses(to_grey(frame), found.params, [auto, auto + offset], model)
    gain = there - here + np.nan_to_num(np.log(found.result.sigma[0] / found.params[0]))
    weights = np.square(offset).sum(axis=1) + 1e-9
    for region in map(list, REGIONS.values()):
        gain[region] = np.average(gain[region], weights=weights[region])
    return np.asarray(gain)


def _add_offset(
    context: RunContext, frame: npt.NDArray[np.uint8], found: _Automatic, offset: _Offset
) -> _Offset:
    """Add an offset to a frame's landmarks, reduced where the image contradicts it, in place."""
    if not np.isfinite(found.params).all():
        return offset
    result, moved = found.result, offset.moved @ _axes(found.params).T
    worse = np.nan_to_num(offset.gain - _gain(context, frame, found, moved))
    wanted = np.clip((constants.DROPPED - worse) / (constants.DROPPED - constants.KEPT), 0, 1)
    share = offset.share + constants.ADAPTATION * (wanted - offset.share)
    result.landmarks[0] += share[:, None] * moved
    result.source[0] = CARRIED
    pdm = context.models.pdm
    shown = result.landmarks[0]
    result.misfit[0, OFF_MODEL] = misfit_of(shown, shown, pdm, fit_landmarks(pdm, shown))[OFF_MODEL]
    return replace(offset, share=share)


def _follows() -> npt.NDArray[np.float64]:
    """Return how far landmarks follow each other, (68, 68): within a part, and less where parts meet."""
    lips = [
        [48, *range(49, 54), 54, 60, *range(61, 64), 64],
        [48, *range(55, 60), 54, 60, *range(65, 68), 64],
    ]
    lids = [[k, k + 3, *pair] for k in (36, 42) for pair in ((k + 1, k + 2), (k + 4, k + 5))]
    whole = [list(REGIONS[name]) for name in ("jaw", "right brow", "left brow")]
    parts = [*whole, [*REGIONS["nose bridge"], *REGIONS["nose base"]], *lips, *lids, [48, 60], [54, 64]]
    member = np.array([np.isin(np.arange(N_LANDMARKS), part) for part in parts], np.float64)
    member *= np.where(np.isin(np.arange(N_LANDMARKS), [36, 39, 42, 45, 48, 54, 60, 64]), 0.3, 1.0)
    member[-2:] *= 3.0  # upper and lower corners of the mouth go together
    follows = member.T @ member
    np.fill_diagonal(follows, 1.0)
    return follows


FOLLOWS = _follows()


def _axes(params: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the map from displacements in the face's own plane to pixels, (2, 2)."""
    left, sizes, right = np.linalg.svd(rotation_matrix(params[1:4])[:2, :2])
    return np.asarray(params[0] * (left * np.maximum(sizes, constants.LEAST_SEEN)) @ right)


def _written(
    tracks: Tracks,
    face: int,
    rows: range,
    there: dict[int, FrameResult],
    back: dict[int, FrameResult],
    ends_early: bool,
) -> Tracks:
    """Return a copy of the tracks with the stretches, blended where they meet and at their ends."""
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
            new = min(1.0, left / (constants.BLEND + 1))
            points = new * points + (1 - new) * tracks.landmarks[row, face]
            confidence = new * confidence + (1 - new) * tracks.confidence[row, face]
        copy.landmarks[row, face], copy.confidence[row, face] = points, confidence
        copy.source[row, face], copy.pose[row, face] = main.source[0], main.pose[0]
        copy.boxes[row, face] = [*points.min(axis=0), *points.max(axis=0), main.boxes[0, 4]]
        copy.misfit[row, face], copy.sigma[row, face] = main.misfit[0], main.sigma[0]
        copy.iris[row, face] = main.iris[0]
    copy.source[~np.isfinite(copy.landmarks).any(axis=(2, 3))] = NONE
    return copy
