"""Decode the detector's output cells into boxes and points."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

STRIDES = (8, 16, 32)
CELL_VALUES = 16
"""Values per cell: face probability, overlap, box (dx, dy, log width, log height), five points (x, y)."""
MAX_LOG_SIZE = 6.0


@lru_cache(maxsize=8)
def cell_centres(height: int, width: int) -> npt.NDArray[np.float32]:
    """Return centre x, y and stride (pixels) of all cells of an input, (A, 3) float32, read-only.

    The cells are ordered by stride (8, 16, 32), then row by row; `height` and `width` are multiples of 32.
    """
    grids = []
    for stride in STRIDES:
        rows, columns = np.indices((height // stride, width // stride), dtype=np.float32)
        offset = np.float32((stride - 1) / 2)
        x, y = columns.ravel() * stride + offset, rows.ravel() * stride + offset
        grids.append(np.stack([x, y, np.full_like(x, stride)], axis=1))
    grid = np.concatenate(grids)
    grid.flags.writeable = False
    return grid


def decode(
    cells: npt.NDArray[np.float32], height: int, width: int, min_score: float
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Convert the cells with a score of at least `min_score` to boxes and points.

    As in YuNet (Wu et al. 2023), the score is the geometric mean of the face probability and the predicted
    overlap; a box is ``centre = cell + (dx, dy) * stride``, ``size = exp(log size) * stride``, and a point is
    ``cell + (x, y) * stride``. `cells` are (A, 16), of an input of `height` and `width`. Returns boxes (N,
    5): x0, y0, x1, y1 and score, best first, and points (N, 5, 2): right eye, left eye, nose tip, right and
    left mouth corner; float32, pixels of the input.
    """
    scores = np.sqrt(np.clip(cells[:, 0], 0, 1) * np.clip(cells[:, 1], 0, 1))
    kept = np.flatnonzero(scores >= min_score)
    kept = kept[np.argsort(-scores[kept], kind="stable")]
    grid, cells = cell_centres(height, width)[kept], cells[kept]
    stride = grid[:, 2:3]
    centre = grid[:, :2] + cells[:, 2:4] * stride
    half = np.exp(np.clip(cells[:, 4:6], -MAX_LOG_SIZE, MAX_LOG_SIZE)) * stride * 0.5
    boxes = np.concatenate([centre - half, centre + half, scores[kept, None]], axis=1)
    points = grid[:, None, :2] + cells[:, 6:].reshape(-1, 5, 2) * stride[:, :, None]
    return boxes.astype(np.float32), points.astype(np.float32)
