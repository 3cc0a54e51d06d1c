"""Refinement policy: whether CLNF refines a face after PFLD or its last correction is propagated."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.clnf import numba_engine
from napari_face_landmarks.clnf.fit import (
    ClnfFit,
    apply_correction,
    fit_landmarks,
    measure_correction,
    refine,
)
from napari_face_landmarks.clnf.pdm import PDM, project_kernel
from napari_face_landmarks.data.fields import BY_CLNF, CARRIED, CLNF, FIELD, OFF_MODEL, PFLD
from napari_face_landmarks.data.frame import FrameResult
from napari_face_landmarks.errors import ModelError
from napari_face_landmarks.ibug import N_LANDMARKS, OUTER_EYES, REGIONS
from napari_face_landmarks.jit import exact_kernel
from napari_face_landmarks.models import Models
from napari_face_landmarks.parts import refine_parts
from napari_face_landmarks.pfld import PfldOutput
from napari_face_landmarks.settings import TrackerSettings
from napari_face_landmarks.tracking.context import RunContext
from napari_face_landmarks.tracking.state import Refinement
from napari_face_landmarks.video.pixels import to_grey

Floats = npt.NDArray[np.float32]

STAY_REFINED = 10
"""In auto mode, refinement stays on for this many frames after a low confidence, to avoid flicker."""
MIN_FACE_CONFIDENCE = 0.80
MIN_REGION_CONFIDENCE = 0.60
"""In auto mode, a face is refined if its mean confidence or that of a region is lower."""
FACE_MARGIN = 1.0
"""Margin around a face available to CLNF, relative to the face's larger side; exceeds the search windows."""
SMALL_PART = 0.25
"""If CLNF needs less than this share of an image, only that part is converted to greyscale."""
N_SEARCHED = 36
"""Number of landmarks that CLNF searches with part models (jaw, brows, nose); the others are its targets."""
YAW_LIMITS = math.radians(25.0), math.radians(40.0)
"""With part models, `CLNF_SHARES` fall linearly to 0 between these absolute yaw angles."""
CLNF_SHARES = np.repeat(np.array([1.0, 0.7, 1.0, 0.0], np.float32), (17, 10, 9, 32))
"""Share of CLNF's displacement that is applied with part models: jaw, brows, nose, eyes and mouth.

On hand-labelled faces CLNF reduces the error at jaw, brows and nose, but it makes lids and lips symmetric and
misplaces the jaw of strongly rotated heads (`training/README.md`, "CLNF with part models").
"""
_PARTS = (range(N_LANDMARKS), *REGIONS.values())
_MEANS = np.array([np.isin(np.arange(N_LANDMARKS), part) / len(part) for part in _PARTS], np.float32)
_MINIMA = np.array([MIN_FACE_CONFIDENCE, *[MIN_REGION_CONFIDENCE] * len(REGIONS)], np.float32)


class GreyFrame:
    """A frame and its luma, computed on demand."""

    def __init__(self, rgb: npt.NDArray[np.uint8]) -> None:
        self.rgb = rgb
        self._grey: npt.NDArray[np.uint8] | None = None
        self._whole = False
        self._lock = threading.Lock()  # faces are refined on several threads

    def grey_around(self, landmarks: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        """Return the luma of the image, (H, W), valid at least around a face's landmarks, (68, 2).

        Only the face with a margin of `FACE_MARGIN` is converted if that is less than `SMALL_PART` of the
        image.
        """
        rows, columns = _around(landmarks, self.rgb.shape)
        size = self.rgb.shape[0] * self.rgb.shape[1]
        small = (rows.stop - rows.start) * (columns.stop - columns.start) < SMALL_PART * size
        with self._lock:
            if not small and not self._whole:
                self._grey, self._whole = to_grey(self.rgb), True
            if self._grey is None:
                self._grey = np.zeros(self.rgb.shape[:2], np.uint8)  # memory pages are allocated when written
            if not self._whole:
                self._grey[rows, columns] = to_grey(self.rgb[rows, columns])
            return self._grey


def _around(landmarks: npt.NDArray[Any], shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Return rows and columns of a face in an image, with a margin of `FACE_MARGIN` of its size."""
    points = landmarks[np.isfinite(landmarks).all(axis=1)]
    if not len(points):
        return slice(0, shape[0]), slice(0, shape[1])
    low, high = points.min(axis=0), points.max(axis=0)
    margin = FACE_MARGIN * float((high - low).max())
    (left, top), (right, bottom) = (low - margin).tolist(), (high + margin).tolist()
    return _within(top, bottom, shape[0]), _within(left, right, shape[1])


def _within(first: float, last: float, size: int) -> slice:
    start, stop = (int(min(max(edge, 0), size)) for edge in (first, last + 1))
    return slice(start, stop)


@dataclass(frozen=True, slots=True)
class Located:
    """A face on a frame before CLNF."""

    image: GreyFrame
    landmarks: Floats  # (68, 2); PFLD's, with eyes and mouth of the part models
    sigma: Floats  # (68,), px
    iris: Floats  # (8,); NaN without part models
    confidence: Floats  # (68,)
    seconds: float  # time taken


@dataclass(frozen=True, slots=True)
class Refined:
    """A face's landmarks on a frame after refinement."""

    landmarks: Floats  # (68, 2); pixels, x then y
    source: int  # PFLD, CLNF or CARRIED
    params: npt.NDArray[np.float64]  # (6 + m,) of the PDM, or (6,) NaN if it cannot be fitted
    misfit: Floats  # (2,); see `misfit_of`
    confidence: Floats  # (68,)
    sigma: Floats  # (68,); standard deviation of each landmark's error along one axis, px
    iris: Floats  # (8,); as in `FaceArrays`; NaN without part models
    seconds: float  # time taken
    after: Refinement  # state of the face's refinement after the frame


def set_refined(frame: FrameResult, face: int, refined: Refined) -> None:
    """Write a refined face into a frame, in place."""
    frame.landmarks[face], frame.source[face] = refined.landmarks, refined.source
    frame.pose[face], frame.misfit[face] = refined.params[:6], refined.misfit
    frame.sigma[face], frame.iris[face] = refined.sigma, refined.iris
    frame.confidence[face] = refined.confidence


def misfit_of(
    landmarks: npt.NDArray[Any], given: npt.NDArray[Any], pdm: PDM, params: npt.NDArray[np.float64]
) -> Floats:
    """Return the mean distances of landmarks, (68, 2), from PFLD's (`given`) and from the PDM's, (2,).

    In inter-ocular distances. The second one is NaN if `params` are shorter than (6 + m,) or not finite.
    """
    misfit = np.empty(2, np.float32)
    landmarks, given = (np.ascontiguousarray(points, np.float32) for points in (landmarks, given))
    _misfit(landmarks, given, pdm.mean, pdm.components, params, misfit)
    return misfit


@exact_kernel
def _misfit(
    landmarks: Floats,
    given: Floats,
    mean: npt.NDArray[np.float64],
    components: npt.NDArray[np.float64],
    params: npt.NDArray[np.float64],
    misfit: Floats,
) -> None:
    expressed = np.full((2, len(landmarks)), np.nan)
    if len(params) == 6 + components.shape[2]:
        project_kernel(mean, components, params, np.empty((3, len(landmarks))), expressed)
    first, last = landmarks[OUTER_EYES[0]], landmarks[OUTER_EYES[1]]
    scale = len(landmarks) * max(np.hypot(float(last[0]) - first[0], float(last[1]) - first[1]), 1e-6)
    by_clnf = off_model = 0.0
    for i in range(len(landmarks)):
        x, y = float(landmarks[i, 0]), float(landmarks[i, 1])
        by_clnf += np.hypot(x - given[i, 0], y - given[i, 1])
        off_model += np.hypot(x - expressed[0, i], y - expressed[1, i])
    misfit[BY_CLNF], misfit[OFF_MODEL] = by_clnf / scale, off_model / scale


def refine_face(
    context: RunContext, image: GreyFrame, output: PfldOutput, row: int, index: int, before: Refinement
) -> Refined:
    """Refine face `row` of an output by CLNF, or propagate its last correction, according to the settings.

    If the bundle has part models, these locate eyes and mouth first, and CLNF moves the other landmarks only
    (`CLNF_SHARES`): its PDM is symmetric and seldom closes an eye. The state `before` of a new face is
    `Refinement()`.
    """
    (located,) = locate_parts(context.models, [(image, output, row)])
    return refine_located(context, located, index, before)


def locate_parts(models: Models, faces: Sequence[tuple[GreyFrame, PfldOutput, int]]) -> list[Located]:
    """Run the part models, if the bundle has any, on faces: image, output and row of each."""
    began = time.perf_counter()
    by_pfld = [(output.landmarks[row], output.sigma[row]) for _, output, row in faces]
    if models.parts is None:
        iris = np.full(FIELD["iris"].shape, np.nan, np.float32)
        located = [(landmarks, sigma, iris) for landmarks, sigma in by_pfld]
    else:
        landmarks, sigma = (np.array(arrays) for arrays in zip(*by_pfld, strict=True))
        images = [image.rgb for image, _, _ in faces]
        located = list(zip(*refine_parts(models.parts, images, landmarks, sigma), strict=True))
    seconds = (time.perf_counter() - began) / len(faces)
    return [
        Located(image, *arrays, output.confidence[row], seconds)
        for arrays, (image, output, row) in zip(located, faces, strict=True)
    ]


def refine_located(context: RunContext, face: Located, index: int, before: Refinement) -> Refined:
    """Do the second step of `refine_face`, which depends on previous frames."""
    began = time.perf_counter()
    landmarks, source, params, after = _refine(context, face, index, before)
    if context.models.parts is not None and source != PFLD:
        landmarks = blend_with_parts(face.landmarks, landmarks, float(params[2]))
    misfit = misfit_of(landmarks, face.landmarks, context.models.pdm, params)
    if source == PFLD:
        misfit[BY_CLNF] = np.nan
    seconds = face.seconds + time.perf_counter() - began
    arrays = misfit, face.confidence, face.sigma, face.iris
    return Refined(landmarks, source, params, *arrays, seconds, after)


def blend_with_parts(located: Floats, refined: Floats, yaw: float) -> Floats:
    """Blend landmarks before and after CLNF, (68, 2), by `CLNF_SHARES` and `YAW_LIMITS`; yaw in radians."""
    frontal = (YAW_LIMITS[1] - abs(yaw)) / (YAW_LIMITS[1] - YAW_LIMITS[0])
    share = CLNF_SHARES * np.float32(min(max(frontal, 0.0), 1.0))
    return np.asarray(located + share[:, None] * (refined - located), np.float32)


def _refine(
    context: RunContext, face: Located, index: int, before: Refinement
) -> tuple[Floats, int, npt.NDArray[np.float64], Refinement]:
    """Return landmarks, source, PDM parameters and the refinement state after the frame."""
    models, settings, landmarks = context.models, context.settings, face.landmarks
    try:
        params = fit_landmarks(models.pdm, landmarks, face.sigma, before.params)
    except ModelError:
        return landmarks, PFLD, np.full(6, np.nan), replace(before, params=None)
    unsure_at = index if is_unsure(face.confidence) else before.unsure_at
    after = Refinement(params, before.correction, before.refined_at, unsure_at)
    unrefined = landmarks, PFLD, params, after
    if after.correction is not None:
        unrefined = landmarks, PFLD, params, replace(after, correction=None)
    if models.parts is not None and abs(params[2]) > YAW_LIMITS[1]:
        return unrefined
    if settings.refine != "always" and (settings.refine != "auto" or abs(index - unsure_at) >= STAY_REFINED):
        return unrefined
    if after.correction is None or abs(index - after.refined_at) >= settings.clnf_every:
        fit = run_clnf(models, settings, face.image, landmarks, params, face.sigma, context.engine)
        if not fit.converged:
            return unrefined
        correction = measure_correction(models.pdm, fit.start, fit.params, fit.shares)
        return fit.landmarks, CLNF, fit.params, replace(after, correction=correction, refined_at=index)
    propagated, propagated_params = apply_correction(models.pdm, after.correction, params, landmarks)
    if not np.isfinite(propagated).all():
        return unrefined
    return propagated, CARRIED, propagated_params, after


def run_clnf(
    models: Models,
    settings: TrackerSettings,
    image: GreyFrame,
    landmarks: Floats,
    params: npt.NDArray[np.float64],
    sigma: Floats,
    engine: ModuleType = numba_engine,
) -> ClnfFit:
    """Refine landmarks, (68, 2), by CLNF; `params`, (6 + m,), are fitted to them, sigma, (68,), is in px."""
    grey = image.grey_around(landmarks)
    searched = N_LANDMARKS if models.parts is None else N_SEARCHED
    return refine(grey, landmarks, params, models.clnf(engine), settings, sigma, searched=searched)


def is_unsure(confidence: Floats) -> bool:
    """Return whether auto mode refines a face, from the confidence of each landmark, (68,)."""
    return bool(_unsure(confidence, _MEANS, _MINIMA))


@exact_kernel
def _unsure(confidence: Floats, means: Floats, minima: Floats) -> bool:
    for part in range(len(means)):
        total = np.float32(0)
        for i in range(len(confidence)):
            total += means[part, i] * confidence[i]
        if total < minima[part]:
            return True
    return False
