"""Custom landmark networks: an ONNX file with a ``pfld.json`` that describes how to run it.

.. code-block:: json

    {"file": "pfld.onnx", "input_range": [0, 1], "colours": "RGB",
     "box": "face", "box_scale": 1.1, "points": 68}

======================= ============================================================================
entry                   meaning
======================= ============================================================================
``file``                the ONNX file's name, in the same folder
``input_range``         values of black and white: [0, 1] or [-1, 1]
``colours``             "RGB" or "BGR"
``box``                 what the crop is based on: "face", a detector's box from forehead to chin, or
                        "landmarks", the bounding box of the landmarks
``box_scale``           side of the square crop divided by the longer side of the box, 0.5 to 3
``points``              68 (iBUG), or 98 (WFLW), which are converted to 68
``sigma``               optional: standard deviation of a landmark in inter-ocular distances
======================= ============================================================================

The input of the network is a square of fixed size with three channels, first or last; one of its outputs
contains x and y of each point, interleaved, relative to the crop ([0, 1]).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from napari_face_landmarks.errors import ModelError, in_one_line, os_errors_as
from napari_face_landmarks.files.json_file import read_json
from napari_face_landmarks.files.onnx_safe import open_network
from napari_face_landmarks.files.paths import check_inside
from napari_face_landmarks.pfld.custom import UNKNOWN_SIGMA, CustomPfld

DESCRIPTION = "pfld.json"
_MAX_DESCRIPTION_BYTES = 1 << 16
_MAX_NETWORK_BYTES = 256 << 20
_MAX_SIDE = 512  # px
RANGES = ([0, 1], [-1, 1])
COLOURS = ("RGB", "BGR")
BOXES = ("face", "landmarks")
SCHEMES = (68, 98)


def load_custom_pfld(folder: Path, scorer: onnxruntime.InferenceSession) -> CustomPfld:
    """Load the network that a folder's ``pfld.json`` describes and run it once.

    `scorer` is the default bundle's PFLD, which computes the face score.
    """
    path = folder / DESCRIPTION
    entries = _read(path)
    _check(path, entries)
    network = folder / entries["file"]
    session = _session(network)
    size, channels_last, batches = _input(network, session)
    return CustomPfld(
        session=session,
        scorer=scorer,
        output=_output(network, session, size, channels_last, entries["points"]),
        size=size,
        channels_last=channels_last,
        batches=batches,
        low=float(entries["input_range"][0]),
        high=float(entries["input_range"][1]),
        bgr=entries["colours"] == "BGR",
        box=entries["box"],
        box_scale=float(entries["box_scale"]),
        points=entries["points"],
        sigma=float(entries.get("sigma", UNKNOWN_SIGMA)),
    )


def custom_files(folder: Path) -> tuple[str, str]:
    """Return the names of the two files that `load_custom_pfld` reads."""
    return DESCRIPTION, str(_read(folder / DESCRIPTION)["file"])


def _read(path: Path) -> dict[str, Any]:
    check_inside(path, path.parent)
    hint = "correct the file, which must have the documented entries only"
    entries = read_json(path, "a description in JSON", _MAX_DESCRIPTION_BYTES, ModelError, hint)
    if not isinstance(entries, dict):
        raise ModelError(
            f"{path} is not a JSON object: give one with file, input_range, colours, box, box_scale and "
            "points."
        )
    return entries


def _check(path: Path, entries: dict[str, Any]) -> None:
    def number(value: Any, low: float, high: float) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high

    name = entries.get("file")
    checks = {
        "file": (
            isinstance(name, str) and name.endswith(".onnx") and Path(name).name == name,
            "the name of an .onnx file in the same folder",
        ),
        "input_range": (entries.get("input_range") in RANGES, "[0, 1] or [-1, 1]"),
        "colours": (entries.get("colours") in COLOURS, '"RGB" or "BGR"'),
        "box": (entries.get("box") in BOXES, '"face" or "landmarks"'),
        "box_scale": (number(entries.get("box_scale"), 0.5, 3.0), "a number from 0.5 to 3"),
        "points": (entries.get("points") in SCHEMES and not isinstance(entries["points"], bool), "68 or 98"),
        "sigma": ("sigma" not in entries or number(entries["sigma"], 0.001, 1.0), "a number from 0.001 to 1"),
    }
    for entry, (valid, expected) in checks.items():
        if not valid:
            problem = f"is {entries[entry]!r:.60}" if entry in entries else "is missing"
            raise ModelError(f"{path}: {entry} {problem}, give {expected}.")
    unknown = sorted(set(entries) - set(checks))
    if unknown:
        raise ModelError(f"{path} has the unknown entry {unknown[0]!r:.60}: give {', '.join(checks)}.")


def _session(path: Path) -> onnxruntime.InferenceSession:
    check_inside(path, path.parent)
    with os_errors_as(ModelError, f"{path} cannot be read", "put the network there"):
        if path.stat().st_size > _MAX_NETWORK_BYTES:
            raise ModelError(f"{path} has more than {_MAX_NETWORK_BYTES >> 20} MB: give a smaller network.")
        content = path.read_bytes()
    return open_network(content, path, "export it again")


def _input(path: Path, session: onnxruntime.InferenceSession) -> tuple[int, bool, bool]:
    """Return the side of the input, whether its channels are last, and whether it accepts batches."""
    inputs = session.get_inputs()
    shape = list(inputs[0].shape) if len(inputs) == 1 and inputs[0].type == "tensor(float)" else []
    for channels_last in (False, True):
        if len(shape) == 4:
            channels, sides = (shape[3], shape[1:3]) if channels_last else (shape[1], shape[2:])
            square = isinstance(sides[0], int) and sides[0] == sides[1] and 16 <= sides[0] <= _MAX_SIDE
            if channels == 3 and square:
                return int(sides[0]), channels_last, not isinstance(shape[0], int)
    raise ModelError(
        f"{path} has inputs of the shapes {[item.shape for item in inputs]}: give a network with one float32 "
        "input, a square of fixed size with three channels."
    )


def _output(
    path: Path, session: onnxruntime.InferenceSession, size: int, channels_last: bool, points: int
) -> str:
    """Return the name of the output with the landmarks, found by running the network on a grey crop."""
    shape = (1, size, size, 3) if channels_last else (1, 3, size, size)
    name = session.get_inputs()[0].name
    try:
        outputs = session.run(None, {name: np.full(shape, 0.5, np.float32)})
    except Exception as error:
        raise ModelError(f"{path} cannot be run ({in_one_line(error)}): export it again.") from None
    names = [item.name for item in session.get_outputs()]
    for output, values in zip(names, outputs, strict=True):
        if isinstance(values, np.ndarray) and values.dtype.kind == "f" and values.size == 2 * points:
            if not np.isfinite(values).all():
                raise ModelError(f"{path} returns values that are not finite: export it again.")
            return str(output)
    sizes = ", ".join(str(np.shape(values)) for values in outputs)
    raise ModelError(
        f"{path} has outputs of the shapes {sizes}, none with {points} x 2 values: correct points in "
        f"{DESCRIPTION}, or export the network again."
    )
