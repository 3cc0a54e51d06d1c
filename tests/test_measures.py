"""Measures: known values of a drawn face, invariances, derivatives against finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drawn_face import drawn_face, mirrored
from napari_face_landmarks.measures import MEASURES, PAIRS, face_axes, measure_named, values_of

KNOWN = {
    "eye_height_right": 10.0,
    "eye_width_left": 30.0,
    "eye_aperture_right": 1 / 3,
    "eye_aspect_ratio_left": 1 / 3,
    "eye_area_left": 10 * (30 + 11) / 2,
    "brow_height_right": 27.0,
    "commissure_excursion_right": math.hypot(25, 12),
    "smile_angle_left": math.degrees(math.atan2(25, 12)),
    "commissure_height_left": 60.0,
    "upper_lip_height_right": 54.0,
    "lower_lip_height_left": 69.0,
    "dental_show_right": 5 * 8 / 2 + 4 * 8 / 2 + 4 * 12 / 2,
    "philtrum_deviation": 0.0,
    "mouth_width": 50.0,
    "mouth_opening": 5.0,
    "outer_mouth_opening": 18.0,
    "lip_aperture_area": 2 * (5 * 8 / 2 + 4 * 8 / 2 + 4 * 12 / 2),
    "jaw_opening": 50.0,
    "inter_canthal_distance": 100.0,
}


def uneven_face(seed: int) -> np.ndarray:
    return drawn_face() + np.random.default_rng(seed).normal(0, 1.5, (68, 2))


@pytest.mark.parametrize("name", KNOWN)
def test_a_drawn_face_has_the_values_known_by_hand(name: str) -> None:
    assert values_of(drawn_face(), name) == pytest.approx(KNOWN[name], abs=1e-9)


def test_there_is_a_known_value_for_each_kind_of_measure() -> None:
    named = {item.name.removesuffix("_right").removesuffix("_left") for item in MEASURES}
    known = {name.removesuffix("_right").removesuffix("_left") for name in KNOWN}
    assert known | {"mrd1", "mrd2"} == named  # these need the iris: see below
    assert set(PAIRS) <= named


def test_marginal_reflex_distances_go_from_the_iris_to_the_lids() -> None:
    face = np.concatenate([drawn_face(), [(-35.0, 1.0), (35.0, -2.0)]])[None]
    axes = face_axes(face)
    found = {name: measure_named(name).formula(axes).value[0] for name in ("mrd1_right", "mrd2_left")}
    assert found == pytest.approx({"mrd1_right": 6.0, "mrd2_left": 7.0})
    assert np.isnan(values_of(drawn_face(), "mrd1_left"))


def test_a_lid_that_falls_lowers_the_aperture_of_its_side_alone() -> None:
    face = drawn_face()
    face[[43, 44], 1] += 8
    assert values_of(face, "eye_aperture_left") == pytest.approx(2 / 30)
    assert values_of(face, "eye_aperture_right") == pytest.approx(1 / 3)


def test_a_drooping_commissure_is_seen_in_height_angle_and_deviation() -> None:
    face = drawn_face()
    face[54, 1] += 6
    assert values_of(face, "commissure_height_left") - values_of(face, "commissure_height_right") == 6
    assert values_of(face, "smile_angle_left") > values_of(face, "smile_angle_right") + 10


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    angle=st.floats(-math.pi, math.pi),
    scale=st.floats(0.05, 40),
    x=st.floats(-1e3, 1e3),
    y=st.floats(-1e3, 1e3),
)
def test_measures_do_not_change_with_place_size_and_roll(
    seed: int, angle: float, scale: float, x: float, y: float
) -> None:
    face = uneven_face(seed)
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    moved = scale * face @ rotation.T + (x, y)
    powers = {"length": 1, "area": 2, "ratio": 0, "angle": 0}
    for item in MEASURES:
        if item.name.startswith("mrd"):
            continue
        expected = values_of(face, item.name) * scale ** powers[item.kind]
        np.testing.assert_allclose(values_of(moved, item.name), expected, rtol=1e-7, atol=1e-7 * scale)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_left_and_right_change_places_in_the_mirror(seed: int) -> None:
    face = uneven_face(seed)
    for name in set(PAIRS) - {"mrd1", "mrd2"}:
        for side, other in (("right", "left"), ("left", "right")):
            value = values_of(mirrored(face), f"{name}_{side}")
            np.testing.assert_allclose(value, values_of(face, f"{name}_{other}"), rtol=1e-9)
    np.testing.assert_allclose(
        values_of(mirrored(face), "philtrum_deviation"), -values_of(face, "philtrum_deviation")
    )


def test_derivatives_agree_with_finite_differences() -> None:
    irises = np.tile([(-34.0, 1.0), (36.0, -1.0)], (3, 1, 1))
    faces = np.concatenate([np.stack([uneven_face(seed) for seed in range(3)]), irises], axis=1)
    axes, step = face_axes(faces), 1e-5
    canthi = faces[:, (36, 39, 42, 45)]
    dx, dy = np.moveaxis(canthi - canthi.mean(axis=1, keepdims=True), -1, 0)
    angle = 0.5 * np.arctan2(2 * (dx * dy).sum(axis=1), (dx**2 - dy**2).sum(axis=1))
    directions = np.stack(
        [np.stack([np.cos(angle), np.sin(angle)], -1), np.stack([-np.sin(angle), np.cos(angle)], -1)], axis=1
    )
    expected = {item.name: np.zeros((3, 70, 2)) for item in MEASURES}
    for i in range(70):
        for axis in range(2):
            shift = np.zeros_like(faces)
            shift[:, i] = step * directions[:, axis]
            after, before = face_axes(faces + shift), face_axes(faces - shift)
            for item in MEASURES:
                change = item.formula(after).value - item.formula(before).value
                expected[item.name][:, i, axis] = change / (2 * step)
    for item in MEASURES:
        found = np.zeros((3, 70, 2))
        used, slopes = axes.landmark_gradient(item.formula(axes))
        found[:, used] = np.moveaxis(slopes, -1, 0)
        np.testing.assert_allclose(found, expected[item.name], rtol=1e-5, atol=1e-6, err_msg=item.name)


def test_an_event_that_just_reaches_the_threshold_is_one() -> None:
    """Such as a movement of exactly half the range; it had no row of its own, which ended in an error."""
    from napari_face_landmarks.measures.events import _intervals

    assert _intervals(np.array([0, 0.5, 1, 0.5, 0]), 1.0) == [(2, 2)]
