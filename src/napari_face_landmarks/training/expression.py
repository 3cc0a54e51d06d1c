"""Synthetic expressions (open mouths, closed eyes), which freely licensed portraits lack.

Meshes are deformed in their own coordinate frame: outer eye corners 1 apart, y down, z away from the camera.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.opencv import cv2

Floats = npt.NDArray[np.float64]
Generator = np.random.Generator

# fmt: off
UPPER_INNER = np.array([78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308])
LOWER_INNER = np.array([78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308])
UPPER_LIP = np.array([
    *UPPER_INNER, 61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 62, 183, 42, 41, 38, 12, 268, 271, 272,
    407, 292, 76, 184, 74, 73, 72, 11, 302, 303, 304, 408, 306,
])
LOWER_LIP = np.array([
    *LOWER_INNER[1:-1], 146, 91, 181, 84, 17, 314, 405, 321, 375, 77, 90, 180, 85, 16, 315, 404, 320, 307,
    96, 89, 179, 86, 15, 316, 403, 319, 325,
])
LIDS = (
    (
        np.array([246, 161, 160, 159, 158, 157, 173]),
        np.array([7, 163, 144, 145, 153, 154, 155]),
        np.array([247, 30, 29, 27, 28, 56, 190]),
    ),
    (
        np.array([466, 388, 387, 386, 385, 384, 398]),
        np.array([249, 390, 373, 374, 380, 381, 382]),
        np.array([467, 260, 259, 257, 258, 286, 414]),
    ),
)
"""For each eye: edge of the upper lid, of the lower lid, and fold of the upper lid, from the outer corner."""
# fmt: on
MOUTH_HALF_WIDTH = 0.27
CLOSED_MOUTH = 0.05
"""Largest opening of mouths that may be opened, outer-eye distances."""
OPEN_EYE = 0.04
"""Smallest opening of eyes that may be closed, outer-eye distances."""


@dataclass(frozen=True)
class Expression:
    """A change of expression."""

    opening: float = 0.0  # displacement of the lower lip, outer-eye distances
    # displacement of the right and left upper lid towards the lower lid: 1 closes the eye, below 0 opens it
    lids: tuple[float, float] = (0.0, 0.0)


def random_expression(own: Floats, rng: Generator) -> Expression:
    """Draw an expression for a mesh (478, 3) in its own frame: opens closed mouths, closes open eyes."""
    opening = 0.0
    gap = float(np.linalg.norm(own[UPPER_INNER[5]] - own[LOWER_INNER[5]]))
    if gap < CLOSED_MOUTH and rng.random() < 0.6:
        opening = float(rng.uniform(0.04, 0.2) if rng.random() < 0.5 else rng.uniform(0.15, 0.5))
    lids = [0.0, 0.0]
    if rng.random() < 0.4:
        both = rng.uniform(-0.3, 1.0)
        single_side = int(rng.integers(2)) if rng.random() < 0.25 else None
        for side, (upper, lower, _) in enumerate(LIDS):
            opened = float(np.linalg.norm(own[upper[3]] - own[lower[3]])) > OPEN_EYE
            if opened and single_side in (None, side):
                lids[side] = float(np.clip(both + rng.normal(0, 0.05), -0.3, 1.0))
    return Expression(opening, (lids[0], lids[1]))


def jaw_share(points: Floats) -> Floats:
    """Return the share of the jaw's movement, (N,), at points of the skin (N, 3); not valid for the lips."""
    down = np.clip((points[:, 1] - 0.38) / 0.14, 0, 1)
    out = np.clip((np.abs(points[:, 0]) - 0.3) / 0.5, 0, 1)
    return np.asarray(down * down * (3 - 2 * down) * (1 - 0.75 * out * out * (3 - 2 * out)))


def jaw_displacement(points: Floats, opening: float) -> Floats:
    """Return the displacement, (N, 3), of points of the skin when the mouth opens."""
    return np.asarray(jaw_share(points)[:, None] * opening * np.array([0.0, 1.0, 0.25]))


def displacement(own: Floats, expression: Expression) -> Floats:
    """Return the displacement of the vertices of a mesh in its own frame by an expression, (478, 3)."""
    moved = jaw_displacement(own, expression.opening)
    across = np.clip(own[LOWER_LIP, 0] / MOUTH_HALF_WIDTH, -1, 1)
    share = np.sqrt(1 - across**2)
    moved[UPPER_LIP] = 0.0
    moved[LOWER_LIP] = share[:, None] * expression.opening * np.array([0.0, 1.0, 0.25])
    for lip in (UPPER_LIP, LOWER_LIP):  # the corners approach each other
        moved[lip, 0] -= 0.25 * expression.opening * own[lip, 0]
    for (upper, lower, fold), closing in zip(LIDS, expression.lids, strict=True):
        way = closing * (own[lower] - own[upper])
        moved[upper] += way
        moved[fold] += 0.5 * way
    return moved


def fill_mouth(image: npt.NDArray[np.uint8], upper: Floats, lower: Floats, rng: Generator) -> None:
    """Paint the inside of an opened mouth between the inner edges of the lips, (11, 2) px each, in place."""
    middle = np.clip((upper[5] + lower[5]) / 2, 0, np.array(image.shape[1::-1]) - 1).astype(int)
    around = image[max(middle[1] - 24, 0) : middle[1] + 24, max(middle[0] - 24, 0) : middle[0] + 24]
    light = float(np.percentile(around, 75)) / 255
    is_grey = float(np.ptp(around.astype(np.int16), axis=2).mean()) < 4
    layer = image.astype(np.float32)
    mask = np.zeros(image.shape[:2], np.float32)

    def paint(polygon: Floats, colour: npt.NDArray[np.floating]) -> None:
        inside = np.zeros(image.shape[:2], np.uint8)
        cv2.fillPoly(inside, [np.round(polygon * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
        soft = cv2.GaussianBlur(inside, (0, 0), 0.7).astype(np.float32)[..., None] / 255
        colour = np.full(3, colour.mean()) if is_grey else colour
        layer[:] = layer * (1 - soft) + colour * soft
        np.maximum(mask, soft[..., 0], out=mask)

    paint(np.concatenate([upper, lower[::-1]]), light * rng.uniform(0.4, 1.2) * np.array([70.0, 25.0, 30.0]))
    if rng.random() < 0.35:
        tongue = np.concatenate([lower[2:9], (0.55 * lower + 0.45 * upper)[2:9][::-1]])
        paint(tongue, light * rng.uniform(0.7, 1.2) * np.array([170.0, 80.0, 85.0]))
    if rng.random() < 0.65:
        depth = rng.uniform(0.2, 0.6)
        teeth = np.concatenate([upper[1:10], ((1 - depth) * upper + depth * lower)[1:10][::-1]])
        paint(teeth, light * rng.uniform(0.75, 1.1) * np.array([235.0, 225.0, 210.0]))
    if rng.random() < 0.25:
        teeth = np.concatenate([lower[2:9], (0.8 * lower + 0.2 * upper)[2:9][::-1]])
        paint(teeth, light * rng.uniform(0.7, 1.0) * np.array([230.0, 218.0, 200.0]))
    np.clip(layer, 0, 255, out=layer)
    image[mask > 0] = layer[mask > 0].astype(np.uint8)
