"""Files of strangers: damaged in thousands of ways, and each way that was once taken badly."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from damage import damaged
from fuzzing import (
    DESCRIPTION,
    MAX_MEMORY,
    TARGETS,
    Target,
    field,
    network,
    node,
    small_network,
    small_tracks,
    tensor,
    try_one,
)
from napari_face_landmarks.errors import FaceLandmarksError, ModelError, ResultError, SettingsError
from napari_face_landmarks.files.onnx_safe import check_network, open_network
from napari_face_landmarks.io import FORMATS
from napari_face_landmarks.io.formats import format_named, read_tracks
from napari_face_landmarks.settings import settings_from_dict

SHORT = 25
"""Inputs for each reader in the short run; the nightly one has `NIGHTLY`."""
NIGHTLY = 10_000


def need(target: Target) -> None:
    if not target.available:
        pytest.skip(f"needs {', '.join(target.needs)}")


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files_are_refused_in_a_sentence_quickly_and_in_little_memory(
    name: str, tmp_path: Path
) -> None:
    target = TARGETS[name]
    need(target)
    (tmp_path / "seeds").mkdir()
    (tmp_path / "work").mkdir()
    seeds = target.seeds(tmp_path / "seeds")
    assert try_one(target, seeds[0], tmp_path / "work", measured=False).read  # the whole file is read
    rng = np.random.default_rng([20, *name.encode()])
    outcomes = [try_one(target, damaged(rng, seeds), tmp_path / "work") for _ in range(SHORT)]
    assert [each.wrong for each in outcomes if each.wrong] == []
    assert not all(each.read for each in outcomes)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", TARGETS)
def test_ten_thousand_damaged_files_each(name: str, tmp_path: Path) -> None:
    need(TARGETS[name])
    words = [
        sys.executable,
        str(Path(__file__).parent / "fuzzing.py"),
        name,
        str(NIGHTLY),
        "1",
        str(tmp_path),
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert done.returncode == 0, f"the process broke on {left}: {done.stderr[-2000:]}"
    assert json.loads(done.stdout)["found"] == {}


# What was found, and what a file may try


def refused(work: Any, kind: type[FaceLandmarksError], words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        work()
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize("values", [None, 0, True, "", "abc", float("inf"), [1, 2]])
def test_settings_that_are_no_table_are_refused(values: Any) -> None:
    refused(lambda: settings_from_dict(values), SettingsError, "give a mapping of names to values")


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.slow
@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.dictionaries(
        st.sampled_from(["refine", "clnf_every", "search_radius", "smoothing_window", "x" * 5000]),
        JSON_VALUES,
        min_size=1,
    )
)
def test_settings_of_any_values_are_checked(values: dict[str, Any]) -> None:
    sentence = ""
    try:
        checked = settings_from_dict(values)
    except SettingsError as error:
        sentence = str(error)
    else:
        assert 0.5 <= checked.search_radius <= 3
    assert len(sentence) < 400
    assert sentence == "" or sentence.endswith(".")


TEXT_FORMATS = [item for item in FORMATS if item.suffixes[-1] == ".csv" or item.name == "pts"]


@pytest.mark.slow
@pytest.mark.parametrize("item", TEXT_FORMATS, ids=lambda item: item.name)
def test_text_of_any_kind_is_refused(item: Any, tmp_path: Path) -> None:
    path = tmp_path / f"in{'.pts' if item.name == 'pts' else item.suffixes[0]}"
    small_tracks(1, 1).save(tmp_path / "whole.csv", None)
    begins = {
        "openface": (tmp_path / "whole.csv").read_text().partition("\n")[0] + "\n",
        "deeplabcut-csv": "scorer,a,a,a\nbodyparts,b,b,b\ncoords,x,y,likelihood\n",
        "tidy-csv": "frame,time,face,landmark,x,y,confidence,source\n",
        "pts": "version: 1\nn_points: 68\n{",
    }

    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(st.text(max_size=200), st.booleans())
    def check(text: str, begun: bool) -> None:
        sentence = ""
        path.write_bytes(((begins[item.name] if begun else "") + text).encode("utf-8", "surrogatepass"))
        try:
            item.read(path)
        except ResultError as error:
            sentence = str(error)
        assert "\n" not in sentence

    check()


def test_a_header_of_truths_and_names_of_no_characters_are_refused(tmp_path: Path) -> None:
    from napari_face_landmarks.clnf.pdm import load_pdm
    from napari_face_landmarks.errors import ImageError
    from napari_face_landmarks.evaluation.dataset import read_faces

    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (True,), }"
    header += b" " * (63 - (10 + len(header)) % 64) + b"\n"
    with zipfile.ZipFile(tmp_path / "pdm.npz", "w") as archive:
        for name in ("mean", "components", "eigenvalues"):
            packed = b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + bytes(8)
            archive.writestr(f"{name}.npy", packed)
    refused(lambda: load_pdm(tmp_path / "pdm.npz"), ModelError, r"pdm\.npz")
    names = np.array(["abc"])
    names.view(np.uint32)[1] = 0x7FFFFFFF
    arrays = {"webp": np.zeros(9, np.uint8), "offsets": np.array([0, 9]), "names": names}
    np.savez(tmp_path / "faces.npz", **arrays, landmarks=np.zeros((1, 68, 2), np.float32))
    refused(lambda: read_faces([tmp_path / "faces.npz"]), ImageError, "characters")


def test_an_archive_may_not_lie_about_the_length_of_an_array(tmp_path: Path) -> None:
    from napari_face_landmarks.clnf.patch_experts import load_patch_experts

    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (6, 107, 122, 128), }"
    header += b" " * (63 - (10 + len(header)) % 64) + b"\n"
    path = tmp_path / "cen.npz"
    with zipfile.ZipFile(path, "w") as archive:
        names = ("scales", "view_centres", "visibility", "w1", "w2", "w3", "confidences")
        for name in names:
            packed = b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + bytes(64)
            if name != "w1":
                scales = tmp_path / "scales.npy"
                np.save(scales, np.zeros((1,) if name == "scales" else (3, 3)))
                packed = scales.read_bytes()
            archive.writestr(f"{name}.npy", packed)
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\1\2")
    for _ in range(3):
        at = content.index(b"PK\1\2", at + 4)
    content[at + 24 : at + 28] = struct.pack("<I", 6 * 107 * 122 * 128 * 4 + 128)
    outcome = try_one(
        Target("cen", "cen.npz", lambda _: [], load_patch_experts), bytes(content), tmp_path, measured=True
    )
    assert not outcome.read
    assert outcome.wrong == ""
    assert outcome.memory < MAX_MEMORY // 16


def test_empty_lines_before_deeplabcuts_columns(tmp_path: Path) -> None:
    (tmp_path / "t.dlc.csv").write_text("\n\nscorer,a\n")
    refused(
        lambda: format_named("deeplabcut-csv").read(tmp_path / "t.dlc.csv"), ResultError, "does not begin"
    )


@pytest.mark.parametrize("kind", ["openface", "tidy-csv", "pts"])
def test_a_few_faces_do_not_make_a_large_grid(kind: str, tmp_path: Path) -> None:
    rows = 600
    if kind == "openface":
        path = tmp_path / "t.csv"
        small_tracks(1, 1).save(path)
        names = path.read_text().partition("\n")[0].split(",")
        lines = [",".join("999" if n == "face_id" else str(k + 1) if n == "frame" else "0" for n in names)
                 for k in range(rows)]  # fmt: skip
        path.write_text("\n".join([",".join(names), *lines]))
    elif kind == "tidy-csv":
        path = tmp_path / "t.tidy.csv"
        lines = [f"{k},0,999,0,1,1,1,pfld" for k in range(rows)]
        path.write_text("\n".join(["frame,time,face,landmark,x,y,confidence,source", *lines]))
    else:
        path = tmp_path / "t.zip"
        points = "version: 1\nn_points: 68\n{\n" + "1 1\n" * 68 + "}\n"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for k in range(rows):
                archive.writestr(f"{k + 1:06d}_face_999.pts", points)
    target = Target("grid", path.name, lambda _: [], lambda path: format_named(kind).read(path))
    outcome = try_one(target, path.read_bytes(), tmp_path)
    assert not outcome.read
    assert outcome.wrong == ""
    assert outcome.memory < MAX_MEMORY


@pytest.mark.parametrize("rows", [200_000, 3_000_000])
def test_millions_of_equal_rows_are_refused_before_they_are_unpacked(rows: int, tmp_path: Path) -> None:
    target = TARGETS["parquet"]
    need(target)
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {name: pyarrow.array(np.zeros(rows)) for name in ("frame", "face", "landmark", "x", "y")}
    parquet.write_table(pyarrow.table(columns), tmp_path / "equal.parquet", compression="zstd")
    small_tracks().save(tmp_path / "whole.parquet")
    format_named("parquet").read(tmp_path / "whole.parquet")  # what is loaded once is loaded
    outcome = try_one(target, (tmp_path / "equal.parquet").read_bytes(), tmp_path)
    assert not outcome.read
    assert outcome.wrong == ""
    assert outcome.memory < MAX_MEMORY


def test_a_netcdf_file_may_not_claim_what_it_does_not_hold(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    need(TARGETS["movement"])
    path = tmp_path / "t.nc"
    small_tracks(1).save(path)
    assert read_tracks(path).n_frames == 4
    with h5py.File(path, "r+") as file:
        del file["confidence"]
        file.create_dataset("confidence", (1_000_000, 68, 1), "f4", chunks=(1024, 68, 1))
    refused(lambda: read_tracks(path), ResultError, "1000000 values along 'time'")
    with h5py.File(path, "r+") as file:
        for name in set(file) - {"confidence"}:
            del file[name]
        file.create_dataset("position", (1_000_000, 2, 68, 1), "f4", chunks=(1024, 2, 68, 1))
    refused(lambda: read_tracks(path), ResultError, "claims more values")


def change_attribute(h5py: Any, item: Any, name: str, length: int, kind: Any = None) -> None:
    """Give an attribute another length, and another type where it is given."""
    kind = kind or item.attrs.get_id(name).get_type()
    if name in item.attrs:
        del item.attrs[name]
    h5py.h5a.create(item.id, name.encode(), kind, h5py.h5s.create_simple((length,)))


def longer_list_of_dimensions(file: Any, h5py: Any) -> None:
    change_attribute(h5py, file["position"], "DIMENSION_LIST", 1000)


def list_of_dimensions_of_numbers(file: Any, h5py: Any) -> None:
    file["pose"].attrs["DIMENSION_LIST"] = np.arange(1000.0)


def lists_within_lists(file: Any, h5py: Any) -> None:
    change_attribute(h5py, file, "ds_type", 1, h5py.h5t.vlen_create(h5py.h5t.NATIVE_DOUBLE))


def packed_in_an_uncommon_way(file: Any, h5py: Any) -> None:
    values = file["misfit"][()]
    del file["misfit"]
    file.create_dataset("misfit", data=np.nan_to_num(values).astype("i4"), scaleoffset=0, chunks=values.shape)


def a_name_of_a_billion(file: Any, h5py: Any) -> None:
    file["pose"].attrs["NAME"] = 1 << 33


@pytest.mark.parametrize(
    ("attack", "words"),
    [
        (lists_within_lists, "'ds_type' is neither a number nor text"),
        (packed_in_an_uncommon_way, "unsupported compression"),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_what_breaks_the_hdf5_library_is_refused_before_it_is_read(
    attack: Any, words: str, tmp_path: Path
) -> None:
    h5py = pytest.importorskip("h5py")
    need(TARGETS["movement"])
    path = tmp_path / "in.nc"
    path.write_bytes(TARGETS["movement"].seeds(tmp_path)[1])
    with h5py.File(path, "r+") as file:
        attack(file, h5py)
    refused(lambda: read_tracks(path), ResultError, words)
    assert try_one(TARGETS["movement"], path.read_bytes(), tmp_path).wrong == ""


@pytest.mark.parametrize(
    "attack", [longer_list_of_dimensions, list_of_dimensions_of_numbers, a_name_of_a_billion]
)
def test_references_of_netcdf_are_not_followed(attack: Any, tmp_path: Path) -> None:
    """The HDF5 library writes outside its memory over damaged ones."""
    h5py = pytest.importorskip("h5py")
    need(TARGETS["movement"])
    path = tmp_path / "in.nc"
    path.write_bytes(TARGETS["movement"].seeds(tmp_path)[1])
    expected = read_tracks(path)
    with h5py.File(path, "r+") as file:
        attack(file, h5py)
    np.testing.assert_array_equal(read_tracks(path).landmarks, expected.landmarks)
    assert try_one(TARGETS["movement"], path.read_bytes(), tmp_path).wrong == ""


def test_attributes_of_other_kinds_than_texts_are_refused(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "in.analysis.h5"
    small_tracks(1).save(path)
    with h5py.File(path, "r+") as file:
        change_attribute(h5py, file["tracks"], "dims", 1, h5py.h5t.vlen_create(h5py.h5t.NATIVE_UINT8))
    refused(lambda: read_tracks(path), ResultError, "'dims' is neither a number nor text")
    small_tracks(1).save(path)
    with h5py.File(path, "r+") as file:
        del file["node_names"]
        file.create_dataset("node_names", (68,), dtype=h5py.vlen_dtype(np.uint8))
    refused(lambda: read_tracks(path), ResultError, "'node_names' is object")


def test_names_of_axes_with_line_breaks_are_told_in_one_line(tmp_path: Path) -> None:
    need(TARGETS["movement"])
    path = tmp_path / "in.nc"
    small_tracks(1).to_xarray().assign_coords(space=["x\n", "\ny"]).to_netcdf(path, engine="h5netcdf")
    refused(lambda: read_tracks(path), ResultError, "has the axes x , y: give")


@pytest.mark.parametrize("name", ["sleap", "movement"])
def test_a_heap_of_texts_that_has_no_end_is_refused(name: str, tmp_path: Path) -> None:
    target = TARGETS[name]
    need(target)
    content = target.seeds(tmp_path)[0]
    heap = content.rindex(b"GCOL")  # earlier ones may be full
    at, left = heap + 16, 0
    while not left:  # the room that is left has the index 0
        index, length = struct.unpack_from("<H6xQ", content, at)
        left, at = (at, at) if index == 0 else (0, at + 16 + (length + 7) // 8 * 8)
    for place, number in (
        (left + 8, 0),
        (left + 8, 1 << 60),
        (heap + 24, 1 << 40),
        (heap + 8, 1 << 50),
        (8, 0x0408),
    ):
        changed = content[:place] + struct.pack("<Q", number) + content[place + 8 :]
        outcome = try_one(target, changed, tmp_path)
        assert not outcome.read
        assert outcome.wrong == ""


@pytest.mark.parametrize("name", ["deeplabcut-h5", "sleap", "movement"])
def test_a_block_for_another_driver_is_not_read_at_the_length_that_it_claims(
    name: str, tmp_path: Path
) -> None:
    """Found by 10,000 damaged files: 320 MB for one of 40 KB."""
    target = TARGETS[name]
    need(target)
    content = target.seeds(tmp_path)[0]
    place = 48 + 4 * content[8]  # in the superblock, of version 0 or 1
    assert content[8] < 2
    assert content[place : place + 8] == b"\xff" * 8
    block = b"\0" * 4 + struct.pack("<I", 500 << 20) + b"NCSAmult"
    changed = content[:place] + struct.pack("<Q", len(content)) + content[place + 8 :] + block
    outcome = try_one(target, changed, tmp_path)
    assert not outcome.read
    assert outcome.wrong == ""


# ONNX


IDENTITY = [node("Identity", ["image"], ["points"])]
WEIGHTS = np.zeros(3, np.float32)
SHAPE = [1, 3, 32, 32]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (network(IDENTITY, [tensor("w", WEIGHTS, external="/etc/hostname")], SHAPE), "in other files"),
        (network(IDENTITY, [tensor("w", WEIGHTS, external="../weights.bin")], SHAPE), "in other files"),
        (network(IDENTITY, [tensor("w", WEIGHTS, dims=[1 << 40])], SHAPE), "declares more weights"),
        (network([node("Evil", ["image"], ["points"], domain="evil")], [], SHAPE), "not part of ONNX"),
        (
            network([node("If", ["image"], ["points"], field(5, field(6, b"")))], [], SHAPE),
            "branches or loops",
        ),
        (network([node("Constant", [], ["w"], field(5, field(22, b"")))], [], SHAPE), "sparse"),
        (network(IDENTITY, [], SHAPE, more=field(25, b"")), "functions"),
        (field(1, 8), "exactly one graph"),
        (b"", "exactly one graph"),
        (b"\xff" * 40, "damaged"),
        (field(7, field(1, b"x" * 50))[:-9], "damaged"),
        (field(7, field(2, "") * 600_000), "too many fields"),
    ],
)
def test_networks_that_could_do_harm_are_refused_before_they_are_opened(content: bytes, words: str) -> None:
    refused(lambda: check_network(content, Path("net.onnx"), "export it again"), ModelError, words)


def test_names_that_are_no_text_are_refused_without_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    content = network(IDENTITY, [], SHAPE).replace(b"Identity", b"Ident\xff\xfe\xfd")
    refused(lambda: open_network(content, Path("net.onnx"), "export it again"), ModelError, "not a usable")
    assert capsys.readouterr() == ("", "")


def test_a_network_runs_in_bounded_memory() -> None:
    grows = [node("Tile", ["image", "times"], ["points"])]
    times = tensor("times", np.array([16, 1, 32, 32], np.int64))
    content = network(grows, [times], [1, 3, 128, 128])  # 3 GB
    session = open_network(content, Path("net.onnx"), "export it again")
    with pytest.raises(Exception, match="memory"):
        session.run(None, {"image": np.zeros((1, 3, 128, 128), np.float32)})


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="no links here")
def test_links_out_of_a_model_folder_are_refused(tmp_path: Path) -> None:
    from napari_face_landmarks import load_models
    from napari_face_landmarks.models import bundle_folder

    folder = tmp_path / "own"
    folder.mkdir()
    (tmp_path / "net.onnx").write_bytes(small_network())
    (folder / "pfld.json").write_text(json.dumps(DESCRIPTION))
    (folder / "net.onnx").symlink_to(tmp_path / "net.onnx")
    refused(lambda: load_models(folder), ModelError, "link to a file outside its folder")
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    for file in bundle_folder("open").iterdir():
        (bundle / file.name).symlink_to(file)
    refused(lambda: load_models(bundle), ModelError, "link to a file outside its folder")
    (tmp_path / "link").symlink_to(bundle_folder("open"))  # a folder may be reached by a link
    assert load_models(tmp_path / "link").folder == tmp_path / "link"


def test_a_table_with_a_column_twice_and_short_rows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    small_tracks(1).save(path)
    names, *rows = path.read_text().splitlines()
    path.write_text("\n".join(["frame,frame,frame," + names, *rows]))
    refused(lambda: read_tracks(path), ResultError, "too few values")
