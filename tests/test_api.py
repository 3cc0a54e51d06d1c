"""The public names, and what importing them costs and pulls in."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import napari_face_landmarks


def test_every_public_name_is_there() -> None:
    for name in napari_face_landmarks.__all__:
        assert getattr(napari_face_landmarks, name) is not None


@pytest.mark.slow
def test_help_and_completion_have_every_public_name() -> None:
    code = (
        "import pydoc, sys\n"
        "sys.modules.update(dict.fromkeys(('napari', 'qtpy')))\n"  # as where they are not installed
        "import napari_face_landmarks as package\n"
        "assert set(package.__all__) <= set(dir(package))\n"
        "text = pydoc.render_doc(package, renderer=pydoc.plaintext)\n"
        "assert all(name in text.partition('CLASSES')[2] for name in package.__all__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_the_core_imports_neither_napari_nor_qt_and_leaves_the_variables_of_qt_alone() -> None:
    code = (
        "import os, sys\n"
        "os.environ['QT_QPA_FONTDIR'] = '/mine'\n"
        "os.environ.pop('QT_QPA_PLATFORM_PLUGIN_PATH', None)\n"
        "from napari_face_landmarks import FaceTracker, TrackerSettings, Tracks, load_models, list_models\n"
        "import napari_face_landmarks.cli, napari_face_landmarks.demo, napari_face_landmarks.io\n"
        "import napari_face_landmarks.visualization, napari_face_landmarks.runs.worker\n"
        "assert 'cv2' in sys.modules\n"
        "assert os.environ['QT_QPA_FONTDIR'] == '/mine'\n"
        "assert 'QT_QPA_PLATFORM_PLUGIN_PATH' not in os.environ\n"
        "names = {'napari', 'qtpy', 'PyQt6', 'PySide6', 'vispy', 'torch'}\n"
        "bad = [m for m in sys.modules if m.split('.')[0] in names]\n"
        "sys.exit(','.join(bad) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_opencv_is_imported_in_one_place() -> None:
    package = Path(napari_face_landmarks.__file__).parent
    found = [
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if re.search(r"^\s*(import cv2|from cv2)", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    # a peer of a race runs in another environment, without this package
    assert set(found) == {"benchmark/peer.py", "opencv.py"}
