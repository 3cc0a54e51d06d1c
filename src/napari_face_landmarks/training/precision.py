"""The numbers a network is trained in: bfloat16 is quick where the processor has it, and else far slower."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch

ROUNDS = 6
"""The first one compiles; the quickest counts, for the others may have shared the processor."""


def faster_precision(device: torch.device, work: Callable[[], Any]) -> torch.dtype:
    """Return what the products of `work` are best computed in, by doing it in float32 and in bfloat16.

    Processors without instructions for bfloat16 take up to a hundred times as long as for float32.

    Parameters
    ----------
    device : torch.device
        Where `work` is done; a GPU is taken to have bfloat16.
    work : callable
        A forward and a backward pass over a few examples.
    """
    if device.type != "cpu":
        return torch.bfloat16
    seconds = dict.fromkeys((torch.float32, torch.bfloat16), math.inf)
    for _ in range(ROUNDS):
        for dtype in seconds:
            began = time.perf_counter()
            with in_precision(device, dtype):
                work()
            seconds[dtype] = min(seconds[dtype], time.perf_counter() - began)
    return min(seconds, key=lambda dtype: seconds[dtype])


def in_precision(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Return the context in which a network's products are computed in `dtype`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16)
