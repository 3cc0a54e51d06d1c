"""The formats of files: what comes back is what went in, others read it, and nothing untrusted runs."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from measure_support import faces, tracks_of
from napari_face_landmarks import TrackerSettings, Tracks, cli
from napari_face_landmarks.correction import delete_face
from napari_face_landmarks.data.fields import MANUAL, NONE, PFLD
from napari_face_landmarks.errors import ResultError
from napari_face_landmarks.io import FORMATS, Format, formats, recognise, to_tidy, to_xarray
from napari_face_landmarks.io.common import LANDMARK_NAMES, names_in_files, order_by_number
from napari_face_landmarks.measures import measure
from test_export import ARRAYS, make_tracks

FULL = dict.fromkeys(("npz", "deeplabcut-h5", "sleap", "movement", "openface"), ARRAYS)
KEPT = {
    **FULL,
    **dict.fromkeys(("tidy-csv", "parquet"), tuple(name for name in ARRAYS if name != "boxes")),
    "deeplabcut-csv": ("landmarks", "confidence"),
    "pts": (),
}
KEEPS_SETTINGS = ("npz", "deeplabcut-h5", "sleap", "movement", "parquet")
KEEPS_RATE = (*KEEPS_SETTINGS, "openface", "tidy-csv")


def a_run(n_faces: int = 1, first: int = 0, n_frames: int = 6) -> Tracks:
    tracks = make_tracks(n_frames, n_faces, first)
    return dataclasses.replace(
        tracks,
        meta={**tracks.meta, "fps": 29.97, "models": "fake"},
        settings=TrackerSettings(clnf_every=7),
        warnings=("Frame 3 is damaged.",),
    )


def need(item: Format) -> None:
    for library in item.needs:
        pytest.importorskip(library)


@pytest.fixture(params=FORMATS, ids=lambda item: item.name)
def every_format(request: pytest.FixtureRequest) -> Format:
    need(request.param)
    return request.param


def assert_kept(again: Tracks, tracks: Tracks, names: tuple[str, ...]) -> None:
    for name in names:
        left, right = getattr(again, name), getattr(tracks, name)
        assert left.dtype == right.dtype, name
        np.testing.assert_array_equal(left, right, err_msg=name)


@pytest.mark.parametrize(("n_faces", "first"), [(1, 0), (3, 40)], ids=["one face", "three, from frame 40"])
def test_what_goes_in_comes_back(tmp_path: Path, every_format: Format, n_faces: int, first: int) -> None:
    tracks, name = a_run(n_faces, first), every_format.name
    path = tmp_path / f"talk{every_format.suffixes[0]}"
    tracks.save(path)
    assert recognise(path) is every_format
    again = Tracks.load(path)
    if name == "deeplabcut-csv":  # has a row for every frame of the video
        assert again.frame_indices.tolist() == list(range(first + 6))
        assert not again.present[:first].any()
        again = rows(again, slice(first, None))
    if name == "pts":
        with_face = tracks.present.any(axis=1)
        assert again.frame_indices.tolist() == tracks.frame_indices[with_face].tolist()
        np.testing.assert_allclose(again.landmarks, tracks.landmarks[with_face], rtol=0, atol=1e-5)
        tracks = rows(tracks, with_face)
    assert_kept(again, tracks, KEPT[name])
    np.testing.assert_array_equal(again.present, tracks.present)
    if "source" not in KEPT[name]:
        assert set(again.source[again.present]) == {PFLD}
    assert again.confidence[~again.present].max(initial=0) == 0
    if name in KEEPS_RATE:
        assert again.meta["fps"] == pytest.approx(29.97)
        np.testing.assert_array_equal(again.timestamps, tracks.timestamps)
    if name in KEEPS_SETTINGS:
        assert again.settings == tracks.settings
        assert again.warnings == tracks.warnings
        assert again.meta == tracks.meta
        assert again.stats == tracks.stats


def test_the_aspect_of_pixels_comes_back(tmp_path: Path, every_format: Format) -> None:
    tracks = dataclasses.replace(a_run(), meta={"pixel_aspect": 4 / 3})
    path = tmp_path / f"talk{every_format.suffixes[0]}"
    tracks.save(path)
    again = Tracks.load(path)
    assert again.meta.get("pixel_aspect") == 4 / 3
    assert "models" not in again.meta
    dataclasses.replace(tracks, meta={"pixel_aspect": 4 / 3, "models": "mine_2.0"}).save(path)
    again = Tracks.load(path)
    assert (again.meta["pixel_aspect"], again.meta["models"]) == (4 / 3, "mine_2.0")


def test_the_name_of_the_models_comes_back(tmp_path: Path, every_format: Format) -> None:
    path = tmp_path / f"talk{every_format.suffixes[0]}"
    a_run().save(path)
    assert Tracks.load(path).meta.get("models") == "fake"


@pytest.mark.parametrize("name", ["tidy-csv", "openface", "deeplabcut-csv", "pts"])
@pytest.mark.parametrize("models", ["a,b", "", "mine\n", "Züge"])
def test_models_whose_name_fits_no_table_are_left_out(tmp_path: Path, name: str, models: Any) -> None:
    path = tmp_path / f"t{formats.format_named(name).suffixes[0]}"
    dataclasses.replace(a_run(), meta={"models": models}).save(path)
    assert "models" not in Tracks.load(path).meta
    assert Tracks.load(path).n_frames == (5 if name == "pts" else 6)


@pytest.mark.parametrize("name", ["npz", "tidy-csv", "openface"])
def test_files_from_before_misfit_was_kept_are_read(tmp_path: Path, name: str) -> None:
    tracks, path = a_run(), tmp_path / {"npz": "t.npz"}.get(name, "t.csv")
    tracks.save(path, name)
    if name == "npz":
        with np.load(path) as archive:
            np.savez(path, **{key: archive[key] for key in archive if key != "misfit"})
    else:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        table.drop(columns=["misfit_by_clnf", "misfit_off_model"]).to_csv(path, index=False)
    assert recognise(path) is formats.format_named(name)
    again = Tracks.load(path)
    assert_kept(again, tracks, tuple(item for item in KEPT[name] if item != "misfit"))
    assert again.misfit.shape == tracks.misfit.shape
    assert np.isnan(again.misfit).all()


@pytest.mark.parametrize("name", ["tidy-csv", "parquet", "openface"])
def test_measures_and_their_errors_come_back(tmp_path: Path, name: str) -> None:
    need(formats.format_named(name))
    tracks = tracks_of(faces(30), confidence=0.8)
    tracks.sigma[:] = np.linspace(0.5, 2, 68)
    tracks.pose[:] = [1, 0.1, 0, 0, 320, 200]
    tracks.pose[20:, 0, 0] = 1.2  # the face comes closer, and turns away
    tracks.pose[25:, 0, 2] = 0.5
    tracks.iris[:] = [250, 202, 23.54, 0.9, 390, 200, 23.54, 0.9]
    path = tmp_path / f"t{formats.format_named(name).suffixes[0]}"
    tracks.save(path)
    before, after = (measure(item, scale="iris") for item in (tracks, Tracks.load(path)))
    assert before.turned.any()
    for what in ("values", "errors", "turned", "rest"):
        np.testing.assert_array_equal(getattr(after, what), getattr(before, what))


def test_tidy_tables_from_before_poses_were_kept_are_read(tmp_path: Path) -> None:
    tracks, path = a_run(), tmp_path / "t.tidy.csv"
    tracks.save(path)
    table, added = pd.read_csv(path, dtype=str, keep_default_na=False), ("pose", "sigma", "iris")
    old = [name for name in table if not name.startswith(added)]
    assert len(old) == len(table.columns) - 6 - 1 - 8
    table[old].to_csv(path, index=False)
    again = Tracks.load(path)
    assert_kept(again, tracks, tuple(item for item in KEPT["tidy-csv"] if item not in added))
    assert np.isnan(again.sigma).all()


@pytest.mark.parametrize(
    "resaved",
    [
        lambda table: table.to_csv(sep=";", decimal=",", index=False),  # Excel in Germany
        lambda table: "sep=;\r\n" + table.to_csv(sep=";", index=False, lineterminator="\r\n"),
        lambda table: table.to_csv(sep="\t", index=False),
        lambda table: table.to_csv(quoting=csv.QUOTE_NONNUMERIC, na_rep="NA"),  # R, with names of rows
        lambda table: table[table.columns[::-1]].assign(patient="A").to_csv(index=False),
        lambda table: table.sample(frac=1, random_state=0).to_csv(index=False),
    ],
    ids=["decimal commas", "sep=", "tabs", "R", "columns", "rows"],
)
def test_tidy_tables_are_read_as_other_programs_save_them(
    tmp_path: Path, resaved: Callable[[pd.DataFrame], str]
) -> None:
    tracks, path = a_run(2), tmp_path / "t.tidy.csv"
    tracks.save(path)
    path.write_text(resaved(pd.read_csv(path)), encoding="utf-8", newline="")
    assert recognise(path) is formats.format_named("tidy-csv")
    again = Tracks.load(path)
    for name in ("landmarks", "sigma", "pose", "confidence", "timestamps"):
        np.testing.assert_allclose(getattr(again, name), getattr(tracks, name), rtol=1e-6)
    np.testing.assert_array_equal(again.source, tracks.source)
    np.testing.assert_array_equal(again.by_hand, tracks.by_hand)
    assert again.meta["models"] == "fake"


def rows(tracks: Tracks, part: Any) -> Tracks:
    return tracks.take_frames(part)


def test_single_landmarks_may_be_missing(tmp_path: Path, every_format: Format) -> None:
    if every_format.name == "pts":
        pytest.skip("has no place for landmarks that are missing")
    tracks = a_run()
    tracks.landmarks[0, 0, 5] = np.nan
    tracks.confidence[0, 0, 5] = 0
    path = tmp_path / f"t{every_format.suffixes[0]}"
    tracks.save(path)
    assert_kept(Tracks.load(path), tracks, ("landmarks", "confidence"))


def test_frames_without_any_face_and_unknown_times(tmp_path: Path, every_format: Format) -> None:
    tracks = a_run()
    for name in ("landmarks", "pose", "boxes"):
        getattr(tracks, name)[...] = np.nan
    tracks.confidence[...] = 0
    tracks.source[...] = NONE
    tracks.timestamps[...] = np.nan
    tracks = dataclasses.replace(tracks, meta={})
    path = tmp_path / f"t{every_format.suffixes[0]}"
    if every_format.name == "openface":
        pytest.skip("tested with that format: a frame has a row without numbers")
    if every_format.name == "pts":
        for place in (path, tmp_path / "folder", tmp_path / "t.pts"):
            with pytest.raises(ResultError, match="no frame has a face with all"):
                tracks.save(place, "pts")
        assert not list(tmp_path.iterdir())
        return
    tracks.save(path)
    again = Tracks.load(path)
    assert again.n_frames == 6
    assert not again.present.any()
    assert np.isnan(again.timestamps).all()


def test_the_longest_suffix_chooses_and_the_name_overrides(tmp_path: Path) -> None:
    chosen = {
        "t.csv": "openface",
        "t.tidy.csv": "tidy-csv",
        "T.DLC.CSV": "deeplabcut-csv",
        "t.h5": "deeplabcut-h5",
        "t.analysis.h5": "sleap",
        "a.b.npz": "npz",
    }
    for name, format_name in chosen.items():
        need(formats.format_named(format_name))
        assert formats.format_to_write(tmp_path / name).name == format_name
    assert formats.format_to_write("t.csv", "tidy-csv").name == "tidy-csv"
    tracks = a_run()
    tracks.save(tmp_path / "t.csv", format="tidy-csv")
    assert_kept(Tracks.load(tmp_path / "t.csv"), tracks, KEPT["tidy-csv"])
    assert_kept(Tracks.load(tmp_path / "t.csv", format="tidy-csv"), tracks, KEPT["tidy-csv"])


@pytest.mark.parametrize(
    ("path", "name", "words"),
    [
        ("t.xyz", None, "no suffix of a format"),
        ("t", None, "no suffix of a format"),
        ("t.csv", "npz", "does not end in"),
        ("t.csv", "excel", "no format 'excel'"),
    ],
)
def test_names_that_fit_no_format_are_refused(
    tmp_path: Path, path: str, name: str | None, words: str
) -> None:
    with pytest.raises(ResultError, match=words):
        a_run().save(tmp_path / path, format=name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("item", [item for item in FORMATS if item.needs], ids=lambda item: item.name)
def test_a_missing_library_is_asked_for(
    tmp_path: Path, item: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    for library in item.needs:
        monkeypatch.setitem(sys.modules, library, None)
    path = tmp_path / f"t{item.suffixes[0]}"
    with pytest.raises(ResultError, match=r'pip install "napari-face-landmarks\[formats\]"') as caught:
        a_run().save(path)
    assert str(path) in str(caught.value)
    assert not list(tmp_path.iterdir())
    path.write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(ResultError, match="pip install"):
        Tracks.load(path)


def test_optional_libraries_stay_out_of_the_way() -> None:
    code = (
        "import sys, napari_face_landmarks.io, napari_face_landmarks.napari_plugin.readers_writers\n"
        "sys.exit(bool({'napari', 'h5py', 'xarray', 'tables', 'pandas', 'matplotlib'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# what other programs read


def test_deeplabcut_csv_is_what_pandas_reads(tmp_path: Path) -> None:
    one, three = a_run(1), a_run(3)
    one.landmarks[0] = np.nan  # a first row without numbers is not to be taken for a header
    one.save(tmp_path / "1.dlc.csv")
    three.save(tmp_path / "3.dlc.csv")
    table = pd.read_csv(tmp_path / "1.dlc.csv", header=[0, 1, 2], index_col=0)
    assert table.columns.names == ["scorer", "bodyparts", "coords"]
    assert table.shape == (6, 68 * 3)
    x = table["napari-face-landmarks_fake"]["right_eye_36"]["x"].to_numpy(np.float32)
    np.testing.assert_array_equal(x, one.landmarks[:, 0, 36, 0])
    table = pd.read_csv(tmp_path / "3.dlc.csv", header=[0, 1, 2, 3], index_col=0)
    assert table.columns.names == ["scorer", "individuals", "bodyparts", "coords"]
    assert table.columns[3 * 68 + 5] == ("napari-face-landmarks_fake", "face_1", "jaw_01", "likelihood")
    found = table["napari-face-landmarks_fake"]["face_1"]["jaw_01"]["likelihood"].to_numpy(np.float32)
    np.testing.assert_array_equal(found, three.confidence[:, 1, 1])


@pytest.mark.parametrize("kind", ["fixed", "table"])
def test_deeplabcut_h5_is_what_pandas_reads_and_writes(tmp_path: Path, kind: Any) -> None:
    need(formats.format_named("deeplabcut-h5"))
    tracks = a_run(2, first=3)
    tracks.save(tmp_path / "t.h5")
    table = pd.read_hdf(tmp_path / "t.h5")
    assert table.columns.names == ["scorer", "individuals", "bodyparts", "coords"]
    assert table.shape == (9, 2 * 68 * 3)
    y = table["napari-face-landmarks_fake"]["face_1"]["jaw_16"]["y"].to_numpy(np.float32)
    np.testing.assert_array_equal(y[3:], tracks.landmarks[:, 1, 16, 1])
    table.to_hdf(tmp_path / "theirs.h5", key="df_with_missing", format=kind, mode="w")
    again = Tracks.load(tmp_path / "theirs.h5")
    np.testing.assert_array_equal(again.landmarks[3:], tracks.landmarks)
    np.testing.assert_array_equal(again.confidence[3:], tracks.confidence)


def test_bodyparts_go_by_the_number_in_their_name(tmp_path: Path) -> None:
    tracks = a_run()
    tracks.save(tmp_path / "t.dlc.csv")
    table = pd.read_csv(tmp_path / "t.dlc.csv", header=[0, 1, 2], index_col=0)
    shuffled = np.random.default_rng(0).permutation(table.shape[1])
    table.iloc[:, shuffled].to_csv(tmp_path / "s.csv")
    np.testing.assert_array_equal(Tracks.load(tmp_path / "s.csv").landmarks, tracks.landmarks)
    names = {name: f"part {chr(65 + k // 26)}{chr(97 + k % 26)}" for k, name in enumerate(LANDMARK_NAMES)}
    table.rename(columns=names, level=1).to_csv(tmp_path / "n.csv")
    np.testing.assert_array_equal(Tracks.load(tmp_path / "n.csv").landmarks, tracks.landmarks)


def test_numbers_in_names_give_the_order() -> None:
    assert order_by_number(["face_1", "face_0"]).tolist() == [1, 0]
    assert order_by_number(["left", "right"]).tolist() == [0, 1]
    assert order_by_number(["p1", "p3"]).tolist() == [0, 1]
    assert order_by_number(LANDMARK_NAMES).tolist() == list(range(68))


def test_sleap_file_has_the_axes_of_sleap(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    tracks = a_run(2)
    tracks.save(tmp_path / "t.analysis.h5")
    with h5py.File(tmp_path / "t.analysis.h5") as file:
        assert file["tracks"].shape == (2, 2, 68, 6)
        assert file["point_scores"].shape == (2, 68, 6)
        assert file["track_occupancy"].shape == (6, 2)
        assert file["instance_scores"].shape == file["tracking_scores"].shape == (2, 6)
        assert file["track_names"][:].tolist() == [b"face_0", b"face_1"]
        assert file["node_names"][36] == b"right_eye_36"
        assert file["edge_names"].shape == (*file["edge_inds"].shape,)
        assert [b"jaw_00", b"jaw_01"] in file["edge_names"][:].tolist()
        np.testing.assert_array_equal(file["tracks"][1, 0, 30], tracks.landmarks[:, 1, 30, 0])
        np.testing.assert_array_equal(file["track_occupancy"][:], tracks.present)
        assert json.loads(file["provenance"][()])["fps"] == 29.97


def test_sleaps_other_order_of_axes_is_read(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    tracks = a_run(2)
    with h5py.File(tmp_path / "t.h5", "w") as file:
        file["tracks"] = tracks.landmarks
        file["tracks"].attrs["dims"] = json.dumps(["frame", "track", "node", "xy"])
        file["point_scores"] = tracks.confidence
        file["track_occupancy"] = tracks.present
        file["track_names"] = np.array(["b", "a"], dtype="S")
        file["node_names"] = list(LANDMARK_NAMES)
    assert_kept(Tracks.load(tmp_path / "t.h5"), tracks, ("landmarks", "confidence"))


def test_xarray_dataset_is_movements(tmp_path: Path) -> None:
    xarray = pytest.importorskip("xarray")
    tracks = a_run(2, first=10)
    dataset = tracks.to_xarray()
    assert isinstance(dataset, xarray.Dataset)
    assert dataset["position"].dims == ("time", "space", "keypoint", "individual")
    assert dataset["confidence"].dims == ("time", "keypoint", "individual")
    assert dataset.attrs["ds_type"] == "poses"
    assert dataset.attrs["time_unit"] == "seconds"
    assert dataset.attrs["fps"] == 29.97
    assert dataset.attrs["source_software"] == "napari-face-landmarks"
    nose = dataset["position"].sel(space="y", keypoint="nose_bridge_30", individual="face_1")
    np.testing.assert_array_equal(nose, tracks.landmarks[:, 1, 30, 1])
    np.testing.assert_array_equal(dataset["time"], tracks.timestamps)
    tracks.timestamps[:] = np.nan
    plain = to_xarray(dataclasses.replace(tracks, meta={}))
    assert plain.attrs["time_unit"] == "frames"
    assert plain["time"].to_numpy().tolist() == list(range(10, 16))


NAMED = ["Müller, Anna", "visit 0", 'a "b"']
WITH_NAMES = ("deeplabcut-csv", "deeplabcut-h5", "sleap", "movement")


def individuals_in(path: Path, name: str) -> list[str]:
    """Return the names as other programs see them."""
    if name == "sleap":
        with pytest.importorskip("h5py").File(path) as file:
            return [text.decode() for text in file["track_names"][:]]
    if name == "movement":
        dataset = pytest.importorskip("xarray").open_dataset(path, engine="h5netcdf")
        return [str(text) for text in dataset["individual"].to_numpy()]
    table = pd.read_csv(path, header=[0, 1, 2, 3], index_col=0) if name[-1] == "v" else pd.read_hdf(path)
    return list(table.columns.get_level_values("individuals").unique())


@pytest.mark.parametrize("name", WITH_NAMES)
def test_names_of_faces_are_those_of_the_individuals(tmp_path: Path, name: str) -> None:
    item = formats.format_named(name)
    need(item)
    tracks, path = a_run(3), tmp_path / f"t{item.suffixes[0]}"
    tracks.save(path)
    assert individuals_in(path, name) == ["face_0", "face_1", "face_2"]
    assert "face_names" not in Tracks.load(path).meta
    tracks = dataclasses.replace(tracks, meta={**tracks.meta, "face_names": NAMED})
    tracks.save(path)
    assert individuals_in(path, name) == NAMED
    again = Tracks.load(path)
    assert again.meta["face_names"] == NAMED
    assert_kept(again, tracks, ("landmarks", "confidence"))


@pytest.mark.parametrize("name", WITH_NAMES)
def test_numbers_in_names_do_not_change_the_order_of_faces(tmp_path: Path, name: str) -> None:
    item = formats.format_named(name)
    need(item)
    tracks, path = a_run(3), tmp_path / f"t{item.suffixes[0]}"
    named = ["visit 2", "visit 0", "visit 1"]
    dataclasses.replace(tracks, meta={**tracks.meta, "face_names": named}).save(path)
    again = Tracks.load(path)
    assert again.meta["face_names"] == named
    assert_kept(again, tracks, KEPT[name])


@pytest.mark.parametrize(
    ("given", "written"),
    [
        (None, ["face_0", "face_1"]),
        ("ab", ["face_0", "face_1"]),
        (["Anna"], ["Anna", "face_1"]),
        (["Anna", ""], ["Anna", "face_1"]),
        (["Anna", "Anna"], ["Anna_2", "Anna"]),
        (["face_1", None], ["face_1", "None"]),
        (["a\nb\0\t c ", "\ud800"], ["a b c", "?"]),
        (["x" * 5000, "y"], ["x" * 100, "y"]),
        (["single", 7], ["single_face", "7"]),
        (["a", "b", "c"], ["a", "b"]),
    ],
)
def test_names_in_files_are_sane_and_each_once(given: Any, written: list[str]) -> None:
    assert names_in_files(given, 2) == written


def test_names_from_elsewhere_are_taken_and_a_single_face_keeps_its_own(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    pytest.importorskip("tables")
    two, one = a_run(2), a_run(1)
    two.save(tmp_path / "t.dlc.csv")
    text = (tmp_path / "t.dlc.csv").read_text().replace("face_0", "mouse1").replace("face_1", "mouse0")
    (tmp_path / "t.dlc.csv").write_text(text)
    again = Tracks.load(tmp_path / "t.dlc.csv")
    assert again.meta["face_names"] == ["mouse1", "mouse0"]
    assert_kept(again, two, ("landmarks",))
    dataclasses.replace(one, meta={**one.meta, "face_names": ["Anna"]}).save(tmp_path / "t.dlc.h5")
    assert Tracks.load(tmp_path / "t.dlc.h5").meta["face_names"] == ["Anna"]
    assert pd.read_hdf(tmp_path / "t.dlc.h5").columns.nlevels == 3


def test_older_names_are_read_and_classic_netcdf_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("xarray")
    pytest.importorskip("h5netcdf")
    tracks = a_run(2)
    dataset = tracks.to_xarray()[["position", "confidence"]].drop_vars("frame")
    dataset = dataset.rename(keypoint="keypoints", individual="individuals")
    dataset.attrs = {"ds_type": "poses", "fps": 29.97, "time_unit": "seconds"}
    dataset.to_netcdf(tmp_path / "t.nc", engine="h5netcdf")
    again = Tracks.load(tmp_path / "t.nc")
    assert_kept(again, tracks, ("landmarks", "confidence", "frame_indices", "timestamps"))
    dataset.to_netcdf(tmp_path / "classic.nc", engine="scipy")
    with pytest.raises(ResultError, match=r"classic netCDF file, which is not read: save it as netCDF 4"):
        Tracks.load(tmp_path / "classic.nc")


def test_netcdf_of_other_programs_is_read(tmp_path: Path) -> None:
    """Its axes in another order, by their numbers; without numbers, in movement's; bare dimensions."""
    pytest.importorskip("xarray")
    pytest.importorskip("h5netcdf")
    h5py = pytest.importorskip("h5py")
    tracks, path = a_run(2), tmp_path / "t.nc"
    dataset = tracks.to_xarray()[["position", "confidence"]].drop_vars(["frame", "space"])
    dataset.attrs = {"ds_type": "poses", "fps": 29.97, "time_unit": "seconds"}
    kept = ("landmarks", "confidence", "frame_indices", "timestamps")
    dataset.transpose("keypoint", "individual", "time", "space").to_netcdf(path, engine="h5netcdf")
    assert_kept(Tracks.load(path), tracks, kept)
    dataset.rename(keypoint="keypoints", individual="individuals").to_netcdf(path, engine="h5netcdf")
    assert_kept(Tracks.load(path), tracks, kept)
    with h5py.File(path, "r+") as file:
        for item in file.values():
            for name in ("_Netcdf4Coordinates", "_Netcdf4Dimid"):
                item.attrs.pop(name, None)
    assert_kept(Tracks.load(path), tracks, kept)
    with h5py.File(path, "r+") as file:
        file["pose"] = np.zeros((3, 3, 3, 3))  # of another meaning
    assert_kept(Tracks.load(path), tracks, kept)
    with h5py.File(path, "r+") as file:
        file["position"].attrs["scale_factor"] = 0.5
    with pytest.raises(ResultError, match="packed"):
        Tracks.load(path)


def test_netcdf_with_other_marks_of_what_is_missing(tmp_path: Path) -> None:
    pytest.importorskip("xarray")
    pytest.importorskip("h5netcdf")
    tracks, path = a_run(2), tmp_path / "t.nc"
    encoding = {name: {"_FillValue": np.float32(-1)} for name in ("position", "confidence")}
    tracks.to_xarray().to_netcdf(path, engine="h5netcdf", encoding=encoding)
    assert np.isnan(tracks.landmarks).any()
    assert_kept(Tracks.load(path), tracks, ("landmarks", "confidence"))


def test_a_netcdf_file_that_is_refused_is_closed(tmp_path: Path) -> None:
    """HDF5 takes a file that is saved anew in its place for the one it still has open."""
    h5py = pytest.importorskip("h5py")
    pytest.importorskip("h5netcdf")
    path = tmp_path / "t.nc"
    a_run(2).save(path)
    with h5py.File(path, "r+") as file:
        file["position"].attrs["_Netcdf4Coordinates"] = [7, 8, 9, 10]
    for _ in range(2):
        with pytest.raises(ResultError, match="no dimensions that fit"):
            Tracks.load(path)
        assert h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE) == 0


MOVEMENT = """
import json, sys
import numpy as np
import xarray
from movement.io import load_poses, save_poses
from movement.kinematics import compute_speed
from movement.validators.datasets import ValidPosesInputs
from pathlib import Path

folder = Path(sys.argv[1])
truth = np.load(folder / "truth.npy")
datasets = {
    "t.nc": xarray.open_dataset(folder / "t.nc"),
    "t.dlc.h5": load_poses.from_dlc_file(folder / "t.dlc.h5", fps=25),
    "t.dlc.csv": load_poses.from_dlc_file(folder / "t.dlc.csv", fps=25),
    "t.analysis.h5": load_poses.from_sleap_file(folder / "t.analysis.h5", fps=25),
}
for name, dataset in datasets.items():
    ValidPosesInputs.validate(dataset)
    position = dataset.position.transpose("time", "individual", "keypoint", "space").to_numpy()
    np.testing.assert_array_equal(position.astype(np.float32), truth, err_msg=name)
    assert np.isfinite(compute_speed(dataset.position)).any(), name
    assert list(dataset.individual.values) == ["Müller, Anna", "visit 0"], name
save_poses.to_dlc_file(datasets["t.nc"], folder / "m.h5", split_individuals=False)
save_poses.to_dlc_file(datasets["t.nc"], folder / "m.csv", split_individuals=False)
save_poses.to_sleap_analysis_file(datasets["t.nc"], folder / "m.analysis.h5")
datasets["t.dlc.h5"].to_netcdf(folder / "m.nc")
"""


def test_movement_itself_reads_and_writes_the_files(tmp_path: Path) -> None:
    """Needs movement 0.17 or newer here, or in the Python that the variable MOVEMENT_PYTHON names."""
    python = os.environ.get("MOVEMENT_PYTHON", sys.executable)
    asked = "import importlib.metadata as m; print(m.version('movement'))"
    version = subprocess.run(
        [python, "-c", asked], capture_output=True, text=True, check=False
    ).stdout.strip()
    if not version:
        pytest.skip("movement is not installed")
    if tuple(int(part) for part in version.split(".")[:2]) < (0, 17):
        pytest.skip(f"movement {version} names the dimensions otherwise: 0.17 or newer is needed")
    tracks = a_run(2)
    tracks = dataclasses.replace(tracks, meta={**tracks.meta, "face_names": NAMED[:2]})
    for name in ("t.nc", "t.dlc.h5", "t.dlc.csv", "t.analysis.h5"):
        need(formats.format_to_write(name))
        tracks.save(tmp_path / name)
    np.save(tmp_path / "truth.npy", tracks.landmarks)
    done = subprocess.run(
        [python, "-c", MOVEMENT, str(tmp_path)], capture_output=True, text=True, timeout=250, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for name in ("m.h5", "m.csv", "m.analysis.h5", "m.nc"):
        again = Tracks.load(tmp_path / name)
        assert_kept(again, tracks, ("landmarks",))
        assert again.meta["face_names"] == NAMED[:2]
        np.testing.assert_allclose(again.confidence, tracks.confidence, atol=1e-6)


def test_parquet_and_tidy_csv_are_the_table(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    tracks = a_run(2)
    tracks.save(tmp_path / "t.parquet")
    tracks.save(tmp_path / "t.tidy.csv")
    table = to_tidy(tracks)
    assert len(table) == 6 * 2 * 68
    for read in (pd.read_parquet(tmp_path / "t.parquet"), pd.read_csv(tmp_path / "t.tidy.csv")):
        assert list(read.columns) == list(table.columns)
        np.testing.assert_allclose(read["x"], table["x"], rtol=1e-6)
        assert read["source"].astype(str).tolist() == table["source"].astype(str).tolist()
    wide = table[table["face"] == 1].pivot(index="frame", columns="landmark", values="y")
    np.testing.assert_array_equal(wide.to_numpy(), tracks.landmarks[:, 1, :, 1])


def test_pts_files_are_those_of_300w(tmp_path: Path) -> None:
    tracks = a_run(1, first=6)
    tracks.save(tmp_path / "t.zip")
    with zipfile.ZipFile(tmp_path / "t.zip") as archive:
        assert archive.namelist() == ["000007.pts", "000009.pts", "000010.pts", "000011.pts", "000012.pts"]
        lines = archive.read("000007.pts").decode().splitlines()
    assert lines[:3] == ["version: 1", "n_points:  68", "{"]
    assert lines[-1] == "}"
    first = np.array(lines[3].split(), float)
    np.testing.assert_allclose(first, tracks.landmarks[0, 0, 0] + 1, atol=1e-5)  # MATLAB counts from 1
    assert len(lines) == 3 + 68 + 1


def test_pts_in_a_folder_and_alone(tmp_path: Path) -> None:
    tracks = a_run(2)
    tracks.save(tmp_path / "frames", format="pts")
    assert (tmp_path / "frames" / "000001_face_1.pts").is_file()
    assert recognise(tmp_path / "frames") is formats.format_named("pts")
    np.testing.assert_allclose(
        Tracks.load(tmp_path / "frames").landmarks, tracks.landmarks[[0, 2, 3, 4, 5]], atol=1e-5
    )
    with pytest.raises(ResultError, match="exists: give the name"):
        tracks.save(tmp_path / "frames", format="pts")
    one = rows(a_run(1), slice(0, 1))
    one.save(tmp_path / "face.pts")
    np.testing.assert_allclose(Tracks.load(tmp_path / "face.pts").landmarks, one.landmarks, atol=1e-5)
    with pytest.raises(ResultError, match=r"ends in \.zip"):
        tracks.save(tmp_path / "faces.pts")
    (tmp_path / "frames" / "a_picture.pts").write_bytes((tmp_path / "face.pts").read_bytes())
    assert Tracks.load(tmp_path / "frames").n_frames == 11  # other names: each is a frame


# what is not to be trusted


@pytest.mark.parametrize("damage", ["half", "noise", "empty", "zeros"])
def test_damaged_files_are_refused_in_one_sentence(tmp_path: Path, every_format: Format, damage: str) -> None:
    path = tmp_path / f"t{every_format.suffixes[0]}"
    a_run().save(path)
    whole = path.read_bytes()
    noise = np.random.default_rng(0).integers(0, 256, len(whole), dtype=np.uint8).tobytes()
    changed = {
        "half": whole[: len(whole) // 2 - 3],
        "noise": whole[:64] + noise[64:],
        "empty": b"",
        "zeros": bytes(len(whole)),
    }
    path.write_bytes(changed[damage])
    recognise(path)
    with pytest.raises(ResultError, match=path.name) as caught:
        Tracks.load(path)
    assert "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(ResultError, match=path.name):
        Tracks.load(path)


class Bomb:
    def __reduce__(self) -> Any:
        return os.system, ("touch bombed",)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_pickles_in_deeplabcuts_files_are_read_and_not_run(
    tmp_path: Path, protocol: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    h5py = pytest.importorskip("h5py")
    need(formats.format_named("deeplabcut-h5"))
    monkeypatch.chdir(tmp_path)
    tracks = a_run()
    tracks.save("t.h5")
    table = pd.read_hdf("t.h5")
    table.to_hdf("theirs.h5", key="df_with_missing", format="table", mode="w")
    with h5py.File("theirs.h5", "r+") as file:
        attributes = file["df_with_missing/table"].attrs
        columns = pickle.loads(attributes["values_block_0_kind"])
        attributes["values_block_0_kind"] = np.void(pickle.dumps(columns, protocol))
    assert_kept(Tracks.load("theirs.h5"), tracks, ("landmarks",))
    with h5py.File("theirs.h5", "r+") as file:
        attributes = file["df_with_missing/table"].attrs
        attributes["values_block_0_kind"] = np.void(pickle.dumps([*columns[:-1], Bomb()], protocol))
    with pytest.raises(ResultError, match=r"in a pickle that is not plain data \(it names \w+.system\)"):
        Tracks.load("theirs.h5")
    assert not Path("bombed").exists()


@pytest.mark.parametrize(
    "pickled",
    [
        b"]r\xff\xff\xff\x7f.",  # a list, remembered as the 2,147,483,647th: would take 32 GB
        b"]",  # breaks off
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f].",  # a frame of 8 EB
        b"\x82\x01.",  # an extension, which would be looked for in a registry
        b"Pname\n.",  # what lies outside it
        b"cos\nsystem\n.",
        pickle.dumps({"not": "a list"}),
        pickle.dumps([("scorer", "x" * 1000, "x")] * 204),
    ],
)
def test_pickles_of_anything_but_short_names_are_refused(tmp_path: Path, pickled: bytes) -> None:
    h5py = pytest.importorskip("h5py")
    need(formats.format_named("deeplabcut-h5"))
    path = tmp_path / "t.h5"
    a_run().save(path)
    pd.read_hdf(path).to_hdf(path, key="df_with_missing", format="table", mode="w")
    with h5py.File(path, "r+") as file:
        file["df_with_missing/table"].attrs["values_block_0_kind"] = np.void(pickled)
    with pytest.raises(ResultError, match=r"t\.h5 (stores its column names in a pickle|has damaged column)"):
        Tracks.load(path)


def links_out(file: Any, h5py: Any, name: str) -> None:
    del file[name]
    file[name] = h5py.ExternalLink("other.h5", f"/{name}")


def stores_elsewhere(file: Any, h5py: Any, name: str) -> None:
    shape, dtype = file[name].shape, file[name].dtype
    del file[name]
    file.create_dataset(name, shape, dtype, external=[("raw.bin", 0, h5py.h5f.UNLIMITED)])


def claims_too_much(file: Any, h5py: Any, name: str) -> None:
    shape = (*file[name].shape[:-1], 1_500_000)
    del file[name]
    file.create_dataset(name, shape, "f4", chunks=(1,) * (len(shape) - 1) + (1024,))


@pytest.mark.parametrize("attack", [links_out, stores_elsewhere, claims_too_much])
def test_hdf5_files_cannot_reach_out_or_claim_more_than_they_hold(
    tmp_path: Path, attack: Callable[[Any, Any, str], None]
) -> None:
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "t.analysis.h5"
    tracks = a_run()
    tracks.save(path)
    tracks.save(tmp_path / "other.h5", format="sleap")
    (tmp_path / "raw.bin").write_bytes(bytes(1 << 16))
    with h5py.File(path, "r+") as file:
        attack(file, h5py, "tracks")
    with pytest.raises(ResultError, match=r"t\.analysis\.h5"):
        Tracks.load(path)


def test_what_is_out_of_range_is_refused(tmp_path: Path) -> None:
    tracks = a_run()
    table = to_tidy(tracks)
    path = tmp_path / "t.tidy.csv"
    for column, value in (
        ("frame", -1),
        ("face", 5000),
        ("landmark", 68),
        ("x", np.inf),
        ("confidence", 2.0),
        ("source", "guess"),
        ("time", np.inf),
    ):
        wrong = table.astype({"source": str})
        wrong.loc[3, column] = value
        wrong.to_csv(path, index=False)
        with pytest.raises(ResultError, match=r"t\.tidy\.csv"):
            Tracks.load(path)
    pd.concat([table, table[:1]]).to_csv(path, index=False)
    with pytest.raises(ResultError, match="more than once"):
        Tracks.load(path)
    path = tmp_path / "t.dlc.csv"
    tracks.save(path)
    lines = path.read_text().splitlines()
    for k, text in (
        (3, "0.5" + lines[3][1:]),
        (4, lines[4] + ",1"),
        (2, lines[2].replace(",likelihood", ",z")),
    ):
        path.write_text("\n".join([*lines[:k], text, *lines[k + 1 :]]))
        with pytest.raises(ResultError, match=r"t\.dlc\.csv"):
            Tracks.load(path)


def test_what_is_something_else_is_not_recognised(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros(3))
    (tmp_path / "a.csv").write_text("index,axis-0,axis-1\n0,1,2\n")
    (tmp_path / "b.csv").write_bytes(b"\xff\x00" * 100)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("letter.txt", "Dear reader")
    (tmp_path / "a.h5").write_bytes(b"\x89HDF\r\n\x1a\n and no more")
    (tmp_path / "a.nc").write_text("letter")
    (tmp_path / "a.pts").write_text("letter")
    (tmp_path / "folder").mkdir()
    for path in [*tmp_path.iterdir(), tmp_path / "missing.csv", tmp_path / "missing.h5"]:
        assert recognise(path) is None, path


# the command line, and a run at a glance


def test_convert_goes_from_any_format_to_any(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("h5py")
    tracks = a_run(2)
    tracks.save(tmp_path / "t.npz")
    assert cli.main(["convert", str(tmp_path / "t.npz"), str(tmp_path / "new" / "t.analysis.h5")]) == 0
    assert "SLEAP analysis H5; not kept" in capsys.readouterr().err
    words = ["convert", str(tmp_path / "new" / "t.analysis.h5"), str(tmp_path / "t.csv"), "--format"]
    assert cli.main([*words, "tidy-csv"]) == 0
    assert_kept(Tracks.load(tmp_path / "t.csv"), tracks, KEPT["tidy-csv"])
    for wrong in (
        [*words, "excel"],
        [*words, "npz"],
        ["convert", str(tmp_path / "none.csv"), str(tmp_path / "u.npz")],
        ["convert", str(tmp_path / "t.npz"), str(tmp_path / "t.npz")],
        ["convert", str(tmp_path / "t.npz"), str(tmp_path / "t.txt")],
    ):
        capsys.readouterr()
        assert cli.main(wrong) == 2
        said = capsys.readouterr().err.strip()
        assert "\n" not in said
        assert said.endswith(".")
    assert_kept(Tracks.load(tmp_path / "t.npz"), tracks, ARRAYS)


def test_formats_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["formats"]) == 0
    listed = capsys.readouterr().out
    for item in FORMATS:
        assert f"{item.name}: {item.title}" in listed


def test_a_format_that_cannot_be_written_is_refused_before_tracking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert cli.main(["track", "missing.mp4", "-o", str(tmp_path / "t.analysis.h5")]) == 2
    assert "pip install h5py" in capsys.readouterr().err


def test_plot_shows_confidence_pose_and_movement(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    tracks = a_run(2)
    figure = tracks.plot()
    above, middle, below = figure.axes
    lines = {line.get_label(): line for line in above.lines}
    np.testing.assert_allclose(lines["face 1"].get_ydata()[0], tracks.confidence[0, 1].mean(), rtol=1e-6)
    assert np.isnan(lines["face 1"].get_ydata()[1])
    yaw = next(line for line in middle.lines if line.get_label() == "yaw, face 0")
    np.testing.assert_allclose(yaw.get_ydata()[0], np.degrees(tracks.pose[0, 0, 2]), rtol=1e-6)
    moved = np.linalg.norm(tracks.landmarks[3, 0] - tracks.landmarks[2, 0], axis=-1).mean()
    np.testing.assert_allclose(below.lines[0].get_ydata()[3], moved, rtol=1e-5)
    assert below.get_xlabel() == "time (s)"
    figure.savefig(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 5000


def test_plot_without_matplotlib_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ResultError, match=r"napari-face-landmarks\[plot\]"):
        a_run().plot()


def test_a_notebook_shows_a_summary() -> None:
    tracks = dataclasses.replace(a_run(2), warnings=("<b>broken",))
    tracks.source[0] = MANUAL
    text = tracks._repr_html_()
    assert "6 at 29.97 per second" in text
    assert f"{int((tracks.source == MANUAL).sum())} manual" in text
    assert "&lt;b&gt;broken" in text


def test_a_run_without_a_face_comes_back_without_one(tmp_path: Path, every_format: Format) -> None:
    need(every_format)
    empty = delete_face(a_run(), 0)
    assert empty.n_faces == 0
    path, source = tmp_path / f"empty{every_format.suffixes[0]}", tmp_path / "source.npz"
    empty.save(source)
    if every_format.name == "pts":  # has a file for each face, and none for none
        with pytest.raises(ResultError, match="no frame has a face with all"):
            empty.save(path)
        assert not path.exists()
        return
    if every_format.name != "npz":
        assert cli.main(["convert", str(source), str(path)]) == 0
        assert not Tracks.load(path).present.any()
    empty.save(path, every_format.name)
    again = Tracks.load(path, every_format.name)
    assert again.n_frames == empty.n_frames
    assert not again.present.any()


def test_a_run_without_frames_is_not_written(tmp_path: Path, every_format: Format) -> None:
    need(every_format)
    path = tmp_path / f"none{every_format.suffixes[0]}"
    nothing = rows(a_run(), slice(0, 0))
    if every_format.name == "npz":
        nothing.save(path)
        assert Tracks.load(path).n_frames == 0
        return
    with pytest.raises(ResultError, match="no frames in the result"):
        nothing.save(path, every_format.name)
    assert not path.exists()


def test_a_folder_that_may_not_be_read_is_told_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pathlib's own `exists` and `is_file` raise in such a folder."""

    def refused(self: Path, *arguments: Any, **options: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(self))

    for name in ("exists", "is_file", "is_dir", "stat"):
        monkeypatch.setattr(Path, name, refused)
    with pytest.raises(ResultError):
        formats.read_tracks(tmp_path / "talk.csv")
