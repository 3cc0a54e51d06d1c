"""The one way in which this package compiles its loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])


def kernel(function: F) -> F:
    """Compile `function` with Numba: cached on disk, without the GIL, float sums in any order."""
    return cast(F, numba.njit(function, nogil=True, cache=True, fastmath=True, error_model="numpy"))
