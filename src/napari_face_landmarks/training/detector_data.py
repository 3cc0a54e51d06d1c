"""Training images of the detector, composed of photographs with labelled faces.

Up to nine photographs are rotated, scaled and pasted on a background, faces are occluded or replaced by
texture, and light, colour, sharpness and noise of the image are changed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial import Delaunay

from napari_face_landmarks.opencv import cv2
from napari_face_landmarks.training.augment import compressed
from napari_face_landmarks.training.faces import decode, open_archive
from napari_face_landmarks.training.pose_augmentation import draw_triangles, rotation_about

Array = npt.NDArray[Any]
Generator = np.random.Generator

BUNDLES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "research": (
        ("helen_train", "lfpw_train", "interfaces", "faker"),
        ("london_neutral", "london_smiling", "canada", "voteview"),
    ),
    "open": (("interfaces", "faker"), ("london_neutral", "london_smiling", "canada", "voteview")),
}
"""Files of whole photographs (in `detection`) and of face crops (in `landmarks_open`) for each bundle."""

TRUSTED_SCORE = 0.75
"""Automatic boxes with a lower score are ignored, as neither face nor background."""
SMALLEST_FACE = 9.0
"""Smaller faces in composed images are ignored (square root of the box's area, px)."""
SEEN, HIDDEN = 0.6, 0.3
"""Visible share over which faces are positive (or if all five points are visible), under which background."""
FLIPPED_POINTS = (1, 0, 2, 4, 3)

MESH_EYES = ((33, 133), (362, 263))
MESH_NOSE, MESH_MOUTH = 1, (61, 291)
MESH_BOX = (0.004, -0.037, 0.965, 1.107)
"""The detector's box relative to the bounding box of a mesh: shift in sizes of the box, factors of size."""


@dataclass(frozen=True)
class Photo:
    """A photograph with its M faces."""

    name: str
    levels: tuple[Array, ...]  # image pyramid, (H, W, 3) uint8 RGB; full size, a half, ..
    boxes: Array  # (M, 4) float64; x0, y0, x1, y1
    points: Array  # (M, 5, 2) float64
    trusted: Array  # (M,) bool; whether the label is certain
    mesh: Array | None = None  # (478, 3) float64; face mesh of a crop, pixels; smaller z is nearer


def _pyramid(image: Array) -> tuple[Array, ...]:
    levels = [image]
    for _ in range(3):
        height, width = levels[-1].shape[:2]
        if min(height, width) < 32:
            break
        levels.append(cv2.resize(levels[-1], (width // 2, height // 2), interpolation=cv2.INTER_AREA))
    return tuple(levels)


def _trust(boxes: Array, scores: Array) -> Array:
    """Return False for boxes with a low score, or a large overlap with a box of a higher score."""
    trusted = scores >= TRUSTED_SCORE
    for i in range(len(boxes)):
        for j in range(len(boxes)):
            size = np.minimum(boxes[i, 2:], boxes[j, 2:]) - np.maximum(boxes[i, :2], boxes[j, :2])
            shared = max(size[0], 0) * max(size[1], 0)
            smaller = min(np.prod(boxes[i, 2:] - boxes[i, :2]), np.prod(boxes[j, 2:] - boxes[j, :2]))
            if scores[i] < scores[j] and shared > 0.4 * smaller:
                trusted[i] = False
    return np.asarray(trusted)


def load_photos(path: Path, held_out: bool) -> list[Photo]:
    """Read the photographs of a file on one side of the split."""
    data, chosen = open_archive(path, held_out)
    photos = []
    for i in chosen:
        rows = data["boxes"][data["box_image"] == i].astype(np.float64)
        if path.stem == "background":
            rows = rows[:0]
        boxes = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], axis=1)
        points, trusted = rows[:, 4:14].reshape(-1, 5, 2), _trust(boxes, rows[:, 14])
        name = f"{path.stem}/{data['names'][i]}"
        photos.append(Photo(name, _pyramid(decode(data, i)), boxes, points, trusted))
    return photos


def mesh_face(mesh: Array) -> tuple[Array, Array]:
    """Return box, (4,), and five points, (5, 2), of a face mesh (478, 2), in pixels."""
    low, high = mesh.min(0), mesh.max(0)
    size = high - low
    centre = (low + high) / 2 + size * MESH_BOX[:2]
    half = size * MESH_BOX[2:] / 2
    eyes = [mesh[list(pair)].mean(0) for pair in MESH_EYES]
    points = np.stack([*eyes, mesh[MESH_NOSE], mesh[MESH_MOUTH[0]], mesh[MESH_MOUTH[1]]])
    return np.concatenate([centre - half, centre + half]), points


def load_crops(path: Path, held_out: bool) -> list[Photo]:
    """Read the face crops with meshes of a file on one side of the split."""
    data, chosen = open_archive(path, held_out)
    photos = []
    for i in chosen:
        mesh = data["mesh478_x64"][i].astype(np.float64) / 64
        if mesh.min() < -500:
            continue
        box, points = mesh_face(mesh[:, :2])
        name, trusted = f"{path.stem}/{data['names'][i]}", np.ones(1, bool)
        photos.append(Photo(name, _pyramid(decode(data, i)), box[None], points[None], trusted, mesh))
    return photos


def load_data(data: Path, bundle: str, held_out: bool) -> tuple[list[Photo], list[Photo], list[Photo]]:
    """Return photographs, face crops and backgrounds of a bundle on one side of the split."""
    wholes, crops = BUNDLES[bundle]
    photos = [photo for name in wholes for photo in load_photos(data / "detection" / f"{name}.npz", held_out)]
    folder = data / "landmarks_open"
    faces = [photo for name in crops for photo in load_crops(folder / f"{name}.npz", held_out)]
    return photos, faces, load_photos(data / "detection" / "background.npz", held_out)


def rotate_head(photo: Photo, yaw: float, pitch: float) -> Photo:
    """Return a crop with its head rotated in depth by means of its mesh; yaw and pitch in radians.

    Face profiling as in 300W-LP (Zhu et al. 2016): a ring of points behind the face moves with the head, the
    border of the image remains in place.
    """
    if photo.mesh is None:
        raise ValueError(f"{photo.name} has no mesh: turn a face crop.")
    image, mesh = photo.levels[0], photo.mesh
    height, width = image.shape[:2]
    low, high = mesh[:, :2].min(0), mesh[:, :2].max(0)
    centre, half = (low + high) / 2, (high - low) / 2
    depth = float(np.percentile(mesh[:, 2], 90))
    angles = np.linspace(0, 2 * math.pi, 24, endpoint=False)
    ring = centre + 1.3 * half * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    behind = np.concatenate([ring, np.full((24, 1), depth + 0.35 * half[0])], axis=1)
    moving = np.concatenate([mesh, behind])
    pivot = np.array([*centre, depth])
    after = (moving - pivot) @ rotation_about(yaw, pitch).T + pivot
    xs, ys = np.linspace(0, width - 1, 7), np.linspace(0, height - 1, 7)
    edge = [(x, y) for x in xs for y in (0, height - 1)] + [(x, y) for y in ys[1:-1] for x in (0, width - 1)]
    fixed = np.array([(x, y, depth + 4 * half[0]) for x, y in edge])
    source = np.concatenate([moving, fixed])[:, :2]
    triangles = np.asarray(Delaunay(source).simplices, np.int64)
    picture = draw_triangles(image, source, np.concatenate([after, fixed]), triangles)
    box, points = mesh_face(after[: len(mesh), :2])
    return Photo(photo.name, _pyramid(picture), box[None], points[None], photo.trusted, after[: len(mesh)])


class Composer:
    """Composer of training images from photographs, crops and backgrounds; equal seeds give equal images."""

    def __init__(self, photos: list[Photo], crops: list[Photo], backgrounds: list[Photo]) -> None:
        self.photos = [photo for photo in photos if photo.trusted.any()]
        self.crops = crops
        self.backgrounds = backgrounds
        self.crop_share = len(crops) / max(len(crops) + 2 * len(self.photos), 1)
        self.noise = np.random.default_rng(7).standard_normal(1 << 20).astype(np.float32)

    def compose(self, rng: Generator, size: int) -> tuple[Array, Array, Array, Array]:
        """Return an image (size, size, 3), its boxes (G, 4), points (G, 5, 2) and boxes to ignore (K, 4)."""
        canvas = self._backdrop(rng, size)
        owner = np.zeros((size, size), np.uint8)
        kind = rng.random()
        faces: list[tuple[int, Array, Array, bool]] = []
        if kind < 0.6:
            count, low, high = 1, 0.08, 1.25
        elif kind < 0.77:
            count, low, high = int(rng.integers(2, 5)), 0.06, 0.55
        elif kind < 0.93:
            count, low, high = int(rng.integers(4, 10)), 0.04, 0.22
        elif kind < 0.97:
            count, low, high = 1, 1.0, 2.5
        else:
            count, low, high = 0, 0.1, 0.1
        if kind < 0.33:
            faces += self._paste_whole(rng, canvas, owner)
        else:
            for number, centre in enumerate(self._spread(rng, count, size), start=1):
                target = size * math.exp(rng.uniform(math.log(low), math.log(high)))
                if count == 1:
                    room = max(size / 2 - 0.45 * target, 0.12 * size)
                    centre = size / 2 + rng.uniform(-room, room, 2)
                    if rng.random() < 0.2:  # cut by an edge of the frame
                        side, beyond = int(rng.integers(4)), rng.uniform(0.05, 0.5) * target
                        centre[side % 2] = beyond if side < 2 else size - beyond
                photo = self._pick(rng, self.crop_share)
                if photo.mesh is not None and rng.random() < 0.3:
                    photo = rotate_head(photo, *np.radians(rng.uniform((-60, -15), (60, 15))))
                faces += self._paste(rng, canvas, owner, number, photo, centre, target)
        if count and rng.random() < 0.3:
            self._occlude(rng, canvas, owner, faces)
        if rng.random() < 0.25:
            before = canvas.copy()
            kind = rng.random()
            if kind < 0.4:
                _draw_shapes(rng, canvas)
            elif kind < 0.75:
                for _ in range(int(rng.integers(1, 4))):
                    _draw_cartoon(rng, canvas)
            else:
                self._draw_hand(rng, canvas)
            owner[(before != canvas).any(axis=2)] = 255
        if rng.random() < 0.15:  # like the padding of frames to whole cells
            edge = int(rng.integers(1, 32))
            canvas[size - edge :] = 0
            owner[size - edge :] = 0
        boxes, points, ignore = [], [], []
        for number, ellipse, face_points, trusted in faces:
            x, y, a, b, box = ellipse[0], ellipse[1], ellipse[2], ellipse[3], ellipse[5:9]
            seen = _visible(owner, number, ellipse)
            if seen < HIDDEN:
                continue
            if seen <= SEEN and _owned(owner, number, face_points):
                seen = 1.0  # larger than the image, with eyes, nose and mouth inside
            if trusted and seen > SEEN and 2 * math.sqrt(a * b) >= SMALLEST_FACE:
                boxes.append(box)
                points.append(face_points)
            else:
                ignore.append([x - 1.1 * a - 2, y - 1.1 * b - 2, x + 1.1 * a + 2, y + 1.1 * b + 2])
        image = self._photometric(rng, canvas)
        return (
            image,
            np.asarray(boxes, np.float32).reshape(-1, 4),
            np.asarray(points, np.float32).reshape(-1, 5, 2),
            np.asarray(ignore, np.float32).reshape(-1, 4),
        )

    def _pick(self, rng: Generator, crop_share: float) -> Photo:
        pool = self.crops if self.crops and rng.random() < crop_share else self.photos
        return (pool or self.crops)[int(rng.integers(len(pool or self.crops)))]

    def _spread(self, rng: Generator, count: int, size: int) -> Array:
        side = math.ceil(math.sqrt(max(count, 1)))
        cells = rng.permutation(side * side)[:count]
        corner = np.stack([cells % side, cells // side], axis=1)
        return np.asarray((corner + rng.uniform(0.15, 0.85, (count, 2))) * (size / side))

    def _backdrop(self, rng: Generator, size: int) -> Array:
        kind = rng.random()
        if kind < 0.2:
            shade = rng.integers(0, 256) if rng.random() < 0.5 else 0
            canvas = np.full((size, size, 3), shade, np.uint8)
        elif kind < 0.35:
            canvas = np.empty((size, size, 3), np.uint8)
            canvas[:] = rng.integers(0, 256, 3)
        elif kind < 0.5:
            shape = (int(rng.integers(2, 24)), int(rng.integers(2, 24)), 3)
            small = rng.integers(0, 256, shape).astype(np.uint8)
            interpolation = cv2.INTER_CUBIC if rng.random() < 0.7 else cv2.INTER_NEAREST
            canvas = cv2.resize(small, (size, size), interpolation=interpolation)
        elif kind < 0.53:
            canvas = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
        elif kind < 0.8:
            canvas = self._texture(rng, size, size)
        elif kind < 0.95:
            canvas = self._hard(rng, size)
        else:
            canvas = self._skin(rng, size, size)
        canvas = np.ascontiguousarray(canvas)
        if rng.random() < 0.35:
            _draw_shapes(rng, canvas)
        return canvas

    def _texture(self, rng: Generator, height: int, width: int) -> Array:
        """Return a part of an image without faces, resized."""
        if rng.random() < 0.6:
            piece = self._away_from_faces(rng)
            if piece is not None:
                return np.asarray(cv2.resize(piece, (width, height), interpolation=cv2.INTER_LINEAR))
        image = self.backgrounds[int(rng.integers(len(self.backgrounds)))].levels[0]
        full_height, full_width = image.shape[:2]
        share = rng.uniform(0.12, 1.0)
        h, w = max(int(full_height * share), 8), max(int(min(full_width, full_height * 1.2) * share), 8)
        y, x = int(rng.integers(full_height - h + 1)), int(rng.integers(full_width - w + 1))
        piece = image[y : y + h, x : x + w]
        if rng.random() < 0.5:
            piece = piece[:, ::-1]
        if rng.random() < 0.4:
            piece = piece[:, :, rng.permutation(3)]
        if rng.random() < 0.3:
            piece = piece.transpose(1, 0, 2)
        piece = np.ascontiguousarray(piece)
        return np.asarray(cv2.resize(piece, (width, height), interpolation=cv2.INTER_LINEAR))

    def _away_from_faces(self, rng: Generator) -> Array | None:
        """Return a part of a photograph outside its faces (clothes, hands, rooms); None if not found."""
        photo = self._pick(rng, self.crop_share)
        image = photo.levels[0]
        full = np.array([image.shape[1], image.shape[0]])
        grown = photo.boxes + 0.15 * np.tile(photo.boxes[:, 2:] - photo.boxes[:, :2], 2) * [-1, -1, 1, 1]
        for _ in range(4):
            side = (full.min() * rng.uniform(0.15, 0.7) * np.exp(rng.uniform(-0.3, 0.3, 2))).astype(int)
            side = np.clip(side, 8, full)
            low = (rng.random(2) * (full - side + 1)).astype(int)
            high = low + side
            apart = (grown[:, :2] > high).any(axis=1) | (grown[:, 2:] < low).any(axis=1)
            if apart.all():
                return np.ascontiguousarray(image[low[1] : high[1], low[0] : high[0]])
        return None

    def _hard(self, rng: Generator, size: int) -> Array:
        """Return an image of hard negatives."""
        kind = rng.random()
        if kind < 0.35:  # mosaic of parts of many images
            canvas = np.empty((size, size, 3), np.uint8)
            count = int(rng.integers(2, 7))
            edges = np.linspace(0, size, count + 1).astype(int)
            for top, bottom in pairwise(edges):
                for left, right in pairwise(edges):
                    canvas[top:bottom, left:right] = self._texture(rng, bottom - top, right - left)
            return canvas
        if kind < 0.6:  # shuffled tiles of a face
            photo = self._pick(rng, self.crop_share)
            box = photo.boxes[int(rng.choice(np.flatnonzero(photo.trusted)))]
            image = photo.levels[0]
            x0, y0 = np.maximum(box[:2], 0).astype(int)
            x1, y1 = np.minimum(box[2:] + 1, [image.shape[1], image.shape[0]]).astype(int)
            if x1 - x0 < 24 or y1 - y0 < 24:
                return self._texture(rng, size, size)
            count = int(rng.integers(3, 6))
            small = size // count
            tiles = cv2.resize(image[y0:y1, x0:x1], (small * count, small * count))
            tiles = tiles.reshape(count, small, count, small, 3).swapaxes(1, 2).reshape(-1, small, small, 3)
            tiles = tiles[rng.permutation(count * count)]
            tiles = tiles.reshape(count, count, small, small, 3).swapaxes(1, 2).reshape(small * count, -1, 3)
            return np.asarray(cv2.resize(np.ascontiguousarray(tiles), (size, size)))
        if kind < 0.8:  # an image with random phases
            picture = self._pick(rng, self.crop_share).levels[0]
            picture = cv2.resize(picture, (128, 128), interpolation=cv2.INTER_AREA)
            phase = np.angle(np.fft.rfft2(rng.standard_normal((128, 128))))[..., None]
            mixed = np.fft.irfft2(np.fft.rfft2(picture, axes=(0, 1)) * np.exp(1j * phase), axes=(0, 1))
            return np.asarray(cv2.resize(np.clip(mixed, 0, 255).astype(np.uint8), (size, size)))
        # clouds of blobs at several scales between two or three colours
        field = np.zeros((size, size), np.float32)
        stretch = math.exp(rng.uniform(-1.2, 1.2))
        for cells in (3, 6, 12, 24, 48):
            rows, columns = max(int(cells * stretch), 2), max(int(cells / stretch), 2)
            noise = rng.standard_normal((rows, columns)).astype(np.float32)
            clouds = cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)
            field += clouds * cells ** -rng.uniform(0, 1)
        field = (field - field.min()) / max(float(np.ptp(field)), 1e-6)
        if rng.random() < 0.5:  # bands like those of wood and folds
            field = 0.5 + 0.5 * np.sin(field * rng.uniform(8, 50))
        colours = rng.integers(0, 256, (3, 3)).astype(np.float32)
        channels = [np.interp(field, [0, 0.5, 1], colours[:, c]) for c in range(3)]
        return np.stack(channels, axis=2).astype(np.uint8)

    def _skin(self, rng: Generator, height: int, width: int) -> Array:
        """Return skin: an enlarged part of a cheek or below the chin."""
        photo = self._pick(rng, self.crop_share)
        k = int(rng.choice(np.flatnonzero(photo.trusted)))
        x0, y0, x1, y1 = photo.boxes[k]
        w, h = x1 - x0, y1 - y0
        image = photo.levels[0]
        if rng.random() < 0.5:
            nose, corner = photo.points[k, 2], photo.points[k, 3 + int(rng.integers(2))]
            cx, cy = corner[0] + 0.3 * (corner[0] - nose[0]), nose[1]
            half = 0.09 * w
        else:
            cx, cy, half = (x0 + x1) / 2 + rng.uniform(-0.3, 0.3) * w, y1 + 0.3 * h, 0.22 * h
        centre, full = np.array([cx, cy]), np.array([image.shape[1], image.shape[0]])
        left, top = low = np.clip(centre - half, 0, full - 4).astype(int)
        right, bottom = np.maximum(np.clip(centre + half, 4, full).astype(int), low + 4)
        piece = np.ascontiguousarray(image[top:bottom, left:right])
        return np.asarray(cv2.resize(piece, (width, height), interpolation=cv2.INTER_LINEAR))

    def _paste_whole(
        self, rng: Generator, canvas: Array, owner: Array
    ) -> list[tuple[int, Array, Array, bool]]:
        """Fill the canvas with a part of one photograph."""
        size = canvas.shape[0]
        photo = self._pick(rng, self.crop_share / 2)
        height, width = photo.levels[0].shape[:2]
        zoom = size / min(height, width) * math.exp(rng.uniform(-0.15, 0.9))
        room = np.maximum(np.array([width, height]) - size / zoom, 0)
        middle = np.array([width, height]) / 2 + rng.uniform(-0.5, 0.5, 2) * room
        box = photo.boxes[int(np.flatnonzero(photo.trusted)[0])]
        target = zoom * math.sqrt(max((box[2] - box[0]) * (box[3] - box[1]), 16.0))
        return self._paste(rng, canvas, owner, 1, photo, np.array([size / 2, size / 2]), target, middle)

    def _paste(
        self,
        rng: Generator,
        canvas: Array,
        owner: Array,
        number: int,
        photo: Photo,
        centre: Array,
        target: float,
        middle: Array | None = None,
    ) -> list[tuple[int, Array, Array, bool]]:
        """Paste a photograph with one of its faces, or the point `middle`, at `centre`."""
        chosen = int(np.flatnonzero(photo.trusted)[0])
        if middle is None:
            chosen = int(rng.choice(np.flatnonzero(photo.trusted)))
        box = photo.boxes[chosen]
        side = math.sqrt(max((box[2] - box[0]) * (box[3] - box[1]), 16.0))
        zoom = min(target / side, 8.0)
        # beyond the specified 45 degrees, since points are biased towards upright at the end of the range
        turn = rng.normal(0, 8) if rng.random() < 0.45 else rng.uniform(-58, 58)
        angle = math.radians(turn)
        stretch = math.exp(rng.uniform(-0.1, 0.1))
        flip = -1.0 if rng.random() < 0.5 else 1.0
        cos, sin = math.cos(angle), math.sin(angle)
        linear = zoom * np.array([[cos, -sin], [sin, cos]]) @ np.diag([flip * stretch, 1 / stretch])
        shift = centre - linear @ ((box[:2] + box[2:]) / 2 if middle is None else middle)

        level = int(np.clip(math.floor(math.log2(1 / max(zoom, 1e-3)) + 0.35), 0, len(photo.levels) - 1))
        image = photo.levels[level]
        full = np.array([photo.levels[0].shape[1], photo.levels[0].shape[0]], float)
        shrink = full / [image.shape[1], image.shape[0]]
        removed = -1
        if rng.random() < 0.05:
            image, removed = self._remove_face(rng, image, photo, chosen, shrink), chosen
        # x in the level is shrink * (x + 0.5) - 0.5 at full size
        level_linear = linear @ np.diag(shrink)
        level_shift = shift + linear @ (0.5 * shrink - 0.5)
        left, top, right, bottom = 0, 0, image.shape[1], image.shape[0]
        if middle is None and rng.random() < 0.3 and target < canvas.shape[0]:
            small = (box.reshape(2, 2) + 0.5) / shrink - 0.5
            margin = rng.uniform(0.05, 0.8, 4) * np.tile(small[1] - small[0], 2)
            left, top = (int(v) for v in np.maximum(small[0] - margin[:2], 0))
            right = int(min(small[1, 0] + margin[2] + 1, right))
            bottom = int(min(small[1, 1] + margin[3] + 1, bottom))
        part = image[top:bottom, left:right]
        if part.shape[0] < 3 or part.shape[1] < 3:
            return []
        matrix = np.concatenate([level_linear, (level_shift + level_linear @ [left, top])[:, None]], axis=1)
        if middle is None and rng.random() < 0.3:
            small = (box.reshape(2, 2) + 0.5) / shrink - 0.5 - [left, top]
            _paste_head(canvas, owner, number, part, matrix, small, rng.uniform(0.7, 1.0))
        else:
            part, size = np.ascontiguousarray(part), canvas.shape[1::-1]
            cv2.warpAffine(part, matrix, size, canvas, cv2.INTER_LINEAR, cv2.BORDER_TRANSPARENT)
            h, w = part.shape[:2]
            corners = np.array([[0, 0], [w - 1, 0], [w - 1, h - 1], [0, h - 1]]) @ matrix[:, :2].T
            corners = np.round((corners + matrix[:, 2]) * 16).astype(np.int32)
            cv2.fillConvexPoly(owner, corners, number, shift=4)

        faces = []
        for k in range(len(photo.boxes)):
            if k == removed:
                continue
            x0, y0, x1, y1 = photo.boxes[k]
            place = linear @ [(x0 + x1) / 2, (y0 + y1) / 2] + shift
            a, b = (x1 - x0) / 2 * zoom * stretch, (y1 - y0) / 2 * zoom / stretch
            half = np.array([math.hypot(a * cos, b * sin), math.hypot(a * sin, b * cos)])
            points = photo.points[k] @ linear.T + shift
            if flip < 0:
                points = points[list(FLIPPED_POINTS)]
            ellipse = np.array([*place, a, b, math.degrees(angle), *(place - half), *(place + half)])
            faces.append((number, ellipse, points, bool(photo.trusted[k])))
        return faces

    def _remove_face(self, rng: Generator, image: Array, photo: Photo, k: int, shrink: Array) -> Array:
        """Return the image with face `k` replaced by its median colour, texture or shuffled tiles."""
        image = image.copy()
        (x0, y0), (x1, y1) = (photo.boxes[k].reshape(2, 2) + 0.5) / shrink - 0.5
        x0, y0 = max(int(x0), 0), max(int(y0), 0)
        x1, y1 = min(int(x1) + 1, image.shape[1]), min(int(y1) + 1, image.shape[0])
        face = image[y0:y1, x0:x1]
        h, w = face.shape[:2]
        if h < 6 or w < 6:
            return image
        kind = rng.random()
        if kind < 0.4:
            filling = np.empty_like(face)
            filling[:] = np.median(face.reshape(-1, 3), axis=0)
        elif kind < 0.7 or min(h, w) < 24:
            filling = self._texture(rng, h, w)
        else:
            th, tw = h // 3, w // 3
            filling = face.copy()
            places = [(r, c) for r in range(3) for c in range(3)]
            shift = int(rng.integers(3, 7))
            for n, (r, c) in enumerate(places):
                r2, c2 = places[(n * 2 + shift) % 9]
                tile = face[r2 * th : (r2 + 1) * th, c2 * tw : (c2 + 1) * tw]
                filling[r * th : (r + 1) * th, c * tw : (c + 1) * tw] = tile
        mask = np.zeros((h, w), np.uint8)
        axes = (max(int(w * 0.47), 1), max(int(h * 0.47), 1))
        cv2.ellipse(mask, (w // 2, h // 2), axes, 0, 0, 360, 255, -1)
        face[mask > 0] = filling[mask > 0]
        return image

    def _occlude(
        self, rng: Generator, canvas: Array, owner: Array, faces: list[tuple[int, Array, Array, bool]]
    ) -> None:
        """Occlude parts of faces by patches: plain, textured or skin."""
        size = canvas.shape[0]
        for _ in range(int(rng.integers(1, 4))):
            if not faces:
                return
            ellipse = faces[int(rng.integers(len(faces)))][1]
            extent = 2 * math.sqrt(ellipse[2] * ellipse[3])
            w, h = (int(max(extent * rng.uniform(0.15, 0.7), 2)) for _ in range(2))
            w, h = min(w, size), min(h, size)
            cx, cy = ellipse[:2] + rng.uniform(-0.6, 0.6, 2) * extent
            x0, y0 = int(cx - w / 2), int(cy - h / 2)
            left, top, right, bottom = max(x0, 0), max(y0, 0), min(x0 + w, size), min(y0 + h, size)
            if right - left < 2 or bottom - top < 2:
                continue
            kind = rng.random()
            if kind < 0.3:
                patch = np.empty((bottom - top, right - left, 3), np.uint8)
                patch[:] = rng.integers(0, 256, 3)
            elif kind < 0.65:
                patch = self._texture(rng, bottom - top, right - left)
            else:
                patch = self._skin(rng, bottom - top, right - left)
            mask = np.zeros(patch.shape[:2], np.uint8)
            if rng.random() < 0.5:
                mask[:] = 1
            else:
                middle = (mask.shape[1] // 2, mask.shape[0] // 2)
                cv2.ellipse(mask, middle, middle, float(rng.uniform(0, 180)), 0, 360, 1, -1)
            region = mask > 0
            canvas[top:bottom, left:right][region] = patch[region]
            owner[top:bottom, left:right][region] = 255

    def _draw_hand(self, rng: Generator, canvas: Array) -> None:
        """Draw a hand: a disc of skin with three to five bars."""
        size = canvas.shape[0]
        mask = np.zeros(canvas.shape[:2], np.uint8)
        palm = size * math.exp(rng.uniform(math.log(0.02), math.log(0.15)))
        middle = rng.uniform(0.1, 0.9, 2) * size
        cv2.circle(mask, (int(middle[0]), int(middle[1])), max(int(palm), 1), 255, -1)
        first, spread = rng.uniform(0, 2 * math.pi), rng.uniform(0.15, 0.6)
        for finger in range(int(rng.integers(3, 6))):
            angle, reach = first + spread * finger, palm * rng.uniform(1.2, 2.6)
            tip = middle + reach * np.array([math.cos(angle), math.sin(angle)])
            width = max(int(palm * rng.uniform(0.3, 0.5)), 1)
            ends = [(int(p[0]), int(p[1])) for p in (middle, tip)]
            cv2.line(mask, ends[0], ends[1], 255, width)
        edge = cv2.dilate(mask, np.ones((3, 3), np.uint8)) > mask
        canvas[mask > 0] = self._skin(rng, size, size)[mask > 0]
        canvas[edge] = canvas[edge] // 2

    def _photometric(self, rng: Generator, image: Array) -> Array:
        size = image.shape[0]
        if rng.random() < 0.04:
            image = np.ascontiguousarray(image[:, :, ::-1])
        chance = rng.random()
        if chance < 0.2:
            grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
            image = cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB)
        elif chance < 0.45:
            grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
            amount = rng.uniform(0.3, 1.6)
            image = cv2.addWeighted(image, amount, grey, 1 - amount, 0)
        chance = rng.random()
        if chance < 0.06:
            small = max(int(size * rng.uniform(0.3, 0.7)), 16)
            image = cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA)
            image = cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)
        elif chance < 0.2:
            image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.4, 1.6)))
        elif chance < 0.27:
            length = int(rng.integers(3, 9))
            kernel = np.zeros((length, length), np.float32)
            end = (int(rng.integers(length)), 0) if rng.random() < 0.5 else (0, int(rng.integers(length)))
            cv2.line(kernel, end, (length - 1 - end[0], length - 1 - end[1]), 1.0)
            image = cv2.filter2D(image, -1, kernel / max(float(kernel.sum()), 1.0))
        if rng.random() < 0.8:
            ramp = np.linspace(0, 1, 256, dtype=np.float32)[:, None]
            gamma = math.exp(rng.uniform(-0.5, 0.5))
            dark = rng.random()
            gain = rng.uniform(0.14, 0.5) if dark < 0.13 else rng.uniform(0.65, 1.4)
            cast = np.exp(rng.normal(0, 0.13, 3)) if rng.random() < 0.5 else np.ones(3)
            contrast = rng.uniform(0.6, 1.3)
            middle = rng.uniform(0.3, 0.6)
            table = ((ramp**gamma - middle) * contrast + middle) * gain * cast
            table = np.clip(table * 255 + 0.5, 0, 255).astype(np.uint8)
            image = cv2.LUT(image, table[:, None, :])
        if rng.random() < 0.3:
            start = int(rng.integers(len(self.noise) - size * size * 3))
            field = self.noise[start : start + size * size * 3].reshape(size, size, 3)
            image = cv2.add(image, field * rng.uniform(1, 14), dtype=cv2.CV_8U)
        if rng.random() < 0.25:
            image = compressed(image, 12, 75, rng)
        return np.asarray(image)


def _paste_head(
    canvas: Array, owner: Array, number: int, part: Array, matrix: Array, box: Array, margin: float
) -> None:
    """Paste an oval around a head with a soft edge, so that no rectangle reveals the position of a face.

    `matrix`, (2, 3), maps `part` to the canvas; `box`, (2, 2), has the corners of the face in `part`;
    `margin` is the half axes of the oval in widths and heights of the face.
    """
    h, w = part.shape[:2]
    size = (canvas.shape[1], canvas.shape[0])
    centre, half = box.mean(0) - [0, 0.1 * (box[1, 1] - box[0, 1])], (box[1] - box[0]) * margin
    mask = np.zeros((h, w), np.uint8)
    middle, axes = [round(v * 16) for v in centre], [max(round(v * 16), 16) for v in half]
    cv2.ellipse(mask, middle, axes, 0, 0, 360, 255, -1, shift=4)
    mask[0], mask[-1], mask[:, 0], mask[:, -1] = 0, 0, 0, 0
    mask = cv2.GaussianBlur(mask, (0, 0), max(float(half[0]) * 0.08, 0.6))
    seen = cv2.warpAffine(mask, matrix, size).astype(np.float32)[..., None] / 255
    picture = cv2.warpAffine(np.ascontiguousarray(part), matrix, size)
    canvas[:] = (canvas + (picture.astype(np.float32) - canvas) * seen + 0.5).astype(np.uint8)
    owner[seen[..., 0] > 0.5] = number


def _visible(owner: Array, number: int, ellipse: Array) -> float:
    """Return the visible share of the face number `number`, an ellipse, 0 to 1."""
    x, y, a, b, angle = ellipse[:5]
    reach = max(a, b) + 1
    left, top = int(max(x - reach, 0)), int(max(y - reach, 0))
    right, bottom = int(min(x + reach + 1, owner.shape[1])), int(min(y + reach + 1, owner.shape[0]))
    if right <= left or bottom <= top:
        return 0.0
    mask = np.zeros((bottom - top, right - left), np.uint8)
    centre = (round((x - left) * 16), round((y - top) * 16))
    axes = (max(round(a * 16), 1), max(round(b * 16), 1))
    cv2.ellipse(mask, centre, axes, float(angle), 0, 360, 1, -1, shift=4)
    seen = np.count_nonzero((owner[top:bottom, left:right] == number) & (mask > 0))
    return float(min(seen / (math.pi * a * b), 1.0))


def _owned(owner: Array, number: int, points: Array) -> bool:
    """Return whether all points are on the canvas and visible."""
    x, y = np.round(points).astype(int).T
    inside = (x >= 0) & (y >= 0) & (x < owner.shape[1]) & (y < owner.shape[0])
    return bool(inside.all()) and bool((owner[y, x] == number).all())


def _draw_shapes(rng: Generator, canvas: Array) -> None:
    """Draw text, discs, rings and lines as negatives."""
    size = canvas.shape[0]
    for _ in range(int(rng.integers(1, 9))):
        colour = tuple(int(v) for v in rng.integers(0, 256, 3))
        x, y = (int(v) for v in rng.integers(0, size, 2))
        kind = rng.random()
        thick = int(rng.integers(1, 9))
        if kind < 0.45:
            letters = "".join(chr(int(c)) for c in rng.integers(33, 123, int(rng.integers(1, 11))))
            scale, font = math.exp(rng.uniform(-1.0, 1.25)), int(rng.integers(0, 8))
            place = (x - size // 3, y)
            edge = tuple(int(v) for v in rng.integers(0, 256, 3))
            if rng.random() < 0.5:  # colours of skin and shadow
                colour = (
                    int(rng.integers(180, 256)),
                    int(rng.integers(100, 200)),
                    int(rng.integers(20, 160)),
                )
                edge = tuple(int(v * 0.35) for v in colour)
            if rng.random() < 0.5:  # outline of the letters
                around = thick + int(rng.integers(2, 9))
                cv2.putText(canvas, letters, place, font, scale, edge, around, cv2.LINE_AA)
            cv2.putText(canvas, letters, place, font, scale, colour, thick, cv2.LINE_AA)
        elif kind < 0.65:
            radius = int(rng.integers(3, size // 3))
            cv2.circle(canvas, (x, y), radius, colour, -1 if rng.random() < 0.6 else thick)
        elif kind < 0.85:
            axes = (int(rng.integers(3, size // 3)), int(rng.integers(3, size // 3)))
            fill = -1 if rng.random() < 0.6 else thick
            cv2.ellipse(canvas, (x, y), axes, float(rng.uniform(0, 180)), 0, 360, colour, fill)
        else:
            end = tuple(int(v) for v in rng.integers(0, size, 2))
            cv2.line(canvas, (x, y), end, colour, thick)


def _draw_cartoon(rng: Generator, canvas: Array) -> None:
    """Draw a mask, skull or smiley, like prints on clothes, as a negative."""
    size = canvas.shape[0]
    a = size * math.exp(rng.uniform(math.log(0.02), math.log(0.2)))
    b = a * rng.uniform(0.9, 1.6)
    x, y = rng.uniform(0.1, 0.9, 2) * size
    bright, dark = rng.integers(120, 256, 3), rng.integers(0, 110, 3)
    if rng.random() < 0.5:
        bright[:], dark[:] = bright[0], dark[0]
    if rng.random() < 0.15:
        bright, dark = dark, bright
    light, shade = tuple(int(v) for v in bright), tuple(int(v) for v in dark)

    def ellipse(
        dx: float, dy: float, width: float, height: float, colour: tuple[int, ...], thick: int = -1
    ) -> None:
        centre = (round((x + dx * a) * 16), round((y + dy * b) * 16))
        axes = (max(round(width * a * 16), 8), max(round(height * b * 16), 8))
        tilt = float(rng.uniform(-12, 12))
        cv2.ellipse(canvas, centre, axes, tilt, 0, 360, colour, thick, cv2.LINE_AA, shift=4)

    ellipse(0, 0, 1, 1, light)
    if rng.random() < 0.4:
        ellipse(0, 0.55, rng.uniform(0.5, 0.8), rng.uniform(0.4, 0.7), light)
    eye_x, eye_y = rng.uniform(0.3, 0.5), -rng.uniform(0.05, 0.35)
    for side in (-1, 1):
        ellipse(side * eye_x, eye_y, rng.uniform(0.1, 0.34), rng.uniform(0.08, 0.28), shade)
    if rng.random() < 0.7:
        ellipse(0, rng.uniform(0.05, 0.3), rng.uniform(0.05, 0.18), rng.uniform(0.05, 0.18), shade)
    mouth_y, mouth_width = rng.uniform(0.4, 0.75), rng.uniform(0.25, 0.6)
    ellipse(0, mouth_y, mouth_width, rng.uniform(0.02, 0.2), shade)
    if rng.random() < 0.5:  # teeth
        for tooth in np.linspace(-mouth_width, mouth_width, int(rng.integers(4, 9))):
            top, bottom = y + (mouth_y - 0.12) * b, y + (mouth_y + 0.12) * b
            column = int(x + tooth * a)
            cv2.line(canvas, (column, int(top)), (column, int(bottom)), light, max(int(a * 0.05), 1))
    for _ in range(int(rng.integers(0, 4))):  # cracks and folds
        ends = [(int(x + rng.uniform(-a, a)), int(y + rng.uniform(-b, b))) for _ in range(2)]
        cv2.line(canvas, ends[0], ends[1], shade, max(int(a * 0.06), 1), cv2.LINE_AA)
