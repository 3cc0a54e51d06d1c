"""Kernels compile and run whether or not Numba has the internals that loading without its compiler uses."""

from __future__ import annotations

from pathlib import Path

import numba
import numpy as np
import pytest
from numba.core import caching, ccallback  # noqa: F401 - Numba itself imports what is hidden below
from numba.core.runtime import _nrt_python

from napari_face_landmarks import jit


@jit.kernel
def total(values: np.ndarray) -> float:
    found = 0.0
    for value in values:
        found += value
    return found


@pytest.mark.parametrize(
    ("owner", "name"), [(None, ""), (caching, "FunctionCache"), (_nrt_python, "c_helpers")], ids=str
)
def test_a_kernel_runs_with_a_numba_without_the_private_cache(
    owner: object, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ordinary = caching.FunctionCache
    monkeypatch.setattr(jit, "LAZY_COMPILER_VERSIONS", (numba.version_info.short,))
    if owner is not None:
        monkeypatch.delattr(owner, name)
    kernel = jit.kernel(total.py_func)
    assert kernel(np.arange(5.0)) == 10
    assert (type(kernel._compiled._cache) is ordinary) == (owner is not None)


def test_what_is_compiled_of_this_package_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jit, "COMPILED", [])

    def twice(value: float) -> float:
        return 2 * value

    twice.__module__ = "napari_face_landmarks.any"
    kernel = jit._Kernel(twice, cache=False)
    assert kernel(1.0) == kernel(1.0) == 2
    assert jit.COMPILED == ["twice"]


def test_only_cached_kernels_may_be_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(jit, "LAZY_COMPILER_VERSIONS", (numba.version_info.short,))
    with jit.only_cached(), pytest.raises(jit.NotCompiledError):
        jit.kernel(total.py_func)(np.arange(5.0))
    assert jit.kernel(total.py_func)(np.arange(5.0)) == 10
    with jit.only_cached():
        assert jit.kernel(total.py_func)(np.arange(5.0)) == 10
