"""Timing of functions and processes; properties of the machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from napari_face_landmarks.video.container import thread_count

PACKAGES = ("numba", "numpy", "onnxruntime", "opencv-python", "av")
BUSY = 0.5
"""Load average above which times are unreliable."""


@dataclass(frozen=True)
class Timing:
    """Time per call, after warm-up."""

    name: str  # of the function
    median: float  # milliseconds
    quartile_1: float
    quartile_3: float
    calls: int  # number of timed calls


def take_time(name: str, work: Callable[[], Any], calls: int, parts: int = 1) -> Timing:
    """Time `calls` calls of a function, after a warm-up; each call repeats the timed work `parts` times."""
    for _ in range(max(2, calls // 10)):
        work()
    seconds = np.empty(calls)
    for i in range(calls):
        began = time.perf_counter()
        work()
        seconds[i] = time.perf_counter() - began
    low, middle, high = np.percentile(1e3 * seconds / parts, [25, 50, 75])
    return Timing(name, float(middle), float(low), float(high), calls)


def machine() -> dict[str, Any]:
    """Return the processor, available cores, library versions and load of this machine."""
    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "processor": _processor(),
        "cores": thread_count(),
        "python": platform.python_version(),
        "versions": versions,
        "numba": versions["numba"] is not None,
        "load": load(),
    }


def load() -> float | None:
    """Return the load average of the last minute; None if unknown."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


def resident_mb() -> float | None:
    """Return the resident memory of this process in MB; None if unknown."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    except (OSError, ValueError, AttributeError):
        return None


def peak_of_run(models: str, path: Path, stop: int | None = None) -> float | None:
    """Return the peak memory, MB, of a subprocess that tracks a video with the defaults up to frame `stop`.

    The result is None if the memory is unknown or the subprocess failed.
    """
    command = [sys.executable, "-c", _PEAK, models, str(path), str(stop or "")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        return int(done.stdout.split()[-1]) / 1e3 if done.returncode == 0 else None
    except (IndexError, ValueError):
        return None


def start_of_run(models: str, path: Path) -> float | None:
    """Return the seconds that a subprocess takes to start and track a frame, the best of three runs."""
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        if peak_of_run(models, path, 1) is not None:
            seconds.append(time.perf_counter() - began)
    return min(seconds, default=None)


_PEAK = """
import sys
from napari_face_landmarks.tracking import FaceTracker
FaceTracker(sys.argv[1]).track(sys.argv[2], stop=int(sys.argv[3]) if sys.argv[3] else None)
with open("/proc/self/status") as status:
    print(*(line.split()[1] for line in status if line.startswith("VmHWM")))
"""


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
