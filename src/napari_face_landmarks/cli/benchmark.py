"""The command `benchmark`: speed and memory on this machine."""

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
        help="measure the speed on this machine",
        description="Time every stage of a frame, the effect of each optimisation, and whole runs. This "
        "takes some minutes; the figures are reliable only on an otherwise idle machine.",
    )
    parser.add_argument(
        "videos",
        metavar="VIDEO",
        type=Path,
        nargs="+",
        help="videos of a face; whole runs use all of them, everything else the first",
    )
    add_models_option(parser)
    parser.add_argument("--json", metavar="OUT.json", type=Path, help="write all results as JSON")
    parser.add_argument(
        "--table",
        metavar="OUT.md",
        type=Path,
        help="write Markdown tables; if the file has the markers <!-- speed table --> and <!-- end of speed "
        "table -->, between these",
    )
    parser.add_argument("--plot", metavar="OUT.png", type=Path, help="draw a figure")
    parser.add_argument("--quick", action="store_true", help="use few frames; gives coarse figures")
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
