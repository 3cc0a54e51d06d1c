"""CEN patch experts as an ONNX graph: written by the `onnx` package, run by ONNX Runtime on what it has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from napari_face_landmarks.clnf.patch_experts import N_INPUTS, PatchExperts
from napari_face_landmarks.errors import ModelError, in_one_line, reason_of
from napari_face_landmarks.files.onnx_safe import open_network
from napari_face_landmarks.ibug import N_LANDMARKS

Floats32 = npt.NDArray[np.float32]

PROVIDERS = (
    "CUDAExecutionProvider",
    "CoreMLExecutionProvider",
    "DmlExecutionProvider",
    "CPUExecutionProvider",
)
"""What ONNX Runtime may run the experts on, the first that is there."""
LARGEST_FILE = 256 << 20
OPSET, IR_VERSION = 17, 9


@dataclass(frozen=True)
class OnnxExperts(PatchExperts):
    """Patch experts whose responses come from ONNX Runtime; all else is `PatchExperts`.

    Attributes
    ----------
    session : onnxruntime.InferenceSession
        Takes `supports`, (68, n, 121) contrast-normalised, and `set`, the number of scale and view; gives
        `responses`, (68, n).
    """

    session: onnxruntime.InferenceSession


def export_experts(experts: PatchExperts, path: str | Path) -> None:
    """Write all the experts as one ONNX graph.

    Parameters
    ----------
    experts : PatchExperts
    path : str or Path

    Raises
    ------
    ModelError
        If the `onnx` package is not there, or the file cannot be written.
    """
    try:
        import onnx
        from onnx import TensorProto, helper, numpy_helper
    except ImportError:
        raise ModelError(
            'Experts can only be exported with the package onnx: install "napari-face-landmarks[train]".'
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
    graph = helper.make_graph(
        nodes,
        "cen",
        [
            helper.make_tensor_value_info("supports", TensorProto.FLOAT, [N_LANDMARKS, "n", N_INPUTS - 1]),
            helper.make_tensor_value_info("set", TensorProto.INT64, []),
        ],
        [helper.make_tensor_value_info("responses", TensorProto.FLOAT, [N_LANDMARKS, "n"])],
        initialisers,
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="napari-face-landmarks",
    )
    try:
        onnx.save(model, str(path))
    except OSError as error:
        raise ModelError(f"{path} cannot be written ({reason_of(error)}): choose another place.") from None


def load_onnx_experts(
    experts: PatchExperts, path: str | Path, providers: Sequence[str] | None = None
) -> OnnxExperts:
    """Return the experts with an exported graph to run them.

    Parameters
    ----------
    experts : PatchExperts
        What was exported: scales, views and confidences are taken from here.
    path : str or Path
        What `export_experts` wrote.
    providers : sequence of str, optional
        Of ONNX Runtime; the first of `PROVIDERS` that this machine has, and the CPU, where not given.

    Raises
    ------
    ModelError
        If the file is missing, no such graph, or of other experts.
    """
    path = Path(path)
    available = onnxruntime.get_available_providers()
    chosen = list(providers) if providers is not None else [name for name in PROVIDERS if name in available]
    unknown = [name for name in chosen if name not in available]
    if unknown or not chosen:
        raise ModelError(
            f"ONNX Runtime has no {unknown or 'provider'} here: give one of {', '.join(available)}."
        )
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ModelError(f"{path} has more than {LARGEST_FILE >> 20} MB: export the experts again.")
        session = open_network(path.read_bytes(), path, "export the experts again", chosen)
        loaded = OnnxExperts(
            **{each.name: getattr(experts, each.name) for each in fields(PatchExperts)}, session=session
        )
        tried = responses(loaded, 0, 0, np.zeros((N_LANDMARKS, 1, N_INPUTS - 1), np.float32))
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({reason_of(error)}): export the experts again.") from None
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"{path} cannot be run ({in_one_line(error)}): export the experts again.") from None
    expected = _responses_to_nothing(experts)
    if tried.shape != (N_LANDMARKS, 1) or not np.allclose(tried[:, 0], expected, atol=1e-4):
        raise ModelError(f"{path} has other experts than these: export these experts again.")
    return loaded


def responses(experts: OnnxExperts, scale: int, view: int, supports: Floats32) -> Floats32:
    """Return what the experts of a scale and a view respond, (68, n), to (68, n, 121) normalised supports."""
    number = np.array(scale * len(experts.visibility) + view, np.int64)
    inputs: dict[str, Any] = {"supports": supports, "set": number}
    return np.asarray(experts.session.run(["responses"], inputs)[0])


def _responses_to_nothing(experts: PatchExperts) -> Floats32:
    """Return the first experts' responses, (68,), to a flat support."""
    first = np.maximum(experts.w1[0, 0, :, 0], 0)
    second = np.maximum(experts.w2[0, 0, :, 0] + np.einsum("ki,kij->kj", first, experts.w2[0, 0, :, 1:]), 0)
    third = experts.w3[0, 0, :, 0] + np.einsum("ki,ki->k", second, experts.w3[0, 0, :, 1:])
    return np.asarray(1 / (1 + np.exp(-third)))
