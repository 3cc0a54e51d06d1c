"""Compilation of a run's kernels before its first frame, those of CLNF in a second process meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.clnf import numba_engine
from napari_face_landmarks.clnf.parameters import Steps
from napari_face_landmarks.clnf.pdm import project
from napari_face_landmarks.detection import detect_faces
from napari_face_landmarks.detection.boxes import boxes_kernel
from napari_face_landmarks.ibug import N_LANDMARKS
from napari_face_landmarks.jit import COMPILED, release_compiler
from napari_face_landmarks.models import Models, load_models
from napari_face_landmarks.pfld import PfldOutput, crops_of_landmarks, predict_twice
from napari_face_landmarks.priority import cores
from napari_face_landmarks.processes import can_start_python, start_python
from napari_face_landmarks.settings import TrackerSettings
from napari_face_landmarks.tracking.clnf_tracker import fit_crops
from napari_face_landmarks.tracking.context import RunContext
from napari_face_landmarks.tracking.cuts import thumbnail
from napari_face_landmarks.tracking.pfld_tracker import prepare_following
from napari_face_landmarks.tracking.refinement import GreyFrame, refine_face, run_clnf
from napari_face_landmarks.tracking.smoothing import smooth_centre
from napari_face_landmarks.tracking.state import Refinement
from napari_face_landmarks.video.pixels import to_grey

SIDE = 160  # px, of the image on which the kernels are called
COMPILE_CLNF = f"from {__name__} import compile_clnf; compile_clnf()"


def prepare(context: RunContext) -> None:
    """Compile the kernels that a run needs, or load them from the cache of an earlier process."""
    refines = context.settings.refine in ("auto", "always")
    with _second_process(refines and context.engine is numba_engine) as wait:
        if refines:  # first, since the second process uses most of these kernels too
            _search(context)
        smooth_centre(np.zeros((3, 1, N_LANDMARKS, 2), np.float32))
        release_compiler()  # after the import of Numba, and again after the other kernels
        rgb = np.zeros((SIDE, SIDE, 3), np.uint8)
        thumbnail(rgb, np.zeros((0, 0), np.uint8))
        detect_faces(context.models.detector, np.zeros((64, 1000, 3), np.uint8))  # large enough to be halved
        if context.settings.refine == "clnf-only":
            crop = np.array([[SIDE / 2, SIDE / 2, SIDE - 10, 0]], np.float32)
            fit_crops(context.models, to_grey(rgb), crop, np.ones(1, np.float32))
            return
        landmarks = project(context.models.pdm, _frontal(context.models)).astype(np.float32)
        output = predict_twice(context.models.pfld, rgb, crops_of_landmarks(landmarks[None]))
        prepare_following(output, rgb.shape)
        wait()
        no_confidence = np.zeros_like(output.confidence)
        face = PfldOutput(landmarks[None], np.ones_like(output.sigma), no_confidence, output.score)
        frame, state = GreyFrame(rgb), Refinement()
        for index in range(2):  # refined, then its correction propagated
            state = refine_face(context, frame, face, 0, index, state).after
        release_compiler()


def compile_clnf() -> None:
    """Compile CLNF's kernels into the cache; the types of their arguments are the same for all bundles."""
    models = load_models()
    start = _frontal(models)
    landmarks = project(models.pdm, start).astype(np.float32)
    frame, sigma = GreyFrame(np.zeros((SIDE, SIDE, 3), np.uint8)), np.ones(N_LANDMARKS, np.float32)
    run_clnf(models, TrackerSettings(), frame, landmarks, start, sigma)


def _search(context: RunContext) -> None:
    """Call NU-RLMS on response maps of zeros."""
    pdm, n = context.models.pdm, N_LANDMARKS
    maps, centres = np.zeros((n, 3, 3), np.float32), np.full((n, 2), SIDE // 2)
    context.engine.search(pdm, _frontal(context.models), maps, centres, np.ones(n), Steps(1.0, 1.0, 1, 0.0))


def _frontal(models: Models) -> npt.NDArray[np.float64]:
    """Return the PDM parameters, (6 + m,), of a frontal mean face of 1 px a unit."""
    return np.concatenate([[1.0, 0.0, 0.0, 0.0, SIDE / 2, SIDE / 2], np.zeros(models.pdm.n_modes)])


@contextmanager
def _second_process(wanted: bool) -> Iterator[Callable[[], None]]:
    """Compile CLNF's kernels in a second process if kernels must be compiled; yield a function that waits.

    If that process fails, the kernels are compiled by this one.
    """
    before, process = len(COMPILED), None
    boxes_kernel(np.zeros((1, N_LANDMARKS, 2), np.float32), np.empty((1, 5), np.float32))  # quick to compile
    if wanted and len(COMPILED) > before and cores() > 1 and can_start_python():
        with suppress(OSError):
            process = start_python(COMPILE_CLNF, background=True)

    def wait() -> None:
        if process is not None:
            process.wait()

    try:
        yield wait
    finally:
        if process is not None:  # an error in between
            process.kill()
            process.wait()
