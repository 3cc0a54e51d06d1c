"""The command `check`: statistics of a run and frames to check."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from napari_face_landmarks.cli.options import add_options, number
from napari_face_landmarks.cli.output_paths import check_distinct, prepare_output

OPTIONS = {
    "input FILE": "a file in a format that `formats` lists",
    "-o --output OUT.csv|OUT.json": "write the complete list as CSV, or with the statistics as JSON",
    "--series OUT.csv": "write a table with one row per face and frame",
    "--most N": "print at most N frames; default: %(default)s",
}


def add_check(commands: Any) -> None:
    """Add the command `check`."""
    from napari_face_landmarks.quality import Limits

    parser = commands.add_parser(
        "check",
        help="list the frames to check in a landmark file",
        description="Read landmarks from a file in any format and print the statistics of the run and the "
        "frames to check, the worst first: lost faces, jumps, low confidence, disagreement of PFLD and CLNF, "
        "and unlikely shapes.",
    )
    add_options(parser, OPTIONS, most={"default": 20})
    group = parser.add_argument_group("limits beyond which a frame is listed")
    for item in dataclasses.fields(Limits):
        option, text = "--" + item.name.replace("_", "-"), item.metadata["help"]
        group.add_argument(option, metavar="X", type=number, help=f"{text} Default: {item.default}.")
    parser.set_defaults(run=_check)


def _check(options: argparse.Namespace) -> int:
    from napari_face_landmarks.files.paths import checked_suffix
    from napari_face_landmarks.io.formats import read_tracks
    from napari_face_landmarks.quality import Limits, check, write_series, write_suspects
    from napari_face_landmarks.quality.report import SUFFIXES

    names = [item.name for item in dataclasses.fields(Limits)]
    limits = Limits(**{name: getattr(options, name) for name in names if getattr(options, name) is not None})
    outputs = {options.output: SUFFIXES, options.series: (".csv",)}
    check_distinct([options.input], (options.output, options.series))
    for path, suffixes in outputs.items():
        if path is not None:
            prepare_output(checked_suffix(path, suffixes))
    report = check(read_tracks(options.input), limits)
    for sentence in report.words:
        print(sentence)
    several = len(report.statistics.faces) > 1
    for item in report.suspects[: options.most]:
        face = f" face {item.face}" if several else ""
        span = f" (frames {item.first} to {item.last})" if item.last > item.first else ""
        print(f"  frame {item.frame}{face}  {item.text}{span}")
    if len(report.suspects) > options.most:
        print(f"  and {len(report.suspects) - options.most} more")
    if options.output is not None:
        write_suspects(options.output, report)
    if options.series is not None:
        write_series(options.series, report.series)
    return 0
