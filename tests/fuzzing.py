"""Untrusted files for every reader: small whole ones, ways to damage them, and the limits that readers keep.

A target is a reader with a few files that it accepts. `damaged` makes inputs of these, by bytes or with the
structure in mind (members of archives, cells of tables, entries of JSON, lengths in protocol buffers), and
`try_one` reads one and measures it. `python tests/fuzzing.py TARGET COUNT SEED` does so in a process of its
own, so that what breaks the process is seen as well.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import signal
import struct
import sys
import tempfile
import time
import tracemalloc
import warnings
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from napari_face_landmarks import TrackerSettings
from napari_face_landmarks.batch.many import read_settings
from napari_face_landmarks.clnf.patch_experts import load_patch_experts
from napari_face_landmarks.clnf.pdm import PDM, load_pdm, save_pdm
from napari_face_landmarks.errors import FaceLandmarksError, ResultError
from napari_face_landmarks.export.formats import FORMATS, format_named
from napari_face_landmarks.export.hdf5 import MAGIC
from napari_face_landmarks.export.optional import installed
from napari_face_landmarks.models import bundle_folder, load_models
from napari_face_landmarks.models.openface_format import read_ccnf, read_cen, read_pdm_text
from napari_face_landmarks.models.own_pfld import load_own_pfld
from napari_face_landmarks.tracking import read_regions
from napari_face_landmarks.tracking.results import FrameResult, RunStats, Tracks, collect, empty_frame
from openface_files import YAWS, write_ccnf, write_cen, write_pdm

LONGEST = 1.0
"""Seconds of processor time that a reader may take over a small file."""
MOST_MEMORY = 64 << 20
"""Bytes that it may allocate beyond what there was."""
HANGS = 120
"""Seconds after which a reader is taken to hang, on a machine however busy."""
SMALL = 64 << 10
"""Bytes of a small file; larger inputs are cut."""


@dataclass(frozen=True)
class Target:
    """A reader under test.

    Attributes
    ----------
    name : str
    file : str
        The name that the input's file gets.
    seeds : callable
        Returns whole files, given an empty folder to work in.
    read : callable
        Reads the file; what it raises has to be a `FaceLandmarksError` in one sentence.
    needs : tuple of str
        Libraries.
    """

    name: str
    file: str
    seeds: Callable[[Path], list[bytes]]
    read: Callable[[Path], Any]
    needs: tuple[str, ...] = ()

    @property
    def available(self) -> bool:
        """Whether its libraries are installed."""
        return all(installed(library) for library in self.needs)


@dataclass(frozen=True)
class Outcome:
    """What reading one input gave: what was wrong with how the reader took it, or nothing."""

    read: bool
    wrong: str
    seconds: float
    memory: int


def small_tracks(n_faces: int = 2, n_frames: int = 4) -> Tracks:
    """Return tracks with a frame without faces and one face that comes late."""
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
    """Return a maker of seeds: the files that each of `writes` writes."""

    def seeds(folder: Path) -> list[bytes]:
        contents = []
        for write in writes:
            write(folder / name)
            contents.append((folder / name).read_bytes())
            (folder / name).unlink()
        return contents

    return seeds


def stored(write: Callable[[Path], Any]) -> Callable[[Path], None]:
    """Return a writer of the same archive without compression, so that single bytes can be damaged."""

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
    import cv2

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
    from napari_face_landmarks.evaluation.labelled import picture, read_faces

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


def varint(number: int) -> bytes:
    out = bytearray()
    while True:
        out.append(number & 0x7F | (0x80 if number > 0x7F else 0))
        number >>= 7
        if not number:
            return bytes(out)


def field(number: int, value: int | bytes | str) -> bytes:
    """Return a field of a protocol buffer."""
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
    """Return a network whose 136 numbers are products of the pixels' sums."""
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
    return load_own_pfld(path.parent, judge())


def read_network(path: Path) -> Any:
    (path.parent / "pfld.json").write_text(json.dumps(DESCRIPTION))
    return load_own_pfld(path.parent, judge())


def read_bundle(path: Path) -> Any:
    for file in bundle_folder("open").iterdir():
        if file.name != path.name and not (path.parent / file.name).exists():
            shutil.copy(file, path.parent)
    return load_models(path.parent)


def read_bundle_network(path: Path) -> Any:
    """Load a bundle whose detector is the input, for which its card vouches."""
    from napari_face_landmarks.models.bundle import file_entry

    if not (path.parent / "model_card.json").exists():
        read_bundle(path.parent / "nothing")
    card = json.loads((path.parent / "model_card.json").read_text())
    card["files"][path.name] = file_entry(path)
    (path.parent / "model_card.json").write_text(json.dumps(card))
    return load_models(path.parent)


def journals(folder: Path) -> list[bytes]:
    """Return the journals of two short runs over a face, by PFLD and CLNF and by CLNF alone."""
    from napari_face_landmarks import FaceTracker
    from napari_face_landmarks.batch import Recording
    from napari_face_landmarks.demo import make_demo_clip
    from napari_face_landmarks.video import open_video, write_video

    write_video(folder / "clip.mp4", make_demo_clip(6, 120)[0], fps=25)
    contents = []
    for refine in ("always", "clnf-only"):
        tracker = FaceTracker("open", TrackerSettings(refine=refine, smoothing_window=3), threads=1)
        with open_video(folder / "clip.mp4") as video:
            recording = Recording.begin(tracker, video, folder / "j")
            list(recording.results([2, 4]))
            recording.close(remove=False)
        contents.append((folder / "j").read_bytes())
        (folder / "j").unlink()
    (folder / "clip.mp4").unlink()
    return contents


def read_whole_journal(path: Path) -> Any:
    from napari_face_landmarks.batch.journal import read_frames, read_journal

    with open(path, "rb") as stream:
        content = read_journal(stream, 1)
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
    """Write a table as DeepLabCut itself does, with the names of its columns in pickles."""
    import pandas as pd

    format_named("deeplabcut-h5").write(path, small_tracks(1))
    table = pd.read_hdf(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table.to_hdf(path, key="df_with_missing", format="table", mode="w")


def classic_netcdf(path: Path) -> None:
    from napari_face_landmarks.export import to_xarray

    dataset = to_xarray(small_tracks(1))[["position", "confidence"]]
    dataset = dataset.drop_vars("frame").assign_coords(time=np.arange(dataset.sizes["time"], dtype=np.int32))
    dataset.to_netcdf(path, engine="scipy", format="NETCDF3_64BIT")


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
        Target(
            "netcdf-classic",
            "in.nc",
            written("x.nc", classic_netcdf),
            format_named("movement").read,
            ("xarray", "h5netcdf"),
        ),
        *result_targets(),
    )
}
"""Every reader of untrusted files."""


# damage


NUMBERS = (
    -1,
    0,
    1,
    2,
    7,
    68,
    255,
    1 << 15,
    1 << 16,
    (1 << 31) - 1,
    1 << 31,
    123456789,
    1 << 40,
    (1 << 63) - 1,
)
WORDS = (
    "",
    " ",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "-1",
    "0",
    "1",
    "68",
    "999",
    "2147483648",
    "9" * 40,
    "0x10",
    "1_0",
    "١٢",
    "none",
    "pfld",
    "true",
    "null",
    '"',
    "'",
    "\\",
    "\n",
    "\r",
    "\0",
    ",",
    ",,,,",
    "{",
    "[",
    "\ufeff",
    "💥",
    "../../etc/passwd",
    "a" * 5000,
)


def damaged(rng: np.random.Generator, seeds: list[bytes]) -> bytes:
    """Return one of the files, or two of them mixed, damaged in one to three ways."""
    content = seeds[int(rng.integers(len(seeds)))]
    for _ in range(int(rng.integers(1, 4))):
        ways = [_bytes, _bytes, _numbers, _pieces, _cut]
        if content[:2] == b"PK":
            ways += [_members] * 6
        elif content[:4] == b"NFLJ":
            ways += [_records] * 8
        elif content[:8] == MAGIC:  # bytes alone break it before anything of ours is reached
            ways += [_datasets] * 16
        elif _is_text(content):
            ways += [_words] * 4 + [_lines] * 3
            if content.lstrip()[:1] in b"{[" and content.strip():
                ways += [_json] * 4
        content = ways[int(rng.integers(len(ways)))](rng, content)
    return content[:SMALL] if len(content) > SMALL and len(content) > 2 * max(map(len, seeds)) else content


def _is_text(content: bytes) -> bool:
    return b"\0" not in content[:200] and all(c < 127 for c in content[:200])


def _place(rng: np.random.Generator, content: bytes) -> int:
    most = len(content) if rng.random() < 0.5 else min(len(content), 600)
    return int(rng.integers(max(most, 1)))


def _bytes(rng: np.random.Generator, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(int(rng.integers(1, 12)) if changed else 0):
        at = _place(rng, content)
        bit = 1 << int(rng.integers(8))
        changed[at] = int(rng.integers(256)) if rng.random() < 0.7 else changed[at] ^ bit
    return bytes(changed)


def _numbers(rng: np.random.Generator, content: bytes) -> bytes:
    at, number = _place(rng, content), NUMBERS[int(rng.integers(len(NUMBERS)))]
    form = ("<b", "<h", "<i", "<q", ">i", ">q", "<f", "<d", "varint")[int(rng.integers(9))]
    if form == "varint":
        packed = varint(number & (1 << 64) - 1)
    elif form in ("<f", "<d"):
        packed = struct.pack(form, (np.nan, np.inf, 1e30, -1.0, 0.0)[int(rng.integers(5))])
    else:
        bits = 8 * struct.calcsize(form)
        packed = struct.pack(form.upper(), number & (1 << bits) - 1)
    return content[:at] + packed + content[at + (len(packed) if rng.random() < 0.8 else 0) :]


def _pieces(rng: np.random.Generator, content: bytes) -> bytes:
    a, b, size = _place(rng, content), _place(rng, content), int(rng.integers(1, 200))
    kind = rng.integers(4)
    if kind == 0:
        return content[:a] + content[a + size :]
    if kind == 1:
        return content[:a] + content[b : b + size] + content[a:]
    if kind == 2:
        return content[:a] + content[b : b + size] * int(rng.integers(2, 40)) + content[a:]
    return content[:a] + bytes(size) + content[a + size :]


def _cut(rng: np.random.Generator, content: bytes) -> bytes:
    if rng.random() < 0.5:
        return content[: _place(rng, content)]
    return content + rng.bytes(int(rng.integers(1, 99)))


def _words(rng: np.random.Generator, content: bytes) -> bytes:
    """Replace what stands between separators by words that readers stumble over."""
    text = content.decode("utf-8", "replace")
    for _ in range(int(rng.integers(1, 4))):
        separator = (",", " ", "\n", '"', ":")[int(rng.integers(5))]
        cells = text.split(separator)
        at = int(rng.integers(min(len(cells), 400) if rng.random() < 0.7 else len(cells)))
        cells[at] = WORDS[int(rng.integers(len(WORDS)))]
        text = separator.join(cells)
    return text.encode("utf-8", "replace")


def _lines(rng: np.random.Generator, content: bytes) -> bytes:
    lines = content.split(b"\n")
    a, b = int(rng.integers(len(lines))), int(rng.integers(len(lines)))
    kind = rng.integers(4)
    if kind == 0:
        del lines[a]
    elif kind == 1:
        lines.insert(a, lines[b])
    elif kind == 2:
        lines[a], lines[b] = lines[b], lines[a]
    else:
        lines[a : a + 1] = [lines[a]] * int(rng.integers(2, 30))
    return b"\n".join(lines)


STRANGE: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1e308,
    10**30,
    float("nan"),
    float("inf"),
    "",
    "x",
    "💥" * 9,
    [],
    {},
    [1, 2],
    {"a": None},
    [[[[]]]],
)


def _json(rng: np.random.Generator, content: bytes) -> bytes:
    """Replace, drop or add an entry somewhere in a JSON document."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return content
    strange = STRANGE[int(rng.integers(len(STRANGE)))]
    place = document
    for _ in range(6):
        if not isinstance(place, (dict, list)) or not place:
            break
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = keys[int(rng.integers(len(keys)))]
        if rng.random() < 0.5 or not isinstance(place[key], (dict, list)):
            kind = rng.integers(4)
            if kind == 0:
                del place[key]
            elif kind == 1 and isinstance(place, dict):
                place[WORDS[int(rng.integers(len(WORDS)))]] = strange
            else:
                place[key] = strange
            return json.dumps(document).encode()
        place = place[key]
    return json.dumps(strange).encode()


def _members(rng: np.random.Generator, content: bytes) -> bytes:
    """Damage a member of an archive and write the archive anew, with true sums; or lie about its size."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    except Exception:
        return content
    if not members:
        return content
    at = int(rng.integers(len(members)))
    name, inner = members[at]
    kind = rng.integers(7)
    if kind == 0:
        del members[at]
    elif kind == 1:
        members[at] = (members[int(rng.integers(len(members)))][0], inner)
    elif kind == 2 and inner[:6] == b"\x93NUMPY":
        members[at] = (name, _npy_header(rng, inner))
    elif kind == 3:
        members[at] = (name, inner + bytes(int(rng.integers(1, 1 << 20))))
    elif _is_text(inner) and kind < 6:
        change = (_words, _json, _lines)[int(rng.integers(3))]
        members[at] = (name, change(rng, inner))
    else:
        change = (_bytes, _numbers, _pieces, _cut)[int(rng.integers(4))]
        members[at] = (name, change(rng, inner))
    out = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        warnings.simplefilter("ignore")
        for each, inner in members:
            archive.writestr(each.replace("\0", "_") or "x", inner)
    packed = bytearray(out.getvalue())
    if rng.random() < 0.25:  # the directory's word on the sizes of a member
        found = packed.find(b"PK\1\2")
        for _ in range(at):
            found = packed.find(b"PK\1\2", found + 4) if found >= 0 else found
        if found >= 0:
            offset = 20 if rng.random() < 0.3 else 24
            claim = int(rng.choice([0, 1, 1 << 20, (1 << 31) - 1, (1 << 32) - 2]))
            packed[found + offset : found + offset + 4] = struct.pack("<I", claim)
    return bytes(packed)


def _records(rng: np.random.Generator, content: bytes) -> bytes:
    """Damage records of a journal, or their order, and write them with true sums."""
    place, records = 8, []
    while place + 12 <= len(content):
        kind, length = struct.unpack("<4sI", content[place : place + 8])
        records.append((kind, content[place + 8 : place + 8 + length]))
        place += 12 + length
    if not records:
        return content
    at = int(rng.integers(len(records)))
    kind, payload = records[at]
    way = rng.integers(6)
    if way == 0:
        del records[at]
    elif way == 1:
        records.insert(at, records[int(rng.integers(len(records)))])
    elif way == 2:
        records[at] = (records[int(rng.integers(len(records)))][0], payload)
    else:
        text, zero, arrays = payload.partition(b"\0") if kind == b"STAT" else (payload, b"", b"")
        change = (_json, _words, _numbers)[int(rng.integers(3))] if kind != b"FRAM" else _pieces
        if rng.random() < 0.2:
            arrays = _pieces(rng, arrays) if arrays else arrays
        records[at] = (kind, change(rng, text) + zero + arrays)
    out = [content[:8]]
    for kind, payload in records:
        front = struct.pack("<4sI", kind, len(payload))
        out.append(front + payload + struct.pack("<I", zlib.crc32(payload, zlib.crc32(front))))
    return b"".join(out)


STRANGE_ARRAYS: tuple[Any, ...] = (
    np.zeros(0),
    np.zeros((3, 3), np.int8),
    np.full((2, 68, 2, 4), np.inf, np.float32),
    np.arange(1000.0),
    np.array([b"a", b"\xff\xfe", b"face_0"]),
    np.zeros((1, 1), [("a", "<f8"), ("b", "<i4", (3,))]),
    np.zeros(4, np.complex64),
    np.uint64((1 << 64) - 1),
    np.bool_(True),
)


def _datasets(rng: np.random.Generator, content: bytes) -> bytes:
    """Drop, replace, resize or rename a dataset of an HDF5 file, or change its values or attributes."""
    import h5py

    stream = io.BytesIO(content)
    try:
        with h5py.File(stream, "r+") as file:
            places: list[Any] = [file]
            file.visititems(lambda _, item: places.append(item))
            item = places[int(rng.integers(len(places)))]
            kind = rng.integers(8)
            if kind < 3 and len(item.attrs):
                _attribute(rng, item.attrs)
            elif isinstance(item, h5py.Dataset):
                _dataset(rng, item, int(kind))
            else:
                file.move(places[-1].name, f"/{WORDS[int(rng.integers(len(WORDS)))].strip('/') or 'x'}")
    except Exception:  # what cannot be changed in this way, or is broken already
        return content
    return stream.getvalue()


def _attribute(rng: np.random.Generator, attributes: Any) -> None:
    name = list(attributes)[int(rng.integers(len(attributes)))]
    value = attributes[name]
    if rng.random() < 0.2:
        del attributes[name]
    elif isinstance(value, (str, bytes, np.void)) and rng.random() < 0.6:
        text = value.encode() if isinstance(value, str) else bytes(value)
        changed = (_json, _words, _bytes, _cut)[int(rng.integers(4))](rng, text)
        attributes[name] = changed.decode("utf-8", "replace") if isinstance(value, str) else np.void(changed)
    elif rng.random() < 0.5:
        attributes[name] = STRANGE_ARRAYS[int(rng.integers(len(STRANGE_ARRAYS)))]
    else:
        attributes[name] = WORDS[int(rng.integers(len(WORDS)))].replace("\0", "")


def _dataset(rng: np.random.Generator, dataset: Any, kind: int) -> None:
    group, name, shape, dtype = dataset.parent, dataset.name, dataset.shape, dataset.dtype
    if kind == 3:
        del group[name]
    elif kind == 4:
        del group[name]
        group[name] = STRANGE_ARRAYS[int(rng.integers(len(STRANGE_ARRAYS)))]
    elif kind == 5 and shape:  # of another length: a little, or more than there is room for
        axis, most = int(rng.integers(len(shape))), (3, 100, 1_500_000, 1 << 40)[int(rng.integers(4))]
        longer = tuple(int(rng.integers(most)) if k == axis else n for k, n in enumerate(shape))
        del group[name]
        group.create_dataset(name, longer, dtype, chunks=(1,) * (len(shape) - 1) + (64,))
    elif kind == 6 and dtype.kind in "iuf":
        del group[name]
        other = np.dtype(("<f8", "<i8", "|u1", "<f2", ">i4")[int(rng.integers(5))])
        group[name] = np.zeros(shape, other)
    elif dtype.kind in "iuf" and dataset.size:
        values = dataset[()]
        with np.errstate(all="ignore"):
            np.ravel(values)[int(rng.integers(dataset.size))] = np.array(
                NUMBERS[int(rng.integers(len(NUMBERS)))]
                if dtype.kind != "f"
                else (np.nan, np.inf, -1e30, 2.0)[int(rng.integers(4))]
            ).astype(dtype)
        dataset[()] = values
    elif dataset.size:
        dataset[int(rng.integers(len(dataset)))] = WORDS[int(rng.integers(len(WORDS)))].encode()[:40]


SHAPES = (
    "(1000000, 1000, 68, 2)",
    "(1000000, 68, 2)",
    "(2000000,)",
    "(-5,)",
    "(0,)",
    "()",
    "(2, 0, 68, 2)",
    "(99999999999999999999,)",
    "(1, 1, 68, 2)",
    "(1024, 256)",
    "(3072, 256)",
    "(6, 107, 122, 128)",
    "(True,)",
)
TYPES = (
    "'<f8'",
    "'<f4'",
    "'|u1'",
    "'|O'",
    "'<U256'",
    "'<i8'",
    "'|S99999'",
    "[('a', '<f8')]",
    "'<c16'",
    "'<M8[s]'",
)


def _npy_header(rng: np.random.Generator, inner: bytes) -> bytes:
    """Give an array another header: huge shapes, objects, text, records."""
    length = struct.unpack("<H", inner[8:10])[0]
    shape = SHAPES[int(rng.integers(len(SHAPES)))]
    descr = TYPES[int(rng.integers(len(TYPES)))]
    header = f"{{'descr': {descr}, 'fortran_order': {bool(rng.integers(2))}, 'shape': {shape}, }}"
    header += " " * (63 - (10 + len(header)) % 64) + "\n"
    return inner[:8] + struct.pack("<H", len(header)) + header.encode() + inner[10 + length :]


# reading


def _peak_memory(reset: bool) -> int:
    """Return the largest resident size since the last reset, bytes; 0 where the system does not tell."""
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
    """Have a reader read an input, and say what was wrong with how it took it."""
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
    if not wrong and seconds > (3 * LONGEST if measured else LONGEST):  # tracing slows a reader down
        wrong = f"took {seconds:.1f} s"
    if not wrong and memory > MOST_MEMORY and len(content) <= SMALL:
        wrong = f"took {memory >> 20} MB for {len(content)} bytes"
    return Outcome(read, wrong, seconds, memory)


def run_target(name: str, count: int, seed: int, keep: Path | None = None) -> dict[str, Any]:
    """Read `count` damaged files and return what came of it; what was taken badly is kept in a folder."""
    target = TARGETS[name]
    rng = np.random.default_rng([seed, *name.encode()])
    found: dict[str, int] = {}
    total = {"read": 0, "refused": 0, "slowest": 0.0, "largest": 0}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "seeds").mkdir()
        (folder / "work").mkdir()
        seeds = target.seeds(folder / "seeds")
        for content in seeds:  # whole files are read, and what is loaded once is loaded
            outcome = try_one(target, content, folder / "work", measured=False)
            if not outcome.read and content is seeds[0]:
                found[f"whole file not read: {outcome.wrong}"] = 1
        for number in range(count):
            content = damaged(rng, seeds)
            if keep is not None:
                (keep / f"{name}.last").write_bytes(content)
            if hasattr(signal, "alarm"):
                signal.alarm(HANGS)  # ends the process: what goes round in a library hears nothing else
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
