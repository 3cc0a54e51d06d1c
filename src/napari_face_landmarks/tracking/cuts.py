"""Scene cuts, and which faces are the same before and after them.

Where much of the image changes between two frames, the faces tracked across are compared by the correlation
of aligned thumbnails. Of 366 frames of 13 people in 34 clips (speeches, readers), 93 % of the pairs of frames
of one clip correlate by more than `SAME`, and none of those of two people. Where something
occludes a face, or ceases to, half of the face stays as it was at its position: that is no cut.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Mapping
from contextlib import closing
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.data.fields import FIELDS
from napari_face_landmarks.data.names import NEW_TRACKS, SEVERAL, others_from, people_in_words
from napari_face_landmarks.data.tracks import Tracks
from napari_face_landmarks.jit import exact_kernel
from napari_face_landmarks.pfld.crop import flat_pixels
from napari_face_landmarks.tracking.association import assign_slots
from napari_face_landmarks.tracking.context import RunContext
from napari_face_landmarks.tracking.frame_source import Frame

Floats = npt.NDArray[np.float32]
CUTS = "cuts"
"""Entry of `Tracks.meta`: the first frames after cuts."""
SAMPLES = 48
"""Pixels across the shorter side of the thumbnails in which changes are detected."""
CHANGED = 24
"""Levels, 0 to 255, by which a pixel changes at a cut."""
LOOK_CLOSER, MOST_OF_IT = 0.08, 0.4
"""Shares of changed pixels from which faces are compared, and from which it is a cut unless all stay."""
SAME = 0.8
"""Correlation of thumbnails from which faces are the same."""
STAYS = 0.97
"""Correlation from which half a face is unchanged from one frame to the next: so are 95 % of the halves also
on clips of lively heads, and of 10,000 pairs of aligned portraits of two people 0.1 % at most."""
SHIFTS = 0.04 * np.stack(np.meshgrid(np.arange(-2, 3), np.arange(-2, 3)), axis=-1).reshape(-1, 2)
"""How far it may move meanwhile, in distances between the outer eye corners."""
LOOK = 16
"""Side of a face's thumbnail."""
MOST_ROWS, MOST_FACES = 2_000_000, 64
"""Maximum number of rows (frames by faces) and of faces of tracks split at cuts."""
_STABLE = np.array([36, 39, 42, 45, 33])
_TEMPLATE = np.array([-0.5, -0.198 + 0.011j, 0.198 + 0.011j, 0.5, 0.485j])
_SIDE = (np.arange(2 * LOOK) + 0.5) / LOOK - 1
_GRID = 1.1 * _SIDE[None] + 1j * (1.1 * _SIDE[:, None] + 0.35)


def watch_for_cuts(
    frames: Generator[tuple[int, Frame], None, None],
    jumps: dict[int, tuple[npt.NDArray[np.uint8], float]],
    begin: int,
) -> Generator[tuple[int, Frame], None, None]:
    """Yield frames from `begin` on, and record in `jumps` those on which much of the image changes."""
    before: npt.NDArray[np.uint8] | None = None
    small = np.zeros((0, 0), np.uint8)
    with closing(frames):
        for place, frame in frames:
            picture = frame if isinstance(frame, np.ndarray) else None
            if picture is not None:
                small, share = thumbnail(picture, small)
                if before is not None and place >= begin and share > LOOK_CLOSER:
                    jumps[place] = before, share
            before = picture
            if place >= begin:
                yield place, frame


def thumbnail(rgb: npt.NDArray[np.uint8], last: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.uint8], float]:
    """Return the thumbnail of a frame, (H, W), and the share of its pixels that changed since the `last` one.

    It has every n-th pixel of the green, about `SAMPLES` across. Between other shapes nothing changes.
    """
    step = max(1, min(rgb.shape[:2]) // SAMPLES)
    small = np.empty([len(range(step // 2, side, step)) for side in rgb.shape[:2]], np.uint8)
    alike = last.shape == small.shape
    changed = _changed(flat_pixels(rgb), rgb.shape[1], step, last if alike else small, small)
    return small, changed / small.size if alike else 0.0


@exact_kernel
def _changed(
    pixels: npt.NDArray[np.uint8],
    width: int,
    step: int,
    last: npt.NDArray[np.uint8],
    small: npt.NDArray[np.uint8],
) -> int:
    """Fill a thumbnail, and return how many of its pixels changed; `pixels` are the picture's, in order."""
    changed = 0
    for row in range(small.shape[0]):
        start = 3 * ((step // 2 + row * step) * width + step // 2) + 1
        for column in range(small.shape[1]):
            green = pixels[start + 3 * step * column]
            changed += abs(np.int64(green) - last[row, column]) > CHANGED
            small[row, column] = green
    return changed


def look_of(rgb: npt.NDArray[np.uint8], landmarks: npt.NDArray[Any]) -> Floats:
    """Return the appearance of a face: an aligned thumbnail with mean 0 and length 1, (256,) float32.

    The dot product of two is their correlation. The logarithm of the brightness makes it independent of
    exposure.
    """
    seen = np.asarray(landmarks, dtype=np.float64)[_STABLE] @ np.array([1, 1j])
    wanted = _TEMPLATE - _TEMPLATE.mean()
    turn = ((seen - seen.mean()) @ wanted.conj()) / (np.abs(wanted) ** 2).sum()
    places = seen.mean() + turn * (_GRID - _TEMPLATE.mean())
    x = np.clip(np.rint(places.real), 0, rgb.shape[1] - 1).astype(np.int64)
    y = np.clip(np.rint(places.imag), 0, rgb.shape[0] - 1).astype(np.int64)
    grey = rgb[y, x].mean(axis=2).reshape(LOOK, 2, LOOK, 2).mean(axis=(1, 3))
    look = np.log(grey + 8).ravel()
    look -= look.mean()
    return np.asarray(look / max(float(np.linalg.norm(look)), 1e-6), dtype=np.float32)


def _half_stays(
    picture: npt.NDArray[np.uint8], rgb: npt.NDArray[np.uint8], landmarks: npt.NDArray[Any]
) -> bool:
    """Return whether half a face, by its landmarks in a picture, is unchanged about there in the next one."""
    reach = float(np.linalg.norm(landmarks[45] - landmarks[36]))
    was = _halves(look_of(picture, landmarks))
    now = (_halves(look_of(rgb, landmarks + reach * shift)) for shift in SHIFTS)
    return any(float((was * halves).sum(axis=1).max()) > STAYS for halves in now)


def _halves(look: Floats) -> Floats:
    """Return the upper, lower, left and right half of a thumbnail, (4, 128), with mean 0 and length 1."""
    square = look.reshape(LOOK, LOOK)
    halves = np.stack([half.reshape(2, -1) for half in (square, square.T)]).reshape(4, -1)
    halves = halves - halves.mean(axis=1, keepdims=True)
    return np.asarray(halves / np.maximum(np.linalg.norm(halves, axis=1, keepdims=True), 1e-6))


def changed_at_cut(
    context: RunContext,
    index: int,
    rgb: npt.NDArray[np.uint8],
    before: Mapping[int, npt.NDArray[Any]],
    after: Mapping[int, npt.NDArray[Any]],
    last_boxes: Mapping[int, Floats],
) -> set[int]:
    """Return the slots whose tracked faces are those of other persons on this frame, `rgb` (H, W, 3).

    A cut is recorded, with the appearance of the faces before it, by which `assign_faces` recognises them.
    """
    jump = context.jumps.pop(index, None)
    if jump is None:
        return set()
    picture, share = jump
    looks = {slot: look_of(picture, points) for slot, points in before.items()}
    others = {
        slot
        for slot, points in after.items()
        if float(looks[slot] @ look_of(rgb, points)) < SAME and not _half_stays(picture, rgb, before[slot])
    }
    stay = set(after) - others
    if others or (share > MOST_OF_IT and (not before or len(stay) < len(before))):
        context.cuts.append(index)
        for slot in last_boxes:
            if slot not in stay:
                unknown = np.zeros(LOOK * LOOK, np.float32)  # unlike any face
                context.looks[slot] = looks.get(slot, context.looks.get(slot, unknown))
    return others


def assign_faces(
    context: RunContext,
    index: int,
    rgb: npt.NDArray[np.uint8],
    landmarks: npt.NDArray[Any],
    boxes: npt.NDArray[np.floating],
    free: list[int],
    last: tuple[dict[int, Floats], dict[int, int]],
) -> list[tuple[int, int]]:
    """Give newly detected faces a slot each, as `assign_slots`; after a cut first those that are recognised.

    A face in a slot of another person's face before a cut begins a new track, which is recorded. Arrays:
    `rgb` (H, W, 3) uint8; `landmarks` and `boxes` (N, 68, 2) and (N, 4 or more).
    """
    waiting = [slot for slot in free if slot in context.looks]
    pairs: list[tuple[int, int]] = []
    if waiting:
        seen = [look_of(rgb, points) for points in landmarks]
        alike = sorted(
            (-float(look @ context.looks[slot]), face, slot)
            for face, look in enumerate(seen)
            for slot in waiting
        )
        for correlation, face, slot in alike:
            if -correlation >= SAME and all(face != f and slot != s for f, s in pairs):
                pairs.append((face, slot))
    for slots in ([slot for slot in free if slot not in waiting], waiting):  # who waits may come back
        faces = [face for face in range(len(boxes)) if all(face != f for f, _ in pairs)]
        left = [slot for slot in slots if all(slot != s for _, s in pairs)]
        for row, slot in assign_slots(np.asarray(boxes)[faces], left, *last):
            pairs.append((faces[row], slot))
            if slot in waiting:
                context.new_tracks.append((index, slot))
    for _, slot in pairs:
        context.looks.pop(slot, None)
    return sorted(pairs)


def split_at_cuts(tracks: Tracks) -> Tracks:
    """Return tracks in which the tracks of different persons in one slot are separate faces.

    Tracks that begin later are appended, and a warning names them. If that gave more than `MOST_FACES` faces,
    or too many rows, the faces are unchanged, with a warning.
    """
    given = tracks.meta.get(NEW_TRACKS)
    if not given:
        return tracks
    meta = {key: value for key, value in tracks.meta.items() if key != NEW_TRACKS}
    n_faces = tracks.n_faces + len(given)
    others = [sentence for sentence in tracks.warnings if not sentence.startswith(SEVERAL)]
    if n_faces > MOST_FACES or n_faces * tracks.n_frames > MOST_ROWS:
        return dataclasses.replace(tracks, warnings=(*others, *people_in_words(given)))
    wide = tracks.with_room_for(n_faces)
    arrays = {name: array.copy() for name, array in wide.arrays().items()}
    for number, (frame, face) in enumerate(given):
        later = [f for f, other in given[number + 1 :] if other == face]
        indices = tracks.frame_indices
        rows = np.flatnonzero((indices >= frame) & (indices < (later[0] if later else indices[-1] + 1)))
        for item in FIELDS:
            arrays[item.name][rows, tracks.n_faces + number] = arrays[item.name][rows, face]
            arrays[item.name][rows, face] = item.empty(len(rows), 1)[:, 0]
    split = [(frame, tracks.n_faces + number) for number, (frame, _) in enumerate(given)]
    said = f"{others_from(split)}: each is measured by itself, and who comes back may be a new face."
    return dataclasses.replace(wide.with_arrays(arrays), meta=meta, warnings=(*others, said))
