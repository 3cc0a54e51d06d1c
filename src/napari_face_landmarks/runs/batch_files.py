"""The videos of a batch and the paths of their results."""

from __future__ import annotations

import glob
import itertools
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from napari_face_landmarks.errors import ResultError, VideoError
from napari_face_landmarks.files.atomic import companion_name
from napari_face_landmarks.io.formats import FORMATS
from napari_face_landmarks.runs.checkpoint import journal_of
from napari_face_landmarks.runs.job import read_record, record_of
from napari_face_landmarks.runs.summary import SUMMARY
from napari_face_landmarks.video import VIDEO_SUFFIXES
from napari_face_landmarks.video.images import is_image


def find_videos(inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[tuple[Path, Path]]:
    """Return the videos that `track_many` tracks, each with the subfolder of its result.

    A name that is neither a pattern nor a folder is a video, existing or not. Paths are absolute, unique and
    in order; subfolders are relative to the deepest folder that contains all inputs.
    """
    unique: dict[Path, None] = {}  # ordered
    roots = []
    for text in map(os.fspath, _as_list(inputs)):
        if not text:  # an unset shell variable; `Path` would mean the current folder
            raise VideoError("The name of a video is empty: name videos, folders or patterns.")
        path = Path(text)
        if path.is_dir():
            videos = [video for video in sorted(path.rglob("*")) if _is_video(video)]
            videos = videos or sorted({item.parent for item in path.rglob("*") if is_image(item)})
            root = path.parent if path in videos else path
            if not videos:
                raise VideoError(f"The folder {path} contains no videos: give another folder.")
        elif glob.has_magic(text) and not path.exists():
            videos = [Path(name) for name in sorted(glob.glob(text, recursive=True))]
            if not videos:
                raise VideoError(f"No file matches {text}: give another pattern.")
            videos = [video for video in videos if video.is_file()]
            root = next(folder for folder in path.parents if not glob.has_magic(str(folder)))
        else:
            root, videos = path.parent, [path]
        roots.append(os.path.abspath(root))
        unique |= dict.fromkeys(map(_absolute, videos))
    if not unique:
        raise VideoError("There are no videos to track: name videos, folders or patterns.")
    try:
        common = os.path.commonpath(roots)
    except ValueError:  # inputs on several drives
        return [(video, Path()) for video in unique]
    return [(video, Path(os.path.relpath(os.path.abspath(video.parent), common))) for video in unique]


def _as_list(inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[Any]:
    return [inputs] if isinstance(inputs, (str, os.PathLike)) else list(inputs)


def _absolute(path: Path) -> Path:
    """Return an absolute path; ".." is resolved unless a link changes its meaning."""
    normalized = Path(os.path.abspath(path))
    if ".." in path.parts and not (normalized.exists() and path.exists() and normalized.samefile(path)):
        return path.absolute()
    return normalized


def skipped_files(
    inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], output: Path, tracked: Set[Path]
) -> str:
    """Return a sentence that counts the files of the input folders that are not tracked, or ""."""
    folders = (path for path in map(Path, _as_list(inputs)) if path.is_dir())
    files = {_absolute(item) for folder in folders for item in folder.rglob("*")}
    skipped = {item for item in files if item.is_file() and not {item, item.parent} & tracked}
    skipped = {item for item in skipped if not (item.is_relative_to(output) or item.name.startswith("."))}
    if not skipped:
        return ""
    kinds = Counter(item.suffix.lower() or "no suffix" for item in skipped)
    most = sorted(kinds.items(), key=lambda kind: (-kind[1], not kind[0].startswith("."), kind[0]))[:8]
    counts = ", ".join(f"{count} of {kind}" for kind, count in most)
    return f"Skipped, because they are not videos: {counts}{', …' if len(kinds) > 8 else ''}."


def _is_video(path: Path) -> bool:
    hidden = path.name.startswith(".")
    return not hidden and path.suffix.lower() in VIDEO_SUFFIXES and path.is_file()


def recorded_outputs(folder: Path, suffix: str) -> dict[Path, Path]:
    """Return the results of earlier batches in a folder, by the absolute paths of their videos."""
    longer = tuple(end for item in FORMATS for end in item.suffixes if len(end) > len(suffix))
    outputs = (path.with_suffix("") for path in sorted(folder.rglob(f"*{suffix}.json")))
    existing = [output for output in outputs if output.is_file() and not output.name.endswith(longer)]
    videos = ((output, read_record(str(output)).get("video")) for output in existing)
    return {Path(video): output for output, video in videos if isinstance(video, str)}


def place_outputs(
    videos: Sequence[tuple[Path, Path]],
    folder: Path,
    suffix: str,
    recorded: Mapping[Path, Path] | None = None,
) -> list[tuple[Path, Path]]:
    """Assign each video of `find_videos` an output, independent of the other videos of the call.

    A video with a result in `recorded` (see `recorded_outputs`) keeps its name. A new result is named after
    the video, including its suffix if another video differs only in that, and after the video's folder if the
    name is taken by the result of another video.
    """
    recorded = recorded or {}
    inputs = {video for video, _ in videos}
    # a result of a video that no longer exists may belong to one of `videos` under an earlier name
    taken = {_casefolded(path) for video, path in recorded.items() if video in inputs or video.exists()}
    taken |= {_casefolded(folder / f"{SUMMARY}{suffix}"), _casefolded(folder / f"{SUMMARY}.csv")}
    existing = inputs.union(*(_videos_in(parent) for parent in {video.parent for video in inputs}))
    stems = Counter(_casefolded(video.with_suffix("")) for video in existing)
    roots = _recorded_roots(recorded, folder)
    placed = []
    for video, subfolder in videos:
        path = recorded.get(video)
        if path is None:
            ambiguous = stems[_casefolded(video.with_suffix(""))] > 1
            name = video.name if ambiguous or _casefolded(Path(video.stem)) == SUMMARY else video.stem
            paths = _candidates(video, folder / _subfolder(roots, video, subfolder), name, suffix)
            path = next(path for path in paths if _casefolded(path) not in taken)
        taken.add(_casefolded(path))
        if {path, record_of(path), journal_of(path)} & inputs:
            raise ResultError(f"{path} is one of the videos: give another output folder.")
        placed.append((video, path))
    return placed


def _candidates(video: Path, folder: Path, name: str, suffix: str) -> Iterator[Path]:
    """Yield candidate paths of a video's result in order of preference."""
    yield folder / companion_name(name, suffix)
    yield folder / (video.parent.name or "root") / companion_name(name, suffix)
    for number in itertools.count(2):
        yield folder / companion_name(f"{video.name}-{number}", suffix)


def _recorded_roots(recorded: Mapping[Path, Path], folder: Path) -> list[Path]:
    """Return the input folders whose subfolders earlier calls mirrored in `folder`, the outermost first."""
    roots = set()
    for video, output in recorded.items():
        subfolder = output.parent.relative_to(folder).parts
        parts = video.parent.parts
        if parts[len(parts) - len(subfolder) :] == subfolder:
            roots.add(Path(*parts[: len(parts) - len(subfolder)]))
    return sorted(roots, key=lambda root: len(root.parts))


def _subfolder(roots: Sequence[Path], video: Path, default: Path) -> Path:
    """Return the folder of a video relative to the first of `roots` that contains it, or the default."""
    return next((video.parent.relative_to(root) for root in roots if video.is_relative_to(root)), default)


def _videos_in(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if _is_video(path)]
    except OSError:  # reported when the videos are opened
        return []


def _casefolded(path: Path) -> str:
    """Return the same text for paths that some file systems do not distinguish."""
    return unicodedata.normalize("NFC", str(path)).casefold()
