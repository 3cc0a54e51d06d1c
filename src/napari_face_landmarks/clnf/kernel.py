"""The one way in which this package compiles its loops."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])

_LOCK = threading.RLock()


class _Kernel:
    """A function that Numba compiles, or loads from its cache, when it is first called.

    Not before, so that importing the package costs neither the time nor the memory of Numba. The kernels that
    it calls are compiled with it.
    """

    def __init__(self, function: Callable[..., Any], **options: Any) -> None:
        self.py_func = function
        self._options = options
        self._compiled: Callable[..., Any] | None = None
        self.__doc__ = function.__doc__
        self.__name__ = function.__name__

    def __call__(self, *arguments: Any) -> Any:
        compiled = self._compiled or self._compile()
        return compiled(*arguments)

    def _compile(self) -> Callable[..., Any]:
        import numba

        with _LOCK:
            if self._compiled is None:
                known = self.py_func.__globals__
                for name in self.py_func.__code__.co_names:
                    called = known.get(name)
                    if isinstance(called, _Kernel):  # Numba has to see what it compiled
                        known[name] = called._compiled or called._compile()
                self._compiled = numba.njit(self.py_func, nogil=True, cache=True, **self._options)
            return self._compiled


def kernel(function: F) -> F:
    """Compile `function` with Numba: cached on disk, without the GIL, float sums in any order."""
    return cast(F, _Kernel(function, fastmath=True, error_model="numpy"))


def exact_kernel(function: F) -> F:
    """Compile `function` like `kernel`, but with sums in the order that is written."""
    return cast(F, _Kernel(function))
