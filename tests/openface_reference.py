"""NumPy reference of CLNF with OpenFace's patch experts, for testing the compiled engine.

`reference` is an engine like `clnf.reference` that also supports these experts.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.clnf import normalized_frame
from napari_face_landmarks.clnf import reference as numpy_engine
from napari_face_landmarks.clnf.normalized_frame import contrast_normalise
from napari_face_landmarks.clnf.openface_experts import (
    RELU,
    SIGMOID,
    TANH,
    AnyExperts,
    Networks,
    NeuralFields,
    OpenFaceExperts,
    ScaleExperts,
    covariance,
)
from napari_face_landmarks.clnf.patch_experts import REACH, SUPPORT
from napari_face_landmarks.clnf.reference import bilinear, im2col

Floats = npt.NDArray[np.float64]
Floats32 = npt.NDArray[np.float32]
Places = npt.NDArray[Any]


def layers_of(networks: Networks, expert: int) -> list[tuple[int, Floats32, Floats32]]:
    """Return the layers of one network: activation, weight (out, in), bias (out,)."""
    layers = []
    widths = networks.widths[expert]
    for layer in range(networks.activations.shape[1]):
        inputs, outputs = int(widths[layer]), int(widths[layer + 1])
        if outputs == 0:
            break
        start, bias = int(networks.weights[expert, layer]), int(networks.biases[expert, layer])
        weight = networks.words[start : start + inputs * outputs].reshape(outputs, inputs)
        activation = int(networks.activations[expert, layer])
        layers.append((activation, weight, networks.words[bias : bias + outputs]))
    return layers


def deep_response(inputs: Floats, layers: list[tuple[int, npt.NDArray[Any], npt.NDArray[Any]]]) -> Floats:
    """Return the responses, (positions,), of a CE-CLM expert with any number and kind of layers."""
    values = inputs
    for activation, weight, bias in layers:
        values = values @ weight.astype(np.float64).T + bias
        if activation == SIGMOID:
            values = 1.0 / (1.0 + np.exp(-values))
        elif activation == TANH:
            values = np.tanh(values)
        elif activation == RELU:
            values = np.maximum(values, 0.0)
    return np.asarray(values[:, 0])


def neural_field_response(area: Floats, fields: NeuralFields, expert: int) -> Floats:
    """Return the responses of CCNF to an area of interest, (window, window).

    Baltrusaitis et al. 2013: the mean of the field, ``Sigma b`` with
    ``b_i = 2 sum_k alpha_k sigmoid(norm_k correlation(weights_k, support_i) + bias_k)``. A map with negative
    values is shifted as a whole, since likelihoods are not negative.
    """
    window = area.shape[0] - SUPPORT + 1
    vertices = np.zeros((window, window))
    for y in range(window):
        for x in range(window):
            support = contrast_normalise(area[y : y + SUPPORT, x : x + SUPPORT].ravel())
            neurons = (
                fields.kernels[expert],
                fields.norms[expert],
                fields.biases[expert],
                fields.alphas[expert],
            )
            for weights, norm, bias, alpha in zip(*neurons, strict=True):
                centred = weights.ravel() - weights.mean(dtype=np.float64)
                size = np.linalg.norm(centred)
                correlation = centred @ support / size if size > 0 else 0.0
                vertices[y, x] += 2.0 * alpha / (1.0 + np.exp(-(norm * correlation + bias)))
    response = (covariance(fields, expert, window) @ vertices.ravel()).reshape(window, window)
    return np.asarray(response - min(response.min(), 0.0))


def fill_from_neighbours(response: Floats) -> Floats:
    """Return the map with each cell where x + y is odd replaced by the mean of its neighbours."""
    window = len(response)
    filled = response.copy()
    for y in range(window):
        for x in range(1 - y % 2, window, 2):
            neighbours = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
            filled[y, x] = np.mean(
                [response[v, u] for v, u in neighbours if 0 <= v < window and 0 <= u < window]
            )
    return filled


def openface_maps(
    grey: npt.NDArray[np.uint8],
    to_frame: Floats,
    centres: Places,
    window: int,
    part: ScaleExperts,
    view: int,
    sparse: bool,
) -> Floats:
    maps = np.ones((len(centres), window, window))
    offsets = np.arange(window + SUPPORT - 1) - (window // 2 + REACH)
    for k, centre in enumerate(centres):
        if not part.visibility[view, k]:
            continue
        places = centre + np.stack(np.meshgrid(offsets, offsets), axis=-1)
        area = bilinear(
            grey.astype(np.float64),
            normalized_frame.transform(normalized_frame.invert_kernel(to_frame), places),
        )
        across = slice(None, None, -1 if part.flipped[view, k] else 1)
        expert = int(part.expert[view, k])
        if part.fields is not None:
            response = neural_field_response(area[:, across], part.fields, expert)
        else:
            layers = layers_of(part.networks, expert)
            response = deep_response(im2col(area[:, across]), layers).reshape(window, window)
            if sparse:
                response = fill_from_neighbours(response)
        maps[k] = response[:, across]
    return maps


def response_maps(
    grey: npt.NDArray[np.uint8],
    to_frame: Floats,
    centres: Places,
    window: int,
    experts: AnyExperts,
    scale: int,
    view: int,
    checkerboard: bool = False,
) -> Floats:
    if isinstance(experts, OpenFaceExperts):
        return openface_maps(grey, to_frame, centres, window, experts.parts[scale], view, checkerboard)
    return numpy_engine.response_maps(grey, to_frame, centres, window, experts, scale, view, checkerboard)


reference = SimpleNamespace(
    response_maps=response_maps,
    multiply_prior=numpy_engine.multiply_prior,
    search=numpy_engine.search,
    log_likelihood=numpy_engine.log_likelihood,
)
