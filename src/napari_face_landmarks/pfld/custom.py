"""A landmark network of the user's own, run as if it were the plugin's PFLD."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from napari_face_landmarks.errors import ModelError, in_one_line
from napari_face_landmarks.pfld.crop import CROP_MARGIN, sample_crops

Floats = npt.NDArray[np.float32]

WFLW_TO_IBUG = np.array(
    [
        *range(0, 33, 2),  # jaw
        *range(33, 38),  # brows: their upper edges
        *range(42, 47),
        *range(51, 60),  # nose
        *(60, 61, 63, 64, 65, 67),  # eyes: without the middles of the lids
        *(68, 69, 71, 72, 73, 75),
        *range(76, 96),  # lips; the pupils are left out
    ]
)
"""Which of the 98 points of WFLW are those of the 68 of iBUG."""

UNKNOWN_SIGMA = 0.04
"""Standard deviation of a landmark of which the network says none, in units of the inter-ocular distance."""


@dataclass(frozen=True)
class CustomPfld:
    """A landmark network that is not the plugin's, and what must be known to run it.

    Attributes
    ----------
    session : onnxruntime.InferenceSession
        The network.
    judge : onnxruntime.InferenceSession
        The plugin's PFLD, asked only whether a crop shows a face at all.
    output : str
        Name of the output that has the landmarks.
    size : int
        Side of the input, px.
    channels_last : bool
        Whether the input is (N, H, W, 3), not (N, 3, H, W).
    batches : bool
        Whether it takes several crops at a time.
    low, high : float
        What black and white are in the input.
    bgr : bool
        Whether the colours come as blue, green, red.
    box : {"face", "landmarks"}
        What the crop is measured by: a detector's box from forehead to chin, or that of the landmarks.
    box_scale : float
        Side of the crop over the larger side of the box.
    points : int
        68 (iBUG) or 98 (WFLW).
    sigma : float
        Standard deviation taken for each landmark, in units of the inter-ocular distance.
    """

    session: onnxruntime.InferenceSession
    judge: onnxruntime.InferenceSession
    output: str
    size: int
    channels_last: bool
    batches: bool
    low: float
    high: float
    bgr: bool
    box: str
    box_scale: float
    points: int
    sigma: float = UNKNOWN_SIGMA


def custom_crops(network: CustomPfld, crops: Floats, box_to_crop: float, shift: float) -> Floats:
    """Return the crops that a network wants, (F, 4), for the plugin's crops of the same faces.

    Parameters
    ----------
    network : CustomPfld
    crops : ndarray, (F, 4)
        Centre x, centre y, side, roll.
    box_to_crop, shift : float
        Side of the plugin's crop over that of a face box, and how far its centre lies below the box's, in
        units of the box's height.
    """
    wanted = np.array(crops, dtype=np.float32)
    if network.box == "landmarks":
        wanted[:, 2] *= network.box_scale / CROP_MARGIN
        return wanted
    box = wanted[:, 2] / box_to_crop
    wanted[:, 0] += np.sin(wanted[:, 3]) * shift * box
    wanted[:, 1] -= np.cos(wanted[:, 3]) * shift * box
    wanted[:, 2] = network.box_scale * box
    return wanted


def run_custom(network: CustomPfld, rgb: npt.NDArray[np.uint8], crops: Floats) -> Floats:
    """Run the network on crops of one picture, (F, 68, 2): fractions of the crops, x then y.

    Parameters
    ----------
    network : CustomPfld
    rgb : ndarray, (H, W, 3), uint8
    crops : ndarray, (F, 4)
        As `custom_crops` gives them.
    """
    inputs = sample_crops(rgb, crops, network.size)
    if network.bgr:
        inputs = inputs[:, ::-1]
    inputs = np.float32(network.low) + inputs * np.float32(network.high - network.low)
    if network.channels_last:
        inputs = inputs.transpose(0, 2, 3, 1)
    inputs = np.ascontiguousarray(inputs, dtype=np.float32)
    name = network.session.get_inputs()[0].name
    step = len(inputs) if network.batches else 1
    try:
        parts: list[Any] = [
            network.session.run([network.output], {name: part})[0].reshape(len(part), network.points, 2)
            for part in (inputs[i : i + step] for i in range(0, len(inputs), max(1, step)))
        ]
    except Exception as error:
        raise ModelError(
            f"The landmark network of one's own cannot be run ({in_one_line(error)}): export it again."
        ) from error
    fractions = np.concatenate(parts) if parts else np.zeros((0, network.points, 2), np.float32)
    if network.points != 68:
        fractions = fractions[:, WFLW_TO_IBUG]
    return np.asarray(fractions, dtype=np.float32)
