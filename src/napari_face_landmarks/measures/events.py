"""Detection of blinks and movements: excursions of a measure from its baseline that exceed its noise.

One detector finds both. It subtracts a slowly varying baseline; events are intervals above a threshold, which
depends on the measured noise and on the landmarks' uncertainty. Onset and end are where the signal crosses a
tenth of the amplitude, interpolated linearly between frames.
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
"""Smallest amplitude of an event, in standard deviations of the noise from frame to frame."""
VARYING_SHARE = 0.5
"""Share of a standard error that differs between distant frames; the rest is an offset common to all."""
SMALLEST_CLOSURE = 0.3
"""Smaller partial closures are not counted as blinks."""
VALLEY = 0.35
"""Two peaks are separate events if the signal falls between them by this share of the lower peak."""
COMPLETE = 0.9
"""Closure from which a blink is complete."""
LONGEST_BLINK = 1.0
"""Seconds; longer closures are not blinks."""
SHORTEST_EVENT = 0.025
"""Seconds; shorter peaks are noise."""
EDGE, FULL = 0.1, 0.9
"""Shares of the amplitude that mark onset and end, and the fully reached excursion."""
BASELINE_SECONDS = 4.0
SMOOTHING_SECONDS = 0.03
"""Window of the Savitzky-Golay filter; below 70 frames per second nothing is filtered, to keep the depth of
short blinks."""


@dataclass(frozen=True, slots=True)
class Event:
    """An excursion of one measure of one face from its baseline.

    Attributes
    ----------
    measure : str
        Column of the table, such as ``"closure_right"``.
    face : int
    side : str
        ``"right"``, ``"left"`` or ``"both"``.
    frame : int
        Frame number of the peak in the video.
    onset, full, release, end : float
        Times in seconds: the signal rises through a tenth and nine tenths of the amplitude, and falls back
        through nine tenths and a tenth.
    peak : float
        Time of the greatest value, seconds.
    value, baseline, amplitude : float
        Greatest value, baseline, and their difference (negative for downward events), in the measure's unit.
    rise_velocity, fall_velocity : float
        Greatest speed towards the peak and back, in units per second, both positive.
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
        """Time from onset to end, seconds."""
        return self.end - self.onset


@dataclass(frozen=True, slots=True)
class Blink:
    """A blink of one face, with both eyes or only one.

    Attributes
    ----------
    face : int
    right, left : Event or None
        The closure of each eye; None if that eye stayed open or was not visible.
    """

    face: int
    right: Event | None
    left: Event | None

    @property
    def side(self) -> str:
        """``"both"``, or the side of the only eye that blinked."""
        if self.right is not None and self.left is not None:
            return "both"
        return "right" if self.right is not None else "left"

    @property
    def main(self) -> Event:
        """The closure of the eye that closed further."""
        events = [event for event in (self.right, self.left) if event is not None]
        return max(events, key=lambda event: event.value)

    @property
    def delay(self) -> float:
        """Onset of the left eye minus onset of the right one, seconds; NaN if only one eye blinked."""
        if self.right is None or self.left is None:
            return math.nan
        return self.left.onset - self.right.onset

    @property
    def complete(self) -> bool:
        """Whether every eye that blinked closed completely."""
        return all(event.complete for event in (self.right, self.left) if event is not None)


def blinks(table: MeasureTable, fps: float | None = None) -> list[Blink]:
    """Find the blinks of every face.

    Parameters
    ----------
    table : MeasureTable
        With the columns ``closure_right`` and ``closure_left``.
    fps : float, optional
        Frame rate; if given, it replaces the table's time stamps.

    Returns
    -------
    list of Blink
        Sorted by face, then by time. Closures longer than a second are left out; see `closures`.

    Raises
    ------
    MeasureError
        If there are fewer than two frames, or no time stamps and no frame rate.
    """
    return [blink for blink in closures(table, fps) if blink.main.duration <= LONGEST_BLINK]


def closures(table: MeasureTable, fps: float | None = None) -> list[Blink]:
    """Find closures of the eyes of any duration; parameters and errors are those of `blinks`."""
    check_table(table)
    result: list[Blink] = []
    for face in range(table.n_faces):
        right, left = (
            _events(table, f"closure_{side}", face, side, fps, SMALLEST_CLOSURE) for side in ("right", "left")
        )
        result += _pair_closures(face, right, left)
    return result


def movements(table: MeasureTable, name: str, fps: float | None = None, smallest: float = 0.0) -> list[Event]:
    """Find movements: excursions of one measure of every face, up or down from its baseline.

    Parameters
    ----------
    table : MeasureTable
    name : str
        A column, such as ``"mouth_opening"`` or ``"commissure_excursion_left"``.
    fps : float, optional
        Frame rate; if given, it replaces the table's time stamps.
    smallest : float
        Smallest amplitude, in the measure's unit; with 0 the noise alone sets the threshold.

    Returns
    -------
    list of Event
        Sorted by face, then by onset.

    Raises
    ------
    MeasureError
        If there is no such column, fewer than two frames, or no time stamps and no frame rate.
    """
    check_table(table)
    if not _is_number(smallest):
        raise MeasureError(f"The smallest amplitude is {smallest!r:.40}: give a number.")
    side = table.columns[table.column(name)].side
    return [
        event
        for face in range(table.n_faces)
        for event in sorted(
            _events(table, name, face, side, fps, smallest, slow=True)
            + _events(table, name, face, side, fps, smallest, sign=-1, slow=True),
            key=lambda event: event.onset,
        )
    ]


def check_table(table: Any) -> None:
    """Raise a `MeasureError` for anything but a table of measures, such as tracks or a path."""
    if not hasattr(table, "series_error"):
        raise MeasureError(f"Give measure(tracks), not an object of the type {type(table).__name__}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and math.isfinite(value)


def row_times(table: MeasureTable, fps: float | None = None) -> Floats:
    """Return the time of each row in seconds, from the frame rate if given, else from the time stamps.

    Raises a `MeasureError` if there are fewer than two rows, or neither increasing time stamps nor a frame
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
    slow: bool = False,
) -> list[Event]:
    seconds = row_times(table, fps)
    values = np.where(table.usable[:, face], table.series(name, face), np.nan)
    errors = table.series_error(name, face)
    step = float(np.median(np.diff(seconds)))
    signal = _smoothed(sign * values, seconds, step)
    base = _baseline(signal, step, slow)
    noise = frame_noise(values)
    typical = float(np.nanmedian(errors)) if np.isfinite(errors).any() else 0.0
    threshold = max(SIGNAL_TO_NOISE * max(noise, 1e-9), 2 * VARYING_SHARE * typical * (noise > 0), smallest)
    speed = np.gradient(signal, seconds)
    events: list[Event] = []
    intervals = _intervals(signal - base, threshold)
    for number, (first, last) in enumerate(intervals):
        peak = first + int(np.nanargmax(signal[first : last + 1]))
        limits = _valley(signal, intervals, number), _valley(signal, intervals, number + 1)
        onset, full, release, end = _edges(signal, float(base[peak]), peak, seconds, limits)
        if end - onset < SHORTEST_EVENT or (events and onset < events[-1].end):
            continue
        before_onset = int(np.searchsorted(seconds, onset)) - 1
        rise, fall = slice(max(before_onset, 0), peak + 1), slice(peak, last + 2)
        value, baseline = float(signal[peak]), float(base[peak])
        events.append(
            Event(
                measure=name,
                face=face,
                side=side,
                frame=int(table.frame_indices[peak]),
                onset=onset,
                full=full,
                release=release,
                end=end,
                peak=float(seconds[peak]),
                value=sign * value,
                baseline=sign * baseline,
                amplitude=sign * float(signal[peak] - base[peak]),
                rise_velocity=float(np.nanmax(np.maximum(speed[rise], 0), initial=0)),
                fall_velocity=float(np.nanmax(np.maximum(-speed[fall], 0), initial=0)),
                error=math.hypot(noise, VARYING_SHARE * typical),
                complete=sign * value >= COMPLETE,
            )
        )
    return events


def frame_noise(values: npt.NDArray[Any]) -> float:
    """Estimate the standard deviation of the noise of a series from frame to frame.

    The median absolute second difference is insensitive to slow movement and rare events:
    ``sd = 1.4826 median|x[t-1] - 2 x[t] + x[t+1]| / sqrt(6)``.
    """
    second = np.diff(np.asarray(values, np.float64), 2)
    second = second[np.isfinite(second)]
    return float(1.4826 * np.median(np.abs(second)) / math.sqrt(6)) if len(second) else 0.0


def _smoothed(values: Floats, seconds: Floats, step: float) -> Floats:
    """Apply a Savitzky-Golay filter of `SMOOTHING_SECONDS`; rows next to gaps in time stay unfiltered."""
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


def _baseline(signal: Floats, step: float, slow: bool) -> Floats:
    """Return a running percentile of the signal: the median or, if `slow`, a lower one of more time."""
    known = np.isfinite(signal)
    if not known.any():
        return np.zeros(len(signal))
    from scipy.ndimage import percentile_filter

    filled = np.interp(np.arange(len(signal)), np.flatnonzero(known), signal[known])
    percentile, window = (25.0, 5 * BASELINE_SECONDS) if slow else (50.0, BASELINE_SECONDS)
    size = min(2 * round(window / step / 2) + 1, 2 * len(signal) - 1)
    coarse = max(1, size // 101)
    if coarse == 1:
        return np.asarray(percentile_filter(filled, percentile, size=size, mode="nearest"))
    rows = np.arange(0, len(signal), coarse)
    base = percentile_filter(filled[rows], percentile, size=max(3, size // coarse | 1), mode="nearest")
    return np.asarray(np.interp(np.arange(len(signal)), rows, base))


def _intervals(above: Floats, threshold: float) -> list[tuple[int, int]]:
    """Return the first and last row of each interval above the threshold that has one peak.

    Two peaks are separate events if the signal falls between them by the threshold and by `VALLEY` of the
    lower peak; shallower dips count as noise.
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
    intervals = []
    for peak, first, last in zip(peaks, [0, *valleys], [*valleys, len(high) - 1], strict=True):
        below = np.flatnonzero(high[first:peak] < threshold)
        begin = first + int(below[-1]) + 1 if len(below) else first
        below = np.flatnonzero(high[peak : last + 1] < threshold)
        intervals.append((begin, peak + int(below[0]) - 1 if len(below) else last))
    return intervals


def _peaks(signal: Floats, height: float) -> npt.NDArray[np.int64]:
    """Return the local maxima of at least `height`: the middle of a plateau, never the first or last row.

    Equals ``scipy.signal.find_peaks``, whose import takes longer than finding the blinks of an hour.
    """
    ends = np.append(np.flatnonzero(np.diff(signal)), len(signal) - 1)
    starts = np.append(0, ends[:-1] + 1)
    level = signal[starts]
    is_peak = (level[1:-1] > level[:-2]) & (level[1:-1] > level[2:]) & (level[1:-1] >= height)
    return np.asarray((starts[1:-1][is_peak] + ends[1:-1][is_peak]) // 2)


def _valley(signal: Floats, intervals: Sequence[tuple[int, int]], number: int) -> int:
    """Return the row of the minimum before interval `number`; the first or last row at the ends."""
    if number == 0:
        return 0
    if number == len(intervals):
        return len(signal) - 1
    first, last = intervals[number - 1][1], intervals[number][0]
    between = signal[first : last + 1]
    return first + int(np.nanargmin(between)) if np.isfinite(between).any() else first


def _edges(
    signal: Floats, base: float, peak: int, seconds: Floats, limits: tuple[int, int]
) -> tuple[float, float, float, float]:
    """Return onset, full, release and end of an event, in seconds, from the row of its peak.

    The event ends at the latest in the rows `limits`, the minima between it and its neighbours.
    """
    amplitude = signal[peak] - base
    times = []
    for step, limit in ((-1, limits[0]), (1, limits[1])):
        for level in (base + EDGE * amplitude, base + FULL * amplitude):
            k = peak
            while k != limit and np.isfinite(signal[k + step]) and signal[k] > level:
                k += step
            inner = k - step
            if signal[k] > level or k == peak:
                times.append(float(seconds[k]))
                continue
            share = (signal[inner] - level) / (signal[inner] - signal[k])
            times.append(float(seconds[inner] + share * (seconds[k] - seconds[inner])))
    onset, full, end, release = times
    return onset, full, release, end


def _pair_closures(face: int, right: Sequence[Event], left: Sequence[Event]) -> list[Blink]:
    """Combine closures of the two eyes that overlap in time to one blink."""
    result, unpaired = [], list(left)
    for event in right:
        partner = next((o for o in unpaired if o.onset <= event.end and event.onset <= o.end), None)
        if partner is not None:
            unpaired.remove(partner)
        result.append(Blink(face, event, partner))
    result += [Blink(face, None, event) for event in unpaired]
    return sorted(result, key=lambda blink: blink.main.onset)
