"""Compiled engine of CLNF: Numba kernels and batched float32 matrix products.

Functions are equivalent to those of the same name in `reference`. Matrix products are batched over landmarks
by `numpy.matmul`, each too small for the BLAS library to start threads. The kernels release the GIL.
"""

from __future__ import annotations

import math
import threading
from concurrent.futures import Executor
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.clnf.normalized_frame import MIN_NORM, invert_kernel, sample_kernel
from napari_face_landmarks.clnf.onnx_experts import OnnxExperts, responses
from napari_face_landmarks.clnf.openface_experts import (
    RELU,
    SIGMOID,
    TANH,
    AnyExperts,
    OpenFaceExperts,
    ScaleExperts,
    covariances,
)
from napari_face_landmarks.clnf.parameters import MIN_RESPONSE, Steps
from napari_face_landmarks.clnf.patch_experts import N_INPUTS, REACH, SUPPORT
from napari_face_landmarks.clnf.pdm import (
    PDM,
    jacobian_kernel,
    normal_equations_kernel,
    project_kernel,
    solve_kernel,
    update_kernel,
)
from napari_face_landmarks.jit import kernel

Floats = npt.NDArray[np.float64]
Floats32 = npt.NDArray[np.float32]
Centres = npt.NDArray[Any]  # of the response maps: integers, or floats with OpenFace's experts

PIXELS = SUPPORT * SUPPORT
LARGEST_EXPONENT = np.float32(80.0)  # exp of larger values overflows, which fastmath does not handle
BATCH_SIZE = 2  # landmarks evaluated at once by a shared network: mirrored pairs
VECTOR = 16  # columns of a product are padded to a multiple of this
MIN_PARALLEL_WORK = 5e7  # multiplications from which several threads are faster
LARGEST_PRODUCT = 1 << 18  # multiplications; OpenBLAS may start threads for larger products
_buffers = threading.local()


def response_maps(
    grey: npt.NDArray[np.uint8],
    to_frame: Floats,
    centres: Centres,
    window: int,
    experts: AnyExperts,
    scale: int,
    view: int,
    checkerboard: bool = False,
    share: tuple[Executor, int] | None = None,
) -> Floats32:
    """Evaluate the patch experts in a window around each landmark: `reference.response_maps` in float32.

    The normalised frame, and mean and norm of all support regions, are computed once for all landmarks. The
    product of the first layer is divided by the norm, instead of the pixels. `share` is an executor and the
    number of threads for OpenFace's experts.
    """
    if isinstance(experts, OpenFaceExperts):
        return _openface_maps(
            grey, to_frame, centres, window, experts.parts[scale], view, checkerboard, share
        )
    maps = np.empty((len(centres), window, window), np.float32)
    stride = 2 if checkerboard else 1
    visible = experts.visibility[view]
    if isinstance(experts, OnnxExperts):
        count, cells = len(centres), n_cells(window, stride)
        supports, factors = (np.zeros((len(visible), cells, n), np.float32) for n in (PIXELS, 1))
        supports_kernel(grey, to_frame, centres, window, stride, supports[:count], factors[:count, :, 0])
        supports *= factors
        _fill_maps(responses(experts, scale, view, supports), visible, stride, maps)
        return maps
    w1, w2, w3 = experts.w1[scale, view], experts.w2[scale, view], experts.w3[scale, view]
    products, _ = layer_products(grey, to_frame, centres, window, stride, (w1, w2))
    last_layer_kernel(products, w2, w3, visible, stride, maps)
    return maps


def n_cells(window: int, stride: int) -> int:
    """Return the number of evaluated cells of a window."""
    return (window * window + stride - 1) // stride


def layer_products(
    grey: npt.NDArray[np.uint8],
    to_frame: Floats,
    centres: Centres,
    window: int,
    stride: int,
    layers: tuple[Floats32, Floats32],
) -> tuple[Floats32, Floats32]:
    """Return products of the second layer, (n, cells, h2), and response maps to fill, (n, window, window).

    Both are buffers that the next call on this thread reuses. The products are computed by NumPy, because in
    kernels Numba would import SciPy's BLAS, which takes 17 MB.
    """
    (w1, w2), count = layers, len(centres)
    inputs, factors, first, second, maps = _arrays(count, window, stride, w1.shape[2], w2.shape[2])
    supports_kernel(grey, to_frame, centres, window, stride, inputs.reshape(count, -1, PIXELS), factors)
    np.matmul(inputs, w1[:count, None, 1:], out=first)
    activate_kernel(first.reshape(count, -1, w1.shape[2]), factors, w1)
    np.matmul(first, w2[:count, None, 1:], out=second)
    return second.reshape(count, -1, w2.shape[2]), maps


def _arrays(count: int, window: int, stride: int, width1: int, width2: int) -> tuple[Floats32, ...]:
    """Return this thread's buffers: inputs, contrast factors, products of both layers, response maps."""
    cells, key = n_cells(window, stride), (count, window, stride, width1, width2)
    known: dict[tuple[int, ...], tuple[Floats32, ...]] = _buffers.__dict__.setdefault("arrays", {})
    if key not in known:
        if len(known) > 4:  # models or windows have changed
            known.clear()
        blocks = -(-cells * PIXELS * width1 // LARGEST_PRODUCT)
        rows = -(-cells // blocks)
        inputs, first, second = ((blocks, rows, columns) for columns in (PIXELS, width1, width2))
        shapes = inputs, (cells,), first, second, (window, window)
        known[key] = tuple(np.zeros((count, *shape), np.float32) for shape in shapes)
    return known[key]


@kernel
def supports_kernel(
    grey: npt.NDArray[np.uint8],
    to_frame: Floats,
    centres: Centres,
    window: int,
    stride: int,
    inputs: Floats32,
    factors: Floats32,
) -> None:
    """Fill the support regions, (68, cells, 121), minus their means, and 1 / norm of each."""
    margin = window // 2 + REACH
    x0, y0 = centres[0, 0], centres[0, 1]
    x1, y1 = x0, y0
    for k in range(1, centres.shape[0]):
        x0, y0 = min(x0, centres[k, 0]), min(y0, centres[k, 1])
        x1, y1 = max(x1, centres[k, 0]), max(y1, centres[k, 1])
    width, height = x1 - x0 + 2 * margin + 1, y1 - y0 + 2 * margin + 1
    samples = sample_kernel(grey, to_frame, x0 - margin, y0 - margin, width, height)
    means, all_factors = _contrast(samples)
    strips = _strips(samples)
    for k in range(centres.shape[0]):
        left, top = centres[k, 0] - x0, centres[k, 1] - y0
        _im2col(strips, left, top, means, window, stride, inputs[k])
        p = 0
        for y in range(window):
            for x in range(y % stride, window, stride):
                factors[k, p] = all_factors[left + x, top + y]
                p += 1


@kernel
def activate_kernel(values: Floats32, factors: Floats32, weights: Floats32) -> None:
    """Apply contrast factor, bias and ReLU to the products of the first layer, (68, cells, h1), in place."""
    zero = np.float32(0.0)
    for k in range(values.shape[0]):
        bias = weights[k, 0]
        for p in range(factors.shape[1]):
            row, factor = values[k, p], factors[k, p]
            for j in range(len(row)):
                row[j] = max(row[j] * factor + bias[j], zero)


@kernel
def last_layer_kernel(
    values: Floats32,
    w2: Floats32,
    w3: Floats32,
    visible: npt.NDArray[np.bool_],
    stride: int,
    maps: Floats32,
) -> None:
    """Fill the response maps from the products of the second layer, (68, cells, h2)."""
    window = maps.shape[1]
    zero, one = np.float32(0.0), np.float32(1.0)
    for k in range(maps.shape[0]):
        if not visible[k]:
            for y in range(window):
                for x in range(window):
                    maps[k, y, x] = one
            continue
        p = 0
        for y in range(window):
            for x in range((y + 1) % stride, window, stride):
                maps[k, y, x] = zero
            for x in range(y % stride, window, stride):
                total = w3[k, 0]
                for j in range(values.shape[2]):
                    total += w3[k, 1 + j] * max(values[k, p, j] + w2[k, 0, j], zero)
                maps[k, y, x] = one / (one + np.exp(min(-total, LARGEST_EXPONENT)))
                p += 1


@kernel
def _fill_maps(values: Floats32, visible: npt.NDArray[np.bool_], stride: int, maps: Floats32) -> None:
    """Fill the response maps from the evaluated cells; other cells are 0, maps of hidden landmarks 1."""
    window = maps.shape[1]
    for k in range(maps.shape[0]):
        p = 0
        for y in range(window):
            for x in range(window):
                maps[k, y, x] = np.float32(0.0) if visible[k] else np.float32(1.0)
            for x in range(y % stride, window, stride):
                if visible[k]:
                    maps[k, y, x] = values[k, p]
                p += 1


def _openface_maps(
    grey: npt.NDArray[np.uint8],
    to_frame: Floats,
    centres: Centres,
    window: int,
    part: ScaleExperts,
    view: int,
    sparse: bool,
    share: tuple[Executor, int] | None,
) -> Floats32:
    """Evaluate OpenFace's experts; return their response maps."""
    maps = np.empty((len(centres), window, window), np.float32)
    fields, networks = part.fields is not None, part.networks
    expert = np.where(part.visibility[view], part.expert[view], -1)

    def evaluate(landmarks: npt.NDArray[np.int64]) -> None:
        _network_maps(
            grey,
            invert_kernel(to_frame),
            centres.astype(np.float64),
            expert,
            landmarks,
            part.flipped[view],
            networks.words,
            networks.widths,
            networks.weights,
            networks.biases,
            networks.activations,
            2 if sparse and not fields else 1,
            maps,
        )

    widths = networks.widths[0]
    work = maps.size * int((widths[:-1] * widths[1:]).sum())
    pool, threads = share if share is not None and work >= MIN_PARALLEL_WORK else (None, 1)
    parts = _split_landmarks(expert, threads)
    futures = [pool.submit(evaluate, landmarks) for landmarks in parts[1:]] if pool is not None else []
    evaluate(parts[0])
    for future in futures:
        future.result()
    if fields:
        visible = part.visibility[view]
        sigma, vertices = covariances(part, view, window), maps.reshape(len(maps), -1, 1)
        joined = sigma * vertices if sigma.shape[1] == 1 else sigma @ vertices
        joined -= np.minimum(joined.min(axis=1, keepdims=True), 0.0)
        maps[visible] = joined.reshape(maps.shape)[visible]
    return maps


def _split_landmarks(expert: npt.NDArray[np.int64], count: int) -> list[npt.NDArray[np.int64]]:
    """Split the landmarks into at most `count` parts, keeping landmarks with the same expert together."""
    order = np.argsort(expert, kind="stable")
    cuts = [0]
    for i in range(1, count):
        cut = max(len(order) * i // count, cuts[-1])
        while 0 < cut < len(order) and expert[order[cut]] == expert[order[cut - 1]]:
            cut += 1
        cuts.append(cut)
    return [landmarks for landmarks in np.split(order, cuts[1:]) if len(landmarks)]


@kernel
def _network_maps(
    grey: npt.NDArray[np.uint8],
    to_image: Floats,
    centres: Floats,
    expert: npt.NDArray[np.int64],
    order: npt.NDArray[np.int64],
    flipped: npt.NDArray[np.bool_],
    words: Floats32,
    widths: npt.NDArray[np.int64],
    weights: npt.NDArray[np.int64],
    biases: npt.NDArray[np.int64],
    activations: npt.NDArray[np.int64],
    stride: int,
    maps: Floats32,
) -> None:
    """Fill the response maps of the landmarks in `order`, batching neighbours with the same network."""
    n, window = order.shape[0], maps.shape[1]
    side = window + SUPPORT - 1
    cells = (window * window + stride - 1) // stride
    area = np.empty((side, side), np.float32)
    widest = 0
    for e in range(widths.shape[0]):
        for layer in range(widths.shape[1]):
            widest = max(widest, widths[e, layer])
    max_columns = (cells * BATCH_SIZE + VECTOR - 1) // VECTOR * VECTOR
    buffer_a, buffer_b = (
        np.empty(widest * max_columns, np.float32),
        np.empty(widest * max_columns, np.float32),
    )
    first = 0
    while first < n:
        e = expert[order[first]]
        last = first + 1
        if e < 0:
            maps[order[first]] = np.float32(1.0)
            first = last
            continue
        while last < n and last - first < BATCH_SIZE and expert[order[last]] == e:
            last += 1
        columns = (cells * (last - first) + VECTOR - 1) // VECTOR * VECTOR
        values = buffer_a[: widest * columns].reshape(widest, columns)
        following = buffer_b[: widest * columns].reshape(widest, columns)
        values[:N_INPUTS, cells * (last - first) :] = np.float32(0.0)
        for i in range(first, last):
            k = order[i]
            _sample_area(grey, to_image, centres[k, 0], centres[k, 1], flipped[k], area)
            _normalised_columns(area, window, stride, cells * (i - first), values)
        for layer in range(activations.shape[1]):
            inputs, outputs = widths[e, layer], widths[e, layer + 1]
            if outputs == 0:
                break
            start, bias = weights[e, layer], biases[e, layer]
            _layer(
                words[start : start + inputs * outputs].reshape(outputs, inputs),
                words[bias : bias + outputs],
                activations[e, layer],
                values,
                following,
            )
            values, following = following, values
        for i in range(first, last):
            k = order[i]
            p = cells * (i - first)
            for y in range(window):
                for x in range(y % stride, window, stride):
                    maps[k, y, window - 1 - x if flipped[k] else x] = values[0, p]
                    p += 1
            if stride == 2:
                _fill_from_neighbours(maps[k])
        first = last


@kernel
def _sample_area(
    grey: npt.NDArray[np.uint8], to_image: Floats, x: float, y: float, flipped: bool, area: Floats32
) -> None:
    """Sample the surroundings of a point of the normalised frame bilinearly, transposed (columns, rows)."""
    side = area.shape[0]
    reach = side // 2
    height, width = grey.shape
    right, bottom = width - 1.0, height - 1.0
    for c in range(side):
        column = side - 1 - c if flipped else c
        at_x = x + c - reach
        for r in range(side):
            at_y = y + r - reach
            u = min(max(to_image[0, 0] * at_x + to_image[0, 1] * at_y + to_image[0, 2], 0.0), right)
            v = min(max(to_image[1, 0] * at_x + to_image[1, 1] * at_y + to_image[1, 2], 0.0), bottom)
            i, j = int(u), int(v)
            a, b = np.float32(u - i), np.float32(v - j)
            i1, j1 = min(i + 1, width - 1), min(j + 1, height - 1)
            upper = np.float32(grey[j, i]) + a * (np.float32(grey[j, i1]) - np.float32(grey[j, i]))
            lower = np.float32(grey[j1, i]) + a * (np.float32(grey[j1, i1]) - np.float32(grey[j1, i]))
            area[column, r] = upper + b * (lower - upper)


@kernel
def _normalised_columns(area: Floats32, window: int, stride: int, first: int, inputs: Floats32) -> None:
    """Fill the columns of `inputs` from `first` on: a 1, then a contrast-normalised support region each."""
    cells = (window * window + stride - 1) // stride
    sums, squares = np.zeros(cells, np.float32), np.zeros(cells, np.float32)
    level = area[area.shape[0] // 2, area.shape[1] // 2]  # keeps the sums small
    inputs[0, first : first + cells] = np.float32(1.0)
    for c in range(SUPPORT):
        for r in range(SUPPORT):
            row = inputs[1 + SUPPORT * c + r, first : first + cells]
            p = 0
            for y in range(window):
                for x in range(y % stride, window, stride):
                    row[p] = area[c + x, r + y] - level
                    p += 1
            for p in range(cells):
                sums[p] += row[p]
    for p in range(cells):
        sums[p] /= np.float32(PIXELS)
    for j in range(1, N_INPUTS):
        row = inputs[j, first : first + cells]
        for p in range(cells):
            row[p] -= sums[p]
            squares[p] += row[p] * row[p]
    for p in range(cells):
        squares[p] = np.float32(1.0) / max(np.sqrt(squares[p]), np.float32(MIN_NORM))
    for j in range(1, N_INPUTS):
        row = inputs[j, first : first + cells]
        for p in range(cells):
            row[p] *= squares[p]


@kernel
def _layer(weight: Floats32, bias: Floats32, activation: int, values: Floats32, following: Floats32) -> None:
    """Apply a layer to columns, in products too small for the BLAS library to start threads."""
    outputs, inputs = weight.shape
    columns = values.shape[1]
    block = max(1, LARGEST_PRODUCT // (inputs * columns))
    for start in range(0, outputs, block):
        stop = min(start + block, outputs)
        np.dot(weight[start:stop], values[:inputs], following[start:stop])
    one, zero, largest = np.float32(1.0), np.float32(0.0), np.float32(LARGEST_EXPONENT)
    for i in range(outputs):
        row, level = following[i], bias[i]
        if activation == SIGMOID:
            for p in range(columns):
                row[p] = one / (one + np.exp(min(-row[p] - level, largest)))
        elif activation == TANH:
            for p in range(columns):
                row[p] = np.tanh(row[p] + level)
        elif activation == RELU:
            for p in range(columns):
                row[p] = max(row[p] + level, zero)
        else:
            for p in range(columns):
                row[p] += level


@kernel
def _fill_from_neighbours(response: Floats32) -> None:
    """Replace the cells of a response map with odd x + y by the mean of their neighbours."""
    window = response.shape[0]
    for y in range(window):
        for x in range(1 - y % 2, window, 2):
            total, count = np.float32(0.0), 0
            if y > 0:
                total, count = total + response[y - 1, x], count + 1
            if y + 1 < window:
                total, count = total + response[y + 1, x], count + 1
            if x > 0:
                total, count = total + response[y, x - 1], count + 1
            if x + 1 < window:
                total, count = total + response[y, x + 1], count + 1
            response[y, x] = total / np.float32(count)


@kernel
def _contrast(samples: Floats32) -> tuple[Floats32, Floats32]:
    """Return the mean and 1 / norm of every support region of an image, by running sums."""
    width, height = samples.shape
    across, down = width - SUPPORT + 1, height - SUPPORT + 1
    means, factors = np.empty((across, down), np.float32), np.empty((across, down), np.float32)
    middle = np.float64(samples[width // 2, height // 2])  # keeps the sums of squares small
    sums, squares = np.zeros(height), np.zeros(height)
    for c in range(width):
        for r in range(height):
            value = np.float64(samples[c, r]) - middle
            sums[r] += value
            squares[r] += value * value
        if c >= SUPPORT:
            for r in range(height):
                value = np.float64(samples[c - SUPPORT, r]) - middle
                sums[r] -= value
                squares[r] -= value * value
        if c < SUPPORT - 1:
            continue
        x = c - SUPPORT + 1
        total, total_squares = 0.0, 0.0
        for r in range(height):
            total += sums[r]
            total_squares += squares[r]
            if r >= SUPPORT:
                total -= sums[r - SUPPORT]
                total_squares -= squares[r - SUPPORT]
            if r >= SUPPORT - 1:
                mean = total / PIXELS
                norm = math.sqrt(max(total_squares - total * mean, 0.0))
                means[x, r - SUPPORT + 1] = mean + middle
                factors[x, r - SUPPORT + 1] = 1.0 / max(norm, MIN_NORM)
    return means, factors


@kernel
def _strips(samples: Floats32) -> Floats32:
    """Return, for each row of a transposed image, the 11 pixels from there on of every column.

    Each support region is then a contiguous run of 121 values.
    """
    width, height = samples.shape
    strips = np.empty((height - SUPPORT + 1, width * SUPPORT), np.float32)
    for y in range(strips.shape[0]):
        for c in range(width):
            for r in range(SUPPORT):
                strips[y, SUPPORT * c + r] = samples[c, y + r]
    return strips


@kernel
def _im2col(
    strips: Floats32, left: int, top: int, means: Floats32, window: int, stride: int, inputs: Floats32
) -> None:
    """Fill the support regions, (cells, 121), of a window, column by column, each minus its mean."""
    row = 0
    for y in range(window):
        for x in range(y % stride, window, stride):
            grey = means[left + x, top + y]
            start = SUPPORT * (left + x)
            support, pixels = inputs[row], strips[top + y, start : start + PIXELS]  # views: vectorised
            for j in range(len(support)):
                support[j] = pixels[j] - grey
            row += 1


def multiply_prior(maps: Floats32, centres: Centres, prior: Floats, precision: Floats) -> Floats32:
    """Multiply each response map, in place, by a Gaussian around the initial landmark."""
    multiply_prior_kernel(maps, centres, prior, precision)
    return maps


@kernel
def multiply_prior_kernel(maps: Floats32, centres: Centres, prior: Floats, precision: Floats) -> None:
    """Compiled `multiply_prior`."""
    window = maps.shape[1]
    across, down = np.empty(window, np.float32), np.empty(window, np.float32)
    for k in range(maps.shape[0]):
        _gaussian(centres[k, 0] - prior[k, 0], precision[k], across)
        _gaussian(centres[k, 1] - prior[k, 1], precision[k], down)
        for y in range(window):
            for x in range(window):
                maps[k, y, x] *= down[y] * across[x]


@kernel
def _gaussian(middle: float, precision: float, values: npt.NDArray[Any]) -> None:
    """Fill exp(-precision d**2 / 2) at integer steps d around `middle`."""
    reach = values.shape[0] // 2
    for j in range(values.shape[0]):
        d = middle + j - reach
        values[j] = math.exp(-0.5 * precision * d * d)


@kernel
def _mean_shift(maps: Floats32, centres: Centres, points: Floats, sigma: float, shift: Floats) -> None:
    """Fill the mean-shift vectors v, (2, 68), at points (2, 68)."""
    window = maps.shape[1]
    reach = window // 2
    across, down = np.empty(window, np.float32), np.empty(window, np.float32)
    precision = 1.0 / (sigma * sigma)
    for k in range(maps.shape[0]):
        dx = min(max(points[0, k] - centres[k, 0], -float(reach)), float(reach))
        dy = min(max(points[1, k] - centres[k, 1], -float(reach)), float(reach))
        _gaussian(-dx, precision, across)
        _gaussian(-dy, precision, down)
        total, mean_x, mean_y = 0.0, 0.0, 0.0
        for y in range(window):
            part, part_x = np.float32(0.0), np.float32(0.0)
            for x in range(window):
                density = maps[k, y, x] * across[x]
                part += density
                part_x += density * np.float32(x - reach)
            total += down[y] * part
            mean_x += down[y] * part_x
            mean_y += down[y] * part * (y - reach)
        if total < MIN_RESPONSE:
            shift[0, k], shift[1, k] = 0.0, 0.0
        else:
            shift[0, k], shift[1, k] = mean_x / total - dx, mean_y / total - dy


def with_threads(pool: Executor, threads: int) -> SimpleNamespace:
    """Return this engine with OpenFace's experts evaluated by the calling thread and an executor."""
    return SimpleNamespace(
        response_maps=partial(response_maps, share=(pool, threads)),
        multiply_prior=multiply_prior,
        search=search,
        log_likelihood=log_likelihood,
    )


def search(
    pdm: PDM,
    params: Floats,
    maps: Floats32,
    centres: Centres,
    weights: Floats,
    steps: Steps,
    targets: Floats | None = None,
) -> tuple[Floats, int]:
    """Run NU-RLMS on the response maps of one scale like `reference.search`; -1 iterations if it failed."""
    found = np.empty_like(params)
    if targets is None:
        targets = np.full((len(weights), 2), np.nan)
    iterations = search_kernel(
        pdm.mean,
        pdm.components,
        pdm.eigenvalues,
        params,
        maps,
        centres,
        weights,
        steps.sigma,
        steps.regularisation,
        steps.max_iterations,
        steps.min_motion,
        steps.whole,
        np.isfinite(targets[:, 0]),
        targets,
        found,
    )
    return found, int(iterations)


@kernel
def search_kernel(
    mean: Floats,
    components: Floats,
    eigenvalues: Floats,
    start: Floats,
    maps: Floats32,
    centres: Centres,
    weights: Floats,
    sigma: float,
    regularisation: float,
    max_iterations: int,
    min_motion: float,
    whole: bool,
    has_target: npt.NDArray[np.bool_],
    targets: Floats,
    params: Floats,
) -> int:
    """Compiled `search`: fills the parameters, (6 + m,); returns the iterations, or -1 if it failed."""
    n, m = components.shape[1], components.shape[2]
    moved = start.copy()
    shape = np.empty((3, n))
    points, points_moved = np.empty((2, n)), np.empty((2, n))
    shift = np.zeros((2, n))
    slope = np.empty((2 * n, 6 + m))
    hessian, step = np.empty((6 + m, 6 + m)), np.empty(6 + m)
    for j in range(6 + m):
        params[j] = start[j]
    project_kernel(mean, components, params, shape, points)
    iterations = 0
    for phase in range(2):
        rigid = phase == 0
        count = 6 if rigid else 6 + m
        for _ in range(max_iterations):
            _mean_shift(maps, centres, points, sigma, shift)
            for k in range(n):
                if has_target[k]:
                    shift[0, k] = targets[k, 0] - points[0, k]
                    shift[1, k] = targets[k, 1] - points[1, k]
            jacobian_kernel(components, params, shape, rigid, slope)
            normal_equations_kernel(slope, weights, shift, count, hessian, step)
            if not rigid:
                for k in range(m):
                    hessian[6 + k, 6 + k] += regularisation / eigenvalues[k]
                    step[6 + k] -= regularisation * params[6 + k] / eigenvalues[k]
            if not solve_kernel(hessian, step, count):
                return -1
            update_kernel(eigenvalues, params, step, count, moved)
            for j in range(6 + m):
                params[j] = moved[j]
            project_kernel(mean, components, params, shape, points_moved)
            motion, squares = 0.0, 0.0
            for k in range(n):
                move = math.hypot(points_moved[0, k] - points[0, k], points_moved[1, k] - points[1, k])
                motion += move
                squares += move * move
                points[0, k], points[1, k] = points_moved[0, k], points_moved[1, k]
            iterations += 1
            if (math.sqrt(squares) if whole else motion / n) < min_motion:
                break
    return iterations


def log_likelihood(maps: Floats32, centres: Centres, points: Floats, sigma: float) -> float:
    """Return the mean log response at the landmarks: `reference.log_likelihood`."""
    return float(log_likelihood_kernel(maps, centres, np.ascontiguousarray(points), sigma))


@kernel
def log_likelihood_kernel(maps: Floats32, centres: Centres, points: Floats, sigma: float) -> float:
    """Compiled `log_likelihood`."""
    window = maps.shape[1]
    across, down = np.empty(window), np.empty(window)
    precision = 1.0 / (sigma * sigma)
    logs = 0.0
    for k in range(maps.shape[0]):
        _gaussian(centres[k, 0] - points[k, 0], precision, across)
        _gaussian(centres[k, 1] - points[k, 1], precision, down)
        total = 0.0
        for y in range(window):
            for x in range(window):
                total += maps[k, y, x] * across[x] * down[y]
        logs += math.log(max(total * precision / (2.0 * math.pi), MIN_RESPONSE))
    return float(logs / maps.shape[0])
