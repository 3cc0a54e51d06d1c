"""What the commands say, and how they end."""

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


def say(text: str) -> None:
    """Say something on stderr, in one line, at once."""
    if sys.stderr is not None:  # closed, as a service may have it
        print(printable(text), file=sys.stderr, flush=True)


def on_terminal() -> bool:
    """Return whether what is said is read as it comes."""
    return sys.stderr is not None and sys.stderr.isatty()


def fail(sentence: str) -> int:
    """Say what went wrong, and return the exit status of that."""
    say(f"{PROGRAM}: {sentence}")
    return STATUS_ERROR


def tell(sentence: str | None) -> None:
    """Say something while a progress bar is shown."""
    if sentence is not None and sys.stderr is not None:
        from tqdm import tqdm

        tqdm.write(sentence, file=sys.stderr)


def say_on_stdout(text: str) -> None:
    """Print a part of what was asked for, at once."""
    print(text, flush=True)


@contextlib.contextmanager
def progress_bar(what: str, total: int, unit: str = "frames") -> Iterator[Callable[[], None]]:
    """Show a bar on stderr with frames per second and the time left; call the function for each frame."""
    from tqdm import tqdm

    # a file or a pipe gets a line now and then, a terminal a moving bar
    seconds = 0.2 if on_terminal() else 10.0
    bars: list[Any] = []

    def advance() -> None:
        if sys.stderr is None:
            return
        if not bars:  # loading and compiling before the first frame say nothing of the time left
            bars.append(tqdm(total=total, desc=what, unit=f" {unit}", mininterval=seconds, file=sys.stderr))
        bars[0].update()
        if bars[0].n >= total:
            bars[0].close()

    try:
        yield advance
    finally:
        for bar in bars:
            bar.close()


def summary(tracks: Tracks) -> str:
    """Return a run in a sentence."""
    stats = tracks.stats
    return (
        f"{stats.frames} frames, {stats.frames_with_faces} with a face; {stats.faces} faces found, of which "
        f"{stats.refined} refined, {stats.carried} carried, {stats.low_confidence} of low confidence; "
        f"{stats.fps:.1f} frames per second."
    )
