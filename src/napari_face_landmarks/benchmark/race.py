"""A race: this package and others that the user has installed, in turn, on one video and machine."""

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
"""Markers in a file: ``<!-- race table -->`` and ``<!-- end of race table -->``."""
KNOWN = ("mediapipe", "dlib", "pfld")
"""Systems that `peer.py` can run; others come with a script of their own."""
OURS: dict[str, dict[str, Any]] = {
    "ours, PFLD alone": {"refine": "off"},
    "ours, defaults": {},
    "ours, CLNF on every frame": {"refine": "always", "clnf_every": 1},
    "ours, PFLD and CLNF on every frame": {"refine": "always", "clnf_every": 1, "pfld_every": 1},
}
"""Settings of each way of this package."""
WARM_UP = 5
"""Frames of a first run, not counted, that shows whether a system can be run."""
LONGEST_RUN = 1800
"""Seconds after which a run is given up."""


@dataclass(frozen=True)
class Peer:
    """Another system in a race.

    Attributes
    ----------
    name : str
        One of `KNOWN`, or any name if `script` is given.
    python : str
        The Python of the environment that has it.
    model : str or None
        dlib's shape predictor; the landmark network (ONNX) of `pfld`.
    script : str or None
        The user's own script, with the arguments and the output of `peer.py`.
    """

    name: str
    python: str
    model: str | None = None
    script: str | None = None


@dataclass(frozen=True)
class Lap:
    """One run of a system."""

    fps: float  # frames per second, from opening the file to the last landmarks
    end_to_end_fps: float  # the same with the start of the process, its imports and models
    cpu_ms: float  # time of the processor, all threads together, milliseconds a frame
    peak_mb: float | None  # peak memory; None if unknown


@dataclass(frozen=True)
class Entry:
    """A system in a race."""

    system: str  # how it is called in the race
    name: str  # what it calls itself, with its version
    cores: int  # processor cores to which its process is pinned
    faces: float  # share of the frames on which it finds a face
    laps: list[Lap]  # one for each round

    @property
    def ours(self) -> bool:
        """Whether it is a way of this package."""
        return self.system in OURS

    @property
    def label(self) -> str:
        """How tables and plots name it: others with their version."""
        return self.system if self.ours else self.name

    def median(self, what: str) -> float:
        """Return the median of a field of the laps; NaN if unknown."""
        return float(np.median(self._values(what)))

    def range(self, what: str) -> tuple[float, float]:
        """Return the least and the largest of a field of the laps; NaN if unknown."""
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
class _Starter:
    """What takes part: its command, without video, frames and cores, and what follows these."""

    system: str
    command: tuple[str, ...]
    rest: tuple[str, ...] = ()


def parse_peer(text: str) -> Peer:
    """Read ``NAME=PYTHON``, ``dlib=PYTHON,MODEL.dat``, ``pfld=MODEL.onnx`` or ``NAME=PYTHON,SCRIPT.py``.

    Raises
    ------
    SettingsError
        If it is none of these.
    """
    name, given, value = text.partition("=")
    places = value.split(",")
    if given and name and all(places):
        if name == "pfld" and len(places) == 1:
            return Peer(name, sys.executable, places[0])
        if len(places) == 2 and places[1].endswith(".py"):
            return Peer(name, places[0], script=places[1])
        if name == "mediapipe" and len(places) == 1:
            return Peer(name, places[0])
        if name == "dlib" and len(places) <= 2:
            return Peer(name, places[0], *places[1:])
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
    """Race this package with other systems: all run once in each round, in an order that is shuffled.

    Each run is a process of its own that is pinned to one core, or to two.

    Parameters
    ----------
    path : Path
        A video with one face.
    models : str
        Name or folder of this package's bundle.
    peers : sequence of Peer
        Those that cannot be run are left out.
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
    starters, names = [], {}
    for starter in _starters(path, models, peers):
        say(f"{starter.system}: first run")
        found = _run(starter, path, min(frames, WARM_UP), 1)
        if isinstance(found, str):
            if starter.system in OURS:
                raise ResultError(f"This package cannot be raced on {path}: {found}")
            left_out[starter.system] = found
        else:
            starters.append(starter)
            names[starter.system] = found["name"]
    runs: dict[tuple[_Starter, int], list[dict[str, Any]]] = {
        (starter, cores): [] for cores in sorted({1, min(2, thread_count())}) for starter in starters
    }
    for number in range(rounds):
        order = list(runs)
        random.Random(number).shuffle(order)
        for starter, cores in order:
            found = _run(starter, path, frames, cores)
            if isinstance(found, str):
                raise ResultError(f"{starter.system} could not be run again: {found}")
            runs[starter, cores].append(found)
        say(f"round {number + 1} of {rounds}")
    entries = []
    for (starter, cores), every in runs.items():
        share, laps = every[-1]["faces"] / every[-1]["frames"], [_lap(found) for found in every]
        entries.append(Entry(starter.system, names[starter.system], cores, share, laps))
    return Race(machine_now, about, entries, left_out, warnings)


def _starters(path: Path, models: str, peers: Sequence[Peer]) -> list[_Starter]:
    own = (sys.executable, script.__file__)
    starters = [
        _Starter(system, (*own, "ours"), (json.dumps(given), models)) for system, given in OURS.items()
    ]
    for peer in peers:
        if peer.script is not None:
            starters.append(_Starter(peer.name, (peer.python, peer.script)))
            continue
        rest: tuple[str, ...] = () if peer.model is None else (peer.model,)
        if peer.name == "pfld":
            rest += _box_of(path, models)
        starters.append(_Starter(peer.name, (peer.python, script.__file__, peer.name), rest))
    return starters


def _box_of(path: Path, models: str) -> tuple[str, ...]:
    """Return the box of the face on the first frame, for a system that is given it."""
    from napari_face_landmarks.tracking import FaceTracker

    with open_video(path) as video:
        boxes = FaceTracker(models).detect(np.asarray(video[0]))
    if not len(boxes):
        raise ResultError(f"{path} has no face on its first frame: choose another video.")
    return tuple(f"{value:.1f}" for value in boxes[0, :4])


def _run(starter: _Starter, path: Path, frames: int, cores: int) -> dict[str, Any] | str:
    """Run a system in a process of its own; return what it reports and its `wall`, s, or why it cannot."""
    command = [*starter.command, str(path), str(frames), str(cores), *starter.rest]
    began = time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LONGEST_RUN)
    except (OSError, subprocess.TimeoutExpired) as error:
        return in_one_line(error)
    wall = time.perf_counter() - began
    try:
        found = json.loads(done.stdout.splitlines()[-1])
        if found["frames"] < 1:
            return "it reads no frame"
        rates = {key: float(found[key]) for key in ("frames", "faces", "seconds", "cpu_seconds")}
        return {"name": str(found["name"]), "peak_mb": found.get("peak_mb"), "wall": wall, **rates}
    except (IndexError, ValueError, KeyError, TypeError):
        lines = done.stderr.strip().splitlines() or ["it prints no result"]
        return in_one_line(Exception(lines[-1]))


def _lap(found: dict[str, Any]) -> Lap:
    frames = found["frames"]
    cpu_ms = 1e3 * found["cpu_seconds"] / frames
    return Lap(frames / found["seconds"], frames / found["wall"], cpu_ms, found["peak_mb"])


def race_table(race: Race) -> str:
    """Return the result of a race as Markdown."""
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
