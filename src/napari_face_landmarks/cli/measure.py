"""The command `measure`: lengths, angles, blinks and asymmetry of recordings."""

from __future__ import annotations

import argparse
import dataclasses
import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_face_landmarks.cli.console import print_stderr, progress_bar
from napari_face_landmarks.cli.options import (
    MODELS,
    add_options,
    add_settings_options,
    as_arguments,
    chosen_settings,
    number,
)
from napari_face_landmarks.cli.output_paths import check_distinct, prepare_output
from napari_face_landmarks.errors import MeasureError

if TYPE_CHECKING:
    import pandas

    from napari_face_landmarks.measures import MeasureTable
    from napari_face_landmarks.tracking import Tracks

TABLES = (".csv", ".parquet")
PLOTS = (".png", ".svg", ".pdf")
REPORTS = (".html",)

OPTIONS = {
    "inputs VIDEO|RESULT": "videos or landmarks",
    "-o --output OUT.csv": "a row for each frame and face",
    "--events EVENTS.csv": "one row for each blink and eye",
    "--summary SUMMARY.csv": "one row for each face: at rest, at peak, range, asymmetry, blinks a minute",
    "--plot OUT.png": "curves of face 0, left and right",
    "--report OUT.html": "a readable page with images and curves; for two inputs, a comparison",
    "--long": "write OUT.csv with one row for each measure",
    "--rest FRAME|auto": "the frame at rest, counted from 0; default: the calmest second of each face",
    "--scale iris|MM_PER_PX|A-B=Lmm": "lengths in mm: from the iris, from millimetres per pixel, or from a "
    "known distance such as 36-45=90mm; default: percent of the distance between the outer canthi at rest",
    "--pose-corrected": "rotate each face to a frontal view first, with the depth of the shape model",
    "--measures NAME": "write only these measures, such as closure mouth_opening",
    "--fps N": "frame rate, instead of the recording's time stamps",
    **MODELS,
}


def add_measure(commands: Any) -> None:
    """Add the command `measure`."""
    parser = commands.add_parser(
        "measure",
        help="measure faces: eye closure, mouth, brows, asymmetry, blinks",
        description="Measure the faces of recordings and write a row for each frame and face, with a "
        "standard error next to each value. A video is tracked first; a file of landmarks, in a format that "
        "`formats` lists, is measured as it is.",
    )
    add_options(
        parser,
        OPTIONS,
        inputs={"nargs": "+"},
        rest={"default": "auto"},
        measures={"nargs": "+"},
        fps={"type": number},
    )
    add_settings_options(parser)
    parser.set_defaults(run=_measure)


def _measure(options: argparse.Namespace) -> int:
    outputs = _checked_outputs(options)
    settings = chosen_settings(options)
    from napari_face_landmarks.measures import parse_scale

    scale = parse_scale(options.scale)
    if options.fps is not None and not (isinstance(options.fps, (int, float)) and 0 < options.fps < math.inf):
        raise MeasureError(f"The frame rate is {options.fps}: give a number of frames per second above 0.")
    rest = _rest(options.rest)
    tables: list[tuple[Path, MeasureTable]] = []
    reported: list[tuple[Tracks, MeasureTable, Path | None]] = []  # only reports need the landmarks again
    for path in options.inputs:
        from napari_face_landmarks.measures import measure
        from napari_face_landmarks.video import VideoWarning

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", VideoWarning)  # printed below
            tracks, pdm, video_warnings = _read_or_track(path, options, settings)
        if options.fps is not None:
            tracks = dataclasses.replace(tracks, timestamps=tracks.frame_indices / options.fps)
        try:
            table = measure(
                tracks,
                rest=rest,
                scale=scale,
                pose_corrected=options.pose_corrected,
                pdm=pdm,
                names=options.measures,
            )
        except MeasureError as error:
            raise MeasureError(f"{path.name}: {error}") from None
        for sentence in dict.fromkeys([*video_warnings, *tracks.warnings, *table.warnings]):
            print_stderr(f"{path.name}: {sentence}")
        tables.append((path, table))
        if options.report is not None:
            reported.append((tracks, table, None if _is_result(path) else path))
        del tracks
    for path in outputs:
        prepare_output(path)
    _write(options, tables, reported)
    return 0


def _checked_outputs(options: argparse.Namespace) -> list[Path]:
    paths = (
        (options.output, TABLES),
        (options.events, TABLES),
        (options.summary, TABLES),
        (options.plot, PLOTS),
        (options.report, REPORTS),
    )
    outputs = [(path, suffixes) for path, suffixes in paths if path is not None]
    if not outputs:
        raise MeasureError(
            "There is nothing to write: give -o OUT.csv, --events, --summary, --plot or --report."
        )
    for path, suffixes in outputs:
        if path.suffix.lower() not in suffixes:
            raise MeasureError(f"{path} does not end in {' or '.join(suffixes)}: give another name.")
    limit = 1 if options.plot else 2
    if len(options.inputs) > limit and (options.plot or options.report):
        raise MeasureError(
            "A plot shows one recording, a report one or a comparison of two: give fewer inputs."
        )
    return check_distinct(options.inputs, [path for path, _ in outputs])


def _rest(text: str) -> int | str:
    if text == "auto":
        return text
    if not text.isdecimal():
        raise MeasureError(f"The rest frame is {text!r:.40}: give a frame's number, counted from 0, or auto.")
    return int(text)


def _read_or_track(
    path: Path, options: argparse.Namespace, settings: Any
) -> tuple[Tracks, Any, tuple[str, ...]]:
    """Read landmarks or track a video; return tracks, a point distribution model or None, and warnings."""
    from napari_face_landmarks.io.formats import read_tracks
    from napari_face_landmarks.models import load_models

    if _is_result(path):
        needs_pdm = options.pose_corrected and options.models is not None
        return read_tracks(path), load_models(options.models).pdm if needs_pdm else None, ()
    from napari_face_landmarks.tracking import FaceTracker

    models = load_models(*as_arguments(options.models))
    tracker = FaceTracker(models, settings)
    from napari_face_landmarks.video import open_video

    with open_video(path) as video, progress_bar(path.name, len(video)) as advance:
        tracks = tracker.track(video, advance)
        return tracks, models.pdm, video.info.warnings


def _write(
    options: argparse.Namespace,
    tables: list[tuple[Path, MeasureTable]],
    reported: list[tuple[Tracks, MeasureTable, Path | None]],
) -> None:
    from napari_face_landmarks.measures import blinks, summary
    from napari_face_landmarks.measures.files import (
        columns_of,
        events_to_dataframe,
        to_dataframe,
        write_table,
    )

    def concatenate(convert: Any) -> pandas.DataFrame:
        """Return one data frame of all recordings, with their names."""
        import pandas as pd

        frames = [(path, convert(table)) for path, table in tables]
        if len(frames) == 1:
            return frames[0][1]
        ambiguous = len({path.name for path, _ in frames}) < len(frames)  # same names in several folders
        for path, frame in frames:
            frame.insert(0, "recording", str(path) if ambiguous else path.name)
        return pd.concat([frame for _, frame in frames], ignore_index=True)

    outputs: list[tuple[Path, Any]] = []  # everything is computed before anything is written
    if options.output is not None and len(tables) == 1:  # avoids pandas, which takes long to import
        outputs.append((options.output, columns_of(tables[0][1], options.long)))
    elif options.output is not None:
        outputs.append((options.output, concatenate(lambda table: to_dataframe(table, options.long))))
    if options.events is not None:
        outputs.append((options.events, concatenate(lambda table: events_to_dataframe(blinks(table)))))
    if options.summary is not None:
        outputs.append((options.summary, concatenate(summary)))
    for path, frame in outputs:
        write_table(path, frame)
    if options.plot is not None:
        from napari_face_landmarks.measures.plot import plot_measures, save_figure

        save_figure(options.plot, plot_measures(tables[0][1]))
    if options.report is not None:
        from napari_face_landmarks.measures.report import write_comparison, write_report
        from napari_face_landmarks.measures.summary import find_differences

        if len(reported) == 1:
            write_report(options.report, *reported[0])
        else:
            write_comparison(options.report, reported[0], reported[1])
            for sentence in find_differences(tables[0][1], tables[1][1]):
                print_stderr(sentence)


def _is_result(path: Path) -> bool:
    from napari_face_landmarks.io.formats import FORMATS

    return path.suffix.lower() in {suffix for item in FORMATS for suffix in item.suffixes}
