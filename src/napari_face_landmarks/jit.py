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

LEAN_WITH = ((0, 68),)
"""Versions of Numba whose cache is known to load kernels without the compiler."""
COMPILED: list[str] = []
"""The kernels that this process did not find in the cache, the one being compiled last."""
_NOTED: list[Any] = []
"""What notes them, once Numba is imported."""
_LOCK = threading.RLock()
_only_cached: ContextVar[bool] = ContextVar("_only_cached", default=False)


class NotCompiledError(Exception):
    """A kernel is not in Numba's cache, while only those may be called."""


@contextlib.contextmanager
def only_cached() -> Iterator[None]:
    """Raise `NotCompiledError` instead of compiling, with a Numba of `LEAN_WITH`.

    The compiler's objects make Python collect garbage among all of the process's, for half a second in
    napari's, in which no thread works.
    """
    before = _only_cached.set(True)
    try:
        yield
    finally:
        _only_cached.reset(before)


class _Kernel:
    """A function that Numba, imported then, compiles or loads from its cache at the first call."""

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
                if not _NOTED:
                    _note_compilations()
                known = self.py_func.__globals__
                for name in self.py_func.__code__.co_names:
                    called = known.get(name)
                    if isinstance(called, _Kernel):  # Numba has to see what it compiled
                        known[name] = called._compiled or called._compile()
                options = {"nogil": True, "cache": True, "no_cfunc_wrapper": True, **self._options}
                self._compiled = numba.njit(self.py_func, **options)
                if (
                    options["cache"]
                    and numba.version_info.short in LEAN_WITH
                    and not numba.config.DISABLE_JIT
                ):
                    _load_without_compiler(self._compiled)
            return self._compiled


def _note_compilations() -> None:
    """Make Numba append to `COMPILED` what it compiles of this package."""
    from numba.core import event

    class Noting(event.Listener):  # type: ignore[misc]
        def on_start(self, event: Any) -> None:
            function = event.data["dispatcher"].py_func
            if function.__module__.startswith(__package__):
                COMPILED.append(function.__name__)

        def on_end(self, event: Any) -> None:
            pass

    _NOTED.append(Noting())
    event.register("numba:compile", _NOTED[0])


def _load_without_compiler(compiled: Any) -> None:
    """Make a kernel look into Numba's cache before Numba initialises its compiler.

    The compiler takes 45 MB and most of the loading time, for nothing if all kernels are cached. A kernel
    that is not in the cache still starts it; with a Numba that lacks these internals the kernel is left as
    `numba.njit` made it.
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
            found = None
            with guard(self):
                found = load(self, sig, target_context)
            if found is None and _only_cached.get():
                raise NotCompiledError
            return found

    for name, address in helpers.items():
        binding.add_symbol(name if name.startswith("_") else f"NRT_{name}", address)
    compiled._cache = LeanCache(compiled.py_func)


def release_compiler() -> None:
    """Give back memory that loading the kernels took, on Linux: 35 MB of the compiler's code, 5 MB of data.

    Numba maps its library although all kernels are cached; the code is mapped again where it is needed.
    """
    with contextlib.suppress(OSError, ValueError, AttributeError):
        with open("/proc/self/maps") as maps:
            code = [line.split()[0] for line in maps if "llvmlite" in line and " r-xp " in line]
        library = ctypes.CDLL(None)
        for begin, end in ([int(place, 16) for place in places.split("-")] for places in code):
            library.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), mmap.MADV_DONTNEED)
        library.malloc_trim(0)


def kernel(function: F) -> F:
    """Compile `function` with Numba: cached on disk, without the GIL, sums may be reordered."""
    return cast(F, _Kernel(function, fastmath=True, error_model="numpy"))


def exact_kernel(function: F) -> F:
    """Compile `function` like `kernel`, but without reordering of sums."""
    return cast(F, _Kernel(function, error_model="numpy"))
