"""SLEAP's analysis files: HDF5 with axes in MATLAB's order.

``tracks`` is (track, 2, node, frame), ``point_scores`` (track, node, frame), ``track_occupancy`` (frame,
track), ``instance_scores`` and ``tracking_scores`` (track, frame), from frame 0 to the last tracked one. The
group ``napari_face_landmarks`` has the data that SLEAP does not store. SLEAP's CSV files can be read, too.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.data.names import NAMES, face_identifiers, names_in_files
from napari_face_landmarks.data.tracks import Tracks, frame_rate_of
from napari_face_landmarks.errors import ResultError
from napari_face_landmarks.files.atomic import replacing
from napari_face_landmarks.files.optional import optional
from napari_face_landmarks.ibug import N_LANDMARKS, OUTLINES
from napari_face_landmarks.io import common, hdf5

AXES = {
    "tracks": ("track", "xy", "node", "frame"),
    "track_occupancy": ("frame", "track"),
    "point_scores": ("track", "node", "frame"),
    "instance_scores": ("track", "frame"),
    "tracking_scores": ("track", "frame"),
}
MAX_LENGTHS = {"track": common.MAX_FACES, "xy": 2, "node": N_LANDMARKS, "frame": common.MAX_ROWS}
CSV_START = b"track,frame_idx,"
MAX_CSV_BYTES = 4 << 30


def _edges() -> npt.NDArray[np.int64]:
    """Return the pairs of landmarks that are connected by lines, (E, 2)."""
    return np.concatenate([np.stack([line[:-1], line[1:]], axis=1) for line in OUTLINES])


def write_sleap(path: Path, tracks: Tracks) -> None:
    """Write landmarks as SLEAP's analysis file (see the module)."""
    h5py = optional("h5py", f"Writing {path}")
    landmarks, confidence = common.dense_arrays(tracks, path)
    present = np.isfinite(landmarks).all(axis=-1)
    occupied = present.any(axis=-1)
    count = np.maximum(present.sum(axis=-1), 1)
    mean = np.where(occupied, np.where(present, confidence, 0).sum(axis=-1) / count, np.nan)
    edges = _edges()
    values = {
        "tracks": landmarks.transpose(1, 3, 2, 0),
        "track_occupancy": occupied.astype(np.uint8),
        "point_scores": confidence.transpose(1, 2, 0),
        "instance_scores": mean.T.astype(np.float32),
        "tracking_scores": np.where(occupied, 1.0, np.nan).T.astype(np.float32),
    }
    provenance = {
        "software": common.SOFTWARE,
        "version": tracks.meta.get("version"),
        "fps": frame_rate_of(tracks),
    }
    content = io.BytesIO()
    with replacing(path) as temporary:
        with h5py.File(content, "w") as file:
            for name, array in values.items():
                options = hdf5.COMPRESSED if array.size else {}
                file.create_dataset(name, data=np.ascontiguousarray(array), **options)
                file[name].attrs["dims"] = json.dumps(AXES[name])
            names = names_in_files(tracks.meta.get(NAMES), tracks.n_faces)
            file["track_names"] = np.array([name.encode() for name in names], dtype="S")
            file["node_names"] = np.array(common.LANDMARK_NAMES, dtype="S")
            file["edge_names"] = np.array(common.LANDMARK_NAMES, dtype="S")[edges]
            file["edge_inds"] = edges
            file["video_path"] = str(tracks.meta.get("path", ""))
            file["video_ind"] = 0
            file["labels_path"] = ""
            file["provenance"] = json.dumps(provenance)
            file.attrs["format"] = "analysis"
            file.attrs["preset"] = "matlab"
        hdf5.write_extra(content, tracks)
        temporary.write_bytes(content.getvalue())


def is_sleap(path: Path) -> bool:
    """Return whether a file has the datasets of SLEAP's analysis files, or the columns of its CSV files."""
    if path.suffix.lower() == ".csv":
        return common.first_bytes(path, len(CSV_START)) == CSV_START
    return {"tracks", "track_occupancy", "node_names"} <= hdf5.root_names(path)


def read_sleap(path: Path) -> Tracks:
    """Read landmarks from a file of SLEAP whose tracks are faces of 68 nodes; axes may be in any order.

    Names of nodes that end in 0 to 67 are assigned to these landmarks, others in their order.
    """
    if path.suffix.lower() == ".csv":
        return _read_csv(path)
    with hdf5.reading(path) as file:
        axes = _axes(file, path)
        points = hdf5.array(file, "tracks", tuple(MAX_LENGTHS[name] for name in axes), path, kinds="f")
        points = points.transpose([axes.index(name) for name in ("frame", "track", "node", "xy")])
        if points.shape[0] * points.shape[1] > common.MAX_ROWS:
            raise ResultError(f"{path} has more tracks and frames than can be read: split it.")
        names = hdf5.texts(file, "node_names", common.MAX_ROWS, path)
        if points.shape[2:] != (N_LANDMARKS, 2) or len(names) != N_LANDMARKS:
            raise ResultError(f"{path} has {len(names)} nodes: it must have {N_LANDMARKS}.")
        scores = None
        if "point_scores" in file:
            score_axes = [name for name in axes if name != "xy"]
            scores = hdf5.array(
                file, "point_scores", tuple(MAX_LENGTHS[name] for name in score_axes), path, "f"
            )
            scores = scores.transpose([score_axes.index(name) for name in ("frame", "track", "node")])
            if scores.shape != points.shape[:3]:
                raise ResultError(f"{path}: 'point_scores' does not fit 'tracks': save the file again.")
            # SLEAP's manual landmarks have no score; their confidence is 1
            scores = np.where(np.isnan(scores) & np.isfinite(points).all(axis=-1), 1, scores)
        faces = face_identifiers(points.shape[1])
        if "track_names" in file:
            track_names = hdf5.texts(file, "track_names", common.MAX_FACES, path)
            faces = track_names if len(track_names) == len(faces) else faces
        order = np.argsort(common.face_order(faces))
        index = np.ix_(order, np.argsort(common.order_by_number(names)))
        points = points[:, index[0], index[1]]
        scores = None if scores is None else scores[:, index[0], index[1]]
        return hdf5.assemble_tracks(file, path, points, scores, [faces[face] for face in order])


def _read_csv(path: Path) -> Tracks:
    import pandas as pd

    with common.reading_table(path, "a table of SLEAP's", MAX_CSV_BYTES):
        table = pd.read_csv(path, encoding="utf-8-sig", dtype={"track": str}, **common.exact_decimals())
        nodes = [name[:-2] for name in table.columns if name.endswith(".x")]
        if len(nodes) != N_LANDMARKS:
            raise ResultError(f"{path} has {len(nodes)} nodes: it must have {N_LANDMARKS}.")
        nodes = [nodes[k] for k in np.argsort(common.order_by_number(nodes))]
        columns = [f"{node}.{suffix}" for node in nodes for suffix in ("x", "y", "score")]
        values = table.reindex(columns=columns).to_numpy(np.float64).reshape(len(table), N_LANDMARKS, 3)
        frames, t = np.unique(table["frame_idx"].to_numpy(np.int64), return_inverse=True)
    names = [str(name) for name in pd.unique(table["track"].dropna())]
    f = table["track"].map({name: k for k, name in enumerate(names)})
    if f.isna().any():  # instances without a track: faces in the order of each frame
        names, f = [], pd.Series(t).groupby(t).cumcount()
    faces = f.to_numpy(np.int64)
    n_faces = common.count_faces(path, t, faces, "track")
    grid = np.full((len(frames), n_faces, N_LANDMARKS, 3), np.nan)
    grid[t, faces] = values
    scores = np.where(np.isnan(grid[..., 2]), 1, grid[..., 2])
    arrays = {"landmarks": grid[..., :2], "confidence": np.clip(scores, 0, 1)}
    return common.make_tracks(path, arrays, frames, record=common.add_names(None, names))


def _axes(file: object, path: Path) -> tuple[str, ...]:
    """Return the names of the axes of ``tracks`` in order; MATLAB's order for old files without names."""
    dataset = hdf5.member(file, "tracks", "Dataset", path)
    dims = hdf5.attribute(dataset, "dims", path)
    if dims is None:
        return AXES["tracks"]
    try:
        axes = tuple(json.loads(dims))
    except (ValueError, TypeError, RecursionError):
        axes = ()
    if sorted(map(str, axes)) != sorted(MAX_LENGTHS):
        raise ResultError(f"{path} has axes with names other than SLEAP's: save the file again.")
    return axes
