"""Support for GUI tests: a display, panels of the dock, and waiting for Qt.

Qt aborts the process if it cannot use the display, so this is tried in another process first.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

TRY_QT = "from qtpy.QtWidgets import QApplication; QApplication([]); print('window')"
SECONDS_TO_START = 60
TRIES = 4
"""Number of attempts to meet a time limit, as the machine may be busy for a while."""


@contextmanager
def a_display() -> Iterator[str | None]:
    """Provide a display within the context; yield None, or the reason why there is none."""
    if importlib.util.find_spec("qtpy") is None:
        yield "no window: Qt is not installed (the extra 'gui' has it)"
        return
    # with `-n`, each process has its own display: windows would take the focus from each other
    before = os.environ.get("DISPLAY")
    has_one = bool(before or os.environ.get("WAYLAND_DISPLAY"))
    of_many = "PYTEST_XDIST_WORKER" in os.environ
    xvfb = shutil.which("Xvfb") if sys.platform == "linux" and (of_many or not has_one) else None
    if sys.platform == "linux" and not has_one and xvfb is None:
        yield "no window: there is no display and no Xvfb to make one"
        return
    server = None
    if xvfb is not None:
        server, os.environ["DISPLAY"] = _start_xvfb(xvfb)
    try:
        yield _why_no_window()
    finally:
        if server is not None:
            server.terminate()
            server.wait(timeout=10)
            os.environ.pop("DISPLAY")
            if before is not None:
                os.environ["DISPLAY"] = before


def _start_xvfb(xvfb: str) -> tuple[subprocess.Popen[str], str]:
    command = [xvfb, "-displayfd", "1", "-screen", "0", "1400x900x24", "-nolisten", "tcp"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert server.stdout is not None
    return server, f":{server.stdout.readline().strip()}"


def _why_no_window() -> str | None:
    try:
        done = subprocess.run(
            [sys.executable, "-c", TRY_QT],
            capture_output=True,
            text=True,
            timeout=SECONDS_TO_START,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no window: Qt did not open one within {SECONDS_TO_START} s"
    if "window" in done.stdout:
        return None
    lines = done.stderr.strip().splitlines() or ["Qt gave no reason"]
    return f"no window: {next((line for line in lines if 'could not' in line), lines[-1])}"


def panel_of(viewer: Any, tab: str) -> Any:
    """Select a tab of a viewer's dock "Face landmarks", opened if necessary, and return its panel."""
    from napari_face_landmarks.napari_plugin.commands import landmarks_dock

    return getattr(landmarks_dock(viewer, tab), tab.lower())


def wait_until(condition: Callable[[], Any], seconds: float = 60) -> None:
    """Process GUI events until `condition` holds; fail if it does not within `seconds`."""
    from qtpy.QtWidgets import QApplication

    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s in vain"
        QApplication.processEvents()
        time.sleep(0.002)


def let_work(seconds: float) -> None:
    """Process GUI events for a while."""
    end = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() >= end, seconds + 60)
