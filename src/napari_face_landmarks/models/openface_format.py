"""OpenFace 2.2's model files: a PDM as text, CEN and CCNF patch experts as little-endian binary.

The files are untrusted. A file is read completely, and every declared size is checked against the remaining
bytes before it is used; the weights of CEN are views of the file's bytes.

Matrix: int32 rows, int32 columns, int32 OpenCV type (0 uint8, 4 int32, 5 float32, 6 float64), then the data
in row-major order.

CEN file: float64 scale; int32 number of views; for each view its centre, a 3 x 1 float64 matrix (degrees);
for each view its visibility, an int32 matrix of 68; the mirror landmarks (68) and the mirror views, int32
matrices; then, for each view and landmark: int32 type 6, int32 width, int32 height, int32 number of layers;
for each layer int32 activation (0 sigmoid, 1 tanh, 2 ReLU), bias (1 x out, float32), weight (out x in,
float32); float64 confidence.

CCNF file: scale, views, centres and visibility as above; int32 number of windows, and for each: int32 size,
int32 number of matrices, these matrices (size**2 square); then, for each view and landmark: int32 type 5,
int32 width, int32 height, int32 number of neurons (if 0, one more int32, and in some files a confidence);
for each neuron int32 type 2, int32 activation, float64 norm, float64 bias, float64 alpha, weight matrix; a
float64 beta for each matrix of a window; float64 confidence.

Widths of layers and numbers of views, layers, neurons and windows may vary within bounds.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.clnf.openface_experts import (
    RELU,
    Networks,
    NeuralFields,
    ScaleExperts,
    fields_as_networks,
)
from napari_face_landmarks.clnf.patch_experts import N_INPUTS, SUPPORT
from napari_face_landmarks.clnf.pdm import PDM, SMALLEST_EXTENT
from napari_face_landmarks.errors import ModelError, reason_of
from napari_face_landmarks.ibug import N_LANDMARKS

LARGEST_TEXT = 4 << 20  # bytes
LARGEST_FILE = 1 << 30
MAX_VIEWS = 32
MAX_LAYERS = 8
MAX_NEURONS = 64
MAX_WINDOWS = 16
MAX_EDGES = 8
LARGEST_WIDTH = 4096  # of a layer
LARGEST_WINDOW = 25
LARGEST_WEIGHT = 1e6
MAX_MODES = 256

INT, THREE_INTS = struct.Struct("<i"), struct.Struct("<iii")
FLOAT, THREE_FLOATS = struct.Struct("<d"), struct.Struct("<ddd")
CEN_EXPERT, CCNF_EXPERT, NEURON = 6, 5, 2
MATRIX_TYPES: dict[int, np.dtype[Any]] = {
    0: np.dtype("u1"),
    4: np.dtype("<i4"),
    5: np.dtype("<f4"),
    6: np.dtype("<f8"),
}


@dataclass
class _Cursor:
    """The bytes of a file and the read position."""

    path: Path
    content: npt.NDArray[np.uint8]
    buffer: memoryview
    position: int = 0


def read_pdm_text(path: str | Path) -> PDM:
    """Read a PDM from OpenFace's text file: mean (204 x 1), components (204 x m), eigenvalues (1 x m)."""
    path = Path(path)
    try:
        if path.stat().st_size > LARGEST_TEXT:
            raise _invalid(path, f"is larger than {LARGEST_TEXT >> 20} MB, the maximum for a shape model")
        lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError as error:
        raise _invalid(path, f"cannot be read ({reason_of(error)})") from None
    words = " ".join(line for line in lines if not line.lstrip().startswith("#")).split()
    blocks: list[npt.NDArray[np.float64]] = []
    for name in ("mean", "principal components", "eigenvalues"):
        block, words = _text_block(path, name, words)
        blocks.append(block)
    if words:
        raise _invalid(path, f"has {len(words)} values after the eigenvalues")
    mean, components, eigenvalues = blocks
    m = eigenvalues.size
    if (
        mean.shape != (3 * N_LANDMARKS, 1)
        or components.shape != (3 * N_LANDMARKS, m)
        or not 1 <= m <= MAX_MODES
    ):
        raise _invalid(
            path,
            f"has a mean {mean.shape}, components {components.shape} and eigenvalues {eigenvalues.shape} "
            f"instead of {3 * N_LANDMARKS} rows",
        )
    for name, block in (("mean", mean), ("components", components), ("eigenvalues", eigenvalues)):
        if not (np.abs(block) < LARGEST_WEIGHT).all():
            raise _invalid(path, f"has values in its {name} that are not finite")
    if not (eigenvalues > 1e-9).all():
        raise _invalid(path, "has eigenvalues that are not positive")
    if not (np.ptp(mean.reshape(3, -1), axis=1) > SMALLEST_EXTENT).all():
        raise _invalid(path, "has a mean shape without extent")
    return PDM(
        mean=np.ascontiguousarray(mean.reshape(3, N_LANDMARKS)),
        components=np.ascontiguousarray(components.reshape(3, N_LANDMARKS, m)),
        eigenvalues=np.ascontiguousarray(eigenvalues.ravel()),
    )


def read_cen(path: str | Path) -> ScaleExperts:
    """Read the CEN patch experts of one scale; weights are views of the file's bytes.

    A landmark without layers uses the expert of the mirrored landmark in the mirrored view.
    """
    cursor = _open(Path(path))
    scale, centres, visibility = _head(cursor)
    views = len(centres)
    partner = _matrix(cursor, "the mirror landmarks", "i", (1, N_LANDMARKS)).ravel()
    mirror = _matrix(cursor, "the mirror views", "i", (1, views)).ravel()
    for name, table, limit in (("landmarks", partner, N_LANDMARKS), ("views", mirror, views)):
        if ((table < 0) | (table >= limit)).any():
            raise _invalid(cursor.path, f"has mirror {name} that do not exist")
    confidences = np.zeros((views, N_LANDMARKS))
    direct = np.full((views, N_LANDMARKS), -1, np.int64)
    layers: list[list[tuple[int, int, int, int]]] = []  # activation, outputs, words of biases and of weights
    for view in range(views):
        for k in range(N_LANDMARKS):
            where = f"the expert of landmark {k} in view {view}"
            depth = _expert_head(cursor, where, CEN_EXPERT, MAX_LAYERS, "layers")
            if depth:
                direct[view, k] = len(layers)
                layers.append([])
            outputs = N_INPUTS
            for _ in range(depth):
                activation = _int(cursor, where)
                if not 0 <= activation <= RELU:
                    raise _invalid(cursor.path, f"has the unknown activation {activation} in {where}")
                bias = _matrix(cursor, where, "f", (1, None))
                weight = _matrix(cursor, where, "f", (bias.shape[1], outputs))
                outputs = bias.shape[1]
                if not 1 <= outputs <= LARGEST_WIDTH:
                    raise _invalid(cursor.path, f"has a layer of {outputs} outputs in {where}")
                _check_values(cursor, where, bias, weight)
                layers[-1].append((activation, outputs, _word(cursor, bias), _word(cursor, weight)))
            if depth and outputs != 1:
                raise _invalid(cursor.path, f"has {outputs} outputs, not one, in {where}")
            confidences[view, k] = _confidence(cursor, where, used=depth > 0)
    _end(cursor)
    expert = np.where(direct >= 0, direct, direct[mirror][:, partner])
    flipped = (direct < 0) & (expert >= 0)
    confidences = np.where(flipped, confidences[mirror][:, partner], confidences)
    if not layers:
        raise _invalid(cursor.path, "has no expert with layers")
    words = cursor.content[: cursor.content.size // 4 * 4].view("<f4").astype(np.float32, copy=False)
    table = np.zeros((4, len(layers), max(map(len, layers))), np.int64)
    for number, rows in enumerate(layers):
        table[:, number, : len(rows)] = np.transpose(rows)
    activations, widths, biases, weights = table
    widths = np.insert(widths, 0, N_INPUTS, axis=1)
    networks = Networks(words, widths, weights, biases, activations)
    return ScaleExperts(scale, centres, visibility & (expert >= 0), confidences, expert, flipped, networks)


def read_ccnf(path: str | Path) -> ScaleExperts:
    """Read the neural fields of one scale, a ``ccnf_patches_*_general.txt``, which is binary."""
    cursor = _open(Path(path))
    scale, centres, visibility = _head(cursor)
    views = len(centres)
    edges = _edges(cursor)
    n_betas = len(next(iter(edges.values()))) if edges else 0
    confidences = np.zeros((views, N_LANDMARKS))
    expert = np.full((views, N_LANDMARKS), -1, np.int64)
    kernels: list[npt.NDArray[np.float32]] = []
    norms, biases, alphas, betas = [], [], [], []
    for view in range(views):
        for k in range(N_LANDMARKS):
            where = f"the expert of landmark {k} in view {view}"
            neurons = _expert_head(cursor, where, CCNF_EXPERT, MAX_NEURONS, "neurons")
            if not neurons:
                _int(cursor, where)
                if not _at_next_expert(cursor):
                    _confidence(cursor, where, used=False)
                continue
            expert[view, k] = len(kernels)
            kernel = np.empty((neurons, SUPPORT, SUPPORT), np.float32)
            numbers = np.empty((neurons, 3))
            for j in range(neurons):
                if _int(cursor, where) != NEURON:
                    raise _invalid(cursor.path, f"has no neuron where one is expected in {where}")
                _int(cursor, where)  # the kind of input; always greyscale
                numbers[j] = _numbers(cursor, THREE_FLOATS, where)
                kernel[j] = _matrix(cursor, where, "fd", (SUPPORT, SUPPORT))
            beta = np.array([_float(cursor, where) for _ in range(n_betas)])
            _check_values(cursor, where, kernel, numbers, beta)
            if not (numbers[:, 2] >= 0).all() or not numbers[:, 2].sum() > 1e-9:
                raise _invalid(cursor.path, f"has no positive alpha in {where}")
            kernels.append(kernel)
            norms.append(numbers[:, 0].copy())
            biases.append(numbers[:, 1].copy())
            alphas.append(numbers[:, 2].copy())
            betas.append(beta)
            confidences[view, k] = _confidence(cursor, where)
    _end(cursor)
    if not kernels:
        raise _invalid(cursor.path, "has no expert with neurons")
    fields = NeuralFields(tuple(kernels), tuple(norms), tuple(biases), tuple(alphas), tuple(betas), edges)
    return ScaleExperts(
        scale,
        centres,
        visibility & (expert >= 0),
        confidences,
        expert,
        np.zeros_like(visibility),
        fields_as_networks(fields),
        fields,
    )


def _invalid(path: Path, problem: str) -> ModelError:
    return ModelError(f"{path} {problem} and is not a valid OpenFace model: download the file again.")


def _open(path: Path) -> _Cursor:
    try:
        size = path.stat().st_size
        if size > LARGEST_FILE:
            raise _invalid(path, f"has {size} bytes, more than the maximum of {LARGEST_FILE}")
        with path.open("rb") as file:
            content = np.empty((size + 3) // 4 * 4, np.uint8)  # whole words
            n_read = file.readinto(memoryview(content)[:size])
            if n_read != size or os.fstat(file.fileno()).st_size != size:
                raise _invalid(path, "changed while it was read")
    except OSError as error:
        raise _invalid(path, f"cannot be read ({reason_of(error)})") from None
    return _Cursor(path, content[:size], memoryview(content)[:size])


def _read(cursor: _Cursor, count: int, context: str) -> npt.NDArray[np.uint8]:
    left = cursor.content.size - cursor.position
    if count > left:
        raise _invalid(cursor.path, f"ends in {context} ({count} bytes are declared, {left} remain)")
    cursor.position += count
    return cursor.content[cursor.position - count : cursor.position]


def _numbers(cursor: _Cursor, form: struct.Struct, context: str) -> tuple[Any, ...]:
    start = cursor.position
    left = cursor.content.size - start
    if form.size > left:
        raise _invalid(cursor.path, f"ends in {context} ({form.size} bytes are declared, {left} remain)")
    cursor.position += form.size
    return form.unpack_from(cursor.buffer, start)


def _int(cursor: _Cursor, context: str) -> int:
    return int(_numbers(cursor, INT, context)[0])


def _float(cursor: _Cursor, context: str) -> float:
    return float(_numbers(cursor, FLOAT, context)[0])


def _matrix(
    cursor: _Cursor, context: str, kind: str, shape: tuple[int | None, int | None]
) -> npt.NDArray[Any]:
    """Read a matrix of int32 ("i"), float32 ("f", a view), float64 ("d") or the latter two ("fd")."""
    rows, columns, code = _numbers(cursor, THREE_INTS, context)
    dtype = MATRIX_TYPES.get(code)
    if dtype is None or dtype.char not in kind:
        raise _invalid(cursor.path, f"has a matrix of the type {code} in {context}")
    if rows < 0 or columns < 0:
        raise _invalid(cursor.path, f"has a matrix of {rows} x {columns} in {context}")
    if shape[0] == 1 and rows != 1 and columns == 1:
        rows, columns = columns, rows
    if any(expected not in (None, n) for expected, n in zip(shape, (rows, columns), strict=True)):
        raise _invalid(cursor.path, f"has a matrix of {rows} x {columns} in {context}")
    data = _read(cursor, rows * columns * dtype.itemsize, context)
    # float64 values need not be aligned in the file
    numbers: Any = np.frombuffer(data.tobytes(), dtype) if dtype.itemsize == 8 else data.view(dtype)
    return np.asarray(numbers.reshape(rows, columns))


def _head(cursor: _Cursor) -> tuple[float, npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Return scale, centres of the views and visibility."""
    scale = _float(cursor, "its head")
    if not 0.01 <= scale <= 8:
        raise _invalid(cursor.path, f"has the scale {scale:g}")
    views = _int(cursor, "its head")
    if not 1 <= views <= MAX_VIEWS:
        raise _invalid(cursor.path, f"has {views} views")
    centres = np.stack([_matrix(cursor, "the view centres", "d", (1, 3)).ravel() for _ in range(views)])
    if not (np.abs(centres) <= 360).all():
        raise _invalid(cursor.path, "has view centres that are not angles")
    visible = [_matrix(cursor, "the visibility", "i", (1, N_LANDMARKS)).ravel() != 0 for _ in range(views)]
    return scale, centres.astype(np.float64), np.stack(visible)


def _edges(cursor: _Cursor) -> dict[int, npt.NDArray[np.float32]]:
    """Return the matrices of each window's edge features."""
    windows = _int(cursor, "the windows")
    if not 0 <= windows <= MAX_WINDOWS:
        raise _invalid(cursor.path, f"has {windows} windows")
    edges: dict[int, npt.NDArray[np.float32]] = {}
    counts = set()
    for _ in range(windows):
        window, count = _int(cursor, "the windows"), _int(cursor, "the windows")
        if (
            not 1 <= window <= LARGEST_WINDOW
            or window % 2 == 0
            or window in edges
            or not 0 <= count <= MAX_EDGES
        ):
            raise _invalid(cursor.path, f"has a window of {window} with {count} matrices")
        cells = window * window
        context = f"the matrices of the window {window}"
        matrices = [_matrix(cursor, context, "fd", (cells, cells)) for _ in range(count)]
        _check_values(cursor, context, *matrices)
        counts.add(count)
        edges[window] = (
            np.stack(matrices).astype(np.float32) if matrices else np.zeros((0, cells, cells), np.float32)
        )
    if len(counts) > 1:
        raise _invalid(cursor.path, "has windows with different numbers of matrices")
    return edges


def _expert_head(cursor: _Cursor, where: str, kind: int, limit: int, unit: str) -> int:
    """Return the number of layers or neurons of the next expert."""
    if _int(cursor, where) != kind:
        raise _invalid(cursor.path, f"has no expert where one is expected, in {where}")
    width, height, count = _numbers(cursor, THREE_INTS, where)
    if not 0 <= count <= limit:
        raise _invalid(cursor.path, f"has {count} {unit} in {where}")
    if count and (width, height) != (SUPPORT, SUPPORT):
        raise _invalid(cursor.path, f"has a support region of {width} x {height} in {where}")
    return int(count)


def _at_next_expert(cursor: _Cursor) -> bool:
    """Return whether a CCNF expert or the end of the file follows; no confidence has this bit pattern."""
    rest = cursor.content[cursor.position : cursor.position + 4]
    return rest.size == 0 or (rest.size == 4 and int(rest.view("<i4")[0]) == CCNF_EXPERT)


def _confidence(cursor: _Cursor, where: str, used: bool = True) -> float:
    """Return the confidence of an expert, or 0 for an unused expert, whose confidence is not checked."""
    confidence = _float(cursor, where)
    if not used:
        return 0.0
    if not 0 <= confidence <= LARGEST_WEIGHT:
        raise _invalid(cursor.path, f"has the confidence {confidence:g} in {where}")
    return confidence


def _check_values(cursor: _Cursor, where: str, *arrays: npt.NDArray[Any]) -> None:
    for array in arrays:
        # comparisons are false for NaN
        if array.size and not (array.min() >= -LARGEST_WEIGHT and array.max() <= LARGEST_WEIGHT):
            raise _invalid(cursor.path, f"has invalid values in {where}")


def _word(cursor: _Cursor, view: npt.NDArray[Any]) -> int:
    """Return the index of the first 4-byte word of a view of the file's bytes."""
    return int(view.__array_interface__["data"][0] - cursor.content.__array_interface__["data"][0]) // 4


def _end(cursor: _Cursor) -> None:
    left = cursor.content.size - cursor.position
    if left:
        raise _invalid(cursor.path, f"has {left} bytes after its last expert")


def _text_block(path: Path, name: str, words: list[str]) -> tuple[npt.NDArray[np.float64], list[str]]:
    try:
        rows, columns, _ = (int(word) for word in words[:3])
        count = rows * columns
        if rows < 1 or columns < 1 or count > len(words) - 3:
            raise _invalid(path, f"declares {rows} x {columns} values of {name}, but {len(words) - 3} remain")
        values = np.array([float(word) for word in words[3 : 3 + count]])
    except ModelError:
        raise
    except (ValueError, OverflowError):
        raise _invalid(path, f"has no numbers where its {name} are expected") from None
    return values.reshape(rows, columns), words[3 + count :]
