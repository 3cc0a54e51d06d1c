"""PFLD in torch: MobileNet-style backbone, multi-scale features and heads."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from napari_face_landmarks.ibug import N_LANDMARKS
from napari_face_landmarks.pfld.crop import CROP_SIZE


class DepthwiseByTwo(nn.Conv2d):
    """Depthwise 3 x 3 convolution with stride 2, whose gradient is ten times as fast on CPUs as torch's."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, 2, 1, groups=channels, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        """Return the convolution, (B, channels, H / 2, W / 2)."""
        if not self.training:
            return super().forward(input)
        full = nn.functional.conv2d(input, self.weight, None, 1, self.padding, 1, self.groups)
        return full[:, :, ::2, ::2]


def _conv(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, act: bool = True
) -> nn.Sequential:
    depthwise_by_two = stride == 2 and groups == inputs == outputs and kernel == 3
    layers: list[nn.Module] = [
        DepthwiseByTwo(inputs)
        if depthwise_by_two
        else nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    if act:
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution and projection (Sandler et al. 2018, MobileNetV2)."""

    def __init__(self, inputs: int, outputs: int, stride: int, middle: int) -> None:
        super().__init__()
        self.residual = stride == 1 and inputs == outputs
        self.body = nn.Sequential(
            _conv(inputs, middle, 1),
            _conv(middle, middle, 3, stride, groups=middle),
            _conv(middle, outputs, 1, act=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, (B, outputs, H / stride, W / stride)."""
        y: Tensor = self.body(x)
        return x + y if self.residual else y


def _stage(inputs: int, outputs: int, first: int, *middles: int) -> nn.Sequential:
    return nn.Sequential(
        InvertedResidual(inputs, outputs, 2, first),
        *(InvertedResidual(outputs, outputs, 1, middle) for middle in middles),
    )


Middles = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""Inner channels of each block of the stages 2, 3 and 4."""

WIDE: Middles = ((96, 96, 96), (144, 240, 240, 240, 240), (240, 384, 384, 384))
"""Expansion of the inputs of each block by 2 in stage 2, by 3 in the others."""

NARROW: Middles = ((48, 48, 48), (80, 112, 128, 144, 176), (160, 288, 256, 320))
"""Two thirds of the operations: `WIDE` without groups of 16 channels of little importance for their cost."""


class PfldOutputs(NamedTuple):
    """Outputs of the network in training; coordinates are fractions of the crop, x before y."""

    landmarks: Tensor
    heat_landmarks: Tensor
    global_landmarks: Tensor
    log_sigma: Tensor
    score: Tensor
    pose: Tensor


class PfldFeatures(NamedTuple):
    """Features of backbone and pyramid, (B, C, H, W): stages 2, 3 and 4, and the finest level."""

    f2: Tensor
    f3: Tensor
    f4: Tensor
    p2: Tensor


class Pfld(nn.Module):
    """PFLD (Guo et al. 2019, arXiv 1902.10859) with an additional soft-argmax branch.

    `global_landmarks` come from the published branch, a regression from features pooled at three scales. A
    second branch locates each landmark in a 28 x 28 heat map by soft-argmax (Sun et al. 2018, integral
    regression). A predicted weight per landmark combines both. The head-pose branch is used in training only.
    `middles` are the inner channels of each block.
    """

    def __init__(self, middles: Middles = WIDE) -> None:
        super().__init__()
        c2, c3, c4, fpn = 48, 80, 128, 64
        self.stem = _conv(3, 16, 3, 2)
        self.stage2 = nn.Sequential(
            _conv(16, c2, 3, 2), *(InvertedResidual(c2, c2, 1, middle) for middle in middles[0])
        )
        self.stage3 = _stage(c2, c3, *middles[1])
        self.stage4 = _stage(c3, c4, *middles[2])
        self.lateral4 = _conv(c4, fpn, 1)
        self.lateral3 = _conv(c3, fpn, 1)
        self.lateral2 = _conv(c2, fpn, 1)
        self.smooth3 = nn.Sequential(_conv(fpn, fpn, 3, groups=fpn), _conv(fpn, fpn, 1))
        self.smooth2 = nn.Sequential(_conv(fpn, fpn, 3, groups=fpn), _conv(fpn, fpn, 1))
        self.heat = nn.Conv2d(fpn, N_LANDMARKS, 1)
        self.squeeze = _conv(c4, 32, 1)
        grid = CROP_SIZE // 16
        multi_scale = 32 * grid * grid + c2 + c3 + c4
        self.shared = nn.Sequential(nn.Linear(multi_scale, 192), nn.ReLU(inplace=True), nn.Dropout(0.1))
        self.regress = nn.Linear(192, 2 * N_LANDMARKS)
        self.mix = nn.Linear(192, N_LANDMARKS)
        self.log_sigma = nn.Linear(192 + N_LANDMARKS, N_LANDMARKS)
        self.score = nn.Linear(192, 1)
        self.pose = nn.Sequential(
            _conv(c2, 48, 3, 2), _conv(48, 48, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 3)
        )
        side = CROP_SIZE // 4
        ramp = (torch.arange(side) + 0.5) / side
        x, y = ramp.repeat(side), ramp.repeat_interleave(side)
        self.places: Tensor
        self.register_buffer("places", torch.stack([x, y, x * x + y * y], dim=1), persistent=False)
        nn.init.normal_(self.regress.weight, std=1e-3)
        nn.init.constant_(self.regress.bias, 0.5)

    def forward(self, x: Tensor) -> PfldOutputs:
        """Run the network on crops, (B, 3, 112, 112) RGB in 0 to 1."""
        return self.heads(self.features(x))

    def features(self, x: Tensor) -> PfldFeatures:
        """Run backbone and pyramid on crops, (B, 3, 112, 112) RGB in 0 to 1."""
        f2 = self.stage2(self.stem(x - 0.5))
        f3 = self.stage3(f2)
        f4 = self.stage4(f3)
        p3 = self.smooth3(self.lateral3(f3) + nn.functional.interpolate(self.lateral4(f4), scale_factor=2.0))
        p2 = self.smooth2(self.lateral2(f2) + nn.functional.interpolate(p3, scale_factor=2.0))
        return PfldFeatures(f2, f3, f4, p2)

    def heads(self, features: PfldFeatures) -> PfldOutputs:
        """Run the heads on the output of `features`."""
        f2, f3, f4, p2 = features
        heat = self.heat(p2).float().flatten(2)
        moments = heat.softmax(-1) @ self.places
        hx, hy = moments[..., 0], moments[..., 1]
        variance = moments[..., 2] - hx * hx - hy * hy
        spread = 0.5 * torch.log(variance.clamp_min(0.0) + 1e-6)
        pooled = torch.cat(
            [self.squeeze(f4).flatten(1), f2.mean((2, 3)), f3.mean((2, 3)), f4.mean((2, 3))], dim=1
        ).float()
        shared = self.shared(pooled)
        by_heat = torch.stack([hx, hy], dim=-1)
        by_regression = self.regress(shared).view(-1, N_LANDMARKS, 2)
        weight = torch.sigmoid(self.mix(shared) + 1.0).unsqueeze(-1)
        landmarks = weight * by_heat + (1 - weight) * by_regression
        log_sigma = self.log_sigma(torch.cat([shared, spread], dim=1)) - 3.5
        score = self.score(shared).squeeze(-1)
        pose = self.pose(f2).float() if self.training else torch.zeros(f2.shape[0], 3)
        return PfldOutputs(landmarks, by_heat, by_regression, log_sigma, score, pose)
