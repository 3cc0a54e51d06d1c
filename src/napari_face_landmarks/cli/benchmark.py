"""The command `benchmark`: speed and memory on this machine."""

from __future__ import annotations

import argparse
from typing import Any

from napari_face_landmarks.cli.console import print_stdout
from napari_face_landmarks.cli.options import MODELS, add_options, as_arguments
from napari_face_landmarks.cli.output_paths import check_distinct, prepare_output
from napari_face_landmarks.errors import SettingsError
from napari_face_landmarks.files.paths import checked_suffix

QUICK_FRAMES = 20
"""Frames of a quick race."""

OPTIONS = {
    "videos VIDEO": "videos of a face; whole runs use all of them, everything else the first",
    **MODELS,
    "--json OUT.json": "write all results as JSON",
    "--table OUT.md": "write Markdown tables; if the file has the markers <!-- speed table --> and "
    "<!-- end of speed table -->, between these",
    "--plot OUT.png": "draw a figure",
    "--quick": "use few frames; gives coarse figures",
    "--race": "compare the speed with that of other systems instead, on the first video: each in its own "
    "process, on one core and on two, in turn",
    "--peer NAME=PYTHON": "a system for --race, with the Python of the environment in which it is installed: "
    "mediapipe=PYTHON, dlib=PYTHON or dlib=PYTHON,MODEL.dat, pfld=MODEL.onnx (run with this package's "
    "Python), or NAME=PYTHON,SCRIPT.py; may be repeated",
    "--rounds N": "rounds of --race; default: 5",
}


def add_benchmark(commands: Any) -> None:
    """Add the command `benchmark`."""
    parser = commands.add_parser(
        "benchmark",
        help="measure the speed on this machine",
        description="Time every stage of a frame, the effect of each optimisation, and whole runs. This "
        "takes some minutes; the figures are reliable only on an otherwise idle machine.",
    )
    add_options(
        parser,
        OPTIONS,
        videos={"nargs": "+"},
        peer={"action": "append", "default": []},
        rounds={"default": 5},
    )
    parser.set_defaults(run=_benchmark)


def _benchmark(options: argparse.Namespace) -> int:
    if options.peer and not options.race:
        raise SettingsError("--peer is only used with --race: give --race too.")
    written = {".json": options.json, ".md": options.table, ".png": options.plot}
    outputs = check_distinct(options.videos, written.values())
    for suffix, path in written.items():
        if path is not None:
            checked_suffix(path, (suffix,))

    from napari_face_landmarks.benchmark.plot import check_plot

    for path in outputs:
        prepare_output(path)
    if options.plot is not None:
        check_plot()
    return _race(options) if options.race else _measure(options)


def _measure(options: argparse.Namespace) -> int:
    """Run the benchmark and write the requested outputs."""
    from napari_face_landmarks.benchmark import run_benchmark, write_plot, write_table
    from napari_face_landmarks.benchmark.run import QUICK, Effort
    from napari_face_landmarks.models import load_models

    models = load_models(*as_arguments(options.models))
    effort = QUICK if options.quick else Effort()
    result = run_benchmark(options.videos, models, effort=effort, say=print_stdout)
    if options.json is not None:
        result.save(options.json)
    if options.table is not None:
        write_table(options.table, result)
    if options.plot is not None:
        write_plot(options.plot, result)
    return 0


def _race(options: argparse.Namespace) -> int:
    """Compare the speed with that of other systems, and write the requested outputs."""
    from napari_face_landmarks.benchmark import race_table, run_race, write_race_plot, write_race_table
    from napari_face_landmarks.benchmark.race import parse_peer
    from napari_face_landmarks.models import DEFAULT_BUNDLE

    peers = [parse_peer(text) for text in options.peer]
    race = run_race(
        options.videos[0],
        options.models or DEFAULT_BUNDLE,
        peers,
        rounds=options.rounds,
        stop=QUICK_FRAMES if options.quick else None,
        say=print_stdout,
    )
    print_stdout(race_table(race))
    if options.json is not None:
        race.save(options.json)
    if options.table is not None:
        write_race_table(options.table, race)
    if options.plot is not None:
        write_race_plot(options.plot, race)
    return 0
