"""Detect the faces of one frame: resize it, run the network, decode and suppress duplicates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.detection.boxes import suppress
from napari_face_landmarks.detection.decode import CELL_VALUES, STRIDES, decode
from napari_face_landmarks.errors import ImageError, ModelError, in_one_line
from napari_face_landmarks.video.pixels import halve, resize

DEFAULT_MIN_SCORE = 0.7
DEFAULT_INPUT_SIZE = 416
"""Pixels. Faces of 24 px in a frame 640 px wide then have 16 px and are detected far better than at 12 px."""
MAX_OVERLAP = 0.35
CELL_STEP = 32


@dataclass(frozen=True)
class Detections:
    """The faces detected in one frame, best first.

    Parameters
    ----------
    boxes : ndarray, (N, 5) float32
        x0, y0, x1, y1 in pixels of the frame, and the score, 0 to 1. A box extends from the forehead to the
        chin, as in YuNet, and beyond the frame if the face does.
    points : ndarray, (N, 5, 2) float32
        Right eye, left eye, nose tip, right and left mouth corner; x, y in pixels. Right is the subject's
        right, on the left of the image.
    """

    boxes: npt.NDArray[np.float32]
    points: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.boxes)


def fit_to_input(
    rgb: npt.NDArray[np.uint8], input_size: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64]]:
    """Resize a frame (H, W, 3) and pad it with black to whole cells; return it and the x and y scale."""
    height, width = rgb.shape[:2]
    scale = input_size / max(height, width)
    h, w = max(round(height * scale), 1), max(round(width * scale), 1)
    reduction = 1
    while min(rgb.shape[0] / h, rgb.shape[1] / w) >= 2:  # prevent aliasing
        rgb, reduction = halve(rgb), 2 * reduction
    frame = np.zeros((-h % CELL_STEP + h, -w % CELL_STEP + w, 3), np.uint8)
    if rgb.shape[:2] == (h, w):
        frame[:h, :w] = rgb
    else:
        frame[:h, :w] = resize(rgb, h, w, (height / (h * reduction), width / (w * reduction)))
    return frame, np.array([w / width, h / height])


def detect_faces(
    session: Any,
    rgb: npt.NDArray[np.uint8],
    *,
    min_score: float = DEFAULT_MIN_SCORE,
    max_faces: int | None = None,
    input_size: int = DEFAULT_INPUT_SIZE,
) -> Detections:
    """Detect the faces of a frame.

    The network is a single-stage, anchor-free detector similar to YuNet (Wu et al. 2023, "YuNet: A Tiny
    Millisecond-level Face Detector").

    Parameters
    ----------
    session : onnxruntime.InferenceSession
        The detector network: ``frames`` (1, H, W, 3) uint8 to ``cells`` (1, A, 16).
    rgb : ndarray, (H, W, 3) uint8
        The frame; see `napari_face_landmarks.video.pixels.to_rgb8`.
    min_score : float
        Minimum score of a face, 0 to 1.
    max_faces : int, optional
        Maximum number of faces; those with the highest scores are returned.
    input_size : int
        Length, pixels, to which the frame's longer side is resized, 32 to 4096. Faces of at least 16 px at
        this size are detected; the time grows with its square.

    Returns
    -------
    Detections

    Raises
    ------
    ImageError
        If the frame is not RGB uint8.
    ModelError
        If the network cannot be run or its output has the wrong shape.
    """
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or 0 in rgb.shape:
        raise ImageError(
            f"The frame has the shape {rgb.shape} and dtype {rgb.dtype}: convert it to RGB uint8 (Y, X, 3), "
            "for example by napari_face_landmarks.video.pixels.to_rgb8."
        )
    if not CELL_STEP <= input_size <= 4096:
        raise ImageError(f"input_size is {input_size}: give a length from {CELL_STEP} to 4096 px.")
    frame, factors = fit_to_input(rgb, input_size)
    height, width = frame.shape[:2]
    try:
        (cells,) = session.run(["cells"], {"frames": frame[None]})
    except Exception as error:
        raise ModelError(
            f"The face detector cannot be run ({in_one_line(error)}): use another bundle."
        ) from error
    n_cells = sum((height // s) * (width // s) for s in STRIDES)
    if cells.shape != (1, n_cells, CELL_VALUES):
        raise ModelError(
            f"The face detector's output has the shape {cells.shape}, not {(1, n_cells, CELL_VALUES)}: use "
            "another bundle."
        )
    boxes, points = decode(cells[0], height, width, min_score)
    kept = suppress(boxes, boxes[:, 4], MAX_OVERLAP, max_faces)
    boxes, points = boxes[kept], points[kept]
    boxes[:, :4] = (boxes[:, :4] + 0.5) / np.tile(factors, 2) - 0.5
    points = ((points + 0.5) / factors - 0.5).astype(np.float32)
    return Detections(boxes, points)
