"""Small random models in the file formats of OpenFace 2.2, for the tests."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np

from napari_face_landmarks.clnf.pdm import PDM
from napari_face_landmarks.ibug import MIRROR_68

YAWS = (0.0, -20.0, 20.0, -45.0, 45.0, -70.0, 70.0)
MIRROR_VIEWS = (0, 2, 1, 4, 3, 6, 5)
TYPES = {"u1": 0, "i4": 4, "f4": 5, "f8": 6}


def matrix(values: Any, dtype: str) -> bytes:
    array = np.atleast_2d(np.asarray(values, dtype="<" + dtype))
    return struct.pack("<iii", *array.shape, TYPES[dtype]) + array.tobytes()


def write_pdm(path: Path, model: PDM) -> None:
    blocks = [
        ("# The mean values of the components (in mm)", model.mean.reshape(-1, 1)),
        ("# The principal components (eigenvectors)", model.components.reshape(3 * model.n_points, -1)),
        ("# The eigenvalues (variances)", model.eigenvalues.reshape(1, -1)),
    ]
    lines: list[str] = []
    for comment, values in blocks:
        lines += [comment, str(values.shape[0]), str(values.shape[1]), "6"]
        lines += [" ".join(f"{v:.17g}" for v in row) for row in values]
    path.write_text("\n".join(lines) + "\n", encoding="ascii")


def head(scale: float, yaws: tuple[float, ...], hidden: dict[int, list[int]]) -> bytes:
    """Return scale, views, centres and visibility; `hidden` maps a view to the landmarks hidden in it."""
    parts = [struct.pack("<di", scale, len(yaws))]
    parts += [matrix([[0.0], [yaw], [0.0]], "f8") for yaw in yaws]
    for view in range(len(yaws)):
        visible = np.ones((68, 1))
        visible[hidden.get(view, [])] = 0
        parts.append(matrix(visible, "i4"))
    return b"".join(parts)


def write_cen(
    path: Path,
    scale: float,
    seed: int = 0,
    hidden: dict[int, list[int]] | None = None,
    yaws: tuple[float, ...] = YAWS,
    widths: tuple[int, ...] = (122, 6, 5, 4, 1),
    activations: tuple[int, ...] = (2, 2, 0, 0),
) -> list[list[Any]]:
    """Write random deep experts and return them: for each view and landmark its layers, or None."""
    rng = np.random.default_rng(seed)
    mirror_views = [0, 2, 1, 4, 3, 6, 5][: len(yaws)]
    parts = [head(scale, yaws, hidden or {}), matrix(MIRROR_68[None], "i4"), matrix([mirror_views], "i4")]
    written: list[list[Any]] = []
    for view in range(len(yaws)):
        written.append([])
        for k in range(68):
            own = (view == 0 and k <= MIRROR_68[k]) or (view > 0 and mirror_views[view] >= view)
            layers = []
            parts.append(struct.pack("<iiii", 6, 11, 11, len(activations) if own else 0))
            for activation, inputs, outputs in zip(activations, widths, widths[1:], strict=False):
                if own:
                    weight = rng.normal(size=(outputs, inputs)) * (3.0 if inputs == 122 else 1.0)
                    bias = 0.3 * rng.normal(size=(1, outputs))
                    layers.append((activation, weight.astype("<f4"), bias.astype("<f4")))
                    parts += [struct.pack("<i", activation), matrix(bias, "f4"), matrix(weight, "f4")]
            parts.append(struct.pack("<d", rng.uniform(0.1, 0.9) if own else 0.0))
            written[-1].append(layers or None)
    path.write_bytes(b"".join(parts))
    return written


def edge_matrices(window: int) -> list[np.ndarray]:
    """Return D - S of adjacent cells, D - S of diagonal neighbours, and D + S of distant cells."""
    y, x = np.mgrid[:window, :window].reshape(2, -1)
    distance = np.hypot(y[:, None] - y, x[:, None] - x)
    alike = [(distance == 1).astype(float), (np.abs(distance - np.sqrt(2)) < 0.1).astype(float)]
    apart = ((distance > 3) & (distance < 4.5)).astype(float)
    matrices = [np.diag(s.sum(axis=1)) - s for s in alike]
    return [*matrices, np.diag(apart.sum(axis=1)) + apart]


def write_ccnf(
    path: Path,
    scale: float,
    seed: int = 0,
    hidden: dict[int, list[int]] | None = None,
    yaws: tuple[float, ...] = YAWS,
    windows: tuple[int, ...] = (7, 9, 11),
    neurons: int = 3,
    confidence_of_none: bool = False,
) -> None:
    """Write random neural fields; `confidence_of_none` adds a confidence for experts without neurons."""
    rng = np.random.default_rng(seed)
    hidden = hidden or {}
    parts = [head(scale, yaws, hidden), struct.pack("<i", len(windows))]
    for window in windows:
        matrices = edge_matrices(window)
        parts.append(struct.pack("<ii", window, len(matrices)))
        parts += [matrix(values, "f4") for values in matrices]
    for view in range(len(yaws)):
        for k in range(68):
            if k in hidden.get(view, []):
                parts.append(struct.pack("<iiiii", 5, 11, 11, 0, 0))
                if confidence_of_none:
                    parts.append(struct.pack("<d", 0.25))
                continue
            parts.append(struct.pack("<iiii", 5, 11, 11, neurons))
            for _ in range(neurons):
                numbers = rng.uniform(2, 12), rng.normal(), rng.uniform(0.2, 3)
                parts.append(struct.pack("<iiddd", 2, 0, *numbers))
                parts.append(matrix(rng.normal(size=(11, 11)), "f4"))
            parts.append(struct.pack("<ddd", *rng.uniform(0.05, 1, 3)) if windows else b"")
            parts.append(struct.pack("<d", rng.uniform(0.1, 0.9)))
    path.write_bytes(b"".join(parts))


def write_folder(folder: Path, model: PDM, kinds: tuple[str, ...] = ("cen", "ccnf"), **options: Any) -> Path:
    """Write a folder in OpenFace's layout."""
    (folder / "pdms").mkdir(parents=True)
    (folder / "patch_experts").mkdir()
    write_pdm(folder / "pdms" / "In-the-wild_aligned_PDM_68.txt", model)
    if "cen" in kinds:
        for seed, scale in enumerate(("0.25", "0.35", "0.50", "1.00")):
            name = f"cen_patches_{scale}_of.dat"
            write_cen(folder / "patch_experts" / name, float(scale), seed, **options)
    if "ccnf" in kinds:
        for seed, scale in enumerate(("0.25", "0.35", "0.5")):
            name = f"ccnf_patches_{scale}_general.txt"
            write_ccnf(folder / "patch_experts" / name, float(scale), seed, **options)
    return folder
