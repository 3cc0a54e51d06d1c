"""What the package never does: load pickles, run text as code, start programs or use the network."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import napari_face_landmarks
from fuzzing import faces_file
from napari_face_landmarks.video import write_video
from test_tracking import moving

SOURCE = Path(napari_face_landmarks.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
FORBIDDEN_MODULES = {
    "pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "pty", "ctypes",
    "socket", "ssl", "urllib", "http", "ftplib", "smtplib", "requests", "httpx", "aiohttp", "yaml",
    "subprocess",
}  # fmt: skip
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "os.execv"}
MAY = {
    ("training", "subprocess"),
    ("benchmark", "subprocess"),
    ("processes.py", "subprocess"),  # processes of this Python
    ("runs", "subprocess"),  # worker processes
    ("training", "pickle"),  # the name of an error
    ("jit.py", "ctypes"),  # advice to the kernel on memory of this process
    ("io", "pickle"),  # an unpickler that imports and calls nothing, for DeepLabCut's names of columns
}
"""Parts of the package, and what they may use that others may not; none gives it anything of a stranger's."""


def part_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0]


def unsafe_in(path: Path) -> set[str]:
    """Return what a source file uses and may not use."""
    found = []
    for item in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(item, ast.Import):
            found += {alias.name.partition(".")[0] for alias in item.names} & FORBIDDEN_MODULES
        elif isinstance(item, ast.ImportFrom) and item.level == 0:
            found += {(item.module or "").partition(".")[0]} & FORBIDDEN_MODULES
        elif isinstance(item, ast.Call):
            called = ast.unparse(item.func)
            pickles = called.endswith((".read_pickle", ".to_pickle"))
            unsafe = called == "torch.load" and not any(k.arg == "weights_only" for k in item.keywords)
            if called in FORBIDDEN_CALLS or pickles or unsafe:
                found.append(called)
            for keyword in item.keywords:
                value = getattr(keyword.value, "value", None)
                if keyword.arg == "allow_pickle" and value is not False:
                    found.append("allow_pickle")
                if keyword.arg == "weights_only" and value is not True:
                    found.append("weights_only")
    known = {name for part, name in MAY if part == part_of(path)}
    return set(found) - known


def test_the_source_has_no_pickle_no_code_from_text_and_no_network() -> None:
    wrong = {str(path.relative_to(SOURCE)): unsafe_in(path) for path in FILES}
    assert {path: found for path, found in wrong.items() if found} == {}


def test_the_scan_finds_what_it_looks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = {
        "import pickle": "pickle",
        "from urllib.request import urlopen": "urllib",
        "import numpy\nnumpy.load('x', allow_pickle=True)": "allow_pickle",
        "eval('1')": "eval",
        "import os\nos.system('ls')": "system",
    }
    monkeypatch.setattr(sys.modules[__name__], "SOURCE", tmp_path)
    for text, word in bad.items():
        (tmp_path / "core.py").write_text(text)
        assert word in unsafe_in(tmp_path / "core.py").pop()


WITHOUT_NETWORK = """
import os, sys

used = []
def look(event, arguments):
    if event.startswith(("socket.", "urllib.", "http.", "ftplib.", "smtplib.")):
        used.append(event)
        raise RuntimeError(f"the network was used: {event} {arguments}")
    if event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn"):
        used.append(event)
sys.addaudithook(look)

from napari_face_landmarks import cli

folder = sys.argv[1]
def there(name):
    return os.path.join(folder, name)

def open_sockets():
    place = "/proc/self/fd"
    names = os.listdir(place) if os.path.isdir(place) else []
    links = []
    for name in names:
        try:
            links.append(os.readlink(os.path.join(place, name)))
        except OSError:
            pass
    return [link for link in links if link.startswith("socket:")]

before = open_sockets()
for words in (
    ["track", there("clip.mp4"), "-o", there("t.npz"), "--overlay", there("o.mp4"), "--refine", "always"],
    ["track", there("clip.mp4"), "-o", there("t2.csv"), "--refine", "clnf-only"],
    ["convert", there("t.npz"), there("t.csv")],
    ["evaluate", there("faces.npz"), "--faces", "all", "--models", "open"],
    ["models"],
    ["formats"],
):
    status = cli.main(words)
    assert status in (0, 2), (words, status)
    assert open_sockets() == before, words
assert used == [], used
assert os.path.exists(there("t.csv"))
print("no network")
"""


@pytest.mark.slow
def test_tracking_and_evaluating_use_no_network_and_start_no_program(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", moving(6)[0], fps=25)
    faces_file(tmp_path / "faces.npz")
    words = [sys.executable, "-c", WITHOUT_NETWORK, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=250)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.endswith("no network\n")


def test_a_playlist_or_address_is_no_video(tmp_path: Path) -> None:
    from napari_face_landmarks.errors import VideoError
    from napari_face_landmarks.video import open_video

    texts = {
        "list.mp4": "#EXTM3U\n#EXTINF:10,\nhttp://127.0.0.1:9/video.ts\n",
        "concat.mp4": "ffconcat version 1.0\nfile 'http://127.0.0.1:9/video.mp4'\n",
        "dash.mp4": '<?xml version="1.0"?><MPD><BaseURL>http://127.0.0.1:9/</BaseURL></MPD>',
        "sdp.mp4": "v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(VideoError, match="not a video"):
            open_video(tmp_path / name)
    for address in ("http://127.0.0.1:9/a.mp4", "concat:a|b", "file:///etc/hostname", "pipe:0", "lavfi:x"):
        with pytest.raises(VideoError, match=r"no file|is an address"):
            open_video(address)


def test_frames_are_read_without_anything_being_said_to_numpy_of_pickles(tmp_path: Path) -> None:
    from napari_face_landmarks import Tracks
    from napari_face_landmarks.errors import ResultError

    names = ("landmarks", "confidence", "source", "pose", "boxes", "frame_indices", "timestamps", "record")
    bomb = np.array([print], dtype=object)
    np.savez(tmp_path / "t.npz", **dict.fromkeys(names, bomb))
    with pytest.raises(ResultError, match=r"t\.npz"):
        Tracks.load(tmp_path / "t.npz")
