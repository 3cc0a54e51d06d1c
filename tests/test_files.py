"""Files that appear whole, under names that fit, on whatever drive."""

from __future__ import annotations

import os
import sys
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_face_landmarks.errors import ResultError, VideoError
from napari_face_landmarks.files.atomic import check_writable, replacing
from napari_face_landmarks.files.lock import try_to_lock
from napari_face_landmarks.runs import journal_of
from napari_face_landmarks.runs.batch import place_outputs
from napari_face_landmarks.runs.chunks import Chunk, chunk_journal
from napari_face_landmarks.runs.job import record_of


def test_outputs_have_names_of_their_own(tmp_path: Path) -> None:
    videos = [
        (tmp_path / "a" / "x.mp4", Path()),
        (tmp_path / "b" / "x.mp4", Path()),
        (tmp_path / "b" / "x.avi", Path()),
        (tmp_path / "c" / "x.mp4", Path("c")),
        (tmp_path / "batch-summary.mp4", Path()),
    ]
    out = tmp_path / "out"
    placed = [path for _, path in place_outputs(videos, out, ".csv")]
    assert placed == [
        out / "x.csv",
        out / "x.mp4.csv",
        out / "x.avi.csv",
        out / "c" / "x.csv",
        out / "batch-summary.mp4.csv",
    ]
    with pytest.raises(ResultError, match="is one of the videos"):
        place_outputs([(out / "y.mp4", Path()), (out / "y.csv.json", Path())], out, ".csv")


def test_files_beside_one_of_the_longest_name_have_names_that_fit(tmp_path: Path) -> None:
    names = ["ü" * 125 + ".csv", "ü" * 124 + "xx.csv", "v" * 251 + ".csv", "short.csv"]
    piece = Chunk(0, 123_456_789, 200_000_000, 200_000_000)
    files = []
    for name in names:
        output = tmp_path / name
        files += [journal_of(output), record_of(output), chunk_journal(output, piece)]
        with replacing(output) as temporary:
            temporary.write_text("x")
    for path in files:
        path.write_text("x")
    assert len(set(files)) == 3 * len(names)
    with pytest.raises(ResultError, match="is too long"):
        check_writable(tmp_path / ("v" * 252 + ".csv"))
    assert files[-3:] == [tmp_path / f"short.csv{end}" for end in (".journal", ".json", ".123456789.journal")]


@pytest.mark.skipif(sys.platform == "win32", reason="locks have no errno there")
def test_a_drive_without_locks_or_syncing_is_written_to_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno
    import fcntl

    def answer(number: int) -> Any:
        def refuse(*_: Any) -> None:
            raise OSError(number, os.strerror(number))

        return refuse

    path = tmp_path / "t.csv"
    with open(path, "w+b") as stream:
        for number, locked in ((errno.ENOLCK, True), (errno.ENOTSUP, True), (errno.EWOULDBLOCK, False)):
            monkeypatch.setattr(fcntl, "flock", answer(number))
            assert try_to_lock(stream) is locked
    monkeypatch.setattr(os, "fsync", answer(errno.EINVAL))
    with replacing(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"
    monkeypatch.setattr(os, "fsync", answer(errno.EIO))
    with pytest.raises(ResultError, match="cannot be written"), replacing(path) as temporary:
        temporary.write_text("newer")
    with pytest.raises(VideoError, match="ends early"), replacing(path):
        raise VideoError("The video ends early.")
    assert path.read_text() == "new"


def test_outputs_differ_on_drives_that_take_names_for_the_same(tmp_path: Path) -> None:
    names = ["Scan.mp4", "scan.avi", "SCAN.mov", "M\u00fcller.mp4", "Mu\u0308ller.avi", "batch-SUMMARY.mkv"]
    placed = [
        path.name for _, path in place_outputs([(Path("/v") / n, Path()) for n in names], tmp_path, ".csv")
    ]
    folded = [unicodedata.normalize("NFC", name).casefold() for name in [*placed, "batch-summary.csv"]]
    assert len(set(folded)) == len(folded)
    assert placed[0] == "Scan.mp4.csv"


def test_what_a_killed_process_left_half_written_does_not_stay_for_ever(tmp_path: Path) -> None:
    names = [
        ".talk-0123abcd.csv",
        ".talk-89abcdef.csv",
        ".talk-2.csv",
        ".talk-0123abcd.npz",
        ".talks-0123abcd.csv",
    ]
    for name in names:
        (tmp_path / name).write_text("half")
        os.utime(tmp_path / name, (0, 0))
    os.utime(tmp_path / names[1])  # somebody may be writing it
    with replacing(tmp_path / "talk.csv") as temporary:
        temporary.write_text("whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names[1:], "talk.csv"])


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_a_link_stays_one_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    real, link = tmp_path / "disk" / "real.csv", tmp_path / "link.csv"
    real.write_text("old", encoding="utf-8")
    link.symlink_to(real)
    with replacing(link) as temporary:
        temporary.write_text("new", encoding="utf-8")
    assert link.is_symlink()
    assert real.read_text(encoding="utf-8") == "new"
    assert [path.name for path in real.parent.iterdir()] == ["real.csv"]


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_links_to_other_names_to_nothing_and_to_themselves(tmp_path: Path) -> None:
    link = tmp_path / "link.npz"
    link.symlink_to("blob")  # of no suffix, by which NumPy goes
    with replacing(link) as temporary:
        np.savez(temporary, x=np.zeros(3))
    assert link.is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blob", "link.npz"]
    loop, lost = tmp_path / "loop.csv", tmp_path / "lost.csv"
    loop.symlink_to(loop)
    lost.symlink_to(tmp_path / "nowhere" / "t.csv")
    for path, words in ((loop, "link to itself"), (lost, "nowhere does not exist")):
        with pytest.raises(ResultError, match=words), replacing(path):
            raise AssertionError("nothing may be written")
        assert path.is_symlink()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no such pipes")
def test_a_pipe_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    with pytest.raises(ResultError, match="a device, a pipe"), replacing(pipe):
        raise AssertionError("nothing may be written")
    assert pipe.is_fifo()


def test_one_file_by_two_names_is_named_twice(tmp_path: Path) -> None:
    from napari_face_landmarks.cli.output_paths import check_distinct

    (tmp_path / "o").mkdir()
    with pytest.raises(ResultError, match="is named twice"):
        check_distinct([], [tmp_path / "o" / "c.csv", tmp_path / "o" / ".." / "o" / "c.csv"])
