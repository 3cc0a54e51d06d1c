"""Networks in buffers that stay bound give what they give without, on any thread."""

from __future__ import annotations

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from napari_face_landmarks.files.onnx_run import (
    _THREAD,
    MAX_SHAPES,
    _ThreadBuffers,
    network_input,
    run_network,
)
from napari_face_landmarks.models import Models, bundle_folder, load_models
from napari_face_landmarks.parts.crop import MOUTH_SIZE
from napari_face_landmarks.parts.network import MOUTH_OUTPUTS


@pytest.fixture(scope="module")
def models() -> Models:
    return load_models("open")


def crops(count: int, seed: int) -> np.ndarray:
    shape = count, 3, MOUTH_SIZE, MOUTH_SIZE
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def test_bound_networks_give_the_same_and_outputs_are_not_overwritten(models: Models) -> None:
    assert models.parts is not None
    session = models.parts.mouth
    kept = []
    for seed in range(4):
        for count in range(1, MAX_SHAPES + 3):  # more than are kept
            inputs = crops(count, seed)
            kept.append((run_network(session, inputs, "crops", MOUTH_OUTPUTS), inputs))
    assert len(_THREAD.bound[session]) == MAX_SHAPES
    for found, inputs in kept:
        for array, wanted in zip(found, session.run(list(MOUTH_OUTPUTS), {"crops": inputs}), strict=True):
            np.testing.assert_array_equal(array, wanted)


def test_a_network_reads_its_input_where_it_was_written(models: Models) -> None:
    assert models.parts is not None
    session, shape = models.parts.mouth, crops(3, 0).shape
    for seed in range(3):
        inputs = network_input(session, shape, MOUTH_OUTPUTS)
        inputs[...] = crops(3, seed)
        found = run_network(session, inputs, "crops", MOUTH_OUTPUTS)
        for array, wanted in zip(
            found, session.run(list(MOUTH_OUTPUTS), {"crops": crops(3, seed)}), strict=True
        ):
            np.testing.assert_array_equal(array, wanted)
    assert network_input(session, shape, MOUTH_OUTPUTS) is inputs
    assert network_input(session, shape, ("sigma",)) is not inputs


def test_threads_do_not_share_buffers(models: Models) -> None:
    assert models.parts is not None
    session = models.parts.mouth
    wanted = [session.run(["landmarks"], {"crops": crops(1, seed)})[0] for seed in range(8)]

    def work(seed: int) -> list[np.ndarray]:
        return [run_network(session, crops(1, seed), "crops", ("landmarks",))[0] for _ in range(10)]

    with ThreadPoolExecutor(4) as pool:
        for seed, found in enumerate(pool.map(work, range(8))):
            for array in found:
                np.testing.assert_array_equal(array, wanted[seed])


def test_buffers_go_with_their_network(monkeypatch: pytest.MonkeyPatch) -> None:
    buffers = _ThreadBuffers()
    monkeypatch.setattr("napari_face_landmarks.files.onnx_run._THREAD", buffers)
    session = load_models(bundle_folder("open")).pfld  # of this test alone
    run_network(session, np.zeros((1, 3, 112, 112), np.float32), "crops", ("score",))
    assert len(buffers.bound) == 1
    gone = weakref.ref(session)
    del session
    gc.collect()
    assert gone() is None
    assert len(buffers.bound) == 0
