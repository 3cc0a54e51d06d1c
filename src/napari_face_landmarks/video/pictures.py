"""Folders of pictures, stacks of pages and single photographs as videos."""

from __future__ import annotations

import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.errors import ImageError, VideoError
from napari_face_landmarks.video.container import VIDEO_SUFFIXES
from napari_face_landmarks.video.index import VideoInfo
from napari_face_landmarks.video.pixels import pixel_range_of, to_rgb8
from napari_face_landmarks.video.reader import Frame, Video

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
RATE = 25.0
"""Assumed frames per second of images, which have no time stamps."""
_FLAGS = 1 | 2  # OpenCV's IMREAD_COLOR and IMREAD_ANYDEPTH: upright, as the camera's note says
_GREY = 2  # for grey pictures of 32 bits and floats, which are not converted to colours


def pictures_in(path: str | os.PathLike[str]) -> list[Path]:
    """Return the images of a path: itself, or those of a folder without videos, 2 before 10."""
    found = Path(os.fsdecode(path))
    try:
        items = list(found.iterdir()) if found.is_dir() else [] if _is_animated(found) else [found]
        if any(item.suffix.lower() in VIDEO_SUFFIXES for item in items):  # of which one is meant
            return []
        pictures = [item for item in items if is_picture(item)]
    except OSError:
        return []
    return sorted(
        pictures, key=lambda item: [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", item.name)]
    )


def _is_animated(path: Path) -> bool:
    """Return whether a PNG or WebP file is an animation, which is read as a video."""
    if path.suffix.lower() not in (".png", ".webp"):
        return False
    with open(path, "rb") as file:
        start = file.read(4096)
    return (start[:4] == b"\x89PNG" and b"acTL" in start) or (start[8:12] == b"WEBP" and b"ANIM" in start)


def is_picture(path: Path) -> bool:
    """Return whether a path is a file with the ending of a picture that is not hidden."""
    return path.suffix.lower() in PICTURE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def read_picture(path: str | os.PathLike[str], page: int = 0) -> npt.NDArray[Any]:
    """Read an image, upright, (H, W, 3) RGB in its own bit depth."""
    from napari_face_landmarks.opencv import cv2  # only for pictures: 26 MB

    name, picture = os.fsdecode(path), None
    for flags in (_FLAGS, _GREY):
        try:
            if page:
                pages = cv2.imreadmulti(name, page, 1, flags=flags)[1]
                picture = pages[0] if pages else None
            else:
                picture = cv2.imdecode(np.fromfile(name, np.uint8), flags)
        except FileNotFoundError:
            raise ImageError(f"There is no file {name}: check the path of the picture.") from None
        except (OSError, cv2.error):
            pass
        if picture is not None:
            break
    if picture is None:
        raise ImageError(f"{name} is not a picture that can be read: give a file of type png, jpg or tif.")
    if picture.ndim == 2:
        return np.repeat(picture[:, :, None], 3, axis=2)
    return np.ascontiguousarray(picture[:, :, ::-1])


class PictureSeries(Video):
    """The images of a folder, the pages of a stack, or an image, as a video of `RATE` frames per second.

    Images of another size than the first have no frame.
    """

    def __init__(self, path: str) -> None:
        files = pictures_in(path)
        self.files = [os.fspath(file) for file in files]
        self._places = [(file, page) for file in self.files for page in range(_n_pages(file))]
        states = [os.stat(file) for file in self.files]
        try:
            first = read_picture(*self._places[0])
        except ImageError as error:
            raise VideoError(str(error)) from None
        n, middle = len(self._places), len(self._places) // 2
        seen = [first] if first.dtype == np.uint8 else [first, *map(self._read, {middle, n - 1} - {0})]
        self._range, doubt = pixel_range_of(seen)
        notes = [doubt] if doubt else []
        if n > 1:
            notes.append(f"{path} has no frame rate: {RATE:g} frames per second are assumed.")
        info = VideoInfo(path, n, first.shape[0], first.shape[1], RATE, np.arange(n) / RATE, tuple(notes))
        state = (sum(s.st_size for s in states), max(s.st_mtime_ns for s in states))
        super().__init__(SimpleNamespace(info=info, state=state))  # type: ignore[arg-type]

    @classmethod
    def _opened_again(cls, path: str, stream: int) -> Video:
        return cls(path)

    def _read(self, number: int) -> npt.NDArray[Any]:
        return read_picture(*self._places[number])

    def _frame(self, number: int) -> Frame:
        self._check_open()
        frame = to_rgb8(self._read(number), f"Frame {number}", self._range)
        if frame.shape != self.shape[1:]:
            raise ImageError(
                f"Frame {number} ({self._places[number][0]}) has {frame.shape[1]} x {frame.shape[0]} px, the "
                f"first {self.info.width} x {self.info.height}: a series has one size, track it on its own."
            )
        return frame

    def frames(self, start: int = 0, stop: int | None = None, every: int = 1) -> Any:
        """Read frames sequentially, as `Video.frames`; after an error the next one can be read."""
        stop = min(len(self), len(self) if stop is None else stop)
        return InOrder(self, range(max(0, start), stop, every))


class InOrder:
    """An iterator that continues after an error, as a generator cannot."""

    def __init__(self, pictures: Any, numbers: range) -> None:
        self._pictures, self._numbers = pictures, iter(numbers)

    def __iter__(self) -> InOrder:
        return self

    def __next__(self) -> Frame:
        frame: Frame = self._pictures[next(self._numbers)]
        return frame

    def close(self) -> None:
        """Stop here."""
        self._numbers = iter(range(0))


def _n_pages(path: str) -> int:
    if not path.lower().endswith((".tif", ".tiff")):
        return 1
    from napari_face_landmarks.opencv import cv2  # only for pictures: 26 MB

    try:
        return max(1, int(cv2.imcount(path, _FLAGS)))
    except cv2.error:
        return 1
