"""Rotation of landmarks to a frontal view, with depth from the point distribution model."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.clnf.pdm import PDM, fit_pdm, rotation_matrix, shape_3d
from napari_face_landmarks.errors import ModelError


def frontal_landmarks(
    landmarks: npt.NDArray[Any], pdm: PDM
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return frontal views of landmarks, (N, 68, 2), and pixels per unit of the PDM, (N,), both float64.

    The PDM is fitted to each face and supplies only the depth of each landmark; the other two coordinates are
    the observed ones: ``X = R^T [(x - t) / s, z]`` with ``z = (R S)_z``, from the model's
    ``x = s R_2D S + t`` (equation 2 of Baltrusaitis, Robinson and Morency 2013). `landmarks` (N, 68, 2) are
    in pixels, frontal views in units of the PDM, about millimetres of an average face; NaN rows stay NaN.
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
        observed = (face.astype(np.float64) - params[4:6]) / params[0]
        frontal[row] = (rotation.T @ np.concatenate([observed.T, depth[None]]))[:2].T
        scale[row] = params[0]
    return frontal, scale
