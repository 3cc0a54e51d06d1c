"""Rotation of the head in a photograph by means of its face mesh, for poses that photographs lack.

Face profiling as in Zhu et al. 2016 ("Face alignment across large poses: a 3D solution", section 4).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.spatial import Delaunay

from napari_face_landmarks.jit import kernel
from napari_face_landmarks.training import labels
from napari_face_landmarks.training.expression import (
    LOWER_INNER,
    UPPER_INNER,
    Expression,
    displacement,
    fill_mouth,
    jaw_displacement,
    random_expression,
)

Floats = npt.NDArray[np.float64]

RINGS = ((1.3, 0.35, 0.8), (1.75, 0.8, 0.35))
"""Rings around the face: size, depth behind its outline (outer-eye distances), share of the rotation."""
SKIN = 468
"""Number of vertices on the skin; the ten of the irises, which closing lids cover, are omitted."""
FRAME_REACH = 4.0
"""Half the side of the fixed square around the surroundings, outer-eye distances."""
FOREHEAD = np.array([10, 338, 297, 332, 284, 251, 389, 162, 21, 54, 103, 67, 109])
"""Vertices of the mesh's upper outline, which closes `MESH_OVAL` over the forehead."""


@dataclass(frozen=True)
class HeadModel:
    """Mean mesh, and triangulation of mesh and surroundings for all faces."""

    mean: Floats  # (478, 3)
    outline: npt.NDArray[np.int64]  # (O,); vertices of the outline, forehead included
    triangles: npt.NDArray[np.int64]  # (K, 3); of vertices of the skin, rings and eight points of the square


def make_head_model(mean: Floats) -> HeadModel:
    """Triangulate a frontal mean mesh, (478, 3) with outer eye corners 1 apart, and its surroundings."""
    outline = np.unique(np.concatenate([labels.MESH_OVAL, FOREHEAD]))
    around = mean[outline, :2] - mean[outline, :2].mean(axis=0)
    outline = outline[np.argsort(np.arctan2(around[:, 1], around[:, 0]))]
    points, _ = _surroundings(mean, mean, 1.0, np.eye(3), outline)
    # noise separates points that coincide
    grain = np.random.default_rng(0).normal(0, 1e-4, (len(points), 2))
    triangles = Delaunay(points[:, :2] + grain).simplices
    return HeadModel(mean, outline, np.asarray(triangles, dtype=np.int64))


def load_head_model(data: Path) -> HeadModel:
    """Return the head model for the mean mesh of the labels' calibration."""
    return make_head_model(labels.load_calibration(data).mean)


def _surroundings(
    mesh: Floats, turned: Floats, unit: float, rotation: Floats, outline: npt.NDArray[np.int64]
) -> tuple[Floats, Floats]:
    """Return vertices of skin and surroundings before and after the rotation, (468 + R, 3) each."""
    centre = mesh[outline].mean(axis=0)
    before, after = [mesh[:SKIN]], [turned[:SKIN]]
    for size, depth, share in RINGS:
        ring = centre + (mesh[outline] - centre) * [size, size, 1.0] + [0, 0, depth * unit]
        moved = turned[outline].mean(axis=0) + (ring - centre) @ rotation.T
        before.append(ring)
        after.append(share * moved + (1 - share) * ring)
    corners = np.array([[x, y] for x in (-1, 0, 1) for y in (-1, 0, 1) if x or y]) * FRAME_REACH * unit
    frame = np.concatenate([centre[:2] + corners, np.full((8, 1), centre[2] + 1.5 * unit)], axis=1)
    return np.concatenate([*before, frame]), np.concatenate([*after, frame])


def rotation_about(yaw: float, pitch: float) -> Floats:
    """Return the rotation (3, 3) by yaw, then pitch (radians) about the axes of the image."""
    cy, sy, cp, sp = math.cos(yaw), math.sin(yaw), math.cos(pitch), math.sin(pitch)
    tilt = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    return np.asarray(tilt @ np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]]))


def yaw_of_mesh(mesh: Floats, head: HeadModel) -> float:
    """Return the yaw of a face, radians, with the sign of the yaw of `rotate_head`."""
    rotation = labels.pose_of(mesh, head.mean)[1]
    return math.atan2(rotation[0, 2], rotation[2, 2])


def draw_expression(mesh: npt.NDArray[np.floating], head: HeadModel, rng: np.random.Generator) -> Expression:
    """Draw an expression for a face mesh (478, 3) in image coordinates."""
    whole = np.asarray(mesh, dtype=np.float64)
    unit, pose, place = labels.pose_of(whole, head.mean)
    return random_expression((whole - place) @ pose / unit, rng)


def rotate_head(
    image: npt.NDArray[np.uint8],
    landmarks: npt.NDArray[np.float32],
    mesh: npt.NDArray[np.floating],
    head: HeadModel,
    yaw: float,
    pitch: float = 0.0,
    expression: Expression | None = None,
    rng: np.random.Generator | None = None,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Return an image with rotated head, and the landmarks as an annotator would place them.

    The landmarks (68, 2) and the mesh (478, 3) are in pixels of `image`, (H, W, 3). Yaw and pitch, radians,
    are added to the pose. `rng` draws the inside of a mouth that `expression` opens.
    """
    whole = np.asarray(mesh, dtype=np.float64)
    unit, pose, place = labels.pose_of(whole, head.mean)
    points = np.concatenate([landmarks, whole[labels.MESH_68, 2:]], axis=1)
    deformed = whole
    if expression is not None:
        moved = displacement((whole - place) @ pose / unit, expression)
        deformed = whole + unit * moved @ pose.T
        points[17:] += unit * moved[labels.MESH_68[17:]] @ pose.T
        jaw = jaw_displacement((points[:17] - place) @ pose / unit, expression.opening)
        points[:17] += unit * jaw @ pose.T
    rotation = rotation_about(yaw, pitch)
    # the head rotates about a point between the ears
    pivot = whole[head.outline].mean(axis=0) + np.array([0, 0, 0.3 * unit])
    after_mesh = (deformed - pivot) @ rotation.T + pivot
    before, after = _surroundings(whole, after_mesh, unit, rotation, head.outline)
    picture = draw_triangles(image, before[:, :2], after, head.triangles)
    if expression is not None and expression.opening > 0 and rng is not None:
        fill_mouth(picture, after_mesh[UPPER_INNER, :2], after_mesh[LOWER_INNER, :2], rng)
    points = (points - pivot) @ rotation.T + pivot
    points[:17, :2] = labels.visible_jaw(_refined_line(points[:17]), after_mesh, rotation @ pose, unit)
    return picture, np.asarray(points[:, :2], dtype=np.float32)


def _refined_line(jaw: Floats) -> Floats:
    """Resample the jaw to more points, with the chin in the middle."""
    half = labels.CONTOUR_POINTS // 2 + 1
    return np.concatenate([labels.resampled(jaw[:9], half), labels.resampled(jaw[8:], half)[1:]])


@kernel
def draw_triangles(
    image: npt.NDArray[np.uint8],
    before: npt.NDArray[np.float64],
    after: npt.NDArray[np.float64],
    triangles: npt.NDArray[np.int64],
) -> npt.NDArray[np.uint8]:
    """Draw triangles (K, 3) of an image, moved from `before`, (N, 2), to `after`, (N, 3), by z-buffering."""
    height, width = image.shape[:2]
    result = np.zeros((height, width, 3), np.uint8)
    nearest = np.full((height, width), np.inf)
    for k in range(triangles.shape[0]):
        i, j, m = triangles[k]
        ax, ay, bx, by, cx, cy = after[i, 0], after[i, 1], after[j, 0], after[j, 1], after[m, 0], after[m, 1]
        area = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
        if abs(area) < 1e-9:
            continue
        left = max(int(np.ceil(min(ax, bx, cx))), 0)
        right = min(int(np.floor(max(ax, bx, cx))), width - 1)
        top = max(int(np.ceil(min(ay, by, cy))), 0)
        bottom = min(int(np.floor(max(ay, by, cy))), height - 1)
        for y in range(top, bottom + 1):
            for x in range(left, right + 1):
                v = ((x - ax) * (cy - ay) - (cx - ax) * (y - ay)) / area
                w = ((bx - ax) * (y - ay) - (x - ax) * (by - ay)) / area
                u = 1.0 - v - w
                if u < -1e-6 or v < -1e-6 or w < -1e-6:
                    continue
                z = u * after[i, 2] + v * after[j, 2] + w * after[m, 2]
                if z >= nearest[y, x]:
                    continue
                nearest[y, x] = z
                sx = u * before[i, 0] + v * before[j, 0] + w * before[m, 0]
                sy = u * before[i, 1] + v * before[j, 1] + w * before[m, 1]
                sx = min(max(sx, 0.0), width - 1.001)
                sy = min(max(sy, 0.0), height - 1.001)
                x0, y0 = int(sx), int(sy)
                fx, fy = sx - x0, sy - y0
                for c in range(3):
                    upper = image[y0, x0, c] * (1 - fx) + image[y0, x0 + 1, c] * fx
                    lower = image[y0 + 1, x0, c] * (1 - fx) + image[y0 + 1, x0 + 1, c] * fx
                    result[y, x, c] = np.uint8(upper * (1 - fy) + lower * fy + 0.5)
    return result
