"""OpenFace's patch experts for every scale, view and landmark: CEN (networks) and CCNF (neural fields).

Zadeh et al. 2017, "Convolutional experts constrained local model for facial landmark detection" (CEN);
Baltrusaitis, Robinson and Morency 2013, "Constrained Local Neural Fields for robust facial landmark
detection in the wild" (CCNF). The input of both is the contrast-normalised 11 x 11 support region. Unlike for
the experts of the bundles, the image is resampled bilinearly for each landmark, with the landmark on a pixel.

`models.openface_format` reads them from files.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.clnf.patch_experts import N_INPUTS, PatchExperts
from napari_face_landmarks.errors import ModelError

Floats = npt.NDArray[np.float64]
Floats32 = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

SIGMOID, TANH, RELU, LINEAR = 0, 1, 2, 3
"""Activation functions; the first three have the numbers used in OpenFace's files."""


@dataclass(frozen=True)
class Networks:
    """E small networks of up to L layers ``activation(weight @ input + bias)``, stored in one array."""

    words: Floats32  # (N,); all weights and biases, interspersed with other words of the file
    widths: Integers  # (E, L + 1); number of inputs, and of outputs of each layer; 0 after the last layer
    weights: Integers  # (E, L); index of each layer's weights (outputs x inputs, row by row) in `words`
    biases: Integers  # (E, L); index of each layer's biases in `words`
    activations: Integers  # (E, L); `SIGMOID`, `TANH`, `RELU` or `LINEAR`


@dataclass(frozen=True)
class NeuralFields:
    """Parameters of CCNF: neurons, and edges between neighbouring responses; one tuple entry per expert."""

    kernels: tuple[Floats32, ...]  # (K, 11, 11); weights of the neurons, rows then columns
    norms: tuple[Floats, ...]  # (K,); norm of each neuron's weights
    biases: tuple[Floats, ...]  # (K,); bias of each neuron
    alphas: tuple[Floats, ...]  # (K,); vertex weight of each neuron
    betas: tuple[Floats, ...]  # (B,); edge weights
    edges: dict[int, Floats32]  # by window: matrices D - S of the edge features
    covariances: dict[tuple[int, int], Floats32] = field(default_factory=dict)  # cache, see `covariances`


@dataclass(frozen=True)
class ScaleExperts:
    """Experts of one scale."""

    scale: float  # scale s of the PDM in the normalised frame
    view_centres: Floats  # (V, 3); degrees: pitch, yaw, roll of each view
    visibility: npt.NDArray[np.bool_]  # (V, 68); the landmarks with an expert in each view
    confidences: Floats  # (V, 68); weight of each expert in NU-RLMS
    expert: Integers  # (V, 68); index of the network, or -1
    flipped: npt.NDArray[np.bool_]  # (V, 68); mirror the input of a network trained for the other side
    networks: Networks  # 122 inputs (a 1, then the support region column by column), one output
    fields: NeuralFields | None = None  # for CCNF only


@dataclass(frozen=True)
class OpenFaceExperts:
    """OpenFace's patch experts of all scales."""

    kind: str  # "CEN" or "CCNF"
    parts: tuple[ScaleExperts, ...]  # from coarse to fine

    @property
    def scales(self) -> Floats:
        """Scales s of the PDM in the normalised frame, (S,), ascending."""
        return np.array([part.scale for part in self.parts])


AnyExperts = PatchExperts | OpenFaceExperts


def views_of(
    experts: AnyExperts, index: int
) -> tuple[Floats, npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    """Return view centres (V, 3), visibility (V, 68) and confidences (V, 68) of the index-th scale."""
    if isinstance(experts, PatchExperts):
        return experts.view_centres, experts.visibility, experts.confidences[index]
    part = experts.parts[index]
    return part.view_centres, part.visibility, part.confidences


def fields_as_networks(fields: NeuralFields) -> Networks:
    """Convert the neurons of CCNF, without the edges, to equivalent networks.

    The normalised correlation of a support region with a neuron's weights is the dot product of the
    contrast-normalised support region and the weights scaled to mean 0 and norm 1. This gives a layer of
    sigmoids, followed by their sum weighted by 2 alpha.
    """
    words: list[Floats32] = []
    count, depth = len(fields.kernels), 2
    widths = np.zeros((count, depth + 1), np.int64)
    starts, biases = np.zeros((count, depth), np.int64), np.zeros((count, depth), np.int64)
    position = 0
    for e in range(count):
        kernels = fields.kernels[e].astype(np.float64)
        neurons = len(kernels)
        columns = kernels.transpose(0, 2, 1).reshape(neurons, -1)
        columns = columns - columns.mean(axis=1, keepdims=True)
        size = np.linalg.norm(columns, axis=1, keepdims=True)
        columns = fields.norms[e][:, None] * columns / np.where(size > 0, size, 1.0)
        first = np.concatenate([np.zeros((neurons, 1)), columns], axis=1)
        widths[e] = N_INPUTS, neurons, 1
        for layer, (weight, bias) in enumerate(
            [(first, fields.biases[e]), (2.0 * fields.alphas[e], np.zeros(1))]
        ):
            starts[e, layer], biases[e, layer] = position, position + weight.size
            words += [weight.ravel().astype(np.float32), bias.astype(np.float32)]
            position += weight.size + bias.size
    activations = np.tile(np.array([SIGMOID, LINEAR]), (count, 1))
    flat = np.concatenate(words) if words else np.zeros(0, np.float32)
    return Networks(flat, widths, starts, biases, activations)


def covariance(fields: NeuralFields, expert: int, window: int) -> Floats:
    """Return the covariance Sigma of an expert's responses in a window, (window**2, window**2), float64.

    Baltrusaitis et al. 2013: ``Sigma**-1 = 2 (sum_k alpha_k I + sum_k beta_k (D_k - S_k))``; without the
    second sum if there are no edges for the window.
    """
    cells = window * window
    precision = fields.alphas[expert].sum() * np.eye(cells)
    if window in fields.edges:
        precision += np.einsum("b,bij->ij", fields.betas[expert], fields.edges[window].astype(np.float64))
    precision = precision + precision.T  # doubled, and exactly symmetric
    try:
        np.linalg.cholesky(precision)
        return np.asarray(np.linalg.inv(precision))
    except np.linalg.LinAlgError:
        raise ModelError(
            f"The covariance of a CCNF expert is not positive definite in a window of {window} x {window}: "
            "install the OpenFace models again."
        ) from None


def covariances(part: ScaleExperts, view: int, window: int) -> Floats32:
    """Return the covariances of all landmarks' experts in a view, (68, window**2, window**2) float32.

    If there are no edges for the window, (68, 1, 1): one variance per landmark. Cached by view and window.
    """
    fields = part.fields
    assert fields is not None
    key = (view, window)
    if key not in fields.covariances:
        cells = window * window if window in fields.edges else 1
        result = np.zeros((part.expert.shape[1], cells, cells), np.float32)
        for k in np.flatnonzero(part.visibility[view]):
            expert = int(part.expert[view, k])
            if cells == 1:
                result[k] = 0.5 / fields.alphas[expert].sum()
            else:
                result[k] = covariance(fields, expert, window)
        fields.covariances[key] = result
    return fields.covariances[key]
