"""Long runs and many videos: journals that survive a crash, processes side by side, clusters."""

from napari_face_landmarks.batch.recording import Recording, journal_of

__all__ = ["Recording", "journal_of"]
