"""Opening of untrusted ONNX files: validated before ONNX Runtime reads them, and run in bounded memory.

An ONNX file (https://onnx.ai/onnx/repo-docs/IR.html) may refer to other files, declare weights that it does
not contain, and have infinite loops. Everything that a landmark network does not need is refused.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import onnxruntime

from napari_face_landmarks.errors import ModelError, in_one_line

MAX_FIELDS = 500_000
MAX_MEMORY = 512 << 20
"""Maximum number of bytes that all networks of untrusted files together may use at run time."""
PLAIN_DOMAINS = (b"", b"ai.onnx")

# field numbers of onnx.proto
_MODEL_GRAPH, _MODEL_TRAINING, _MODEL_FUNCTIONS = 7, 20, 25
_GRAPH_NODE, _GRAPH_TENSOR, _GRAPH_SPARSE = 1, 5, 15
_NODE_ATTRIBUTE, _NODE_DOMAIN = 5, 7
_ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS, _ATTRIBUTE_SPARSE = (5, 10), (6, 11), (22, 23)
_TENSOR_DIMS, _TENSOR_EXTERNAL, _TENSOR_LOCATION = 1, 13, 14

_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5

_limit_lock = threading.Lock()
_limit_is_set = False


class _Invalid(Exception):
    """The reason why a file is refused, for use in a sentence."""


def open_network(
    content: bytes,
    path: Path,
    hint: str,
    providers: Sequence[str] = ("CPUExecutionProvider",),
    trusted: bool = False,
) -> onnxruntime.InferenceSession:
    """Open a network that runs on one thread; it is validated and limited in memory unless `trusted`.

    `path` and `hint`, an instruction for the user, are for error messages.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # allocate weights outside the arena, memory they would take twice their size
    options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    disabled = []
    if not trusted:
        check_network(content, path, hint)
        _limit_memory()
        options.add_session_config_entry("session.use_env_allocators", "1")
        disabled = ["ConstantFolding"]  # the memory limit does not apply while a network is opened
    try:
        return onnxruntime.InferenceSession(
            content,
            options,
            providers=list(providers),
            disabled_optimizers=disabled,
            enable_fallback=0,  # the fallback prints, and opens the file again with other options
        )
    except Exception as error:
        raise ModelError(f"{path} is not a usable ONNX model ({in_one_line(error)}): {hint}.") from None


def check_network(content: bytes, path: Path, hint: str) -> None:
    """Raise a `ModelError` if an ONNX file contains anything that a landmark network does not need."""
    try:
        _check_model(memoryview(content))
    except _Invalid as reason:
        raise ModelError(f"{path} is not a usable ONNX model ({reason}): {hint}.") from None


def _check_model(content: memoryview) -> None:
    left = [MAX_FIELDS]
    graphs = 0
    for number, value in _fields(content, left):
        if number in (_MODEL_TRAINING, _MODEL_FUNCTIONS):
            raise _Invalid("it has functions or training information")
        if number == _MODEL_GRAPH:
            graphs += 1
            _check_graph(_message(value), left)
    if graphs != 1:
        raise _Invalid("it does not have exactly one graph")


def _check_graph(graph: memoryview, left: list[int]) -> None:
    for number, value in _fields(graph, left):
        if number == _GRAPH_SPARSE:
            raise _Invalid("it has sparse weights")
        if number == _GRAPH_TENSOR:
            _check_tensor(_message(value), left)
        elif number == _GRAPH_NODE:
            for entry, content in _fields(_message(value), left):
                if entry == _NODE_DOMAIN and bytes(_message(content)) not in PLAIN_DOMAINS:
                    raise _Invalid("it has operators that are not part of ONNX")
                if entry == _NODE_ATTRIBUTE:
                    _check_attribute(_message(content), left)


def _check_attribute(attribute: memoryview, left: list[int]) -> None:
    for number, value in _fields(attribute, left):
        if number in _ATTRIBUTE_GRAPHS:
            raise _Invalid("it has branches or loops")
        if number in _ATTRIBUTE_SPARSE:
            raise _Invalid("it has sparse weights")
        if number in _ATTRIBUTE_TENSORS:
            _check_tensor(_message(value), left)


def _check_tensor(tensor: memoryview, left: list[int]) -> None:
    declared = 1
    for number, value in _fields(tensor, left):
        if number == _TENSOR_EXTERNAL or (number == _TENSOR_LOCATION and value != 0):
            raise _Invalid("it has weights in other files")
        if number == _TENSOR_DIMS:
            lengths = [value] if isinstance(value, int) else list(_varints(value))
            for length in lengths:
                declared *= length
    if declared > 2 * len(tensor):  # the smallest dtype of ONNX has four bits
        raise _Invalid("it declares more weights than it contains")


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise _Invalid("its fields are damaged")
    return value


def _fields(content: memoryview, left: list[int]) -> Iterator[tuple[int, int | memoryview]]:
    """Yield the number and value of each field of a message; `left` is the number of fields still allowed."""
    position = 0
    while position < len(content):
        left[0] -= 1
        if left[0] < 0:
            raise _Invalid("it has too many fields")
        tag, position = _varint(content, position)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, position = _varint(content, position)
            yield number, value
            continue
        if kind == _BYTES:
            size, position = _varint(content, position)
        elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
            size = 8 if kind == _EIGHT_BYTES else 4
        else:
            raise _Invalid("its fields are damaged")
        if size > len(content) - position:
            raise _Invalid("its fields are damaged")
        yield number, content[position : position + size]
        position += size


def _varints(content: memoryview) -> Iterator[int]:
    position = 0
    while position < len(content):
        value, position = _varint(content, position)
        yield value


def _varint(content: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(content):
            break
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise _Invalid("its fields are damaged")


def _limit_memory() -> None:
    """Limit the memory of ONNX Runtime's shared allocator, which sessions of untrusted files use."""
    global _limit_is_set
    with _limit_lock:
        if not _limit_is_set:
            kinds: Any = onnxruntime.OrtAllocatorType, onnxruntime.OrtMemType
            memory = onnxruntime.OrtMemoryInfo("Cpu", kinds[0].ORT_ARENA_ALLOCATOR, 0, kinds[1].DEFAULT)
            as_requested = 1
            bounds = {"max_mem": MAX_MEMORY, "arena_extend_strategy": as_requested}
            onnxruntime.create_and_register_allocator(memory, onnxruntime.OrtArenaCfg(bounds))
            _limit_is_set = True
