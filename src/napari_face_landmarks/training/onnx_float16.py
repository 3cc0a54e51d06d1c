"""ONNX files with weights stored as float16, which halves their size; computation remains float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np

SMALLEST = 64
"""Tensors with at most this many values, or with values outside the range of float16, are unchanged."""


def store_half(path: Path) -> None:
    """Rewrite an ONNX file with its large float32 weights as float16 that are cast when it is loaded."""
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
        if np.isfinite(half).all():  # a nearly constant channel may have weights outside float16
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(half, f"{name}_half"))
            casts.append(onnx.helper.make_node("Cast", [f"{name}_half"], [name], to=onnx.TensorProto.FLOAT))
    for node in reversed(casts):
        model.graph.node.insert(0, node)
    model.doc_string = ""
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
