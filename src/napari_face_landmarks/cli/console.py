"""Console output of the commands, and their exit statuses."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from napari_face_landmarks.errors import printable

if TYPE_CHECKING:
    from napari_face_landmarks.tracking import Tracks

PROGRAM = "napari-face-landmarks"
STATUS_ERROR = 2
STATUS_INTERRUPTED = 130


def print_stderr(text: str) -> None:
    """Print one line to stderr and flush it."""
    if sys.stderr is not None:  # there is none in some services
        print(printable(text), file=sys.stderr, flush=True)


def on_terminal() -> bool:
    """Return whether stderr is a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()


def fail(sentence: str) -> int:
    """Print an error and return the exit status for errors."""
    print_stderr(f"{PROGRAM}: {sentence}")
    return STATUS_ERROR


def print_above_bar(sentence: str | None) -> None:
    """Print a line to stderr while a progress bar is shown."""
    if sentence is not None and sys.stderr is not None:
        from tqdm import tqdm

        tqdm.write(sentence, file=sys.stderr)


def print_stdout(text: str) -> None:
    """Print a line to stdout and flush it."""
    print(text, flush=True)


@contextlib.contextmanager
def progress_bar(label: str, total: int, unit: str = "frames") -> Iterator[Callable[..., None]]:
    """Show a progress bar on stderr; call the yielded function after each frame."""
    from tqdm import tqdm

    interval = 0.2 if on_terminal() else 10.0  # seconds; in a file or pipe each update is a new line
    bars: list[Any] = []

    def advance(*_: object) -> None:  # callers may pass the number of finished frames and the total
        if sys.stderr is None:
            return
        if not bars:  # created late: loading and compiling would distort the estimated remaining time
            bars.append(tqdm(total=total, desc=label, unit=f" {unit}", mininterval=interval, file=sys.stderr))
        bars[0].update()
        if bars[0].n >= total:
            bars[0].close()

    try:
        yield advance
    finally:
        for bar in bars:
            bar.close()


def summary(tracks: Tracks) -> str:
    """Return a one-sentence summary of a run."""
    stats = tracks.stats
    return (
        f"{stats.frames} frames, {stats.frames_with_faces} with a face; {stats.faces} faces found, of which "
        f"{stats.refined} refined, {stats.carried} carried, {stats.low_confidence} of low confidence; "
        f"{stats.fps:.1f} frames per second."
    )
