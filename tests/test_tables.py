"""Tables of other people: DeepLabCut's, OpenFace's, py-feat's and SLEAP's, as they come."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from napari_face_landmarks import Tracks
from napari_face_landmarks.data.fields import MANUAL, NONE
from napari_face_landmarks.errors import ResultError
from napari_face_landmarks.io import read_tracks, recognise

K = np.arange(68)
FACE = np.stack([100.0 + 3 * K, 50.0 + (K * 37) % 90], axis=-1)
"""Each landmark has a place of its own."""
FRAMES = np.stack([FACE, FACE + 1, FACE + 2])
XY = [f"x_{i}" for i in K] + [f"y_{i}" for i in K]


def deeplabcut(names: list[str], likelihood: bool = True) -> pd.DataFrame:
    """Return a table of bodyparts `names`, which are in the order of the landmarks, sorted by name."""
    coords = ("x", "y", "likelihood") if likelihood else ("x", "y")
    order = sorted(range(68), key=names.__getitem__)
    columns = [("me", names[i], coord) for i in order for coord in coords]
    rows = [[value for i in order for value in (*frame[i], 0.9)[: len(coords)]] for frame in FRAMES]
    return pd.DataFrame(
        rows, columns=pd.MultiIndex.from_tuples(columns, names=["scorer", "bodyparts", "coords"])
    )


@pytest.mark.parametrize("name", ["p{}", "{}", "face landmark-{}", "LM{:03d}"])
@pytest.mark.parametrize("first", [0, 1])
def test_numbered_bodyparts_are_these_landmarks_in_any_order(name: str, first: int, tmp_path: Path) -> None:
    deeplabcut([name.format(i + first) for i in K]).to_csv(tmp_path / "t.csv")
    tracks = read_tracks(tmp_path / "t.csv")
    np.testing.assert_allclose(tracks.landmarks[:, 0], FRAMES)


def by_hand(parts: bool) -> pd.DataFrame:
    table = deeplabcut([f"p{i + 1}" for i in K], likelihood=False)
    table.iloc[1, :2] = np.nan
    names = [("labeled-data", "clip", f"img{number:04d}.png") for number in (7, 12, 30)]
    table.index = pd.MultiIndex.from_tuples(names) if parts else pd.Index(["/".join(name) for name in names])
    return table


@pytest.mark.parametrize("parts", [True, False])
@pytest.mark.parametrize("kind", ["csv", "h5"])
def test_labels_placed_by_hand_are_manual(parts: bool, kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"CollectedData_me.{kind}"
    if kind == "csv":
        by_hand(parts).to_csv(path)
    else:
        pytest.importorskip("tables")
        by_hand(parts).to_hdf(path, key="df_with_missing", mode="w")
    tracks = read_tracks(path)
    assert tracks.frame_indices.tolist() == [7, 12, 30]
    np.testing.assert_allclose(tracks.landmarks[[0, 2], 0], FRAMES[[0, 2]])
    missing = np.isnan(tracks.landmarks[1, 0]).any(axis=-1)
    assert missing.sum() == 1
    assert (tracks.confidence[1, 0] == ~missing).all()
    assert (tracks.confidence[0] == 1).all()
    assert (tracks.source == MANUAL).all()
    assert (tracks.by_hand[1, 0] == ~missing).all()


def test_labels_of_several_clips_are_refused_by_their_names(tmp_path: Path) -> None:
    table = by_hand(True)
    table.index = pd.MultiIndex.from_tuples([("labeled-data", f"clip{k}", "img1.png") for k in range(3)])
    table.to_csv(tmp_path / "t.csv")
    with pytest.raises(ResultError, match=r"labels of 3 clips .labeled-data/clip0, labeled-data/clip1"):
        read_tracks(tmp_path / "t.csv")


def test_a_table_of_other_bodyparts_says_what_it_has(tmp_path: Path) -> None:
    deeplabcut([f"p{i}" for i in K]).iloc[:, :9].to_csv(tmp_path / "t.csv")
    with pytest.raises(ResultError, match=r"has 3 bodyparts of 1 individuals .p0, p1, p10.: it must have 68"):
        read_tracks(tmp_path / "t.csv")


def openface(frames: Any, faces: Any, xy: np.ndarray[Any, Any], **columns: Any) -> pd.DataFrame:
    table = pd.DataFrame(
        {"frame": frames, "face_id": faces, "timestamp": 0.0, "confidence": 0.98, "success": 1}
    )
    table["timestamp"] = np.asarray(frames) / 25
    return table.assign(**columns).join(pd.DataFrame(xy.transpose(0, 2, 1).reshape(len(xy), -1), columns=XY))


@pytest.mark.parametrize(("separator", "decimal"), [(";", ","), ("\t", ","), (";", "."), ("\t", ".")])
def test_other_separators_are_read(separator: str, decimal: str, tmp_path: Path) -> None:
    table = openface([1, 2, 3], 0, FRAMES + 0.25)
    table.to_csv(tmp_path / "t.csv", sep=separator, decimal=decimal, index=False)
    assert recognise(tmp_path / "t.csv") is not None
    tracks = read_tracks(tmp_path / "t.csv")
    np.testing.assert_allclose(tracks.landmarks[:, 0], FRAMES + 0.25)
    np.testing.assert_allclose(tracks.timestamps, [0.04, 0.08, 0.12])
    assert tracks.frame_indices.tolist() == [0, 1, 2]
    table["x_3"] = table["x_3"].astype(object)
    table.loc[1, "x_3"] = "left"
    table.to_csv(tmp_path / "t.csv", sep=separator, decimal=decimal, index=False)
    with pytest.raises(ResultError, match="no number in line 3, column 'x_3'"):
        read_tracks(tmp_path / "t.csv")


def test_a_hundred_identities_are_read(tmp_path: Path) -> None:
    numbers = np.arange(200)
    openface(numbers + 1, numbers // 2, np.tile(FACE, (200, 1, 1))).to_csv(tmp_path / "t.csv", index=False)
    tracks = read_tracks(tmp_path / "t.csv")
    assert tracks.landmarks.shape == (200, 100, 68, 2)
    assert tracks.present.sum() == 200
    assert tracks.present[numbers, numbers // 2].all()


def test_frames_from_0_and_rows_without_numbers(tmp_path: Path) -> None:
    frames = FRAMES.copy()
    frames[1] = np.nan
    openface([0, 1, 2], 0, frames).to_csv(tmp_path / "t.csv", index=False)
    tracks = read_tracks(tmp_path / "t.csv")
    assert tracks.frame_indices.tolist() == [0, 1, 2]
    assert tracks.source[:, 0].tolist()[1] == NONE
    np.testing.assert_allclose(tracks.landmarks[[0, 2], 0], FRAMES[[0, 2]])


def test_a_table_of_facelandmarkimg_is_one_picture(tmp_path: Path) -> None:
    table = openface([1, 1, 1], [0, 1, 2], FRAMES).drop(columns=["frame", "timestamp", "success"])
    table.rename(columns={"face_id": "face"}).rename(columns=lambda name: f" {name}").to_csv(
        tmp_path / "t.csv", index=False
    )
    tracks = read_tracks(tmp_path / "t.csv")
    assert tracks.landmarks.shape == (1, 3, 68, 2)
    np.testing.assert_allclose(tracks.landmarks[0], FRAMES)
    np.testing.assert_allclose(tracks.confidence[0], 0.98)


@pytest.mark.parametrize("identity", [None, ["Person_1", "Person_0", "", "Person_0"]])
def test_tables_of_pyfeat_are_read(identity: list[str] | None, tmp_path: Path) -> None:
    xy = np.stack([FACE, FACE + 1, np.full_like(FACE, np.nan), FACE + 2])
    table = openface([3, 3, 4, 5], 0, xy).drop(columns=["face_id", "timestamp", "confidence", "success"])
    table.insert(0, "FaceScore", [0.9, 0.8, np.nan, 0.7])
    if identity is not None:
        table["Identity"] = identity
    table.to_csv(tmp_path / "t.csv")
    tracks = read_tracks(tmp_path / "t.csv")
    assert tracks.frame_indices.tolist() == [3, 4, 5]
    last = 0 if identity is None else 1
    np.testing.assert_allclose(tracks.landmarks[0], FRAMES[:2])
    np.testing.assert_allclose(tracks.landmarks[2, last], FRAMES[2])
    assert tracks.present.tolist() == [[True, True], [False, False], [last == 0, last == 1]]
    np.testing.assert_allclose(tracks.confidence[0, :, 0], [0.9, 0.8])
    assert tracks.meta.get("face_names") == (None if identity is None else ["Person_1", "Person_0"])


def sleap(tracks: list[Any]) -> pd.DataFrame:
    table = pd.DataFrame({"track": tracks, "frame_idx": [4, 4, 6], "instance.score": 0.9})
    nodes = {}
    for k in K[::-1]:
        nodes |= {f"node {k + 1}.{axis}": FRAMES[:, k, c] for c, axis in enumerate("xy")}
        nodes[f"node {k + 1}.score"] = np.full(3, 0.5)
    return table.join(pd.DataFrame(nodes))


@pytest.mark.parametrize("named", [True, False])
def test_csv_of_sleap_is_read(named: bool, tmp_path: Path) -> None:
    sleap(["anna", "ben", "ben"] if named else [np.nan] * 3).to_csv(tmp_path / "labels.csv", index=False)
    tracks = Tracks.load(tmp_path / "labels.csv")
    assert tracks.frame_indices.tolist() == [4, 6]
    np.testing.assert_allclose(tracks.landmarks[0], FRAMES[:2])
    np.testing.assert_allclose(tracks.landmarks[1, int(named)], FRAMES[2])
    assert (tracks.confidence[tracks.present] == 0.5).all()
    assert tracks.meta.get("face_names") == (["anna", "ben"] if named else None)


def test_tables_without_landmarks_say_what_they_have(tmp_path: Path) -> None:
    pd.DataFrame({"frame": [1], "AU01_r": [0.5], "gaze_0_x": [0.1]}).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(ResultError, match=r"no column 'x_0' among its 3 .frame, AU01_r, gaze_0_x"):
        read_tracks(tmp_path / "t.csv")
