"""Common parts of training loops: averaged weights, checkpoints, learning rates."""

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
    """Return the learning rate: linear warm-up, then a half cosine down to `floor` times `highest`."""
    return highest * min((step + 1) / warm_up, 0.5 * (1 + math.cos(math.pi * (step / steps))) + floor)


@dataclass
class Loop:
    """State of a training run that is stored in its checkpoint."""

    path: Path  # ``OUT/NAME``; the checkpoint is ``OUT/NAME.checkpoint.pt``
    network: nn.Module  # in training
    averaged: nn.Module  # exponential moving average of its weights and statistics
    optimiser: torch.optim.Optimizer
    ema: float  # decay of the average; smaller during the first steps
    best: float = math.inf  # criterion of the best weights so far
    extra: dict[str, Any] = field(default_factory=dict)  # further content of the checkpoint
    step: int = 0  # number of finished steps
    running: float = 0.0  # exponential moving average of the loss
    _seconds: float = 0.0

    def __post_init__(self) -> None:
        self._tensors = floating(self.averaged), floating(self.network)
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Time spent on the run, including the time before it was resumed."""
        return self._seconds + time.monotonic() - self._began

    def resume(self) -> bool:
        """Load the checkpoint, if there is one; return whether there is."""
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
        """Write the checkpoint atomically."""
        state = {name: getattr(self, name).state_dict() for name in ("network", "averaged", "optimiser")}
        progress = {"step": self.step, "best": self.best, "seconds": self.seconds}
        with replacing(_checkpoint_of(self.path)) as temporary:
            torch.save({**self.extra, **state, **progress}, temporary)

    def set_rate(self, rate: float) -> None:
        """Set the learning rate of all parameters."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate

    def descend(self, loss: Tensor, clip: float = math.inf) -> bool:
        """Take a gradient step and average the weights; return False if the gradient is not finite."""
        self.optimiser.zero_grad()
        loss.backward()
        finite = bool(torch.isfinite(nn.utils.clip_grad_norm_(self.network.parameters(), clip)))
        if finite:
            self.optimiser.step()
            decay = min(self.ema, (self.step + 1) / (self.step + 10))
            with torch.no_grad():
                torch._foreach_lerp_(*self._tensors, 1 - decay)
            now = float(loss.detach())
            self.running = 0.98 * self.running + 0.02 * now if self.running else now
        self.step += 1
        return finite


def _checkpoint_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.checkpoint.pt")


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any] | None:
    """Return the state written by `Loop.save` for a run ``OUT/NAME``; None if there is none."""
    checkpoint = _checkpoint_of(path)
    if not checkpoint.exists():
        return None
    return dict(torch.load(checkpoint, map_location=device, weights_only=True))


def floating(module: nn.Module) -> list[Tensor]:
    """Return the parameters and running statistics of a network in the order of its state."""
    return [value for value in module.state_dict().values() if value.dtype.is_floating_point]
