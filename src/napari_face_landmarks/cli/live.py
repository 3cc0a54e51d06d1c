"""The command `live`: landmarks of a camera or a pipe in real time."""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_face_landmarks.cli.console import fail, print_stderr
from napari_face_landmarks.cli.exports import VIDEO_OUTPUTS
from napari_face_landmarks.cli.options import (
    MODELS,
    add_options,
    add_settings_options,
    as_arguments,
    chosen_settings,
    number,
)
from napari_face_landmarks.cli.output_paths import prepare_output
from napari_face_landmarks.cli.track import until_interrupted
from napari_face_landmarks.errors import ResultError
from napari_face_landmarks.files.paths import checked_suffix

if TYPE_CHECKING:
    from napari_face_landmarks.tracking import FrameResult, Run
    from napari_face_landmarks.video.live import LiveFrames

PIPE = "-"
NOMINAL_RATE = 25.0
"""Frames per second in the header of live output."""

OPTIONS = {
    "source SOURCE": "- for a video on the standard input (y4m, Matroska, MPEG-TS, MJPEG), or the number "
    "of a camera",
    "-o --output OUT.csv": "write the landmarks at the end, as `track` does",
    "--overlay OUT.mp4|-": "write frames with their landmarks immediately: to a video, or as y4m to the "
    "standard output, for a player such as `ffplay -`",
    "--seconds X": "stop after this many seconds",
    "--keep-all": "let the source wait instead of dropping frames, for a pipe from a file",
    **MODELS,
}


def add_live(commands: Any) -> None:
    """Add the command `live`."""
    parser = commands.add_parser(
        "live",
        help="track a camera or a pipe in real time",
        description="Track the faces of a camera or of a video from a pipe in real time. Frames that arrive "
        "while the tracker is busy are dropped, so that the output is at most a few frames late; their "
        "number is reported. Stop with Ctrl-C.",
    )
    add_options(parser, OPTIONS, overlay={"type": str}, seconds={"type": _seconds})
    add_settings_options(parser)
    parser.set_defaults(run=_live)


def _seconds(text: str) -> float:
    seconds = number(text)
    if isinstance(seconds, str) or not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return float(seconds)


def _live(options: argparse.Namespace) -> int:
    settings = chosen_settings(options)
    for path in _checked_outputs(options):
        prepare_output(path)
    if options.source != PIPE and not options.source.isdecimal():
        raise ResultError(f"{options.source} is neither - nor a camera number: use `track` for files.")

    from napari_face_landmarks.models import load_models
    from napari_face_landmarks.tracking import FaceTracker
    from napari_face_landmarks.tracking.cuts import split_at_cuts
    from napari_face_landmarks.video.live import open_live

    tracker = FaceTracker(load_models(*as_arguments(options.models)), settings)
    tracker.prepare()
    live = open_live(
        sys.stdin.buffer if options.source == PIPE else int(options.source), keep_all=options.keep_all
    )
    source = _PendingFrames(live)
    results: list[FrameResult] = []
    try:
        run = tracker.track_frames(source)
        with until_interrupted() as interrupted:
            tracked = _track(run, live, options.seconds, interrupted)
            _write_overlay(options.overlay, source.drawn(tracked, results))
    finally:
        live.close()
    tracks = split_at_cuts(run.tracks(results))
    if options.output is not None and results:
        tracks.save(options.output)
    print_stderr(source.summary(len(results)))
    for sentence in dict.fromkeys([*live.warnings, *tracks.warnings]):
        print_stderr(f"Warning: {sentence}")
    if live.failure is not None:
        return fail(f"The source failed after {len(results)} frames, which are kept.")
    return 0 if tracks.stats.faces else fail("No face was detected: check that the source shows one.")


def _checked_outputs(options: argparse.Namespace) -> list[Path]:
    from napari_face_landmarks.io.formats import format_to_write

    outputs = []
    if options.output is not None:
        format_to_write(options.output, None)
        outputs.append(options.output)
    if options.overlay not in (None, PIPE):
        checked_suffix(Path(options.overlay), VIDEO_OUTPUTS)
        outputs.append(Path(options.overlay))
    return outputs


def _track(run: Run, live: LiveFrames, seconds: float | None, interrupted: Any) -> Iterator[FrameResult]:
    """Yield results until the source ends, `seconds` have passed or Ctrl-C is pressed."""
    for result in run:
        yield result
        if interrupted() or (seconds is not None and live.times[result.index] >= seconds):
            break
    run.close()


class _PendingFrames:
    """Iterator over live frames that keeps each until its landmarks are drawn, and records the latency."""

    def __init__(self, live: LiveFrames) -> None:
        self._live, self.times = live, live.times
        self._pending: deque[Any] = deque()
        self._latencies: list[float] = []

    def __iter__(self) -> _PendingFrames:
        return self

    def __next__(self) -> Any:
        frame = next(self._live)
        self._pending.append(frame)
        return frame

    def drawn(
        self, tracked: Iterator[FrameResult], results: list[FrameResult]
    ) -> Iterator[tuple[float, Any]]:
        """Append each tracked result to `results`, and yield its time in seconds and its overlay."""
        from napari_face_landmarks.video.pixels import to_rgb8
        from napari_face_landmarks.visualization import draw_landmarks

        for result in tracked:
            results.append(result)
            frame = self._pending.popleft()
            seconds = self._live.times[result.index]
            self._latencies.append(time.monotonic() - self._live.arrivals[result.index])
            yield seconds, draw_landmarks(to_rgb8(frame), result.landmarks, result.confidence, result.source)

    def summary(self, n_frames: int) -> str:
        """Return a sentence with the number of tracked and dropped frames and the latency."""
        if not n_frames:
            return "No frame was received."
        return (
            f"{n_frames} frames tracked, {self._live.dropped} dropped while the tracker was busy; the "
            f"latency of the landmarks was {1000 * statistics.median(self._latencies):.0f} ms (median; "
            f"{1000 * max(self._latencies):.0f} ms at most)."
        )


def _write_overlay(overlay: str | None, drawn: Iterator[tuple[float, Any]]) -> None:
    """Write overlays to a video or the standard output, or only iterate over them if there is no output."""
    from napari_face_landmarks.video import write_video
    from napari_face_landmarks.video.live import write_y4m

    if overlay == PIPE:
        write_y4m(sys.stdout.buffer, (image for _, image in drawn), NOMINAL_RATE)
        return
    first = next(drawn, None)
    if overlay is None or first is None:
        for _ in drawn:
            pass
        return
    times = [first[0]]

    def images() -> Iterator[Any]:
        yield first[1]
        for seconds, image in drawn:
            times.append(seconds)
            yield image

    # `images` appends the time of a frame before the writer reads it
    write_video(overlay, images(), NOMINAL_RATE, (times[frame] for frame in itertools.count()))
