"""Landmark networks of the user's own: described by a small JSON, tried, and run as the plugin's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_face_landmarks import FaceTracker, TrackerSettings, load_models
from napari_face_landmarks.errors import ModelError, SettingsError
from napari_face_landmarks.ibug import inter_ocular
from napari_face_landmarks.models import DEFAULT_BUNDLE, bundle_folder
from napari_face_landmarks.pfld import crops_of_boxes, crops_of_landmarks, predict
from napari_face_landmarks.pfld.crop import CROP_MARGIN, sample_crops, to_crop
from napari_face_landmarks.pfld.custom import WFLW_TO_IBUG, custom_crops
from napari_face_landmarks.pfld.network import BOX_TO_CROP, BOX_TO_CROP_SHIFT
from test_tracking import moving

onnx = pytest.importorskip("onnx")

ENTRIES = {
    "file": "net.onnx",
    "input_range": [0, 1],
    "colours": "RGB",
    "box": "landmarks",
    "box_scale": 1.3,
    "points": 68,
}


def save_network(path: Path, inputs: list[Any], nodes: list[Any], constants: dict[str, Any]) -> None:
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, inputs)],
        [helper.make_tensor_value_info("points", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)


def constant_network(path: Path, points: Any, inputs: list[Any] | None = None) -> None:
    """Write a network that says the same points of every crop, (N, 2 points), and adds 0 x the mean pixel."""
    from onnx import helper

    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "last"], ["column"]),
        helper.make_node("Mul", ["column", "nought"], ["none"]),
        helper.make_node("Add", ["none", "constant"], ["points"]),
    ]
    constants = {
        "last": np.array([1], np.int64),
        "nought": np.zeros(1, np.float32),
        "constant": np.asarray(points, np.float32).reshape(1, -1),
    }
    save_network(path, inputs or ["n", 3, 112, 112], nodes, constants)


def pixel_network(path: Path, inputs: list[Any]) -> None:
    """Write a network whose first three numbers are the means of the input's channels."""
    from onnx import helper

    channels_last = inputs[3] == 3
    nodes = [
        helper.make_node(
            "ReduceMean", ["image"], ["m"], axes=[1, 2] if channels_last else [2, 3], keepdims=0
        ),
        helper.make_node("Pad", ["m", "pads"], ["points"]),
    ]
    save_network(path, inputs, nodes, {"pads": np.array([0, 0, 0, 133], np.int64)})


@pytest.fixture(scope="module")
def points() -> np.ndarray:
    """Return the landmarks of a face in its crop, (68, 2)."""
    frames, _ = moving(1)
    landmarks = FaceTracker(load_models(), TrackerSettings(refine="off")).fit(frames[0]).landmarks
    return np.asarray(to_crop(landmarks, crops_of_landmarks(landmarks))[0])


@pytest.fixture
def folder(tmp_path: Path, points: np.ndarray) -> Path:
    constant_network(tmp_path / "net.onnx", points)
    describe(tmp_path)
    return tmp_path


def describe(folder: Path, **changes: Any) -> None:
    entries = {name: value for name, value in {**ENTRIES, **changes}.items() if value is not None}
    (folder / "pfld.json").write_text(json.dumps(entries))


@pytest.mark.slow
def test_a_network_of_ones_own_follows_a_face_as_the_plugins_does(tmp_path: Path) -> None:
    """The plugin's own network, given as the user's, with nothing of its uncertainties.

    On a face's first frame the plugin looks at it mirrored, too: they are the same once it is followed.
    """
    shutil.copy(bundle_folder(DEFAULT_BUNDLE) / "pfld.onnx", tmp_path / "net.onnx")
    describe(tmp_path)
    frames, _ = moving(24)
    models = load_models(tmp_path)
    assert "custom landmark network" in models.licence
    for refine, limit in (("off", 1e-3), ("always", 0.02)):
        tracks = FaceTracker(models, TrackerSettings(refine=refine)).track(frames)
        expected = FaceTracker(load_models(), TrackerSettings(refine=refine, pfld_every=1)).track(frames)
        assert tracks.present.all()
        apart = np.linalg.norm(tracks.landmarks - expected.landmarks, axis=-1)
        unit = inter_ocular(expected.landmarks[0, 0])
        assert apart[12:].mean() < limit * unit
        assert apart[:12].mean() < 0.02 * unit
    assert (
        len(FaceTracker(models, TrackerSettings(refine="off")).fit(np.zeros((90, 90), np.uint8)).source) == 0
    )


def test_auto_needs_a_network_that_says_how_sure_it_is(folder: Path) -> None:
    with pytest.raises(SettingsError, match="refine cannot be auto"):
        FaceTracker(load_models(folder), TrackerSettings(refine="auto"))


def test_what_is_not_known_is_constant(folder: Path) -> None:
    describe(folder, sigma=0.07)
    models = load_models(folder)
    frames, _ = moving(1)
    crops = crops_of_boxes(np.array([[70.0, 30, 170, 170]]))
    output = predict(models.pfld, frames[0], crops)
    np.testing.assert_allclose(
        output.sigma, 0.07 * inter_ocular(output.landmarks)[:, None] * np.ones(68), rtol=1e-5
    )
    assert np.ptp(output.confidence) == 0
    assert (
        output.confidence[0, 0] == output.score[0] == predict(load_models().pfld, frames[0], crops).score[0]
    )


def test_points_of_wflw_become_those_of_ibug(folder: Path) -> None:
    points = np.stack([np.arange(98.0), np.zeros(98)], axis=1) / 100
    constant_network(folder / "net.onnx", points)
    describe(folder, points=98)
    frames, _ = moving(1)
    crops = np.array([[120.0, 120, 100, 0]], np.float32)
    landmarks = predict(load_models(folder).pfld, frames[0], crops).landmarks[0]
    np.testing.assert_allclose(landmarks[:, 0] - 70, WFLW_TO_IBUG, atol=1e-3)
    assert len(set(WFLW_TO_IBUG.tolist())) == 68
    assert [WFLW_TO_IBUG[k] for k in (8, 16, 17, 30, 36, 45, 48, 67)] == [16, 32, 33, 54, 60, 72, 76, 95]


@pytest.mark.parametrize("shape", [["n", 3, 48, 48], [1, 48, 48, 3]])
@pytest.mark.parametrize(("span", "colours"), [([0, 1], "RGB"), ([-1, 1], "BGR")])
def test_the_input_is_as_the_description_says(
    tmp_path: Path, shape: list[Any], span: list[int], colours: str
) -> None:
    pixel_network(tmp_path / "net.onnx", shape)
    describe(tmp_path, input_range=span, colours=colours)
    rgb = np.zeros((200, 200, 3), np.uint8)
    rgb[..., 0], rgb[..., 1], rgb[..., 2] = 255, 51, 102
    crops = np.array([[100.0, 100, 90, 0], [90.0, 100, 90, 0.3]], np.float32)
    network = load_models(tmp_path).pfld
    from napari_face_landmarks.pfld.custom import run_custom

    fractions = run_custom(network, rgb, crops).reshape(2, -1)[:, :3]
    expected = span[0] + np.array([1, 0.2, 0.4]) * (span[1] - span[0])
    np.testing.assert_allclose(fractions, [expected[:: 1 if colours == "RGB" else -1]] * 2, atol=1e-4)


def test_crops_are_measured_as_the_description_says(folder: Path) -> None:
    boxes = np.array([[100.0, 80, 180, 200]])
    crops = crops_of_boxes(boxes)
    describe(folder, box="face", box_scale=1.1)
    wanted = custom_crops(load_models(folder).pfld, crops, BOX_TO_CROP, BOX_TO_CROP_SHIFT)
    np.testing.assert_allclose(wanted, [[140, 140, 1.1 * 120, 0]], atol=1e-3)
    describe(folder, box="landmarks", box_scale=1.2)
    wanted = custom_crops(load_models(folder).pfld, crops, BOX_TO_CROP, BOX_TO_CROP_SHIFT)
    np.testing.assert_allclose(wanted[0, 2], 1.2 * crops[0, 2] / CROP_MARGIN, rtol=1e-6)
    np.testing.assert_allclose(wanted[0, :2], crops[0, :2])
    assert sample_crops(np.zeros((9, 9, 3), np.uint8), crops, 40).shape == (1, 3, 40, 40)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"file": None}, "file is missing"),
        ({"file": "../net.onnx"}, "file is '../net.onnx'"),
        ({"file": "absent.onnx"}, "cannot be read"),
        ({"file": "pfld.json"}, "give the name of an .onnx file"),
        ({"input_range": [0, 255]}, r"input_range is \[0, 255\]"),
        ({"colours": "rgb"}, "colours is 'rgb'"),
        ({"box": 3}, "box is 3"),
        ({"box_scale": True}, "box_scale is True"),
        ({"box_scale": 9}, "from 0.5 to 3"),
        ({"points": 106}, "points is 106"),
        ({"points": 98}, "none with 98 x 2"),
        ({"sigma": -1}, "sigma is -1"),
        ({"colors": "RGB"}, "unknown entry 'colors'"),
    ],
)
def test_a_wrong_or_missing_entry_is_refused_in_a_sentence(
    folder: Path, changes: dict[str, Any], words: str
) -> None:
    describe(folder, **changes)
    with pytest.raises(ModelError, match=words) as caught:
        load_models(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, "7", '{"a": ' + "1" * 70_000 + "}"])
def test_a_description_that_is_no_json_object_is_refused(folder: Path, text: str) -> None:
    (folder / "pfld.json").write_text(text)
    with pytest.raises(ModelError, match=r"pfld\.json") as caught:
        load_models(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [["n", 3, 112, 96], ["n", 1, 112, 112], ["n", 3, "h", "w"], [3, 112, 112]])
def test_a_network_without_a_fixed_square_input_is_refused(folder: Path, shape: list[Any]) -> None:
    constant_network(folder / "net.onnx", np.zeros((68, 2)), shape)
    with pytest.raises(ModelError, match=r"net\.onnx") as caught:
        load_models(folder)
    assert "\n" not in str(caught.value)


def test_what_is_no_network_or_not_finite_is_refused(folder: Path) -> None:
    constant_network(folder / "net.onnx", np.full((68, 2), np.nan))
    with pytest.raises(ModelError, match="not finite"):
        load_models(folder)
    (folder / "net.onnx").write_bytes(b"nonsense")
    with pytest.raises(ModelError, match="not a usable ONNX model"):
        load_models(folder)
