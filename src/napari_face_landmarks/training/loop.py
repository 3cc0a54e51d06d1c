"""What the training loops share: averaged weights, checkpoints and learning rates."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from napari_face_landmarks.files.atomic import replacing


def scheduled(step: int, steps: int, highest: float, warm_up: int, floor: float) -> float:
    """Return the learning rate of a step: linear warm-up, then half a cosine down to a share `floor`."""
    return highest * min((step + 1) / warm_up, 0.5 * (1 + math.cos(math.pi * (step / steps))) + floor)


@dataclass
class Loop:
    """State of a training run, as its checkpoint has it."""

    path: Path  # ``OUT/NAME``; the checkpoint is ``OUT/NAME.checkpoint.pt``
    # network, averaged: the network in training, and the exponential moving average of its weights and
    # statistics
    network: nn.Module
    averaged: nn.Module
    optimiser: torch.optim.Optimizer
    ema: float  # decay of the average; smaller during the first steps
    best: float = math.inf  # criterion of the best weights so far
    extra: dict[str, Any] = field(default_factory=dict)  # what else the checkpoint stores
    step: int = 0  # steps done
    running: float = 0.0  # exponential moving average of the loss
    _seconds: float = 0.0

    def __post_init__(self) -> None:
        self._tensors = floating(self.averaged), floating(self.network)
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Time spent on the run, in all its parts."""
        return self._seconds + time.monotonic() - self._began

    def resume(self) -> bool:
        """Load the checkpoint; return whether there is one."""
        state = load_checkpoint(self.path, next(self.network.parameters()).device)
        if state is None:
            return False
        for name in ("network", "averaged", "optimiser"):
            getattr(self, name).load_state_dict(state.pop(name))
        self.step, self._seconds = state.pop("step"), state.pop("seconds")
        self.best = state.pop("best", math.inf)
        self.extra = state
        return True

    def save(self) -> None:
        """Write the checkpoint, which appears whole or not at all."""
        state = {name: getattr(self, name).state_dict() for name in ("network", "averaged", "optimiser")}
        progress = {"step": self.step, "best": self.best, "seconds": self.seconds}
        with replacing(_checkpoint_of(self.path)) as part:
            torch.save({**self.extra, **state, **progress}, part)

    def set_rate(self, rate: float) -> None:
        """Set the learning rate of all parameters."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate

    def descend(self, loss: Tensor, clip: float = math.inf) -> bool:
        """Take a gradient step and average the weights; return False, without a step, if it is not finite."""
        self.optimiser.zero_grad()
        loss.backward()
        finite = bool(torch.isfinite(nn.utils.clip_grad_norm_(self.network.parameters(), clip)))
        if finite:
            self.optimiser.step()
            keep = min(self.ema, (self.step + 1) / (self.step + 10))
            with torch.no_grad():
                torch._foreach_lerp_(*self._tensors, 1 - keep)
            now = float(loss.detach())
            self.running = 0.98 * self.running + 0.02 * now if self.running else now
        self.step += 1
        return finite


def _checkpoint_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.checkpoint.pt")


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any] | None:
    """Return the state that `Loop.save` wrote for a run ``OUT/NAME``; None if there is none."""
    checkpoint = _checkpoint_of(path)
    if not checkpoint.exists():
        return None
    return dict(torch.load(checkpoint, map_location=device, weights_only=True))


def floating(module: nn.Module) -> list[Tensor]:
    """Return the parameters and running statistics of a network, in a fixed order."""
    return [value for value in module.state_dict().values() if value.dtype.is_floating_point]
