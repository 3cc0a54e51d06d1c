"""From where on a frame is worth a look: the one home of these numbers.

Measured on held-out faces of 300-W, as they are, covered, marked with a pen and blurred, each refined by
CLNF: a fit is poor where its mean error is over 8 % of the inter-ocular distance. The mean confidence tells
poor fits from good ones with an area under the ROC curve of 0.89, how far CLNF moved the landmarks with 0.88,
and, without refinement, how far they are from the shape model with 0.91.
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
    """From where on a frame counts as suspicious.

    Parameters
    ----------
    low_confidence : float
        Mean confidence of a face's landmarks below which it is low. Of the held-out faces that have less,
        four in ten are poor fits; of those that have 0.9 and more, one in a hundred.
    jump : float
        Mean movement of the landmarks in one frame, in inter-ocular distances, from which it is a jump ...
    jump_ratio : float
        ... where it is so many times the usual movement round that frame, too: a head that turns fast moves
        much on many frames.
    disagreement : float
        How far CLNF moved PFLD's landmarks, on average, in inter-ocular distances, from which they disagree.
        On clear faces it is 0.01 to 0.03; of the held-out faces with more than 0.045, nearly half are poor
        fits.
    off_model : float
        How far the landmarks are from what the shape model can express, on average, in inter-ocular
        distances, from which they look unlike a face. On clear faces it is 0.005 to 0.012; of the held-out
        faces with more than 0.02 that were not refined, three in four are poor fits.

    Raises
    ------
    SettingsError
        If one is no number in its range.
    """

    low_confidence: float = _limit(0.6, 1.0, "Mean confidence of a face below which it is low (0 to 1).")
    jump: float = _limit(
        0.08, 100.0, "Movement in one frame from which it is a jump, in inter-ocular distances."
    )
    jump_ratio: float = _limit(
        4.0, 1000.0, "How many times the usual movement round that frame a jump has to be, too."
    )
    disagreement: float = _limit(
        0.045,
        100.0,
        "Distance of PFLD's landmarks from CLNF's from which they disagree, in that unit.",
    )
    off_model: float = _limit(
        0.02,
        100.0,
        "Distance from the shape model from which they look unlike a face, in that unit.",
    )

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value, low, high = getattr(self, item.name), item.metadata["low"], item.metadata["high"]
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not (number and math.isfinite(value) and low <= value <= high):
                raise SettingsError(f"{item.name} is {value!r}: give a number from {low:g} to {high:g}.")
