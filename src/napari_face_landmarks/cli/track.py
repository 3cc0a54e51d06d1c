"""The command `track`."""

from __future__ import annotations

import argparse
import contextlib
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from napari_face_landmarks.cli import console
from napari_face_landmarks.cli.exports import (
    VIDEO_OUTPUTS,
    add_export_options,
    check_export_options,
    write_exports,
)
from napari_face_landmarks.cli.options import (
    FORMAT,
    MODELS,
    SOURCE,
    SOURCE_ARGUMENTS,
    add_options,
    add_settings_options,
    as_arguments,
    chosen_settings,
)
from napari_face_landmarks.cli.output_paths import prepare_output
from napari_face_landmarks.errors import ResultError
from napari_face_landmarks.files.atomic import same_file
from napari_face_landmarks.files.json_file import write_json
from napari_face_landmarks.files.paths import checked_suffix
from napari_face_landmarks.jit import COMPILED

if TYPE_CHECKING:
    from napari_face_landmarks.runs.checkpoint import CheckpointedRun
    from napari_face_landmarks.tracking import Tracks
    from napari_face_landmarks.video import Video

NOTICE_SECONDS = 1.0
"""Seconds without a result after which the user is informed that kernels are being compiled."""
PREPARING = "Preparing: the first run after an installation compiles for some seconds …"

OPTIONS = {
    "video VIDEO": "a video, a folder of images, a multi-page TIFF file or an image",
    "-o --output OUT.csv": "landmarks: .csv for OpenFace's columns, .npz to include settings and "
    "statistics, or another format that `formats` lists",
    **FORMAT,
    "--stats STATS.json": "write counts, frames per second and the seconds of each stage",
    "--resume": "resume an interrupted run from its checkpoint next to OUT; the landmarks are those of "
    "an uninterrupted run. Without a checkpoint, start at the first frame, unless OUT exists.",
    "--from WHEN": "first frame to track: a frame (250) or a time (12.5, 12s, 1:30)",
    "--to WHEN": "first frame that is no longer tracked: a frame (250) or a time (12.5, 12s, 1:30)",
    **SOURCE,
    "--focal X": "focal length of the camera, for head position and rotation in OpenFace's columns: "
    "pixels (1300, or 250px), or 35 mm equivalent (26mm); default: the focal length that OpenFace assumes",
    "--regions FILE.json": "boxes in which to search for a face that the detector misses, and boxes to ignore"
    ', such as {"look": [{"box": [120, 80, 360, 380], "first": 0}], "ignore": [{"box": [500, 0, 640, 200]}]}',
    "--threads N": "number of threads in addition to the decoder's; default: one per processor core, at "
    "most 4. The landmarks do not depend on it.",
    **MODELS,
    "--experts": "implementation of CLNF's patch experts: compiled kernels (the default), or ONNX Runtime, "
    "which needs the package onnx",
    "--provider NAME": "execution provider of ONNX Runtime for --experts onnx, such as "
    "CUDAExecutionProvider; may be repeated, in order of preference; default: the first that is available",
}


def add_track(commands: Any) -> None:
    """Add the command `track`."""
    parser = commands.add_parser(
        "track",
        help="track the faces of a video",
        description="Track the faces of a video and write their landmarks as OpenFace CSV or in another "
        "format.",
    )
    add_options(
        parser,
        OPTIONS,
        output={"required": True},
        experts={"choices": ("numba", "onnx"), "default": "numba"},
        provider={"action": "append"},
        **SOURCE_ARGUMENTS,
    )
    add_export_options(parser)
    add_settings_options(parser)
    parser.set_defaults(run=_track)


def _track(options: argparse.Namespace) -> int:
    settings = chosen_settings(options)
    outputs = _checked_outputs(options)

    from napari_face_landmarks.io.formats import write_tracks
    from napari_face_landmarks.models import load_models
    from napari_face_landmarks.runs.checkpoint import CheckpointedRun, journal_of
    from napari_face_landmarks.tracking import FaceTracker
    from napari_face_landmarks.tracking.camera import focal_in_pixels, with_focal
    from napari_face_landmarks.tracking.cuts import split_at_cuts
    from napari_face_landmarks.tracking.regions import read_regions

    regions = None if options.regions is None else read_regions(options.regions)
    with _open(options.video, options.stream) as video:
        for path in outputs:
            prepare_output(path)
        part = _part(options, video)
        if options.focal is not None:
            focal_in_pixels(options.focal, video.shape[1:3])  # an error before anything is computed
        models = load_models(
            *as_arguments(options.models), experts=options.experts, providers=options.provider
        )
        tracker = FaceTracker(models, settings, options.threads)
        checkpointed = CheckpointedRun.begin(
            tracker,
            video,
            journal_of(options.output),
            resume=options.resume,
            regions=regions,
            part=part,
        )
        remove = options.resume and not checkpointed.kept
        try:
            if remove:
                _check_restart(options.output)
            remove = False
            interrupted = _run(checkpointed)
            tracks = split_at_cuts(checkpointed.tracks())
            if options.focal is not None:
                tracks = with_focal(tracks, options.focal)
            remove = not tracks.n_frames
            if not tracks.n_frames:
                console.print_stderr("Stopped before the first frame was finished: no file is written.")
                return console.STATUS_INTERRUPTED
            write_tracks(options.output, tracks, options.format)
            remove = not interrupted
        finally:  # the checkpoint is kept if it has frames that are in no other file
            checkpointed.close(remove=remove)
        if options.stats is not None:
            _write_stats(options.stats, tracks, options.video)
        console.print_stderr(console.summary(tracks))
        if not interrupted:
            write_exports(options, video, tracks, models, part)
    for sentence in dict.fromkeys([*video.info.warnings, *tracks.warnings]):
        console.print_stderr(f"Warning: {sentence}")
    if interrupted:
        console.print_stderr(
            f"Stopped after {tracks.n_frames} of {checkpointed.total} frames, which are in {options.output}; "
            "--resume continues."
        )
        return console.STATUS_INTERRUPTED
    if not video.info.complete or not tracks.stats.completed:
        return console.fail(
            f"{options.video} is truncated or damaged: the {tracks.n_frames} frames that could be read "
            f"are in {options.output}."
        )
    if tracks.stats.faces == 0:
        return console.fail(
            f"No face was detected in {options.video}: check that it shows an upright face that is not too "
            "small, or lower --min-confidence."
        )
    return 0


def _check_restart(output: Path) -> None:
    """Report that there is nothing to resume; raise a `ResultError` if a new run would replace a result."""
    if output.exists():
        raise ResultError(
            f"{output} exists and has no checkpoint: it is complete, or belongs to another run. Leave out "
            "--resume to track again and replace it, or give another output."
        )
    console.print_stderr("There is no interrupted run to resume: starting at the first frame.")


def _checked_outputs(options: argparse.Namespace) -> list[Path]:
    """Return the output files; invalid paths raise a `ResultError` before anything is computed."""
    from napari_face_landmarks.io.formats import format_to_write

    check_export_options(options)
    outputs: list[Path] = []
    for path, suffixes in (
        (options.output, ()),
        (options.stats, (".json",)),
        *((path, VIDEO_OUTPUTS) for path in (options.overlay, options.anonymise, options.faces)),
    ):
        if path is None:
            continue
        if path.absolute() in [other.absolute() for other in outputs]:
            raise ResultError(f"{path} is named twice: give each output file a different name.")
        if path is options.output:
            format_to_write(path, options.format)
        else:
            checked_suffix(path, suffixes)
        if same_file(path, options.video):
            raise ResultError(f"{path} is the video itself: give another name for the output.")
        if options.regions is not None and same_file(path, options.regions):
            raise ResultError(f"{path} is the file of regions: give another name for the output.")
        outputs.append(path)
    return outputs


def _open(path: Path, stream: int | None) -> Video:
    """Open a video without its warnings, which are printed at the end, after the results are saved."""
    from napari_face_landmarks.video import VideoWarning, open_video

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VideoWarning)
        return open_video(path, stream)


def _part(options: argparse.Namespace, video: Video) -> range:
    """Return the frames to track."""
    start, stop = _frame_at(getattr(options, "from"), video, 0), _frame_at(options.to, video, len(video))
    return range(max(0, start), min(stop, len(video)), options.every)


def _frame_at(when: int | float | None, video: Video, default: int) -> int:
    """Return the first frame at or after a time (float, in seconds after the first frame), or the frame."""
    if isinstance(when, float):
        times = video.info.timestamps
        return int((times < times[0] + when - 1e-6).sum())
    return default if when is None else when


def _run(checkpointed: CheckpointedRun) -> bool:
    """Track the remaining frames; return whether Ctrl-C ended the run."""
    from napari_face_landmarks.tracking.refinement_notice import RefinementNotice

    notice = RefinementNotice()
    run = checkpointed.run
    automatic = run.context.settings.refine == "auto"
    if checkpointed.kept:
        console.print_stderr(
            f"Resuming: {checkpointed.kept} of {checkpointed.total} frames were done before."
        )
    with (
        _compilation_notice() as cancel_notice,
        until_interrupted() as interrupted,
        console.progress_bar("Tracking", checkpointed.total - checkpointed.kept) as advance,
    ):
        # a second Ctrl-C, while a frame takes long, raises KeyboardInterrupt
        with contextlib.suppress(KeyboardInterrupt), contextlib.closing(run):
            for result in run:
                cancel_notice()
                advance()
                if automatic:
                    console.print_above_bar(notice.look(result, run.stats))
                if interrupted():
                    break
        if automatic:
            console.print_above_bar(notice.sentence(run.stats))
        return interrupted()


@contextlib.contextmanager
def _compilation_notice() -> Iterator[Callable[[], None]]:
    """Report once that kernels are being compiled, unless the yielded function is called before."""
    before, begun = len(COMPILED), threading.Event()

    def watch() -> None:
        while not begun.wait(NOTICE_SECONDS):
            if len(COMPILED) > before:
                return console.print_stderr(PREPARING)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield begun.set
    finally:
        begun.set()


@contextlib.contextmanager
def until_interrupted() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns True after the first Ctrl-C; a second one raises KeyboardInterrupt."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted.is_set
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield interrupted.is_set
    finally:
        signal.signal(signal.SIGINT, before)


def _write_stats(path: Path, tracks: Tracks, video: Path) -> None:
    record = {
        **tracks.stats.to_dict(),
        "video": str(video),
        "meta": dict(tracks.meta),
        "settings": tracks.settings.to_dict(),
        "warnings": list(tracks.warnings),
    }
    write_json(path, record)
