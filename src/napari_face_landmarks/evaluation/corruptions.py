"""Image corruptions for labelled faces: pen marks, occlusion, blur, low light, noise, greyscale.

Independent of the augmentation in training. Random numbers depend only on the seed and the name of the face.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.evaluation.options import Condition
from napari_face_landmarks.ibug import MIRROR_68, OUTLINES, inter_ocular
from napari_face_landmarks.opencv import cv2
from napari_face_landmarks.pfld import crops_of_landmarks
from napari_face_landmarks.pfld.crop import CROP_SIZE
from napari_face_landmarks.video.pixels import to_grey

Image = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Points = npt.NDArray[np.float64]
Generator = np.random.Generator

BLUR_SIGMA = 2.0  # px of a face crop of 112 px
DARK_GAIN = 0.25
DARK_NOISE = 4.0  # standard deviation, levels of 255
NOISE = 20.0  # standard deviation, levels of 255

INKS = (
    (95, 35, 130),
    (70, 20, 110),
    (120, 50, 140),
    (25, 22, 30),
    (15, 15, 20),
    (35, 45, 150),
    (30, 70, 160),
)
"""RGB colours: violet (the most common surgical ink), black and blue."""
N_MARKS = (8, 16)
PEN_WIDTH = (0.02, 0.045)  # inter-ocular distances
INK_STRENGTH = (0.65, 0.95)
INK_SOFTNESS = 0.006  # standard deviation of the line's edge, inter-ocular distances
FINE = 1024  # minimum length in px of the image's longer side when marks are drawn

COVERED = (0.1, 0.2)  # share of the face, forehead included
FOREHEAD = 0.45  # height of the forehead above the brows over the height from chin to brows
COVERS = ("hand", "mask", "hair", "object")
CLOTHS = ((160, 200, 215), (235, 238, 240), (30, 30, 34), (120, 165, 130))
HAIRS = ((35, 25, 20), (70, 45, 30), (150, 110, 65), (120, 120, 120))


@dataclass(frozen=True)
class Perturbed:
    """A corrupted image."""

    image: Image  # (H, W, 3); RGB
    covered: Mask  # (68,), bool; whether a landmark is occluded


def generator(seed: int, purpose: str, name: str) -> Generator:
    """Return a random generator that depends only on the seed, a purpose and the name of a face."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{name}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def perturb(
    image: Image, landmarks: npt.NDArray[Any], condition: Condition, name: str, seed: int = 0
) -> Perturbed:
    """Return a corrupted copy of the RGB image (H, W, 3) of a face with landmarks (68, 2), in pixels.

    The `name` of the face and `seed` determine all random numbers. The conditions are:

    - marks: 8 to 16 strokes, dots, crosses and arrows of a surgical pen, along and across the landmarks;
    - occlusion: a hand, a mask, hair or an object over 10 to 20 % of the face;
    - blur: Gaussian, 2 px at a face crop of 112 px;
    - dark: a gain of 0.25 and noise of 4 levels;
    - noise: 20 levels;
    - gray: greyscale.
    """
    points = np.asarray(landmarks, dtype=np.float64)
    rng = generator(seed, condition, name)
    covered = np.zeros(len(points), np.bool_)
    if condition == "marks":
        image = marked(image, points, rng)
    elif condition == "occlusion":
        image, mask = occluded(image, points, rng)
        covered = _at(mask, points)
    elif condition == "blur":
        image = blurred(image, points)
    elif condition == "dark":
        image = noisy(image, DARK_GAIN, DARK_NOISE, rng)
    elif condition == "noise":
        image = noisy(image, 1.0, NOISE, rng)
    elif condition == "gray":
        image = np.repeat(to_grey(image)[..., None], 3, axis=2)
    return Perturbed(image, covered)


def blurred(image: Image, points: Points) -> Image:
    """Return the image blurred with a Gaussian of `BLUR_SIGMA` px of the face crop."""
    sigma = BLUR_SIGMA * float(crops_of_landmarks(points[None])[0, 2]) / CROP_SIZE
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), dtype=np.uint8)


def noisy(image: Image, gain: float, sigma: float, rng: Generator) -> Image:
    """Return the image multiplied by `gain`, with normal noise of `sigma` levels in each channel."""
    pixels = gain * image.astype(np.float64) + rng.normal(0, sigma, image.shape)
    return np.asarray(np.clip(np.rint(pixels), 0, 255), dtype=np.uint8)


# pen marks


def marked(image: Image, points: Points, rng: Generator) -> Image:
    """Return the image with surgical pen marks of one colour, drawn at a larger scale for thin lines."""
    height, width = image.shape[:2]
    fine = max(1, math.ceil(FINE / max(height, width)))
    ink = np.zeros((height * fine, width * fine), np.uint8)
    unit = float(inter_ocular(points)) * fine
    drawn_points = (points + 0.5) * fine - 0.5
    pen = unit * rng.uniform(*PEN_WIDTH)
    marks: list[Callable[[Image, Points, float, float, Generator], None]] = [
        _mark_along,
        _mark_across,
        _mark_stroke,
        _mark_dot,
        _mark_cross,
        _mark_arrow,
    ]
    for kind in rng.choice(len(marks), int(rng.integers(N_MARKS[0], N_MARKS[1] + 1))):
        marks[kind](ink, drawn_points, unit, pen * rng.uniform(0.8, 1.2), rng)
    alpha = cv2.resize(ink, (width, height), interpolation=cv2.INTER_AREA).astype(np.float64) / 255
    alpha = cv2.GaussianBlur(alpha, (0, 0), max(INK_SOFTNESS * unit / fine, 0.3))[..., None]
    alpha *= rng.uniform(*INK_STRENGTH)
    colour = np.clip(np.array(INKS[rng.integers(len(INKS))]) + rng.normal(0, 8, 3), 0, 255)
    # the ink is partly transparent to the shading of the skin
    skin = image.astype(np.float64)
    stained = colour * (0.75 + 0.25 * skin.mean(axis=2, keepdims=True) / 160)
    return np.asarray(np.clip(np.rint(skin + alpha * (stained - skin)), 0, 255), dtype=np.uint8)


def _mark_along(ink: Image, points: Points, unit: float, pen: float, rng: Generator) -> None:
    """Draw a solid or dashed line along an outline of the face, slightly shifted."""
    outline = points[OUTLINES[rng.integers(len(OUTLINES))]]
    count = int(rng.integers(3, max(4, min(len(outline), 8) + 1)))
    first = int(rng.integers(0, max(1, len(outline) - count + 1)))
    path = _curve(outline[first : first + count] + rng.normal(0, 0.04 * unit, 2))
    if rng.random() < 0.3:
        for start in range(0, len(path) - 2, 4):
            _draw(ink, path[start : start + 3], pen)
    else:
        _draw(ink, path, pen)


def _mark_across(ink: Image, points: Points, unit: float, pen: float, rng: Generator) -> None:
    """Draw a short line perpendicular to an outline."""
    outline = OUTLINES[rng.integers(len(OUTLINES))]
    at = int(rng.integers(1, len(outline) - 1))
    along = points[outline[at + 1]] - points[outline[at - 1]]
    along = along / max(float(np.linalg.norm(along)), 1e-6)
    normal = np.array([-along[1], along[0]]) * unit * rng.uniform(0.06, 0.16)
    middle = points[outline[at]] + rng.normal(0, 0.02 * unit, 2)
    _draw(ink, np.stack([middle - normal, middle + normal]), pen)


def _mark_stroke(ink: Image, points: Points, unit: float, pen: float, rng: Generator) -> None:
    """Draw a curved line from one part of the face to another."""
    a, b = points[rng.integers(len(points), size=2)] + rng.normal(0, 0.1 * unit, (2, 2))
    b = a + (b - a) * min(1.0, 0.8 * unit / max(float(np.linalg.norm(b - a)), 1e-6))
    bend = (a + b) / 2 + rng.normal(0, 0.12 * unit, 2)
    t = np.linspace(0, 1, 15)[:, None]
    _draw(ink, (1 - t) ** 2 * a + 2 * t * (1 - t) * bend + t**2 * b, pen)


def _mark_dot(ink: Image, points: Points, unit: float, pen: float, rng: Generator) -> None:
    """Draw a dot at a landmark and usually at its counterpart, as surgeons do to assess symmetry."""
    index = int(rng.integers(len(points)))
    for landmark in {index, int(MIRROR_68[index])} if rng.random() < 0.7 else {index}:
        _dot(ink, points[landmark] + rng.normal(0, 0.015 * unit, 2), pen * rng.uniform(0.7, 1.1))


def _mark_cross(ink: Image, points: Points, unit: float, pen: float, rng: Generator) -> None:
    """Draw a cross near a landmark."""
    middle = points[rng.integers(len(points))] + rng.normal(0, 0.06 * unit, 2)
    angle, arm = rng.uniform(0, math.pi / 2), unit * rng.uniform(0.04, 0.08)
    for rotated in (angle, angle + math.pi / 2):
        half = arm * np.array([math.cos(rotated), math.sin(rotated)])
        _draw(ink, np.stack([middle - half, middle + half]), pen)


def _mark_arrow(ink: Image, points: Points, unit: float, pen: float, rng: Generator) -> None:
    """Draw an arrow, as for the direction in which tissue is moved."""
    tip = points[rng.integers(len(points))] + rng.normal(0, 0.05 * unit, 2)
    angle, length = rng.uniform(0, 2 * math.pi), unit * rng.uniform(0.2, 0.45)
    _draw(ink, np.stack([tip, tip - length * _direction(angle)]), pen)
    for side in (-0.5, 0.5):
        _draw(ink, np.stack([tip, tip - 0.3 * length * _direction(angle + side)]), pen)


def _direction(angle: float) -> Points:
    return np.array([math.cos(angle), math.sin(angle)])


def _curve(path: Points) -> Points:
    """Resample a polyline to six times as many points."""
    at = np.linspace(0, len(path) - 1, 6 * len(path))
    return np.stack([np.interp(at, np.arange(len(path)), path[:, axis]) for axis in (0, 1)], axis=1)


def _draw(canvas: Image, path: Points, width: float) -> None:
    fixed = np.rint(np.clip(path, -(2**14), 2**14) * 16).astype(np.int32)
    cv2.polylines(canvas, [fixed], False, 255, max(1, round(width)), cv2.LINE_AA, 4)


def _dot(canvas: Image, centre: Points, radius: float) -> None:
    x, y = (int(v) for v in np.rint(np.clip(centre, -(2**14), 2**14) * 16))
    cv2.circle(canvas, (x, y), max(8, round(radius * 16)), 255, -1, cv2.LINE_AA, 4)


# occlusion


def occluded(image: Image, points: Points, rng: Generator) -> tuple[Image, Mask]:
    """Return the image (H, W, 3) with a random object over a share of the face (`COVERED`), and its mask."""
    face = face_region(image.shape[:2], points)
    kind = COVERS[rng.integers(len(COVERS))]
    share = rng.uniform(*COVERED)
    shapes = {"hand": _hand, "mask": _mask, "hair": _hair, "object": _object}
    shape = shapes[kind](points, rng)
    low, high = 0.0, 1.0
    for _ in range(12):
        size = (low + high) / 2
        cover = shape(size, image.shape[:2])
        if np.count_nonzero(cover[face]) < share * np.count_nonzero(face):
            low = size
        else:
            high = size
    cover = shape(high, image.shape[:2])
    unit = float(inter_ocular(points))
    soft = cv2.GaussianBlur(cover, (0, 0), max(0.012 * unit, 0.5)).astype(np.float64)[..., None] / 255
    texture = _texture(kind, image, points, cover, rng)
    pixels = image + soft * (texture - image)
    return np.asarray(np.clip(np.rint(pixels), 0, 255), dtype=np.uint8), np.asarray(cover > 127)


def face_region(shape: tuple[int, ...], points: Points) -> Mask:
    """Return the mask of a face, (H, W) bool: the convex hull of its landmarks and of the forehead."""
    up = _up(points)
    chin, brows = points[8], points[17:27].mean(axis=0)
    raised = points[17:27] + up * FOREHEAD * abs(float((chin - brows) @ up))
    hull = cv2.convexHull(np.concatenate([points, raised]).astype(np.float32))
    canvas = np.zeros(shape, np.uint8)
    cv2.fillConvexPoly(canvas, np.rint(hull).astype(np.int32), 1)
    return canvas.astype(np.bool_)


Shape = Callable[[float, tuple[int, ...]], Image]
"""Return a mask, 0 or 255, for a size from 0 (covers nothing) to 1 (the face) and an image shape (H, W)."""


def _up(points: Points) -> Points:
    """Return the unit vector from chin to brows."""
    up = points[17:27].mean(axis=0) - points[8]
    return np.asarray(up / max(float(np.linalg.norm(up)), 1e-6))


def _from_side(points: Points, rng: Generator, spread: float) -> tuple[Points, Points]:
    """Draw a direction towards the face, mostly from below or from a side, and a start outside the face."""
    angle = rng.normal(0, spread) + rng.choice([-1.3, 0.0, 1.3])
    up = _up(points)
    inwards = np.array(
        [up[0] * math.cos(angle) - up[1] * math.sin(angle), up[0] * math.sin(angle) + up[1] * math.cos(angle)]
    )
    middle = points.mean(axis=0)
    shift = np.array([-inwards[1], inwards[0]]) * rng.normal(0, 0.2) * float(inter_ocular(points))
    return inwards, middle + shift - inwards * 1.6 * float(inter_ocular(points))


def _hand(points: Points, rng: Generator) -> Shape:
    """Make a hand with four fingers and a thumb that enters from one side."""
    unit = float(inter_ocular(points))
    along, start = _from_side(points, rng, 0.3)
    across = np.array([-along[1], along[0]])
    lengths = unit * rng.uniform(0.75, 1.0, 4)
    spread = rng.uniform(0.02, 0.16)
    thumb = rng.choice([-1.0, 1.0])

    def shape(size: float, canvas_shape: tuple[int, ...]) -> Image:
        canvas = np.zeros(canvas_shape, np.uint8)
        wrist = start + along * size * 3.2 * unit - along * 1.2 * unit
        palm = wrist + along * 0.35 * unit
        _draw(canvas, np.stack([wrist - along * 2.0 * unit, palm]), 0.75 * unit)
        for finger in range(4):
            offset = finger - 1.5
            root = palm + across * 0.2 * unit * offset + along * 0.1 * unit
            tip = root + (along + across * spread * offset) * lengths[finger]
            _draw(canvas, np.stack([root, tip]), 0.19 * unit)
        _draw(canvas, np.stack([palm, palm + (0.6 * along + 0.8 * thumb * across) * 0.6 * unit]), 0.2 * unit)
        return canvas

    return shape


def _mask(points: Points, rng: Generator) -> Shape:
    """Make a mask from the chin upwards, with a slightly curved and tilted edge."""
    up = _up(points)
    across = np.array([-up[1], up[0]])
    unit = float(inter_ocular(points))
    tilt, bend = rng.normal(0, 0.06), rng.uniform(0.0, 0.25)

    def shape(size: float, canvas_shape: tuple[int, ...]) -> Image:
        canvas = np.zeros(canvas_shape, np.uint8)
        edge = points[8] - 0.3 * unit * up + size * 2.6 * unit * up
        t = np.linspace(-1.4, 1.4, 15)[:, None]
        top = edge + unit * (t * across + (tilt * t - bend * t**2) * up)
        bottom = top[::-1] - 4 * unit * up
        cv2.fillPoly(canvas, [np.rint(np.concatenate([top, bottom])).astype(np.int32)], 255)
        return canvas

    return shape


def _hair(points: Points, rng: Generator) -> Shape:
    """Make strands over the forehead and one side of the face."""
    up = _up(points)
    across = np.array([-up[1], up[0]]) * rng.choice([-1.0, 1.0])
    unit = float(inter_ocular(points))
    middle = points[17:27].mean(axis=0)
    count = 16
    roots = np.sort(rng.uniform(-1.1, 1.1, count))
    lengths, sway = rng.uniform(0.6, 1.4, count), rng.normal(0, 0.12, count)

    def shape(size: float, canvas_shape: tuple[int, ...]) -> Image:
        canvas = np.zeros(canvas_shape, np.uint8)
        for root, length, bend in zip(roots, lengths, sway, strict=True):
            long = size * 3.0 * length * (0.35 + 0.65 * (root + 1.1) / 2.2)
            top = middle + unit * (root * across + 1.1 * up)
            t = np.linspace(0, 1, 12)[:, None]
            path = top + unit * (bend * t**2 * across - t * (0.2 + long) * up)
            _draw(canvas, path, 0.13 * unit)
        return canvas

    return shape


def _object(points: Points, rng: Generator) -> Shape:
    """Make a rectangle or an ellipse, like a phone or a ball, in front of any part of the face."""
    unit = float(inter_ocular(points))
    centre = points[rng.integers(len(points))] + rng.normal(0, 0.1 * unit, 2)
    ratio, angle = math.exp(rng.normal(0, 0.35)), math.degrees(rng.uniform(0, math.pi))
    is_round = rng.random() < 0.4

    def shape(size: float, canvas_shape: tuple[int, ...]) -> Image:
        canvas = np.zeros(canvas_shape, np.uint8)
        sides = 2 * unit * size * np.array([ratio, 1 / ratio]) * 2
        box = ((float(centre[0]), float(centre[1])), (float(sides[0]), float(sides[1])), angle)
        if is_round:
            cv2.ellipse(canvas, box, 255, -1)
        else:
            cv2.fillPoly(canvas, [np.rint(cv2.boxPoints(box)).astype(np.int32)], 255)
        return canvas

    return shape


def _texture(
    kind: str, image: Image, points: Points, cover: Image, rng: Generator
) -> npt.NDArray[np.float64]:
    """Return the texture of an occluding object, (H, W, 3): shaded, with grain."""
    height, width = cover.shape
    unit = float(inter_ocular(points))
    if kind == "hand":
        colour = _skin(image, points) * rng.uniform(0.8, 1.1)
    elif kind == "mask":
        colour = np.array(CLOTHS[rng.integers(len(CLOTHS))], dtype=np.float64)
    elif kind == "hair":
        colour = np.array(HAIRS[rng.integers(len(HAIRS))], dtype=np.float64)
    else:
        colour = rng.uniform(20, 235, 3)
    y, x = np.mgrid[:height, :width]
    angle = rng.uniform(0, 2 * math.pi)
    ramp = ((x - points[30, 0]) * math.cos(angle) + (y - points[30, 1]) * math.sin(angle)) / (2 * unit)
    # darker near the edge, as on a round object
    depth = cv2.distanceTransform((cover > 127).astype(np.uint8), cv2.DIST_L2, 3) / (0.15 * unit)
    light = (1 + 0.2 * np.clip(ramp, -1, 1)) * (0.75 + 0.25 * np.clip(depth, 0, 1))
    grain = cv2.GaussianBlur(rng.normal(0, 1, (height, width)), (0, 0), max(0.03 * unit, 0.6))
    grain = grain / max(float(grain.std()), 1e-6) * (0.14 if kind == "hair" else 0.03)
    return np.asarray(colour * (light * (1 + grain))[..., None])


def _skin(image: Image, points: Points) -> npt.NDArray[np.float64]:
    """Return the median RGB colour of both cheeks and the bridge of the nose."""
    cheeks = np.concatenate([(points[[36, 45]] + points[[48, 54]]) / 2, points[[29, 30]]])
    at = np.clip(np.rint(cheeks), 0, np.array([image.shape[1], image.shape[0]]) - 1).astype(np.int64)
    return np.asarray(np.median(image[at[:, 1], at[:, 0]], axis=0), dtype=np.float64)


def _at(mask: Mask, points: Points) -> Mask:
    """Return the mask at each point, (68,) bool; False outside the image."""
    at = np.rint(points).astype(np.int64)
    inside = ((at >= 0) & (at < np.array([mask.shape[1], mask.shape[0]]))).all(axis=1)
    values = np.zeros(len(points), np.bool_)
    values[inside] = mask[at[inside, 1], at[inside, 0]]
    return values
