"""A PFLD with fewer channels in its blocks, made from a wider one so that it starts out nearly as good."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from napari_face_landmarks.errors import ModelError
from napari_face_landmarks.training.network import InvertedResidual, Middles, Pfld

RIDGE = 1e-5
"""Weight of the ridge, in units of the channels' mean square."""


def middles_of(network: Pfld) -> Middles:
    """Return how many channels each block of a network has in its middle."""
    stages = [
        tuple(_middle(block) for block in stage if isinstance(block, InvertedResidual))
        for stage in (network.stage2, network.stage3, network.stage4)
    ]
    return stages[0], stages[1], stages[2]


def _middle(block: InvertedResidual) -> int:
    return len(block.get_parameter("body.2.0.weight")[0])


def thinned(wide: Pfld, middles: Middles, batches: Sequence[Tensor]) -> Pfld:
    """Return a network of fewer channels that gives nearly the outputs of a wide one.

    Block after block, the convolution out of it is fitted anew by least squares: to what the wide network's
    block gives, from what the thin one's channels hold, so that a block makes up for what those before it
    have lost (He, Zhang and Sun 2017, "Channel Pruning for Accelerating Very Deep Neural Networks", arXiv
    1707.06168, equation 1). Which channels stay is found by leaving out one at a time, the one that the
    others stand in for best (Hassibi and Stork 1993, "Second order derivatives for network pruning: Optimal
    Brain Surgeon", equation 5).

    Parameters
    ----------
    wide : Pfld
        The network to be thinned. It is left as it is, but in evaluation mode.
    middles : Middles
        Channels of each block, no more than the wide network's.
    batches : sequence of Tensor, (B, 3, 112, 112)
        Inputs of the network, as it will be trained on; some hundreds of examples are enough.

    Returns
    -------
    Pfld
        In training mode.

    Raises
    ------
    ModelError
        A block is to have more channels than the wide network's.
    """
    thin: Pfld = Pfld(middles).to(batches[0].device)
    wide.eval()
    thin.eval()
    with torch.no_grad():
        own = thin.state_dict()
        for name, value in wide.state_dict().items():
            if name in own and own[name].shape == value.shape:
                own[name].copy_(value)
        entering = [wide.stem(batch - 0.5) for batch in batches]  # the same into both up to the first block
        leaving = entering
        for stage in ("stage2", "stage3", "stage4"):
            for block, narrow in zip(getattr(wide, stage), getattr(thin, stage), strict=True):
                targets = [block(x) for x in entering]
                if isinstance(block, InvertedResidual):
                    _thin_block(block, narrow, leaving, targets)
                    leaving = [narrow(x) for x in leaving]
                else:
                    leaving = targets
                entering = targets
    thin.train()
    return thin


def _thin_block(
    wide: InvertedResidual, thin: InvertedResidual, inputs: Sequence[Tensor], targets: Sequence[Tensor]
) -> None:
    """Give a thin block the channels of a wide one, and the convolution out of them that fits best."""
    count, kept = _middle(wide), _middle(thin)
    if kept > count:
        raise ModelError(f"A block of {count} channels cannot be thinned to {kept}: train without --start.")
    outputs = targets[0].shape[1]
    gram = torch.zeros(count + 1, count + 1, dtype=torch.float64)
    cross = torch.zeros(count + 1, outputs, dtype=torch.float64)
    for x, y in zip(inputs, targets, strict=True):
        middle = wide.body[1](wide.body[0](x)).transpose(0, 1).flatten(1)
        middle = torch.cat([middle, torch.ones_like(middle[:1])])
        wanted = (y - x if wide.residual else y).transpose(0, 1).flatten(1)
        gram += (middle @ middle.T).double().cpu()
        cross += (middle @ wanted.T).double().cpu()
    places, weights = best_channels(gram, cross, kept)
    stay = places.to(inputs[0].device)
    for part in (0, 1):
        for name, value in wide.body[part].state_dict().items():
            own = thin.body[part].state_dict()[name]
            own.copy_(value[stay] if value.ndim else value)
    mean = gram[places, -1] / gram[-1, -1]
    covariance = gram[places][:, places] / gram[-1, -1] - torch.outer(mean, mean)
    out, norm = thin.body[2]
    assert isinstance(out, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    channels = weights[:-1]
    means, variances = mean @ channels, ((covariance @ channels) * channels).sum(0).clamp_min(0)
    out.weight.copy_(channels.T[..., None, None])
    norm.running_mean.copy_(means)
    norm.running_var.copy_(variances)
    norm.weight.copy_((variances + norm.eps).sqrt())
    norm.bias.copy_(weights[-1] + means)


def best_channels(gram: Tensor, cross: Tensor, kept: int) -> tuple[Tensor, Tensor]:
    """Return which channels fit a linear map best, found by leaving out one at a time, and that map.

    Parameters
    ----------
    gram : Tensor, (C + 1, C + 1), float64
        Sums of the products of C channels and, the last, of a constant one, which stays.
    cross : Tensor, (C + 1, K), float64
        Sums of their products with the K outputs wanted.
    kept : int
        Number of channels that stay.

    Returns
    -------
    places : Tensor, (kept,), int64
        Rising.
    weights : Tensor, (kept + 1, K), float64
        The map from these channels and the constant one.
    """
    count = len(gram) - 1
    ridge = RIDGE * gram.diagonal()[:count].mean() * torch.ones(count + 1, dtype=gram.dtype)
    ridge[-1] = 0
    inverse = torch.linalg.inv(gram + torch.diag(ridge))
    weights = inverse @ cross
    staying = torch.ones(count + 1, dtype=torch.bool)
    for _ in range(count - kept):
        loss = (weights**2).sum(1) / inverse.diagonal().clamp_min(1e-300)
        loss[~staying] = torch.inf
        loss[-1] = torch.inf
        least = int(loss.argmin())
        row = inverse[least] / inverse[least, least]
        weights = weights - torch.outer(row, weights[least])
        inverse = inverse - torch.outer(inverse[least], row)
        staying[least] = False
    places = staying[:-1].nonzero().flatten()
    chosen = torch.cat([places, torch.tensor([count])])
    solved = torch.linalg.solve((gram + torch.diag(ridge))[chosen][:, chosen], cross[chosen])
    return places, solved
