"""Custom landmark networks that replace PFLD."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from napari_face_landmarks.errors import ModelError, in_one_line
from napari_face_landmarks.pfld.crop import CROP_MARGIN, Pictures, sample_crops

Floats = npt.NDArray[np.float32]

WFLW_TO_IBUG = np.array(
    [
        *range(0, 33, 2),  # jaw
        *range(33, 38),  # brows: upper edges
        *range(42, 47),
        *range(51, 60),  # nose
        *(60, 61, 63, 64, 65, 67),  # eyes, without the centres of the lids
        *(68, 69, 71, 72, 73, 75),
        *range(76, 96),  # lips; the pupils are left out
    ]
)
"""Indices of the 68 iBUG landmarks among the 98 of WFLW."""

UNKNOWN_SIGMA = 0.04
"""Assumed standard deviation of a landmark if ``pfld.json`` states none, in inter-ocular distances."""


@dataclass(frozen=True)
class CustomPfld:
    """A custom landmark network and its input and output conventions."""

    session: onnxruntime.InferenceSession  # the custom network
    scorer: onnxruntime.InferenceSession  # the default bundle's PFLD, for the face score only
    output: str  # name of the output with the landmarks
    size: int  # side of the input, px
    channels_last: bool  # whether the input is (N, H, W, 3) instead of (N, 3, H, W)
    batches: bool  # whether it accepts batches
    low: float  # input value of black
    high: float  # input value of white
    bgr: bool  # whether the channels are blue, green, red
    box: str  # box that defines the crop: "face" (detector's, forehead to chin) or "landmarks" (their bounds)
    box_scale: float  # side of the crop divided by the longer side of the box
    points: int  # 68 (iBUG) or 98 (WFLW)
    sigma: float = UNKNOWN_SIGMA  # assumed standard deviation of a landmark, in inter-ocular distances


def custom_crops(network: CustomPfld, crops: Floats, box_to_crop: float, shift: float) -> Floats:
    """Convert PFLD's crops of faces, (F, 4), to crops for a custom network, (F, 4).

    `box_to_crop` is the side of PFLD's crop divided by the side of the face box, `shift` the shift of the
    crop's centre in box heights.
    """
    converted = np.array(crops, dtype=np.float32)
    if network.box == "landmarks":
        converted[:, 2] *= network.box_scale / CROP_MARGIN
        return converted
    box = converted[:, 2] / box_to_crop
    converted[:, 0] += np.sin(converted[:, 3]) * shift * box
    converted[:, 1] -= np.cos(converted[:, 3]) * shift * box
    converted[:, 2] = network.box_scale * box
    return converted


def run_custom(network: CustomPfld, pictures: Pictures, crops: Floats) -> Floats:
    """Run the network on crops (F, 4) from `custom_crops`; return (F, 68, 2), in fractions of the crop."""
    inputs = sample_crops(pictures, crops, network.size)
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
            f"The custom landmark network cannot be run ({in_one_line(error)}): export it again."
        ) from error
    fractions = np.concatenate(parts) if parts else np.zeros((0, network.points, 2), np.float32)
    if network.points != 68:
        fractions = fractions[:, WFLW_TO_IBUG]
    return np.asarray(fractions, dtype=np.float32)
