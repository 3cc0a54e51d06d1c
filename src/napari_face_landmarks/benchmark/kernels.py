"""Time per call of the kernels."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.benchmark.ablation_engine import normalise_supports, strided_im2col
from napari_face_landmarks.benchmark.timing import Timing, take_time
from napari_face_landmarks.clnf import normalized_frame, numba_engine
from napari_face_landmarks.clnf.fit import fit_landmarks, nearest_view, refine
from napari_face_landmarks.clnf.parameters import Steps
from napari_face_landmarks.clnf.patch_experts import SUPPORT, PatchExperts
from napari_face_landmarks.clnf.pdm import project
from napari_face_landmarks.detection import detect_faces
from napari_face_landmarks.models import Models
from napari_face_landmarks.pfld import crops_of_landmarks, predict
from napari_face_landmarks.pfld.crop import sample_crops
from napari_face_landmarks.settings import TrackerSettings
from napari_face_landmarks.video.pixels import to_grey

ITERATIONS = 10


def kernel_times(models: Models, rgb: npt.NDArray[np.uint8], landmarks: Any, calls: int) -> list[Timing]:
    """Time contrast normalisation, im2col, response maps, NU-RLMS, PFLD and the detector.

    They run on a frame, (H, W, 3) uint8, with a face at `landmarks`, (68, 2) px. Each kernel is called
    `calls` times, kernels that take milliseconds a tenth of that.
    """
    few, pfld = max(5, calls // 10), models.pfld
    assert pfld is not None
    crops = crops_of_landmarks(np.asarray(landmarks)[None])
    detector = f"detector, a frame of {rgb.shape[1]} x {rgb.shape[0]}"
    return [
        *_support_times(models, calls),
        *_clnf_times(models, to_grey(rgb), landmarks, predict(pfld, rgb, crops).sigma[0], calls),
        take_time("PFLD, the crop", lambda: sample_crops(rgb, crops), calls),
        take_time("PFLD, crop, network and landmarks", lambda: predict(pfld, rgb, crops), few),
        take_time(detector, lambda: detect_faces(models.detector, rgb), few),
    ]


def _support_times(models: Models, calls: int) -> list[Timing]:
    window = models.constants.window_at(0, TrackerSettings().search_radius)
    area = np.random.default_rng(0).uniform(0, 255, (window + SUPPORT - 1, window + SUPPORT - 1))
    support = np.ascontiguousarray(area[:SUPPORT, :SUPPORT].reshape(1, -1))
    rows = np.ones((window * window, 1 + SUPPORT * SUPPORT))
    names = (
        f"contrast normalisation, one support ({SUPPORT} x {SUPPORT} px)",
        f"im2col with bias, one landmark ({window} x {window} positions)",
    )
    return [
        take_time(names[0], lambda: normalise_supports(support), calls),
        take_time(names[1], lambda: strided_im2col(area, rows), calls),
    ]


def _clnf_times(
    models: Models, grey: npt.NDArray[np.uint8], landmarks: Any, sigma: Any, calls: int
) -> list[Timing]:
    few, settings, times = max(5, calls // 10), TrackerSettings(), []
    experts, pdm, constants = models.experts, models.pdm, models.constants
    assert isinstance(experts, PatchExperts)
    params = fit_landmarks(pdm, landmarks, sigma)
    for index, scale in enumerate(experts.scales.tolist()):
        to_frame = normalized_frame.image_to_frame(params, scale)
        local = normalized_frame.move_pose(params, to_frame)
        view = nearest_view(experts, local, index)
        centres = np.rint(project(pdm, local)).astype(np.int64)
        side = constants.window_at(index, settings.search_radius)
        arguments = (grey, to_frame, centres, side, experts, index, view, constants.checkerboard)
        if index == 0:
            single = (grey, to_frame, centres[:1], *arguments[3:])
            name = f"response map, one landmark ({side} x {side} positions)"
            times.append(take_time(name, partial(numba_engine.response_maps, *single), calls))
        name = f"response pass, 68 landmarks, scale {scale:g} ({side} x {side} positions)"
        times.append(take_time(name, partial(numba_engine.response_maps, *arguments), few))
    maps = numba_engine.response_maps(*arguments)
    weights = constants.weight * experts.confidences[index, view]
    steps = Steps(constants.sigma_at(scale), 20.0, ITERATIONS, 0.0)
    search = partial(numba_engine.search, pdm, local, maps, centres, weights, steps)
    clnf = partial(refine, grey, landmarks, params, models.clnf(), settings, sigma)
    fit = partial(fit_landmarks, pdm, landmarks, sigma, params)
    return [
        *times,
        take_time("NU-RLMS, one iteration", search, few, parts=2 * ITERATIONS),  # rigid, then non-rigid
        take_time("PDM fitted to the initial landmarks", fit, calls),
        take_time("CLNF of a face, default settings", clnf, few),
    ]
