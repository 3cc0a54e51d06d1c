"""Synthetic training data: faces of dots, and the folder of files that the training of PFLD reads."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_face_landmarks.evaluation.split import is_held_out
from napari_face_landmarks.opencv import cv2

NAMES = [f"p{i}.jpg" for i in range(6)]
CALTECH_NUMBERS = (372, 376, 388, 404)
"""Two training images, one in the gap between the splits, and one held-out image."""


def make_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the training of PFLD evaluate few faces, and skip its search for the fastest data type."""
    import torch

    from napari_face_landmarks.training import pfld

    monkeypatch.setattr(pfld, "MEASURED_FACES", 8)
    monkeypatch.setattr(pfld, "CALIBRATION_BATCHES", 3)
    monkeypatch.setattr(pfld, "_fastest_format", lambda device: (torch.float32, torch.contiguous_format))


def dotted_face(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return a dark image with bright dots at 68 landmarks in a roughly face-like layout."""
    rng = np.random.default_rng(seed)
    points = np.zeros((68, 2), np.float32)
    grid = [(60 + 16 * (i % 9), 70 + 16 * (i // 9)) for i in range(72)]
    points[:] = np.array(grid[:68]) + rng.uniform(-2, 2, (68, 2))
    points[36:42] = np.array((85, 95)) + rng.uniform(-6, 6, (6, 2))
    points[42:48] = np.array((165, 95)) + rng.uniform(-6, 6, (6, 2))
    points[36], points[45] = (78, 95), (172, 95)
    image = np.zeros((256, 256, 3), np.uint8)
    for x, y in points:
        left, top = int(x) - 2, int(y) - 2
        yy, xx = np.mgrid[top : top + 6, left : left + 6]
        image[top : top + 6, left : left + 6][np.hypot(xx - x, yy - y) < 1.5] = 255
    return image, points.astype(np.float32)


@cache
def _encoded_face(seed: int) -> tuple[Any, np.ndarray]:
    image, points = dotted_face(seed)
    return cv2.imencode(".webp", image)[1].ravel(), points


def write_archive(
    path: Path, rng: np.random.Generator, names: list[str], labelled: bool, template: bool = False
) -> None:
    images, points = zip(*map(_encoded_face, range(len(names))), strict=True)
    arrays = {"names": np.array(names)}
    arrays["offsets"] = np.cumsum([0, *(len(blob) for blob in images)])
    arrays["webp"] = np.concatenate(images)
    if labelled:
        arrays["landmarks"] = np.stack(points)
        arrays["mesh478_x64"] = rng.integers(0, 16000, (len(names), 478, 3)).astype(np.int16)
    else:
        arrays["boxes"] = np.array([[60, 60, 120, 130, *([100] * 10), 0.9]], np.float32)
        arrays["box_image"] = np.array([0])
    if path.stem == "rendered_heads":
        arrays["yaw_pitch_roll"] = rng.uniform(-60, 60, (len(names), 3)).astype(np.float32)
    elif template:
        arrays["template189"] = rng.uniform(60, 200, (len(names), 189, 2)).astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)


def write_data(data: Path, rng: np.random.Generator) -> None:
    """Write a folder of synthetic training data with every file that `training.pfld` reads."""
    from napari_face_landmarks.training import faces

    assert 0 < sum(map(is_held_out, NAMES)) < len(NAMES)
    for name in faces.LABELLED:
        write_archive(data / name, rng, NAMES, labelled=True)
    for folder, files in (("open", faces.OPEN_SHARES), ("research", faces.RESEARCH_SHARES)):
        for name in files:
            path = data / f"landmarks_{folder}/{name}.npz"
            named = [f"image_{k:04d}.jpg" for k in CALTECH_NUMBERS] if name == "caltech_faces" else NAMES
            write_archive(path, rng, named, labelled=True, template=True)
    for name in faces.PHOTOGRAPHS["research"]:
        write_archive(data / "detection" / f"{name}.npz", rng, NAMES[:3], labelled=False)
