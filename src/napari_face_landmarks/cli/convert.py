"""The commands `convert` and `formats`."""

from __future__ import annotations

import argparse
from typing import Any

from napari_face_landmarks.cli.console import print_stderr
from napari_face_landmarks.cli.options import FORMAT, add_options
from napari_face_landmarks.cli.output_paths import prepare_output
from napari_face_landmarks.errors import ResultError
from napari_face_landmarks.files.atomic import same_file


def add_convert(commands: Any) -> None:
    """Add the command `convert`."""
    parser = commands.add_parser(
        "convert",
        help="convert a landmark file to another format",
        description="Read landmarks from a file in any format and write them in another.",
    )
    paths = {
        "input IN": "a file in a format that `formats` lists",
        "output OUT": "its suffix selects the format",
    }
    add_options(parser, {**paths, **FORMAT})
    parser.set_defaults(run=_convert)


def add_formats(commands: Any) -> None:
    """Add the command `formats`."""
    parser = commands.add_parser("formats", help="list the formats of landmark files")
    parser.set_defaults(run=_formats)


def _convert(options: argparse.Namespace) -> int:
    from napari_face_landmarks.io.formats import format_to_write, read_tracks, write_tracks

    chosen = format_to_write(options.output, options.format)
    if same_file(options.output, options.input):
        raise ResultError(f"{options.output} is the input file: give another name for the output.")
    tracks = read_tracks(options.input)
    prepare_output(options.output)
    write_tracks(options.output, tracks, chosen.name)
    print_stderr(
        f"{tracks.n_frames} frames with {int(tracks.present.sum())} faces written as {chosen.title}; "
        f"not kept: {chosen.loses}."
    )
    return 0


def _formats(options: argparse.Namespace) -> int:
    from napari_face_landmarks.files.optional import installed
    from napari_face_landmarks.io.formats import FORMATS

    for item in FORMATS:
        missing = [name for name in item.needs if not installed(name)]
        print(f"{item.name}: {item.title} ({', '.join(item.suffixes)})")
        print(f"    also read by: {item.read_by}")
        print(f"    does not keep: {item.loses}")
        if missing:
            print(f"    needs: pip install {' '.join(missing)}")
    return 0
