"""ONNX networks from untrusted files: looked over before ONNX Runtime gets them, and run in bounded memory.

An ONNX file is a protocol buffer (https://onnx.ai/onnx/repo-docs/IR.html). It may name other files that hold
its weights, claim weights that it does not have, and contain branches and loops without end. Here its fields
are walked through without being unpacked, and what a landmark network has no use for is refused.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import onnxruntime

from napari_face_landmarks.errors import ModelError, in_one_line

MOST_FIELDS = 500_000
MOST_MEMORY = 512 << 20
"""Bytes that all networks of untrusted files may use together while they run."""
PLAIN_DOMAINS = (b"", b"ai.onnx")

# numbers of fields in onnx.proto
_MODEL_GRAPH, _MODEL_TRAINING, _MODEL_FUNCTIONS = 7, 20, 25
_GRAPH_NODE, _GRAPH_TENSOR, _GRAPH_SPARSE = 1, 5, 15
_NODE_ATTRIBUTE, _NODE_DOMAIN = 5, 7
_ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS, _ATTRIBUTE_SPARSE = (5, 10), (6, 11), (22, 23)
_TENSOR_DIMS, _TENSOR_EXTERNAL, _TENSOR_LOCATION = 1, 13, 14

_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5

_room = threading.Lock()
_room_is_set = False


class _Refused(Exception):
    """What is wrong with a file, as the end of a sentence that begins with its name."""


def open_network(
    content: bytes,
    path: Path,
    again: str,
    providers: Sequence[str] = ("CPUExecutionProvider",),
    trusted: bool = False,
) -> onnxruntime.InferenceSession:
    """Open a network, which runs on one thread; one of an untrusted file in bounded memory.

    Parameters
    ----------
    content : bytes
        The whole file.
    path : Path
        Its name, for sentences.
    again : str
        What the sentence tells the user to do.
    providers : sequence of str
        Of ONNX Runtime.
    trusted : bool
        Whether the file is known to be one of the plugin's own: it is neither looked over nor bounded.

    Raises
    ------
    ModelError
        If it is no network, or an untrusted one that reaches out of its file or has loops, functions or
        operations of others.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # the weights apart from the arena, which would take twice their size
    options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    left_out = []
    if not trusted:
        check_network(content, path, again)
        _limit_memory()
        options.add_session_config_entry("session.use_env_allocators", "1")
        left_out = ["ConstantFolding"]  # while a network is opened, no memory limit holds
    try:
        return onnxruntime.InferenceSession(
            content,
            options,
            providers=list(providers),
            disabled_optimizers=left_out,
            enable_fallback=0,  # which prints, and opens the file again with other options
        )
    except Exception as error:
        raise ModelError(f"{path} is no usable ONNX model ({in_one_line(error)}): {again}.") from None


def check_network(content: bytes, path: Path, again: str) -> None:
    """Refuse an ONNX file with anything that a landmark network has no use for.

    Parameters
    ----------
    content : bytes
        The whole file.
    path : Path
        Its name, for sentences.
    again : str
        What the sentence tells the user to do.

    Raises
    ------
    ModelError
        If the file is no protocol buffer, keeps weights in other files, claims more weights than it has, or
        has branches, loops, functions or operations of other domains.
    """
    try:
        _check_model(memoryview(content))
    except _Refused as reason:
        raise ModelError(f"{path} is no usable ONNX model ({reason}): {again}.") from None


def _check_model(content: memoryview) -> None:
    left = [MOST_FIELDS]
    graphs = 0
    for number, value in _fields(content, left):
        if number in (_MODEL_TRAINING, _MODEL_FUNCTIONS):
            raise _Refused("it has functions or training of its own")
        if number == _MODEL_GRAPH:
            graphs += 1
            _check_graph(_part(value), left)
    if graphs != 1:
        raise _Refused("it has no network")


def _check_graph(graph: memoryview, left: list[int]) -> None:
    for number, value in _fields(graph, left):
        if number == _GRAPH_SPARSE:
            raise _Refused("it has sparse weights")
        if number == _GRAPH_TENSOR:
            _check_tensor(_part(value), left)
        elif number == _GRAPH_NODE:
            for entry, of_node in _fields(_part(value), left):
                if entry == _NODE_DOMAIN and bytes(_part(of_node)) not in PLAIN_DOMAINS:
                    raise _Refused("it has operations that are not ONNX's own")
                if entry == _NODE_ATTRIBUTE:
                    _check_attribute(_part(of_node), left)


def _check_attribute(attribute: memoryview, left: list[int]) -> None:
    for number, value in _fields(attribute, left):
        if number in _ATTRIBUTE_GRAPHS:
            raise _Refused("it has branches or loops")
        if number in _ATTRIBUTE_SPARSE:
            raise _Refused("it has sparse weights")
        if number in _ATTRIBUTE_TENSORS:
            _check_tensor(_part(value), left)


def _check_tensor(tensor: memoryview, left: list[int]) -> None:
    claimed = 1
    for number, value in _fields(tensor, left):
        if number == _TENSOR_EXTERNAL or (number == _TENSOR_LOCATION and value != 0):
            raise _Refused("it keeps weights in other files")
        if number == _TENSOR_DIMS:
            lengths = [value] if isinstance(value, int) else list(_varints(value))
            for length in lengths:
                claimed *= length
    if claimed > 2 * len(tensor):  # the smallest numbers of ONNX have four bits
        raise _Refused("it claims more weights than it has")


def _part(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise _Refused("its fields are damaged")
    return value


def _fields(content: memoryview, left: list[int]) -> Iterator[tuple[int, int | memoryview]]:
    """Yield number and value of each field of a message; `left` counts down how many may still come."""
    place = 0
    while place < len(content):
        left[0] -= 1
        if left[0] < 0:
            raise _Refused("it has too many fields")
        tag, place = _varint(content, place)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, place = _varint(content, place)
            yield number, value
            continue
        if kind == _BYTES:
            size, place = _varint(content, place)
        elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
            size = 8 if kind == _EIGHT_BYTES else 4
        else:
            raise _Refused("its fields are damaged")
        if size > len(content) - place:
            raise _Refused("its fields are damaged")
        yield number, content[place : place + size]
        place += size


def _varints(content: memoryview) -> Iterator[int]:
    place = 0
    while place < len(content):
        value, place = _varint(content, place)
        yield value


def _varint(content: memoryview, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(content):
            break
        byte = content[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise _Refused("its fields are damaged")


def _limit_memory() -> None:
    """Bound the memory of the sessions that share ONNX Runtime's allocator: those of untrusted files."""
    global _room_is_set
    with _room:
        if not _room_is_set:
            kinds: Any = onnxruntime.OrtAllocatorType, onnxruntime.OrtMemType
            where = onnxruntime.OrtMemoryInfo("Cpu", kinds[0].ORT_ARENA_ALLOCATOR, 0, kinds[1].DEFAULT)
            exactly_as_asked = 1
            bounds = {"max_mem": MOST_MEMORY, "arena_extend_strategy": exactly_as_asked}
            onnxruntime.create_and_register_allocator(where, onnxruntime.OrtArenaCfg(bounds))
            _room_is_set = True
