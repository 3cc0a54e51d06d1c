"""The training data: labelled face crops and whole photographs, split by file name."""

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
from napari_face_landmarks.training.mesh_regression import fit_reading, read_landmarks, steadied

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
"""Freely licensed portraits, and how often a face of each file is drawn: voteview is large and uniform."""
BY_HAND_WEIGHT = 8.0
"""The same of the faces labelled by hand."""
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
"""Files of `landmarks_open` that PFLD is trained on, and the relative share of its batches."""
RESEARCH_SHARES = {"webmorph_3dsk": 0.05, "yale": 0.02, "lfw_eyes": 0.04, "mead_384": 0.03}
"""The same of `landmarks_research`."""
AVATARS = "rendered_heads"
"""The file of rendered heads, whose landmarks are exact."""
RESEARCH_HAND_SHARE, RESEARCH_OPEN_SHARE = 0.52, 0.34
"""For the bundle research: of the faces labelled by hand, and of all of `OPEN_SHARES` together."""
HALF_SHUT = 0.14
"""An eye whose aperture (lid distance over width) is smaller is shut or half shut."""
ONE_SIDED = 0.1
"""A difference of the eyes' apertures from which a face counts as one-sided."""
SHUT_SHARE, ONE_SIDED_SHARE = 0.25, 0.1
"""Of the batches: faces with a shut or half-shut eye, and faces with uneven eyes."""
LARGEST_FLIP_DIFFERENCE = 0.05
"""Between a picture's mesh and that of the mirrored picture, outer-eye distances; more marks a bad label."""
JAW_TRUST, TURNED_JAW_TRUST, TURNED_YAW = 1 / 3, 0.15, 30.0
"""Weight of jaw labels made from a mesh, and the same of heads with more yaw (degrees)."""
PHOTOGRAPHS: dict[str, tuple[str, ...]] = {
    "open": ("interfaces", "faker", "background"),
    "research": ("interfaces", "faker", "background", "helen_train", "lfpw_train"),
}
NO_MESH = -512.0


@dataclass(frozen=True)
class Faces:
    """Face crops with their labels."""

    names: list[str]  # file names, which decide the split
    # sequence of ndarray, (256, 256, 3) or (384, 384, 3); RGB; `Pictures` decodes each when it is taken
    images: Sequence[npt.NDArray[np.uint8]]
    landmarks: npt.NDArray[np.float32]  # (N, 68, 2); iBUG 68 points; pixels, x then y
    mesh: npt.NDArray[np.float32]  # (N, 478, 3); machine-made face mesh, pixels; -512 where there is none
    weight: npt.NDArray[np.float64]  # (N,); probability with which training draws each face
    # (N, 68); how far a label made by machine is from one placed by hand (root mean square), pixels; 0 by
    # hand
    noise: npt.NDArray[np.float32]
    # (N, 68); weight of each label in the loss, 0 to 1; None stands for 1
    trust: npt.NDArray[np.float32] | None = None

    @property
    def has_mesh(self) -> npt.NDArray[np.bool_]:
        """Which faces have a mesh, (N,) bool."""
        return np.asarray(self.mesh[:, :, 0].min(axis=1) > NO_MESH / 2)


@dataclass(frozen=True)
class Photographs:
    """Whole photographs, RGB, and the boxes of their faces, (M, 15): x0, y0, x1, y1, five points, score."""

    images: list[npt.NDArray[np.uint8]]
    boxes: list[npt.NDArray[np.float32]]


def sigma_ratio(landmarks: npt.NDArray[np.floating], sigma: npt.NDArray[np.floating], faces: Faces) -> float:
    """Return the root mean square of the errors along an axis over the predicted sigma (N, 68)."""
    squared = np.sum((landmarks - faces.landmarks) ** 2, axis=-1) + faces.noise**2
    return float(np.sqrt((squared / (2 * sigma**2)).mean()))


def decode(arrays: Mapping[str, npt.NDArray[Any]], index: int) -> npt.NDArray[np.uint8]:
    """Return picture `index` of an archive, (H, W, 3) RGB uint8; an `ImageError` if it cannot be decoded."""
    first, end = arrays["offsets"][index : index + 2]
    image: Any = cv2.imdecode(arrays["webp"][first:end], cv2.IMREAD_COLOR)
    if image is None:
        raise ImageError(
            f"The picture {arrays['names'][index]} cannot be decoded: get the training data again."
        )
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)


@dataclass(frozen=True)
class Pictures(Sequence[npt.NDArray[np.uint8]]):
    """Pictures of archives, each decoded when it is taken: thousands of them decoded take gigabytes."""

    # the arrays of each picture's archive, and its number there
    places: list[tuple[Mapping[str, npt.NDArray[Any]], int]]

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.places)

    def __getitem__(self, index: Any) -> Any:
        """Return a picture, (H, W, 3) RGB uint8, or those of a slice."""
        if isinstance(index, slice):
            return [decode(*place) for place in self.places[index]]
        return decode(*self.places[index])


def open_archive(path: Path, held_out: bool) -> tuple[dict[str, npt.NDArray[Any]], npt.NDArray[np.int64]]:
    """Return the arrays of a file of training data, and its pictures on one side of the split."""
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    trained, kept = split_masks(path.stem, arrays)
    chosen = kept if held_out else trained
    if "flip_difference" in arrays:
        chosen &= arrays["flip_difference"] <= LARGEST_FLIP_DIFFERENCE
    return arrays, np.flatnonzero(chosen)


def load_faces(data: Path, *, bundle: str, held_out: bool, machine_made: bool = True) -> Faces:
    """Load the labelled faces of one side of the split.

    The bundle ``open`` has freely licensed faces, labelled by their templates or meshes (`labels`);
    ``research`` these, those for research only, and manually labelled faces. Held-out faces are of `OPEN` or
    `LABELLED` only (see `load_measured`). With `machine_made` the training side has every file of
    `OPEN_SHARES` (and `RESEARCH_SHARES`), `balanced` by state, otherwise only `OPEN` or `LABELLED`; for
    ``research`` all labels are of one convention then (`training.mesh_regression`).
    """
    by_hand = LABELLED if bundle == "research" else ()
    every = machine_made and not held_out
    files = dict.fromkeys(by_hand, BY_HAND_WEIGHT)
    if every:
        files = {path: RESEARCH_HAND_SHARE / len(by_hand) for path in by_hand}
        open_share = RESEARCH_OPEN_SHARE if by_hand else 1.0
        total = sum(OPEN_SHARES.values())
        files |= {f"landmarks_open/{n}.npz": open_share * share / total for n, share in OPEN_SHARES.items()}
        if by_hand:
            files |= {f"landmarks_research/{name}.npz": share for name, share in RESEARCH_SHARES.items()}
    elif bundle == "open":
        files = {f"landmarks_open/{name}.npz": weight for name, weight in OPEN.items()}
    calibration = labels.load_calibration(data) if set(files) - set(by_hand) else None
    parts = [_load_file(data / path, held_out, calibration) for path in files]
    if every and by_hand:
        assert calibration is not None
        _agree(parts, calibration)
    weights = [
        np.full(len(part.names), share / max(len(part.names), 1) if every else share)
        for part, share in zip(parts, files.values(), strict=True)
    ]
    faces = _joined(parts, np.concatenate(weights))
    return replace(faces, weight=balanced(faces.weight, faces.landmarks)) if every else faces


def load_measured(data: Path, *, bundle: str, held_out: bool = True) -> Faces:
    """Load the faces for the evaluation of measures, or the others: every file of the bundle, by person."""
    files = [f"landmarks_open/{name}.npz" for name in OPEN_SHARES]
    if bundle == "research":
        files = [*LABELLED, *files, *(f"landmarks_research/{name}.npz" for name in RESEARCH_SHARES)]
    calibration = labels.load_calibration(data)
    parts = [_load_file(data / path, held_out, calibration) for path in files]
    return _joined(parts, np.ones(sum(len(part.names) for part in parts)))


def take(faces: Faces, rows: Sequence[int]) -> Faces:
    """Return some of the faces, drawn with the same relative weights."""
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
    """Return the probability of each face (N,) with the shares of shut and of uneven eyes raised."""
    apertures = labels.lid_apertures(landmarks)
    uneven = np.abs(apertures[:, 0] - apertures[:, 1]) > ONE_SIDED
    weight = weight / weight.sum()
    for mask, share in ((apertures.min(axis=1) < HALF_SHUT, SHUT_SHARE), (uneven, ONE_SIDED_SHARE)):
        now = float(weight[mask].sum())
        if 0 < now < share:
            weight = np.where(mask, weight * share / now, weight * (1 - share) / (1 - now))
    return weight


def _load_file(path: Path, held_out: bool, calibration: labels.Calibration | None) -> Faces:
    """Load one side of one file, its labels by hand, rendered, or made from templates and meshes."""
    arrays, chosen = open_archive(path, held_out)
    mesh: npt.NDArray[np.float32] = arrays["mesh478_x64"][chosen].astype(np.float32) / np.float32(64)
    known = mesh[:, :, 0].min(axis=1) > NO_MESH / 2 if len(mesh) else np.zeros(0, np.bool_)
    by_hand, rendered = f"{path.parent.name}/{path.name}" in LABELLED, path.stem == AVATARS
    if not (by_hand or rendered):
        chosen, mesh, known = chosen[known], mesh[known], known[known]
    noise = np.zeros((len(chosen), N_LANDMARKS), np.float32)
    trust = np.ones((len(chosen), N_LANDMARKS), np.float32)
    if by_hand:
        landmarks = arrays["landmarks"][chosen].astype(np.float32)
    else:
        assert calibration is not None
        made = np.zeros((len(chosen), N_LANDMARKS, 2), np.float32)
        for i in np.flatnonzero(known):
            made[i] = labels.mesh_landmarks(mesh[i], calibration)
        if rendered:
            yaw = arrays["yaw_pitch_roll"][chosen, 0]
            exact = arrays["landmarks"][chosen].astype(np.float32)
            for points in exact:  # the jaw is rendered from the height of the eyes
                points[:17] = labels.without_ends(points[:17], points[27])
            landmarks = labels.aligned_landmarks(exact, made, np.where(known, yaw, 90.0))
        elif "template189" in arrays:
            pairs = zip(arrays["template189"][chosen], made, strict=True)
            landmarks = np.stack([labels.marked_landmarks(*pair) for pair in pairs]) if len(made) else made
        else:
            landmarks = labels.with_full_asymmetry(made) if len(made) else made
            noise[:] = calibration.noise * inter_ocular(made)[:, None]
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


def _agree(parts: list[Faces], calibration: labels.Calibration) -> None:
    """Convert the labels of all faces to the convention of the manually labelled files, in place.

    Labels of meshes are predicted from them by a regression (`fit_reading`), except for the apertures of the
    eyes; those of templates become the mean of both; those of rendered heads are aligned
    (`aligned_landmarks`).
    """
    hand = _joined(parts[: len(LABELLED)], np.ones(sum(len(part.names) for part in parts[: len(LABELLED)])))
    reading = fit_reading(hand.mesh[hand.has_mesh], hand.landmarks[hand.has_mesh])
    shares = {**OPEN_SHARES, **RESEARCH_SHARES}
    for number, stem in enumerate(shares, start=len(LABELLED)):
        part, known = parts[number], parts[number].has_mesh
        if not len(part.names):
            continue
        read = part.landmarks.copy()
        read[known] = read_landmarks(part.mesh[known], reading)
        if stem == AVATARS:
            yaw = np.full(len(known), 90.0)
            yaw[known] = _yaws(part.mesh[known], calibration)
            part.landmarks[:] = labels.aligned_landmarks(part.landmarks, read, yaw)
        else:
            mixed = (read + part.landmarks) / 2 if not part.noise.any() else read
            for upper, lower in labels.LID_PAIRS:
                middle = (mixed[:, upper] + mixed[:, lower]) / 2
                half = (part.landmarks[:, upper] - part.landmarks[:, lower]) / 2
                mixed[:, upper], mixed[:, lower] = middle + half, middle - half
            part.landmarks[:] = mixed
    steady = steadied(hand.landmarks, hand.mesh, hand.has_mesh)
    first = 0
    for part in parts[: len(LABELLED)]:
        part.landmarks[:] = steady[first : first + len(part.names)]
        first += len(part.names)


def load_detection(data: Path, *, bundle: str, held_out: bool) -> Photographs:
    """Load the photographs of one side of the split, with the boxes of their faces."""
    images: list[npt.NDArray[np.uint8]] = []
    boxes: list[npt.NDArray[np.float32]] = []
    for name in PHOTOGRAPHS[bundle]:
        arrays, chosen = open_archive(data / "detection" / f"{name}.npz", held_out)
        images += [decode(arrays, int(i)) for i in chosen]
        for i in chosen:
            found = arrays["boxes"][arrays["box_image"] == i].astype(np.float32)
            found[:, 2:4] += found[:, :2]
            boxes.append(found)
    return Photographs(images, boxes)
