"""Reader of labelled faces (untrusted files); the README describes their format."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.errors import ImageError
from napari_face_landmarks.evaluation.options import DEFAULT_SIDE, Side
from napari_face_landmarks.evaluation.split import held_out_mask
from napari_face_landmarks.files.npz import read_npz
from napari_face_landmarks.ibug import N_LANDMARKS, inter_ocular
from napari_face_landmarks.opencv import cv2

MAX_FACES = 1_000_000
LONGEST_NAME = 256  # characters
LARGEST_FILE = 2 << 30  # bytes
LARGEST_PICTURE = 4096  # px, either side
SMALLEST_FACE = 4.0  # px between the outer eye corners
LARGEST_COORDINATE = 4 * LARGEST_PICTURE  # of a landmark, px

AGAIN = "give a file of labelled faces with the arrays webp, offsets, names and landmarks"


@dataclass(frozen=True)
class LabelledFaces:
    """Faces with labelled landmarks; `picture` decodes their images on demand."""

    names: tuple[str, ...]  # N names
    blobs: tuple[bytes, ...]  # N WebP files
    landmarks: npt.NDArray[np.float64]  # (N, 68, 2); pixels, x then y
    files: tuple[str, ...]  # paths of the files, in reading order

    def __len__(self) -> int:
        return len(self.names)


def read_faces(
    paths: Sequence[str | Path], side: Side = DEFAULT_SIDE, limit: int | None = None, seed: int = 0
) -> LabelledFaces:
    """Read the labelled faces on one side of the split, a random sample of `limit` if there are more."""
    names: list[str] = []
    blobs: list[bytes] = []
    landmarks: list[npt.NDArray[np.float64]] = []
    for path in paths:
        arrays = _checked(path)
        held_out = held_out_mask(arrays["names"])
        sides = {"all": np.ones_like(held_out), "held-out": held_out, "training": ~held_out}
        chosen = np.flatnonzero(sides[side])
        names += [str(arrays["names"][i]) for i in chosen]
        offsets = arrays["offsets"]
        blobs += [arrays["webp"][offsets[i] : offsets[i + 1]].tobytes() for i in chosen]
        landmarks.append(arrays["landmarks"][chosen].astype(np.float64))
    if not names:
        kind = "no faces" if side == "all" else f"no {side} faces"
        raise ImageError(
            f"There are {kind} in {', '.join(map(str, paths))}: give other files or other --faces."
        )
    points = np.concatenate(landmarks)
    kept = np.arange(len(names))
    if limit is not None and limit < len(names):
        kept = np.sort(np.random.default_rng(seed).choice(len(names), limit, replace=False))
    return LabelledFaces(
        names=tuple(names[i] for i in kept),
        blobs=tuple(blobs[i] for i in kept),
        landmarks=points[kept],
        files=tuple(str(path) for path in paths),
    )


def picture(faces: LabelledFaces, index: int) -> npt.NDArray[np.uint8]:
    """Decode the image of a face, (H, W, 3) RGB uint8."""
    blob, name = faces.blobs[index], faces.names[index]
    width, height = webp_size(blob)
    if not (0 < width <= LARGEST_PICTURE and 0 < height <= LARGEST_PICTURE):
        what = "is not a WebP image" if width == 0 else f"has {width} x {height} px"
        raise ImageError(f"The image of the face {name!r} {what}: give WebP of at most {LARGEST_PICTURE} px.")
    try:
        image: Any = cv2.imdecode(np.frombuffer(blob, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        image = None
    if image is None or image.shape[:2] != (height, width):
        raise ImageError(f"The image of the face {name!r} cannot be decoded: create the file again.")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image), dtype=np.uint8)


def webp_size(blob: bytes) -> tuple[int, int]:
    """Return the width and height, px, in the header of a WebP file; (0, 0) for other files."""
    if len(blob) < 30 or blob[:4] != b"RIFF" or blob[8:12] != b"WEBP":
        return 0, 0
    kind = blob[12:16]
    if kind == b"VP8 ":
        return (
            int.from_bytes(blob[26:28], "little") & 0x3FFF,
            int.from_bytes(blob[28:30], "little") & 0x3FFF,
        )
    if kind == b"VP8L":
        bits = int.from_bytes(blob[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8X":
        return int.from_bytes(blob[24:27], "little") + 1, int.from_bytes(blob[27:30], "little") + 1
    return 0, 0


def _checked(path: str | Path) -> dict[str, npt.NDArray[Any]]:
    """Return the validated arrays of a file."""
    arrays = read_npz(
        path,
        {
            "webp": (LARGEST_FILE,),
            "offsets": (MAX_FACES + 1,),
            "names": (MAX_FACES,),
            "landmarks": (MAX_FACES, N_LANDMARKS, 2),
        },
        LARGEST_FILE,
        error=ImageError,
        hint=AGAIN,
        longest_text=LONGEST_NAME,
    )
    names, offsets, landmarks = arrays["names"], arrays["offsets"], arrays["landmarks"]
    count = len(names)
    if arrays["webp"].dtype != np.uint8 or names.dtype.kind != "U" or landmarks.dtype.kind not in "fiu":
        raise ImageError(f"{path}: webp must be bytes, names text and landmarks numbers; {AGAIN}.")
    if offsets.dtype.kind not in "iu" or len(offsets) != count + 1 or landmarks.shape[1:] != (N_LANDMARKS, 2):
        raise ImageError(
            f"{path}: {count} names need {count + 1} integer offsets and {count} x 68 landmarks; {AGAIN}."
        )
    if len(landmarks) != count:
        raise ImageError(f"{path} has {count} names but landmarks of {len(landmarks)} faces; {AGAIN}.")
    if names.dtype.itemsize and (names.view(f"{names.dtype.byteorder}u4") > sys.maxunicode).any():
        raise ImageError(f"{path}: a name has invalid characters; {AGAIN}.")
    bounds = offsets.astype(np.int64)
    if count and (bounds[0] < 0 or bounds[-1] > len(arrays["webp"]) or (np.diff(bounds) <= 0).any()):
        raise ImageError(f"{path}: the offsets do not increase, or exceed the length of webp; {AGAIN}.")
    arrays["offsets"] = bounds
    unusable = np.flatnonzero(~_usable(landmarks))
    if len(unusable):
        raise ImageError(
            f"{path}: the landmarks of the face {str(names[unusable[0]])!r} are not finite, or its outer eye "
            f"corners are less than {SMALLEST_FACE:g} px apart; remove it from the file."
        )
    return arrays


def _usable(landmarks: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    points = landmarks.astype(np.float64)
    inside = np.asarray(np.abs(points) <= LARGEST_COORDINATE)  # False if not finite
    wide = inter_ocular(np.where(inside, points, 0.0)) >= SMALLEST_FACE
    return np.asarray(inside.all(axis=(1, 2)) & wide)
