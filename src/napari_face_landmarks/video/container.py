"""Opening video files with PyAV, and conversion of decoded frames to upright RGB."""

from __future__ import annotations

import dataclasses
import os
import re
import stat
import sys
from dataclasses import dataclass
from typing import Any, BinaryIO

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from napari_face_landmarks.errors import VideoError
from napari_face_landmarks.priority import cores
from napari_face_landmarks.video.pixels import PixelRange, pixel_range_of, to_rgb8

VIDEO_SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".mts", ".m2ts", ".ts", ".3gp", ".wmv",
    ".flv", ".ogv", ".vob", ".mxf", ".dv", ".gif", ".apng", ".y4m",
)  # fmt: skip
"""Suffixes of video files, in any case, for `track`, `batch` and napari's reader."""

# Permitted demuxers. FFmpeg also has demuxers that render any text as video, and playlists that refer to
# other files or addresses; neither is acceptable for untrusted files.
_DEMUXERS = "mov,matroska,webm,avi,mpeg,mpegvideo,mpegts,m4v,asf,flv,ogg,mxf,dv,gif,apng,yuv4mpegpipe"
_OPTIONS = {"format_whitelist": _DEMUXERS, "protocol_whitelist": "file"}
# PyAV before 19 decodes metadata strictly by default; later versions always replace invalid bytes.
_METADATA: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
_FIRST_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"moof", b"uuid", b"sidx", b"meta")
_IMAGE_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1", b"avif", b"avis")
_MAX_BOXES = 100_000
_MAX_PIXELS = 8192 * 8192
_MAX_THREADS = 4
_max_threads = _MAX_THREADS
_MAX_BUFFERS = 12  # frames that a run of the tracker uses at a time
_SECONDARY = ("attached_pic", "timed_thumbnails", "still_image")
_PREDICTED = (PictureType.P, PictureType.B)


@dataclass(frozen=True, slots=True)
class FrameGeometry:
    """Size and orientation of the frames of a file."""

    # height, width: coded size in px; frames of another size in the same file are scaled to it
    height: int
    width: int
    # transposed, mirrored, upside_down: operations that make a coded frame upright, in this order: transpose
    # rows and columns, reverse the columns, reverse the rows
    transposed: bool = False
    mirrored: bool = False
    upside_down: bool = False
    levels: PixelRange | None = None  # black and white of 16-bit pixels that do not use their full range
    interlaced: bool = False
    sizes: tuple[tuple[int, int], ...] = ()  # widths and heights of the inspected frames

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape (H, W, 3) of an upright frame."""
        sides = (self.width, self.height) if self.transposed else (self.height, self.width)
        return (*sides, 3)


def check_file(path: str) -> os.stat_result:
    """Return the `os.stat` of a file; raise a `VideoError` if it cannot be a video."""
    try:
        state = os.stat(path)
        if os.path.isdir(path):
            raise VideoError(f"{path} is a folder: give the path of a video file in it.")
        if not stat.S_ISREG(state.st_mode):  # reading a pipe would block
            raise VideoError(f"{path} is not a file: give the path of a video file.")
        with open(path, "rb"):
            pass
    except FileNotFoundError:
        raise VideoError(_missing(path)) from None
    except PermissionError:
        raise VideoError(
            f"{path} cannot be read for lack of permission: change its permissions or copy it."
        ) from None
    except (VideoError, MemoryError):
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise VideoError(f"{path} cannot be read ({reason}): check the path of the video.") from None
    if state.st_size == 0:
        raise VideoError(f"{path} is empty: copy or record the video again.")
    return state


def open_container(path: str) -> InputContainer:
    """Open the local file `path` for demuxing, or raise a `VideoError`."""
    check_file(path)
    try:
        container: InputContainer = av.open(f"file:{path}", "r", options=dict(_OPTIONS), **_METADATA)
        return container
    except (av.FFmpegError, ValueError):
        raise VideoError(_unreadable(path)) from None


def _missing(path: str) -> str:
    """Return the message for a missing file, which may be a URL (``//`` may have become ``/``)."""
    address = re.search(r"(?:^|[/\\])((?:https?|rts[mp]s?|rtmps?|s?ftp|s3|udp|tcp|file):[/\\].*)", path)
    if address is None:
        return f"There is no file {path}: check the path of the video."
    if address[1].startswith("file:"):
        return f"{address[1]} is an address: give the path without file://."
    return (
        f"{address[1]} is an address, and only files are read: download it, or pipe the stream to `live -`."
    )


def _unreadable(path: str) -> str:
    with open(path, "rb") as file:
        start = file.read(12)
    if start[4:8] == b"ftyp" and start[8:12] in _IMAGE_BRANDS:
        return f"{path} is a HEIC or AVIF image, which cannot be read: convert it to JPEG or PNG."
    if start[:4] == b"RIFF" and start[8:] == b"WEBP":
        return f"{path} is an animated WebP image, which cannot be read: convert it to mp4 or gif."
    if start[:6] == b"\x93NUMPY":
        return (
            f"{path} is a NumPy array: track it in a script, FaceTracker().track(numpy.load(path)), or write "
            "it as a video."
        )
    if start[4:8] in _FIRST_BOXES:
        return f"{path} is truncated or damaged, its frame table is missing: copy or record the video again."
    suffixes = ", ".join(suffix[1:] for suffix in VIDEO_SUFFIXES)
    return f"{path} is not a video that can be read: give a file of type {suffixes}."


def declared_size(path: str) -> int:
    """Return the size in bytes that an mp4, mkv or avi file declares; 0 if it declares none."""
    with open(path, "rb") as file:
        start = file.read(64)
        if start[:4] == b"RIFF":
            size = int.from_bytes(start[4:8], "little")
            return size + 8 if size < 0xFFFFFF00 else 0
        if start[:4] == b"\x1a\x45\xdf\xa3":
            return _ebml_end(file)
        return _last_box_end(file) if start[4:8] in _FIRST_BOXES else 0


def _last_box_end(file: BinaryIO) -> int:
    offset = 0
    for _ in range(_MAX_BOXES):
        file.seek(offset)
        header = file.read(16)
        size = int.from_bytes(header[:4], "big")
        if size == 1:
            size = int.from_bytes(header[8:16], "big")
        if size < 8 or header[4:8] not in _FIRST_BOXES:
            break
        offset += size
    return offset


def _ebml_end(file: BinaryIO) -> int:
    # an EBML header, then one segment; each is a 4-byte identifier and a length of 1 to 8 bytes
    offset = 0
    for _ in range(2):
        file.seek(offset)
        header = file.read(12)
        if len(header) < 12 or header[4] == 0:
            return 0
        width = 9 - header[4].bit_length()
        length = int.from_bytes(header[4 : 4 + width], "big") & ((1 << 7 * width) - 1)
        if length == (1 << 7 * width) - 1:  # the length was unknown when the file was written
            return 0
        offset += 4 + width + length
    return offset


def video_stream(container: InputContainer, path: str, number: int | None = None) -> VideoStream:
    """Return the video stream to read, with its decoder configured."""
    stream = _chosen_stream(container, path, number)
    codec: Any = stream.codec_context
    if codec is None:
        raise VideoError(f"{path} has an unsupported codec: convert it to H.264 in mp4.")
    if stream.width * stream.height > _MAX_PIXELS:
        raise VideoError(
            f"{path} has frames of {stream.width} x {stream.height} px: give a video of at most 8192 x 8192."
        )
    codec.options = {"max_pixels": str(_MAX_PIXELS)}  # also for frames larger than the header declares
    codec.thread_type = "AUTO"
    codec.thread_count = thread_count()
    return stream


def _chosen_stream(container: InputContainer, path: str, number: int | None) -> VideoStream:
    existing = container.streams.video
    if number is not None and existing and not 0 <= number < len(existing):
        choices = ", ".join(f"{i} ({stream.width} x {stream.height})" for i, stream in enumerate(existing))
        raise VideoError(f"{path} has no video stream {number}: choose one of {choices}.")
    if number is None:
        streams = [stream for stream in existing if not _has_disposition(stream, *_SECONDARY)]
    else:
        streams = list(existing[number : number + 1])
    if not streams:
        if container.streams.audio:
            raise VideoError(f"{path} has audio but no video track: give a file with a video track.")
        raise VideoError(f"{path} has no video track: give another file.")
    return max([stream for stream in streams if _has_disposition(stream, "default")] or streams, key=_area)


def _has_disposition(stream: VideoStream, *names: str) -> bool:
    """Return whether the container gives a stream one of these dispositions."""
    return any(getattr(type(stream.disposition), name, 0) & stream.disposition for name in names)


def _area(stream: VideoStream) -> int:
    return int(getattr(stream, "width", 0) * getattr(stream, "height", 0))  # a damaged stream has no size


def other_streams(container: InputContainer, chosen: VideoStream) -> list[str]:
    """Return the size and number of each other video stream, such as ``"96 x 96 (stream 0)"``."""
    return [
        f"{stream.width} x {stream.height} (stream {number})"
        for number, stream in enumerate(container.streams.video)
        if stream.index != chosen.index and not _has_disposition(stream, *_SECONDARY) and _area(stream)
    ]


def pixel_aspect(stream: VideoStream) -> float:
    """Return the pixel aspect ratio (width divided by height); 1 if the file does not declare it."""
    ratio = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
    return float(ratio) if ratio else 1.0


def limit_threads(count: int) -> None:
    """Limit `thread_count` to `count`, for processes that run in parallel."""
    global _max_threads
    _max_threads = max(1, min(count, _MAX_THREADS))


def thread_count() -> int:
    """Return the number of decoder threads per video: the available cores, at most 4."""
    return max(1, min(_max_threads, cores()))


def geometry_of(frame: VideoFrame) -> FrameGeometry:
    """Return the geometry of a file's frames from the first frame and its display matrix."""
    a, b, c, d = _display_matrix(frame)
    whole = max(abs(a) + abs(d), abs(b) + abs(c))
    slack = 0.02 * whole
    if min(abs(a) + abs(d), abs(b) + abs(c)) > slack or whole == 0:
        return FrameGeometry(frame.height, frame.width)  # not a multiple of 90 degrees
    if abs(b) + abs(c) > abs(a) + abs(d):
        return FrameGeometry(frame.height, frame.width, True, mirrored=c < 0, upside_down=b < 0)
    return FrameGeometry(frame.height, frame.width, False, mirrored=a < 0, upside_down=d < 0)


def geometry_of_all(frames: list[VideoFrame]) -> FrameGeometry:
    """Return the geometry of a file's frames, with the pixel range if cameras use only part of 16 bits."""
    geometry, first = geometry_of(frames[0]), frames[0].format
    levels = None
    if first.components[0].bits == 16 and (first.is_rgb or first.name.startswith(("gray", "ya"))):
        images = [frame.reformat(format=_wide_format(frame)).to_ndarray() for frame in frames]
        pixel_range, warning = pixel_range_of(images)
        levels = pixel_range if warning else None
    return dataclasses.replace(
        geometry, levels=levels, interlaced=any(frame.interlaced_frame for frame in frames)
    )


def _wide_format(frame: VideoFrame) -> str:
    """Return the 16-bit pixel format for a frame."""
    return "rgb48le" if frame.format.is_rgb else "gray16le"


def _display_matrix(frame: VideoFrame) -> tuple[int, int, int, int]:
    # displayed x = a x + c y and y = b x + d y; nine native 32-bit integers a b u, c d v, x y w
    side_data: Any = frame.side_data.get("DISPLAYMATRIX")
    if side_data is None:
        return 1, 0, 0, 1
    matrix = np.frombuffer(bytes(side_data), dtype=np.int32, count=9)
    return int(matrix[0]), int(matrix[1]), int(matrix[3]), int(matrix[4])


def is_self_contained(frame: VideoFrame) -> bool:
    """Return whether decoding may start at this frame, which does not depend on others."""
    return frame.pict_type not in _PREDICTED and not frame.is_corrupt


class FramePool:
    """Frame buffers that are reused as soon as nobody else references them.

    A new allocation for each frame would fragment the heap, since smaller arrays between them are kept.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._buffers = [np.empty(shape, np.uint8)]
        self._unused = self._references(0)

    def _references(self, index: int) -> int:
        return sys.getrefcount(self._buffers[index])

    def acquire(self) -> npt.NDArray[np.uint8]:
        """Return an unused buffer, with arbitrary content."""
        for index in range(len(self._buffers)):
            if self._references(index) == self._unused:  # views count as references
                return self._buffers[index].view()
        buffer = np.empty_like(self._buffers[0])
        if len(self._buffers) < _MAX_BUFFERS:
            self._buffers.append(buffer)
        return buffer.view()


def to_rgb(
    frame: VideoFrame,
    geometry: FrameGeometry,
    reformatter: VideoReformatter,
    pool: FramePool | None = None,
) -> npt.NDArray[np.uint8]:
    """Convert a decoded frame to upright RGB, (H, W, 3); pixels equal those of OpenCV's ``VideoCapture``."""
    converted = reformatter.reformat(
        frame,
        width=geometry.width,
        height=geometry.height,
        format="rgb24" if geometry.levels is None else _wide_format(frame),
        interpolation=Interpolation.BICUBIC,
        threads=1,  # starting a thread pool for each conversion takes longer than it saves
    )
    rgb: Any
    if geometry.levels is None:
        plane = converted.planes[0]  # its rows may be padded
        rows = np.frombuffer(plane, np.uint8).reshape(geometry.height, plane.line_size)
        rgb = np.empty((geometry.height, geometry.width, 3), np.uint8) if pool is None else pool.acquire()
        rgb.reshape(geometry.height, -1)[...] = rows[:, : 3 * geometry.width]
    else:
        rgb = to_rgb8(converted.to_ndarray(), pixel_range=geometry.levels)
    if geometry.transposed:
        rgb = rgb.transpose(1, 0, 2)
    if geometry.mirrored or geometry.upside_down:
        rgb = rgb[:: -1 if geometry.upside_down else 1, :: -1 if geometry.mirrored else 1]
    return np.ascontiguousarray(rgb, dtype=np.uint8)
