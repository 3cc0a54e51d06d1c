"""The command `demo`: a clip with known motion."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_face_landmarks.cli.console import PROGRAM, print_stderr, progress_bar, summary
from napari_face_landmarks.cli.options import (
    MODELS,
    add_options,
    add_settings_options,
    as_arguments,
    chosen_settings,
)
from napari_face_landmarks.errors import ResultError

if TYPE_CHECKING:
    from napari_face_landmarks.demo import DemoResult

SCREENS = {"DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"}
"""On Linux, one of these variables is set if there is a display."""


def add_demo(commands: Any) -> None:
    """Add the command `demo`."""
    parser = commands.add_parser(
        "demo",
        help="track a clip with known motion",
        description="Make a clip of a moving face from a bundled photograph, track it and compare the "
        "landmarks with the known motion. Nothing is downloaded.",
    )
    options = {
        "--output FOLDER": "default: %(default)s",
        "--open": "show the clip and its landmarks in napari",
        **MODELS,
    }
    add_options(parser, options, output={"default": Path("demo-output")})
    add_settings_options(parser)
    parser.set_defaults(run=_demo)


def _demo(options: argparse.Namespace) -> int:
    settings = chosen_settings(options)

    from napari_face_landmarks.demo import N_FRAMES, run_demo
    from napari_face_landmarks.models import load_models

    models = load_models(*as_arguments(options.models))
    with progress_bar("Tracking", N_FRAMES) as advance:
        result = run_demo(options.output, models, settings, progress=advance)
    print_stderr(summary(result.tracks))
    print(f"Mean distance to the known motion: {100 * result.distance:.2f} % of the inter-ocular distance.")
    for path in (result.csv, result.overlay, result.sheet, result.clip):
        print(path)
    if options.open:
        show(result)
    return 0


def show(result: DemoResult) -> None:
    """Open the demo's clip and landmarks in napari; return when the window is closed."""
    try:
        import napari
        from qtpy import QtWidgets  # noqa: F401  # napari itself can be imported without Qt
    except Exception:
        raise ResultError(
            'Qt is missing, which --open needs: pip install "napari-face-landmarks[gui]".'
        ) from None
    from napari.layers import Layer

    if sys.platform.startswith("linux") and not SCREENS & os.environ.keys():  # Qt would abort the process
        raise ResultError("There is no display for napari: the files are written; leave out --open.")
    viewer = napari.Viewer()
    (clip,) = viewer.open(result.clip, plugin=PROGRAM)
    for data in result.tracks.to_layer_data(clip):
        viewer.add_layer(Layer.create(*data))
    napari.run()
