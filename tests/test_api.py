"""The public names, and what importing them costs and pulls in."""

from __future__ import annotations

import subprocess
import sys

import napari_face_landmarks


def test_every_public_name_is_there() -> None:
    for name in napari_face_landmarks.__all__:
        assert getattr(napari_face_landmarks, name) is not None


def test_the_core_imports_neither_napari_nor_qt() -> None:
    code = (
        "import sys\n"
        "from napari_face_landmarks import FaceTracker, TrackerSettings, Tracks, load_models, list_models\n"
        "import napari_face_landmarks.cli, napari_face_landmarks.demo, napari_face_landmarks.io\n"
        "names = {'napari', 'qtpy', 'PyQt6', 'PySide6', 'vispy', 'torch'}\n"
        "bad = [m for m in sys.modules if m.split('.')[0] in names]\n"
        "sys.exit(','.join(bad) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
