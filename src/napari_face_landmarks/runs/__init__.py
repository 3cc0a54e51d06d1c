"""Long runs and many videos: checkpoints, worker processes, batches, clusters."""

from napari_face_landmarks.runs.batch import track_many
from napari_face_landmarks.runs.checkpoint import CheckpointedRun, journal_of
from napari_face_landmarks.runs.job import FileResult

__all__ = ["CheckpointedRun", "FileResult", "journal_of", "track_many"]
