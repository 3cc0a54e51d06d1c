"""Run one system of a race on a video and print its times and memory as JSON.

This file is run as a script by the Python of the environment in which the system is installed. Only the
standard library is therefore imported at top level, and this package by ``ours`` only. A custom script takes
the same arguments and prints the same JSON as its last line.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

FACE_MARGIN = 1.1
"""Side of the crop of a landmark network relative to the longer side of the face box."""


def frames_of(path: str, stop: int) -> Iterator[Any]:
    """Yield the first `stop` frames of a video, decoded by OpenCV, as RGB."""
    import cv2

    video = cv2.VideoCapture(path)
    for _ in range(stop):
        decoded, frame = video.read()
        if not decoded:
            break
        yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
    video.release()


def timed(name: str, find: Callable[[Any], Any], path: str, stop: int) -> dict[str, Any]:
    """Time a system; `find` receives each frame and returns a true value if it finds a face."""
    began, busy = time.perf_counter(), time.process_time()
    found = [bool(find(frame)) for frame in frames_of(path, stop)]
    return result(name, len(found), sum(found), time.perf_counter() - began, time.process_time() - busy)


def result(name: str, frames: int, faces: int, seconds: float, cpu_seconds: float) -> dict[str, Any]:
    """Return the fields that a system reports, except the peak memory."""
    return {"name": name, "frames": frames, "faces": faces, "seconds": seconds, "cpu_seconds": cpu_seconds}


def ours(path: str, stop: int, cores: int, settings: str, models: str) -> dict[str, Any]:
    """Track with this package and settings given as JSON."""
    from napari_face_landmarks import FaceTracker

    tracker = FaceTracker(models, json.loads(settings), cores)
    tracker.prepare()
    began, busy = time.perf_counter(), time.process_time()
    tracks = tracker.track(path, stop=stop)
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - busy
    name = f"napari-face-landmarks {version('napari-face-landmarks')}"
    return result(name, len(tracks.landmarks), int(tracks.present.sum()), seconds, cpu_seconds)


def mediapipe(path: str, stop: int, cores: int) -> dict[str, Any]:
    """Track one face with MediaPipe Face Mesh, its models and its defaults for videos."""
    import mediapipe

    with mediapipe.solutions.face_mesh.FaceMesh(max_num_faces=1) as mesh:
        name = f"MediaPipe Face Mesh {version('mediapipe')}"
        return timed(name, lambda frame: mesh.process(frame).multi_face_landmarks, path, stop)


def dlib(path: str, stop: int, cores: int, model: str | None = None) -> dict[str, Any]:
    """Detect faces with dlib and predict their 68 landmarks, on every frame."""
    import dlib

    if model is None:
        import face_recognition_models

        model = face_recognition_models.pose_predictor_model_location()
    detect, predict = dlib.get_frontal_face_detector(), dlib.shape_predictor(model)
    name = f"dlib {dlib.__version__}, detecting on every frame"
    return timed(name, lambda frame: [predict(frame, box) for box in detect(frame)], path, stop)


def pfld(path: str, stop: int, cores: int, model: str, *box: str) -> dict[str, Any]:
    """Run a landmark network on every frame in a fixed face box, x0, y0, x1, y1 in pixels."""
    import cv2
    import numpy
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    network_input = session.get_inputs()[0]
    channels_last = network_input.shape[3] == 3
    side = network_input.shape[2] if isinstance(network_input.shape[2], int) else 112
    x0, y0, x1, y1 = (float(value) for value in box)
    reach = FACE_MARGIN * max(x1 - x0, y1 - y0) / 2
    centre = (x0 + x1) / 2, (y0 + y1) / 2
    scale = side / (2 * reach)
    warp = numpy.array(
        [[scale, 0, side / 2 - scale * centre[0]], [0, scale, side / 2 - scale * centre[1]]], numpy.float32
    )

    def find(frame: Any) -> Any:
        crop = cv2.warpAffine(frame, warp, (side, side)).astype(numpy.float32) / 255
        crop = crop[None] if channels_last else numpy.ascontiguousarray(crop.transpose(2, 0, 1)[None])
        return numpy.isfinite(session.run(None, {network_input.name: crop})[-1]).all()

    return timed(f"{os.path.basename(model)}, box given", find, path, stop)


def peak_mb() -> float | None:
    """Return the peak memory of this process, MB; None if unknown."""
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) / 1e3 for line in status if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return None


def main(system: str, path: str, stop: str, cores: str, *arguments: str) -> None:
    """Pin this process to the first `cores` cores, run a system and print its result."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(cores)])
    systems: dict[str, Callable[..., dict[str, Any]]]
    systems = {"ours": ours, "mediapipe": mediapipe, "dlib": dlib, "pfld": pfld}
    report = systems[system](path, int(stop), int(cores), *arguments)
    print(json.dumps({**report, "peak_mb": peak_mb()}))


if __name__ == "__main__":
    sys.path.pop(0)  # this folder: its modules could shadow those of the system
    main(*sys.argv[1:])
