"""The numbers a network is trained in: bfloat16 is quick where the processor has it, and else far slower."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import torch

ROUNDS = 6
"""The first one compiles; the quickest counts, for the others may have shared the processor."""
HOPELESS = 4.0
"""Times the quickest: a way that takes as long is not tried again."""

Way = TypeVar("Way")


def fastest(ways: Mapping[Way, Callable[[], Any]]) -> Way:
    """Return which of several ways to do the same takes the least time here, by doing it in turns.

    Processors without instructions for bfloat16 take up to a hundred times as long as for float32.

    Parameters
    ----------
    ways : mapping
        What does the work in each way.
    """
    seconds = dict.fromkeys(ways, math.inf)
    for round_ in range(ROUNDS):
        least = min(seconds.values())
        for way, work in ways.items():
            if round_ and seconds[way] > HOPELESS * least:
                continue
            began = time.perf_counter()
            work()
            seconds[way] = min(seconds[way], time.perf_counter() - began)
    return min(seconds, key=lambda way: seconds[way])


def faster_precision(device: torch.device, work: Callable[[], Any]) -> torch.dtype:
    """Return what the products of `work` are best computed in, by doing it in float32 and in bfloat16.

    Parameters
    ----------
    device : torch.device
        Where `work` is done; a GPU is taken to have bfloat16.
    work : callable
        A forward and a backward pass over a few examples.
    """

    def in_this(dtype: torch.dtype) -> None:
        with in_precision(device, dtype):
            work()

    if device.type != "cpu":
        return torch.bfloat16
    return fastest({dtype: partial(in_this, dtype) for dtype in (torch.float32, torch.bfloat16)})


def in_precision(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Return the context in which a network's products are computed in `dtype`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16)
