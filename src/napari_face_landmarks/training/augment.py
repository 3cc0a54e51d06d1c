"""Augmentation of face crops: pose, weak muscles, swellings, marks, occlusions, light, blur."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.ibug import MIRROR_68, inter_ocular
from napari_face_landmarks.opencv import cv2
from napari_face_landmarks.pfld.crop import CROP_SIZE, crops_of_landmarks, to_crop
from napari_face_landmarks.training.marks import bruise, draw_marks

Image = npt.NDArray[np.uint8]
Points = npt.NDArray[np.float32]
Generator = np.random.Generator


@dataclass(frozen=True, slots=True)
class CropJitter:
    """Standard deviations of a random crop around the true one."""

    shift: float  # of the centre along each axis, crop sides
    scale: float  # of the logarithm of the side
    roll: float  # radians


TRACKER_JITTER = CropJitter(shift=0.03, scale=0.06, roll=math.radians(6))
DETECTOR_JITTER = CropJitter(shift=0.08, scale=0.14, roll=math.radians(20))

BLUR = (0.008, 0.065)
"""Smallest and largest standard deviation of Gaussian blur, inter-ocular distances."""
FACE_UNIT = 0.45
"""Inter-ocular distance over the side of the crop."""

# Left-side landmarks that move together; displacement by weak muscles (away from the midline, down) and its
# reach, inter-ocular distances.
_SOFT_PARTS: tuple[tuple[tuple[int, ...], tuple[float, float], float], ...] = (
    ((54, 64, 53, 55), (0.02, 0.10), 0.16),  # mouth corner droops
    ((22, 23, 24, 25, 26), (0.0, 0.10), 0.18),  # brow droops
    ((46, 47), (0.0, 0.045), 0.07),  # lower lid sags
    ((43, 44), (0.0, 0.06), 0.06),  # upper lid falls
    ((52, 53, 63), (0.0, -0.06), 0.10),  # upper lip raised
    ((55, 56, 65), (0.0, 0.07), 0.12),  # lower lip pulled down
    ((35, 34), (0.03, 0.03), 0.10),  # nostril
    ((11, 12, 13), (0.03, 0.06), 0.22),  # cheek and jaw sag
)

# Local movements on the left side: landmarks, largest radius, largest displacement (both in inter-ocular
# distances) and probability.
_MOVEMENTS: tuple[tuple[tuple[int, ...], float, float, float], ...] = (
    ((54,), 0.22, 0.11, 0.20),
    ((22, 23, 24, 25, 26), 0.26, 0.11, 0.12),
    ((23, 24, 25), 0.22, 0.10, 0.18),
    ((25, 26), 0.18, 0.08, 0.10),
    ((55, 56), 0.16, 0.07, 0.08),
    ((55, 56, 65), 0.18, 0.08, 0.08),
    ((52, 53, 63), 0.16, 0.06, 0.06),
    ((43, 44), 0.10, 0.03, 0.04),
    ((46, 47), 0.10, 0.03, 0.04),
    ((34, 35), 0.12, 0.05, 0.05),
    ((57, 66), 0.18, 0.07, 0.05),
)


def jittered_crop(landmarks: Points, jitter: CropJitter, rng: Generator) -> Points:
    """Return the crop of a face, shifted, scaled and rolled at random, (4,) float32."""
    crop = crops_of_landmarks(landmarks[None])[0].astype(np.float64)
    crop[:2] += rng.normal(0, jitter.shift, 2) * crop[2]
    crop[2] *= math.exp(rng.normal(0, jitter.scale))
    crop[3] += rng.normal(0, jitter.roll)
    return np.asarray(crop, dtype=np.float32)


def soft_tissue_bumps(landmarks: Points, rng: Generator) -> npt.NDArray[np.float32]:
    """Draw weakness or expressions as bumps (centre, displacement, radius), (B, 5) px."""
    unit = float(inter_ocular(landmarks))
    across = landmarks[45] - landmarks[36]
    right = across / max(float(np.linalg.norm(across)), 1e-6)
    down = np.array([-right[1], right[0]], dtype=np.float32)
    left_side = rng.random() < 0.5
    sides = (True, False) if rng.random() < 0.35 else (left_side,)
    bumps = []
    for indices, (away, drop), radius in _SOFT_PARTS:
        if rng.random() < 0.5:
            continue
        amount = rng.normal(0.4, 0.7)
        reach = radius * unit * rng.uniform(0.9, 1.5)
        for left in sides:
            group = np.asarray(indices) if left else MIRROR_68[list(indices)]
            outward = right if left else -right
            move = amount * unit * (away * outward + drop * down)
            bumps.append([*landmarks[group].mean(axis=0), *move, reach])
    return np.asarray(bumps, dtype=np.float32).reshape(-1, 5)


def local_bump(landmarks: Points, rng: Generator, number: int | None = None) -> npt.NDArray[np.float32]:
    """Draw one movement, mostly up or down, as a row of `soft_tissue_bumps`, (1, 5).

    `number` is that of the movement in `_MOVEMENTS`; by default it is drawn.
    """
    unit = float(inter_ocular(landmarks))
    right = (landmarks[45] - landmarks[36]) / max(unit, 1e-6)
    down = np.array([-right[1], right[0]], dtype=np.float32)
    if number is None:
        number = int(rng.choice(len(_MOVEMENTS), p=[probability for *_, probability in _MOVEMENTS]))
    indices, widest, farthest, _ = _MOVEMENTS[number]
    members = np.asarray(indices) if rng.random() < 0.5 else MIRROR_68[list(indices)]
    radius = widest * rng.uniform(0.5, 1.0)
    size = min(rng.uniform(0.25, 1.0) * farthest, 0.7 * radius) * rng.choice([-1, 1])
    displacement = size * (down + rng.normal(0, 0.3) * right)
    return np.array([[*landmarks[members].mean(axis=0), *(unit * displacement), unit * radius]], np.float32)


def face_shape_bumps(landmarks: Points, rng: Generator) -> npt.NDArray[np.float32]:
    """Draw bumps for another head shape (chin, jaw, eyes), so that contours are not memorised."""
    unit = float(inter_ocular(landmarks))
    low, high = landmarks.min(axis=0), landmarks.max(axis=0)
    count = int(rng.integers(3, 8))
    reach = unit * rng.uniform(0.35, 1.1, count)
    centres = rng.uniform(low, high, (count, 2))
    # displacements are proportional to the reach, so that broad and narrow bumps are equally steep
    moves = np.clip(rng.normal(0, 0.12, (count, 2)), -0.3, 0.3) * reach[:, None]
    return np.column_stack([centres, moves, reach]).astype(np.float32)


def swelling_bump(landmarks: Points, rng: Generator) -> npt.NDArray[np.float32]:
    """Draw a swelling near one landmark, directed away from the nose; a row of `soft_tissue_bumps`."""
    unit = float(inter_ocular(landmarks))
    centre = landmarks[rng.integers(68)] + rng.normal(0, 0.08 * unit, 2)
    away = centre - landmarks[27:36].mean(axis=0)
    away /= max(float(np.linalg.norm(away)), 1e-6)
    radius = unit * rng.uniform(0.1, 0.3)
    return np.array([*centre, *(away * radius * rng.uniform(0.0, 0.3)), radius], np.float32)


def _displacement(points: npt.NDArray[np.float32], bumps: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    total = np.zeros_like(points)
    for x, y, dx, dy, radius in bumps:
        distance = (points[..., 0] - x) ** 2 + (points[..., 1] - y) ** 2
        weight = np.exp(-distance / (2 * radius * radius))
        total[..., 0] += dx * weight
        total[..., 1] += dy * weight
    return total


def cut(image: Image, crop: Points, bumps: npt.NDArray[np.float32], size: int = CROP_SIZE) -> Image:
    """Sample a crop with the skin displaced by `bumps`, (size, size, 3) uint8."""
    cx, cy, side, roll = (float(v) for v in crop)
    ramp = ((np.arange(size, dtype=np.float32) + 0.5) / size - 0.5) * side
    u, v = np.meshgrid(ramp, ramp)
    cos, sin = math.cos(roll), math.sin(roll)
    grid = np.stack([cx + u * cos - v * sin, cy + u * sin + v * cos], axis=-1).astype(np.float32)
    if len(bumps):
        grid -= _displacement(grid, bumps)
    return np.asarray(
        cv2.remap(image, grid[..., 0], grid[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE),
        dtype=np.uint8,
    )


def with_moved_tissue(image: Image, bumps: npt.NDArray[np.float32]) -> Image:
    """Return a square image with the skin displaced by `bumps`; `displaced` moves landmarks accordingly."""
    side = len(image)
    whole = np.array([(side - 1) / 2, (side - 1) / 2, side, 0], np.float32)
    return cut(image, whole, bumps, side)


def texture(picture: Image, rng: Generator) -> Image:
    """Return a random part of an image as texture of an occlusion, (S, S, 3) uint8."""
    height, width = picture.shape[:2]
    side = min(height, width) * rng.uniform(0.3, 0.9)
    crop = np.array([rng.uniform(0, width), rng.uniform(0, height), side, rng.uniform(-3, 3)], np.float32)
    return cut(picture, crop, np.zeros((0, 5), np.float32))


def displaced(landmarks: Points, bumps: npt.NDArray[np.float32]) -> Points:
    """Return landmarks displaced like the image by `cut`: the fixed point of ``y = x + d(y)``."""
    moved = landmarks.copy()
    for _ in range(6):
        moved = landmarks + _displacement(moved, bumps)
    return moved


def flipped(image: Image, landmarks: Points) -> tuple[Image, Points]:
    """Mirror an image and its landmarks left to right."""
    mirrored = landmarks[MIRROR_68].copy()
    mirrored[:, 0] = image.shape[1] - 1 - mirrored[:, 0]
    return np.ascontiguousarray(image[:, ::-1]), mirrored


def occlude(image: Image, other: Image, rng: Generator) -> npt.NDArray[np.bool_]:
    """Occlude a part of a crop (hand, mask, hair, object, border) in place; return its mask, (S, S) bool."""
    size = image.shape[0]
    mask = np.zeros((size, size), np.uint8)
    kind = rng.random()
    centre = rng.uniform(0.1, 0.9, 2) * size
    if kind < 0.35:  # fingers
        angle = rng.uniform(0, math.pi)
        for k in range(int(rng.integers(1, 5))):
            offset = k * 0.09 * size * np.array([-math.sin(angle), math.cos(angle)])
            middle = centre + offset
            axes = (int(size * rng.uniform(0.15, 0.35)), max(2, int(size * 0.05)))
            cv2.ellipse(mask, (int(middle[0]), int(middle[1])), axes, math.degrees(angle), 0, 360, 255, -1)
    elif kind < 0.65:  # a polygon
        n = int(rng.integers(3, 8))
        angles = np.sort(rng.uniform(0, 2 * math.pi, n))
        radii = size * rng.uniform(0.08, 0.3, n)
        points = centre + np.stack([np.cos(angles), np.sin(angles)], 1) * radii[:, None]
        cv2.fillPoly(mask, [points.astype(np.int32)], 255)
    elif kind < 0.85:  # a half plane: a mask over the mouth, hair over the brow, an object at the side
        angle = rng.choice([0, 0.5, 1, 1.5]) * math.pi + rng.normal(0, 0.25)
        normal = np.array([math.cos(angle), math.sin(angle)])
        depth = rng.uniform(0.15, 0.38) * size
        y, x = np.mgrid[:size, :size]
        mask[((x - size / 2) * normal[0] + (y - size / 2) * normal[1]) > (size / 2 - depth)] = 255
    else:  # thin strands
        for _ in range(int(rng.integers(3, 14))):
            a = centre + rng.normal(0, 0.15 * size, 2)
            b = a + rng.normal(0, 0.3 * size, 2)
            cv2.line(mask, (int(a[0]), int(a[1])), (int(b[0]), int(b[1])), 255, int(rng.integers(1, 4)))
    if rng.random() < 0.5:  # texture of another image, often skin
        cover = other
    else:
        colour = image[int(centre[1]), int(centre[0])] if rng.random() < 0.5 else rng.integers(0, 256, 3)
        shade = np.linspace(rng.uniform(0.6, 1.0), rng.uniform(0.6, 1.0), size, dtype=np.float32)[:, None]
        shaded = np.clip(np.asarray(colour, np.float32) * shade, 0, 255)  # (S, 3), the same in each row
        cover = shaded.astype(np.uint8)
    alpha = cv2.GaussianBlur(mask, (0, 0), 0.8).astype(np.float32)[..., None] / 255
    image[:] = (cover * alpha + image * (1 - alpha)).astype(np.uint8)
    return mask > 0


def random_blur(image: Image, unit: float, rng: Generator) -> Image:
    """Blur an image like a weak lens, defocus or motion; `unit` is the inter-ocular distance, px."""
    if rng.random() < 0.7:
        sigma = unit * math.exp(rng.uniform(*np.log(BLUR)))
        return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), dtype=np.uint8)
    reach = max(round(unit * rng.uniform(0.01, 2 * BLUR[1])), 1)
    kernel = np.zeros((2 * reach + 1,) * 2, np.float32)
    thickness = reach if rng.random() < 0.5 else 0
    cv2.ellipse(kernel, (reach, reach), (reach, thickness), rng.uniform(0, 180), 0, 360, 1.0, -1)
    return np.asarray(cv2.filter2D(image, -1, kernel / kernel.sum()), dtype=np.uint8)


def compressed(image: Image, worst: int, best: int, rng: Generator) -> Image:
    """Compress an image as JPEG with a random quality from `worst` to `best`."""
    coded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(worst, best))])[1]
    return np.asarray(cv2.imdecode(coded, cv2.IMREAD_UNCHANGED), dtype=np.uint8)


def photometric(image: Image, rng: Generator) -> Image:
    """Change light, colour, sharpness and compression at random."""
    size = image.shape[0]
    if rng.random() < 0.25:
        factor = rng.uniform(0.25, 0.8)
        small = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        image = np.asarray(cv2.resize(small, (size, size), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
    if rng.random() < 0.35:
        image = random_blur(image, FACE_UNIT * size, rng)
    pixels: npt.NDArray[Any] = image.astype(np.float32)
    if rng.random() < 0.2:
        pixels = np.repeat((pixels @ np.array([0.299, 0.587, 0.114], np.float32))[..., None], 3, axis=2)
    elif rng.random() < 0.5:
        pixels = pixels * rng.normal(1.0, 0.1, 3).astype(np.float32)
    if rng.random() < 0.3:  # a lamp from the side
        ramp = np.linspace(-1, 1, size, dtype=np.float32)
        angle = rng.uniform(0, 2 * math.pi)
        light = 1 + rng.uniform(0, 0.6) * (ramp[None] * math.cos(angle) + ramp[:, None] * math.sin(angle))
        pixels = pixels * light[..., None]
    if rng.random() < 0.2:  # low light
        pixels = pixels * rng.uniform(0.15, 0.5)
        pixels = pixels + rng.normal(0, rng.uniform(1, 8), pixels.shape).astype(np.float32)
    else:
        mean = pixels.mean()
        pixels = (pixels - mean) * math.exp(rng.normal(0, 0.2)) + mean + rng.normal(0, 18)
    if rng.random() < 0.3:
        pixels = 255 * np.clip(pixels / 255, 0, 1) ** math.exp(rng.normal(0, 0.35))
    if rng.random() < 0.25:
        pixels = pixels + rng.normal(0, rng.uniform(1, 10), pixels.shape).astype(np.float32)
    image = np.clip(pixels, 0, 255).astype(np.uint8)
    return compressed(image, 20, 80, rng) if rng.random() < 0.2 else image


@dataclass(frozen=True, slots=True)
class Sample:
    """One training crop."""

    image: Image  # (S, S, 3)
    landmarks: Points  # (68, 2); fractions of the crop
    covered: npt.NDArray[np.bool_]  # (68,)
    mirrored: bool  # whether the image was mirrored, so that landmarks are those of the other side


def augmented_face(
    image: Image,
    landmarks: Points,
    other: Image,
    rng: Generator,
    mild: bool = False,
    reshaped_share: float = 0.0,
) -> Sample:
    """Return an augmented crop of a labelled face.

    `image` is (H, W, 3) RGB, the landmarks, (68, 2), are in its pixels; `other`, (S, S, 3), is the texture of
    occlusions. If `mild`, the crop is only mirrored, jittered and in half of the cases relit. Otherwise
    `reshaped_share` is the probability of another head shape (`face_shape_bumps`).
    """
    mirrored = bool(rng.random() < 0.5)
    if mirrored:
        image, landmarks = flipped(image, landmarks)
    if mild:
        crop = jittered_crop(landmarks, TRACKER_JITTER, rng)
        pixels = cut(image, crop, np.zeros((0, 5), np.float32))
        if rng.random() < 0.5:
            pixels = photometric(pixels, rng)
        return Sample(pixels, to_crop(landmarks[None], crop[None])[0], np.zeros(68, np.bool_), mirrored)
    bumps = soft_tissue_bumps(landmarks, rng) if rng.random() < 0.45 else np.zeros((0, 5), np.float32)
    if reshaped_share and rng.random() < reshaped_share:
        bumps = np.concatenate([bumps, face_shape_bumps(landmarks, rng)])
    swelling = swelling_bump(landmarks, rng) if rng.random() < 0.06 else np.zeros(0, np.float32)
    bumps = np.concatenate([bumps, swelling.reshape(-1, 5)])
    jitter = TRACKER_JITTER if rng.random() < 0.6 else DETECTOR_JITTER
    moved = displaced(landmarks, bumps)
    crop = jittered_crop(moved, jitter, rng)
    pixels = cut(image, crop, bumps)
    fractions = to_crop(moved[None], crop[None])[0]
    covered = np.zeros(68, np.bool_)
    if len(swelling):
        middle = to_crop(displaced(swelling[None, :2], bumps)[None], crop[None])[0, 0] * CROP_SIZE - 0.5
        bruise(pixels, middle, float(swelling[4] / crop[2]) * CROP_SIZE, rng)
    if rng.random() < 0.35:
        draw_marks(pixels, fractions * CROP_SIZE - 0.5, rng)
    if rng.random() < 0.6:
        mask = occlude(pixels, other, rng)
        if rng.random() < 0.3:
            mask |= occlude(pixels, np.ascontiguousarray(other[::-1]), rng)
        at = np.clip((fractions * CROP_SIZE).astype(int), 0, CROP_SIZE - 1)
        covered = mask[at[:, 1], at[:, 0]]
    return Sample(photometric(pixels, rng), fractions, covered, mirrored)


def twin_faces(image: Image, landmarks: Points, rng: Generator) -> tuple[Sample, Sample]:
    """Return two crops of one face that differ only in one local movement (`local_bump`) in the second.

    Half of the pairs keep the photograph's own light and sharpness; the others change in the same way.
    """
    mirrored = bool(rng.random() < 0.5)
    if mirrored:
        image, landmarks = flipped(image, landmarks)
    crop = jittered_crop(landmarks, TRACKER_JITTER, rng)
    bumps, seed = local_bump(landmarks, rng), int(rng.integers(2**31))
    images = [cut(image, crop, bumps[:0]), cut(image, crop, bumps)]
    if rng.random() < 0.5:
        images = [photometric(picture, np.random.default_rng(seed)) for picture in images]
    points = np.stack([landmarks, displaced(landmarks, bumps)])
    covered = np.zeros(68, np.bool_)
    still, moved = (
        Sample(picture, fractions, covered, mirrored)
        for picture, fractions in zip(images, to_crop(points, np.stack([crop, crop])), strict=True)
    )
    return still, moved
