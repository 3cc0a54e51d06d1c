"""Landmarks turned to a frontal view with the depth of the shape model."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.clnf.pdm import PDM, fit_pdm, rotation_matrix, shape_3d
from napari_face_landmarks.errors import ModelError


def frontal_landmarks(
    landmarks: npt.NDArray[Any], pdm: PDM
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return landmarks (N, 68, 2) as in a frontal view, and pixels per unit of the shape model (N,), float64.

    The shape model is fitted to each face. Its shape gives the depth of each landmark; where the landmark was
    seen gives the other two coordinates, so that nothing of the face is replaced by the model but its depth:
    ``X = R^T [(x - t) / s, z]`` with ``z = (R S)_z``, from the model's ``x = s R_2D S + t`` (equation 2 of
    Baltrusaitis, Robinson and Morency 2013). Landmarks are given in pixels, and returned in units of the
    model, about millimetres of an average face; NaN rows stay NaN.
    """
    points = np.asarray(landmarks, dtype=np.float32)
    frontal, scale = np.full(points.shape, np.nan), np.full(len(points), np.nan)
    params = None
    for row, face in enumerate(points):
        if not np.isfinite(face).all():
            params = None
            continue
        try:
            params = fit_pdm(pdm, face, None, params)
        except ModelError:
            params = None
            continue
        rotation = rotation_matrix(params[1:4])
        depth = (rotation @ shape_3d(pdm, params[6:]))[2]
        seen = (face.astype(np.float64) - params[4:6]) / params[0]
        frontal[row] = (rotation.T @ np.concatenate([seen.T, depth[None]]))[:2].T
        scale[row] = params[0]
    return frontal, scale
