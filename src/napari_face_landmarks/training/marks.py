"""Augmentation by marks and objects on faces in surgery, nursing and motion capture.

Independent of `evaluation.corruptions`, so that evaluations use marks that were not seen in training.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.ibug import N_LANDMARKS, inter_ocular
from napari_face_landmarks.opencv import cv2

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
Generator = np.random.Generator

FINE = 3
"""Factor by which marks are drawn larger and then scaled down, for lines thinner than a pixel."""
SHIFT = 4
"""Fractional bits of coordinates in OpenCV's drawing functions."""
WIDEST = 0.05
"""Largest width of a pen's line, outer-eye distances."""
WIDEST_OBJECT = 0.1
"""Largest width of a tube or a wire, outer-eye distances."""
LETTERS = "0123456789ABCDEFGHKLMNPRSTXYZabdeghknrt+-?!"
DARK_INKS = ((60, 30, 120), (30, 30, 40), (25, 60, 140), (20, 100, 60), (150, 30, 40))
"""Gentian violet, black, blue, green, red; RGB."""

Draw = Callable[["npt.NDArray[np.uint8]", "Floats", float, Generator], None]


def draw_marks(image: Image, landmarks: npt.NDArray[np.floating], rng: Generator) -> None:
    """Draw one to three kinds of marks, in place, on an RGB crop (S, S, 3) with landmarks (68, 2)."""
    points = np.asarray(landmarks, dtype=np.float64)
    unit = max(float(inter_ocular(points)), 4.0)
    for _ in range(1 + int(rng.random() < 0.45) + int(rng.random() < 0.2)):
        kind = rng.random()
        if kind < 0.62:
            _pen(image, points, unit, rng)
        elif kind < 0.70:
            _blend(image, _mask(image, _suture, points, unit, rng), _colour(rng, dark=True), 0.9, False, rng)
        elif kind < 0.80:
            _dressing(image, points, unit, rng)
        elif kind < 0.87:
            bruise(image, _anywhere(points, unit, rng), unit * rng.uniform(0.08, 0.35), rng)
        elif kind < 0.91:
            _cannula(image, points, unit, rng)
        elif kind < 0.95:
            _electrodes(image, points, unit, rng)
        else:
            ink = _colour(rng, dark=bool(rng.random() < 0.5))
            _blend(image, _mask(image, _capture_dots, points, unit, rng), ink, 1.0, False, rng)


def bruise(image: Image, centre: npt.NDArray[np.floating], radius: float, rng: Generator) -> None:
    """Colour the skin around a point like a bruise or swelling (red, violet, yellow), in place."""
    size = len(image)
    y, x = np.mgrid[:size, :size].astype(np.float32)
    angle, squash = rng.uniform(0, math.pi), rng.uniform(0.5, 1.0)
    u = (x - centre[0]) * math.cos(angle) + (y - centre[1]) * math.sin(angle)
    v = -(x - centre[0]) * math.sin(angle) + (y - centre[1]) * math.cos(angle)
    weight = np.exp(-(u * u + (v / squash) ** 2) / (2 * radius * radius)) * _uneven(size, 0.5, rng)
    tints = ((0.85, 0.45, 0.45), (0.55, 0.35, 0.6), (0.95, 0.85, 0.45), (0.6, 0.45, 0.45), (1.15, 0.8, 0.78))
    tint = np.array(tints[rng.integers(len(tints))]) + rng.normal(0, 0.05, 3)
    gain = 1 + rng.uniform(0.3, 1.0) * weight[..., None] * (tint - 1)
    np.clip(image * gain, 0, 255, out=gain)
    image[:] = gain.astype(np.uint8)


def draw_on_part(image: Image, landmarks: npt.NDArray[np.floating], unit: float, rng: Generator) -> Image:
    """Return a crop of a part of the face, (S, S, 3) or greyscale (S, S), with pen marks.

    `landmarks`, (L, 2), are those of the part; `unit` is the outer-eye distance, px.
    """
    points = np.resize(np.asarray(landmarks, np.float64), (N_LANDMARKS, 2))
    grey = image.ndim == 2
    drawn = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) if grey else image.copy()
    _pen(drawn, points, unit, rng)
    return np.asarray(cv2.cvtColor(drawn, cv2.COLOR_RGB2GRAY) if grey else drawn, dtype=np.uint8)


def _pen(image: Image, points: Floats, unit: float, rng: Generator) -> None:
    draws: tuple[Draw, ...] = (_strokes, _strokes, _dots, _hatching, _letters, _arrows, _rings, _dashes)
    ink = _colour(rng, dark=bool(rng.random() < 0.6))
    for _ in range(int(rng.integers(1, 5))):
        mask = _mask(image, draws[rng.integers(len(draws))], points, unit, rng)
        _blend(image, mask, ink, rng.uniform(0.45, 1.0), bool(rng.random() < 0.7), rng)
        if rng.random() < 0.2:
            ink = _colour(rng, dark=False)


def _colour(rng: Generator, dark: bool) -> Floats:
    if dark:
        return np.clip(np.array(DARK_INKS[rng.integers(len(DARK_INKS))]) + rng.normal(0, 15, 3), 0, 255)
    return np.asarray(rng.uniform(0, 255, 3))


def _mask(image: Image, draw: Draw, points: Floats, unit: float, rng: Generator) -> npt.NDArray[np.float32]:
    """Return the coverage of each pixel by a mark, (S, S, 1) float32, 0 to 1."""
    size = len(image)
    fine = np.zeros((FINE * size, FINE * size), np.uint8)
    draw(fine, (points + 0.5) * FINE - 0.5, FINE * unit, rng)
    small = cv2.resize(fine, (size, size), interpolation=cv2.INTER_AREA)
    return np.asarray(np.asarray(small, dtype=np.float32)[..., None] / 255, dtype=np.float32)


def _uneven(size: int, depth: float, rng: Generator) -> npt.NDArray[np.float32]:
    """Return smooth noise between ``1 - depth`` and 1, (S, S), for the density of ink."""
    grain = rng.random((int(rng.integers(6, 40)),) * 2).astype(np.float32)
    smooth = cv2.resize(grain, (size, size), interpolation=cv2.INTER_CUBIC)
    return np.asarray(1 - depth * np.clip(smooth, 0, 1), dtype=np.float32)


def _blend(
    image: Image, mask: npt.NDArray[np.float32], ink: Floats, strength: float, felt: bool, rng: Generator
) -> None:
    """Apply a colour to masked pixels; felt pens are uneven and multiply with the skin, others are opaque."""
    cover = mask * strength
    pixels = image.astype(np.float32)
    colour: npt.NDArray[np.float32] = ink.astype(np.float32)
    if felt:
        cover = cover * _uneven(len(image), rng.uniform(0.1, 0.6), rng)[..., None]
        colour = (pixels * (0.15 + 0.85 * colour / 255)).astype(np.float32)
    image[:] = np.clip(pixels + cover * (colour - pixels), 0, 255).astype(np.uint8)


def _anywhere(points: Floats, unit: float, rng: Generator) -> Floats:
    """Return a point on the face: at or near a landmark, or between two."""
    place = points[rng.integers(68)]
    if rng.random() < 0.4:
        place = place + (points[rng.integers(68)] - place) * rng.random()
    return np.asarray(place + rng.normal(0, rng.choice([0.0, 0.03, 0.12]) * unit, 2))


def _width(unit: float, rng: Generator, widest: float = WIDEST) -> int:
    return int(max(1, round(unit * widest * float(rng.uniform(0.12, 1.0)) ** 1.5)))


def _line(mask: Image, path: npt.NDArray[np.floating], width: int) -> None:
    fixed = np.round(np.asarray(path) * 2**SHIFT).astype(np.int32)
    cv2.polylines(mask, [fixed.reshape(-1, 1, 2)], False, 255, width, cv2.LINE_AA, SHIFT)


def _disc(mask: Image, centre: npt.NDArray[np.floating], radius: float) -> None:
    x, y = (round(float(value) * 2**SHIFT) for value in centre)
    cv2.circle(mask, (x, y), max(round(radius * 2**SHIFT), 8), 255, -1, cv2.LINE_AA, SHIFT)


def _walk(start: Floats, length: float, rng: Generator) -> Floats:
    """Return a smooth random path, (N, 2)."""
    count = int(rng.integers(6, 24))
    bend = np.cumsum(rng.normal(0, rng.choice([0.05, 0.2, 0.5]), count)) + rng.normal(0, 0.15)
    heading = rng.uniform(0, 2 * math.pi) + np.cumsum(bend) * 0.3
    steps = np.stack([np.cos(heading), np.sin(heading)], axis=1) * length / count
    return np.concatenate([start[None], start + np.cumsum(steps, axis=0)])


def _strokes(mask: Image, points: Floats, unit: float, rng: Generator) -> None:
    width = _width(unit, rng)
    for _ in range(int(rng.integers(1, 7))):
        if rng.random() < 0.3:  # along a contour of the face
            first = int(rng.integers(0, 60))
            path = points[first : first + int(rng.integers(3, 9))]
            path = path + rng.normal(0, 0.02 * unit, path.shape) + rng.normal(0, 0.06 * unit, 2)
        else:
            path = _walk(_anywhere(points, unit, rng), unit * rng.uniform(0.05, 1.0), rng)
        _line(mask, path, width)


def _dots(mask: Image, points: Floats, unit: float, rng: Generator) -> None:
    radius = unit * rng.uniform(0.008, 0.05)
    for _ in range(int(rng.integers(1, 25))):
        _disc(mask, _anywhere(points, unit, rng), radius * rng.uniform(0.7, 1.4))


def _hatching(mask: Image, points: Floats, unit: float, rng: Generator) -> None:
    centre, width = _anywhere(points, unit, rng), _width(unit, rng, 0.5 * WIDEST)
    angle = rng.uniform(0, math.pi)
    along = np.array([math.cos(angle), math.sin(angle)]) * unit * rng.uniform(0.05, 0.25)
    step = np.array([-along[1], along[0]]) / np.linalg.norm(along) * unit * rng.uniform(0.03, 0.1)
    count = int(rng.integers(3, 10))
    for k in range(count):
        middle = centre + (k - count / 2) * step + rng.normal(0, 0.01 * unit, 2)
        _line(mask, np.array([middle - along, middle + along * rng.uniform(0.7, 1.2)]), width)
        if rng.random() < 0.02:
            break


def _letters(mask: Image, points: Floats, unit: float, rng: Generator) -> None:
    for _ in range(int(rng.integers(1, 4))):
        text = "".join(LETTERS[i] for i in rng.integers(len(LETTERS), size=int(rng.integers(1, 4))))
        sheet = np.zeros_like(mask)
        place = _anywhere(points, unit, rng)
        scale, width = unit * rng.uniform(0.06, 0.3) / 22, max(1, round(unit * rng.uniform(0.006, 0.025)))
        at = (round(place[0]), round(place[1]))
        cv2.putText(sheet, text, at, int(rng.integers(0, 8)), scale, 255, width, cv2.LINE_AA)
        turn = cv2.getRotationMatrix2D((float(place[0]), float(place[1])), rng.normal(0, 25), 1.0)
        np.maximum(mask, cv2.warpAffine(sheet, turn, mask.shape[::-1]), out=mask)


def _arrows(mask: Image, points: Floats, unit: float, rng: Generator) -> None:
    for _ in range(int(rng.integers(1, 4))):
        path = _walk(_anywhere(points, unit, rng), unit * rng.uniform(0.15, 0.7), rng)
        width = _width(unit, rng, 0.6 * WIDEST)
        _line(mask, path, width)
        back = path[-3] - path[-1]
        back = back / max(float(np.linalg.norm(back)), 1e-6) * unit * rng.uniform(0.04, 0.12)
        for angle in (-0.5, 0.5):
            cos, sin = math.cos(angle), math.sin(angle)
            barb = np.array([back[0] * cos - back[1] * sin, back[0] * sin + back[1] * cos])
            _line(mask, np.array([path[-1], path[-1] + barb]), width)


def _rings(mask: Image, points: Floats, unit: float, rng: Generator) -> None:
    for _ in range(int(rng.integers(1, 4))):
        place, width = _anywhere(points, unit, rng), _width(unit, rng, 0.6 * WIDEST)
        if rng.random() < 0.5:
            t = np.linspace(0, 2 * math.pi * rng.uniform(0.8, 1.05), 25)
            axes = unit * rng.uniform(0.03, 0.25, 2)
            _line(mask, place + np.stack([np.cos(t), np.sin(t)], axis=1) * axes, width)
        else:
            arm = unit * rng.uniform(0.02, 0.1)
            angle = rng.uniform(0, math.pi)
            across = np.array([math.cos(angle), math.sin(angle)]) * arm
            _line(mask, np.array([place - across, place + across]), width)
            _line(mask, np.array([place - across[::-1] * [1, -1], place + across[::-1] * [1, -1]]), width)


def _dashes(mask: Image, points: Floats, unit: float, rng: Generator) -> None:
    """Draw a dashed line: an incision, a midline, or the outline of a flap."""
    if rng.random() < 0.3:
        top, bottom = points[27] - (points[8] - points[27]) * 0.4, points[8]
        path = np.linspace(top, bottom, 40) + rng.normal(0, 0.02 * unit, 2)
    else:
        walk = _walk(_anywhere(points, unit, rng), unit * rng.uniform(0.3, 1.6), rng)
        at = np.linspace(0, len(walk) - 1, 40)
        path = np.stack([np.interp(at, np.arange(len(walk)), column) for column in walk.T], axis=1)
    width, dash = _width(unit, rng, 0.6 * WIDEST), int(rng.integers(2, 5))
    for first in range(0, len(path) - dash, 2 * dash):
        _line(mask, path[first : first + dash], width)


def _suture(mask: Image, points: Floats, unit: float, rng: Generator) -> None:
    path = _walk(_anywhere(points, unit, rng), unit * rng.uniform(0.2, 0.9), rng)
    width = max(1, round(0.012 * unit))
    if rng.random() < 0.7:
        _line(mask, path, width)
    stitch = unit * rng.uniform(0.02, 0.06)
    for before, after in pairwise(path):
        along = (after - before) / max(float(np.linalg.norm(after - before)), 1e-6)
        across = np.array([-along[1], along[0]]) * stitch
        _line(mask, np.array([before - across, before + across]), width)


def _dressing(image: Image, points: Floats, unit: float, rng: Generator) -> None:
    """Draw adhesive strips, tape or gauze."""
    kind = rng.random()
    light = float(np.percentile(image, 85))
    if kind < 0.5:
        count, length, width = int(rng.integers(1, 7)), rng.uniform(0.12, 0.45), rng.uniform(0.03, 0.08)
    elif kind < 0.75:
        count, length, width = int(rng.integers(1, 3)), rng.uniform(0.3, 1.0), rng.uniform(0.06, 0.2)
    else:
        count, length, width = 1, rng.uniform(0.2, 0.6), rng.uniform(0.2, 0.5)
    colours = ((1.0, 1.0, 1.0), (1.0, 0.92, 0.8), (0.95, 0.8, 0.65), (0.9, 0.95, 1.0))
    colour = np.clip(light * np.array(colours[rng.integers(4)]) * rng.uniform(0.75, 1.25), 0, 255)
    start, angle = _anywhere(points, unit, rng), rng.uniform(0, math.pi)
    step = rng.uniform(0.05, 0.15) * np.array([-math.sin(angle), math.cos(angle)])

    def draw(mask: Image, _points: Floats, fine_unit: float, rng: Generator) -> None:
        for k in range(count):
            turn = angle + rng.normal(0, 0.1)
            along = np.array([math.cos(turn), math.sin(turn)]) * length * fine_unit / 2
            across = np.array([-along[1], along[0]]) * width / length
            at = (start + 0.5) * FINE - 0.5 + k * step * fine_unit
            corners = np.array([at - along - across, at + along - across, at + along + across])
            corners = np.concatenate([corners, [at - along + across]])
            cv2.fillPoly(mask, [np.round(corners * 2**SHIFT).astype(np.int32)], 255, cv2.LINE_AA, SHIFT)

    mask = _mask(image, draw, points, unit, rng)
    mask = mask * rng.uniform(0.6, 1.0)
    weave = _uneven(len(image), rng.uniform(0.02, 0.25), rng)[..., None]
    pixels = image.astype(np.float32)
    image[:] = np.clip(pixels + mask * (colour * weave - pixels), 0, 255).astype(np.uint8)


def _cannula(image: Image, points: Floats, unit: float, rng: Generator) -> None:
    """Draw a nasal cannula: a tube from ear to ear under the nose, with a highlight."""
    sag = rng.uniform(0.0, 0.15)
    down = (points[8] - points[27]) / max(float(np.linalg.norm(points[8] - points[27])), 1e-6)
    middle = points[33] + down * unit * rng.uniform(0.0, 0.06)
    left, right = points[int(rng.integers(0, 4))], points[int(rng.integers(13, 17))]
    t = np.linspace(0, 1, 9)[:, None]
    halves = [(1 - t) * end + t * middle + np.sin(math.pi * t) * down * sag * unit for end in (left, right)]
    width = rng.uniform(0.4, 1.0) * WIDEST_OBJECT * 0.6

    def tube(part: float) -> Draw:
        def draw(mask: Image, _points: Floats, fine_unit: float, _rng: Generator) -> None:
            thick = max(1, round(part * width * fine_unit))
            for path in halves:
                _line(mask, (path + 0.5) * FINE - 0.5, thick)
            for nostril in (points[32], points[34]):
                _line(mask, (np.array([middle, nostril]) + 0.5) * FINE - 0.5, thick)

        return draw

    colour = np.array([200.0, 225.0, 215.0]) * rng.uniform(0.6, 1.1)
    _blend(image, _mask(image, tube(1.0), points, unit, rng), colour, rng.uniform(0.35, 0.9), False, rng)
    _blend(image, _mask(image, tube(0.3), points, unit, rng), np.full(3, 250.0), 0.6, False, rng)


def _electrodes(image: Image, points: Floats, unit: float, rng: Generator) -> None:
    places = [_anywhere(points, unit, rng) for _ in range(int(rng.integers(1, 8)))]
    radius = rng.uniform(0.03, 0.09)
    wired = bool(rng.random() < 0.6)
    angle = rng.uniform(0, 2 * math.pi)
    wires = [_walk(place, unit * 1.5, rng) for place in places] if wired else []

    def discs(part: float) -> Draw:
        def draw(mask: Image, _points: Floats, fine_unit: float, _rng: Generator) -> None:
            for place in places:
                _disc(mask, (place + 0.5) * FINE - 0.5, part * radius * fine_unit)

        return draw

    def lines(mask: Image, _points: Floats, fine_unit: float, _rng: Generator) -> None:
        for path in wires:
            pulled = np.array([math.cos(angle), math.sin(angle)])
            turned = path + np.linspace(0, 0.3, len(path))[:, None] * unit * pulled
            _line(mask, (turned + 0.5) * FINE - 0.5, max(1, round(0.015 * fine_unit)))

    rim = np.full(3, 255.0) * rng.uniform(0.6, 1.0) if rng.random() < 0.7 else _colour(rng, dark=False)
    _blend(image, _mask(image, discs(1.0), points, unit, rng), rim, 0.95, False, rng)
    _blend(image, _mask(image, discs(0.4), points, unit, rng), rng.uniform(60, 220, 3), 0.95, False, rng)
    if wires:
        _blend(image, _mask(image, lines, points, unit, rng), _colour(rng, dark=False), 0.95, False, rng)


def _capture_dots(mask: Image, points: Floats, unit: float, rng: Generator) -> None:
    """Draw markers of motion capture: small dots of one size, many of them on landmarks."""
    radius = unit * rng.uniform(0.01, 0.03)
    on_landmarks = rng.choice(68, int(rng.integers(8, 50)), replace=False)
    for place in points[on_landmarks]:
        _disc(mask, place + rng.normal(0, 0.01 * unit, 2), radius)
    for _ in range(int(rng.integers(0, 30))):
        _disc(mask, _anywhere(points, unit, rng), radius)
