"""Identities: newly detected faces are assigned to the slot whose last face was nearest."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.detection.boxes import centres, sizes

Floats = npt.NDArray[np.float32]


def assign_slots(
    boxes: npt.NDArray[np.floating], free: list[int], last_boxes: dict[int, Floats], last_seen: dict[int, int]
) -> list[tuple[int, int]]:
    """Give newly detected faces, boxes (N, 4 or more), a free slot each; pairs of face and slot.

    A face gets the free slot whose last face was nearest, if the distance of the centres is less than a
    face's size; otherwise an unused slot, then the one unused for longest. Faces are assigned best first;
    those beyond the number of free slots are dropped.
    """
    boxes = np.asarray(boxes, dtype=np.float64)[: len(free)]
    middle, longest = centres(boxes), np.maximum(sizes(boxes).max(axis=1), 1.0)
    candidates = []
    for slot in free:
        if slot in last_boxes:
            last = np.asarray(last_boxes[slot], dtype=np.float64)
            apart = np.linalg.norm(middle - centres(last), axis=1) / longest
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
