"""Training precision: bfloat16 is faster than float32 on processors that support it, far slower on others."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import torch

ROUNDS = 6
"""Rounds of timing; the fastest counts, since the first one compiles and there may be other load."""
SLOWEST = 4.0
"""Methods that take this many times the time of the fastest are not timed again."""

Method = TypeVar("Method")


def fastest(methods: Mapping[Method, Callable[[], Any]]) -> Method:
    """Return the key of the fastest of several equivalent functions, timed alternately."""
    seconds = dict.fromkeys(methods, math.inf)
    for round_ in range(ROUNDS):
        least = min(seconds.values())
        for method, work in methods.items():
            if round_ and seconds[method] > SLOWEST * least:
                continue
            began = time.perf_counter()
            work()
            seconds[method] = min(seconds[method], time.perf_counter() - began)
    return min(seconds, key=lambda method: seconds[method])


def faster_precision(device: torch.device, work: Callable[[], Any]) -> torch.dtype:
    """Return the faster of float32 and bfloat16 for `work`; bfloat16 on a GPU."""

    def timed(dtype: torch.dtype) -> None:
        with in_precision(device, dtype):
            work()

    if device.type != "cpu":
        return torch.bfloat16
    return fastest({dtype: partial(timed, dtype) for dtype in (torch.float32, torch.bfloat16)})


def in_precision(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Return the autocast context for `dtype`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16)
