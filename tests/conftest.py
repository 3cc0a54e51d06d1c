"""Fixtures that all tests share."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from gui_support import a_display, let_work

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_configure(config: pytest.Config) -> None:
    """Have tests/benchmarks measure only where it is asked for by name; else each of them is a plain test."""
    asked = any("benchmarks" in argument for argument in config.invocation_params.args)
    if hasattr(config.option, "benchmark_disable") and not asked:
        config.option.benchmark_disable = True


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of training data beside the checkout, or skip."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the shared training data is not beside this checkout")
    return SHARED_DATA


@pytest.fixture
def untraced() -> Iterator[None]:
    """Have the test run without coverage's tracer, which costs the GUI's thread as much again as its work."""
    tracing, of_threads = sys.gettrace(), threading.gettrace()
    sys.settrace(None)
    threading.settrace(None)  # type: ignore[arg-type]
    yield
    sys.settrace(tracing)
    threading.settrace(of_threads)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def display() -> Iterator[None]:
    """Have a display for windows, or skip."""
    with a_display() as reason:
        if reason is not None:
            pytest.skip(reason)
        yield


@pytest.fixture
def viewer(display: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return a napari viewer in a real window; errors in what the GUI calls fail the test."""
    monkeypatch.setenv("NAPARI_CONFIG", str(tmp_path / "napari.yaml"))
    journals = "napari_face_landmarks.napari_plugin.checkpoints.folder_of_journals"
    monkeypatch.setattr(journals, lambda: tmp_path / "runs")
    from napari import Viewer

    errors: list[BaseException] = []
    monkeypatch.setattr(sys, "excepthook", lambda _, error, __: errors.append(error))
    opened = Viewer(show=True)
    opened.window.resize(1240, 760)
    yield opened
    with suppress(RuntimeError):  # a test may have closed it
        opened.close()
    let_work(0.1)
    assert not errors
