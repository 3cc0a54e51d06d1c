"""Numbers under stress: whatever a model or a picture does, landmarks are finite or there is no face."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from skimage import data

from napari_face_landmarks import FaceTracker, Models, TrackerSettings, Tracks, load_models
from napari_face_landmarks.clnf import reference
from napari_face_landmarks.clnf.pdm import PDM, fit_rigid, load_pdm, save_pdm
from napari_face_landmarks.data.fields import CARRIED, CLNF, PFLD
from napari_face_landmarks.errors import ModelError
from napari_face_landmarks.opencv import cv2
from napari_face_landmarks.pfld.crop import sample_crops
from test_tracking import moving, portrait


@pytest.fixture(scope="module")
def models() -> Models:
    return load_models()


def assert_sound(tracks: Tracks) -> None:
    """Check that what counts as a face has landmarks, and that nothing else has."""
    finite = np.isfinite(tracks.landmarks).all(axis=(2, 3))
    np.testing.assert_array_equal(finite, tracks.present)
    assert np.isnan(tracks.landmarks[~tracks.present]).all()
    assert np.isfinite(tracks.confidence).all()
    assert tracks.confidence.min() >= 0
    assert tracks.confidence.max() <= 1
    assert (tracks.confidence[~tracks.present] == 0).all()
    refined = np.isin(tracks.source, (CLNF, CARRIED))
    assert np.isfinite(tracks.pose[refined]).all()
    assert np.isfinite(tracks.boxes[tracks.present]).all()


class Bent:
    """A network whose outputs are changed on some calls."""

    def __init__(self, session: Any, change: Callable[[int, list[Any]], Any]) -> None:
        self.session, self.change, self.calls = session, change, 0

    def run(self, *arguments: Any) -> Any:
        self.calls += 1
        outputs = [np.array(values) for values in self.session.run(*arguments)]
        return self.change(self.calls, outputs) or outputs


def spoil(output: int, value: float, place: Any = ...) -> Callable[[int, list[Any]], None]:
    """Return a change of one output on some calls in the middle of a run."""

    def change(call: int, outputs: list[Any]) -> None:
        if 8 <= call < 12:
            outputs[output][place] = value

    return change


@pytest.mark.parametrize("value", [np.nan, -np.inf, 1e30])
@pytest.mark.parametrize(("output", "place"), [(0, ...), (0, (0, 40, 1)), (1, ...), (1, (0, 5)), (2, ...)])
def test_what_pfld_says_that_is_no_number_is_no_face(
    models: Models, output: int, place: Any, value: float
) -> None:
    frames, _ = moving(11)
    bent = dataclasses.replace(models, pfld=Bent(models.pfld, spoil(output, value, place)))
    tracker = FaceTracker(bent, TrackerSettings(refine="always", smoothing_window=1), threads=1)
    tracks = tracker.track(frames)
    assert_sound(tracks)
    assert tracks.present[[0, -1], 0].all()  # found again
    close = np.abs(tracks.landmarks[tracks.present] - 120).max()
    assert close < 1000


@pytest.mark.parametrize("value", [np.nan, 1e30])
@pytest.mark.parametrize("columns", [slice(None), slice(2, 4), slice(4, 6), slice(6, 16), slice(0, 1)])
def test_what_the_detector_says_that_is_no_number_does_no_harm(
    models: Models, columns: slice, value: float
) -> None:
    def change(call: int, outputs: list[Any]) -> None:
        outputs[0][..., columns] = value

    bent = dataclasses.replace(models, detector=Bent(models.detector, change))
    settings = TrackerSettings(max_faces=3)
    assert_sound(FaceTracker(bent, settings, threads=1).track(moving(3)[0]))
    fit = FaceTracker(bent, settings, threads=1).fit(portrait())
    assert np.isfinite(fit.landmarks).all()


@pytest.mark.parametrize(
    "crop",
    [
        (np.nan, 50, 40, 0),
        (50, np.nan, 40, 0),
        (50, 50, np.nan, 0),
        (50, 50, 40, np.nan),
        (np.inf, 50, 40, 0),
        (50, 50, np.inf, 0),
        (50, 50, 0, 0),
        (50, 50, -9, 0),
        (1e30, -1e30, 1e30, 1),
        (3e38, 3e38, 3e38, 3e38),
        (-9e5, 50, 40, 0),
        (50, 50, 9e5, 0.3),
        (50, 50, 1e-30, 0),
    ],
)
def test_crops_of_any_numbers_are_cut(crop: tuple[float, ...]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (100, 90, 3), dtype=np.uint8)
    out = sample_crops(picture, np.array([crop, (50, 50, 40, 0)], np.float32), 112)
    assert np.isfinite(out).all()
    assert out.min() >= 0
    assert out.max() <= 1.001
    assert out[1].max() > 0.1


def with_experts(models: Models, **changes: Any) -> Models:
    return dataclasses.replace(models, experts=dataclasses.replace(models.experts, **changes))


def flat_pdm(models: Models) -> PDM:
    """Return a shape model all of whose parameters do the same: its Hessian is singular but for the prior."""
    pdm = models.pdm
    same = np.repeat(pdm.components[..., :1], pdm.n_modes, axis=-1)
    return PDM(pdm.mean, np.ascontiguousarray(same), np.full(pdm.n_modes, 1e12))


SICK: dict[str, Callable[[Models], Models]] = {
    "weights that are no numbers": lambda m: with_experts(m, w3=np.full_like(m.experts.w3, np.nan)),
    "infinite weights": lambda m: with_experts(m, w1=np.full_like(m.experts.w1, np.inf)),
    "no landmark counts": lambda m: with_experts(m, confidences=np.zeros_like(m.experts.confidences)),
    "no landmark is visible": lambda m: with_experts(m, visibility=np.zeros_like(m.experts.visibility)),
    "constant responses": lambda m: with_experts(m, w3=np.zeros_like(m.experts.w3)),
    "no response at all": lambda m: with_experts(m, w3=np.full_like(m.experts.w3, -1e4)),
    "a singular Hessian": lambda m: dataclasses.replace(m, pdm=flat_pdm(m)),
    "no spread": lambda m: dataclasses.replace(
        m, pdm=dataclasses.replace(m.pdm, eigenvalues=np.full(m.pdm.n_modes, 1e-300))
    ),
    "endless spread": lambda m: dataclasses.replace(
        m, pdm=dataclasses.replace(m.pdm, eigenvalues=np.full(m.pdm.n_modes, 1e300))
    ),
}


@pytest.mark.parametrize(
    ("sick", "engine"),
    [*((sick, "fast") for sick in SICK), ("weights that are no numbers", "reference")],
)
def test_where_refinement_breaks_down_pfld_stands(models: Models, sick: str, engine: str) -> None:
    frames, _ = moving(2)
    settings = TrackerSettings(refine="always", smoothing_window=1)
    plain = FaceTracker(models, settings.replace(refine="off"), threads=1).track(frames)
    more = {} if engine == "fast" else {"engine": reference}
    with np.errstate(all="ignore"):
        tracks = FaceTracker(SICK[sick](models), settings, threads=1, **more).track(frames)
    assert_sound(tracks)
    assert tracks.present.all()
    fallen_back = tracks.source == PFLD
    np.testing.assert_array_equal(tracks.landmarks[fallen_back], plain.landmarks[fallen_back])
    assert np.abs(tracks.landmarks - plain.landmarks).max() < 40  # a broken model does not carry a face off


@pytest.mark.parametrize("sick", ["weights that are no numbers", "infinite weights", "a singular Hessian"])
def test_clnf_alone_on_broken_models_finds_no_face(models: Models, sick: str) -> None:
    settings = TrackerSettings(refine="clnf-only", smoothing_window=1)
    with np.errstate(all="ignore"):
        tracks = FaceTracker(SICK[sick](models), settings, threads=1).track(moving(2)[0])
    assert_sound(tracks)


def test_a_shape_model_without_extent_is_refused(models: Models, tmp_path: Path) -> None:
    flat = PDM(np.zeros_like(models.pdm.mean), models.pdm.components, models.pdm.eigenvalues)
    save_pdm(tmp_path / "pdm.npz", flat)
    with pytest.raises(ModelError, match=r"^[^\n]*no extent[^\n]*\.$"):
        load_pdm(tmp_path / "pdm.npz")
    with pytest.raises(ModelError, match="no extent"):
        fit_rigid(flat, np.random.default_rng(0).uniform(0, 99, (68, 2)))


def framed(kind: str) -> np.ndarray:
    """Return four frames, (4, H, W, 3)."""
    face = portrait()
    if kind == "at the border":
        return np.stack([np.roll(face, -30 * t, axis=1) for t in range(4)])
    if kind == "half out":
        return np.stack([face[:, 110 + 5 * t :] for t in (0, 0, 1, 1)][:2] * 2)
    if kind == "larger than the frame":
        return np.stack([cv2.resize(face[60:150, 75:165], (320, 320))] * 4)
    if kind == "one eye fills the frame":
        return np.stack([cv2.resize(face[85:110, 85:110], (320, 320))] * 4)
    if kind == "shrinks to nothing":
        sizes = (240, 60, 16, 4)
        frames = np.full((4, 240, 240, 3), 90, np.uint8)
        for t, size in enumerate(sizes):
            frames[t, :size, :size] = cv2.resize(face, (size, size), interpolation=cv2.INTER_AREA)
        return frames
    if kind == "all covered":
        frames = np.stack([face] * 4)
        frames[2:, 20:220, 20:220] = 0
        return frames
    if kind == "saturated":
        return np.stack([np.clip(face.astype(int) * k, 0, 255).astype(np.uint8) for k in (1, 4, 16, 255)])
    if kind == "upside down":
        return np.stack([face[::-1]] * 4)
    if kind == "stripes":
        return np.stack([(np.indices((240, 240)).sum(0) % 2 * 255).astype(np.uint8)] * 4)
    return np.stack([data.checkerboard()[:120, :160]] * 4)


@pytest.mark.parametrize("refine", ["always", "clnf-only"])
@pytest.mark.parametrize(
    "kind",
    [
        "at the border",
        "half out",
        "larger than the frame",
        "one eye fills the frame",
        "shrinks to nothing",
        "all covered",
        "saturated",
        "upside down",
        "stripes",
        "squares",
    ],
)
def test_faces_where_they_hardly_are(models: Models, kind: str, refine: Any) -> None:
    tracks = FaceTracker(models, TrackerSettings(refine=refine, max_faces=2), threads=1).track(framed(kind))
    assert_sound(tracks)
    if kind == "shrinks to nothing" and refine == "always":  # CLNF alone cannot tell for some frames
        assert not tracks.present[-1].any()


@pytest.mark.parametrize("shape", [(1, 1), (1, 400), (400, 1), (2, 3), (33, 17)])
def test_frames_of_odd_sizes(models: Models, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2, *shape, 3), dtype=np.uint8)
    assert_sound(FaceTracker(models, TrackerSettings(refine="always"), threads=1).track(frames))


def test_a_frame_of_8k(models: Models) -> None:
    large = np.zeros((1, 4320, 7680, 3), np.uint8)
    large[0, 600:3000, 2000:4400] = np.repeat(np.repeat(portrait(), 10, axis=0), 10, axis=1)
    tracks = FaceTracker(models, threads=1).track(large)
    assert_sound(tracks)
    assert tracks.present.all()


def test_a_network_of_other_outputs_is_refused_in_a_sentence(models: Models) -> None:
    for change in (lambda _, outputs: [outputs[0][:, :60], *outputs[1:]], lambda _, outputs: 1 / 0):
        bent = dataclasses.replace(models, pfld=Bent(models.pfld, change))
        with pytest.raises(ModelError, match=r"^The landmark network .*: use another bundle\.$"):
            FaceTracker(bent, threads=1).track(moving(2)[0])
