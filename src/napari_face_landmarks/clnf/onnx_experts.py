"""CEN patch experts as an ONNX graph for ONNX Runtime and its execution providers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from napari_face_landmarks.clnf.openface_experts import AnyExperts
from napari_face_landmarks.clnf.patch_experts import N_INPUTS, PatchExperts
from napari_face_landmarks.errors import ModelError
from napari_face_landmarks.files.onnx_safe import open_network
from napari_face_landmarks.ibug import N_LANDMARKS

Floats32 = npt.NDArray[np.float32]

PROVIDERS = (
    "CUDAExecutionProvider",
    "CoreMLExecutionProvider",
    "DmlExecutionProvider",
    "CPUExecutionProvider",
)
"""Execution providers in order of preference."""
OPSET, IR_VERSION = 17, 9


@dataclass(frozen=True)
class OnnxExperts(PatchExperts):
    """Patch experts evaluated by ONNX Runtime."""

    # inputs: `supports`, (68, n, 121), contrast-normalised, and `set`, the index of scale and view; output:
    # `responses`, (68, n)
    session: onnxruntime.InferenceSession


def experts_graph(experts: PatchExperts) -> bytes:
    """Convert all experts to one serialised ONNX model."""
    try:
        from onnx import TensorProto, helper, numpy_helper
    except ImportError:
        raise ModelError(
            "Running patch experts on ONNX Runtime needs the package onnx: pip install onnx, or "
            'pip install "napari-face-landmarks[onnx]".'
        ) from None
    sets = len(experts.scales) * len(experts.visibility)
    tensors = {
        "w1": experts.w1[..., 1:, :],
        "b1": experts.w1[..., :1, :],
        "w2": experts.w2[..., 1:, :],
        "b2": experts.w2[..., :1, :],
        "w3": experts.w3[..., 1:, None],
        "b3": experts.w3[..., :1, None],
    }
    initialisers = [
        numpy_helper.from_array(np.ascontiguousarray(values).reshape(sets, *values.shape[2:]), name)
        for name, values in tensors.items()
    ]
    initialisers.append(numpy_helper.from_array(np.array([2], np.int64), "last"))
    nodes = [helper.make_node("Gather", [name, "set"], [f"{name}_of_set"], axis=0) for name in tensors]
    values = "supports"
    for layer, activation in ((1, "Relu"), (2, "Relu"), (3, "Sigmoid")):
        nodes += [
            helper.make_node("MatMul", [values, f"w{layer}_of_set"], [f"product{layer}"]),
            helper.make_node("Add", [f"product{layer}", f"b{layer}_of_set"], [f"sum{layer}"]),
            helper.make_node(activation, [f"sum{layer}"], [f"layer{layer}"]),
        ]
        values = f"layer{layer}"
    nodes.append(helper.make_node("Squeeze", [values, "last"], ["responses"]))
    inputs = [
        helper.make_tensor_value_info("supports", TensorProto.FLOAT, [N_LANDMARKS, "n", N_INPUTS - 1]),
        helper.make_tensor_value_info("set", TensorProto.INT64, []),
    ]
    outputs = [helper.make_tensor_value_info("responses", TensorProto.FLOAT, [N_LANDMARKS, "n"])]
    model = helper.make_model(
        helper.make_graph(nodes, "cen", inputs, outputs, initialisers),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="napari-face-landmarks",
    )
    return bytes(model.SerializeToString())


def onnx_experts(experts: AnyExperts, providers: Sequence[str] | None = None) -> OnnxExperts:
    """Convert patch experts for evaluation by ONNX Runtime, on the best available or the given providers."""
    if not isinstance(experts, PatchExperts):
        raise ModelError(
            "OpenFace's patch experts do not run on ONNX Runtime: drop the option, or choose other models."
        )
    available = onnxruntime.get_available_providers()
    chosen = list(providers) if providers else [name for name in PROVIDERS if name in available]
    unknown = [name for name in chosen if name not in available]
    if unknown:
        raise ModelError(f"ONNX Runtime has no provider {unknown[0]!r}: choose from {', '.join(available)}.")
    session = open_network(
        experts_graph(experts), Path("cen.onnx"), "choose another provider", chosen, trusted=True
    )
    arrays = {array.name: getattr(experts, array.name) for array in fields(PatchExperts)}
    return OnnxExperts(**arrays, session=session)


def responses(experts: OnnxExperts, scale: int, view: int, supports: Floats32) -> Floats32:
    """Evaluate the experts of a scale and view on normalised support regions; return (68, n) responses.

    Arrays: `supports` (68, n, 121) float32.
    """
    number = np.array(scale * len(experts.visibility) + view, np.int64)
    inputs: dict[str, Any] = {"supports": supports, "set": number}
    return np.asarray(experts.session.run(["responses"], inputs)[0])
