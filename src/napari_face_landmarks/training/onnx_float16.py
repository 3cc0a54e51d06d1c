"""Export to ONNX with weights stored as float16, which halves the file; computation remains in float32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime

from napari_face_landmarks.files.atomic import replacing
from napari_face_landmarks.files.onnx_safe import open_network

if TYPE_CHECKING:
    from torch import Tensor, nn

SMALLEST = 64
"""Tensors with at most this many values remain float32, as do values outside the range of float16."""


def store_half(path: Path) -> None:
    """Rewrite an ONNX file with large float32 weights stored as float16 and cast by the graph."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(path))
    casts = []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size <= SMALLEST:
            continue
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if np.isfinite(half).all():  # nearly constant channels may have weights outside the range
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(half, f"{name}_half"))
            casts.append(onnx.helper.make_node("Cast", [f"{name}_half"], [name], to=onnx.TensorProto.FLOAT))
    for node in reversed(casts):
        model.graph.node.insert(0, node)
    model.doc_string = ""
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def export(
    network: nn.Module,
    example: Tensor,
    path: Path,
    name: str,
    outputs: Sequence[str],
    axes: Mapping[str, Mapping[int, str]],
) -> None:
    """Write a network as ONNX with float16 weights, atomically; `axes` has the names of dynamic axes."""
    import torch

    with replacing(path) as temporary:
        torch.onnx.export(
            network.eval(),
            (example,),
            str(temporary),
            input_names=[name],
            output_names=list(outputs),
            dynamic_axes=dict(axes),
            opset_version=17,
            dynamo=False,
        )
        store_half(temporary)


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """Open a network of a training run in ONNX Runtime."""
    return open_network(path.read_bytes(), path, "train it again", trusted=True)
