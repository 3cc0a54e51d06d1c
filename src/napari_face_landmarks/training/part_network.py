"""Networks for one eye and for the mouth in torch: a small encoder, heat maps and a regression."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from napari_face_landmarks.training.network import _conv as conv

LUMA = (0.299, 0.587, 0.114)


class PartOutputs(NamedTuple):
    """Outputs of a part network in training; coordinates are fractions of the crop, x before y.

    For the eye, `extra` has the iris (centre x, y, diameter), the logarithm of the spread of its centre, the
    logit of a visible iris and the logit of a shut eye; for the mouth it is empty.
    """

    landmarks: Tensor
    heat_landmarks: Tensor
    global_landmarks: Tensor
    log_sigma: Tensor
    extra: Tensor


class Residual(nn.Module):
    """A 3 x 3 convolution with stride 2, then a residual 3 x 3 convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.down = conv(inputs, outputs, 3, 2)
        self.more = conv(outputs, outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of half the size, (B, outputs, H / 2, W / 2)."""
        y: Tensor = self.down(x)
        return y + self.more(y)


class PartNetwork(nn.Module):
    """Network for one part of the face, which combines heat maps and a regression as `Pfld` does.

    `size` is the side of the input, `count` the number of landmarks, `extra` the number of further outputs,
    from the regression only. With `fine`, heat maps have half the side of the input instead of a quarter.
    """

    def __init__(self, size: int, channels: int, count: int, extra: int = 0, fine: bool = False) -> None:
        super().__init__()
        c1, c2, c3, wide = 16, 32, 64, 128
        self.count = count
        self.stem = conv(channels, c1, 3, 2)
        self.stage2 = Residual(c1, c2)
        self.stage3 = Residual(c2, c3)
        self.lateral3 = conv(c3, c2, 1)
        self.lateral2 = conv(c2, c2, 1)
        self.smooth = nn.Sequential(conv(c2, c2, 3, groups=c2), conv(c2, c2, 1))
        self.heat = nn.Conv2d(c2, count, 1)
        self.squeeze = conv(c3, 24, 1)
        side = size // 8
        self.shared = nn.Sequential(
            nn.Linear(24 * side * side + c2 + c3, wide), nn.ReLU(inplace=True), nn.Dropout(0.1)
        )
        self.regress = nn.Linear(wide, 2 * count)
        self.mix = nn.Linear(wide, count)
        self.log_sigma = nn.Linear(wide + count, count)
        self.extra = nn.Linear(wide, extra) if extra else None
        self.fine: nn.ModuleDict | None = None
        if fine:
            self.fine = nn.ModuleDict(
                {
                    "edges": conv(c1, c1, 1),
                    "context": conv(c2, c1, 1),
                    "mixed": nn.Sequential(conv(c1, c1, 3, groups=c1), conv(c1, 24, 1)),
                    "heat": nn.Conv2d(24, count, 1),
                }
            )
            nn.init.zeros_(self.fine["heat"].weight)  # outputs of a coarse network do not change at first
        cells = size // 2 if fine else size // 4
        ramp = (torch.arange(cells) + 0.5) / cells
        x, y = ramp.repeat(len(ramp)), ramp.repeat_interleave(len(ramp))
        self.places: Tensor
        self.register_buffer("places", torch.stack([x, y, x * x + y * y], dim=1), persistent=False)
        nn.init.normal_(self.regress.weight, std=1e-3)
        nn.init.constant_(self.regress.bias, 0.5)

    def forward(self, crops: Tensor) -> PartOutputs:
        """Run the network on crops, (B, channels, size, size) in 0 to 1."""
        return self.heads(*self.features(crops))

    def features(self, crops: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run the convolutions, which tolerate low precision; return stages 2 and 3 and the heat maps."""
        f1 = self.stem(crops - 0.5)
        f2 = self.stage2(f1)
        f3 = self.stage3(f2)
        up = nn.functional.interpolate(self.lateral3(f3), scale_factor=2.0)
        p2 = self.smooth(self.lateral2(f2) + up)
        heat = self.heat(p2)
        if self.fine is not None:
            context = nn.functional.interpolate(self.fine["context"](p2), scale_factor=2.0)
            finer = self.fine["heat"](self.fine["mixed"](self.fine["edges"](f1) + context))
            heat = nn.functional.interpolate(heat, scale_factor=2.0) + finer
        return f2, f3, heat

    def heads(self, f2: Tensor, f3: Tensor, heat: Tensor) -> PartOutputs:
        """Run the heads on the output of `features`, in float32."""
        moments = heat.flatten(2).softmax(-1) @ self.places
        by_heat = moments[..., :2]
        variance = moments[..., 2] - (by_heat**2).sum(-1)
        spread = 0.5 * torch.log(variance.clamp_min(0.0) + 1e-6)
        pooled = torch.cat([self.squeeze(f3).flatten(1), f2.mean((2, 3)), f3.mean((2, 3))], dim=1)
        shared = self.shared(pooled)
        by_regression = self.regress(shared).view(-1, self.count, 2)
        weight = torch.sigmoid(self.mix(shared)).unsqueeze(-1)
        landmarks = weight * by_heat + (1 - weight) * by_regression
        log_sigma = self.log_sigma(torch.cat([shared, spread], dim=1)) - 3.0
        extra = self.extra(shared) if self.extra is not None else shared[:, :0]
        return PartOutputs(landmarks, by_heat, by_regression, log_sigma, extra)


class ExportedEye(nn.Module):
    """Eye network for the export: RGB input; probabilities and scaled spreads as outputs."""

    def __init__(self, network: PartNetwork, sigma_scale: float, iris_scale: float) -> None:
        super().__init__()
        self.network = network
        self.sigma_scale, self.iris_scale = sigma_scale, iris_scale
        first = network.stem[0]
        grey = nn.Conv2d(3, first.out_channels, 3, 2, 1, bias=False)
        grey.weight.data = first.weight.data * torch.tensor(LUMA).view(1, 3, 1, 1)
        network.stem[0] = grey

    def forward(self, crops: Tensor) -> tuple[Tensor, ...]:
        """Return landmarks, sigma, iris, iris_sigma, iris_confidence and shut."""
        outputs = self.network(crops)
        extra = outputs.extra
        return (
            outputs.landmarks,
            torch.exp(outputs.log_sigma.clamp(-8.0, 1.0)) * self.sigma_scale,
            extra[:, :3],
            torch.exp(extra[:, 3].clamp(-5.0, 4.0) - 3.0) * self.iris_scale,
            torch.sigmoid(extra[:, 4]),
            torch.sigmoid(extra[:, 5]),
        )


class ExportedMouth(nn.Module):
    """Mouth network for the export, with scaled spreads."""

    def __init__(self, network: PartNetwork, sigma_scale: float) -> None:
        super().__init__()
        self.network, self.sigma_scale = network, sigma_scale

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Return landmarks and sigma."""
        outputs = self.network(crops)
        return outputs.landmarks, torch.exp(outputs.log_sigma.clamp(-8.0, 1.0)) * self.sigma_scale
