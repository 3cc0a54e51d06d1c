"""iBUG landmarks of freely licensed faces, from automatic face meshes calibrated on manual templates.

The labels follow the convention of the annotators of 300-W:

* The jaw is the visible contour: on the side turned towards the viewer the edge of the jaw from the ear, on
the
  other side the outline of the cheek. It starts a little below the height of the eyes (`JAW_BEGINS`).
  Landmark 8 is at the lowest point; the eight steps on either side of it are equal in arc length.
* A brow is its upper edge from the outer tip to the middle of the inner end, in four equal steps. On a mesh
it is
  the mean of a line through vertices (`MESH_BROWS`) and of the corrected vertices (see below).
* The bridge of the nose has three equal steps from between the eyes to the tip.
* Eyelids have three equal steps from corner to corner along the lids of the mesh (`MESH_LIDS`). The lids of a
shut
  eye coincide, where meshes leave a gap of 0.05 eye widths (0.025 to 0.086). Apertures under `NEARLY_SHUT`
  are therefore mapped linearly, with `SHUT_IN_MESH` to 0.
* The outer lips are points of the template.
* The base of the nose and the inner lips are the nearest vertices of the mesh.

These labels were compared with those of 300-W; nothing is fitted to 300-W.

If the manual 189-point template has a corresponding point, the vertex is corrected by the mean difference
between template and mesh over all faces with both. The difference is stored in three dimensions in the
coordinate frame of the mesh, so that it rotates with the head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.evaluation.split import held_out_mask
from napari_face_landmarks.ibug import MIRROR_68, N_LANDMARKS

Floats = npt.NDArray[np.float64]

TEMPLATES = ("london_neutral", "canada")
"""Files of `landmarks_open` with manual templates."""
BRIDGE = np.arange(27, 31)
CONTOUR_POINTS = 33
EYE_CORNERS = (33, 263)
"""Vertices at the outer eye corners, right first; their distance is the unit of the mesh's frame."""
CHIN_DEPTH = 0.03
"""Height above the lowest point of the contour part whose middle is the chin, outer-eye distances."""
JAW_BEGINS = 0.03
"""Contour length from the height of the eyes to the first landmark, over the height from nasion to chin."""
NASION = 168
"""Vertex of the mesh between the eyes."""
ASYMMETRY_CORRECTION = 1 / 3
"""Correction of the height differences of brows and commissures in meshes, as a share of them."""
SIDEWAYS_NOSE = 0.18
"""Offset of the nose's tip from the middle of the jaw at about 20 degrees of yaw, outer-eye distances."""
FRONTAL_YAW = 15.0
"""Largest yaw of heads that count as frontal, degrees."""
OUTLINE_REACH = 0.05
"""Half the height of the strip in which the outline of a rotated cheek is searched, outer-eye distances."""

# fmt: off
MESH_68 = np.array([
    162, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 389,
    71, 63, 105, 66, 107, 336, 296, 334, 293, 301, 168, 197, 5, 4, 75, 97, 2, 326, 305,
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,
    61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181, 78, 82, 13, 312, 308, 317, 14, 87,
])
"""Vertices of the mesh nearest to the 68 landmarks."""
MESH_OVAL = np.array([
    127, 234, 93, 132, 58, 172, 136, 150, 149, 176, 148, 152,
    377, 400, 378, 379, 365, 397, 288, 361, 323, 454, 356,
])
"""Vertices of the mesh's outline from ear to ear over the chin."""
TEMPLATE_CONTOUR = np.array([
    109, 185, 110, 186, 111, 125, 126, 127, 128, 129, 130, 131, 132, 133, 114, 188, 113, 187, 112,
])
"""Points of the template along the same outline."""
# fmt: on

MESH_BROWS = (
    ((70, 63, 105, 66, 107), (70, 63, 105, 66, 55)),
    ((336, 296, 334, 293, 300), (285, 296, 334, 293, 300)),
)
"""Pairs of vertices whose means are along each brow, in the order of the landmarks, right brow first."""
MESH_LIDS = (
    ((36, 37, 38, 39), (33, 246, 161, 160, 159, 158, 157, 173, 133)),
    ((39, 40, 41, 36), (133, 155, 154, 153, 145, 144, 163, 7, 33)),
    ((42, 43, 44, 45), (362, 398, 384, 385, 386, 387, 388, 466, 263)),
    ((45, 46, 47, 42), (263, 249, 390, 373, 374, 380, 381, 382, 362)),
)
"""Landmarks of each lid and vertices of the mesh along it."""
LID_PAIRS = ((37, 41), (38, 40), (43, 47), (44, 46))
"""Pairs of opposite landmarks on the upper and the lower lid."""
SHUT_IN_MESH, NEARLY_SHUT = 0.04, 0.12
"""Apertures of meshes (lid distance over eye width) that are mapped to 0, and from which on they are kept."""

_RIGHT_BROW, _LEFT_BROW = (71, 72, 73, 74, 75), (82, 81, 80, 79, 78)
_BROW_ENDS = ((75, 76), (78, 77))  # where the upper edge bends down, and the innermost point
_LIDS = (
    ((36, 37, 38, 39), (18, 19, 20, 21, 22)),
    ((39, 40, 41, 36), (22, 30, 29, 28, 18)),
    ((42, 43, 44, 45), (23, 24, 25, 26, 27)),
    ((45, 46, 47, 42), (27, 33, 32, 31, 23)),
)
_OUTER_LIPS = (87, 88, 89, 90, 91, 92, 93, 108, 107, 106, 105, 104)


@dataclass(frozen=True)
class Calibration:
    """Conversion of a mesh to the 68 landmarks, in the mesh's frame (outer eye corners 1 apart)."""

    mean: Floats  # (478, 3); the mean mesh, centred at the origin
    offsets: Floats  # (68, 3); from the vertices `MESH_68` to the landmarks; 0 without a template point
    contour: Floats  # (33, 3); from the resampled `MESH_OVAL` to the contour
    # (68,); root mean square distance of the corrected mesh from templates; without a template point, that
    # of all template points outside the jaw
    noise: Floats


def resampled(line: Floats, count: int) -> Floats:
    """Resample a polyline to `count` points equally spaced in arc length (of x and y), (count, D)."""
    steps = np.linalg.norm(np.diff(line[:, :2], axis=0), axis=1)
    length = np.concatenate([[0.0], np.cumsum(steps)])
    wanted = np.linspace(0, length[-1], count)
    return np.stack([np.interp(wanted, length, column) for column in line.T], axis=1)


def pose_of(mesh: Floats, mean: Floats) -> tuple[float, Floats, Floats]:
    """Return scale, rotation (3, 3) and translation (3,) of a mesh by least squares (Umeyama 1991)."""
    place = mesh.mean(axis=0)
    left, stretch, right = np.linalg.svd((mesh - place).T @ mean)
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(left @ right))])
    return float((stretch * sign).sum() / (mean**2).sum()), (left * sign) @ right, place


def template_landmarks(template: Floats) -> dict[int, Floats]:
    """Return the landmarks, except the jaw, that a template (189, 2) contains, by number."""
    found: dict[int, Floats] = {}
    across = template[27] - template[18]  # outer eye corners
    across = across / np.linalg.norm(across)
    for first, step, brow, (bend, inner) in (
        (17, 1, _RIGHT_BROW, _BROW_ENDS[0]),
        (26, -1, _LEFT_BROW, _BROW_ENDS[1]),
    ):
        end = template[bend] + across * ((template[inner] - template[bend]) @ across)
        points = resampled(np.concatenate([template[list(brow)], end[None]]), 5)
        found.update({first + step * k: point for k, point in enumerate(points)})
    for landmarks, lid in _LIDS:
        found.update(zip(landmarks, resampled(template[list(lid)], 4), strict=True))
    found.update(zip(range(48, 60), template[list(_OUTER_LIPS)], strict=True))
    return found


def calibrate(meshes: Floats, templates: Floats) -> Calibration:
    """Calibrate meshes (N, 478, 3) by templates (N, 189, 2) of the same faces; pixels, z grows with depth."""
    mean = meshes.mean(axis=0)
    for _ in range(3):
        mean = mean - mean.mean(axis=0)
        mean /= np.linalg.norm(mean[EYE_CORNERS[0]] - mean[EYE_CORNERS[1]])
        poses = [pose_of(mesh, mean) for mesh in meshes]
        mean = np.mean([_to_own(mesh, pose) for mesh, pose in zip(meshes, poses, strict=True)], axis=0)
    offsets, contours = [], []
    for mesh, template in zip(meshes, templates, strict=True):
        pose = pose_of(mesh, mean)
        own = _to_own(mesh, pose)
        offset = np.zeros((N_LANDMARKS, 3))
        for k, point in template_landmarks(template).items():
            vertex = MESH_68[k]
            offset[k] = _to_own(np.append(point, mesh[vertex, 2])[None], pose)[0] - own[vertex]
        offsets.append(offset)
        oval = resampled(own[MESH_OVAL], CONTOUR_POINTS)
        depth = _to_image(oval, pose)[:, 2:]
        drawn = resampled(template[TEMPLATE_CONTOUR], CONTOUR_POINTS)
        contours.append(_to_own(np.concatenate([drawn, depth], axis=1), pose) - oval)
    flip = np.array([-1.0, 1.0, 1.0])
    offset, contour = np.mean(offsets, axis=0), np.mean(contours, axis=0)
    offset, contour = (offset + offset[MIRROR_68] * flip) / 2, (contour + contour[::-1] * flip) / 2
    noise = np.sqrt(np.mean(np.sum((offsets - offset)[..., :2] ** 2, axis=-1), axis=0))
    marked = np.any(offsets, axis=(0, 2))
    noise[~marked] = np.sqrt(np.mean(noise[marked] ** 2))
    jaw = np.sqrt(np.mean(np.sum((contours - contour)[..., :2] ** 2, axis=-1), axis=0))
    noise[:17] = jaw[:: (CONTOUR_POINTS - 1) // 16]
    return Calibration(mean, offset, contour, noise)


def load_calibration(data: Path) -> Calibration:
    """Calibrate meshes on the training side of the files with templates."""
    meshes, templates = [], []
    for name in TEMPLATES:
        with np.load(data / "landmarks_open" / f"{name}.npz", allow_pickle=False) as arrays:
            chosen = ~held_out_mask(arrays["names"])
            meshes.append(arrays["mesh478_x64"][chosen] / 64.0)
            templates.append(arrays["template189"][chosen].astype(np.float64))
    return calibrate(np.concatenate(meshes), np.concatenate(templates))


def mesh_landmarks(mesh: npt.NDArray[np.floating], calibration: Calibration) -> npt.NDArray[np.float32]:
    """Return the 68 landmarks of a mesh (478, 3), (68, 2) float32; pixels, z grows with depth."""
    whole = np.asarray(mesh, dtype=np.float64)
    pose = pose_of(whole, calibration.mean)
    own = _to_own(whole, pose)
    points = _to_image(own[MESH_68] + calibration.offsets, pose)
    contour = resampled(own[MESH_OVAL], CONTOUR_POINTS) + calibration.contour
    contour = _to_image(without_ends(contour, own[NASION]), pose)
    points[BRIDGE] = resampled(points[BRIDGE], len(BRIDGE))
    for first, brow in zip((17, 22), MESH_BROWS, strict=True):
        line = resampled(whole[np.array(brow)].mean(axis=0), 5)
        points[first : first + 5] = (points[first : first + 5] + line) / 2
    for numbers, lid in MESH_LIDS:
        points[list(numbers)] = resampled(whole[list(lid)], 4)
    points[:, :2] = with_shut_lids(points[:, :2])
    points[:17, :2] = visible_jaw(contour, whole, pose[1], pose[0])
    return np.asarray(points[:, :2], dtype=np.float32)


def lid_apertures(landmarks: npt.NDArray[np.floating]) -> Floats:
    """Return apertures (lid distance over eye width), (..., 2), right eye first, of (..., 68, 2)."""
    points = np.asarray(landmarks, dtype=np.float64)
    upper, lower = np.transpose(LID_PAIRS)
    heights = np.linalg.norm(points[..., upper, :] - points[..., lower, :], axis=-1)
    widths = np.linalg.norm(points[..., (36, 42), :] - points[..., (39, 45), :], axis=-1)
    return np.asarray(heights.reshape(*heights.shape[:-1], 2, 2).mean(axis=-1) / widths)


def with_shut_lids(landmarks: Floats) -> Floats:
    """Return landmarks (68, 2) of a mesh with the lids of nearly shut eyes closed."""
    moved = landmarks.copy()
    for eye, aperture in enumerate(lid_apertures(landmarks)):
        if aperture >= NEARLY_SHUT:
            continue
        wanted = max(aperture - SHUT_IN_MESH, 0.0) * NEARLY_SHUT / (NEARLY_SHUT - SHUT_IN_MESH)
        for upper, lower in LID_PAIRS[2 * eye : 2 * eye + 2]:
            middle = (landmarks[upper] + landmarks[lower]) / 2
            for lid in (upper, lower):
                moved[lid] = middle + (landmarks[lid] - middle) * wanted / aperture
    return moved


def with_full_asymmetry(landmarks: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """Return landmarks of meshes, (N, 68, 2) float32, with their underestimated asymmetry corrected.

    On faces with palsy, meshes have about three quarters of the height differences of brows and commissures.
    A third is therefore added, half on either side. Heads with a large rotation are not changed.
    """
    points = np.asarray(landmarks, dtype=np.float64)
    moved = points.copy()
    eyes = points[:, 45] - points[:, 36]
    right = eyes / np.linalg.norm(eyes, axis=1, keepdims=True)
    down = np.stack([-right[:, 1], right[:, 0]], axis=1)

    def lower_by(left: Sequence[int], other: Sequence[int]) -> Floats:
        apart = points[:, left].mean(axis=1) - points[:, other].mean(axis=1)
        return np.asarray((apart * down).sum(axis=1) * ASYMMETRY_CORRECTION / 2)

    half = lower_by(range(22, 27), range(17, 22))[:, None, None] * down[:, None]
    moved[:, 17:22] -= half
    moved[:, 22:27] += half
    middle = (points[:, 48] + points[:, 54]) / 2
    reach = ((points[:, 54] - points[:, 48]) * right).sum(axis=1) / 2
    across = ((points[:, 48:] - middle[:, None]) * right[:, None]).sum(axis=-1) / reach[:, None]
    half = (lower_by([54], [48])[:, None] * np.clip(across, -1, 1))[..., None] * down[:, None]
    moved[:, 48:] += half
    nose = points[:, 30] - (points[:, 2] + points[:, 14]) / 2
    rotated = np.abs((nose * eyes).sum(axis=1)) > SIDEWAYS_NOSE * (eyes**2).sum(axis=1)
    moved[rotated] = points[rotated]
    return np.asarray(moved, dtype=np.float32)


def aligned_landmarks(
    exact: npt.NDArray[np.float32], from_mesh: npt.NDArray[np.float32], yaw: npt.NDArray[np.floating]
) -> npt.NDArray[np.float32]:
    """Return exact landmarks of rendered heads in the convention of labels derived from meshes.

    The median difference from labels derived from the meshes of frontal heads is added: at brows in both
    directions, at lids only along the eye, so that apertures remain exact. Other landmarks are not changed.
    """
    across = exact[:, 45] - exact[:, 36]
    turned = np.cos(np.radians(yaw))
    unit = np.linalg.norm(across, axis=1) / np.maximum(turned, 0.3)
    right = across / np.linalg.norm(across, axis=1, keepdims=True)
    axes = np.stack([right, np.stack([-right[:, 1], right[:, 0]], axis=1)], axis=1)  # rows
    difference = np.einsum("nij,nkj->nki", axes, from_mesh - exact) / unit[:, None, None]
    frontal = np.abs(yaw) < FRONTAL_YAW
    offset = np.zeros((N_LANDMARKS, 2))
    if frontal.any():
        offset[17:27] = np.median(difference[frontal, 17:27], axis=0)
        offset[36:48, 0] = np.median(difference[frontal, 36:48, 0], axis=0)
        offset = (offset + offset[MIRROR_68] * [-1, 1]) / 2
    moved = offset[None] * np.stack([turned, np.ones_like(turned)], axis=1)[:, None] * unit[:, None, None]
    return np.asarray(exact + np.einsum("nij,nki->nkj", axes, moved), dtype=np.float32)


def marked_landmarks(
    template: npt.NDArray[np.floating], by_mesh: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Return the 68 landmarks of a frontal face from a template (189, 2), the others from `by_mesh`."""
    points = np.asarray(template, dtype=np.float64)
    landmarks = by_mesh.copy()
    for number, point in template_landmarks(points).items():
        landmarks[number] = point
    eyes = points[27] - points[18]
    unit = float(np.linalg.norm(eyes))
    axes = np.stack([eyes, [-eyes[1], eyes[0]]], axis=1) / unit
    jaw = without_ends(points[TEMPLATE_CONTOUR], by_mesh[BRIDGE[0]])
    landmarks[:17] = _in_steps(jaw @ axes, unit) @ axes.T
    return landmarks


def without_ends(contour: Floats, nasion: Floats) -> Floats:
    """Return a contour from ear to ear, (C, 2 or 3), C odd, without its ends above the jaw (`JAW_BEGINS`).

    The given contour starts and ends at the height of the eyes; the chin is its middle point.
    """
    chin = len(contour) // 2
    height = float(np.linalg.norm((contour[chin] - nasion)[:2]))
    halves = contour[: chin + 1], contour[chin:][::-1]
    first, last = (_without_start(half, JAW_BEGINS * height) for half in halves)
    return np.concatenate([first, last[-2::-1]])


def _without_start(line: Floats, length: float) -> Floats:
    """Remove the first part, of the given length in x and y, from a polyline; resample to as many points."""
    fine = resampled(line, 1 + 50 * (len(line) - 1))
    steps = np.linalg.norm(np.diff(fine[:, :2], axis=0), axis=1)
    return resampled(fine[np.searchsorted(np.cumsum(steps), length) :], len(line))


def visible_jaw(contour: Floats, mesh: Floats, rotation: Floats, unit: float) -> Floats:
    """Return the 17 jaw landmarks on the visible part of a contour (C, 2 or 3) from right to left ear.

    On rotated heads the outline of `mesh`, (478, 3), hides a part of the contour. `unit` is the outer-eye
    distance of a frontal view, pixels.
    """
    across = rotation[:2, 0] / np.linalg.norm(rotation[:2, 0])
    axes = np.stack([across, [-across[1], across[0]]], axis=1)
    outline = mesh[:, :2] @ axes
    line = contour[:, :2] @ axes
    chin = len(line) // 2
    for k in range(len(line)):
        level = np.abs(outline[:, 1] - line[k, 1]) < OUTLINE_REACH * unit
        if level.any() and abs(k - chin) > chin // 5:
            if k < chin:
                line[k, 0] = min(line[k, 0], outline[level, 0].min())
            else:
                line[k, 0] = max(line[k, 0], outline[level, 0].max())
    return np.asarray(_in_steps(line, unit) @ axes.T)


def _in_steps(line: Floats, unit: float) -> Floats:
    """Return the 17 jaw landmarks on a contour (C, 2) of an upright head, in equal steps from the chin."""
    fine = resampled(line, 8 * len(line))
    low = np.flatnonzero(fine[:, 1] > fine[:, 1].max() - CHIN_DEPTH * unit)
    chin = round(float(low.mean()))
    return np.concatenate([resampled(fine[: chin + 1], 9), resampled(fine[chin:], 9)[1:]])


def _to_own(points: Floats, pose: tuple[float, Floats, Floats]) -> Floats:
    scale, rotation, place = pose
    return np.asarray((points - place) @ rotation / scale)


def _to_image(points: Floats, pose: tuple[float, Floats, Floats]) -> Floats:
    scale, rotation, place = pose
    return np.asarray(scale * points @ rotation.T + place)
