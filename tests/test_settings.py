"""The settings are the only home of defaults and refuse what is out of range in a sentence."""

from __future__ import annotations

import dataclasses
import json
import math
import re

import numpy as np
import pytest

from napari_face_landmarks import TrackerSettings
from napari_face_landmarks.errors import SettingsError
from napari_face_landmarks.settings import (
    DEFAULT_PRESET,
    PRESETS,
    as_settings,
    preset_named,
    preset_of,
    setting_range,
    settings_from_dict,
)

NUMBERS = [item.name for item in dataclasses.fields(TrackerSettings) if "low" in item.metadata]


def test_defaults_are_those_of_the_published_speed_up() -> None:
    settings = TrackerSettings()
    assert (settings.clnf_every, settings.max_iterations, settings.smoothing_window) == (2, 2, 5)
    assert (settings.search_radius, settings.convergence_px) == (1.2, 0.5)


@pytest.mark.parametrize("name", NUMBERS)
def test_each_number_is_refused_outside_its_range(name: str) -> None:
    low, high = setting_range(name)
    for value in (low, high):
        whole = isinstance(getattr(TrackerSettings(), name), int)
        assert getattr(TrackerSettings(**{name: int(value) if whole else value}), name) == value
    for value in (low - 1, high + 1, math.nan, math.inf, "two", None, True):
        with pytest.raises(SettingsError, match=re.escape(f"from {low:g} to {high:g}")) as caught:
            TrackerSettings(**{name: value})
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["clnf_every", "max_iterations", "max_faces"])
def test_whole_numbers_stay_whole(name: str) -> None:
    with pytest.raises(SettingsError, match="whole number"):
        TrackerSettings(**{name: 2.5})


@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.float32, np.float64])
def test_numbers_of_numpy_are_taken_and_kept_as_plain_ones(kind: type) -> None:
    if issubclass(kind, np.integer):
        settings = TrackerSettings(max_faces=kind(2))
        assert type(settings.max_faces) is int
        assert settings == TrackerSettings(max_faces=2)
    settings = TrackerSettings(search_radius=kind(2))
    assert type(settings.search_radius) is float
    assert json.loads(json.dumps(settings.to_dict())) == TrackerSettings(search_radius=2).to_dict()
    for wrong in (kind(200), np.bool_(True), np.array([2, 3])):
        with pytest.raises(SettingsError, match="max_faces is"):
            TrackerSettings(max_faces=wrong)


def test_settings_are_given_as_such_by_name_or_by_values() -> None:
    assert as_settings(None) == TrackerSettings()
    assert as_settings("fast") == TrackerSettings(refine="off")
    assert as_settings({"max_faces": 2}) == TrackerSettings(max_faces=2)
    for wrong, words in (
        ("best", "no preset"),
        ({"skip": 1}, "no setting"),
        (5, "type int"),
        ([], "list"),
    ):
        with pytest.raises(SettingsError, match=words):
            as_settings(wrong)  # type: ignore[arg-type]


def test_smoothing_window_is_odd() -> None:
    with pytest.raises(SettingsError, match="odd"):
        TrackerSettings(smoothing_window=4)


def test_refine_names_its_choices() -> None:
    with pytest.raises(SettingsError, match="off, auto, always"):
        TrackerSettings(refine="sometimes")  # type: ignore[arg-type]


def test_round_trip_and_replace() -> None:
    settings = TrackerSettings(refine="always", clnf_every=3, search_radius=1.5)
    assert settings_from_dict(settings.to_dict()) == settings
    assert settings.replace(clnf_every=1) == TrackerSettings(refine="always", clnf_every=1, search_radius=1.5)
    with pytest.raises(SettingsError, match="no setting named 'skip'"):
        settings.replace(skip=2)


def test_every_setting_has_a_label_and_a_help_text() -> None:
    for item in dataclasses.fields(TrackerSettings):
        assert item.metadata["label"]
        assert item.metadata["help"].endswith(".")


def test_presets_are_the_four_and_balanced_is_the_defaults() -> None:
    assert [item.title for item in PRESETS] == ["Fast", "Balanced", "Accurate", "Surgical markings"]
    assert TrackerSettings.preset(DEFAULT_PRESET) == TrackerSettings()
    assert len({item.settings for item in PRESETS}) == len(PRESETS)
    for item in PRESETS:
        assert item.help.endswith(".")
        assert preset_named(item.name) is item
        assert preset_of(item.settings) is item
    assert preset_of(TrackerSettings(max_faces=7)) is None


def test_a_preset_can_be_changed_and_is_asked_for_by_name() -> None:
    settings = TrackerSettings.preset("fast", max_faces=3)
    assert (settings.refine, settings.max_faces) == ("off", 3)
    with pytest.raises(SettingsError, match=r"no preset 'best': choose one of fast, balanced"):
        TrackerSettings.preset("best")
    with pytest.raises(SettingsError, match="max_faces is 0"):
        TrackerSettings.preset("fast", max_faces=0)
