"""Pruning and widening of the blocks of PFLD."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from napari_face_landmarks.training.network import InvertedResidual, Middles, Pfld

Doubles = npt.NDArray[np.float64]

RIDGE = 1e-5
"""Ridge penalty, in mean squares of the channels."""


def middles_of(network: Pfld) -> Middles:
    """Return the number of inner channels of each block of a network."""
    stages = [
        tuple(_middle(block) for block in stage if isinstance(block, InvertedResidual))
        for stage in (network.stage2, network.stage3, network.stage4)
    ]
    return stages[0], stages[1], stages[2]


def is_thinner(middles: Middles, other: Middles) -> bool:
    """Return whether any block has fewer channels than in the other network."""
    return any(here < there for here, there in zip(chain(*middles), chain(*other), strict=True))


def _middle(block: InvertedResidual) -> int:
    return len(block.get_parameter("body.2.0.weight")[0])


def with_widths(network: Pfld, middles: Middles, batches: Sequence[Tensor]) -> Pfld:
    """Return a network with other widths and the same outputs (approximately, if pruned), in training mode.

    From pruned blocks channels are removed one at a time, starting with those that the others predict best
    (Hassibi and Stork 1993, "Optimal Brain Surgeon", equation 5); the output convolution is refitted to the
    output of the given network (He, Zhang and Sun 2017, arXiv 1707.06168, equation 1). Additional channels of
    widened blocks have random input weights and zero output weights (Chen, Goodfellow and Shlens 2016, arXiv
    1511.05641). `batches` are some hundreds of training inputs.
    """
    new: Pfld = Pfld(middles).to(batches[0].device)
    network.eval()
    new.eval()
    with torch.no_grad():
        own = new.state_dict()
        for name, value in network.state_dict().items():
            if name in own and own[name].shape == value.shape:
                own[name].copy_(value)
        inputs = [network.stem(batch - 0.5) for batch in batches]
        new_inputs = inputs  # input of the new network's blocks: identical up to the first pruned one
        for stage in ("stage2", "stage3", "stage4"):
            for block, new_block in zip(getattr(network, stage), getattr(new, stage), strict=True):
                targets = [block(x) for x in inputs]
                if isinstance(block, InvertedResidual):
                    if _middle(new_block) < _middle(block) or new_inputs is not inputs:
                        _fit_block(block, new_block, new_inputs, targets)
                        new_inputs = [new_block(x) for x in new_inputs]
                    else:
                        _widen_block(block, new_block)
                        new_inputs = targets
                else:
                    new_inputs = targets
                inputs = targets
    new.train()
    return new


def _widen_block(block: InvertedResidual, new: InvertedResidual) -> None:
    """Copy the channels of a block to a wider one, with zero output weights for additional channels."""
    count = _middle(block)
    _take_channels(block, new, np.arange(count))
    out, new_out = block.body[2].state_dict(), new.body[2].state_dict()
    for name, value in out.items():
        if name == "0.weight":
            new_out[name].zero_()
            new_out[name][:, :count] = value
        else:
            new_out[name].copy_(value)


def _take_channels(block: InvertedResidual, new: InvertedResidual, channels: npt.NDArray[np.int64]) -> None:
    """Copy the inner channels `channels` of a block to the first ones of another."""
    for part in (0, 1):
        own = new.body[part].state_dict()
        for name, value in block.body[part].state_dict().items():
            if value.ndim:
                own[name][: len(channels)] = value[torch.from_numpy(channels).to(value.device)]
            else:
                own[name].copy_(value)


def _fit_block(
    block: InvertedResidual, new: InvertedResidual, inputs: Sequence[Tensor], targets: Sequence[Tensor]
) -> None:
    """Copy the best channels of a block to a narrower one and refit its output convolution."""
    count = _middle(block)
    kept = min(count, _middle(new))
    gram = np.zeros((count + 1, count + 1))
    cross = np.zeros((count + 1, targets[0].shape[1]))
    for x, y in zip(inputs, targets, strict=True):
        middle = block.body[1](block.body[0](x)).transpose(0, 1).flatten(1)
        middle = torch.cat([middle, torch.ones_like(middle[:1])])
        wanted = (y - x if block.residual else y).transpose(0, 1).flatten(1)
        gram += (middle @ middle.T).cpu().numpy()
        cross += (middle @ wanted.T).cpu().numpy()
    places, weights = best_channels(gram, cross, kept)
    _take_channels(block, new, places)
    mean = gram[places, -1] / gram[-1, -1]
    covariance = gram[np.ix_(places, places)] / gram[-1, -1] - np.outer(mean, mean)
    channels = weights[:-1]
    means = torch.from_numpy(mean @ channels)
    variances = torch.from_numpy(np.maximum(((covariance @ channels) * channels).sum(0), 0))
    out, norm = new.body[2]
    assert isinstance(out, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    out.weight.zero_()
    out.weight[:, :kept] = torch.from_numpy(channels.T[..., None, None]).to(out.weight)
    norm.running_mean.copy_(means)
    norm.running_var.copy_(variances)
    norm.weight.copy_((variances + norm.eps).sqrt())
    norm.bias.copy_(torch.from_numpy(weights[-1]) + means)


def best_channels(gram: Doubles, cross: Doubles, kept: int) -> tuple[npt.NDArray[np.int64], Doubles]:
    """Select `kept` of C channels for a linear map to K outputs by backward elimination.

    `gram`, (C + 1, C + 1), has the sums of products of the channels and a constant 1 with each other,
    `cross`, (C + 1, K), those with the outputs. Returns the selected channels, ascending, and the map, (kept
    + 1, K).
    """
    count = len(gram) - 1
    ridged = gram.copy()
    ridged[range(count), range(count)] += RIDGE * gram.diagonal()[:count].mean()
    inverse = np.linalg.inv(ridged)
    weights = inverse @ cross
    staying = np.ones(count + 1, np.bool_)
    for _ in range(count - kept):
        loss = (weights**2).sum(1) / np.maximum(inverse.diagonal(), 1e-300)
        loss[~staying] = loss[-1] = np.inf
        least = int(loss.argmin())
        row = inverse[least] / inverse[least, least]
        weights -= np.outer(row, weights[least])
        inverse -= np.outer(row, inverse[least])
        staying[least] = False
    chosen = np.flatnonzero(staying).astype(np.int64)
    solved = np.linalg.solve(ridged[np.ix_(chosen, chosen)], cross[chosen])
    return chosen[:-1], np.asarray(solved, np.float64)
