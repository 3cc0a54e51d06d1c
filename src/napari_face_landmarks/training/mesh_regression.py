"""Prediction of manual landmarks from an automatic face mesh.

Manual landmarks scatter along the jaw, which a small network would memorise but a linear regression from the
mesh cannot. Its errors are independent of those of the labels, so the mean of both is closer to the consensus
of annotators. The regression also labels other faces in the same convention.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.ibug import N_LANDMARKS
from napari_face_landmarks.training.labels import EYE_CORNERS

Floats = npt.NDArray[np.float64]

COMPONENTS = 60
"""Number of principal components of the meshes; 40 and 80 were equally good on held-out faces."""
REGULARISATION = 0.01
"""Ridge penalty, in variances of a component."""
FOLDS = 5
HAND_SHARE = 0.65
"""Share of the manual label in its mean with the prediction; also stated in the card of `research`."""


@dataclass(frozen=True)
class MeshRegression:
    """Linear map from meshes to landmarks, both in the coordinate frame of the mesh."""

    mean: Floats  # (1434,); the mean mesh, x, y and z of each vertex
    components: Floats  # (1434, K); principal components, each divided by its standard deviation
    weights: Floats  # (K + 1, 136); intercept and weights for x and y of each landmark


def _frames(meshes: Floats) -> tuple[Floats, Floats]:
    """Return origins (N, 2), the mean vertices, and axes (N, 2, 2) along the outer eye corners."""
    first, second = EYE_CORNERS
    eyes = meshes[:, second] - meshes[:, first]
    unit = np.linalg.norm(eyes, axis=1)
    across = eyes[:, :2] / np.linalg.norm(eyes[:, :2], axis=1, keepdims=True)
    down = np.stack([-across[:, 1], across[:, 0]], axis=1)
    return meshes[:, :, :2].mean(axis=1), np.stack([across, down], axis=2) * unit[:, None, None]


def _own(meshes: Floats, places: Floats, axes: Floats) -> Floats:
    """Return the vertices in the frames of their meshes, (N, 1434)."""
    unit = np.linalg.norm(axes[:, :, :1], axis=1)
    flat = _to_own(meshes[:, :, :2], places, axes)
    depth = (meshes[:, :, 2] - meshes[:, :, 2].mean(axis=1, keepdims=True)) / unit
    return np.concatenate([flat, depth[:, :, None]], axis=2).reshape(len(meshes), -1)


def _to_own(points: Floats, places: Floats, axes: Floats) -> Floats:
    return np.asarray((points - places[:, None]) @ np.linalg.inv(axes).transpose(0, 2, 1))


def fit_regression(meshes: npt.NDArray[np.floating], landmarks: npt.NDArray[np.floating]) -> MeshRegression:
    """Fit manual landmarks (N, 68, 2) to meshes (N, 478, 3), in pixels, by PCA and ridge regression."""
    whole = np.asarray(meshes, dtype=np.float64)
    places, axes = _frames(whole)
    own = _own(whole, places, axes)
    mean = own.mean(axis=0)
    _, spread, directions = np.linalg.svd(own - mean, full_matrices=False)
    count = min(COMPONENTS, len(own) - 1)
    components = directions[:count].T / (spread[:count] / np.sqrt(len(own)))
    scores = (own - mean) @ components
    wanted = _to_own(np.asarray(landmarks, dtype=np.float64), places, axes).reshape(len(own), -1)
    middle = wanted.mean(axis=0)
    gram = scores.T @ scores + REGULARISATION * len(own) * np.eye(count)
    slopes = np.linalg.solve(gram, scores.T @ (wanted - middle))
    return MeshRegression(mean, components, np.concatenate([middle[None], slopes]))


def predict_landmarks(
    meshes: npt.NDArray[np.floating], regression: MeshRegression
) -> npt.NDArray[np.float32]:
    """Predict landmarks, (N, 68, 2) float32, from meshes (N, 478, 3), in pixels."""
    whole = np.asarray(meshes, dtype=np.float64)
    places, axes = _frames(whole)
    scores = (_own(whole, places, axes) - regression.mean) @ regression.components
    own = (regression.weights[0] + scores @ regression.weights[1:]).reshape(-1, N_LANDMARKS, 2)
    return np.asarray(own @ axes.transpose(0, 2, 1) + places[:, None], dtype=np.float32)


def denoised(
    landmarks: npt.NDArray[np.float32], meshes: npt.NDArray[np.float32], known: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float32]:
    """Return means of labels and cross-validated predictions where meshes are `known`, (N,) bool."""
    result = landmarks.copy()
    fold = np.full(len(landmarks), -1)
    fold[known] = np.arange(int(known.sum())) % FOLDS
    for number in range(FOLDS):
        others, own = known & (fold != number), fold == number
        if own.any() and others.any():
            regression = fit_regression(meshes[others], landmarks[others])
            predicted = predict_landmarks(meshes[own], regression)
            result[own] = HAND_SHARE * landmarks[own] + (1 - HAND_SHARE) * predicted
    return result
