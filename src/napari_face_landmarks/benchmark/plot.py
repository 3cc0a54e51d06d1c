"""The ablation and the rates as a picture, drawn with OpenCV."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from napari_face_landmarks.benchmark.run import Benchmark
from napari_face_landmarks.errors import ResultError

WIDTH, ROW, LABEL, MARGIN = 1200, 30, 520, 24
INK, BAR, OTHER = (40, 40, 40), (172, 114, 58), (120, 178, 87)  # BGR
FONT = cv2.FONT_HERSHEY_SIMPLEX


def write_plot(path: Path, result: Benchmark) -> None:
    """Draw bars of the ablation (logarithmic) and of the rates of each video, as a PNG.

    Raises
    ------
    ResultError
        If the file cannot be written.
    """
    panels = [
        _bars(
            "Optimisations added one by one: frames a second (logarithmic)",
            [(step.name, step.fps) for step in result.ablation],
            logarithmic=True,
        )
    ]
    for video in result.videos:
        bars = [("decoding alone", video.decoding_fps)]
        for rate in video.rates:
            skip = "" if rate.refine == "off" else f", skip {rate.every}"
            plural = "s" if rate.threads > 1 else ""
            bars.append((f"refine {rate.refine}{skip}, {rate.threads} thread{plural}", rate.fps))
        title = f"{video.name}, {video.width} x {video.height}: frames a second"
        panels.append(_bars(title, bars, other=1))
    done, png = cv2.imencode(".png", np.concatenate(panels))
    if not done:
        raise ResultError(f"{path} cannot be written as a picture: choose another place.")
    from napari_face_landmarks.files.atomic import replacing

    with replacing(path) as temporary:
        temporary.write_bytes(png.tobytes())


def _bars(
    title: str, bars: Sequence[tuple[str, float]], *, logarithmic: bool = False, other: int = 0
) -> npt.NDArray[np.uint8]:
    """Return a panel with a bar for each value; the first `other` ones in another colour."""
    picture = np.full((ROW * (len(bars) + 2), WIDTH, 3), 255, np.uint8)
    cv2.putText(picture, title, (MARGIN, ROW), FONT, 0.62, INK, 1, cv2.LINE_AA)
    values = [max(value, 1e-6) for _, value in bars]
    low = 10.0 ** math.floor(math.log10(min(values))) if logarithmic else 0.0
    room = WIDTH - LABEL - 4 * MARGIN
    for row, (name, value) in enumerate(bars):
        if logarithmic:
            share = math.log(max(value, low) / low) / max(math.log(max(values) / low), 1e-6)
        else:
            share = value / max(values)
        y = ROW * (row + 1) + ROW // 2
        end = LABEL + max(2, round(share * room))
        cv2.putText(picture, name, (MARGIN, y + 14), FONT, 0.47, INK, 1, cv2.LINE_AA)
        cv2.rectangle(picture, (LABEL, y), (end, y + 20), OTHER if row < other else BAR, cv2.FILLED)
        number = f"{value:.2f}" if value < 10 else f"{value:.0f}"
        cv2.putText(picture, number, (end + 6, y + 15), FONT, 0.47, INK, 1, cv2.LINE_AA)
    return picture
