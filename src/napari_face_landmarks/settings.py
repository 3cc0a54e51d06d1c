"""Settings of the tracker, with defaults, ranges, units and effect on speed; presets."""

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
    """Settings for tracking faces and refining their landmarks.

    Shared by the dock, the command line and scripts; the metadata of each field are its range, label and
    tooltip (see `setting_range`). `PRESETS` lists settings for common purposes.

    Parameters
    ----------
    refine : {"auto", "off", "always", "clnf-only"}
        When CLNF refines PFLD's landmarks: where PFLD is uncertain, never, or on every face. ``"clnf-only"``
        runs CLNF without PFLD, starting from the detector's box.
    clnf_every : int
        CLNF runs on every n-th frame; its last correction is applied to the frames in between.
    max_iterations : int
        Maximum number of NU-RLMS iterations per scale, for the rigid and the non-rigid fit each.
    search_radius : float
        Search radius of CLNF relative to the support region; 1.2 gives windows of 11, 9 and 7 px.
    convergence_px : float
        CLNF stops at a scale after the first iteration that moves the landmarks by less than this, in
        image pixels.
    smoothing_window : int
        Length of the temporal smoothing window, centred on each frame, in frames; odd; 1 disables smoothing.
        Above 60 frames per second the window has the same duration as at 60.
    max_faces : int
        Maximum number of faces tracked at the same time.
    min_confidence : float
        Minimum face score at which tracking starts; a track ends when the score falls below 0.6 times this.
    scene_cuts : int
        1: at a scene cut, a face that is not recognised starts a new track; 0: the video is one scene.
    pfld_every : int
        PFLD runs at least on every n-th frame. In between, the jaw, brows and nose of a confident face that
        moves little are interpolated; its eyes and mouth come from their own networks. 1 runs PFLD on every
        frame.

    Raises
    ------
    SettingsError
        If a value has the wrong type or is out of range; the message names the range.
    """

    refine: RefineMode = field(
        default="auto",
        metadata={
            "label": "Refine (CLNF)",
            "help": "When CLNF refines the landmarks: off, auto (only where PFLD is uncertain) or always. "
            "Always, with Skip 1, gives the most stable landmarks and takes the most time. clnf-only starts "
            "from the face's box without PFLD, with the window sizes and iterations of OpenFace.",
        },
    )
    clnf_every: int = _setting(
        2,
        1,
        100,
        "Skip: refine every",
        "CLNF runs on every n-th frame; its last correction is applied to the frames in between. 1 refines "
        "every frame; CLNF then takes almost twice as long as with 2. Unit: frames.",
    )
    max_iterations: int = _setting(
        2,
        1,
        50,
        "Iterations",
        "Maximum number of CLNF iterations at each scale. More iterations take little time, since the "
        "response maps are computed once per scale.",
    )
    search_radius: float = _setting(
        1.2,
        0.5,
        3.0,
        "Search radius",
        "How far CLNF searches around each landmark, relative to its support region. Doubling it about "
        "doubles the time of CLNF.",
        0.1,
    )
    convergence_px: float = _setting(
        0.5,
        0.0,
        20.0,
        "Convergence",
        "CLNF stops when an iteration moves the landmarks by less than this. Larger values are faster and "
        "less accurate. Unit: px; 0 always uses all iterations.",
        0.1,
    )
    smoothing_window: int = _setting(
        5,
        1,
        31,
        "Smoothing",
        "Length of the temporal smoothing window. A longer window gives more stable landmarks and blurs fast "
        "movements; it takes hardly any time. Odd; 1 disables smoothing. Unit: frames.",
        2,
    )
    max_faces: int = _setting(
        1,
        1,
        64,
        "Faces",
        "Maximum number of faces tracked at the same time. Each face takes about 2 ms per frame on two "
        "cores.",
    )
    min_confidence: float = _setting(
        0.5,
        0.0,
        1.0,
        "Min. confidence",
        "Minimum face score at which tracking starts; a track ends when the score falls below 0.6 times "
        "this. Lower values keep occluded faces, higher ones reject false detections. From 0 to 1.",
        0.05,
    )
    scene_cuts: int = _setting(
        1,
        0,
        1,
        "Scene cuts",
        "Whether scene cuts are detected. 1: a face that is not recognised after a cut starts a new track. "
        "0: the video is one scene, for flashes or a shaking camera that resemble cuts.",
    )
    pfld_every: int = _setting(
        3,
        1,
        4,
        "PFLD every",
        "Where a confident face moves little, PFLD runs on every n-th frame only. In between, jaw, brows and "
        "nose are interpolated; eyes and mouth are located on every frame. 1 runs PFLD on every frame, which "
        "takes up to a third more time. Unit: frames; smaller below 24 frames per second.",
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
            A name in `PRESETS`: ``"fast"``, ``"balanced"`` (the defaults), ``"accurate"`` or
            ``"surgical-markings"``.
        **changes
            Settings to override.

        Raises
        ------
        SettingsError
            If there is no such preset or setting, or a value is out of range.

        Examples
        --------
        >>> TrackerSettings.preset("accurate", max_faces=2).clnf_every
        1
        """
        return settings_from_dict({**preset_named(name).settings.to_dict(), **changes})

    def replace(self, **changes: Any) -> TrackerSettings:
        """Return a validated copy with some settings changed."""
        return settings_from_dict({**self.to_dict(), **changes})

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain values, ready for JSON."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True)
class Preset:
    """Named settings for a purpose."""

    name: str  # the name for ``--preset`` and `TrackerSettings.preset`
    title: str  # the name in the dock
    help: str  # purpose, benefit and cost
    settings: TrackerSettings


def preset_named(name: str) -> Preset:
    """Return the preset with this name."""
    for item in PRESETS:
        if item.name == name:
            return item
    names = ", ".join(item.name for item in PRESETS)
    raise SettingsError(f"There is no preset {name!r}: choose one of {names}.")


def preset_of(settings: TrackerSettings) -> Preset | None:
    """Return the preset that equals `settings`, or None."""
    return next((item for item in PRESETS if item.settings == settings), None)


def setting_range(name: str) -> tuple[float, float]:
    """Return the minimum and maximum of the setting `name`."""
    metadata = {item.name: item.metadata for item in dataclasses.fields(TrackerSettings)}[name]
    return metadata["low"], metadata["high"]


def settings_from_dict(values: Mapping[str, Any]) -> TrackerSettings:
    """Return settings from a mapping of names to values; an unknown name raises a `SettingsError`."""
    known = [item.name for item in dataclasses.fields(TrackerSettings)]
    if not isinstance(values, Mapping):
        raise SettingsError(f"The settings are {values!r:.60}: give a mapping of names to values.")
    unknown = sorted(set(map(str, values)) - set(known))
    if unknown:
        raise SettingsError(
            f"There is no setting named {unknown[0]!r:.60}: the settings are {', '.join(known)}."
        )
    return TrackerSettings(**values)


def as_settings(value: TrackerSettings | Mapping[str, Any] | str | None) -> TrackerSettings:
    """Convert a mapping, the name of a preset, or None (the defaults) to `TrackerSettings`."""
    if value is None:
        return TrackerSettings()
    if isinstance(value, TrackerSettings):
        return value
    if isinstance(value, str):
        return preset_named(value).settings
    if isinstance(value, Mapping):
        return settings_from_dict(value)
    raise SettingsError(
        f"Settings of type {type(value).__name__} cannot be used: give TrackerSettings, a dict of "
        "settings or the name of a preset."
    )


def _in_range(item: dataclasses.Field[Any], value: Any) -> int | float:
    """Return a Python or NumPy number as a Python number; raise a `SettingsError` if it is out of range."""
    low, high = item.metadata["low"], item.metadata["high"]
    is_int = item.type == "int"
    valid = (
        not isinstance(value, bool)
        and isinstance(value, Integral if is_int else Real)
        and bool(low <= value <= high)  # False for NaN
    )
    if not valid:
        kind = "a whole number" if is_int else "a number"
        raise SettingsError(f"{item.name} is {value!r:.60}: give {kind} from {low:g} to {high:g}.")
    return operator.index(value) if is_int else float(value)


PRESETS: tuple[Preset, ...] = (
    Preset(
        "fast",
        "Fast",
        "PFLD and smoothing without refinement: the same speed on every video, but PFLD's errors remain.",
        TrackerSettings(refine="off"),
    ),
    Preset(
        "balanced",
        "Balanced",
        "The defaults: CLNF where PFLD is uncertain, on every second frame; elsewhere as fast as Fast.",
        TrackerSettings(),
    ),
    Preset(
        "accurate",
        "Accurate",
        "PFLD and CLNF on every face and frame until it converges: the smallest error. Takes about twice the "
        "time of Fast.",
        TrackerSettings(refine="always", pfld_every=1, clnf_every=1, max_iterations=3, convergence_px=0.1),
    ),
    Preset(
        "surgical-markings",
        "Surgical markings",
        "For pen marks, dressings and hands on the face: Accurate with a larger search radius, a longer "
        "smoothing window and a lower minimum face score. Takes the most time and blurs fast movements.",
        TrackerSettings(
            refine="always",
            pfld_every=1,
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
