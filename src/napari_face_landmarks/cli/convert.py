"""The commands `convert` and `formats`: files of landmarks in other formats."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from napari_face_landmarks.cli.console import say
from napari_face_landmarks.cli.options import add_format_option
from napari_face_landmarks.cli.output_paths import prepare_place
from napari_face_landmarks.errors import ResultError
from napari_face_landmarks.files.atomic import same_file


def add_convert(commands: Any) -> None:
    """Add the command `convert`."""
    parser = commands.add_parser(
        "convert",
        help="change the format of a file of landmarks",
        description="Read landmarks from a file of any format, and write them in another.",
    )
    parser.add_argument("input", metavar="IN", type=Path, help="a file in a format that `formats` lists")
    parser.add_argument("output", metavar="OUT", type=Path, help="its suffix chooses the format")
    add_format_option(parser)
    parser.set_defaults(run=_convert)


def add_formats(commands: Any) -> None:
    """Add the command `formats`."""
    parser = commands.add_parser("formats", help="list the formats of files of landmarks")
    parser.set_defaults(run=_formats)


def _convert(options: argparse.Namespace) -> int:
    from napari_face_landmarks.io.formats import format_to_write, read_tracks, write_tracks

    chosen = format_to_write(options.output, options.format)
    if same_file(options.output, options.input):
        raise ResultError(
            f"{options.output} is the file that is read: give another name for what is written."
        )
    tracks = read_tracks(options.input)
    prepare_place(options.output)
    write_tracks(options.output, tracks, chosen.name)
    say(
        f"{tracks.n_frames} frames, {int(tracks.present.sum())} faces on them, written as {chosen.title}; "
        f"it loses {chosen.loses}."
    )
    return 0


def _formats(options: argparse.Namespace) -> int:
    from napari_face_landmarks.files.optional import installed
    from napari_face_landmarks.io.formats import FORMATS

    for item in FORMATS:
        missing = [name for name in item.needs if not installed(name)]
        print(f"{item.name}: {item.title} ({', '.join(item.suffixes)})")
        print(f"    read by: {item.read_by}")
        print(f"    loses: {item.loses}")
        if missing:
            print(f"    needs: pip install {' '.join(missing)}")
    return 0
