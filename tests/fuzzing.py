"""Fuzzing of all readers of untrusted files: valid seed files, damaged inputs, and limits of time and memory.

A target is a reader with a few files that it accepts. `damaged` makes inputs from these, by bytes or by
structure (members of archives, cells of tables, entries of JSON, lengths in protocol buffers); `try_one`
reads one and measures it. `python tests/fuzzing.py TARGET COUNT SEED` runs in a separate process, so that
crashes are detected.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import signal
import sys
import tempfile
import time
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from damage import SMALL, damaged, varint
from napari_face_landmarks import TrackerSettings
from napari_face_landmarks.clnf.patch_experts import load_patch_experts
from napari_face_landmarks.clnf.pdm import PDM, load_pdm, save_pdm
from napari_face_landmarks.data.frame import FrameResult, empty_frame
from napari_face_landmarks.data.stats import RunStats
from napari_face_landmarks.data.tracks import Tracks, collect
from napari_face_landmarks.errors import FaceLandmarksError, ResultError
from napari_face_landmarks.files.optional import installed
from napari_face_landmarks.io.formats import FORMATS, format_named
from napari_face_landmarks.models import bundle_folder, load_models
from napari_face_landmarks.models.custom_pfld import load_custom_pfld
from napari_face_landmarks.models.openface_format import read_ccnf, read_cen, read_pdm_text
from napari_face_landmarks.runs.batch import read_settings
from napari_face_landmarks.tracking import read_regions
from openface_files import YAWS, write_ccnf, write_cen, write_pdm

LONGEST = 1.0
"""Maximum processor time for reading a small file, s."""
MAX_MEMORY = 64 << 20
"""Maximum memory that a reader may allocate, bytes."""
HANGS = 120
"""Time after which a reader counts as hanging even on a busy machine, s."""


@dataclass(frozen=True)
class Target:
    """A reader under test.

    Attributes
    ----------
    name : str
    file : str
        File name of the input.
    seeds : callable
        Called with an empty working folder; returns the contents of valid files.
    read : callable
        Reads the file; may raise only a `FaceLandmarksError` with a one-sentence message.
    needs : tuple of str
        Required libraries.
    """

    name: str
    file: str
    seeds: Callable[[Path], list[bytes]]
    read: Callable[[Path], Any]
    needs: tuple[str, ...] = ()

    @property
    def available(self) -> bool:
        """Whether the required libraries are installed."""
        return all(installed(library) for library in self.needs)


@dataclass(frozen=True)
class Outcome:
    """Result of reading one input."""

    read: bool  # whether the input was accepted
    wrong: str  # fault of the reader, or ""
    seconds: float  # processor time
    memory: int  # bytes


def small_tracks(n_faces: int = 2, n_frames: int = 4) -> Tracks:
    """Return tracks with a frame without faces and a face that appears late."""
    rng = np.random.default_rng(1)
    results: list[FrameResult] = []
    for index in range(n_frames):
        result = empty_frame(index, n_faces)
        for face in range(n_faces if index > 1 else 1):
            if index == 1:
                continue
            result.landmarks[face] = rng.uniform(0, 200, (68, 2)).round(2)
            result.confidence[face] = rng.uniform(0, 1, 68).round(3)
            result.source[face], result.pose[face] = 1, rng.normal(size=6)
            result.boxes[face] = (0, 0, 200, 200, 0.9)
        results.append(result)
    return collect(
        results,
        settings=TrackerSettings(max_faces=n_faces),
        stats=RunStats(frames=n_frames),
        timestamps=np.arange(n_frames) / 25,
        warnings=("A warning.",),
        meta={"fps": 25.0, "version": "0", "height": 240, "width": 320},
    )


def small_pdm(n_modes: int = 3) -> PDM:
    rng = np.random.default_rng(2)
    basis = np.linalg.qr(rng.normal(size=(204, n_modes)))[0]
    return PDM(rng.normal(size=(3, 68)) * 40, basis.reshape(3, 68, n_modes), np.linspace(9, 1, n_modes) * 10)


def written(name: str, *writes: Callable[[Path], Any]) -> Callable[[Path], list[bytes]]:
    """Return a function that returns the contents of the files that `writes` write."""

    def seeds(folder: Path) -> list[bytes]:
        contents = []
        for write in writes:
            write(folder / name)
            contents.append((folder / name).read_bytes())
            (folder / name).unlink()
        return contents

    return seeds


def stored(write: Callable[[Path], Any]) -> Callable[[Path], None]:
    """Return a function that writes the same archive uncompressed, so that single bytes can be damaged."""

    def rewrite(path: Path) -> None:
        write(path)
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)

    return rewrite


def save_as(format_name: str, tracks: Tracks) -> Callable[[Path], None]:
    return lambda path: format_named(format_name).write(path, tracks)


def cen_file(path: Path) -> None:
    rng = np.random.default_rng(3)
    np.savez_compressed(
        path,
        scales=np.array([0.25, 0.5]),
        view_centres=np.zeros((3, 3)),
        visibility=np.ones((2, 68), np.uint8),
        w1=np.zeros((2, 107, 122, 1), np.float16),
        w2=rng.normal(size=(2, 107, 2, 1)).astype(np.float16),
        w3=rng.normal(size=(2, 107, 2)).astype(np.float16),
        confidences=np.ones((2, 107), np.float16),
    )


def faces_file(path: Path) -> None:
    from napari_face_landmarks.opencv import cv2

    image = np.random.default_rng(4).integers(0, 255, (24, 20, 3), dtype=np.uint8)
    blob = cv2.imencode(".webp", image, [cv2.IMWRITE_WEBP_QUALITY, 50])[1]
    lossless = cv2.imencode(".webp", image // 64, [cv2.IMWRITE_WEBP_QUALITY, 101])[1]
    webp = np.concatenate([blob.ravel(), lossless.ravel()])
    np.savez(
        path,
        webp=webp,
        offsets=np.array([0, blob.size, webp.size]),
        names=np.array(["a.jpg", "b.jpg"]),
        landmarks=np.random.default_rng(5).uniform(0, 20, (2, 68, 2)).astype(np.float32),
    )


def read_faces_and_pictures(path: Path) -> Any:
    from napari_face_landmarks.evaluation.dataset import picture, read_faces

    faces = read_faces([path])
    return [picture(faces, index) for index in range(min(2, len(faces)))]


REGIONS = {
    "look": [{"box": [120, 80.5, 360, 380], "first": 0, "last": 9}, {"box": [0, 0, 50, 50]}],
    "ignore": [{"box": [500, 0, 640, 200], "last": 40}],
}
DESCRIPTION = {
    "file": "net.onnx",
    "input_range": [0, 1],
    "colours": "RGB",
    "box": "landmarks",
    "box_scale": 1.3,
    "points": 68,
    "sigma": 0.05,
}


def field(number: int, value: int | bytes | str) -> bytes:
    """Return an encoded field of a protocol buffer."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value & (1 << 64) - 1)
    content = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(content)) + content


def tensor(name: str, values: np.ndarray, **changes: Any) -> bytes:
    """Return a TensorProto; `changes` are dims, kind, raw (bytes) and external (a path)."""
    kind = changes.get("kind", {"f": 1, "i": 7}[values.dtype.kind])
    parts = [field(1, int(length)) for length in changes.get("dims", values.shape)]
    parts += [field(2, kind), field(8, name)]
    if "external" in changes:
        parts += [field(13, field(1, "location") + field(2, changes["external"])), field(14, 1)]
    else:
        parts.append(field(9, changes.get("raw", values.tobytes())))
    return b"".join(parts)


def value_info(name: str, shape: list[int | str]) -> bytes:
    dims = b"".join(field(1, field(2 if isinstance(d, str) else 1, d)) for d in shape)
    return field(1, name) + field(2, field(1, field(1, 1) + field(2, dims)))


def node(
    kind: str, inputs: list[str], outputs: list[str], attributes: bytes = b"", domain: str = ""
) -> bytes:
    """Return a NodeProto."""
    parts = [field(1, name) for name in inputs] + [field(2, name) for name in outputs]
    return b"".join(parts) + field(4, kind) + attributes + (field(7, domain) if domain else b"")


def network(
    nodes: list[bytes], tensors: list[bytes], input_shape: list[int | str], more: bytes = b""
) -> bytes:
    """Return an ONNX model with the input `image` and the output `points`."""
    graph = b"".join(field(1, each) for each in nodes) + field(2, "net")
    graph += b"".join(field(5, each) for each in tensors)
    graph += field(11, value_info("image", input_shape)) + field(12, field(1, "points"))
    return field(1, 8) + field(7, graph) + field(8, field(1, "") + field(2, 17)) + more


def small_network() -> bytes:
    """Return a network with 136 outputs, which are products of sums of pixels."""
    nodes = [
        node("GlobalAveragePool", ["image"], ["mean"]),
        node("Reshape", ["mean", "flat"], ["row"]),
        node("MatMul", ["row", "weights"], ["points"]),
    ]
    weights = np.random.default_rng(6).normal(size=(3, 136)).astype(np.float32)
    tensors = [tensor("flat", np.array([1, 3], np.int64)), tensor("weights", weights)]
    return network(nodes, tensors, [1, 3, 32, 32])


@lru_cache
def judge() -> Any:
    return load_models().pfld


def read_description(path: Path) -> Any:
    (path.parent / "net.onnx").write_bytes(small_network())
    return load_custom_pfld(path.parent, judge())


def read_network(path: Path) -> Any:
    (path.parent / "pfld.json").write_text(json.dumps(DESCRIPTION))
    return load_custom_pfld(path.parent, judge())


def read_bundle(path: Path) -> Any:
    for file in bundle_folder("open").iterdir():
        if file.name != path.name and not (path.parent / file.name).exists():
            shutil.copy(file, path.parent)
    return load_models(path.parent)


def read_bundle_network(path: Path) -> Any:
    """Load a bundle with the input as detector, whose checksum is in the model card."""
    from napari_face_landmarks.models.bundle import file_entry

    if not (path.parent / "model_card.json").exists():
        read_bundle(path.parent / "nothing")
    card = json.loads((path.parent / "model_card.json").read_text())
    card["files"][path.name] = file_entry(path)
    (path.parent / "model_card.json").write_text(json.dumps(card))
    return load_models(path.parent)


def journals(folder: Path) -> list[bytes]:
    """Return the checkpoint logs of two short runs, by PFLD with CLNF and by CLNF only."""
    from napari_face_landmarks import FaceTracker
    from napari_face_landmarks.demo import make_demo_clip
    from napari_face_landmarks.runs import CheckpointedRun
    from napari_face_landmarks.video import open_video, write_video

    write_video(folder / "clip.mp4", make_demo_clip(6, 120)[0], fps=25)
    contents = []
    for refine in ("always", "clnf-only"):
        tracker = FaceTracker("open", TrackerSettings(refine=refine, smoothing_window=3), threads=1)
        with open_video(folder / "clip.mp4") as video:
            recording = CheckpointedRun.begin(tracker, video, folder / "j")
            recording.states_before = [2, 4]
            list(recording.run)
            recording.close(remove=False)
        contents.append((folder / "j").read_bytes())
        (folder / "j").unlink()
    (folder / "clip.mp4").unlink()
    return contents


def read_whole_journal(path: Path) -> Any:
    from napari_face_landmarks.runs.checkpoint import read_checkpoint, read_frames

    with open(path, "rb") as stream:
        content = read_checkpoint(stream, 1)
        if content is None:
            raise ResultError(f"{path} has no head.")
        return content, read_frames(stream, 1, content.n_frames)


def as_json(values: Any) -> Callable[[Path], None]:
    return lambda path: path.write_text(json.dumps(values), encoding="utf-8") and None


def result_targets() -> list[Target]:
    """Return a target for every format of results."""
    one, two = small_tracks(1), small_tracks(2)
    found = []
    for item in FORMATS:
        writes = [save_as(item.name, one), save_as(item.name, two)]
        if item.name in ("npz", "pts"):
            writes += [stored(each) for each in writes]
        elif item.name == "deeplabcut-h5":
            writes.append(written_by_deeplabcut)
        suffix = item.suffixes[0]
        found.append(Target(item.name, "in" + suffix, written("x" + suffix, *writes), item.read, item.needs))
    return found


def written_by_deeplabcut(path: Path) -> None:
    """Write a table in the way of DeepLabCut itself, with pickled column names."""
    import pandas as pd

    format_named("deeplabcut-h5").write(path, small_tracks(1))
    table = pd.read_hdf(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table.to_hdf(path, key="df_with_missing", format="table", mode="w")


def card(_: Path) -> list[bytes]:
    return [(bundle_folder("open") / "model_card.json").read_bytes()]


def networks(_: Path) -> list[bytes]:
    return [(bundle_folder("open") / "detector.onnx").read_bytes(), small_network()]


def pdm_file(path: Path) -> None:
    save_pdm(path, small_pdm())


def pdm_text(path: Path) -> None:
    write_pdm(path, small_pdm(2))


def cen_binary(path: Path) -> None:
    write_cen(path, 0.5, yaws=YAWS[:1], widths=(122, 2, 1), activations=(2, 0))


def ccnf_binary(path: Path) -> None:
    write_ccnf(path, 0.5, yaws=YAWS[:1], windows=(3,), neurons=1, hidden={0: list(range(3, 68))})


TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target("card", "model_card.json", card, read_bundle),
        Target("onnx", "detector.onnx", networks, read_bundle_network),
        Target("own-pfld-json", "pfld.json", written("x", as_json(DESCRIPTION)), read_description),
        Target("own-pfld-onnx", "net.onnx", lambda _: [small_network()], read_network),
        Target("pdm", "in.npz", written("x.npz", pdm_file, stored(pdm_file)), load_pdm),
        Target("cen", "in.npz", written("x.npz", cen_file, stored(cen_file)), load_patch_experts),
        Target("openface-pdm", "in.txt", written("x", pdm_text), read_pdm_text),
        Target("openface-cen", "in.dat", written("x", cen_binary), read_cen),
        Target("openface-ccnf", "in.txt", written("x", ccnf_binary), read_ccnf),
        Target("settings", "in.json", written("x", as_json(TrackerSettings().to_dict())), read_settings),
        Target("regions", "in.json", written("x", as_json(REGIONS)), read_regions),
        Target("journal", "in.journal", journals, read_whole_journal),
        Target("faces", "in.npz", written("x.npz", faces_file, stored(faces_file)), read_faces_and_pictures),
        *result_targets(),
    )
}
"""Every reader of untrusted files."""


def _peak_memory(reset: bool) -> int:
    """Return the peak resident memory since the last reset, bytes; 0 if the system does not report it."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    return 0


def try_one(target: Target, content: bytes, folder: Path, *, measured: bool = True) -> Outcome:
    """Read an input and check the reader's error, output, time and memory."""
    path = folder / target.file
    path.write_bytes(content)
    before = _peak_memory(reset=True) if measured else 0
    if measured:
        tracemalloc.start()
    began = time.process_time()
    wrong, read, said = "", False, io.StringIO()
    try:
        with warnings.catch_warnings(record=True), contextlib.redirect_stdout(said):
            warnings.simplefilter("always")
            target.read(path)
        read = True
    except FaceLandmarksError as error:
        sentence = str(error)
        if "\n" in sentence or not sentence.endswith(".") or len(sentence) > 2000:
            wrong = f"no sentence: {sentence[:300]!r}"
    except Exception as error:
        wrong = f"{type(error).__name__}: {str(error)[:300]}"
    seconds = time.process_time() - began
    memory = 0
    if measured:
        memory = max(tracemalloc.get_traced_memory()[1], _peak_memory(reset=False) - before)
        tracemalloc.stop()
    if not wrong and said.getvalue():
        wrong = f"printed {said.getvalue()[:100]!r}"
    if not wrong and seconds > (3 * LONGEST if measured else LONGEST):  # tracing slows down
        wrong = f"took {seconds:.1f} s"
    if not wrong and memory > MAX_MEMORY and len(content) <= SMALL:
        wrong = f"took {memory >> 20} MB for {len(content)} bytes"
    return Outcome(read, wrong, seconds, memory)


def run_target(name: str, count: int, seed: int, keep: Path | None = None) -> dict[str, Any]:
    """Read `count` damaged files and return statistics and faults; keep the first input of each fault."""
    target = TARGETS[name]
    rng = np.random.default_rng([seed, *name.encode()])
    found: dict[str, int] = {}
    total = {"read": 0, "refused": 0, "slowest": 0.0, "largest": 0}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "seeds").mkdir()
        (folder / "work").mkdir()
        seeds = target.seeds(folder / "seeds")
        for content in seeds:  # valid files; also imports and loads what is loaded only once
            outcome = try_one(target, content, folder / "work", measured=False)
            if not outcome.read and content is seeds[0]:
                found[f"whole file not read: {outcome.wrong}"] = 1
        for number in range(count):
            content = damaged(rng, seeds)
            if keep is not None:
                (keep / f"{name}.last").write_bytes(content)
            if hasattr(signal, "alarm"):
                signal.alarm(HANGS)  # ends the process, even in an endless loop of a library
            outcome = try_one(target, content, folder / "work", measured=number % 4 == 0)
            total["read" if outcome.read else "refused"] += 1
            total["slowest"] = max(total["slowest"], outcome.seconds)
            total["largest"] = max(total["largest"], outcome.memory)
            if outcome.wrong:
                found[outcome.wrong] = found.get(outcome.wrong, 0) + 1
                if keep is not None and found[outcome.wrong] == 1:
                    (keep / f"{name}.{len(found)}.{number}").write_bytes(content)
    if hasattr(signal, "alarm"):
        signal.alarm(0)
    if keep is not None:
        (keep / f"{name}.last").unlink(missing_ok=True)
    return {"target": name, "inputs": count, **total, "found": found}


if __name__ == "__main__":
    into = Path(sys.argv[4]) if len(sys.argv) > 4 else None
    print(json.dumps(run_target(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), into)))
