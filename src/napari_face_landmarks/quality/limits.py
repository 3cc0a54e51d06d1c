"""Limits beyond which a frame should be checked, and where they come from.

Measured on held-out faces of 300-W, unchanged, occluded, drawn on and blurred, each refined by CLNF; a fit
with a mean error of more than 8 % of the inter-ocular distance is poor. Poor fits are detected by the mean
confidence with an area under the ROC curve of 0.89, by the distance that CLNF moved the landmarks with 0.88
and, without refinement, by the distance from the point distribution model with 0.91.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from napari_face_landmarks.errors import SettingsError


def _limit(default: float, high: float, text: str) -> Any:
    return field(default=default, metadata={"low": 0.0, "high": high, "help": text})


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits beyond which a face on a frame is suspicious.

    Parameters
    ----------
    low_confidence : float
        Mean confidence of a face's landmarks. Of the held-out faces below the default, four in ten are poor
        fits; of those of at least 0.9, one in a hundred.
    jump : float
        Mean movement of the landmarks from one frame to the next, in inter-ocular distances.
    jump_ratio : float
        A jump must also exceed the usual movement around that frame by this factor, since a head that turns
        fast moves far on many frames.
    disagreement : float
        Mean distance that CLNF moved PFLD's landmarks, in inter-ocular distances. On clear faces it is 0.01
        to 0.03; of the held-out faces with more than 0.045, nearly half are poor fits.
    off_model : float
        Mean distance of the landmarks from the closest shape of the point distribution model, in
        inter-ocular distances. On clear faces it is 0.005 to 0.012; of the held-out faces with more than 0.02
        that were not refined, three in four are poor fits.

    Raises
    ------
    SettingsError
        If a limit is not a number in its range.
    """

    low_confidence: float = _limit(0.6, 1.0, "Mean confidence of a face below which it is low (0 to 1).")
    jump: float = _limit(
        0.08, 100.0, "Movement in one frame from which it is a jump, in inter-ocular distances."
    )
    jump_ratio: float = _limit(
        4.0, 1000.0, "How many times the usual movement around that frame a jump must be."
    )
    disagreement: float = _limit(
        0.045,
        100.0,
        "Distance between PFLD's and CLNF's landmarks from which they disagree, in that unit.",
    )
    off_model: float = _limit(
        0.02,
        100.0,
        "Distance from the shape model from which landmarks are unlike a face, in that unit.",
    )

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value, low, high = getattr(self, item.name), item.metadata["low"], item.metadata["high"]
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not (number and math.isfinite(value) and low <= value <= high):
                raise SettingsError(f"{item.name} is {value!r}: give a number from {low:g} to {high:g}.")
