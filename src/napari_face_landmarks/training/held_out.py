"""Write held-out faces for ``evaluate --measures``: ``python -m napari_face_landmarks.training held-out``."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from napari_face_landmarks.opencv import cv2
from napari_face_landmarks.training.faces import HALF_SHUT, Faces, load_measured, take
from napari_face_landmarks.training.labels import lid_apertures

FACES = 600
SEED = 7


def draw_faces(faces: Faces, count: int) -> Faces:
    """Draw at most `count` faces, half of them with a shut or half-shut eye if there are enough."""
    rng = np.random.default_rng(SEED)
    shut = lid_apertures(faces.landmarks).min(axis=1) < HALF_SHUT
    chosen: list[int] = []
    for mask in (shut, ~shut):
        rows = np.flatnonzero(mask)
        chosen += rng.choice(rows, min(count // 2, len(rows)), replace=False).tolist()
    return take(faces, sorted(chosen))


def write_faces(faces: Faces, path: Path) -> None:
    """Write a file of labelled faces for `evaluation.dataset`."""
    quality = [cv2.IMWRITE_WEBP_QUALITY, 95]
    blobs = [cv2.imencode(".webp", image[:, :, ::-1], quality)[1].ravel() for image in faces.images]
    names = [f"{number}-{name}"[:200] for number, name in enumerate(faces.names)]
    np.savez(
        path,
        webp=np.concatenate(blobs),
        offsets=np.cumsum([0, *(len(blob) for blob in blobs)]),
        names=np.array(names),
        landmarks=faces.landmarks,
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this step to the command line."""
    parser.add_argument(
        "--faces", type=int, default=FACES, help="largest number of faces (default %(default)s)"
    )


def run(args: argparse.Namespace) -> None:
    """Run this step and write ``held_out.npz``."""
    args.out.mkdir(parents=True, exist_ok=True)
    faces = draw_faces(load_measured(args.data, bundle=args.bundle), args.faces)
    write_faces(faces, args.out / "held_out.npz")
    print(f"{args.out / 'held_out.npz'}: {len(faces.names)} faces for evaluate --measures")
