"""Fixtures and pytest hooks shared by all tests."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest

from gui_support import a_display, let_work

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    # The threads of NumPy and torch spin while they wait: with two test processes on two cores, a matrix
    # product takes ten times as long. Set before either is imported, here or by `-n`.
    os.environ.setdefault(_name, "1")

LONGEST = (
    "test_widget",
    "test_batch",
    "test_remote_run",
    "test_quality_dock",
    "test_viewer_sharing",
    "test_clips",
    "test_docs",
    "test_detection",
    "test_measures_dock",
    "test_inputs",
    "test_video",
    "test_checkpoint",
    "test_openface",
    "test_pictures",
    "test_measure_tables",
    "test_random_walk",
    "test_widget_resume",
    "test_training_widths",
    "test_training_pfld",
    "test_training_detector",
    "test_fuzz",
    "test_clnf",
    "test_benchmark",
    "test_study_dock",
    "test_speed",
    "test_training_pdm_cen",
    "test_packaging",
    "test_docks",
    "test_correct_dock",
    "test_faults",
    "test_cli",
    "test_kernels",
    "test_clnf_accuracy",
    "test_training_parts",
    "test_scale",
    "test_resume",
    "test_long",
    "test_numerics",
    "test_reports",
    "test_view",
    "test_demo",
    "test_layers",
    "test_comfort",
    "test_formats",
    "test_cuts",
    "test_lazy_layers",
    "test_concurrency",
    "test_soak",
)
"""The slowest files; with `-n` they run first, so that the processes end at about the same time."""
MANY_OBJECTS = 50_000
"""Number of objects above which those that exist are exempted from garbage collection before a window opens.

napari collects garbage whenever a layer is removed or a viewer closed, which would take 0.2 s each time.
"""
SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_configure(config: pytest.Config) -> None:
    """Disable the timing of tests/benchmarks, unless they are named on the command line."""
    gc.disable()  # until all modules are imported
    named = any("benchmarks" in argument for argument in config.invocation_params.args)
    if hasattr(config.option, "benchmark_disable") and not named:
        config.option.benchmark_disable = True


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark nightly tests, benchmarks and tests that open a window as slow, except for `gui(quick=True)`.

    Nightly tests are deselected unless `-m` names them. With `COVER=slow` in the environment, coverage
    excludes the quick tests, as it slows down Python 3.11 by a third.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        rank = {name: number for number, name in enumerate(LONGEST)}
        items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))
    nightly = [item for item in items if item.get_closest_marker("nightly")]
    for item in items:
        gui = item.get_closest_marker("gui")
        opens_a_window = gui is not None or "display" in getattr(item, "fixturenames", ())
        if (
            item in nightly
            or item.path.parent.name == "benchmarks"
            or (opens_a_window and not (gui is not None and gui.kwargs.get("quick")))
        ):
            item.add_marker("slow")
        if os.environ.get("COVER") == "slow" and item.get_closest_marker("slow") is None:
            item.add_marker("no_cover")
    if nightly and "nightly" not in config.option.markexpr:
        config.hook.pytest_deselected(items=nightly)
        items[:] = [item for item in items if item not in nightly]


def pytest_collection_finish() -> None:
    """Exempt the imported modules from garbage collection, which would take half a second each time."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Run each test file in a single process of `-n`, so that its fixtures are made once."""
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False  # keep the order of `LONGEST`
    return LoadFileScheduling(config, log)


@pytest.fixture(scope="session", autouse=True)
def kernels(tmp_path_factory: pytest.TempPathFactory) -> None:
    """With `-n`, let one process compile the kernels into Numba's cache while the others wait."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return
    from napari_face_landmarks import FaceTracker, TrackerSettings
    from napari_face_landmarks.files.lock import try_to_lock

    with open(tmp_path_factory.getbasetemp().parent / "kernels.lock", "a+b") as lock:
        while not try_to_lock(lock):
            time.sleep(0.2)
        if lock.seek(0, os.SEEK_END):  # another process has compiled them
            return
        for refine in ("always", "clnf-only"):
            FaceTracker(settings=TrackerSettings(refine=refine)).prepare()
        lock.write(b"compiled")


@pytest.fixture(scope="session", autouse=True)
def bundles() -> Iterator[None]:
    """Load each bundle once per process, as most tests use one and loading takes 0.12 s.

    Bundles given by their path are loaded each time.
    """
    from napari_face_landmarks.models import bundle, loading

    once = cache(bundle.load_bundle)

    def load_bundle(name: Any) -> Any:
        return replace(once(name)) if name in bundle.list_models() else bundle.load_bundle(name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "load_bundle", load_bundle)
        yield


@pytest.fixture
def jobs_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the jobs of local batches in this process, for tests that do not concern worker processes."""
    from napari_face_landmarks.runs import batch
    from napari_face_landmarks.runs.job import do_job

    def do_jobs(jobs: Any, processes: int, on_progress: Any, on_result: Any, *_: Any) -> None:
        for number, job in enumerate(jobs):
            on_result(number, do_job(job, partial(on_progress, number)))

    monkeypatch.setattr(batch, "run_local", do_jobs)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of training data next to the checkout, or skip."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the shared training data is not next to this checkout")
    return SHARED_DATA


@pytest.fixture(scope="session")
def display() -> Iterator[None]:
    """Provide a display for windows, or skip."""
    with a_display() as reason:
        if reason is not None:
            pytest.skip(reason)
        with pytest.MonkeyPatch.context() as patch:
            # With Mesa's software OpenGL (22.3), napari crashes, also without this plugin, when it draws
            # after layers were removed, since programs that vispy deleted are still used. Keep them.
            patch.setattr("vispy.gloo.glir.GlirProgram.delete", lambda program: None)
            yield


@pytest.fixture
def viewer(display: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return a napari viewer in a real window; exceptions in GUI callbacks fail the test."""
    monkeypatch.setenv("NAPARI_CONFIG", str(tmp_path / "napari.yaml"))
    checkpoints = "napari_face_landmarks.napari_plugin.preferences.folder_of_checkpoints"
    monkeypatch.setattr(checkpoints, lambda: tmp_path / "runs")
    from napari import Viewer

    import napari_face_landmarks.napari_plugin.main_dock  # noqa: F401 - before objects are exempted

    if len(gc.get_objects()) > MANY_OBJECTS:
        gc.collect()
        gc.freeze()
    errors: list[BaseException] = []
    monkeypatch.setattr(sys, "excepthook", lambda _, error, __: errors.append(error))
    opened = Viewer(show=True)
    opened.window.resize(1000, 640)
    yield opened
    with suppress(RuntimeError):  # a test may have closed it
        opened.close()
    let_work(0.1)
    assert not errors
