"""The command `benchmark`: how fast the tracker is on this machine."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from napari_face_landmarks.cli.console import say_on_stdout
from napari_face_landmarks.cli.options import add_models_option, given
from napari_face_landmarks.cli.output_paths import check_distinct, prepare_place
from napari_face_landmarks.files.paths import checked_suffix


def add_benchmark(commands: Any) -> None:
    """Add the command `benchmark`."""
    parser = commands.add_parser(
        "benchmark",
        help="measure how fast the tracker is on this machine",
        description="Time every part of a frame's work, add the optimisations to the plain method one by "
        "one, and time whole runs. It takes some minutes, and its figures mean something only while nothing "
        "else runs.",
    )
    parser.add_argument(
        "videos",
        metavar="VIDEO",
        type=Path,
        nargs="+",
        help="with a face; all but the whole runs use the first",
    )
    add_models_option(parser)
    parser.add_argument("--json", metavar="OUT.json", type=Path, help="write everything as JSON")
    parser.add_argument(
        "--table",
        metavar="OUT.md",
        type=Path,
        help="write Markdown tables; if the file has the markers <!-- speed table --> and <!-- end of speed "
        "table -->, between these",
    )
    parser.add_argument("--plot", metavar="OUT.png", type=Path, help="draw the optimisations and the rates")
    parser.add_argument(
        "--quick", action="store_true", help="try every part on a few frames; the figures mean little"
    )
    parser.set_defaults(run=_benchmark)


def _benchmark(options: argparse.Namespace) -> int:
    written = {".json": options.json, ".md": options.table, ".png": options.plot}
    check_distinct(options.videos, [path for path in written.values() if path is not None])
    for suffix, path in written.items():
        if path is not None:
            checked_suffix(path, (suffix,))

    from napari_face_landmarks.benchmark import run_benchmark, write_plot, write_table
    from napari_face_landmarks.benchmark.plot import check_plot
    from napari_face_landmarks.benchmark.run import QUICK, Effort
    from napari_face_landmarks.models import load_models

    models = load_models(*given(options.models))
    for path in written.values():
        if path is not None:
            prepare_place(path)
    if options.plot is not None:
        check_plot()
    result = run_benchmark(
        options.videos, models, effort=QUICK if options.quick else Effort(), say=say_on_stdout
    )
    if options.json is not None:
        result.save(options.json)
    if options.table is not None:
        write_table(options.table, result)
    if options.plot is not None:
        write_plot(options.plot, result)
    return 0
