"""CEN patch experts: small networks that score how well a support region matches a landmark.

Zadeh et al. 2017, "Convolutional experts constrained local model for facial landmark detection" (CE-CLM).
There is one expert per scale, view and landmark: 122 -> h1 -> h2 -> 1 with ReLU, ReLU and sigmoid. Its input
is a 1 (the bias), then the 121 contrast-normalised pixels of the 11 x 11 support region *column by column*
(all rows of column 0, then column 1, ...). The response is that of the centre pixel. Experts are trained and
evaluated at integer pixels of the same normalised frame.

File `cen.npz` (arrays as NumPy writes them, no pickles; S scales, S >= 1):

======================== =========================== =====================================================
array                    shape, type                 content
======================== =========================== =====================================================
``scales``               (S,) float32 or float64     ascending; the PDM's scale s in the normalised frame
``view_centres``         (3, 3) float32 or float64   degrees, pitch, yaw, roll: frontal, side, mirrored side
``visibility``           (2, 68) bool or uint8       visible landmarks: frontal (symmetric), side
``w1``                   (S, 107, 122, h1) f2 or f4  first layer, row 0 the bias
``w2``                   (S, 107, 1 + h1, h2)        second layer, row 0 the bias
``w3``                   (S, 107, 1 + h2)            third layer, entry 0 the bias
``confidences``          (S, 107)                    weight of each expert in NU-RLMS, >= 0
======================== =========================== =====================================================

Each scale has 107 stored experts: 39 of the frontal view for the landmarks `FRONTAL_STORED` (one of each
mirror pair, and the midline), then 68 of the side view, landmarks 0 to 67. Experts of landmarks hidden in the
side view may be zero. The other half of the frontal view and the mirrored side view are obtained by
mirroring: the expert of landmark ``MIRROR_68[i]`` is that of ``i`` with the columns of its support region
reversed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.errors import ModelError
from napari_face_landmarks.files.npz import read_npz
from napari_face_landmarks.ibug import MIRROR_68, N_LANDMARKS

SUPPORT = 11  # side of the support region, pixels
REACH = SUPPORT // 2
N_INPUTS = 1 + SUPPORT * SUPPORT
N_VIEWS = 3
FRONTAL_STORED: npt.NDArray[np.int64] = np.flatnonzero(np.arange(N_LANDMARKS) <= MIRROR_68)
N_STORED = len(FRONTAL_STORED) + N_LANDMARKS

LARGEST_FILE = 32 << 20  # bytes
LARGEST_WIDTH = 128  # of a hidden layer
MAX_SCALES = 6
FINAL_MAP = "beyond"
"""Array with a linear map from results to manual landmarks, in bundles up to 0.4.1."""
LARGEST: dict[str, tuple[int, ...]] = {
    "scales": (MAX_SCALES,),
    "view_centres": (N_VIEWS, 3),
    "visibility": (2, N_LANDMARKS),
    "w1": (MAX_SCALES, N_STORED, N_INPUTS, LARGEST_WIDTH),
    "w2": (MAX_SCALES, N_STORED, 1 + LARGEST_WIDTH, LARGEST_WIDTH),
    "w3": (MAX_SCALES, N_STORED, 1 + LARGEST_WIDTH),
    "confidences": (MAX_SCALES, N_STORED),
}


@dataclass(frozen=True)
class PatchExperts:
    """Patch experts of all scales, views and landmarks, without mirror symmetry, for batched products."""

    scales: npt.NDArray[np.float64]  # (S,); ascending; scale s of the PDM in the normalised frame
    # (3, 3); degrees, pitch, yaw, roll of each view: frontal, side, mirrored side
    view_centres: npt.NDArray[np.float64]
    visibility: npt.NDArray[np.bool_]  # (3, 68); the landmarks visible in each view
    # (S, 3, 68, 122, h1); first layer; row 0 is the bias, then the support region column by column, from
    # whose weights the mean is subtracted, which changes nothing since the inputs sum to 0
    w1: npt.NDArray[np.float32]
    w2: npt.NDArray[np.float32]  # (S, 3, 68, 1 + h1, h2); second layer; row 0 is the bias
    w3: npt.NDArray[np.float32]  # (S, 3, 68, 1 + h2); third layer; entry 0 is the bias
    confidences: npt.NDArray[np.float64]  # (S, 3, 68); weight of each expert in NU-RLMS


def load_patch_experts(path: str | Path) -> PatchExperts:
    """Load patch experts from a ``cen.npz``."""
    path = Path(path)
    arrays = read_npz(path, LARGEST, LARGEST_FILE, optional={FINAL_MAP: (2**10, 2**10)})
    if FINAL_MAP in arrays:
        raise ModelError(
            f"{path} has a final linear map, as bundles of version 0.4.1 and earlier do: use it with that "
            "version, or train the bundle again."
        )
    _check_shapes(arrays, path)
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise _malformed(path, f"{name} has non-finite values")
    scales = arrays["scales"].astype(np.float64)
    if (scales <= 0).any() or (scales > 8).any() or (np.diff(scales) <= 0).any():
        raise _malformed(path, "scales are not positive and ascending")
    if (arrays["confidences"] < 0).any():
        raise _malformed(path, "a confidence is negative")
    stored = {name: arrays[name] for name in ("w1", "w2", "w3", "confidences")}
    return unmirror(scales, arrays["view_centres"], arrays["visibility"], **stored)


def save_patch_experts(
    path: str | Path, arrays: Mapping[str, npt.ArrayLike], dtype: npt.DTypeLike = np.float16
) -> None:
    """Write the 107 stored experts of each scale as a ``cen.npz``, and validate the file by loading it."""
    types = {"scales": np.float64, "view_centres": np.float64, "visibility": np.uint8}
    with np.errstate(over="ignore"):
        stored: dict[str, Any] = {
            name: np.asarray(array).astype(types.get(name, dtype)) for name, array in arrays.items()
        }
    np.savez_compressed(path, **stored)
    load_patch_experts(path)


def unmirror(
    scales: npt.NDArray[Any],
    view_centres: npt.NDArray[Any],
    visibility: npt.NDArray[Any],
    w1: npt.NDArray[Any],
    w2: npt.NDArray[Any],
    w3: npt.NDArray[Any],
    confidences: npt.NDArray[Any],
) -> PatchExperts:
    """Expand the 107 stored experts of each scale to all three views."""
    partner = np.minimum(np.arange(N_LANDMARKS), MIRROR_68)
    frontal = np.searchsorted(FRONTAL_STORED, partner)  # row of the stored expert of each landmark
    side = len(FRONTAL_STORED) + np.arange(N_LANDMARKS)
    rows = np.stack([frontal, side, side[MIRROR_68]])  # (3, 68)
    flipped = np.stack(
        [np.arange(N_LANDMARKS) > MIRROR_68, np.zeros(N_LANDMARKS, bool), np.ones(N_LANDMARKS, bool)]
    )
    first = np.asarray(w1[:, rows], dtype=np.float32)
    first[:, flipped] = first[:, flipped][:, :, flipped_inputs()]
    first[..., 1:, :] -= first[..., 1:, :].mean(axis=-2, keepdims=True)
    visible = np.asarray(visibility, dtype=bool)
    return PatchExperts(
        scales=np.asarray(scales, dtype=np.float64),
        view_centres=np.asarray(view_centres, dtype=np.float64),
        visibility=np.stack([visible[0], visible[1], visible[1][MIRROR_68]]),
        w1=np.ascontiguousarray(first),
        w2=np.ascontiguousarray(w2[:, rows], dtype=np.float32),
        w3=np.ascontiguousarray(w3[:, rows], dtype=np.float32),
        confidences=np.ascontiguousarray(confidences[:, rows], dtype=np.float64),
    )


def flipped_inputs() -> npt.NDArray[np.int64]:
    """Return the order of an expert's 122 inputs for a mirrored support region; the bias stays first."""
    pixels = np.arange(SUPPORT * SUPPORT).reshape(SUPPORT, SUPPORT)[::-1].ravel()
    return np.concatenate([[0], 1 + pixels]).astype(np.int64)


def _malformed(path: Path, reason: str) -> ModelError:
    return ModelError(f"{path} has no valid patch experts ({reason}): install the models again.")


def _check_shapes(arrays: dict[str, npt.NDArray[Any]], path: Path) -> None:
    scales, w1, w2 = arrays["scales"], arrays["w1"], arrays["w2"]
    n_scales = scales.shape[0] if scales.ndim == 1 else 0
    h1 = w1.shape[-1] if w1.ndim == 4 else 0
    h2 = w2.shape[-1] if w2.ndim == 4 else 0
    if not 1 <= n_scales <= MAX_SCALES:
        raise _malformed(path, f"scales has the shape {scales.shape}")
    if not (1 <= h1 <= LARGEST_WIDTH and 1 <= h2 <= LARGEST_WIDTH):
        raise _malformed(path, f"the layers have the shapes {w1.shape} and {w2.shape}")
    expected = {
        "scales": ((n_scales,), "f"),
        "view_centres": ((N_VIEWS, 3), "f"),
        "visibility": ((2, N_LANDMARKS), "bu"),
        "w1": ((n_scales, N_STORED, N_INPUTS, h1), "f"),
        "w2": ((n_scales, N_STORED, 1 + h1, h2), "f"),
        "w3": ((n_scales, N_STORED, 1 + h2), "f"),
        "confidences": ((n_scales, N_STORED), "f"),
    }
    for name, (shape, kinds) in expected.items():
        array = arrays[name]
        if array.shape != shape:
            raise _malformed(path, f"{name} has the shape {array.shape}, not {shape}")
        if array.dtype.kind not in kinds or array.dtype.itemsize > 8:
            raise _malformed(path, f"{name} has the type {array.dtype}")
