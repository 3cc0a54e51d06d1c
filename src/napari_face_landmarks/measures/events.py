"""Blinks and movements: where a measure leaves its baseline by more than its noise, and comes back.

One detector serves both. A slow baseline is subtracted; stretches that exceed a threshold, which follows from
the measured noise and from the landmarks' uncertainty, are events; onset and end are where a tenth of the
amplitude is crossed, between frames by linear interpolation.
"""

from __future__ import annotations

import itertools
import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.errors import MeasureError

if TYPE_CHECKING:
    from napari_face_landmarks.measures.table import MeasureTable

Floats = npt.NDArray[np.float64]

SIGNAL_TO_NOISE = 6.0
"""An event's amplitude is at least this many standard deviations of the noise from frame to frame."""
SYSTEMATIC = 0.5
"""Share of a standard error that differs from one frame to another far from it; the rest is a common
offset."""
SMALLEST_CLOSURE = 0.3
"""Partial closures smaller than this are not called blinks."""
VALLEY = 0.35
"""Two peaks are two events where the signal falls between them by this share of the lower one."""
COMPLETE = 0.9
"""Closure from which a blink is complete."""
LONGEST_BLINK = 1.0
"""Seconds; a longer closure is an event of its own kind, not a blink."""
SHORTEST_EVENT = 0.025
"""Seconds; shorter peaks are noise."""
EDGE, FULL = 0.1, 0.9
"""Shares of the amplitude at which an event begins and ends, and at which it is fully reached."""
BASELINE_SECONDS = 4.0
SMOOTHING_SECONDS = 0.03
"""Window of the Savitzky-Golay filter: none below 70 frames per second, so that short blinks keep their
depth."""


@dataclass(frozen=True, slots=True)
class Event:
    """A stretch on which one measure of one face leaves its baseline and comes back.

    Attributes
    ----------
    measure : str
        Column of the table, such as ``"closure_right"``.
    face : int
    side : str
        ``"right"``, ``"left"`` or ``"both"``.
    frame : int
        The peak's frame, by its number in the video.
    onset, full, release, end : float
        Seconds: a tenth of the amplitude is passed, nine tenths are reached, left, and a tenth is reached
        again.
    peak : float
        Seconds of the greatest value.
    value, baseline, amplitude : float
        Greatest value, what it rose from, and their difference (negative for events downwards), in the
        measure's unit.
    rise_velocity, fall_velocity : float
        Greatest speed on the way to the peak and back, unit per second, both positive.
    error : float
        Standard error of the amplitude.
    complete : bool
        For blinks, whether the closure reached `COMPLETE`.
    """

    measure: str
    face: int
    side: str
    frame: int
    onset: float
    full: float
    release: float
    end: float
    peak: float
    value: float
    baseline: float
    amplitude: float
    rise_velocity: float
    fall_velocity: float
    error: float
    complete: bool = False

    @property
    def duration(self) -> float:
        """Seconds from onset to end."""
        return self.end - self.onset


@dataclass(frozen=True, slots=True)
class Blink:
    """A blink of one face: of both eyes, or of one alone.

    Attributes
    ----------
    face : int
    right, left : Event or None
        The closure of each eye; None where that eye stayed open or was not seen.
    """

    face: int
    right: Event | None
    left: Event | None

    @property
    def side(self) -> str:
        """``"both"``, or the eye that blinked alone."""
        if self.right is not None and self.left is not None:
            return "both"
        return "right" if self.right is not None else "left"

    @property
    def main(self) -> Event:
        """The eye that closed further."""
        found = [event for event in (self.right, self.left) if event is not None]
        return max(found, key=lambda event: event.value)

    @property
    def delay(self) -> float:
        """Onset of the left eye minus that of the right one, seconds; NaN where one eye blinked alone."""
        if self.right is None or self.left is None:
            return math.nan
        return self.left.onset - self.right.onset

    @property
    def complete(self) -> bool:
        """Whether each eye that blinked closed completely."""
        return all(event.complete for event in (self.right, self.left) if event is not None)


def blinks(table: MeasureTable, fps: float | None = None) -> list[Blink]:
    """Find the blinks of every face.

    Parameters
    ----------
    table : MeasureTable
        With the columns ``closure_right`` and ``closure_left``.
    fps : float, optional
        Frame rate, where the table has no time stamps.

    Returns
    -------
    list of Blink
        By face, then by time. Closures longer than a second are not blinks; `closures` returns them.

    Raises
    ------
    MeasureError
        If there are fewer than two frames, or no time stamps and no frame rate.
    """
    return [blink for blink in closures(table, fps) if blink.main.duration <= LONGEST_BLINK]


def closures(table: MeasureTable, fps: float | None = None) -> list[Blink]:
    """Find the closures of the eyes, blinks and longer ones; as `blinks` otherwise."""
    check_table(table)
    found: list[Blink] = []
    for face in range(table.n_faces):
        right, left = (
            _events(table, f"closure_{side}", face, side, fps, SMALLEST_CLOSURE) for side in ("right", "left")
        )
        found += _paired(face, right, left)
    return found


def movements(table: MeasureTable, name: str, fps: float | None = None, smallest: float = 0.0) -> list[Event]:
    """Find the movements of one measure of every face, upwards and downwards from its baseline.

    Parameters
    ----------
    table : MeasureTable
    name : str
        A column, such as ``"mouth_opening"`` or ``"commissure_excursion_left"``.
    fps : float, optional
        Frame rate, where the table has no time stamps.
    smallest : float
        Smallest amplitude, in the measure's unit; the noise alone decides where 0.

    Raises
    ------
    MeasureError
        If there is no such column, fewer than two frames, or no time stamps and no frame rate.
    """
    check_table(table)
    if not _is_number(smallest):
        raise MeasureError(f"The smallest amplitude is {smallest!r:.40}: give a number.")
    side = table.columns[table.column(name)].side
    found: list[Event] = []
    for face in range(table.n_faces):
        both = [
            event
            for sign in (1, -1)
            for event in _events(table, name, face, side, fps, smallest, sign, long=True)
        ]
        found += sorted(both, key=lambda event: event.onset)
    return found


def check_table(table: Any) -> None:
    """Refuse what is no table of measures, such as tracks or a path, in a sentence."""
    if not hasattr(table, "series_error"):
        raise MeasureError(f"Give measure(tracks), not an object of the type {type(table).__name__}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and math.isfinite(value)


def time_of_rows(table: MeasureTable, fps: float | None = None) -> Floats:
    """Return the seconds of each row, from the time stamps or a frame rate.

    Raises a `MeasureError` if there are fewer than two rows, or neither time stamps that increase nor a frame
    rate.
    """
    check_table(table)
    if table.still:
        raise MeasureError("Events need at least two frames: give a recording, not a still.")
    if fps is not None:
        if not (_is_number(fps) and fps > 0):
            raise MeasureError(f"The frame rate is {fps!r}: give a number of frames per second above 0.")
        return np.asarray(table.frame_indices / fps, dtype=np.float64)
    seconds = np.asarray(table.timestamps, dtype=np.float64)
    if not np.isfinite(seconds).all():
        raise MeasureError("The recording has no time stamps: give the frame rate (fps=25, or --fps 25).")
    if len(wrong := np.flatnonzero(np.diff(seconds) <= 0)):
        raise MeasureError(
            f"The time stamp of frame {table.frame_indices[wrong[0] + 1]} is not after the one before "
            "it: correct it, or give the frame rate (fps=25, or --fps 25)."
        )
    return seconds


def _events(
    table: MeasureTable,
    name: str,
    face: int,
    side: str,
    fps: float | None,
    smallest: float,
    sign: int = 1,
    long: bool = False,
) -> list[Event]:
    seconds = time_of_rows(table, fps)
    values = np.where(table.usable[:, face], table.series(name, face), np.nan)
    errors = table.series_error(name, face)
    step = float(np.median(np.diff(seconds)))
    signal = _smoothed(sign * values, seconds, step)
    base = _baseline(signal, seconds, step, long)
    noise = noise_of(values)
    typical = float(np.nanmedian(errors)) if np.isfinite(errors).any() else 0.0
    threshold = max(SIGNAL_TO_NOISE * max(noise, 1e-9), 2 * SYSTEMATIC * typical * (noise > 0), smallest)
    speed = np.gradient(signal, seconds)
    found: list[Event] = []
    stretches = _stretches(signal - base, threshold)
    for number, (first, last) in enumerate(stretches):
        place = first + int(np.nanargmax(signal[first : last + 1]))
        ends = _valley(signal, stretches, number), _valley(signal, stretches, number + 1)
        edges = _edges(signal, float(base[place]), place, seconds, ends)
        if edges[3] - edges[0] < SHORTEST_EVENT or (found and edges[0] < found[-1].end):
            continue
        before = int(np.searchsorted(seconds, edges[0])) - 1  # the row before the onset
        rise, fall = slice(max(before, 0), place + 1), slice(place, last + 2)
        amplitude = float(signal[place] - base[place])
        found.append(
            Event(
                measure=name,
                face=face,
                side=side,
                frame=int(table.frame_indices[place]),
                onset=edges[0],
                full=edges[1],
                release=edges[2],
                end=edges[3],
                peak=float(seconds[place]),
                value=sign * float(signal[place]),
                baseline=sign * float(base[place]),
                amplitude=sign * amplitude,
                rise_velocity=float(np.nanmax(np.maximum(speed[rise], 0), initial=0)),
                fall_velocity=float(np.nanmax(np.maximum(-speed[fall], 0), initial=0)),
                error=math.hypot(noise, SYSTEMATIC * typical),
                complete=sign * float(signal[place]) >= COMPLETE,
            )
        )
    return found


def noise_of(values: npt.NDArray[Any]) -> float:
    """Return the standard deviation of a series' noise from frame to frame.

    Estimated from the median absolute second difference, which slow movement and rare events do not change:
    ``sd = 1.4826 median|x[t-1] - 2 x[t] + x[t+1]| / sqrt(6)``.
    """
    second = np.diff(np.asarray(values, np.float64), 2)
    second = second[np.isfinite(second)]
    return float(1.4826 * np.median(np.abs(second)) / math.sqrt(6)) if len(second) else 0.0


def _smoothed(values: Floats, seconds: Floats, step: float) -> Floats:
    """Return values over a Savitzky-Golay filter, where it reaches no farther than `SMOOTHING_SECONDS`."""
    window = 2 * int(SMOOTHING_SECONDS / step / 2) + 1
    if window < 5 or len(values) < window:
        return values
    known = np.isfinite(values)
    if not known.any():
        return values
    from scipy.signal import savgol_filter  # takes half a second: not at each start of a worker

    filled = np.interp(np.arange(len(values)), np.flatnonzero(known), values[known])
    padded = np.pad(seconds, window // 2, mode="edge")
    near = padded[window - 1 :] - padded[: 1 - window] < 2 * SMOOTHING_SECONDS
    return np.where(known, np.where(near, savgol_filter(filled, window, 2), filled), np.nan)


def _baseline(signal: Floats, seconds: Floats, step: float, long: bool) -> Floats:
    """Return what a signal rises from: a low percentile of the seconds around each frame."""
    known = np.isfinite(signal)
    if not known.any():
        return np.zeros(len(signal))
    from scipy.ndimage import percentile_filter

    filled = np.interp(np.arange(len(signal)), np.flatnonzero(known), signal[known])
    share = 50.0 if not long else 25.0
    seconds_around = BASELINE_SECONDS if not long else 5 * BASELINE_SECONDS
    size = min(2 * round(seconds_around / step / 2) + 1, 2 * len(signal) - 1)
    coarse = max(1, size // 101)
    if coarse == 1:
        return np.asarray(percentile_filter(filled, share, size=size, mode="nearest"))
    places = np.arange(0, len(signal), coarse)
    low = percentile_filter(filled[places], share, size=max(3, size // coarse | 1), mode="nearest")
    return np.asarray(np.interp(np.arange(len(signal)), places, low))


def _stretches(above: Floats, threshold: float) -> list[tuple[int, int]]:
    """Return first and last row of each event that reaches the threshold.

    Two peaks are two events where the signal falls between them by the threshold and by `VALLEY` of the lower
    one; shallower dips, of noise, are bridged.
    """
    high = np.where(np.isfinite(above), above, 0.0)
    peaks: list[int] = []
    for peak in (_peaks(np.concatenate([[0.0], high, [0.0]]), threshold) - 1).tolist():
        if peaks:
            lower = min(high[peaks[-1]], high[peak])
            if lower - high[peaks[-1] : peak].min() < max(threshold, VALLEY * lower):
                if high[peak] > high[peaks[-1]]:
                    peaks[-1] = peak
                continue
        peaks.append(peak)
    if not peaks:
        return []
    valleys = [a + int(np.argmin(high[a:b])) for a, b in itertools.pairwise(peaks)]
    stretches = []
    for peak, first, last in zip(peaks, [0, *valleys], [*valleys, len(high) - 1], strict=True):
        outside = np.flatnonzero(high[first:peak] < threshold)
        begin = first + int(outside[-1]) + 1 if len(outside) else first
        outside = np.flatnonzero(high[peak : last + 1] < threshold)
        stretches.append((begin, peak + int(outside[0]) - 1 if len(outside) else last))
    return stretches


def _peaks(signal: Floats, least: float) -> npt.NDArray[np.int64]:
    """Return the local maxima of at least `least`; of a plateau the middle, none at either end.

    As ``scipy.signal.find_peaks``, whose import takes longer than finding the blinks of an hour.
    """
    ends = np.append(np.flatnonzero(np.diff(signal)), len(signal) - 1)
    starts = np.append(0, ends[:-1] + 1)
    level = signal[starts]
    inside = (level[1:-1] > level[:-2]) & (level[1:-1] > level[2:]) & (level[1:-1] >= least)
    return np.asarray((starts[1:-1][inside] + ends[1:-1][inside]) // 2)


def _valley(signal: Floats, stretches: Sequence[tuple[int, int]], number: int) -> int:
    """Return the lowest row between event `number` and the one before it, or the first or last row."""
    if number == 0:
        return 0
    if number == len(stretches):
        return len(signal) - 1
    first, last = stretches[number - 1][1], stretches[number][0]
    part = signal[first : last + 1]
    return first + int(np.nanargmin(part)) if np.isfinite(part).any() else first


def _edges(
    signal: Floats, base: float, place: int, seconds: Floats, ends: tuple[int, int]
) -> tuple[float, float, float, float]:
    """Return onset, full, release and end of the event that peaks in a row, seconds.

    Its edges are at most at the valleys to the events next to it, the rows `ends`.
    """
    amplitude = signal[place] - base
    times = []
    for step, limit in ((-1, ends[0]), (1, ends[1])):
        for level in (base + EDGE * amplitude, base + FULL * amplitude):
            k = place
            while k != limit and np.isfinite(signal[k + step]) and signal[k] > level:
                k += step
            inner = k - step
            if signal[k] > level or k == place:
                times.append(float(seconds[k]))
                continue
            share = (signal[inner] - level) / (signal[inner] - signal[k])
            times.append(float(seconds[inner] + share * (seconds[k] - seconds[inner])))
    onset, full, end, release = times
    return onset, full, release, end


def _paired(face: int, right: Sequence[Event], left: Sequence[Event]) -> list[Blink]:
    """Return the blinks of two eyes: closures that overlap in time are one blink."""
    found, alone = [], list(left)
    for event in right:
        partner = next((o for o in alone if o.onset <= event.end and event.onset <= o.end), None)
        if partner is not None:
            alone.remove(partner)
        found.append(Blink(face, event, partner))
    found += [Blink(face, None, event) for event in alone]
    return sorted(found, key=lambda blink: blink.main.onset)
