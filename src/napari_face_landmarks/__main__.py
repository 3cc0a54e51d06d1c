"""``python -m napari_face_landmarks``: the command line."""

import sys

from napari_face_landmarks.cli import main

if __name__ == "__main__":
    sys.exit(main())
