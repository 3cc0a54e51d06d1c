"""Compilation of the array kernels with Numba."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])

LAZY_COMPILER_VERSIONS = ((0, 68),)
"""Versions of Numba whose cache is known to load kernels without initialising the compiler."""
COMPILED: list[str] = []
"""Names of the kernels compiled by this process, in order; the last one may still be compiling."""
_LISTENERS: list[Any] = []
"""Numba's listener that fills `COMPILED`, once Numba is imported."""
_LOCK = threading.RLock()
_only_cached: ContextVar[bool] = ContextVar("_only_cached", default=False)


class NotCompiledError(Exception):
    """A kernel was called within `only_cached` and is not in Numba's cache."""


@contextlib.contextmanager
def only_cached() -> Iterator[None]:
    """Raise `NotCompiledError` instead of compiling, with Numba versions in `LAZY_COMPILER_VERSIONS`.

    Compiling creates so many objects that Python runs a full garbage collection, which stops all threads of
    napari's process for half a second.
    """
    before = _only_cached.set(True)
    try:
        yield
    finally:
        _only_cached.reset(before)


class _Kernel:
    """A function that is compiled, or loaded from Numba's cache, at the first call, which imports Numba."""

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
                if not _LISTENERS:
                    _listen_for_compilations()
                module_globals = self.py_func.__globals__
                for name in self.py_func.__code__.co_names:
                    called = module_globals.get(name)
                    if isinstance(called, _Kernel):  # Numba can call only compiled functions
                        module_globals[name] = called._compiled or called._compile()
                options = {"nogil": True, "cache": True, "no_cfunc_wrapper": True, **self._options}
                self._compiled = numba.njit(self.py_func, **options)
                if (
                    options["cache"]
                    and numba.version_info.short in LAZY_COMPILER_VERSIONS
                    and not numba.config.DISABLE_JIT
                ):
                    _load_without_compiler(self._compiled)
            return self._compiled


def _listen_for_compilations() -> None:
    """Append to `COMPILED` the name of each kernel of this package that Numba compiles."""
    from numba.core import event

    class Listener(event.Listener):  # type: ignore[misc]
        def on_start(self, event: Any) -> None:
            function = event.data["dispatcher"].py_func
            if function.__module__.startswith(__package__):
                COMPILED.append(function.__name__)

        def on_end(self, event: Any) -> None:
            pass

    _LISTENERS.append(Listener())
    event.register("numba:compile", _LISTENERS[0])


def _load_without_compiler(compiled: Any) -> None:
    """Make a kernel search Numba's cache before Numba initialises its compiler.

    Initialising the compiler takes 45 MB and most of the loading time, in vain if all kernels are cached. A
    kernel that is not in the cache still initialises it. If Numba lacks the internals used here, the kernel
    remains as `numba.njit` returned it.
    """
    try:
        from llvmlite import binding
        from numba.core.caching import FunctionCache
        from numba.core.runtime import _nrt_python

        helpers = dict(_nrt_python.c_helpers)
        guard, load = FunctionCache._guard_against_spurious_io_errors, FunctionCache._load_overload
    except (ImportError, AttributeError):
        return

    class LeanCache(FunctionCache):  # type: ignore[misc]
        def load_overload(self, sig: Any, target_context: Any) -> Any:
            overload = None
            with guard(self):
                overload = load(self, sig, target_context)
            if overload is None and _only_cached.get():
                raise NotCompiledError
            return overload

    for name, address in helpers.items():
        binding.add_symbol(name if name.startswith("_") else f"NRT_{name}", address)
    compiled._cache = LeanCache(compiled.py_func)


def release_compiler() -> None:
    """Release memory that loading the kernels took, on Linux: 35 MB of the compiler's code, 5 MB of data.

    llvmlite's library is mapped into memory even if all kernels are cached; Linux reloads released pages when
    they are needed.
    """
    with contextlib.suppress(OSError, ValueError, AttributeError):
        with open("/proc/self/maps") as maps:
            code = [line.split()[0] for line in maps if "llvmlite" in line and " r-xp " in line]
        library = ctypes.CDLL(None)
        for start, end in ([int(address, 16) for address in span.split("-")] for span in code):
            library.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)
        library.malloc_trim(0)


def kernel(function: F) -> F:
    """Compile `function` with Numba: cached on disk, GIL released, with fast math (sums may be reordered)."""
    return cast(F, _Kernel(function, fastmath=True, error_model="numpy"))


def exact_kernel(function: F) -> F:
    """Compile `function` like `kernel`, but without fast math."""
    return cast(F, _Kernel(function, error_model="numpy"))
