"""Videos that `track` writes in addition to the landmarks: overlay, anonymised video, crops of faces."""

from __future__ import annotations

import argparse
import contextlib
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

from napari_face_landmarks.cli.console import print_stderr, progress_bar
from napari_face_landmarks.cli.options import add_options, count
from napari_face_landmarks.errors import ResultError

if TYPE_CHECKING:
    from napari_face_landmarks.models import Models
    from napari_face_landmarks.tracking import Tracks
    from napari_face_landmarks.video import Video

VIDEO_OUTPUTS = (".mp4", ".m4v", ".mkv", ".mov", ".avi")

OPTIONS = {
    "--overlay OUT.mp4": "write the video with the landmarks drawn on it",
    "--anonymise OUT.mp4": "write the video with all faces blurred, whether tracked or only detected, and "
    "between the frames on which they are detected; check the result before you publish it",
    "--anonymise-by": "how faces are covered: blurred (blur, the default) or filled with one grey (box)",
    "--faces OUT.mp4": "write aligned crops, a video for each face: OUT-face_0.mp4, OUT-face_1.mp4 and so on",
    "--faces-part": "part of the face in the crops: face (the default), mouth or eyes",
    "--faces-size PX": "height of the crops, 16 to 2048; default: 256 for faces, 96 for mouths and eyes "
    "(192 x 96)",
}


def add_export_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of videos to write."""
    group = parser.add_argument_group("videos to write, with the sound and time stamps of VIDEO")
    add_options(
        group,
        OPTIONS,
        anonymise_by={"choices": ("blur", "box")},
        faces_part={"choices": ("face", "mouth", "eyes")},
        faces_size={"type": _height},
    )


def _height(text: str) -> int:
    height = count(text)
    if not 16 <= height <= 2048:
        raise argparse.ArgumentTypeError(f"{text} is not from 16 to 2048")
    return height


def check_export_options(options: argparse.Namespace) -> None:
    """Raise an error for options of videos that are not written, and for names that crops may overwrite."""
    for name in ("anonymise_by", "faces_part", "faces_size"):
        video = name.partition("_")[0]
        if getattr(options, name) is not None and getattr(options, video) is None:
            option = name.replace("_", "-")
            raise ResultError(f"--{option} is only used with --{video}: also give --{video} OUT.mp4.")
    crops = options.faces
    for path in (options.overlay, options.anonymise):
        if crops is None or path is None or path.parent.absolute() != crops.parent.absolute():
            continue
        if path.name.startswith(f"{crops.stem}-") and path.suffix == crops.suffix:
            raise ResultError(f"{path} may be overwritten by the crops of {crops}: give another name.")


@contextlib.contextmanager
def _print_warnings() -> Iterator[None]:
    """Print the video warnings of a block or function at its end, each once."""
    from napari_face_landmarks.video import VideoWarning

    with warnings.catch_warnings(record=True) as recorded:
        warnings.simplefilter("always", VideoWarning)
        yield
    for sentence in dict.fromkeys(str(item.message) for item in recorded if item.category is VideoWarning):
        print_stderr(f"Warning: {sentence}")


@_print_warnings()
def write_exports(
    options: argparse.Namespace, video: Video, tracks: Tracks, models: Models, part: range
) -> None:
    """Write the selected videos; `part` is the range of tracked frames."""
    from napari_face_landmarks.visualization import write_anonymised, write_face_crops, write_overlay
    from napari_face_landmarks.visualization.face_crops import n_crops

    if options.overlay is not None:
        with progress_bar("Overlay", tracks.n_frames) as advance:
            write_overlay(options.overlay, video, tracks, progress=advance)
    if options.anonymise is not None:
        n_frames = part.stop - part.start
        with progress_bar("Anonymise", 2 * n_frames) as advance:
            uncovered = write_anonymised(
                options.anonymise,
                video,
                tracks,
                models,
                options.anonymise_by or "blur",
                part,
                advance,
            )
        if uncovered:
            print_stderr(
                f"Warning: no face was detected, and nothing covered, on {len(uncovered)} of {n_frames} "
                f"frames of {options.anonymise} ({_ranges(uncovered)}): check them before you publish it."
            )
    if options.faces is not None:
        with progress_bar("Faces", n_crops(tracks)) as advance:
            write_face_crops(
                options.faces,
                video,
                tracks,
                options.faces_part or "face",
                options.faces_size,
                advance,
            )


def _ranges(frames: list[int], limit: int = 5) -> str:
    """Return ascending frames as at most `limit` ranges: "0 to 3, 7, 12 to 20"."""
    import numpy as np

    spans = np.split(frames, np.flatnonzero(np.diff(frames) > 1) + 1)
    ranges = [str(span[0]) if len(span) == 1 else f"{span[0]} to {span[-1]}" for span in spans[:limit]]
    return ", ".join(ranges) + (", …" if len(spans) > limit else "")
