"""Long runs and many videos: journals that survive a crash, processes side by side, clusters."""

from napari_face_landmarks.runs.batch import track_many
from napari_face_landmarks.runs.job import FileResult
from napari_face_landmarks.runs.recorded_run import Recording, journal_of

__all__ = ["FileResult", "Recording", "journal_of", "track_many"]
