"""The command line ``napari-face-landmarks``, with one module per command.

Errors are reported in one sentence on stderr, with exit status 2. After Ctrl-C (status 130), or if a video
cannot be read to its end, the results computed so far are written.
"""

from napari_face_landmarks.cli.main import main

__all__ = ["main"]
