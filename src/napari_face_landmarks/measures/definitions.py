"""Definitions of the measures: name, unit, and a formula over iBUG 68 landmarks in the axes of the face.

Lengths follow Emotrics (Guarin, Dusseldorp, Hadlock and Jowett 2018, "A machine learning approach for
automated facial measurements in facial palsy"); the eye aspect ratio follows Soukupova and Cech 2016,
"Real-time eye blink detection using facial landmarks", equation 1. Right and left are the subject's.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.errors import MeasureError
from napari_face_landmarks.ibug import N_LANDMARKS
from napari_face_landmarks.measures.quantity import Quantity, arctangent, hypotenuse, mean, polygon_area
from napari_face_landmarks.measures.reference_frame import LEFT_IRIS, RIGHT_IRIS, FaceAxes, face_axes

Kind = Literal["length", "area", "ratio", "angle"]
Side = Literal["right", "left", "both"]
Formula = Callable[[FaceAxes], Quantity]

SIDES: tuple[Literal["right", "left"], ...] = ("right", "left")
EYE = {"right": (36, 37, 38, 39, 40, 41), "left": (45, 44, 43, 42, 47, 46)}
"""Outer canthus, upper lid (outer, inner), inner canthus, lower lid (inner, outer)."""
BROW = {"right": (18, 19, 20), "left": (23, 24, 25)}
COMMISSURE = {"right": 48, "left": 54}
UPPER_LIP = {"right": (49, 50), "left": (52, 53)}
LOWER_LIP = {"right": (58, 59), "left": (55, 56)}
INNER_LIP = {"right": (60, 61, 62, 66, 67), "left": (62, 63, 64, 65, 66)}
LOWER_LIP_BORDER = 57
FACES_PER_CHUNK = 2048
"""Faces measured at a time; limits the memory used by derivatives."""


@dataclass(frozen=True, slots=True)
class Measure:
    """One measure of a face.

    Attributes
    ----------
    name : str
        Name used in tables, such as ``"eye_aperture_right"``.
    title : str
        Name shown to users.
    side : {"right", "left", "both"}
        The subject's side.
    kind : {"length", "area", "ratio", "angle"}
        Lengths and areas are scaled, ratios have no unit, angles are in degrees.
    help : str
        Definition in one sentence.
    lines : tuple of tuple of int
        Landmarks to connect in drawings of the measure.
    formula : callable
        Computes a `Quantity` from the `FaceAxes` of N faces.
    """

    name: str
    title: str
    side: Side
    kind: Kind
    help: str
    lines: tuple[tuple[int, ...], ...]
    formula: Formula


def name_without_side(column: str) -> str:
    """Return a column's name without its side; a symmetry becomes the difference of the same measure."""
    return column.removesuffix("_right").removesuffix("_left").replace("_symmetry", "_difference")


def _distance(axes: FaceAxes, a: int, b: int) -> Quantity:
    return hypotenuse(axes.horizontal(a) - axes.horizontal(b), axes.vertical(a) - axes.vertical(b))


def _area(axes: FaceAxes, corners: tuple[int, ...]) -> Quantity:
    return polygon_area([(axes.horizontal(i), axes.vertical(i)) for i in corners])


def fissure_height(axes: FaceAxes, side: str) -> Quantity:
    """Return the palpebral fissure height: the mean vertical distance between upper and lower lid.

    Negative values, the noise of a shut eye, are kept, so that means are not biased.
    """
    _, upper_outer, upper_inner, _, lower_inner, lower_outer = EYE[side]
    return mean(
        [
            axes.vertical(lower_outer) - axes.vertical(upper_outer),
            axes.vertical(lower_inner) - axes.vertical(upper_inner),
        ]
    )


def fissure_width(axes: FaceAxes, side: str) -> Quantity:
    """Return the palpebral fissure width: the distance between the canthi."""
    return _distance(axes, EYE[side][0], EYE[side][3])


def eye_aperture(axes: FaceAxes, side: str) -> Quantity:
    """Return the palpebral fissure height over its width: about 0.3 for an open eye, 0 for a shut one."""
    return fissure_height(axes, side) / fissure_width(axes, side)


def eye_aspect_ratio(axes: FaceAxes, side: str) -> Quantity:
    """Return the eye aspect ratio (Soukupova and Cech 2016, equation 1)."""
    p1, p2, p3, p4, p5, p6 = EYE[side]
    lids = _distance(axes, p2, p6) + _distance(axes, p3, p5)
    return lids / (_distance(axes, p1, p4) * 2.0)


def eye_area(axes: FaceAxes, side: str) -> Quantity:
    """Return the area between the lids."""
    area = _area(axes, EYE[side])
    return area if side == "right" else -area


def margin_reflex_distance_1(axes: FaceAxes, side: str) -> Quantity:
    """Return the vertical distance from the centre of the iris to the upper lid (MRD 1)."""
    iris = RIGHT_IRIS if side == "right" else LEFT_IRIS
    return axes.vertical(iris) - mean([axes.vertical(EYE[side][1]), axes.vertical(EYE[side][2])])


def margin_reflex_distance_2(axes: FaceAxes, side: str) -> Quantity:
    """Return the vertical distance from the centre of the iris to the lower lid (MRD 2)."""
    iris = RIGHT_IRIS if side == "right" else LEFT_IRIS
    return mean([axes.vertical(EYE[side][5]), axes.vertical(EYE[side][4])]) - axes.vertical(iris)


def brow_height(axes: FaceAxes, side: str) -> Quantity:
    """Return the mean height of the brow's three middle landmarks above the canthal line."""
    return -mean([axes.below_line(i) for i in BROW[side]])


def commissure_excursion(axes: FaceAxes, side: str) -> Quantity:
    """Return the distance of the commissure from the point where the midline meets the lower lip's border."""
    return hypotenuse(
        axes.horizontal(COMMISSURE[side]), axes.vertical(COMMISSURE[side]) - axes.vertical(LOWER_LIP_BORDER)
    )


def smile_angle(axes: FaceAxes, side: str) -> Quantity:
    """Return the angle at the lower lip's border between the midline, upwards, and the commissure."""
    outwards = axes.horizontal(COMMISSURE[side])
    if side == "right":
        outwards = -outwards
    upwards = axes.vertical(LOWER_LIP_BORDER) - axes.vertical(COMMISSURE[side])
    return arctangent(outwards, upwards) * math.degrees(1)


def commissure_height(axes: FaceAxes, side: str) -> Quantity:
    """Return the distance of the commissure below the canthal line."""
    return axes.below_line(COMMISSURE[side])


def upper_lip_height(axes: FaceAxes, side: str) -> Quantity:
    """Return the distance of the upper lip's border, midway to the commissure, below the canthal line."""
    return mean([axes.below_line(i) for i in UPPER_LIP[side]])


def lower_lip_height(axes: FaceAxes, side: str) -> Quantity:
    """Return the distance of the lower lip's border, midway to the commissure, below the canthal line."""
    return mean([axes.below_line(i) for i in LOWER_LIP[side]])


def dental_show(axes: FaceAxes, side: str) -> Quantity:
    """Return the area between the inner lips on one side of their midpoints."""
    return _area(axes, INNER_LIP[side])


def philtrum_deviation(axes: FaceAxes) -> Quantity:
    """Return the angle of the philtrum (nose to upper lip) to the midline, positive to the subject's left."""
    return arctangent(
        axes.horizontal(51) - axes.horizontal(33), axes.vertical(51) - axes.vertical(33)
    ) * math.degrees(1)


def mouth_width(axes: FaceAxes) -> Quantity:
    """Return the distance between the commissures."""
    return _distance(axes, 48, 54)


def mouth_opening(axes: FaceAxes) -> Quantity:
    """Return the vertical distance between the inner lips at their midpoints."""
    return axes.vertical(66) - axes.vertical(62)


def outer_mouth_opening(axes: FaceAxes) -> Quantity:
    """Return the vertical distance between the outer lips at their midpoints."""
    return axes.vertical(57) - axes.vertical(51)


def lip_aperture_area(axes: FaceAxes) -> Quantity:
    """Return the area between the inner lips."""
    return _area(axes, tuple(range(60, 68)))


def jaw_opening(axes: FaceAxes) -> Quantity:
    """Return the vertical distance from the subnasale to the chin."""
    return axes.vertical(8) - axes.vertical(33)


def inter_canthal_distance(axes: FaceAxes) -> Quantity:
    """Return the distance between the outer canthi."""
    return _distance(axes, 36, 45)


_PAIRED: tuple[tuple[str, str, Kind, Callable[[FaceAxes, str], Quantity], Callable[[str], Any]], ...] = (
    ("eye_height", "palpebral fissure height", "length", fissure_height,
     lambda s: ((EYE[s][1], EYE[s][5]), (EYE[s][2], EYE[s][4]))),
    ("eye_width", "palpebral fissure width", "length", fissure_width, lambda s: ((EYE[s][0], EYE[s][3]),)),
    ("eye_aperture", "eye aperture", "ratio", eye_aperture,
     lambda s: ((EYE[s][0], EYE[s][3]), (EYE[s][1], EYE[s][5]), (EYE[s][2], EYE[s][4]))),
    ("eye_aspect_ratio", "eye aspect ratio", "ratio", eye_aspect_ratio,
     lambda s: ((EYE[s][0], EYE[s][3]), (EYE[s][1], EYE[s][5]), (EYE[s][2], EYE[s][4]))),
    ("mrd1", "marginal reflex distance 1", "length", margin_reflex_distance_1,
     lambda s: ((EYE[s][1], EYE[s][2]),)),
    ("mrd2", "marginal reflex distance 2", "length", margin_reflex_distance_2,
     lambda s: ((EYE[s][5], EYE[s][4]),)),
    ("eye_area", "eye area", "area", eye_area, lambda s: ((*EYE[s], EYE[s][0]),)),
    ("brow_height", "brow height", "length", brow_height, lambda s: (BROW[s],)),
    ("commissure_excursion", "commissure excursion", "length", commissure_excursion,
     lambda s: ((LOWER_LIP_BORDER, COMMISSURE[s]),)),
    ("smile_angle", "smile angle", "angle", smile_angle,
     lambda s: ((51, LOWER_LIP_BORDER, COMMISSURE[s]),)),
    ("commissure_height", "commissure height", "length", commissure_height, lambda s: ((COMMISSURE[s],),)),
    ("upper_lip_height", "upper lip height", "length", upper_lip_height, lambda s: (UPPER_LIP[s],)),
    ("lower_lip_height", "lower lip height", "length", lower_lip_height, lambda s: (LOWER_LIP[s],)),
    ("dental_show", "dental show", "area", dental_show, lambda s: ((*INNER_LIP[s], INNER_LIP[s][0]),)),
)  # fmt: skip
_SINGLE: tuple[tuple[str, str, Kind, Formula, Any], ...] = (
    ("philtrum_deviation", "philtrum deviation", "angle", philtrum_deviation, ((33, 51),)),
    ("mouth_width", "mouth width", "length", mouth_width, ((48, 54),)),
    ("mouth_opening", "mouth opening", "length", mouth_opening, ((62, 66),)),
    ("outer_mouth_opening", "outer mouth opening", "length", outer_mouth_opening, ((51, 57),)),
    ("lip_aperture_area", "lip aperture area", "area", lip_aperture_area, ((*range(60, 68), 60),)),
    ("jaw_opening", "jaw opening", "length", jaw_opening, ((33, 8),)),
    ("inter_canthal_distance", "outer inter-canthal distance", "length", inter_canthal_distance, ((36, 45),)),
)  # fmt: skip


def _help(function: Callable[..., Quantity]) -> str:
    """Return the first paragraph of a formula's docstring, without "Return"."""
    text = (function.__doc__ or "").split("\n\n")[0].removeprefix("Return ")
    return text[:1].upper() + " ".join(text[1:].split())


def _for_side(formula: Callable[[FaceAxes, str], Quantity], side: str) -> Formula:
    return lambda axes: formula(axes, side)


MEASURES = tuple(
    Measure(f"{name}_{side}", f"{title}, {side}", side, kind, _help(formula), lines(side),
            _for_side(formula, side))
    for name, title, kind, formula, lines in _PAIRED for side in SIDES
) + tuple(
    Measure(name, title, "both", kind, _help(formula), lines, formula)
    for name, title, kind, formula, lines in _SINGLE
)  # fmt: skip
"""All measures of one face on one frame."""
PAIRS = tuple(name for name, *_ in _PAIRED)
"""Names, without the side, of the measures that exist for both sides."""


def measure_named(name: str) -> Measure:
    """Return the measure with a name.

    Raises
    ------
    MeasureError
        If there is no such measure; the message suggests similar names.
    """
    for item in MEASURES:
        if item.name == name:
            return item
    raise unknown_measure(name, [item.name for item in MEASURES])


def unknown_measure(name: str, known: Sequence[str]) -> MeasureError:
    """Return an error that suggests known names similar to an unknown one, or lists all of them."""
    near = difflib.get_close_matches(str(name), known, 3) or [item for item in known if str(name) in item][:6]
    hint = f"do you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(known)}."
    return MeasureError(f"There is no measure {name!r:.60}: {hint}")


def values_of(landmarks: npt.NDArray[Any], name: str) -> npt.NDArray[np.float64]:
    """Compute one measure, in the unit of the landmarks; angles in degrees.

    Parameters
    ----------
    landmarks : ndarray, (..., 68, 2)
        x then y, y down.
    name : str
        Name of one of `MEASURES`.

    Returns
    -------
    ndarray, (...), float64

    Raises
    ------
    MeasureError
        If there is no such measure, or the landmarks have another shape.

    Examples
    --------
    >>> values_of(np.zeros((4, 1, 68, 2)), "mouth_width").shape
    (4, 1)
    """
    points = np.asarray(landmarks)
    if points.shape[-2:] != (N_LANDMARKS, 2):
        raise MeasureError(f"The landmarks have the shape {points.shape}: give (..., {N_LANDMARKS}, 2).")
    values = measure_landmarks(points.reshape(-1, *points.shape[-2:]), (name,))
    return np.asarray(values.reshape(points.shape[:-2]))


def measure_landmarks(landmarks: npt.NDArray[Any], names: Sequence[str]) -> npt.NDArray[np.float64]:
    """Compute K measures of landmarks (N, 68, 2) in chunks, (K, N) float64; units as for `values_of`."""
    values = np.empty((len(names), len(landmarks)))
    with np.errstate(divide="ignore", invalid="ignore"):
        for first in range(0, len(landmarks), FACES_PER_CHUNK):
            chunk = slice(first, first + FACES_PER_CHUNK)
            axes = face_axes(landmarks[chunk])
            for row, name in zip(values, names, strict=True):
                row[chunk] = measure_named(name).formula(axes).value
    return values
