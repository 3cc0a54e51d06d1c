"""What the dock says of a run in sentences; no Qt."""

from __future__ import annotations

from collections import deque

from napari_face_landmarks.napari_plugin.run_controller import BackgroundRun

RATE_WINDOW = 10.0  # seconds over which frames per second are counted


def describe_progress(run: BackgroundRun, times: deque[tuple[float, int]]) -> str:
    """Return how far a run is, how quick, and how long it will take.

    Parameters
    ----------
    run : BackgroundRun
    times : deque of (float, int)
        Seconds on the clock and frames finished by then, the latest last; what is older than `RATE_WINDOW` is
        dropped.
    """
    now, done = times[-1]
    while now - times[0][0] > RATE_WINDOW:
        times.popleft()
    total = run.stop - run.start
    if run.paused:
        return f"Paused after {done} of {total} frames."
    seconds = now - times[0][0]
    rate = (done - times[0][1]) / seconds if seconds > 0 else 0.0
    text = f"{done} of {total} frames"
    if rate > 0:
        text += f", {rate:.0f} fps, {duration((total - done) / rate)} left"
    return text


def describe_end(run: BackgroundRun) -> str:
    """Return how a run ended and what it found."""
    done, total = len(run.results), run.stop - run.start
    kept = f" {done} of {total} frames are finished and kept." if done else ""
    if run.error is not None:
        return run.error + kept
    if run.tracks is None:
        return "Cancelled before the first frame was finished." if not done else "Cancelled." + kept
    stats = run.tracks.stats
    if run.cancelled:
        return "Cancelled." + kept
    if not stats.completed:
        return f"Broke off:{kept} {warnings_in_words(run.tracks.warnings) if run.tracks.warnings else ''}"
    if not stats.frames_with_faces:
        return f"Done: no face was found on {counted(done, 'frame')}."
    text = f"Done: {counted(done, 'frame')}, a face on {stats.frames_with_faces}"
    if stats.refined:
        text += f", {counted(stats.refined, 'face')} refined by CLNF"
    return f"{text}; {stats.fps:.0f} fps."


def warnings_in_words(warnings: tuple[str, ...]) -> str:
    """Return the first of several warnings, and how many more there are."""
    more = len(warnings) - 1
    return warnings[0] + (f" ({counted(more, 'more warning')} in the layer's metadata.)" if more else "")


def counted(number: int, word: str) -> str:
    """Return a number with its word, in the plural where there are several."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def duration(seconds: float) -> str:
    """Return a duration in minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
