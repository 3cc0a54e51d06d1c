"""Compilation before the first frame, by two processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from napari_face_landmarks import FaceTracker, TrackerSettings
from napari_face_landmarks.tracking import preparation

FIRST_RUN = """
import json
from napari_face_landmarks import FaceTracker, TrackerSettings, jit
from napari_face_landmarks.tracking import preparation
{patch}
FaceTracker(settings=TrackerSettings(refine="always")).prepare()
print(json.dumps(jit.COMPILED))
"""
ON_ONE_CORE = "preparation.cores = lambda: 1"


class Second:
    """A second process that is only noted."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def start(self, code: str, *_: Any, **__: Any) -> Second:
        self.calls.append(code)
        return self

    def wait(self) -> None:
        self.calls.append("wait")

    def kill(self) -> None:
        self.calls.append("kill")


@pytest.fixture
def second(monkeypatch: pytest.MonkeyPatch) -> Second:
    """Note the second process, and make this one believe that it compiles."""
    process, compiled = Second(), ["nothing of this package yet"]

    def boxes_kernel(*_: object) -> None:
        compiled.append("boxes_kernel")

    monkeypatch.setattr(preparation, "COMPILED", compiled)
    monkeypatch.setattr(preparation, "boxes_kernel", boxes_kernel)
    monkeypatch.setattr(preparation, "start_python", process.start)
    monkeypatch.setattr(preparation, "cores", lambda: 2)
    return process


@pytest.mark.parametrize("refine", ["auto", "always"])
def test_a_second_process_compiles_clnf_and_is_waited_for(second: Second, refine: str) -> None:
    FaceTracker(settings=TrackerSettings(refine=refine)).prepare()
    assert second.calls[:2] == [preparation.COMPILE_CLNF, "wait"]


def test_no_second_process_where_nothing_is_compiled(second: Second, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "boxes_kernel", lambda *_: None)
    FaceTracker().prepare()
    assert not second.calls


@pytest.mark.parametrize("refine", ["off", "clnf-only"])
def test_no_second_process_for_modes_without_these_kernels(second: Second, refine: str) -> None:
    FaceTracker(settings=TrackerSettings(refine=refine)).prepare()
    assert not second.calls


@pytest.mark.parametrize(("name", "value"), [("cores", lambda: 1), ("can_start_python", lambda: False)])
def test_no_second_process_where_it_would_not_help(
    second: Second, monkeypatch: pytest.MonkeyPatch, name: str, value: Any
) -> None:
    monkeypatch.setattr(preparation, name, value)
    FaceTracker().prepare()
    assert not second.calls


def test_a_second_process_that_cannot_be_started_is_not_needed(
    second: Second, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("no process")

    monkeypatch.setattr(preparation, "start_python", fail)
    FaceTracker().prepare()


def test_an_error_ends_the_second_process(second: Second, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ValueError("broken model")

    monkeypatch.setattr(preparation, "predict_twice", fail)
    with pytest.raises(ValueError, match="broken model"):
        FaceTracker().prepare()
    assert second.calls == [preparation.COMPILE_CLNF, "kill", "wait"]


def test_the_second_process_searches_with_clnf(monkeypatch: pytest.MonkeyPatch) -> None:
    fits, run_clnf = [], preparation.run_clnf
    monkeypatch.setattr(preparation, "run_clnf", lambda *given: fits.append(run_clnf(*given)))
    preparation.compile_clnf()
    assert [fit.iterations > 0 for fit in fits] == [True]


def first_run(folder: Path, patch: str = "") -> list[str]:
    """Return the kernels that a process with an empty cache compiles itself."""
    done = subprocess.run(
        [sys.executable, "-c", FIRST_RUN.format(patch=patch)],
        env={**os.environ, "NUMBA_CACHE_DIR": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    return [str(name) for name in json.loads(done.stdout)]


@pytest.mark.nightly
@pytest.mark.skipif(preparation.cores() < 2, reason="needs two cores")
def test_half_of_the_kernels_come_from_the_second_process(tmp_path: Path) -> None:
    assert "supports_kernel" not in first_run(tmp_path)
    assert first_run(tmp_path, ON_ONE_CORE) == [], "the cache holds all kernels"
