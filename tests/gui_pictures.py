"""Screenshots of the window in all states, sizes and themes, for visual inspection.

``xvfb-run -a -s "-screen 0 1920x1200x24" python tests/gui_pictures.py FOLDER`` writes them, and prints which
texts are cut off.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gui_support import let_work, panel_of, wait_until

SIZES = ((1024, 640), (1366, 768), (1920, 1200))
THEMES = ("dark", "light")
PLUGIN = "napari-face-landmarks"


def cut_words(window: Any) -> Iterator[str]:
    """Yield the visible buttons, check boxes and labels that are too small for their text."""
    from qtpy.QtWidgets import QAbstractButton, QDockWidget, QLabel

    for dock in window.findChildren(QDockWidget):
        if "andmarks" not in dock.windowTitle() and "videos" not in dock.windowTitle():
            continue
        for each in dock.findChildren((QAbstractButton, QLabel)):
            if not each.isVisible() or not each.text() or each.visibleRegion().isEmpty():
                continue
            needed = each.minimumSizeHint()
            wraps = isinstance(each, QLabel) and each.wordWrap()
            height = each.heightForWidth(each.width()) if wraps else needed.height()
            if (not wraps and each.width() < needed.width()) or each.height() < height - 1:
                yield f"{dock.windowTitle()}: {each.text()!r} has {each.width()} x {each.height()} px"


class Pictures:
    """Takes screenshots of a viewer.

    Parameters
    ----------
    viewer : napari.Viewer
    folder : Path
    only : str
        Only states whose name contains this text are saved.
    """

    def __init__(self, viewer: Any, folder: Path, only: str) -> None:
        self.viewer, self.folder, self.only = viewer, folder, only

    def take(self, state: str, toggle: Any = None) -> None:
        """Save screenshots of the window in all sizes and both themes.

        Parameters
        ----------
        state : str
            Name of the state, for the file names.
        toggle : QAbstractButton, optional
            Button that is checked again in each size.
        """
        from PIL import Image

        if self.only not in state:
            return
        for width, height in SIZES:
            for theme in THEMES:
                self.viewer.theme = theme
                self.viewer.window.resize(width, height)
                let_work(0.2)
                if toggle is not None:
                    toggle.setChecked(True)
                    let_work(0.2)
                self.viewer.reset_view()
                let_work(0.3)
                name = f"{state} {width} {theme}"
                shown = self.viewer.window.screenshot(canvas_only=False, flash=False)
                Image.fromarray(np.ascontiguousarray(shown[..., :3])).save(self.folder / f"{name}.png")
                if shown.shape[:2] != (height, width):
                    print(f"{name}: the window has {shown.shape[1]} x {shown.shape[0]} px")
                for words in cut_words(self.viewer.window._qt_window):
                    print(f"{name}: {words}", flush=True)
                if toggle is not None:
                    toggle.setChecked(False)
                    let_work(0.2)


def main() -> None:
    """Save all screenshots."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="", help="states with this in their names")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as videos:
        take_all(asked.folder, Path(videos), asked.only)
    os._exit(0)  # without waiting for napari's threads


def take_all(folder: Path, videos: Path, only: str) -> None:
    """Take screenshots of all states of the window."""
    from napari import Viewer
    from napari.layers import Layer

    from gui_measure import make_clip
    from napari_face_landmarks.correction import set_manual_landmarks
    from napari_face_landmarks.napari_plugin import commands
    from napari_face_landmarks.napari_plugin.points_layer import tracks_to_layer_data

    clip = make_clip(videos / "participant 07 smile.mp4", 120)
    viewer = Viewer(show=True)
    pictures = Pictures(viewer, folder, only)
    track = panel_of(viewer, "Track")
    pictures.take("01 track empty")
    viewer.open(clip, plugin=PLUGIN)
    let_work(0.5)
    pictures.take("02 track idle")
    pictures.take("03 track advanced", _advanced(track))
    track.preset.value = "accurate"
    track.run()
    wait_until(lambda: "left" in track.status.value, 300)
    track.pause_or_resume()
    pictures.take("04 track paused")
    track.pause_or_resume()
    wait_until(lambda: not track.running, 600)
    pictures.take("05 track done")
    image, tracks = viewer.layers[0], _spoilt(track.landmarks.metadata["tracks"])
    viewer.layers.remove(track.landmarks)
    viewer.add_layer(Layer.create(*tracks_to_layer_data(tracks, image)[0]))
    check = panel_of(viewer, "Check")
    wait_until(lambda: check.found is not None and check.found.suspects)
    check.next_to_check()
    pictures.take("06 check")
    pictures.take("07 check enlarged", check.wide.button)
    correct = panel_of(viewer, "Correct")
    pictures.take("08 correct before")
    at, chosen = int(viewer.dims.current_step[0]), [8, 30, 48, 54]
    now = correct.editor.tracks
    moved = set_manual_landmarks(now, at, 0, chosen, now.landmarks[at, 0, chosen] - 20)
    correct.editor.apply(moved, "moving 4 landmarks")
    correct.move()
    pictures.take("09 correct moved")
    measure = panel_of(viewer, "Measure")
    let_work(3)
    pictures.take("10 measure")
    pictures.take("11 measure enlarged", measure.wide.button)
    panel_of(viewer, "Faces").select([0])
    pictures.take("12 faces")
    view = panel_of(viewer, "View")
    view.outlines.setChecked(True)
    view.numbers.setChecked(True)
    view.colour.setCurrentIndex(2)
    let_work(0.5)
    pictures.take("13 view")
    study = commands.study(viewer)
    pictures.take("14 study empty")
    (videos / "study").mkdir()
    for number in range(1, 5):
        make_clip(videos / "study" / f"P{number:02d} week 2.mp4", 40)
    study.add([str(videos / "study")])
    pictures.take("15 study listed")
    study.run()
    wait_until(lambda: any("%" in video.state for video in study.videos), 300)
    wait_until(lambda: not study.running, 900)
    pictures.take("16 study done")
    study.open_result(1)
    let_work(3)
    pictures.take("17 study opened")


def _spoilt(tracks: Any) -> Any:
    """Return tracks with frames to check."""
    arrays = {name: array.copy() for name, array in tracks.arrays().items()}
    arrays["landmarks"][40:43, 0] += 30
    arrays["confidence"][70:76] *= 0.4
    return tracks.with_arrays(arrays)


def _advanced(track: Any) -> Any:
    from qtpy.QtWidgets import QToolButton

    (heading,) = [each for each in track.native.findChildren(QToolButton) if each.text() == "Advanced"]
    return heading


if __name__ == "__main__":
    main()
