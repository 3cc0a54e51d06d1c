"""Which face is which: newly found faces go to the slot whose face was last seen nearest."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

SAME_FACE = 0.35
"""Boxes that overlap by more (intersection over union) show the same face."""


def overlaps(boxes: npt.NDArray[np.floating], others: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Return the intersection over union of every pair of boxes, (N, M).

    Parameters
    ----------
    boxes, others : ndarray, (N, 4 or more), (M, 4 or more)
        x0, y0, x1, y1.
    """
    a = np.asarray(boxes, dtype=np.float64)[:, None, :4]
    b = np.asarray(others, dtype=np.float64)[None, :, :4]
    across = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None)
    inside = across[..., 0] * across[..., 1]
    area_a = (a[..., 2] - a[..., 0]) * (a[..., 3] - a[..., 1])
    area_b = (b[..., 2] - b[..., 0]) * (b[..., 3] - b[..., 1])
    return np.asarray(inside / np.maximum(area_a + area_b - inside, 1e-9))


def doubles(boxes: npt.NDArray[np.floating], scores: npt.NDArray[np.floating]) -> npt.NDArray[np.bool_]:
    """Return which of the boxes show a face that a better-scored box shows already, (N,) bool."""
    double = np.zeros(len(boxes), dtype=np.bool_)
    if len(boxes) < 2:
        return double
    shared = overlaps(boxes, boxes) > SAME_FACE
    order = np.argsort(-np.asarray(scores), kind="stable")
    for rank, i in enumerate(order):
        double[i] = any(shared[i, j] and not double[j] for j in order[:rank])
    return double


def assign_slots(
    boxes: npt.NDArray[np.floating],
    free: list[int],
    last_boxes: dict[int, Floats],
    last_seen: dict[int, int],
) -> list[tuple[int, int]]:
    """Give newly found faces a slot each.

    A face goes to the free slot whose last face was nearest, as long as the centres were less than a face's
    size apart; the others take slots never used, then those unused for longest.

    Parameters
    ----------
    boxes : ndarray, (N, 4 or more)
        The new faces, best first.
    free : list of int
        Slots without a face at present.
    last_boxes, last_seen : dict
        Box and frame of the face that each slot held last.

    Returns
    -------
    list of (int, int)
        Pairs of a face and its slot; faces beyond the number of free slots are left out.
    """
    boxes = np.asarray(boxes, dtype=np.float64)[: len(free)]
    centres = (boxes[:, :2] + boxes[:, 2:4]) / 2
    sizes = np.maximum((boxes[:, 2:4] - boxes[:, :2]).max(axis=1), 1.0)
    candidates = []
    for slot in free:
        if slot in last_boxes:
            last = np.asarray(last_boxes[slot], dtype=np.float64)
            apart = np.linalg.norm(centres - (last[:2] + last[2:4]) / 2, axis=1) / sizes
            candidates += [(float(d), face, slot) for face, d in enumerate(apart) if d < 1.0]
    pairs: list[tuple[int, int]] = []
    for _, face, slot in sorted(candidates):
        if all(face != f and slot != s for f, s in pairs):
            pairs.append((face, slot))
    left = [slot for slot in free if all(slot != s for _, s in pairs)]
    left.sort(key=lambda slot: (last_seen.get(slot, -1), slot))
    others = [face for face in range(len(boxes)) if all(face != f for f, _ in pairs)]
    pairs += list(zip(others, left, strict=False))
    return sorted(pairs)
