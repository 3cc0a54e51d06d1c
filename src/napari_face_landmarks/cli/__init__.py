"""The command line ``napari-face-landmarks``: track a video, convert results, run the demo, measure.

Errors are one sentence on stderr with exit status 2; after Ctrl-C (status 130) and after a failure half way,
what was computed so far is written.
"""

from napari_face_landmarks.cli.main import main

__all__ = ["main"]
