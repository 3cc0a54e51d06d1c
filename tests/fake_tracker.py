"""A tracker without models, which returns a drifting ring of points, and models that count PFLD's runs."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np

from napari_face_landmarks.data.fields import CLNF, PFLD
from napari_face_landmarks.data.frame import empty_frame
from napari_face_landmarks.errors import FaceLandmarksError
from napari_face_landmarks.models import Models
from napari_face_landmarks.runs import chunks, job, worker  # noqa: F401 - before tests replace the tracker
from napari_face_landmarks.settings import TrackerSettings
from napari_face_landmarks.tracking import FaceTracker, FrameResult


class FakeTracker(FaceTracker):
    """Tracker that returns `faces_at(frame)` faces on each frame; only detection and PFLD are replaced."""

    seconds_per_frame = 0.0
    refined_from = 10**9  # first frame whose source is CLNF
    fails_at: tuple[int, Exception] | None = None  # frame, and the error raised there

    def __init__(self, models: Any = None, settings: TrackerSettings | None = None) -> None:
        self.models = SimpleNamespace(name="fake", version="0", card={}, experts=None, parts=None)
        self.settings = settings or TrackerSettings()
        self.threads, self.engine = 1, None
        self._last_run = lambda: None

    def prepare(self) -> None:
        """Do nothing, since no kernels are used."""

    @staticmethod
    def faces_at(frame: int) -> int:
        return 1

    def _follow(self, context: Any, frames: Any, before: Any = None) -> Iterator[Any]:
        for index, frame in frames:
            if self.fails_at is not None and index == self.fails_at[0]:
                raise self.fails_at[1]
            time.sleep(self.seconds_per_frame)
            result = empty_frame(index, self.settings.max_faces)
            if isinstance(frame, FaceLandmarksError):
                context.warnings.append(str(frame))
            else:
                for face in range(min(self.faces_at(index), self.settings.max_faces)):
                    self._set_face(result, face, frame.shape[:2])
                context.stats.add_time("pfld", self.seconds_per_frame)
            yield result, None

    def _set_face(self, result: FrameResult, face: int, size: tuple[int, int]) -> None:
        height, width = size
        angle = np.linspace(0, 2 * np.pi, 68, endpoint=False)
        result.landmarks[face, :, 0] = width / 2 + width / 6 * np.cos(angle) + 0.25 * result.index
        result.landmarks[face, :, 1] = height / 2 + height / 6 * np.sin(angle) + face
        result.confidence[face] = np.linspace(0.2, 1, 68)
        result.source[face] = CLNF if result.index >= self.refined_from else PFLD
        result.boxes[face, 4] = 1


def counting(models: Models) -> tuple[Models, list[int]]:
    """Return models whose PFLD appends the number of crops of each run to the returned list."""
    batches: list[int] = []

    def run(outputs: Any, inputs: Any) -> Any:
        batches.append(len(inputs["crops"]))
        return models.pfld.run(outputs, inputs)  # type: ignore[union-attr]

    pfld: Any = SimpleNamespace(run=run)
    return dataclasses.replace(models, pfld=pfld), batches
