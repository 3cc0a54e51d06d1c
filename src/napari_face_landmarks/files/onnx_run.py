"""Running of networks on bound buffers, which saves checks and allocations in Python at each run."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import onnxruntime

Floats = npt.NDArray[np.float32]

MAX_SHAPES = 4
"""Input shapes per network and thread for which buffers are kept; other shapes run without."""


@dataclass(frozen=True, slots=True)
class _Bound:
    """Buffers of a network for one input shape, used by one thread."""

    binding: Any  # onnxruntime.IOBinding
    inputs: Floats
    outputs: list[Floats]


class _ThreadBuffers(threading.local):
    """The buffers of a thread, by network and by (input shape, outputs); released with the network."""

    def __init__(self) -> None:
        self.bound: WeakKeyDictionary[Any, dict[Any, _Bound]] = WeakKeyDictionary()


_THREAD = _ThreadBuffers()


def network_input(session: Any, shape: tuple[int, ...], outputs: tuple[str, ...]) -> Floats:
    """Return an array for a network's input, which `run_network` with these outputs reads without copying.

    Its content is valid until this thread runs the network on another input of this shape.
    """
    bound = None
    if type(session) is onnxruntime.InferenceSession:
        bound = _THREAD.bound.get(session, {}).get((shape, outputs))
    return np.empty(shape, np.float32) if bound is None else bound.inputs


def run_network(session: Any, inputs: Floats, name: str, outputs: tuple[str, ...]) -> list[Floats]:
    """Run a session on the float32 input `name`; return copies of the named outputs."""
    if type(session) is not onnxruntime.InferenceSession:
        return _contiguous(session.run(list(outputs), {name: inputs}))
    shapes = _THREAD.bound.setdefault(session, {})
    key = inputs.shape, outputs
    bound = shapes.get(key)
    if bound is None:
        results = session.run(list(outputs), {name: inputs})
        can_bind = inputs.size > 0 and all(array.dtype == np.float32 for array in results)
        if can_bind and len(shapes) < MAX_SHAPES:
            shapes[key] = _bind(session, inputs, name, outputs, results)
        return _contiguous(results)
    if inputs is not bound.inputs:
        bound.inputs[...] = inputs
    session.run_with_iobinding(bound.binding)
    return [array.copy() for array in bound.outputs]


def _contiguous(results: list[npt.NDArray[Any]]) -> list[Floats]:
    return [np.ascontiguousarray(array, dtype=np.float32).reshape(array.shape) for array in results]


def _bind(session: Any, inputs: Floats, name: str, outputs: tuple[str, ...], results: list[Floats]) -> _Bound:
    """Bind new buffers with the shapes of the inputs and results of a run."""
    binding, source = session.io_binding(), np.zeros(inputs.shape, np.float32)
    buffers = [np.zeros(array.shape, np.float32) for array in results]
    binding.bind_input(name, "cpu", 0, np.float32, source.shape, source.ctypes.data)
    for output, buffer in zip(outputs, buffers, strict=True):
        binding.bind_output(output, "cpu", 0, np.float32, buffer.shape, buffer.ctypes.data)
    return _Bound(binding, source, buffers)
