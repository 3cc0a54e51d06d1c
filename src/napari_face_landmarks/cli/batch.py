"""The command `batch`."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_face_landmarks.cli.console import STATUS_ERROR, on_terminal
from napari_face_landmarks.cli.options import (
    MODELS,
    SOURCE,
    SOURCE_ARGUMENTS,
    add_options,
    add_settings_options,
    changed_settings,
    chosen_settings,
    count,
)
from napari_face_landmarks.errors import printable

if TYPE_CHECKING:
    from napari_face_landmarks.runs.job import FileResult

OPTIONS = {
    "inputs INPUT": "videos, folders of videos or images (recursively), and patterns such as 'day1/*.mp4'",
    "-o --output FOLDER": "created if necessary",
    "--format NAME": "a format that `formats` lists; default: openface (.csv)",
    "--jobs N": "parallel processes; default: one per processor core",
    "--scheduler ADDRESS": "run on the workers of a Dask cluster, such as tcp://host:8786; they must see "
    "the videos and FOLDER under the same paths",
    "--resume": "resume interrupted videos instead of starting them again",
    "--cut FRAMES": "divide videos of at least twice as many frames into chunks of about this length and "
    "track them in parallel; a chunk that does not match the previous one within 1e-4 px is tracked again",
    **SOURCE,
    "--settings FILE.json": 'settings as JSON, such as {"refine": "always"}; other options override them',
    "--measures": "also measure every video: tables next to each result, and batch-measures.csv with one row "
    "for each video and face",
    "--scale MM_PER_PX|A-B=Lmm": "as for `measure`",
    "--pose-corrected": "as for `measure`",
    **MODELS,
}


def add_batch(commands: Any) -> None:
    """Add the command `batch`."""
    batch = commands.add_parser(
        "batch",
        help="track many videos, one output file each",
        description="Track many videos in parallel processes or on a Dask cluster. A video that fails does "
        "not stop the others; videos that were done with the same settings are skipped. An existing file "
        "that belongs to another video, was not written by a batch or was changed since is never "
        "overwritten: its video fails. The folder gets batch-summary.csv and .txt. The exit status is 0 if "
        "all videos have their landmarks, otherwise 2.",
    )
    add_options(
        batch,
        OPTIONS,
        inputs={"nargs": "+"},
        output={"required": True},
        cut={"type": count},
        **SOURCE_ARGUMENTS,
    )
    add_settings_options(batch)
    batch.set_defaults(run=_batch)


def _batch(options: argparse.Namespace) -> int:
    from napari_face_landmarks.runs.batch import read_settings, succeeded, track_many
    from napari_face_landmarks.runs.summary import SUMMARY

    settings = chosen_settings(options)
    if options.settings is not None:
        settings = read_settings(options.settings).replace(**changed_settings(options))
    with _batch_bars() as (progress, on_result):
        results = track_many(
            options.inputs,
            options.output,
            models=options.models,
            settings=settings,
            format=options.format,
            jobs=options.jobs,
            scheduler=options.scheduler,
            resume=options.resume,
            cut_at=options.cut,
            every=options.every,
            stream=options.stream,
            measures=_measures(options),
            progress=progress,
            on_result=on_result,
        )
    print((options.output / f"{SUMMARY}.txt").read_text(encoding="utf-8"), end="")
    return 0 if succeeded(results) else STATUS_ERROR


def _measures(options: argparse.Namespace) -> dict[str, Any] | bool:
    if not options.measures:
        return False
    from napari_face_landmarks.measures import parse_scale

    parse_scale(options.scale)  # an invalid scale is an error before anything is tracked
    return {"scale": options.scale, "pose_corrected": options.pose_corrected}


@contextlib.contextmanager
def _batch_bars() -> Iterator[tuple[Callable[[str, int, int], None], Callable[[FileResult], None]]]:
    """Show a progress bar per running video on a terminal, and a line per finished video."""
    from tqdm import tqdm

    bars: dict[str, Any] = {}
    show_bars = on_terminal()
    overall = tqdm(desc="Batch", unit=" videos", file=sys.stderr, disable=not show_bars)

    def progress(video: str, done: int, total: int) -> None:
        if not show_bars:
            return
        if video not in bars:
            bars[video] = tqdm(
                total=total,
                desc=printable(Path(video).name)[:30],
                unit=" frames",
                leave=False,
                file=sys.stderr,
            )
        bars[video].update(done - bars[video].n)

    def on_result(result: FileResult) -> None:
        if result.video in bars:
            bars.pop(result.video).close()
        overall.update()
        speed = f"{result.frames} frames, {result.fps:.0f} frames per second" if result.frames else ""
        detail = result.reason or ("in an earlier run" if result.earlier else speed)
        tqdm.write(printable(f"{result.video}: {result.status}; {detail}"), file=sys.stderr)

    try:
        yield progress, on_result
    finally:
        for bar in bars.values():
            bar.close()
        overall.close()
