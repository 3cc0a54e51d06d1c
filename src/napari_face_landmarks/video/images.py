"""Image sequences as videos: folders of images, multi-page TIFF files and single images."""

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

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
FPS = 25.0
"""Frames per second assumed for images, which have no time stamps."""
_FLAGS = 1 | 2  # OpenCV's IMREAD_COLOR, which applies the EXIF orientation, and IMREAD_ANYDEPTH
_GREY_FLAGS = 2  # for 32-bit and float greyscale, which IMREAD_COLOR does not convert


def image_paths(path: str | os.PathLike[str]) -> list[Path]:
    """Return `path` itself if it is an image, or the images of a folder without videos in natural order."""
    given = Path(os.fsdecode(path))
    try:
        items = list(given.iterdir()) if given.is_dir() else [] if _is_animated(given) else [given]
        if any(item.suffix.lower() in VIDEO_SUFFIXES for item in items):
            return []
        images = [item for item in items if is_image(item)]
    except OSError:
        return []
    return sorted(
        images, key=lambda item: [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", item.name)]
    )


def _is_animated(path: Path) -> bool:
    """Return whether a PNG or WebP file is an animation, which is read as a video."""
    if path.suffix.lower() not in (".png", ".webp"):
        return False
    with open(path, "rb") as file:
        start = file.read(4096)
    return (start[:4] == b"\x89PNG" and b"acTL" in start) or (start[8:12] == b"WEBP" and b"ANIM" in start)


def is_image(path: Path) -> bool:
    """Return whether a path is a file with an image suffix that is not hidden."""
    return path.suffix.lower() in _SUFFIXES and not path.name.startswith(".") and path.is_file()


def read_image(path: str | os.PathLike[str], page: int = 0) -> npt.NDArray[Any]:
    """Read an image as upright RGB, (H, W, 3), in its own bit depth."""
    from napari_face_landmarks.opencv import cv2  # imported only for images: it takes 26 MB

    name, image = os.fsdecode(path), None
    for flags in (_FLAGS, _GREY_FLAGS):
        try:
            if page:
                pages = cv2.imreadmulti(name, page, 1, flags=flags)[1]
                image = pages[0] if pages else None
            else:
                image = cv2.imdecode(np.fromfile(name, np.uint8), flags)
        except FileNotFoundError:
            raise ImageError(f"There is no file {name}: check the path of the image.") from None
        except (OSError, cv2.error):
            pass
        if image is not None:
            break
    if image is None:
        raise ImageError(f"{name} is not a readable image: give a file of type png, jpg or tif.")
    if image.ndim == 2:
        return np.repeat(image[:, :, None], 3, axis=2)
    return np.ascontiguousarray(image[:, :, ::-1])


class ImageSequence(Video):
    """The images of a folder, the pages of a TIFF file, or one image, as a video at `FPS`.

    Reading an image whose size is not that of the first one raises an `ImageError`.
    """

    def __init__(self, path: str) -> None:
        self.files = [os.fspath(file) for file in image_paths(path)]
        self._pages = [(file, page) for file in self.files for page in range(_n_pages(file))]
        states = [os.stat(file) for file in self.files]
        try:
            first = read_image(*self._pages[0])
        except ImageError as error:
            raise VideoError(str(error)) from None
        n, middle = len(self._pages), len(self._pages) // 2
        samples = [first] if first.dtype == np.uint8 else [first, *map(self._read, {middle, n - 1} - {0})]
        self._range, warning = pixel_range_of(samples)
        notes = [warning] if warning else []
        if n > 1:
            notes.append(f"{path} has no frame rate: {FPS:g} frames per second are assumed.")
        info = VideoInfo(path, n, first.shape[0], first.shape[1], FPS, np.arange(n) / FPS, tuple(notes))
        state = (sum(s.st_size for s in states), max(s.st_mtime_ns for s in states))
        super().__init__(SimpleNamespace(info=info, state=state))  # type: ignore[arg-type]

    @classmethod
    def _opened_again(cls, path: str, stream: int) -> Video:
        return cls(path)

    def _read(self, number: int) -> npt.NDArray[Any]:
        return read_image(*self._pages[number])

    def _frame(self, number: int) -> Frame:
        self._check_open()
        frame = to_rgb8(self._read(number), f"Frame {number}", self._range)
        if frame.shape != self.shape[1:]:
            raise ImageError(
                f"Frame {number} ({self._pages[number][0]}) has {frame.shape[1]} x {frame.shape[0]} px, the "
                f"first {self.info.width} x {self.info.height}: images need the same size, track it alone."
            )
        return frame

    def frames(self, start: int = 0, stop: int | None = None, every: int = 1) -> Any:
        """Read frames sequentially, like `Video.frames`; reading can continue after an error."""
        stop = min(len(self), len(self) if stop is None else stop)
        return ImageIterator(self, range(max(0, start), stop, every))


class ImageIterator:
    """Iterator over images that can continue after an error, unlike a generator."""

    def __init__(self, images: Any, numbers: range) -> None:
        self._images, self._numbers = images, iter(numbers)

    def __iter__(self) -> ImageIterator:
        return self

    def __next__(self) -> Frame:
        frame: Frame = self._images[next(self._numbers)]
        return frame

    def close(self) -> None:
        """End the iteration."""
        self._numbers = iter(range(0))


def _n_pages(path: str) -> int:
    if not path.lower().endswith((".tif", ".tiff")):
        return 1
    from napari_face_landmarks.opencv import cv2  # imported only for images: it takes 26 MB

    try:
        return max(1, int(cv2.imcount(path, _FLAGS)))
    except cv2.error:
        return 1
