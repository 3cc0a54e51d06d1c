"""Training data of the part models: crops of eyes and mouths, labels of lids, irises and lips.

Lids are the lid contours of meshes, resampled to thirds between the canthi as annotators of 300-W place them,
and moved by their mean difference from manual templates; `LID_KNOTS` maps their apertures to those of the
annotators. Exact labels of rendered heads are resampled and aligned in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from napari_face_landmarks.evaluation.split import split_masks
from napari_face_landmarks.ibug import inter_ocular
from napari_face_landmarks.parts.crop import (
    EYE_SIZE,
    MOUTH,
    MOUTH_SIZE,
    eye_crops,
    face_units,
    mouth_crops,
    rolls,
)
from napari_face_landmarks.pfld.crop import to_crop
from napari_face_landmarks.training.augment import cut
from napari_face_landmarks.training.faces import LABELLED, decode, open_archive
from napari_face_landmarks.training.labels import (
    MESH_68,
    MESH_LIDS,
    Calibration,
    Floats,
    load_calibration,
    pose_of,
    resampled,
    template_landmarks,
)
from napari_face_landmarks.training.mesh_regression import fit_regression, predict_landmarks

OPEN_WEIGHTS = {
    "london_neutral": 3.0,
    "london_smiling": 1.5,
    "canada": 3.0,
    "webmorph_composite": 3.0,
    "faker": 1.0,
    "interfaces": 1.0,
    "voteview": 0.5,
    "fairface": 0.6,
    "sfhq_t2i": 1.0,
    "caltech_faces": 0.7,
    "rendered_heads": 1.0,
    "grid_blinks": 1.5,
    "speeches_384": 2.0,
    "speeches_256": 1.5,
    "clips_384": 2.0,
    "winks_composite": 2.0,
}
"""Files of freely licensed faces, and the relative weight of a face of each file."""
RESEARCH_WEIGHTS = {"yale": 1.5, "lfw_eyes": 1.0, "webmorph_3dsk": 3.0, "mead_384": 1.5}
"""The same for faces for research only with automatic labels or templates."""
MANUAL_WEIGHT = 2.5
"""Relative weight of a manually labelled face."""

LID_KNOTS = {
    "open": ((0.065, 0.20), (0.0, 0.20)),
    "research": ((0.06, 0.10, 0.18, 0.30, 0.40), (0.0, 0.09, 0.215, 0.345, 0.44)),
}
"""Apertures (height over width) of meshes, and the label's apertures to which they are mapped."""
WINK_SHUT = 0.10
"""Largest aperture of a mesh that is mapped to 0 at the shut eye of a composite wink; meshes miss winks."""
IRIS_APERTURE = 0.10
"""Smallest aperture with labels of the iris."""
NARROWEST_EYE = 0.45
"""Smallest width of an eye relative to the other one; narrower eyes are on the far side and not used."""
EYE_PATCH, MOUTH_PATCH = 80, 84
EYE_REACH, MOUTH_REACH = EYE_PATCH / EYE_SIZE, MOUTH_PATCH / MOUTH_SIZE
"""Sides of stored patches relative to the networks' crops; the margin is used in augmentation."""

_IRIS = np.array([[468, 469, 471], [473, 474, 476]])  # centre and ends of the horizontal diameter
_SIDES = (36, 42)


@dataclass(frozen=True)
class PartFaces:
    """Patches of eyes (left eyes mirrored) and mouths; labels are fractions of the crop, x before y."""

    eyes: npt.NDArray[np.uint8]  # (E, 80, 80); greyscale; the network's crop and its surroundings
    lids: npt.NDArray[np.float32]  # (E, 6, 2)
    iris: npt.NDArray[np.float32]  # (E, 3); centre x, centre y, horizontal diameter; NaN if hidden
    eye_weight: npt.NDArray[np.float32]  # (E,)
    eye_face: npt.NDArray[np.int64]  # (E,); number of the face, ascending; right eyes first
    mouths: npt.NDArray[np.uint8]  # (N, 84, 84, 3); RGB
    lips: npt.NDArray[np.float32]  # (N, 20, 2)
    mouth_weight: npt.NDArray[np.float32]  # (N,)


def apertures(lids: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Return the apertures, mean height over width, of lids (..., 6, 2) in the order of the right eye."""
    points = np.asarray(lids, dtype=np.float64)
    across = points[..., 3, :] - points[..., 0, :]
    width = np.maximum(np.linalg.norm(across, axis=-1), 1e-6)
    axis = across / width[..., None]
    open_by = (points[..., 5, :] - points[..., 1, :] + points[..., 4, :] - points[..., 2, :]) / 2
    return np.asarray((open_by[..., 1] * axis[..., 0] - open_by[..., 0] * axis[..., 1]) / width)


def mesh_lids(mesh: npt.NDArray[np.floating]) -> Floats:
    """Return the lids of both eyes of a mesh (478, 3), (2, 6, 2): canthi and thirds of each lid."""
    points = np.asarray(mesh, dtype=np.float64)[:, :2]
    lids = [resampled(points[list(line)], 4)[:3] for _, line in MESH_LIDS]
    return np.concatenate(lids).reshape(2, 6, 2)


def mesh_lips(mesh: Floats, calibration: Calibration) -> Floats:
    """Return the lips of a mesh (478, 3), (20, 2): the nearest vertices, corrected by the calibration."""
    scale, rotation, _ = pose_of(mesh, calibration.mean)
    moved = mesh[MESH_68[MOUTH]] + scale * calibration.offsets[MOUTH] @ rotation.T
    return np.asarray(moved[:, :2])


def close_lids(lids: Floats, knots: tuple[tuple[float, ...], tuple[float, ...]]) -> Floats:
    """Return lids (6, 2) with the aperture mapped from `knots[0]` to `knots[1]`, piecewise linearly."""
    aperture = float(apertures(lids))
    mesh_apertures, label_apertures = knots
    target = float(np.interp(aperture, mesh_apertures, label_apertures)) + max(
        aperture - mesh_apertures[-1], 0.0
    )
    share = min(max(target / aperture, 0.0), 2.0) if aperture > 1e-3 else 0.0
    closed = lids.copy()
    for upper, lower in ((1, 5), (2, 4)):
        middle = (lids[upper] + lids[lower]) / 2
        closed[upper] = middle + share * (lids[upper] - middle)
        closed[lower] = middle + share * (lids[lower] - middle)
    return closed


def in_thirds(lids: Floats) -> Floats:
    """Resample lids (6, 2) to thirds of the length of smooth curves through them."""
    upper = resampled(_cubic(lids[[0, 1, 2, 3]]), 4)
    lower = resampled(_cubic(lids[[3, 4, 5, 0]]), 4)
    return np.concatenate([upper[:3], lower[:3]])


def _cubic(points: Floats) -> Floats:
    """Return 33 points on the cubic curve through four points, parametrised by chord length."""
    lengths = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    at = lengths / max(lengths[-1], 1e-6)
    if np.min(np.diff(at)) < 1e-3:
        return points
    solved = np.linalg.solve(np.vander(at), points)
    return np.asarray(np.vander(np.linspace(0, 1, 33), 4) @ solved)


def lid_offset(data: Path) -> Floats:
    """Return the mean difference of template and mesh lids, (6, 2), eye widths along and across the eye."""
    offsets = []
    for name in ("london_neutral", "canada", "webmorph_composite"):
        with np.load(data / "landmarks_open" / f"{name}.npz", allow_pickle=False) as arrays:
            chosen = np.flatnonzero(split_masks(name, arrays)[0])
            meshes, templates = arrays["mesh478_x64"][chosen] / 64.0, arrays["template189"][chosen]
        for mesh, template in zip(meshes, templates, strict=True):
            marked = template_landmarks(template.astype(np.float64))
            offsets += _lid_offsets(np.stack([marked[k] for k in range(36, 48)]), mesh)
    return np.asarray(np.mean(offsets, axis=0))


def _lid_offsets(marked: npt.NDArray[np.floating], mesh: npt.NDArray[np.floating]) -> list[Floats]:
    """Return the differences of lids, (12, 2), from a mesh, (6, 2) for each eye, as `lid_offset` does."""
    offsets = []
    for side, (truth, lids) in enumerate(zip(marked.reshape(2, 6, 2), mesh_lids(mesh), strict=True)):
        axes, width = _eye_axes(lids)
        offset = (truth - lids) @ axes / width
        offsets.append(offset if side == 0 else _mirrored(offset, 0.0))
    return offsets


def _eye_axes(lids: Floats) -> tuple[Floats, float]:
    across = lids[3] - lids[0]
    width = max(float(np.linalg.norm(across)), 1e-6)
    axis = across / width
    return np.stack([axis, [-axis[1], axis[0]]], axis=1), width


def _mirrored(lids: Floats, width: float) -> Floats:
    """Mirror the lids (6, 2) of an eye about half of `width`, in the order of the other eye."""
    flipped = lids[[3, 2, 1, 0, 5, 4]].copy()
    flipped[:, 0] = width - flipped[:, 0]
    return flipped


@dataclass(frozen=True)
class _Labeller:
    """Conversion from the arrays of a file to landmarks and irises."""

    bundle: str
    calibration: Calibration
    offset: Floats
    regression: Any

    def faces(self, stem: str, arrays: Mapping[str, npt.NDArray[Any]], i: int) -> tuple[Floats, Floats]:
        """Return the landmarks (68, 2) and the irises (2, 3) of face `i`; NaN if unknown."""
        mesh = arrays["mesh478_x64"][i].astype(np.float64) / 64
        known = mesh[:, 0].min() > -256
        exact = "landmarks" in arrays
        if exact:
            landmarks = arrays["landmarks"][i].astype(np.float64)
        elif self.bundle == "research" and self.regression is not None:
            landmarks = predict_landmarks(mesh[None].astype(np.float32), self.regression)[0].astype(
                np.float64
            )
        else:
            landmarks = mesh[MESH_68, :2].copy()
            landmarks[48:] = mesh_lips(mesh, self.calibration)
        iris = np.full((2, 3), np.nan)
        if known:
            for side in (0, 1):
                centre, first, last = mesh[_IRIS[side], :2]
                iris[side] = *centre, np.linalg.norm(first - last)
        if exact:
            for first in _SIDES if stem == "rendered_heads" else ():
                landmarks[first : first + 6] = in_thirds(landmarks[first : first + 6])
            if known:
                found = landmarks.reshape(68, 2)[36:48].reshape(2, 6, 2).mean(axis=1)
                apart = np.linalg.norm(iris[:, :2] - found, axis=1) / max(float(inter_ocular(landmarks)), 1.0)
                iris[apart > 0.1] = np.nan
            return landmarks, iris
        self._set_lids(landmarks, mesh, str(arrays["side"][i]) if "side" in arrays else "")
        if "template189" in arrays:
            for number, point in template_landmarks(arrays["template189"][i].astype(np.float64)).items():
                landmarks[number] = point
        return landmarks, iris

    def _set_lids(self, landmarks: Floats, mesh: Floats, winking: str) -> None:
        for side, lids in enumerate(mesh_lids(mesh)):
            axes, width = _eye_axes(lids)
            offset = self.offset if side == 0 else _mirrored(self.offset, 0.0)
            given, wanted = LID_KNOTS[self.bundle]
            if winking == ("right", "left")[side]:
                later = [k for k, aperture in enumerate(given) if aperture > WINK_SHUT]
                given = (WINK_SHUT, *(given[k] for k in later))
                wanted = (0.0, *(wanted[k] for k in later))
            first = _SIDES[side]
            landmarks[first : first + 6] = close_lids(lids + width * offset @ axes.T, (given, wanted))


def _manual_regression(data: Path) -> tuple[Any, Floats]:
    """Return the regression from meshes to manual landmarks, and the `lid_offset` of manual lids."""
    meshes, landmarks, offsets = [], [], []
    for path in LABELLED:
        with np.load(data / path, allow_pickle=False) as arrays:
            chosen = np.flatnonzero(split_masks(Path(path).stem, arrays)[0])
            mesh = arrays["mesh478_x64"][chosen].astype(np.float32) / 64
            known = mesh[:, :, 0].min(axis=1) > -256
            meshes.append(mesh[known])
            landmarks.append(arrays["landmarks"][chosen][known])
    for mesh, truth in zip(np.concatenate(meshes), np.concatenate(landmarks), strict=True):
        for offset in _lid_offsets(truth[36:48], mesh):
            offset[[1, 5], 1], offset[[2, 4], 1] = offset[[1, 5], 1].mean(), offset[[2, 4], 1].mean()
            offsets.append(offset)  # apertures are corrected by LID_KNOTS
    return fit_regression(np.concatenate(meshes), np.concatenate(landmarks)), np.median(offsets, axis=0)


def load_parts(data: Path, bundle: str, held_out: bool) -> PartFaces:
    """Load the crops on one side of the split; ``open`` uses freely licensed faces only."""
    weights = {f"landmarks_open/{name}.npz": weight for name, weight in OPEN_WEIGHTS.items()}
    regression, offset = None, lid_offset(data)
    if bundle == "research":
        weights |= {f"landmarks_research/{name}.npz": weight for name, weight in RESEARCH_WEIGHTS.items()}
        weights |= dict.fromkeys(LABELLED, MANUAL_WEIGHT)
        regression, offset = _manual_regression(data)
    labeller = _Labeller(bundle, load_calibration(data), offset, regression)
    rows: dict[str, list[Any]] = {name: [] for name in PartFaces.__annotations__}
    faces = 0
    for path, weight in tqdm(weights.items(), desc="crops", unit="file"):
        arrays, chosen = open_archive(data / path, held_out)
        if "landmarks" not in arrays:
            chosen = chosen[arrays["mesh478_x64"][chosen, :, 0].min(axis=1) > -256 * 64]
        stem = Path(path).stem
        labels = [labeller.faces(stem, arrays, int(i)) for i in chosen]
        if stem == "rendered_heads":
            _align_rendered_lips(labels, arrays, chosen, labeller.calibration)
        for i, (landmarks, irises) in zip(chosen, labels, strict=True):
            image = decode(arrays, int(i))
            inside = arrays["inside68"][i] if "inside68" in arrays else np.ones(68, np.bool_)
            _add_face(rows, image, landmarks, irises, inside, weight)
            rows["eye_face"] += [faces] * (len(rows["eyes"]) - len(rows["eye_face"]))
            faces += 1
    kinds = {"eyes": np.uint8, "mouths": np.uint8, "eye_face": np.int64}
    return PartFaces(**{name: np.asarray(row, kinds.get(name, np.float32)) for name, row in rows.items()})


def _align_rendered_lips(
    labels: list[tuple[Floats, Floats]],
    arrays: Mapping[str, npt.NDArray[Any]],
    chosen: npt.NDArray[np.int64],
    calibration: Calibration,
) -> None:
    """Move the lips of rendered heads, in place, by their median difference from those of their meshes."""
    frontal, offsets = np.abs(arrays["yaw_pitch_roll"][chosen, 0]) < 20, []
    frames = []
    for i, (landmarks, _) in zip(chosen, labels, strict=True):
        roll, unit = rolls(landmarks[None])[0], float(face_units(landmarks[None])[0])
        frames.append(unit * np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]]))
        mesh = arrays["mesh478_x64"][i].astype(np.float64) / 64
        if mesh[:, 0].min() > -256:
            difference = landmarks[48:] - mesh_lips(mesh, calibration)
            offsets.append(difference @ np.linalg.inv(frames[-1]).T)
        else:
            offsets.append(np.full((20, 2), np.nan))
    offset = np.nanmedian(np.asarray(offsets)[frontal], axis=0)
    for (landmarks, _), frame in zip(labels, frames, strict=True):
        landmarks[48:] -= offset @ frame.T


def _add_face(
    rows: dict[str, list[Any]],
    image: npt.NDArray[np.uint8],
    landmarks: Floats,
    irises: Floats,
    inside: npt.NDArray[np.bool_],
    weight: float,
) -> None:
    nothing = np.zeros((0, 5), np.float32)
    crops = eye_crops(landmarks[None])[0]
    widths = [np.linalg.norm(landmarks[39] - landmarks[36]), np.linalg.norm(landmarks[45] - landmarks[42])]
    for side, crop in enumerate(crops):
        first = _SIDES[side]
        if widths[side] < NARROWEST_EYE * widths[1 - side] or not inside[first : first + 6].all():
            continue
        lids = to_crop(landmarks[None, first : first + 6], crop[None])[0].astype(np.float64)
        iris = np.append(
            to_crop(irises[None, side : side + 1, :2], crop[None])[0, 0], irises[side, 2] / crop[2]
        )
        wide = crop * np.array([1, 1, EYE_REACH, 1], np.float32)
        patch = cut(image, wide, nothing, EYE_PATCH)
        if side == 1:
            patch, lids = patch[:, ::-1], _mirrored(lids, 1.0)
            iris[0] = 1 - iris[0]
        if apertures(lids) < IRIS_APERTURE:
            iris[:] = np.nan
        rows["eyes"].append(np.asarray(patch @ np.array([0.299, 0.587, 0.114]) + 0.5, dtype=np.uint8))
        rows["lids"].append(lids)
        rows["iris"].append(iris)
        rows["eye_weight"].append(weight)
    if inside[48:].all():
        crop = mouth_crops(landmarks[None])[0]
        wide = crop * np.array([1, 1, MOUTH_REACH, 1], np.float32)
        rows["mouths"].append(cut(image, wide, nothing, MOUTH_PATCH))
        rows["lips"].append(to_crop(landmarks[None, MOUTH], crop[None])[0])
        rows["mouth_weight"].append(weight)
