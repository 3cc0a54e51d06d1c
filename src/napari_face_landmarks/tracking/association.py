"""Association of new detections with slots, the indices of the face axis, by distance."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.detection.boxes import centres, sizes

Floats = npt.NDArray[np.float32]


def assign_slots(
    boxes: npt.NDArray[np.floating], free: list[int], last_boxes: dict[int, Floats], last_seen: dict[int, int]
) -> list[tuple[int, int]]:
    """Assign newly detected faces, boxes (N, 4 or more), to free slots; return (face, slot) pairs.

    Pairs of a face and a slot's last face are matched by increasing distance of their centres, up to the
    longer side of the face's box. The other faces get unused slots first, then those unused for longest.
    `boxes` are ordered best first; faces beyond the number of free slots are dropped.
    """
    boxes = np.asarray(boxes, dtype=np.float64)[: len(free)]
    centre, size = centres(boxes), np.maximum(sizes(boxes).max(axis=1), 1.0)
    candidates = []
    for slot in free:
        if slot in last_boxes:
            last = np.asarray(last_boxes[slot], dtype=np.float64)
            distances = np.linalg.norm(centre - centres(last), axis=1) / size
            candidates += [(float(d), face, slot) for face, d in enumerate(distances) if d < 1.0]
    pairs: list[tuple[int, int]] = []
    for _, face, slot in sorted(candidates):
        if all(face != f and slot != s for f, s in pairs):
            pairs.append((face, slot))
    left = [slot for slot in free if all(slot != s for _, s in pairs)]
    left.sort(key=lambda slot: (last_seen.get(slot, -1), slot))
    others = [face for face in range(len(boxes)) if all(face != f for f, _ in pairs)]
    pairs += list(zip(others, left, strict=False))
    return sorted(pairs)
