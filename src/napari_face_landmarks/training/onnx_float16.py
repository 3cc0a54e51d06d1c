"""ONNX files with their weights stored as float16: half the size; the sums stay float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np

SMALLEST = 64
"""Tensors of no more values stay as they are, and those with values that float16 has not."""


def store_half(path: Path) -> None:
    """Rewrite an ONNX file so that its large float32 weights are float16 and cast when it is loaded."""
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
        if np.isfinite(half).all():  # a channel that hardly varies may have weights beyond float16
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(half, f"{name}_half"))
            casts.append(onnx.helper.make_node("Cast", [f"{name}_half"], [name], to=onnx.TensorProto.FLOAT))
    for node in reversed(casts):
        model.graph.node.insert(0, node)
    model.doc_string = ""
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
