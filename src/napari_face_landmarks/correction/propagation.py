"""Propagation of corrections to the frames after, before and between corrected frames."""

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
from napari_face_landmarks.tracking.face_finder import face_scores, min_tracked_score
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

    The face is tracked from that frame with the settings of the tracks. The offset of its manual landmarks
    from the automatic landmarks of that frame is added on the other frames, in the plane of the face;
    neighbouring landmarks of the same part follow. The offset is reduced only where the image contradicts it:
    where the patch experts respond less to the corrected landmarks, relative to the automatic ones, than on
    the corrected frame, or where PFLD is more confident than there.

    Frames corrected by hand end the stretch and are never changed: the face is also tracked from that frame
    back to the first one, and both results are blended over the whole stretch. If the stretch ends before the
    track, its end is blended into the previous track. The stretch also ends where the face is lost.

    Parameters
    ----------
    models : Models
    frames : str, Path, Video or array-like, (T, Y, X) or (T, Y, X, 3 or 4)
        The video of the tracks.
    tracks : Tracks
        The input is not modified. Its settings determine refinement and smoothing.
    frame, face : int
        Index of the frame in the video, and of the face, which must have landmarks on this frame.
    direction : {"forwards", "backwards", "everywhere"}
        ``"everywhere"`` propagates all corrections of the face: between corrected frames, and from the first
        and the last one to the ends of the track; `until` is ignored.
    until : int, optional
        Index in the video of the last frame to track; by default, the end of the track.
    progress : callable, optional
        Called with the number of finished frames and the total.

    Returns
    -------
    Tracks
        A copy with the propagated landmarks.

    Raises
    ------
    ResultError
        If there is no such frame, face or direction, no landmarks on the frame, or no frame to propagate to.
    VideoError, ImageError
        If the video cannot be read or ends before the last frame of the stretch, or the size of its frames
        differs from that of the tracked frames.

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
    """Propagate like `propagate`; yield the number of finished frames and the total, and return the tracks.

    Closing the generator early is safe, as the given tracks are not modified.
    """
    row = row_of(tracks, frame, face)
    if not np.isfinite(tracks.landmarks[row, face]).all():
        raise ResultError(
            f"Face {face} lacks landmarks on frame {frame}: add them by hand, or refit the face."
        )
    if direction not in DIRECTIONS:
        raise ResultError(f"The direction is {direction!r}: choose forwards, backwards or everywhere.")
    if direction == "everywhere":
        return (yield from _propagate_all(models, frames, tracks, face))
    step = 1 if direction == "forwards" else -1
    stop, corrected = _end_of_stretch(tracks, row, face, step, until)
    rows = range(row + step, stop + step, step)
    if not len(rows):
        raise ResultError(
            f"There is no frame to propagate to from frame {frame} {direction}: the track ends there, or the "
            "next frame was corrected by hand."
        )
    total = len(rows) * (2 if corrected is not None else 1)
    source = open_source(frames, stream=recorded_stream(tracks))
    context = RunContext(models, tracks.settings)
    done = 0
    results: list[dict[int, FrameResult]] = [{}, {}]  # from `row`, and from the corrected frame at the end
    needed = [row, rows[-1], row if corrected is None else corrected]
    try:
        check_length(int(source.frames.shape[0]), int(tracks.frame_indices[needed].max()))
        check_size(source.size, tracks)
        for stretch, first, ordered in zip(results, (row, corrected), (rows, rows[::-1]), strict=True):
            if first is None:
                continue
            for tracked_row, result in _track_stretch(context, source, tracks, first, face, ordered):
                if result.source[0] != NONE:
                    stretch[tracked_row] = result
                done += 1
                yield done, total
    finally:
        source.close()
    ends_early = corrected is None and stop + step in range(tracks.n_frames)
    return _with_stretches(tracks, face, rows, results[0], results[1], ends_early)


def _propagate_all(
    models: Models, frames: Any, tracks: Tracks, face: int
) -> Generator[tuple[int, int], None, Tracks]:
    """Propagate all corrections of a face; a generator like `propagate_steps`."""
    corrected = np.flatnonzero(tracks.by_hand[:, face].any(axis=-1)).tolist()
    last = tracks.n_frames - 1
    starts: list[tuple[int, Direction]] = [
        (row, "forwards") for row in corrected if row < last and row + 1 not in corrected
    ]
    if corrected and corrected[0] > 0:
        starts.insert(0, (corrected[0], "backwards"))
    if not starts:
        raise ResultError(f"Face {face} has no frame to propagate from: correct it on a frame first.")
    ends = [*corrected, last]
    lengths = [
        row if direction == "backwards" else min(end for end in ends if end > row) - row
        for row, direction in starts
    ]
    done = 0
    for (row, direction), length in zip(starts, lengths, strict=True):
        steps = propagate_steps(models, frames, tracks, int(tracks.frame_indices[row]), face, direction)
        while True:
            try:
                part, total = next(steps)
            except StopIteration as end:
                tracks = end.value
                break
            yield round(done + length * part / total), sum(lengths)
        done += length
    return tracks


def _end_of_stretch(
    tracks: Tracks, row: int, face: int, step: int, until: int | None
) -> tuple[int, int | None]:
    """Return the last row to track, and the row of the corrected frame that follows it, or None."""
    last = tracks.n_frames - 1 if step > 0 else 0
    if until is not None:
        allowed = np.flatnonzero(tracks.frame_indices <= until if step > 0 else tracks.frame_indices >= until)
        if not len(allowed):
            return row, None
        last = int(allowed[-1] if step > 0 else allowed[0])
    if (last - row) * step <= 0:
        return row, None
    manual = np.flatnonzero(tracks.by_hand[:, face].any(axis=-1))
    between = manual[((manual - row) * step > 0) & ((last - manual) * step >= 0)]
    if not len(between):
        return last, None
    corrected = int(between[0] if step > 0 else between[-1])
    complete = bool(np.isfinite(tracks.landmarks[corrected, face]).all())
    return corrected - step, corrected if complete else None


def _track_stretch(
    context: RunContext, source: FrameSource, tracks: Tracks, first: int, face: int, rows: range
) -> Generator[tuple[int, FrameResult], None, None]:
    """Track a face from row `first` through `rows`; yield each of these rows with its result."""
    frame_indices = tracks.frame_indices
    begin, end = int(frame_indices[first]), int(frame_indices[rows[-1]])
    source = replace(
        source,
        start=min(begin, end),
        stop=max(begin, end) + 1,
        backwards=rows.step < 0,
        opened=False,
        view=recorded_view(tracks, source.size),
    )
    row_of_frame = {int(frame_indices[row]): row for row in rows}
    landmarks = source.view.seen(tracks.landmarks[first, face])
    with closing(Run(context, source, partial(_track_face, landmarks, tracks.by_hand[first, face]))) as run:
        for result in run:
            if result.index in row_of_frame:
                yield row_of_frame[result.index], result


def _track_face(
    landmarks: Floats,
    by_hand: npt.NDArray[np.bool_],
    context: RunContext,
    frames: Frames,
    _: FacesState | None,
) -> Generator[Tracked, None, None]:
    """Track one face from its landmarks, (68, 2), on the first frame until it is lost; add the manual offset.

    `by_hand`, (68,), marks the manual landmarks. Their offset from the automatic landmarks of the first frame
    is added on the other frames.
    """
    models = context.models
    by_pfld = models.pfld is not None and context.settings.refine != "clnf-only"
    track = _track_by_pfld if by_pfld else _track_by_clnf
    state: Any = Refinement() if by_pfld else fit_landmarks(models.pdm, landmarks)
    before, offset = landmarks, None
    for number, (index, frame) in enumerate(frames):
        if isinstance(frame, FaceLandmarksError):
            if isinstance(frame, VideoError) or number == 0:
                raise frame
            yield empty_frame(index, 1), None
            continue
        predicted = np.asarray(landmarks + (landmarks - before) / 2, np.float32)
        automatic = track(context, frame, index, predicted, state)
        if number == 0:
            if automatic is not None and by_hand.any():
                offset = _offset_of(context, frame, automatic, landmarks, by_hand)
            result = empty_frame(index, 1)
            result.landmarks[0], result.source[0] = landmarks, MANUAL
        elif automatic is None:
            return
        else:
            result, state = automatic.result, automatic.state
            before, landmarks = landmarks, result.landmarks[0].copy()
            if offset is not None:
                offset = _add_offset(context, frame, automatic, offset)
        yield result, None


@dataclass(frozen=True, slots=True)
class _Automatic:
    """The tracker's output for a face on one frame."""

    result: FrameResult
    params: npt.NDArray[np.float64]  # of the PDM
    state: Any  # of the tracker, for the next frame


def _track_by_pfld(
    context: RunContext, frame: npt.NDArray[np.uint8], index: int, predicted: Floats, state: Refinement
) -> _Automatic | None:
    output = predict_twice(context.models.pfld, frame, crops_of_landmarks(predicted[None]))
    if not face_scores(output)[0] >= min_tracked_score(context.settings):
        return None
    refined = refine_face(context, GreyFrame(frame), output, 0, index, state)
    result = empty_frame(index, 1)
    set_output(result, 0, output, 0)
    set_refined(result, 0, refined)
    return _Automatic(result, refined.params, refined.after)


def _track_by_clnf(
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
    """Offset of the corrected from the automatic landmarks."""

    moved: npt.NDArray[np.float64]  # (68, 2); corrected minus automatic, in the plane of the face, PDM units
    gain: npt.NDArray[np.float64]  # (68,); evidence for the offset on the corrected frame; see `_gain`
    share: npt.NDArray[np.float64]  # (68,); share of the offset that was added on the last frame


def _offset_of(
    context: RunContext,
    frame: npt.NDArray[np.uint8],
    automatic: _Automatic,
    landmarks: Floats,
    by_hand: npt.NDArray[np.bool_],
) -> _Offset | None:
    """Interpolate the offset of all landmarks from the manual ones; None if the automatic face is elsewhere.

    The interpolation is a Gaussian process with the covariance `COUPLING` times a Gaussian of the distance.
    """
    auto = automatic.result.landmarks[0].astype(np.float64)
    if not (np.isfinite(automatic.params).all() and float(nme(auto, landmarks)) < constants.AGREEMENT):
        return None
    axes = _axes(automatic.params)
    moved = (landmarks - auto)[by_hand] @ np.linalg.inv(axes).T
    distance = np.linalg.norm(auto[:, None] - auto, axis=-1)
    distance = distance / (constants.NEIGHBOUR_RANGE * float(inter_ocular(auto)))
    kernel = (np.exp(-0.5 * distance**2) * COUPLING)[:, by_hand]
    moved = kernel @ np.linalg.solve(kernel[by_hand] + constants.OFFSET_NOISE * np.eye(len(moved)), moved)
    return _Offset(moved, _gain(context, frame, automatic, moved @ axes.T), np.ones(N_LANDMARKS))


def _gain(
    context: RunContext, frame: npt.NDArray[np.uint8], automatic: _Automatic, offset: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return the evidence of patch experts and PFLD for an offset (pixels), (68,), one value per region."""
    auto = automatic.result.landmarks[0]
    model = context.models.clnf(context.engine)
    before, after = log_responses(to_grey(frame), automatic.params, [auto, auto + offset], model)
    gain = after - before + np.nan_to_num(np.log(automatic.result.sigma[0] / automatic.params[0]))
    weights = np.square(offset).sum(axis=1) + 1e-9
    for region in map(list, REGIONS.values()):
        gain[region] = np.average(gain[region], weights=weights[region])
    return np.asarray(gain)


def _add_offset(
    context: RunContext, frame: npt.NDArray[np.uint8], automatic: _Automatic, offset: _Offset
) -> _Offset:
    """Add an offset to a frame's landmarks in place, reduced where the image contradicts it."""
    if not np.isfinite(automatic.params).all():
        return offset
    result, moved = automatic.result, offset.moved @ _axes(automatic.params).T
    loss = np.nan_to_num(offset.gain - _gain(context, frame, automatic, moved))
    target = np.clip((constants.DROP_LOSS - loss) / (constants.DROP_LOSS - constants.KEEP_LOSS), 0, 1)
    share = offset.share + constants.ADAPTATION_RATE * (target - offset.share)
    result.landmarks[0] += share[:, None] * moved
    result.source[0] = CARRIED
    pdm = context.models.pdm
    landmarks = result.landmarks[0]
    misfit = misfit_of(landmarks, landmarks, pdm, fit_landmarks(pdm, landmarks))
    result.misfit[0, OFF_MODEL] = misfit[OFF_MODEL]
    return replace(offset, share=share)


def _coupling() -> npt.NDArray[np.float64]:
    """Return how much landmarks follow each other, (68, 68): within a part only, less where parts meet."""
    lips = [
        [48, *range(49, 54), 54, 60, *range(61, 64), 64],
        [48, *range(55, 60), 54, 60, *range(65, 68), 64],
    ]
    lids = [[k, k + 3, *pair] for k in (36, 42) for pair in ((k + 1, k + 2), (k + 4, k + 5))]
    whole = [list(REGIONS[name]) for name in ("jaw", "right brow", "left brow")]
    parts = [*whole, [*REGIONS["nose bridge"], *REGIONS["nose base"]], *lips, *lids, [48, 60], [54, 64]]
    member = np.array([np.isin(np.arange(N_LANDMARKS), part) for part in parts], np.float64)
    member *= np.where(np.isin(np.arange(N_LANDMARKS), [36, 39, 42, 45, 48, 54, 60, 64]), 0.3, 1.0)
    member[-2:] *= 3.0  # the outer and inner lips' corners move together
    coupling = member.T @ member
    np.fill_diagonal(coupling, 1.0)
    return coupling


COUPLING = _coupling()


def _axes(params: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the linear map from displacements in the plane of the face to pixels, (2, 2)."""
    left, sizes, right = np.linalg.svd(rotation_matrix(params[1:4])[:2, :2])
    return np.asarray(params[0] * (left * np.maximum(sizes, constants.MIN_FORESHORTENING)) @ right)


def _with_stretches(
    tracks: Tracks,
    face: int,
    rows: range,
    outward: dict[int, FrameResult],
    returning: dict[int, FrameResult],
    ends_early: bool,
) -> Tracks:
    """Return a copy of the tracks with the results from both ends of `rows`, blended with each other.

    If the results of `outward` end before the track and nothing comes from the other end, they are blended
    into the previous track.
    """
    copy = tracks.copy()
    lost = rows[-1] not in outward
    for number, row in enumerate(rows, 1):
        results = [stretch[row] for stretch in (outward, returning) if row in stretch]
        if not results:
            continue
        share = number / (len(rows) + 1)  # weight of `returning`
        main = results[-1] if len(results) == 2 and share > 0.5 else results[0]
        points, confidence = main.landmarks[0], main.confidence[0]
        if len(results) == 2:
            points = (1 - share) * results[0].landmarks[0] + share * results[1].landmarks[0]
            confidence = (1 - share) * results[0].confidence[0] + share * results[1].confidence[0]
        elif row in outward and (ends_early or lost) and np.isfinite(tracks.landmarks[row, face]).all():
            remaining = len(outward) - number + 1
            weight = min(1.0, remaining / (constants.BLEND_FRAMES + 1))
            points = weight * points + (1 - weight) * tracks.landmarks[row, face]
            confidence = weight * confidence + (1 - weight) * tracks.confidence[row, face]
        copy.landmarks[row, face], copy.confidence[row, face] = points, confidence
        copy.source[row, face], copy.pose[row, face] = main.source[0], main.pose[0]
        copy.boxes[row, face] = [*points.min(axis=0), *points.max(axis=0), main.boxes[0, 4]]
        copy.misfit[row, face], copy.sigma[row, face] = main.misfit[0], main.sigma[0]
        copy.iris[row, face] = main.iris[0]
    copy.source[~np.isfinite(copy.landmarks).any(axis=(2, 3))] = NONE
    return copy
