"""Race: speed of this package and of other installed face trackers on one video."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from napari_face_landmarks.benchmark import peer as script
from napari_face_landmarks.benchmark.timing import BUSY, machine
from napari_face_landmarks.errors import ResultError, SettingsError, in_one_line
from napari_face_landmarks.files.json_file import write_json
from napari_face_landmarks.files.markdown import table, write_section
from napari_face_landmarks.video import open_video
from napari_face_landmarks.video.container import thread_count

SECTION = "race table"
"""Name in the markers ``<!-- race table -->`` and ``<!-- end of race table -->``."""
KNOWN = ("mediapipe", "dlib", "pfld")
"""Systems that `peer.py` can run; others need a script."""
OURS: dict[str, dict[str, Any]] = {
    "ours, PFLD alone": {"refine": "off"},
    "ours, defaults": {},
    "ours, CLNF on every frame": {"refine": "always", "clnf_every": 1},
    "ours, PFLD and CLNF on every frame": {"refine": "always", "clnf_every": 1, "pfld_every": 1},
}
"""Settings with which this package takes part."""
WARM_UP = 5
"""Frames of a first run, not counted, that tests whether a system works."""
LONGEST_RUN = 1800
"""Time limit of a run, seconds."""


@dataclass(frozen=True)
class Peer:
    """Another system in a race.

    Attributes
    ----------
    name : str
        One of `KNOWN`, or any name if `script` is given.
    python : str
        Python of the environment in which it is installed.
    model : str or None
        Shape predictor of dlib, or landmark network (ONNX) of `pfld`.
    script : str or None
        Custom script with the arguments and the output of `peer.py`.
    """

    name: str
    python: str
    model: str | None = None
    script: str | None = None


@dataclass(frozen=True)
class Lap:
    """One run of a system."""

    fps: float  # frames per second, from opening the file to the last landmarks
    end_to_end_fps: float  # the same, including start of the process, imports and models
    cpu_ms: float  # processor time of all threads per frame, milliseconds
    peak_mb: float | None  # peak memory; None if unknown


@dataclass(frozen=True)
class Entry:
    """A system in a race."""

    system: str  # key in `OURS`, or name of the `Peer`
    name: str  # reported by the system, with its version
    cores: int  # number of cores to which its process is pinned
    faces: float  # share of the frames on which it finds a face
    laps: list[Lap]  # one for each round

    @property
    def ours(self) -> bool:
        """Whether it is this package."""
        return self.system in OURS

    @property
    def label(self) -> str:
        """Name in tables and plots."""
        return self.system if self.ours else self.name

    def median(self, what: str) -> float:
        """Return the median of a field of the laps; NaN if unknown."""
        return float(np.median(self._values(what)))

    def range(self, what: str) -> tuple[float, float]:
        """Return minimum and maximum of a field of the laps; NaN if unknown."""
        values = self._values(what)
        return min(values), max(values)

    def _values(self, what: str) -> list[float]:
        values = [getattr(lap, what) for lap in self.laps]
        return [math.nan if value is None else value for value in values]


@dataclass(frozen=True)
class Race:
    """Result of a race.

    Attributes
    ----------
    machine : dict
        Processor, cores, versions, load average before the start.
    video : str
        Name, size and number of frames.
    entries : list of Entry
    left_out : dict of str to str
        Systems that did not take part, with the reason.
    warnings : list of str
        Reasons why the figures may be unreliable.
    """

    machine: dict[str, Any]
    video: str
    entries: list[Entry]
    left_out: dict[str, str]
    warnings: list[str] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write all results as JSON."""
        write_json(path, self)


@dataclass(frozen=True)
class _Competitor:
    """Command of a system: `command`, then video, number of frames and of cores, then `arguments`."""

    system: str
    command: tuple[str, ...]
    arguments: tuple[str, ...] = ()


def parse_peer(text: str) -> Peer:
    """Read ``NAME=PYTHON``, ``dlib=PYTHON,MODEL.dat``, ``pfld=MODEL.onnx`` or ``NAME=PYTHON,SCRIPT.py``.

    Raises
    ------
    SettingsError
        If the text has another form.
    """
    name, equals, value = text.partition("=")
    parts = value.split(",")
    if equals and name and all(parts):
        if name == "pfld" and len(parts) == 1:
            return Peer(name, sys.executable, parts[0])
        if len(parts) == 2 and parts[1].endswith(".py"):
            return Peer(name, parts[0], script=parts[1])
        if name == "mediapipe" and len(parts) == 1:
            return Peer(name, parts[0])
        if name == "dlib" and len(parts) <= 2:
            return Peer(name, parts[0], *parts[1:])
    raise SettingsError(
        f"The peer {text!r} is unknown: give mediapipe=PYTHON, dlib=PYTHON or dlib=PYTHON,MODEL.dat, "
        "pfld=MODEL.onnx, or NAME=PYTHON,SCRIPT.py."
    )


def run_race(
    path: Path,
    models: str,
    peers: Sequence[Peer],
    *,
    rounds: int = 5,
    stop: int | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Race:
    """Race this package with other systems: each runs once a round, in shuffled order.

    Each run has its own process, pinned to one core or to two.

    Parameters
    ----------
    path : Path
        A video with one face.
    models : str
        Name or folder of this package's bundle.
    peers : sequence of Peer
        Systems that cannot be run are left out.
    rounds : int
    stop : int, optional
        Stop before this frame.
    say : callable
        Called with each result as a sentence.

    Raises
    ------
    VideoError
        If the video cannot be read.
    ResultError
        If this package cannot be run.
    """
    with open_video(path) as video:
        frames = len(video) if stop is None else min(stop, len(video))
        about = f"{path.name}, {video.shape[2]} x {video.shape[1]}, {frames} frames"
    machine_now = machine()
    busy = machine_now["load"] is not None and machine_now["load"] > BUSY
    warnings = [f"The machine was busy (load average {machine_now['load']:.1f})."] if busy else []
    given = {peer.name for peer in peers}
    left_out = {name: f"not given (--peer {name}=...)" for name in KNOWN if name not in given}
    competitors, names = [], {}
    for competitor in _competitors(path, models, peers):
        say(f"{competitor.system}: first run")
        report = _run(competitor, path, min(frames, WARM_UP), 1)
        if isinstance(report, str):
            if competitor.system in OURS:
                raise ResultError(f"This package cannot be raced on {path}: {report}")
            left_out[competitor.system] = report
        else:
            competitors.append(competitor)
            names[competitor.system] = report["name"]
    runs: dict[tuple[_Competitor, int], list[dict[str, Any]]] = {
        (competitor, cores): [] for cores in sorted({1, min(2, thread_count())}) for competitor in competitors
    }
    for number in range(rounds):
        order = list(runs)
        random.Random(number).shuffle(order)
        for competitor, cores in order:
            report = _run(competitor, path, frames, cores)
            if isinstance(report, str):
                raise ResultError(f"{competitor.system} could not be run again: {report}")
            runs[competitor, cores].append(report)
        say(f"round {number + 1} of {rounds}")
    entries = []
    for (competitor, cores), reports in runs.items():
        share, laps = reports[-1]["faces"] / reports[-1]["frames"], [_lap(report) for report in reports]
        entries.append(Entry(competitor.system, names[competitor.system], cores, share, laps))
    return Race(machine_now, about, entries, left_out, warnings)


def _competitors(path: Path, models: str, peers: Sequence[Peer]) -> list[_Competitor]:
    this_package = (sys.executable, script.__file__)
    competitors = [
        _Competitor(system, (*this_package, "ours"), (json.dumps(given), models))
        for system, given in OURS.items()
    ]
    for peer in peers:
        if peer.script is not None:
            competitors.append(_Competitor(peer.name, (peer.python, peer.script)))
            continue
        arguments: tuple[str, ...] = () if peer.model is None else (peer.model,)
        if peer.name == "pfld":
            arguments += _box_of(path, models)
        competitors.append(_Competitor(peer.name, (peer.python, script.__file__, peer.name), arguments))
    return competitors


def _box_of(path: Path, models: str) -> tuple[str, ...]:
    """Return the box of the face on the first frame as arguments for ``pfld``."""
    from napari_face_landmarks.tracking import FaceTracker

    with open_video(path) as video:
        boxes = FaceTracker(models).detect(np.asarray(video[0]))
    if not len(boxes):
        raise ResultError(f"{path} has no face on its first frame: choose another video.")
    return tuple(f"{value:.1f}" for value in boxes[0, :4])


def _run(competitor: _Competitor, path: Path, frames: int, cores: int) -> dict[str, Any] | str:
    """Run a system in a subprocess; return its report with ``wall``, seconds, or the reason why it failed."""
    command = [*competitor.command, str(path), str(frames), str(cores), *competitor.arguments]
    began = time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LONGEST_RUN)
    except (OSError, subprocess.TimeoutExpired) as error:
        return in_one_line(error)
    wall = time.perf_counter() - began
    try:
        report = json.loads(done.stdout.splitlines()[-1])
        if report["frames"] < 1:
            return "it read no frame"
        rates = {key: float(report[key]) for key in ("frames", "faces", "seconds", "cpu_seconds")}
        return {"name": str(report["name"]), "peak_mb": report.get("peak_mb"), "wall": wall, **rates}
    except (IndexError, ValueError, KeyError, TypeError):
        lines = done.stderr.strip().splitlines() or ["it printed no result"]
        return in_one_line(Exception(lines[-1]))


def _lap(report: dict[str, Any]) -> Lap:
    frames = report["frames"]
    cpu_ms = 1e3 * report["cpu_seconds"] / frames
    return Lap(frames / report["seconds"], frames / report["wall"], cpu_ms, report["peak_mb"])


def race_table(race: Race) -> str:
    """Return the results of a race as Markdown."""
    rows = []
    for entry in sorted(race.entries, key=lambda e: (-e.cores, -e.median("fps"))):
        low, high = entry.range("fps")
        memory = entry.median("peak_mb")
        rows.append(
            (
                entry.label,
                str(entry.cores),
                f"{entry.median('fps'):.0f}",
                f"{low:.0f} to {high:.0f}",
                f"{entry.median('end_to_end_fps'):.0f}",
                f"{entry.median('cpu_ms'):.2f}",
                "unknown" if math.isnan(memory) else f"{memory:.0f}",
                f"{100 * entry.faces:.0f} %",
            )
        )
    head = (
        "system", "cores", "frames per second", "range", "end to end", "CPU ms a frame", "MB", "with a face",
    )  # fmt: skip
    load = race.machine["load"]
    before = "" if load is None else f", load average {load:.1f} before the start"
    rounds = len(race.entries[0].laps)
    parts = [
        f"{race.machine['processor']}{before}; "
        f"{race.video}; medians of {rounds} rounds, each system once a round in shuffled order, in processes "
        "pinned to one core or two. End to end: with the start of the process.",
        *[f"**{sentence}**" for sentence in race.warnings],
        table(head, rows),
    ]
    if race.left_out:
        parts.append("Left out: " + "; ".join(f"{name}: {why}" for name, why in race.left_out.items()) + ".")
    return "\n\n".join(parts) + "\n"


def write_race_table(path: Path, race: Race) -> None:
    """Write the table of a race to a Markdown file, between the markers of `SECTION` if it has them.

    Raises
    ------
    ResultError
        If the file cannot be written, or has only one of the markers.
    """
    write_section(path, race_table(race), SECTION)
