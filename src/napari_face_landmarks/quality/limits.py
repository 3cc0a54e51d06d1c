"""Limits beyond which a frame should be checked.

Measured on held-out faces of 300-W (unmodified, occluded, with pen marks, blurred), each refined by CLNF. A
fit is poor if its mean error exceeds 8 % of the inter-ocular distance. The area under the ROC curve for
detecting poor fits is 0.89 for the mean confidence, 0.88 for the distance by which CLNF moved the landmarks
and, without refinement, 0.91 for their distance from the shape model.
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
    """Limits beyond which a frame is suspicious.

    Parameters
    ----------
    low_confidence : float
        Mean confidence of a face below which it is low. Of the held-out faces below 0.6, four in ten are poor
        fits; of those above 0.9, one in a hundred.
    jump : float
        Mean movement of the landmarks in one frame, in inter-ocular distances, from which it is a jump, if it
        also exceeds `jump_ratio`.
    region_confidence : float
        Mean confidence of a facial region below which it is low, even if that of the face is not; at most
        `low_confidence` is used.
    jump_ratio : float
        Ratio of a jump to the typical movement around that frame, since heads that rotate fast move far on
        many frames.
    disagreement : float
        Mean distance by which CLNF moved PFLD's landmarks, in inter-ocular distances, from which they
        disagree. On unobstructed faces it is 0.01 to 0.03; of the held-out faces above 0.045, nearly half are
        poor fits.
    off_model : float
        Mean distance of the landmarks from the closest shape of the shape model, in inter-ocular distances,
        from which they are unlike a face. On unobstructed faces it is 0.005 to 0.012; of the held-out faces
        above 0.02 that were not refined, three in four are poor fits.

    Raises
    ------
    SettingsError
        If a limit is not a number or is out of range.
    """

    low_confidence: float = _limit(0.6, 1.0, "Mean confidence of a face below which it is low (0 to 1).")
    region_confidence: float = _limit(
        0.4, 1.0, "Mean confidence of a facial region below which it is low (0 to 1)."
    )
    jump: float = _limit(
        0.08, 100.0, "Movement in one frame from which it is a jump, in inter-ocular distances."
    )
    jump_ratio: float = _limit(4.0, 1000.0, "Ratio of a jump to the typical movement around that frame.")
    disagreement: float = _limit(
        0.045,
        100.0,
        "Distance of PFLD's landmarks from CLNF's from which they disagree, in inter-ocular distances.",
    )
    off_model: float = _limit(
        0.02, 100.0, "Distance from the shape model from which a face is unlikely, in inter-ocular distances."
    )

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value, low, high = getattr(self, item.name), item.metadata["low"], item.metadata["high"]
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not (number and math.isfinite(value) and low <= value <= high):
                raise SettingsError(f"{item.name} is {value!r}: give a number from {low:g} to {high:g}.")
