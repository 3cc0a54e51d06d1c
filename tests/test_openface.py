"""OpenFace's models: their files, their experts in both engines, and CLNF that starts from a box."""

from __future__ import annotations

import dataclasses
import shutil
import struct
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_face_landmarks import FaceTracker, TrackerSettings, cli, load_models
from napari_face_landmarks.clnf import fit, normalized_frame, numba_engine, pdm
from napari_face_landmarks.clnf.openface_experts import OpenFaceExperts, covariance
from napari_face_landmarks.clnf.parameters import OPENFACE_CCNF, OPENFACE_CEN, PUBLISHED
from napari_face_landmarks.errors import ModelError, SettingsError
from napari_face_landmarks.ibug import MIRROR_68, inter_ocular
from napari_face_landmarks.models import bundle_folder, openface
from napari_face_landmarks.models.openface_format import read_ccnf, read_cen, read_pdm_text
from napari_face_landmarks.opencv import cv2
from openface_files import MIRROR_VIEWS, YAWS, matrix, write_ccnf, write_cen, write_folder, write_pdm
from openface_reference import fill_from_neighbours, layers_of, reference
from test_clnf import face_model, random_params, texture
from test_tracking import moving

HIDDEN = {1: [0, 1, 2, 40], 2: [14, 15, 16, 47]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("openface") / "models", face_model(), hidden=HIDDEN)


@pytest.fixture(scope="module")
def experts(folder: Path) -> dict[str, OpenFaceExperts]:
    return {kind: openface.load_openface(folder, kind)[1] for kind in ("cen", "ccnf")}


# Files


def test_the_text_of_a_pdm_gives_the_model_back(folder: Path) -> None:
    model, loaded = face_model(), read_pdm_text(folder / openface.PDM_FILE)
    np.testing.assert_allclose(loaded.mean, model.mean, rtol=1e-14)
    np.testing.assert_allclose(loaded.components, model.components, rtol=1e-14)
    np.testing.assert_allclose(loaded.eigenvalues, model.eigenvalues, rtol=1e-14)
    assert loaded.components.flags.c_contiguous


@pytest.mark.slow
def test_deep_experts_respond_as_the_written_networks_do(tmp_path: Path) -> None:
    """The networks as written, by hand: column by column, normalised, the flipped picture where mirrored."""
    path = tmp_path / "cen.dat"
    written = write_cen(path, 0.5, hidden=HIDDEN, activations=(2, 1, 0, 0))
    part = read_cen(path)
    assert part.scale == 0.5
    assert part.view_centres[:, 1].tolist() == list(YAWS)
    assert (~part.visibility[1]).nonzero()[0].tolist() == HIDDEN[1]
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (60, 60)).astype(np.uint8)
    straight = np.array([[1.0, 0, 0], [0, 1, 0]])
    centres = np.full((68, 2), 30.0)
    for view, k in ((0, 5), (0, 11), (1, 20), (2, 20), (6, 60)):
        maps = numba_engine.response_maps(
            grey, straight, centres, 5, OpenFaceExperts("CEN", (part,)), 0, view
        )
        support = grey[24:35, 26:37].astype(np.float64)  # the cell x = 1, y = -1 of a map about (30, 30)
        layers = written[view][k]
        if layers is None:
            layers, support = written[MIRROR_VIEWS[view]][MIRROR_68[k]], support[:, ::-1]
        pixels = support.T.ravel() - support.mean()
        values = np.concatenate([[1.0], pixels / np.linalg.norm(pixels)])
        for activation, weight, bias in layers:
            values = weight @ values + bias[0]
            values = [lambda v: 1 / (1 + np.exp(-v)), np.tanh, lambda v: np.maximum(v, 0)][activation](values)
        assert maps[k, 1, 3] == pytest.approx(values[0], abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("window", [5, 7])
def test_neural_fields_respond_as_the_paper_says(tmp_path: Path, window: int) -> None:
    """OpenCV's normalised correlation, the sigmoids' sum, and the normal equations of the field."""
    path = tmp_path / "ccnf.txt"
    write_ccnf(path, 0.35, yaws=YAWS[:1])
    part = read_ccnf(path)
    fields, k = part.fields, 33
    assert fields is not None
    grey = np.random.default_rng(1).integers(0, 256, (60, 60)).astype(np.uint8)
    straight = np.array([[1.0, 0, 0], [0, 1, 0]])
    maps = numba_engine.response_maps(
        grey, straight, np.full((68, 2), 30.0), window, OpenFaceExperts("CCNF", (part,)), 0, 0
    )
    reach = window // 2 + 5
    area = grey[30 - reach : 31 + reach, 30 - reach : 31 + reach].astype(np.float32)
    vertices = np.zeros((window, window))
    for kernel, norm, bias, alpha in zip(
        fields.kernels[k], fields.norms[k], fields.biases[k], fields.alphas[k], strict=True
    ):
        correlation = cv2.matchTemplate(area, kernel, cv2.TM_CCOEFF_NORMED)
        vertices += alpha / (1 + np.exp(-(norm * correlation + bias)))
    precision = 2 * fields.alphas[k].sum() * np.eye(window**2)
    for beta, edges in zip(fields.betas[k], fields.edges.get(window, []), strict=False):
        precision += 2 * beta * edges
    expected = np.linalg.solve(precision, 2 * vertices.ravel()).reshape(window, window)
    np.testing.assert_allclose(maps[k], expected - min(expected.min(), 0), atol=1e-4)
    assert (window in fields.edges) == (window == 7)


@pytest.mark.parametrize("confidence_of_none", [False, True])
def test_experts_without_neurons_may_have_a_confidence_or_none(
    tmp_path: Path, confidence_of_none: bool
) -> None:
    path = tmp_path / "ccnf.txt"
    hidden = {0: [67], 1: [3, 4, 60], 2: [66, 67]}
    write_ccnf(path, 0.5, hidden=hidden, yaws=YAWS[:3], windows=(), confidence_of_none=confidence_of_none)
    part = read_ccnf(path)
    for view, missing in hidden.items():
        assert (~part.visibility[view]).nonzero()[0].tolist() == missing
        assert (part.expert[view] < 0).nonzero()[0].tolist() == missing


def write_small_cen(path: Path) -> None:
    write_cen(path, 0.5, yaws=YAWS[:1], widths=(122, 2, 1), activations=(2, 0))


def write_small_ccnf(path: Path) -> None:
    write_ccnf(path, 0.5, yaws=YAWS[:1], windows=(3,), neurons=1, hidden={0: [3, 67]})


def write_small_pdm(path: Path) -> None:
    write_pdm(path, face_model(2))


def mutated(rng: np.random.Generator, content: bytes) -> bytes:
    """Return content cut short, made longer, or altered: bytes or whole numbers, often near the head."""
    changed = bytearray(content)
    kind = rng.integers(6)
    place = int(rng.integers(len(content) if rng.random() < 0.5 else min(len(content), 1200)))
    if kind == 0:
        return content[:place]
    if kind == 1:
        return content + bytes(rng.integers(0, 256, int(rng.integers(1, 200))).astype(np.uint8))
    if kind == 2:
        for at in rng.integers(0, len(content), int(rng.integers(1, 20))):
            changed[at] = int(rng.integers(256))
    elif kind == 3:
        number = int(rng.choice([-1, 0, 1, 2, 7, 1 << 16, (1 << 31) - 1, -(1 << 31), 123456789]))
        place = min(place // 4 * 4, len(content) - 4)
        changed[place : place + 4] = struct.pack("<i", number)
    elif kind == 4:
        number = float(rng.choice([np.nan, np.inf, -np.inf, 1e300, -1e30, 0.0]))
        place = min(place // 4 * 4, len(content) - 8)
        changed[place : place + 8] = struct.pack("<d", number)
    else:
        size = int(rng.integers(1, 64))
        del changed[place : place + size]
        if rng.random() < 0.5:
            changed[place:place] = bytes(size)
    return bytes(changed)


def numbers_of(loaded: Any) -> list[np.ndarray]:
    if isinstance(loaded, pdm.PDM):
        return [loaded.mean, loaded.components, loaded.eigenvalues]
    arrays = [loaded.view_centres, loaded.confidences]
    for expert in np.unique(loaded.expert[loaded.expert >= 0]):
        arrays += [a for layer in layers_of(loaded.networks, int(expert)) for a in layer[1:]]
    if loaded.fields is not None:
        arrays += [*loaded.fields.norms, *loaded.fields.biases, *loaded.fields.alphas, *loaded.fields.betas]
    return arrays


@pytest.mark.slow
@pytest.mark.parametrize(
    ("read", "write"),
    [(read_cen, write_small_cen), (read_ccnf, write_small_ccnf), (read_pdm_text, write_small_pdm)],
)
def test_hundreds_of_damaged_files_are_refused_in_a_sentence_or_load_whole(
    tmp_path: Path, read: Callable[[Path], Any], write: Callable[[Path], None]
) -> None:
    path = tmp_path / "model"
    write(path)
    content = path.read_bytes()
    rng = np.random.default_rng(5)
    refused: list[str] = []
    for number in range(600):
        path.write_bytes(mutated(rng, content))
        if measured := number % 20 == 0:
            tracemalloc.start()
        try:
            loaded = read(path)
        except ModelError as error:
            refused.append(str(error))
        else:
            values = np.concatenate([array.ravel() for array in numbers_of(loaded)])
            assert np.abs(values).max() <= 1e6  # NaN is not
        finally:
            peak = tracemalloc.get_traced_memory()[1] if measured else 0
            tracemalloc.stop()
        assert peak < 12 * len(content) + (1 << 20)
    assert all(str(path) in text and "\n" not in text and text.endswith(".") for text in refused)
    assert len(refused) > 240


def test_a_head_that_claims_terabytes_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "cen.dat"
    write_small_cen(path)
    content = bytearray(path.read_bytes())
    at = content.index(struct.pack("<iiii", 6, 11, 11, 2)) + 20 + 8 * 1
    head = content.index(matrix(np.zeros((2, 122)), "f4")[:12], at)
    content[head : head + 8] = struct.pack("<ii", 2, (1 << 31) - 1)
    path.write_bytes(bytes(content))
    with pytest.raises(ModelError, match=r"2147483647|are declared"):
        read_cen(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "mean"),
        ("# mean\n204\n1\n6\n" + "0 " * 100, "204 x 1"),
        ("# mean\n999999999\n999999999\n6\n0", "999999999"),
        ("204 1 6 " + "a " * 204, "no numbers"),
        ("204 1 6 " + "nan " * 204 + "204 1 6 " + "0 " * 204 + "1 1 6 1", "finite"),
        ("204 1 6 " + "0 " * 204 + "204 1 6 " + "0 " * 204 + "1 1 6 0", "not positive"),
        ("204 1 6 " + "0 " * 204 + "204 1 6 " + "0 " * 204 + "1 1 6 1 5", "after"),
        ("203 1 6 " + "0 " * 203 + "204 1 6 " + "0 " * 204 + "1 1 6 1", "204 rows"),
    ],
)
def test_texts_that_are_no_pdm_are_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "pdm.txt"
    path.write_text(text)
    with pytest.raises(ModelError, match=words) as caught:
        read_pdm_text(path)
    assert "\n" not in str(caught.value)


# The engines


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    kind=st.sampled_from(["cen", "cen", "ccnf"]),
    window=st.sampled_from([3, 5, 7, 9]),
    index=st.integers(0, 2),
    view=st.integers(0, 6),
    scale=st.floats(0.15, 3.0),
    sparse=st.booleans(),
)
def test_response_maps_agree(
    experts: dict[str, OpenFaceExperts],
    seed: int,
    kind: str,
    window: int,
    index: int,
    view: int,
    scale: float,
    sparse: bool,
) -> None:
    rng = np.random.default_rng(seed)
    model = face_model(seed=seed % 7)
    grey = texture(rng, 120, 160)
    grey[:40] = 90  # flat supports too
    params = random_params(rng, model, scale, (80.0, 60.0))
    shape = pdm.project(model, params)
    to_frame = normalized_frame.shape_to_reference(shape, experts[kind].scales[index] * model.mean[:2].T)
    centres = normalized_frame.transform(to_frame, shape)
    arguments = (grey, to_frame, centres, window, experts[kind], index, view, sparse)
    maps = numba_engine.response_maps(*arguments)
    np.testing.assert_allclose(maps, reference.response_maps(*arguments), atol=1e-4)
    with ThreadPoolExecutor(2) as pool, pytest.MonkeyPatch.context() as patch:
        patch.setattr(numba_engine, "MIN_PARALLEL_WORK", 0)
        np.testing.assert_array_equal(numba_engine.with_threads(pool, 3).response_maps(*arguments), maps)
    assert (maps >= 0).all()
    assert (maps[~experts[kind].parts[index].visibility[view]] == 1).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "seed", "scale", "followed"),
    [("cen", 3, 0.3, True), ("cen", 11, 1.4, False), ("ccnf", 5, 0.7, True), ("own", 8, 2.5, False)],
)
def test_a_fit_by_clnf_alone_agrees_with_the_reference(
    experts: dict[str, OpenFaceExperts], seed: int, kind: str, scale: float, followed: bool
) -> None:
    from test_clnf import random_experts

    rng = np.random.default_rng(seed)
    model = face_model(seed=seed % 7)
    grey = texture(rng, 400, 500)
    start = random_params(rng, model, scale, (250.0, 190.0))
    chosen = random_experts(seed % 5) if kind == "own" else experts[kind]
    constants = {"cen": OPENFACE_CEN, "ccnf": OPENFACE_CCNF, "own": PUBLISHED}[kind]
    constants = dataclasses.replace(constants, clnf_only_iterations=2)
    found, expected = (
        fit.fit_clnf_only(grey, start, fit.ClnfModel(model, chosen, constants, engine), followed)
        for engine in (numba_engine, reference)
    )
    assert (found.converged, found.iterations) == (expected.converged, expected.iterations)
    difference = np.abs(found.params - expected.params)
    assert (difference[6:] / np.sqrt(model.eigenvalues)).max() < 1e-3
    assert difference[0] / scale < 1e-4
    np.testing.assert_allclose(found.landmarks, expected.landmarks, atol=0.01 * scale)
    np.testing.assert_allclose(found.confidence, expected.confidence, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cen", "ccnf"])
def test_refinement_of_first_landmarks_agrees_with_the_reference(
    experts: dict[str, OpenFaceExperts], kind: str
) -> None:
    rng = np.random.default_rng(4)
    model = face_model()
    grey = texture(rng, 300, 300)
    params = random_params(rng, model, 1.2, (150.0, 150.0))
    first = pdm.project(model, params) + rng.normal(size=(68, 2))
    base = OPENFACE_CEN if kind == "cen" else OPENFACE_CCNF
    constants = dataclasses.replace(base, windows=(7, 5, 5, 3), prior_weight=0.4, residual_share=0.4)
    found, expected = (
        fit.refine(
            grey,
            first,
            None,
            fit.ClnfModel(model, experts[kind], constants, engine),
            TrackerSettings(),
            np.full(68, 2.0),
        )
        for engine in (numba_engine, reference)
    )
    assert found.converged
    assert found.iterations == expected.iterations
    np.testing.assert_allclose(found.landmarks, expected.landmarks, atol=0.01)


def test_the_way_into_the_frame_is_the_similarity_between_the_shapes() -> None:
    rng = np.random.default_rng(3)
    shape = rng.normal(size=(68, 2)) * 30
    turn = np.array([[np.cos(0.7), -np.sin(0.7)], [np.sin(0.7), np.cos(0.7)]])
    to_frame = normalized_frame.shape_to_reference(5 + 3 * shape @ turn.T, 0.25 * shape)
    np.testing.assert_allclose(
        normalized_frame.transform(to_frame, 5 + 3 * shape @ turn.T), 0.25 * shape, atol=1e-9
    )


def test_every_second_response_is_the_mean_of_its_neighbours() -> None:
    response = np.where(np.add.outer(np.arange(5), np.arange(5)) % 2 == 0, np.arange(25.0).reshape(5, 5), 0)
    filled = fill_from_neighbours(response)
    assert filled[0, 1] == pytest.approx((0 + 2 + 6) / 3)
    assert filled[1, 2] == pytest.approx((2 + 6 + 8 + 12) / 4)
    assert filled[2, 2] == response[2, 2]


def test_a_field_that_is_no_normal_distribution_is_refused(experts: dict[str, OpenFaceExperts]) -> None:
    fields = experts["ccnf"].parts[0].fields
    assert fields is not None
    wrong = dataclasses.replace(fields, betas=tuple(-100 * beta for beta in fields.betas))
    with pytest.raises(ModelError, match="not positive definite"):
        covariance(wrong, 0, 7)


def test_published_parameters_are_those_of_openface() -> None:
    assert [OPENFACE_CEN.regularisation_at(s) for s in (0.25, 0.5, 1.0)] == [22.5, 7.5, 7.5]
    assert [OPENFACE_CEN.sigma_at(s) for s in (0.25, 0.5, 1.0)] == [2.25, 2.5, 2.75]
    assert OPENFACE_CEN.windows == (11, 9, 7, 5)
    assert OPENFACE_CEN.tracked_windows == (0, 9, 7, 0)
    assert (OPENFACE_CCNF.regularisation_at(0.25), OPENFACE_CCNF.sigma_at(0.25)) == (25.0, 1.5)
    for constants in (OPENFACE_CEN, OPENFACE_CCNF):
        assert (constants.clnf_only_iterations, constants.clnf_only_convergence, constants.weight) == (
            5,
            0.01,
            0.0,
        )


@pytest.mark.slow
def test_faces_smaller_than_a_scale_are_not_looked_at_there(experts: dict[str, OpenFaceExperts]) -> None:
    model = face_model()
    grey = texture(np.random.default_rng(0), 200, 200)
    steps = []
    for scale in (0.2, 0.3, 0.4, 0.8, 1.5):
        start = np.concatenate([[scale, 0, 0, 0, 100, 100], np.zeros(model.n_modes)])
        constants = dataclasses.replace(OPENFACE_CEN, clnf_only_iterations=1)
        found = fit.fit_clnf_only(grey, start, fit.ClnfModel(model, experts["cen"], constants))
        steps.append(found.iterations if found.converged else -1)
    assert steps == [-1, 2, 4, 6, 8]
    start = np.concatenate([[0.4, 0, 0, 0, 100, 100], np.zeros(model.n_modes)])
    once = TrackerSettings(max_iterations=1)
    found = fit.refine(
        grey, pdm.project(model, start), None, fit.ClnfModel(model, experts["cen"], OPENFACE_CEN), once
    )
    assert found.iterations == 4


# Where the models are


def test_shared_folders_of_each_system(tmp_path: Path) -> None:
    def first(platform: str, **environment: str) -> Path:
        return openface.shared_folders(platform, environment, tmp_path)[0]

    assert first("linux") == tmp_path / ".local/share/OpenFaceModels/2.2.0"
    assert first("linux", XDG_DATA_HOME="/data") == Path("/data/OpenFaceModels/2.2.0")
    assert first("darwin") == tmp_path / "Library/Application Support/OpenFaceModels/2.2.0"
    assert first("win32", LOCALAPPDATA="/local") == Path("/local/OpenFaceModels/2.2.0")
    for platform in ("linux", "darwin", "win32"):
        assert first(platform, OPENFACE_MODELS_DIR="/models") == Path("/models/2.2.0")


@pytest.mark.slow
def test_openface_is_found_in_its_shared_folder(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("OPENFACE_MODELS_DIR", str(tmp_path))
    for name in ("openface", "openface-ccnf"):
        with pytest.raises(ModelError, match="OPENFACE_MODELS_DIR") as caught:
            load_models(name)
        assert str(tmp_path) in str(caught.value)
        assert "\n" not in str(caught.value)
    (tmp_path / "2.2.0").symlink_to(folder)
    models = load_models("openface")
    assert models.name == "openface"
    assert models.pfld is None
    assert isinstance(models.experts, OpenFaceExperts)
    assert (models.experts.kind, load_models("openface-ccnf").experts.kind) == ("CEN", "CCNF")
    assert models.clnf_only_constants == OPENFACE_CEN
    assert "no commercial use" in models.licence
    assert "no commercial use" in caplog.text
    assert cli.main(["models"]) == 0
    assert "openface 2.2.0: OpenFace's own" in capsys.readouterr().out


def test_a_folder_that_lacks_a_file_is_refused(folder: Path, tmp_path: Path) -> None:
    lacking = tmp_path / "model"
    write_folder(lacking, face_model(), ("ccnf",), yaws=YAWS[:1])
    assert load_models(tmp_path).experts.kind == "CCNF"  # OpenFace's own folder has them in "model"
    (lacking / openface.EXPERT_FILES["ccnf"][1]).unlink()
    with pytest.raises(ModelError, match=r"ccnf_patches_0\.35_general\.txt is missing"):
        load_models(lacking)
    with pytest.raises(ModelError, match="cen_patches"):
        openface.load_openface(lacking, "cen")


@pytest.mark.parametrize("refine", ["off", "auto", "always"])
def test_without_pfld_there_is_one_way_to_refine(folder: Path, refine: Any) -> None:
    with pytest.raises(SettingsError, match="choose clnf-only"):
        FaceTracker(load_models(folder), TrackerSettings(refine=refine))


@pytest.mark.slow
def test_a_folder_may_have_openfaces_models_and_a_pfld(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "both", face_model(), ("ccnf",), yaws=YAWS[:1])
    shutil.copy(bundle_folder("research") / "pfld.onnx", folder)
    description = '{"file": "pfld.onnx", "input_range": [0, 1], "colours": "RGB", "box": "landmarks", '
    (folder / "pfld.json").write_text(description + '"box_scale": 1.3, "points": 68}')
    models = load_models(folder)
    assert models.experts.kind == "CCNF"
    frames, _ = moving(2)
    fitted = FaceTracker(models, TrackerSettings(refine="always")).fit(frames[0])
    assert np.isfinite(fitted.landmarks).all()
    assert models.licence.count(";") == 2


# From box to landmarks, with the plugin's own experts in OpenFace's files


def write_bundle_as_openface(folder: Path) -> Path:
    """Write the default bundle's PDM and frontal experts as OpenFace would: three layers, four scales."""
    models = load_models("research")
    own = models.experts
    (folder / "pdms").mkdir(parents=True)
    (folder / "patch_experts").mkdir()
    write_pdm(folder / openface.PDM_FILE, models.pdm)
    for index, file in zip((0, 1, 2, 2), openface.EXPERT_FILES["cen"], strict=True):
        scale = float(file.name.split("_")[2])
        parts = [struct.pack("<di", scale, 1), matrix([[0.0], [0.0], [0.0]], "f8")]
        parts += [matrix(np.ones((68, 1)), "i4"), matrix(MIRROR_68[None], "i4"), matrix([[0]], "i4")]
        for k in range(68):
            stored = k <= MIRROR_68[k]
            parts.append(struct.pack("<iiii", 6, 11, 11, 3 if stored else 0))
            if stored:
                w1, w2, w3 = (w[index, 0, k] for w in (own.w1, own.w2, own.w3))
                for activation, weight, bias in (
                    (2, w1.T, np.zeros((1, w1.shape[1]))),
                    (2, w2[1:].T, w2[:1]),
                    (0, w3[None, 1:], w3[None, :1]),
                ):
                    parts += [struct.pack("<i", activation), matrix(bias, "f4"), matrix(weight, "f4")]
            parts.append(struct.pack("<d", own.confidences[index, 0, k] if stored else 0.0))
        (folder / file).write_bytes(b"".join(parts))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("which", ["bundle", "openface"])
def test_clnf_alone_follows_a_moving_face(tmp_path: Path, which: str) -> None:
    models = load_models(write_bundle_as_openface(tmp_path / "models") if which == "openface" else "research")
    frames, _ = moving(10)
    expected = FaceTracker(load_models("research"), TrackerSettings(refine="always")).track(frames)
    frames = np.concatenate([frames, np.zeros((3, *frames.shape[1:]), np.uint8), frames[-1:]])
    tracker = FaceTracker(models, TrackerSettings(refine="clnf-only", max_faces=2, smoothing_window=1))
    tracks = tracker.track(frames)
    seen = tracks.present[:, 0]
    assert seen[:10].all()
    assert not seen[10:13].any()
    assert seen[13]
    assert not tracks.present[:, 1:].any()
    assert set(tracks.source[seen].ravel().tolist()) <= {0, 2}
    apart = np.linalg.norm(tracks.landmarks[:10, 0] - expected.landmarks[:, 0], axis=-1).mean()
    assert apart < 0.03 * inter_ocular(expected.landmarks[0, 0])
    still = tracker.fit(frames[0])
    assert still.landmarks.shape == (1, 68, 2)
    np.testing.assert_allclose(still.landmarks[0], tracks.landmarks[0, 0], atol=0.01)
    assert tracker.detect(frames[0]).shape == (1, 5)
    assert len(tracker.fit(np.zeros((60, 80), np.uint8)).landmarks) == 0
