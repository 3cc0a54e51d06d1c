"""The training data: labelled face crops and whole photographs, split by file name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from napari_face_landmarks.errors import ImageError
from napari_face_landmarks.evaluation.split import held_out_mask
from napari_face_landmarks.ibug import N_LANDMARKS, inter_ocular
from napari_face_landmarks.training.labels import load_calibration, marked_landmarks, mesh_landmarks
from napari_face_landmarks.training.mesh_regression import fit_reading, read_landmarks, steadied

Bundle = Literal["research", "open"]
LABELLED = ("landmarks_300w_train/helen_train.npz", "landmarks_300w_train/lfpw_train.npz")
"""Faces with the iBUG 68 points placed by hand, for research only."""
OPEN = {
    "london_neutral": 2.0,
    "london_smiling": 2.0,
    "canada": 2.0,
    "faker": 2.0,
    "interfaces": 3.0,
    "voteview": 1.0,
}
"""Freely licensed faces, and how often one of a file is drawn: voteview is large and of one kind."""
BY_HAND_WEIGHT = 8.0
"""The same of the faces labelled by hand."""
PHOTOGRAPHS: dict[str, tuple[str, ...]] = {
    "open": ("interfaces", "faker", "background"),
    "research": ("interfaces", "faker", "background", "helen_train", "lfpw_train"),
}
NO_MESH = -512.0


@dataclass(frozen=True)
class Faces:
    """Face crops with their labels.

    Attributes
    ----------
    names : list of str
        File names, which decide the split.
    images : list of ndarray, (256, 256, 3), uint8
        RGB.
    landmarks : ndarray, (N, 68, 2), float32
        iBUG 68 points; pixels, x then y.
    mesh : ndarray, (N, 478, 3), float32
        Machine-made face mesh, pixels; -512 where there is none.
    weight : ndarray, (N,), float64
        Probability with which training draws each face.
    noise : ndarray, (N, 68), float32
        How far a label made by machine is from one placed by hand (root mean square), pixels; 0 by hand.
    """

    names: list[str]
    images: list[npt.NDArray[np.uint8]]
    landmarks: npt.NDArray[np.float32]
    mesh: npt.NDArray[np.float32]
    weight: npt.NDArray[np.float64]
    noise: npt.NDArray[np.float32]

    @property
    def has_mesh(self) -> npt.NDArray[np.bool_]:
        """Which faces have a mesh, (N,) bool."""
        return np.asarray(self.mesh[:, :, 0].min(axis=1) > NO_MESH / 2)


@dataclass(frozen=True)
class Photographs:
    """Whole photographs: RGB images, and for each the boxes of its faces, (M, 15) float32.

    A box is x0, y0, x1, y1, five points (right eye, left eye, nose tip, right and left mouth corner), score.
    """

    names: list[str]
    images: list[npt.NDArray[np.uint8]]
    boxes: list[npt.NDArray[np.float32]]


def sigma_ratio(landmarks: npt.NDArray[np.floating], sigma: npt.NDArray[np.floating], faces: Faces) -> float:
    """Return the root mean square of the errors along an axis over what sigma (N, 68) claims.

    What a label made by machine lacks in truth is part of the error to be expected.
    """
    squared = np.sum((landmarks - faces.landmarks) ** 2, axis=-1) + faces.noise**2
    return float(np.sqrt((squared / (2 * sigma**2)).mean()))


def decode(arrays: Mapping[str, npt.NDArray[Any]], index: int) -> npt.NDArray[np.uint8]:
    """Return picture `index` of an archive, (H, W, 3) RGB uint8.

    Raises
    ------
    ImageError
        If it cannot be decoded.
    """
    first, end = arrays["offsets"][index : index + 2]
    image: Any = cv2.imdecode(arrays["webp"][first:end], cv2.IMREAD_COLOR)
    if image is None:
        raise ImageError(
            f"The picture {arrays['names'][index]} cannot be decoded: get the training data again."
        )
    return np.ascontiguousarray(image[:, :, ::-1])


def open_archive(path: Path, held_out: bool) -> tuple[dict[str, npt.NDArray[Any]], npt.NDArray[np.int64]]:
    """Return the arrays of a file of training data, and its pictures on one side of the split."""
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    return arrays, np.flatnonzero(held_out_mask(arrays["names"]) == held_out)


def load_faces(data: Path, *, bundle: str, held_out: bool, machine_made: bool = True) -> Faces:
    """Load the labelled faces of one side of the split.

    Parameters
    ----------
    data : Path
        The folder of training data.
    bundle : {"open", "research"}
        ``open``: the freely licensed faces, labelled by their templates or meshes (`labels`). ``research``:
        these and the faces labelled by hand; its held-out faces are only of the latter.
    held_out : bool
        The faces kept for measuring, or the others.
    machine_made : bool
        Whether ``research`` takes the freely licensed faces too; all labels are of one convention then
        (`training.reading`).
    """
    names: list[str] = []
    images: list[npt.NDArray[np.uint8]] = []
    landmarks, meshes, weights, noises = [], [], [], []
    by_hand = LABELLED if bundle == "research" else ()
    by_machine = OPEN if bundle == "open" or (machine_made and not held_out) else ()
    calibration = load_calibration(data) if by_machine else None
    for path in [*by_hand, *(f"landmarks_open/{name}.npz" for name in by_machine)]:
        arrays, chosen = open_archive(data / path, held_out)
        mesh = arrays["mesh478_x64"][chosen].astype(np.float32) / 64
        names += [str(arrays["names"][i]) for i in chosen]
        images += [decode(arrays, int(i)) for i in chosen]
        meshes.append(mesh)
        noise = np.zeros((len(chosen), N_LANDMARKS), np.float32)
        if calibration is None or path in by_hand:
            landmarks.append(arrays["landmarks"][chosen])
        else:
            made = np.stack([mesh_landmarks(face, calibration) for face in mesh])
            if "template189" in arrays:
                templates = arrays["template189"][chosen]
                made = np.stack([marked_landmarks(*pair) for pair in zip(templates, made, strict=True)])
            else:
                noise[:] = calibration.noise * inter_ocular(made)[:, None]
            landmarks.append(made)
        noises.append(noise)
        weights.append(np.full(len(chosen), OPEN.get(Path(path).stem, BY_HAND_WEIGHT)))
    weight = np.concatenate(weights)
    faces = Faces(
        names,
        images,
        np.concatenate(landmarks),
        np.concatenate(meshes),
        weight / weight.sum(),
        np.concatenate(noises),
    )
    if by_hand and by_machine:
        _agree(faces, sum(len(labels) for labels in landmarks[: len(LABELLED)]))
    return faces


def _agree(faces: Faces, by_hand: int) -> None:
    """Give all faces labels of one convention, in place: that of the first, which people labelled."""
    labelled = np.arange(len(faces.names)) < by_hand
    known = faces.has_mesh
    reading = fit_reading(faces.mesh[labelled & known], faces.landmarks[labelled & known])
    faces.landmarks[~labelled & known] = read_landmarks(faces.mesh[~labelled & known], reading)
    faces.landmarks[labelled] = steadied(faces.landmarks[labelled], faces.mesh[labelled], known[labelled])


def load_detection(data: Path, *, bundle: str, held_out: bool) -> Photographs:
    """Load the photographs of one side of the split, with the boxes of their faces."""
    names: list[str] = []
    images: list[npt.NDArray[np.uint8]] = []
    boxes: list[npt.NDArray[np.float32]] = []
    for name in PHOTOGRAPHS[bundle]:
        arrays, chosen = open_archive(data / "detection" / f"{name}.npz", held_out)
        names += [str(arrays["names"][i]) for i in chosen]
        images += [decode(arrays, int(i)) for i in chosen]
        for i in chosen:
            found = arrays["boxes"][arrays["box_image"] == i].astype(np.float32)
            found[:, 2:4] += found[:, :2]
            boxes.append(found)
    return Photographs(names, images, boxes)
