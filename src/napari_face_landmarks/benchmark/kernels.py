"""The time of each part of a frame's work, one call at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.benchmark.ablation_engine import normalise_supports, strided_im2col
from napari_face_landmarks.benchmark.timing import Timing, take_time
from napari_face_landmarks.clnf import normalized_frame, numba_engine
from napari_face_landmarks.clnf.fit import fit_landmarks, nearest_view, refine
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

    Parameters
    ----------
    models : Models
        A bundle's.
    rgb : ndarray, (H, W, 3), uint8
        A frame with a face.
    landmarks : ndarray, (68, 2)
        Of that face, px, x then y.
    calls : int
        How many calls of each are timed; a tenth of it of those that take milliseconds.

    Returns
    -------
    list of Timing
    """
    few = max(5, calls // 10)
    pfld, experts, pdm, settings = models.pfld, models.experts, models.pdm, TrackerSettings()
    assert pfld is not None
    assert isinstance(experts, PatchExperts)
    grey = to_grey(rgb)
    crops = crops_of_landmarks(np.asarray(landmarks)[None])
    output = predict(pfld, rgb, crops)
    params = fit_landmarks(pdm, landmarks, output.sigma[0])
    constants = models.constants
    random = np.random.default_rng(0)
    window = constants.window_at(0, settings.search_radius)
    area = random.uniform(0, 255, (window + SUPPORT - 1, window + SUPPORT - 1))
    support = np.ascontiguousarray(area[:SUPPORT, :SUPPORT].reshape(1, -1))
    rows = np.ones((window * window, 1 + SUPPORT * SUPPORT))
    times = [
        take_time(
            f"contrast normalisation, one support ({SUPPORT} x {SUPPORT} px)",
            lambda: normalise_supports(support),
            calls,
        ),
        take_time(
            f"im2col with bias, one landmark ({window} x {window} places)",
            lambda: strided_im2col(area, rows),
            calls,
        ),
    ]
    for index, scale in enumerate(experts.scales.tolist()):
        to_frame = normalized_frame.image_to_frame(params, scale)
        local = normalized_frame.enter_frame(params, to_frame)
        view = nearest_view(experts, local, index)
        centres = np.rint(project(pdm, local)).astype(np.int64)
        side = constants.window_at(index, settings.search_radius)
        where = (grey, to_frame, centres, side, experts, index, view, constants.checkerboard)
        one = (grey, to_frame, centres[:1], *where[3:])
        if index == 0:
            name = f"response map, one landmark ({side} x {side} places)"
            times.append(take_time(name, lambda one=one: numba_engine.response_maps(*one), calls))  # type: ignore[misc]
        name = f"response pass, 68 landmarks, scale {scale:g} ({side} x {side} places)"
        times.append(take_time(name, lambda where=where: numba_engine.response_maps(*where), few))  # type: ignore[misc]
    maps = numba_engine.response_maps(*where)
    weights = constants.weight * experts.confidences[index, view]
    search = (pdm, local, maps, centres, weights, constants.sigma_at(scale), 20.0)
    times += [
        take_time(
            "NU-RLMS, one iteration",
            lambda: numba_engine.search(*search, ITERATIONS, 0.0),
            few,
            parts=2 * ITERATIONS,  # pose, then pose and shape
        ),
        take_time(
            "PDM fitted to the first landmarks",
            lambda: fit_landmarks(pdm, landmarks, output.sigma[0], params),
            calls,
        ),
        take_time(
            "CLNF of a face, default settings",
            lambda: refine(grey, landmarks, params, pdm, experts, settings, output.sigma[0], constants),
            few,
        ),
        take_time("PFLD, the crop", lambda: sample_crops(rgb, crops), calls),
        take_time("PFLD, crop, network and landmarks", lambda: predict(pfld, rgb, crops), few),
        take_time(
            f"detector, a frame of {rgb.shape[1]} x {rgb.shape[0]}",
            lambda: detect_faces(models.detector, rgb),
            few,
        ),
    ]
    return times
