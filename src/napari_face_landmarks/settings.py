"""The one home of every default: what the tracker may be told, its range, its unit and what it costs."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, Literal, get_args

from napari_face_landmarks.errors import SettingsError

RefineMode = Literal["off", "auto", "always", "clnf-only"]
REFINE_MODES: tuple[RefineMode, ...] = get_args(RefineMode)


def _setting(default: Any, low: float, high: float, label: str, text: str, step: float = 1) -> Any:
    return field(
        default=default,
        metadata={"low": low, "high": high, "label": label, "help": text, "step": step},
    )


@dataclass(frozen=True, slots=True)
class TrackerSettings:
    """How faces are tracked and when their landmarks are refined.

    Every control of the widget, every option of the command line and every script use this one object; the
    range, label and tooltip of each setting are its field's metadata (see `setting_range`). `PRESETS` has
    settings for some purposes.

    Parameters
    ----------
    refine : {"auto", "off", "always", "clnf-only"}
        When CLNF refines the landmarks of PFLD: only where PFLD is unsure, never, or on every face; or CLNF
        by itself, from the detector's box on.
    clnf_every : int
        Skip: CLNF runs on every n-th frame; the frames between carry its last correction.
    max_iterations : int
        NU-RLMS iterations per scale, rigid and full alike.
    search_radius : float
        Reach of the CLNF search in units of the support's; 1.2 gives windows of 11, 9 and 7 px.
    convergence_px : float
        CLNF stops at a scale after the first iteration that moves the landmarks less, in px of the image.
    smoothing_window : int
        Frames of the temporal smoothing, centred on each frame; odd, 1 is none.
    max_faces : int
        The largest number of faces followed at a time.
    min_confidence : float
        How sure it must be before a face is followed; it is given up when its score is below 0.6 times this.

    Raises
    ------
    SettingsError
        If a value is of the wrong type or outside its range; the sentence names the range.
    """

    refine: RefineMode = field(
        default="auto",
        metadata={
            "label": "Refine (CLNF)",
            "help": "When shape-constrained refinement runs: off, auto (only where PFLD is unsure) or "
            "always; always, with skip 1, gives the steadiest landmarks and costs the most time. clnf-only "
            "starts from the face's box without PFLD, as OpenFace does, with OpenFace's own windows and "
            "iterations.",
        },
    )
    clnf_every: int = _setting(
        2,
        1,
        100,
        "Skip: refine every",
        "CLNF runs on every n-th frame; the others carry its last correction. 1 refines every frame, "
        "at almost twice CLNF's time of 2. Unit: frames.",
    )
    max_iterations: int = _setting(
        2,
        1,
        50,
        "Iterations",
        "Largest number of CLNF iterations at each scale. More cost little time, as the responses are "
        "computed once a scale.",
    )
    search_radius: float = _setting(
        1.2,
        0.5,
        3.0,
        "Search radius",
        "How far CLNF looks for each landmark, in units of its support; twice as far takes about twice "
        "CLNF's time.",
        0.1,
    )
    convergence_px: float = _setting(
        0.5,
        0.0,
        20.0,
        "Convergence",
        "CLNF stops early once an iteration moves the landmarks less than this: larger is faster and "
        "coarser. Unit: px; 0 never stops.",
        0.1,
    )
    smoothing_window: int = _setting(
        5,
        1,
        31,
        "Smoothing",
        "Frames that the temporal smoothing looks at: more are steadier and blur quick movements; it costs "
        "hardly any time. Odd, 1 is none. Unit: frames.",
        2,
    )
    max_faces: int = _setting(
        1,
        1,
        64,
        "Faces",
        "The largest number of faces followed at a time. Each face costs its own time, on two cores "
        "about 2 ms a frame.",
    )
    min_confidence: float = _setting(
        0.5,
        0.0,
        1.0,
        "Min. confidence",
        "How sure the tracker must be before it follows a face; a face is given up when its score falls "
        "below 0.6 times this. Lower finds and holds on to covered faces, higher drops false ones. From 0 "
        "to 1; it costs no time.",
        0.05,
    )

    def __post_init__(self) -> None:
        if self.refine not in REFINE_MODES:
            raise SettingsError(f"refine is {self.refine!r:.60}: choose one of {', '.join(REFINE_MODES)}.")
        for item in dataclasses.fields(self):
            if "low" in item.metadata:
                object.__setattr__(self, item.name, _in_range(item, getattr(self, item.name)))
        if self.smoothing_window % 2 == 0:
            low, high = setting_range("smoothing_window")
            raise SettingsError(
                f"smoothing_window is {self.smoothing_window}: give an odd number from {low:g} to {high:g}."
            )

    @staticmethod
    def preset(name: str, **changes: Any) -> TrackerSettings:
        """Return the settings of a preset, some of them changed.

        Parameters
        ----------
        name : str
            Of `PRESETS`: ``"fast"``, ``"balanced"`` (the defaults), ``"accurate"`` or
            ``"surgical-markings"``.
        **changes
            Settings that are to differ from the preset's.

        Raises
        ------
        SettingsError
            If there is no such preset or setting, or a value is out of its range.

        Examples
        --------
        >>> TrackerSettings.preset("accurate", max_faces=2).clnf_every
        1
        """
        return settings_from_dict({**preset_named(name).settings.to_dict(), **changes})

    def replace(self, **changes: Any) -> TrackerSettings:
        """Return a copy with some settings changed, checked like new ones."""
        return settings_from_dict({**self.to_dict(), **changes})

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain values, ready for JSON."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True)
class Preset:
    """Settings for a purpose, under one name everywhere.

    Attributes
    ----------
    name : str
        As ``--preset`` and `TrackerSettings.preset` take it.
    title : str
        As the widget shows it.
    help : str
        What it is for, what it costs and what it gains.
    settings : TrackerSettings
    """

    name: str
    title: str
    help: str
    settings: TrackerSettings


def preset_named(name: str) -> Preset:
    """Return the preset of a name.

    Raises
    ------
    SettingsError
        If there is none; the sentence names all.
    """
    for item in PRESETS:
        if item.name == name:
            return item
    names = ", ".join(item.name for item in PRESETS)
    raise SettingsError(f"There is no preset {name!r}: choose one of {names}.")


def preset_of(settings: TrackerSettings) -> Preset | None:
    """Return the preset whose settings these are, or None."""
    return next((item for item in PRESETS if item.settings == settings), None)


def setting_range(name: str) -> tuple[float, float]:
    """Return the smallest and the largest value that the setting `name` may have."""
    metadata = {item.name: item.metadata for item in dataclasses.fields(TrackerSettings)}[name]
    return metadata["low"], metadata["high"]


def settings_from_dict(values: Mapping[str, Any]) -> TrackerSettings:
    """Return the settings that `values` names; an unknown name is refused in a sentence."""
    known = [item.name for item in dataclasses.fields(TrackerSettings)]
    if not isinstance(values, Mapping):
        raise SettingsError(f"The settings are {values!r:.60}: give the names and values of settings.")
    unknown = sorted(set(map(str, values)) - set(known))
    if unknown:
        raise SettingsError(
            f"There is no setting named {unknown[0]!r:.60}: the settings are {', '.join(known)}."
        )
    return TrackerSettings(**values)


def given_settings(given: TrackerSettings | Mapping[str, Any] | str | None) -> TrackerSettings:
    """Return the settings that a user gave: themselves, names and values, the name of a preset, or none.

    Raises
    ------
    SettingsError
        If they are of another type, there is no such preset or setting, or a value is out of its range.
    """
    if given is None:
        return TrackerSettings()
    if isinstance(given, TrackerSettings):
        return given
    if isinstance(given, str):
        return preset_named(given).settings
    if isinstance(given, Mapping):
        return settings_from_dict(given)
    raise SettingsError(
        f"Settings of the type {type(given).__name__} cannot be used: give TrackerSettings, a dict of "
        "settings or the name of a preset."
    )


def _in_range(item: dataclasses.Field[Any], value: Any) -> int | float:
    """Return a number, of Python or of NumPy, as one of Python, or refuse it."""
    low, high = item.metadata["low"], item.metadata["high"]
    whole = item.type == "int"
    fits = (
        not isinstance(value, bool)
        and isinstance(value, Integral if whole else Real)
        and bool(low <= value <= high)  # not where it is NaN
    )
    if not fits:
        kind = "a whole number" if whole else "a number"
        raise SettingsError(f"{item.name} is {value!r:.60}: give {kind} from {low:g} to {high:g}.")
    return operator.index(value) if whole else float(value)


PRESETS: tuple[Preset, ...] = (
    Preset(
        "fast",
        "Fast",
        "PFLD and smoothing alone: the same speed on every video, and no correction of what PFLD gets wrong.",
        TrackerSettings(refine="off"),
    ),
    Preset(
        "balanced",
        "Balanced",
        "The defaults: CLNF only where PFLD is unsure, on every second frame. Where it is sure, as fast as "
        "Fast.",
        TrackerSettings(),
    ),
    Preset(
        "accurate",
        "Accurate",
        "CLNF on every face of every frame, until it hardly moves the landmarks: the smallest error, for "
        "about twice the time of Fast on one core and 1.8 times on two.",
        TrackerSettings(refine="always", clnf_every=1, max_iterations=3, convergence_px=0.1),
    ),
    Preset(
        "surgical-markings",
        "Surgical markings",
        "For pen marks, dressings and hands on the face: as Accurate, and it looks farther for each "
        "landmark, smooths over more frames and holds on to a face at a lower score. Costs the most time, "
        "and blurs quick movements.",
        TrackerSettings(
            refine="always",
            clnf_every=1,
            max_iterations=3,
            search_radius=1.5,
            convergence_px=0.1,
            smoothing_window=7,
            min_confidence=0.4,
        ),
    ),
)
"""The presets, from the fastest to the most thorough."""
DEFAULT_PRESET = "balanced"
