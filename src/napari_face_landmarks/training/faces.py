"""Training data: labelled face crops and whole photographs on one side of the split."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.errors import ImageError
from napari_face_landmarks.evaluation.split import split_masks
from napari_face_landmarks.ibug import N_LANDMARKS, inter_ocular
from napari_face_landmarks.opencv import cv2
from napari_face_landmarks.training import labels
from napari_face_landmarks.training.mesh_regression import denoised, fit_regression, predict_landmarks

LABELLED = ("landmarks_300w_train/helen_train.npz", "landmarks_300w_train/lfpw_train.npz")
"""Faces with manual iBUG landmarks, for research only."""
OPEN = {
    "london_neutral": 2.0,
    "london_smiling": 2.0,
    "canada": 2.0,
    "faker": 2.0,
    "interfaces": 3.0,
    "voteview": 1.0,
}
"""Freely licensed portraits, and the relative weight of a face of each file."""
MANUAL_WEIGHT = 8.0
"""Relative weight of a manually labelled face."""
OPEN_SHARES = {
    "london_neutral": 0.09,
    "london_smiling": 0.03,
    "canada": 0.045,
    "faker": 0.04,
    "interfaces": 0.04,
    "voteview": 0.1,
    "webmorph_composite": 0.02,
    "fairface": 0.24,
    "sfhq_t2i": 0.12,
    "caltech_faces": 0.03,
    "rendered_heads": 0.14,
    "grid_blinks": 0.04,
    "speeches_384": 0.04,
    "speeches_256": 0.03,
    "clips_384": 0.025,
    "winks_composite": 0.05,
}
"""Files of `landmarks_open` for the training of PFLD, and their relative share of the batches."""
RESEARCH_SHARES = {"webmorph_3dsk": 0.05, "yale": 0.02, "lfw_eyes": 0.04, "mead_384": 0.03}
"""The same for `landmarks_research`."""
AVATARS = "rendered_heads"
"""File of rendered heads, whose landmarks are exact."""
RESEARCH_MANUAL_SHARE, RESEARCH_OPEN_SHARE = 0.52, 0.34
"""Shares of manually labelled faces and of all of `OPEN_SHARES` in the batches of ``research``."""
HALF_SHUT = 0.14
"""Aperture (lid distance over eye width) under which an eye is shut or half shut."""
ONE_SIDED = 0.1
"""Difference of the apertures over which the eyes of a face are uneven."""
SHUT_SHARE, ONE_SIDED_SHARE = 0.25, 0.1
"""Least shares in the batches of faces with a shut or half-shut eye, and with uneven eyes."""
LARGEST_FLIP_DIFFERENCE = 0.05
"""Largest difference between the meshes of an image and of its mirror image, outer-eye distances."""
JAW_TRUST, TURNED_JAW_TRUST, TURNED_YAW = 1 / 3, 0.15, 30.0
"""Weight of jaw labels derived from a mesh; weight for heads with a yaw over `TURNED_YAW`, degrees."""
PHOTOGRAPHS: dict[str, tuple[str, ...]] = {
    "open": ("interfaces", "faker", "background"),
    "research": ("interfaces", "faker", "background", "helen_train", "lfpw_train"),
}
NO_MESH = -512.0


@dataclass(frozen=True)
class Faces:
    """N face crops with their labels."""

    names: list[str]  # of the image files
    images: Sequence[npt.NDArray[np.uint8]]  # (256, 256, 3) or (384, 384, 3); RGB
    landmarks: npt.NDArray[np.float32]  # (N, 68, 2); iBUG landmarks in pixels, x before y
    mesh: npt.NDArray[np.float32]  # (N, 478, 3); automatic face mesh, pixels; `NO_MESH` if there is none
    weight: npt.NDArray[np.float64]  # (N,); probability of each face in training
    # (N, 68); root mean square distance of automatic from manual labels, pixels; 0 for manual labels
    noise: npt.NDArray[np.float32]
    trust: npt.NDArray[np.float32] | None = None  # (N, 68); weight of each label in the loss, 0 to 1; None: 1

    @property
    def has_mesh(self) -> npt.NDArray[np.bool_]:
        """Whether each face has a mesh, (N,) bool."""
        return np.asarray(self.mesh[:, :, 0].min(axis=1) > NO_MESH / 2)


@dataclass(frozen=True)
class Photographs:
    """Whole photographs, RGB, and their faces, (M, 15) each: box x0, y0, x1, y1, five points, score."""

    images: list[npt.NDArray[np.uint8]]
    boxes: list[npt.NDArray[np.float32]]


def sigma_ratio(landmarks: npt.NDArray[np.floating], sigma: npt.NDArray[np.floating], faces: Faces) -> float:
    """Return the root mean square of errors along an axis over the predicted `sigma`, (N, 68)."""
    squared = np.sum((landmarks - faces.landmarks) ** 2, axis=-1) + faces.noise**2
    return float(np.sqrt((squared / (2 * sigma**2)).mean()))


def decode(arrays: Mapping[str, npt.NDArray[Any]], index: int) -> npt.NDArray[np.uint8]:
    """Decode image `index` of an archive, (H, W, 3) RGB uint8; raise `ImageError` if it is damaged."""
    first, end = arrays["offsets"][index : index + 2]
    image: Any = cv2.imdecode(arrays["webp"][first:end], cv2.IMREAD_COLOR)
    if image is None:
        raise ImageError(
            f"The image {arrays['names'][index]} cannot be decoded: get the training data again."
        )
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)


@dataclass(frozen=True)
class Pictures(Sequence[npt.NDArray[np.uint8]]):
    """Images in archives, decoded on access, since thousands of decoded images take gigabytes."""

    places: list[tuple[Mapping[str, npt.NDArray[Any]], int]]  # arrays of the archive and index of each image

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.places)

    def __getitem__(self, index: Any) -> Any:
        """Return an image, (H, W, 3) RGB uint8, or a list of images for a slice."""
        if isinstance(index, slice):
            return [decode(*place) for place in self.places[index]]
        return decode(*self.places[index])


def open_archive(path: Path, held_out: bool) -> tuple[dict[str, npt.NDArray[Any]], npt.NDArray[np.int64]]:
    """Return the arrays of a file of training data, and the indices of images on one side of the split."""
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    trained, kept = split_masks(path.stem, arrays)
    chosen = kept if held_out else trained
    if "flip_difference" in arrays:
        chosen &= arrays["flip_difference"] <= LARGEST_FLIP_DIFFERENCE
    return arrays, np.flatnonzero(chosen)


def load_faces(data: Path, *, bundle: str, held_out: bool, machine_made: bool = True) -> Faces:
    """Load the labelled faces of one side of the split.

    ``open`` has freely licensed faces, labelled by their templates or meshes (`labels`). ``research`` also
    has faces for research only and manually labelled faces. Held-out faces are those of `OPEN` (``open``) or
    `LABELLED` (``research``), see also `load_measured`. Training faces with `machine_made` are those of
    `OPEN_SHARES`, for ``research`` also of `RESEARCH_SHARES` and `LABELLED`, `balanced` by the state of the
    eyes; all labels of ``research`` then follow one convention (`training.mesh_regression`). Training faces
    without `machine_made` are those of `OPEN` or `LABELLED`.
    """
    manual = LABELLED if bundle == "research" else ()
    for_training = machine_made and not held_out
    files = dict.fromkeys(manual, MANUAL_WEIGHT)
    if for_training:
        files = {path: RESEARCH_MANUAL_SHARE / len(manual) for path in manual}
        open_share = RESEARCH_OPEN_SHARE if manual else 1.0
        total = sum(OPEN_SHARES.values())
        files |= {f"landmarks_open/{n}.npz": open_share * share / total for n, share in OPEN_SHARES.items()}
        if manual:
            files |= {f"landmarks_research/{name}.npz": share for name, share in RESEARCH_SHARES.items()}
    elif bundle == "open":
        files = {f"landmarks_open/{name}.npz": weight for name, weight in OPEN.items()}
    calibration = labels.load_calibration(data) if set(files) - set(manual) else None
    parts = [_load_file(data / path, held_out, calibration) for path in files]
    if for_training and manual:
        assert calibration is not None
        _unify_convention(parts, calibration)
    weights = [
        np.full(len(part.names), share / max(len(part.names), 1) if for_training else share)
        for part, share in zip(parts, files.values(), strict=True)
    ]
    faces = _joined(parts, np.concatenate(weights))
    return replace(faces, weight=balanced(faces.weight, faces.landmarks)) if for_training else faces


def load_measured(data: Path, *, bundle: str, held_out: bool = True) -> Faces:
    """Load the faces in all files of a bundle on one side of the split, for the evaluation of measures."""
    files = [f"landmarks_open/{name}.npz" for name in OPEN_SHARES]
    if bundle == "research":
        files = [*LABELLED, *files, *(f"landmarks_research/{name}.npz" for name in RESEARCH_SHARES)]
    calibration = labels.load_calibration(data)
    parts = [_load_file(data / path, held_out, calibration) for path in files]
    return _joined(parts, np.ones(sum(len(part.names) for part in parts)))


def take(faces: Faces, rows: Sequence[int]) -> Faces:
    """Return the faces `rows` with the same relative weights."""
    weight = faces.weight[rows]
    images = faces.images
    return Faces(
        [faces.names[i] for i in rows],
        Pictures([images.places[i] for i in rows])
        if isinstance(images, Pictures)
        else [images[i] for i in rows],
        faces.landmarks[rows],
        faces.mesh[rows],
        weight / weight.sum(),
        faces.noise[rows],
        None if faces.trust is None else faces.trust[rows],
    )


def balanced(weight: npt.NDArray[np.float64], landmarks: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Return the probability of each face, (N,), with larger shares of shut and of uneven eyes."""
    apertures = labels.lid_apertures(landmarks)
    uneven = np.abs(apertures[:, 0] - apertures[:, 1]) > ONE_SIDED
    weight = weight / weight.sum()
    for mask, share in ((apertures.min(axis=1) < HALF_SHUT, SHUT_SHARE), (uneven, ONE_SIDED_SHARE)):
        now = float(weight[mask].sum())
        if 0 < now < share:
            weight = np.where(mask, weight * share / now, weight * (1 - share) / (1 - now))
    return weight


def _load_file(path: Path, held_out: bool, calibration: labels.Calibration | None) -> Faces:
    """Load one side of a file, with manual or rendered labels, or labels from templates and meshes."""
    arrays, chosen = open_archive(path, held_out)
    mesh: npt.NDArray[np.float32] = arrays["mesh478_x64"][chosen].astype(np.float32) / np.float32(64)
    known = mesh[:, :, 0].min(axis=1) > NO_MESH / 2 if len(mesh) else np.zeros(0, np.bool_)
    manual, rendered = f"{path.parent.name}/{path.name}" in LABELLED, path.stem == AVATARS
    if not (manual or rendered):
        chosen, mesh, known = chosen[known], mesh[known], known[known]
    noise = np.zeros((len(chosen), N_LANDMARKS), np.float32)
    trust = np.ones((len(chosen), N_LANDMARKS), np.float32)
    if manual:
        landmarks = arrays["landmarks"][chosen].astype(np.float32)
    else:
        assert calibration is not None
        from_mesh = np.zeros((len(chosen), N_LANDMARKS, 2), np.float32)
        for i in np.flatnonzero(known):
            from_mesh[i] = labels.mesh_landmarks(mesh[i], calibration)
        if rendered:
            yaw = arrays["yaw_pitch_roll"][chosen, 0]
            exact = arrays["landmarks"][chosen].astype(np.float32)
            for points in exact:  # rendered jaws start at the height of the eyes
                points[:17] = labels.without_ends(points[:17], points[27])
            landmarks = labels.aligned_landmarks(exact, from_mesh, np.where(known, yaw, 90.0))
        elif "template189" in arrays:
            pairs = zip(arrays["template189"][chosen], from_mesh, strict=True)
            landmarks = (
                np.stack([labels.marked_landmarks(*pair) for pair in pairs]) if len(from_mesh) else from_mesh
            )
        else:
            landmarks = labels.with_full_asymmetry(from_mesh) if len(from_mesh) else from_mesh
            noise[:] = calibration.noise * inter_ocular(from_mesh)[:, None]
            trust[:, :17] = JAW_TRUST
            trust[np.abs(_yaws(mesh, calibration)) > TURNED_YAW, :17] = TURNED_JAW_TRUST
        if "inside68" in arrays:
            trust *= arrays["inside68"][chosen]
    images = Pictures([(arrays, int(i)) for i in chosen])
    names = [str(arrays["names"][i]) for i in chosen]
    return Faces(names, images, landmarks, mesh, np.ones(len(chosen)), noise, trust)


def _yaws(meshes: npt.NDArray[np.float32], calibration: labels.Calibration) -> npt.NDArray[np.float64]:
    """Return the yaw of each mesh, (N,), degrees."""
    rotations = [labels.pose_of(mesh.astype(np.float64), calibration.mean)[1] for mesh in meshes]
    return np.array([math.degrees(math.atan2(turn[0, 2], turn[2, 2])) for turn in rotations])


def _joined(parts: Sequence[Faces], weight: npt.NDArray[np.float64]) -> Faces:
    return Faces(
        [name for part in parts for name in part.names],
        Pictures(
            [place for part in parts if isinstance(part.images, Pictures) for place in part.images.places]
        ),
        np.concatenate([part.landmarks for part in parts]),
        np.concatenate([part.mesh for part in parts]),
        weight / weight.sum(),
        np.concatenate([part.noise for part in parts]),
        np.concatenate([part.trust for part in parts if part.trust is not None]),
    )


def _unify_convention(parts: list[Faces], calibration: labels.Calibration) -> None:
    """Convert the labels of all faces to the convention of the manually labelled files, in place.

    Labels from meshes are replaced by predictions of a regression (`fit_regression`), except for the
    apertures of the eyes; labels from templates become the mean of both; labels of rendered heads are aligned
    (`aligned_landmarks`).
    """
    manual = _joined(parts[: len(LABELLED)], np.ones(sum(len(part.names) for part in parts[: len(LABELLED)])))
    regression = fit_regression(manual.mesh[manual.has_mesh], manual.landmarks[manual.has_mesh])
    shares = {**OPEN_SHARES, **RESEARCH_SHARES}
    for number, stem in enumerate(shares, start=len(LABELLED)):
        part, known = parts[number], parts[number].has_mesh
        if not len(part.names):
            continue
        predicted = part.landmarks.copy()
        predicted[known] = predict_landmarks(part.mesh[known], regression)
        if stem == AVATARS:
            yaw = np.full(len(known), 90.0)
            yaw[known] = _yaws(part.mesh[known], calibration)
            part.landmarks[:] = labels.aligned_landmarks(part.landmarks, predicted, yaw)
        else:
            mixed = (predicted + part.landmarks) / 2 if not part.noise.any() else predicted
            for upper, lower in labels.LID_PAIRS:
                middle = (mixed[:, upper] + mixed[:, lower]) / 2
                half = (part.landmarks[:, upper] - part.landmarks[:, lower]) / 2
                mixed[:, upper], mixed[:, lower] = middle + half, middle - half
            part.landmarks[:] = mixed
    denoised_landmarks = denoised(manual.landmarks, manual.mesh, manual.has_mesh)
    first = 0
    for part in parts[: len(LABELLED)]:
        part.landmarks[:] = denoised_landmarks[first : first + len(part.names)]
        first += len(part.names)


def load_detection(data: Path, *, bundle: str, held_out: bool) -> Photographs:
    """Load the photographs on one side of the split, with the boxes of their faces."""
    images: list[npt.NDArray[np.uint8]] = []
    boxes: list[npt.NDArray[np.float32]] = []
    for name in PHOTOGRAPHS[bundle]:
        arrays, chosen = open_archive(data / "detection" / f"{name}.npz", held_out)
        images += [decode(arrays, int(i)) for i in chosen]
        for i in chosen:
            faces = arrays["boxes"][arrays["box_image"] == i].astype(np.float32)
            faces[:, 2:4] += faces[:, :2]
            boxes.append(faces)
    return Photographs(images, boxes)
