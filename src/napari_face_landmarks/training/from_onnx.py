"""Loading of an exported ONNX network into torch, to continue its training."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from napari_face_landmarks.errors import ModelError


def load_exported(network: nn.Module, path: Path, batches: Iterable[Tensor]) -> None:
    """Load the weights of an exported network into a network of the same structure, in place.

    In the export, normalisations are folded into the convolutions. Each normalisation gets statistics
    measured on the training inputs `batches`, and a gain and bias that leave the outputs unchanged.
    """
    convolutions, named = _weights_of(path)
    batches = list(batches)
    network.eval()
    pairs = _in_order(network, batches[0][:1])
    refusal = ModelError(f"{path} is not an export of this network: train from the start, without --start.")
    if len(pairs) != len(convolutions):
        raise refusal
    weight, bias = convolutions[0]
    if pairs[0][0].in_channels == 1 and weight.shape[1] == 3:  # greyscale network, exported for RGB
        convolutions[0] = weight.sum(axis=1, keepdims=True), bias
    if [tuple(conv.weight.shape) for conv, _ in pairs] != [weight.shape for weight, _ in convolutions]:
        raise refusal
    with torch.no_grad():
        for name, value in network.state_dict().items():
            stored = named.get(f"network.{name}")
            if stored is not None and stored.shape == tuple(value.shape):
                value.copy_(torch.from_numpy(stored))
        for (conv, norm), (weight, bias) in zip(pairs, convolutions, strict=True):
            conv.weight.copy_(torch.from_numpy(weight))
            if norm is None:
                assert conv.bias is not None
                conv.bias.copy_(torch.from_numpy(bias))
            else:
                norm.running_mean.zero_()
                norm.running_var.fill_(1.0)
                norm.weight.fill_(float(np.sqrt(1 + norm.eps)))
                norm.bias.copy_(torch.from_numpy(bias))
        _take_statistics(network, [norm for _, norm in pairs if norm is not None], batches)
    network.train()


def depthwise_widths(path: Path) -> list[int]:
    """Return the number of channels of each depthwise convolution of an exported network."""
    convolutions, _ = _weights_of(path)
    return [len(weight) for weight, _ in convolutions if weight.shape[1] == 1]


def _weights_of(
    path: Path,
) -> tuple[list[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]], dict[str, npt.NDArray[np.float32]]]:
    """Return weight and bias of each convolution in the order of the file, and all weights by name."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(path)).graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Cast" and node.input[0] in stored:
            stored[node.output[0]] = stored[node.input[0]]
    floats = {name: np.array(value, np.float32) for name, value in stored.items() if value.dtype.kind == "f"}
    convolutions = []
    for node in graph.node:
        if node.op_type == "Conv":
            if len(node.input) != 3 or not all(name in floats for name in node.input[1:]):
                raise ModelError(f"{path} has a convolution without weights: give a file of a bundle.")
            convolutions.append((floats[node.input[1]], floats[node.input[2]]))
    return convolutions, floats


def _in_order(network: nn.Module, example: Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d | None]]:
    """Return the convolutions in order of execution, each with the normalisation that follows it."""
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d | None]] = []

    def hook(module: nn.Module, _inputs: Any, _output: Any) -> None:
        if isinstance(module, nn.Conv2d):
            pairs.append((module, None))
        elif isinstance(module, nn.BatchNorm2d):
            pairs[-1] = (pairs[-1][0], module)

    with torch.no_grad():
        _run_hooked(network, network.modules(), hook, [example])
    return pairs


def _run_hooked(
    network: nn.Module, modules: Iterable[nn.Module], hook: Callable[..., None], batches: Iterable[Tensor]
) -> None:
    """Run a network on batches, with `hook` as forward hook of the given modules."""
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        for batch in batches:
            network(batch)
    finally:
        for handle in handles:
            handle.remove()


def _take_statistics(network: nn.Module, norms: list[nn.BatchNorm2d], batches: list[Tensor]) -> None:
    """Set the statistics of each normalisation to those of its input; adapt gain and bias accordingly."""
    sums = {norm: torch.zeros(2, norm.num_features, dtype=torch.float64) for norm in norms}
    counts = dict.fromkeys(norms, 0)

    def hook(norm: nn.Module, inputs: tuple[Tensor, ...], _output: Any) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        x = inputs[0].double()
        sums[norm] += torch.stack([x.sum((0, 2, 3)), (x * x).sum((0, 2, 3))]).cpu()
        counts[norm] += x.numel() // norm.num_features

    _run_hooked(network, norms, hook, batches)
    for norm in norms:
        mean, square = sums[norm] / counts[norm]
        variance = (square - mean * mean).clamp_min(0)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        norm.weight.copy_((variance + norm.eps).sqrt())
        norm.bias += mean.to(norm.bias)
