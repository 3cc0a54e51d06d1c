"""Taking times, and what has to be known of the machine to read them."""

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
"""Load average from which times are not to be trusted."""


@dataclass(frozen=True)
class Timing:
    """The time that one call takes, warm.

    Attributes
    ----------
    name : str
        What was called.
    median, quartile_1, quartile_3 : float
        Milliseconds.
    calls : int
        How many were timed.
    """

    name: str
    median: float
    quartile_1: float
    quartile_3: float
    calls: int


def take_time(name: str, work: Callable[[], Any], calls: int, parts: int = 1) -> Timing:
    """Time a function, call by call, after a few calls that do not count.

    Parameters
    ----------
    name : str
    work : callable
    calls : int
        How many calls are timed.
    parts : int
        What is asked for happens so often in each call.
    """
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
    """Return the processor, the cores there are for us, the versions, and how busy the machine is."""
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
    """Return the load average of the last minute; None where the system has none."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


def resident_mb() -> float | None:
    """Return how much memory this process holds at the moment, MB; None where the system does not say."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    except (OSError, ValueError, AttributeError):
        return None


def peak_of_run(models: str, path: Path, stop: int | None = None) -> float | None:
    """Return the largest memory that a process of its own holds while it tracks a video, MB.

    Parameters
    ----------
    models : str
        Name or folder of a bundle.
    path : Path
        The video, tracked with the defaults.
    stop : int, optional
        Leave off before this frame.

    Returns
    -------
    float or None
        None where the system does not say, or the process failed.
    """
    command = [sys.executable, "-c", _PEAK, models, str(path), str(stop or "")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        return int(done.stdout.split()[-1]) / 1e3 if done.returncode == 0 else None
    except (IndexError, ValueError):
        return None


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
