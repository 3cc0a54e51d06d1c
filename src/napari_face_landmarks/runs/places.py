"""Which videos a batch tracks, and the names of their results."""

from __future__ import annotations

import glob
import itertools
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path

from napari_face_landmarks.errors import ResultError, VideoError
from napari_face_landmarks.files.atomic import companion_name
from napari_face_landmarks.io.formats import FORMATS
from napari_face_landmarks.runs.checkpoint import journal_of
from napari_face_landmarks.runs.job import read_record, record_of
from napari_face_landmarks.runs.summary import SUMMARY
from napari_face_landmarks.video import VIDEO_SUFFIXES
from napari_face_landmarks.video.images import is_image


def find_videos(inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[tuple[Path, Path]]:
    """Return the videos of the inputs of `track_many`, each with the folder of its result.

    A name that is neither a pattern nor a folder is a video, existing or not. Paths are absolute, unique and
    in order; folders are relative to the deepest folder that contains all inputs.
    """
    given = [inputs] if isinstance(inputs, (str, os.PathLike)) else list(inputs)
    found: dict[Path, None] = {}
    roots = []
    for item in given:
        text = os.fspath(item)
        if not text:  # a shell's variable that is not set; as a path it is the current folder
            raise VideoError("The name of a video is empty: name videos, folders or patterns.")
        path = Path(text)
        if path.is_dir():
            videos = [video for video in sorted(path.rglob("*")) if _is_video(video)]
            videos = videos or sorted({item.parent for item in path.rglob("*") if is_image(item)})
            root = path.parent if path in videos else path
            if not videos:
                raise VideoError(f"The folder {path} holds no videos: give another folder.")
        elif glob.has_magic(text) and not path.exists():
            videos = [Path(name) for name in sorted(glob.glob(text, recursive=True))]
            if not videos:
                raise VideoError(f"No file matches {text}: give another pattern.")
            videos = [video for video in videos if video.is_file()]
            root = next(folder for folder in path.parents if not glob.has_magic(str(folder)))
        else:
            root, videos = path.parent, [path]
        roots.append(os.path.abspath(root))
        found |= dict.fromkeys(map(_absolute, videos))
    if not found:
        raise VideoError("There are no videos to track: name videos, folders or patterns.")
    try:
        common = os.path.commonpath(roots)
    except ValueError:  # several drives
        return [(video, Path()) for video in found]
    return [(video, Path(os.path.relpath(os.path.abspath(video.parent), common))) for video in found]


def _absolute(path: Path) -> Path:
    """Return a path absolute and without "..", unless that leads elsewhere, as it may after a link."""
    plain = Path(os.path.abspath(path))
    if ".." in path.parts and not (plain.exists() and path.exists() and plain.samefile(path)):
        return path.absolute()
    return plain


def left_out(
    inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], output: Path, tracked: Set[Path]
) -> str:
    """Return a sentence about files in the input folders that are not tracked, or ""."""
    given = [inputs] if isinstance(inputs, (str, os.PathLike)) else list(inputs)
    files = (_absolute(item) for path in map(Path, given) if path.is_dir() for item in path.rglob("*"))
    others = {item for item in files if item.is_file() and not {item, item.parent} & tracked}
    others = {item for item in others if not item.is_relative_to(output)}
    kinds = Counter(item.suffix.lower() or "no ending" for item in others if not item.name.startswith("."))
    if not kinds:
        return ""
    most = sorted(kinds.items(), key=lambda kind: (-kind[1], not kind[0].startswith("."), kind[0]))[:8]
    named = ", ".join(f"{count} of {kind}" for kind, count in most)
    return f"Skipped, because they are not videos: {named}{', …' if len(kinds) > 8 else ''}."


def _is_video(path: Path) -> bool:
    hidden = path.name.startswith(".")
    return not hidden and path.suffix.lower() in VIDEO_SUFFIXES and path.is_file()


def recorded_outputs(folder: Path, suffix: str) -> dict[Path, Path]:
    """Return the result of each video that earlier batches tracked into a folder, by the absolute path."""
    longer = tuple(end for item in FORMATS for end in item.suffixes if len(end) > len(suffix))
    outputs = (path.with_suffix("") for path in sorted(folder.rglob(f"*{suffix}.json")))
    found = [output for output in outputs if output.is_file() and not output.name.endswith(longer)]
    videos = ((output, read_record(str(output)).get("video")) for output in found)
    return {Path(video): output for output, video in videos if isinstance(video, str)}


def place_outputs(
    videos: Sequence[tuple[Path, Path]],
    folder: Path,
    suffix: str,
    recorded: Mapping[Path, Path] | None = None,
) -> list[tuple[Path, Path]]:
    """Assign each video of `find_videos` an output, independent of the other videos of the call.

    A video with a result (`recorded_outputs`) keeps its name. A new one is named after the video, with its
    suffix if another video differs only in that, and with the name of its folder if the name is taken by
    another video's result.
    """
    recorded = recorded or {}
    read = {video for video, _ in videos}
    # the result of a video that no longer exists may be that of this one, under another name
    taken = {_same(path) for video, path in recorded.items() if video in read or video.exists()}
    taken |= {_same(folder / f"{SUMMARY}{suffix}"), _same(folder / f"{SUMMARY}.csv")}
    there = read.union(*(_videos_in(parent) for parent in {video.parent for video in read}))
    alike = Counter(_same(video.with_suffix("")) for video in there)
    known_roots = _roots(recorded, folder)
    placed = []
    for video, place in videos:
        path = recorded.get(video)
        if path is None:
            several = alike[_same(video.with_suffix(""))] > 1 or _same(Path(video.stem)) == SUMMARY
            name = video.name if several else video.stem
            paths = _names(video, folder / _place_below(known_roots, video, place), name, suffix)
            path = next(path for path in paths if _same(path) not in taken)
        taken.add(_same(path))
        if {path, record_of(path), journal_of(path)} & read:
            raise ResultError(f"{path} is one of the videos: give another folder for what is written.")
        placed.append((video, path))
    return placed


def _names(video: Path, folder: Path, name: str, suffix: str) -> Iterator[Path]:
    """Yield candidate paths of a video's result, the best first."""
    yield folder / companion_name(name, suffix)
    yield folder / (video.parent.name or "root") / companion_name(name, suffix)
    for number in itertools.count(2):
        yield folder / companion_name(f"{video.name}-{number}", suffix)


def _roots(recorded: Mapping[Path, Path], folder: Path) -> list[Path]:
    """Return the roots of earlier calls, the outermost first: the folders that `folder` mirrors."""
    roots = set()
    for video, output in recorded.items():
        place = output.parent.relative_to(folder).parts
        parts = video.parent.parts
        if parts[len(parts) - len(place) :] == place:
            roots.add(Path(*parts[: len(parts) - len(place)]))
    return sorted(roots, key=lambda root: len(root.parts))


def _place_below(roots: Sequence[Path], video: Path, place: Path) -> Path:
    """Return a video's folder below the root of an earlier call, else its place below that of this one."""
    return next((video.parent.relative_to(root) for root in roots if video.is_relative_to(root)), place)


def _videos_in(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if _is_video(path)]
    except OSError:  # the videos' own errors follow
        return []


def _same(path: Path) -> str:
    """Return a normalised text, equal for paths that some file systems do not distinguish."""
    return unicodedata.normalize("NFC", str(path)).casefold()
