"""Custom landmark networks, run in place of PFLD."""

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
        *(60, 61, 63, 64, 65, 67),  # eyes: without the centres of the lids
        *(68, 69, 71, 72, 73, 75),
        *range(76, 96),  # lips; without the pupils
    ]
)
"""Indices of the 68 iBUG landmarks among the 98 of WFLW."""

UNKNOWN_SIGMA = 0.04
"""Assumed standard deviation of a landmark if the network gives none, in inter-ocular distances."""


@dataclass(frozen=True)
class CustomPfld:
    """A custom landmark network and its input and output conventions."""

    session: onnxruntime.InferenceSession  # the network
    # the PFLD of the default bundle, used only for the face score of a crop
    judge: onnxruntime.InferenceSession
    output: str  # name of the output with the landmarks
    size: int  # side of the input, px
    channels_last: bool  # whether the input is (N, H, W, 3), not (N, 3, H, W)
    batches: bool  # whether it accepts batches
    # low, high: input values of black and white
    low: float
    high: float
    bgr: bool  # whether the channels are blue, green, red
    # {"face", "landmarks"}; what the crop is based on: a detector's box from forehead to chin, or that of the
    # landmarks
    box: str
    box_scale: float  # side of the crop divided by the longer side of the box
    points: int  # 68 (iBUG) or 98 (WFLW)
    sigma: float = UNKNOWN_SIGMA  # assumed standard deviation of a landmark, in inter-ocular distances


def custom_crops(network: CustomPfld, crops: Floats, box_to_crop: float, shift: float) -> Floats:
    """Convert PFLD's crops of faces, (F, 4), to those of a custom network, (F, 4).

    `box_to_crop` is the side of PFLD's crop over that of a face box, `shift` the shift of its centre in box
    heights.
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


def run_custom(network: CustomPfld, pictures: Pictures, crops: Floats) -> Floats:
    """Run the network on crops (F, 4) of `custom_crops`; return (F, 68, 2), x and y in fractions of them."""
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
