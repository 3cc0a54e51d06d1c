"""Networks run in buffers that stay bound to them: no checks and no allocation in Python at each run."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import onnxruntime

Floats = npt.NDArray[np.float32]

MOST_SHAPES = 4
"""Input shapes of a network whose buffers a thread keeps; others are run without."""


@dataclass(frozen=True, slots=True)
class _Bound:
    """A network's input and outputs for one shape of the input, used by one thread."""

    binding: Any  # onnxruntime.IOBinding
    given: Floats
    found: list[Floats]


class _OfThread(threading.local):
    """The bound networks of a thread, by network, input shape and outputs; they go with the network."""

    def __init__(self) -> None:
        self.bound: WeakKeyDictionary[Any, dict[Any, _Bound]] = WeakKeyDictionary()


_THREAD = _OfThread()


def network_input(session: Any, shape: tuple[int, ...], outputs: tuple[str, ...]) -> Floats:
    """Return an array to write a network's input to, for `run_network` with these outputs to read in place.

    It keeps its content until this thread runs the network on another input of the shape.
    """
    bound = None
    if type(session) is onnxruntime.InferenceSession:
        bound = _THREAD.bound.get(session, {}).get((shape, outputs))
    return np.empty(shape, np.float32) if bound is None else bound.given


def run_network(session: Any, inputs: Floats, name: str, outputs: tuple[str, ...]) -> list[Floats]:
    """Run a session on the float32 input `name`; return copies of the outputs named."""
    if type(session) is not onnxruntime.InferenceSession:
        return _plain(session.run(list(outputs), {name: inputs}))
    shapes = _THREAD.bound.setdefault(session, {})
    key = inputs.shape, outputs
    bound = shapes.get(key)
    if bound is None:
        found = session.run(list(outputs), {name: inputs})
        fits = inputs.size > 0 and all(array.dtype == np.float32 for array in found)
        if fits and len(shapes) < MOST_SHAPES:
            shapes[key] = _bind(session, inputs, name, outputs, found)
        return _plain(found)
    if inputs is not bound.given:
        bound.given[...] = inputs
    session.run_with_iobinding(bound.binding)
    return [array.copy() for array in bound.found]


def _plain(found: list[npt.NDArray[Any]]) -> list[Floats]:
    return [np.ascontiguousarray(array, dtype=np.float32).reshape(array.shape) for array in found]


def _bind(session: Any, inputs: Floats, name: str, outputs: tuple[str, ...], found: list[Floats]) -> _Bound:
    """Bind buffers of the shapes that a run has shown."""
    binding, given = session.io_binding(), np.zeros(inputs.shape, np.float32)
    buffers = [np.zeros(array.shape, np.float32) for array in found]
    binding.bind_input(name, "cpu", 0, np.float32, given.shape, given.ctypes.data)
    for output, buffer in zip(outputs, buffers, strict=True):
        binding.bind_output(output, "cpu", 0, np.float32, buffer.shape, buffer.ctypes.data)
    return _Bound(binding, given, buffers)
