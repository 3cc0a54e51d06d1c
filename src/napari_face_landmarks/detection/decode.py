"""From the network's cells to boxes and points, NumPy only."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

STRIDES = (8, 16, 32)
CELL_VALUES = 16
"""Numbers per cell: face probability, overlap, box (dx, dy, log width, log height), five points (x, y)."""
LARGEST_LOG_SIZE = 6.0


@lru_cache(maxsize=8)
def cell_centres(height: int, width: int) -> npt.NDArray[np.float32]:
    """Return centres (x, y, pixels) and strides of all cells of an input, (A, 3) float32, read-only.

    Strides 8, 16, 32, each row by row; `height` and `width` are multiples of 32.
    """
    parts = []
    for stride in STRIDES:
        rows, columns = np.indices((height // stride, width // stride), dtype=np.float32)
        offset = np.float32((stride - 1) / 2)
        x, y = columns.ravel() * stride + offset, rows.ravel() * stride + offset
        parts.append(np.stack([x, y, np.full_like(x, stride)], axis=1))
    grid = np.concatenate(parts)
    grid.flags.writeable = False
    return grid


def decode(
    cells: npt.NDArray[np.float32], height: int, width: int, min_score: float
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Convert the cells that score at least `min_score` into boxes and points.

    As in YuNet (Wu et al. 2023), the score is the geometric mean of the face probability and the predicted
    overlap; a box is ``centre = cell + (dx, dy) * stride``, ``size = exp(log size) * stride``, a point ``cell
    + (x, y) * stride``. `cells` are (A, 16) of an input of `height` and `width`. Returns boxes (N, 5), x0,
    y0, x1, y1 and score, best first, and points (N, 5, 2), right eye, left eye, nose tip, right and left
    mouth corner; float32, pixels of the input.
    """
    scores = np.sqrt(np.clip(cells[:, 0], 0, 1) * np.clip(cells[:, 1], 0, 1))
    kept = np.flatnonzero(scores >= min_score)
    kept = kept[np.argsort(-scores[kept], kind="stable")]
    grid, cells = cell_centres(height, width)[kept], cells[kept]
    stride = grid[:, 2:3]
    centre = grid[:, :2] + cells[:, 2:4] * stride
    half = np.exp(np.clip(cells[:, 4:6], -LARGEST_LOG_SIZE, LARGEST_LOG_SIZE)) * stride * 0.5
    boxes = np.concatenate([centre - half, centre + half, scores[kept, None]], axis=1)
    points = grid[:, None, :2] + cells[:, 6:].reshape(-1, 5, 2) * stride[:, :, None]
    return boxes.astype(np.float32), points.astype(np.float32)
