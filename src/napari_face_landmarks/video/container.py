"""Opening a video file with PyAV, and its decoded frames as upright RGB."""

from __future__ import annotations

import os
import stat
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

VIDEO_SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".mts", ".m2ts", ".ts", ".3gp", ".wmv",
    ".flv", ".ogv", ".vob", ".mxf", ".dv", ".gif", ".apng", ".y4m",
)  # fmt: skip
"""Endings of video files, in any case: what `track`, `batch` and napari's reader take for videos."""

# The demuxers that may touch a file. FFmpeg also has some that make a video of any text, and playlists that
# name other files or addresses; a video of unknown origin has no business there.
_DEMUXERS = "mov,matroska,webm,avi,mpeg,mpegvideo,mpegts,m4v,asf,flv,ogg,mxf,dv,gif,apng,yuv4mpegpipe"
_OPTIONS = {"format_whitelist": _DEMUXERS, "protocol_whitelist": "file"}
# PyAV before 19 decodes metadata strictly unless told otherwise; later versions always replace bad bytes.
_METADATA: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
_FIRST_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"moof", b"uuid", b"sidx", b"meta")
_MOST_BOXES = 100_000
_MOST_PIXELS = 8192 * 8192
_MOST_THREADS = 4
_most_threads = _MOST_THREADS
_SECONDARY = ("attached_pic", "timed_thumbnails", "still_image")
_PREDICTED = (PictureType.P, PictureType.B)


@dataclass(frozen=True, slots=True)
class FrameGeometry:
    """How the frames of a file are laid out.

    Parameters
    ----------
    height, width : int
        Size as coded, in px; frames of another size in the same file are scaled to it.
    transposed, mirrored, upside_down : bool
        What turns a coded frame upright: rows and columns exchanged, then columns reversed, then rows
        reversed.
    """

    height: int
    width: int
    transposed: bool = False
    mirrored: bool = False
    upside_down: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape (H, W, 3) of an upright frame."""
        sides = (self.width, self.height) if self.transposed else (self.height, self.width)
        return (*sides, 3)


def check_file(path: str) -> os.stat_result:
    """Return the state of the file `path`, or raise a `VideoError` that says why it cannot be a video."""
    try:
        state = os.stat(path)
        if os.path.isdir(path):
            raise VideoError(f"{path} is a folder: give the path of a video file in it.")
        if not stat.S_ISREG(state.st_mode):  # a pipe would keep us waiting
            raise VideoError(f"{path} is not a file: give the path of a video file.")
        with open(path, "rb"):
            pass
    except FileNotFoundError:
        raise VideoError(f"There is no file {path}: check the path of the video.") from None
    except PermissionError:
        raise VideoError(f"{path} may not be read: ask for the permission to read it, or copy it.") from None
    except (VideoError, MemoryError):
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise VideoError(f"{path} cannot be read ({reason}): check the path of the video.") from None
    if state.st_size == 0:
        raise VideoError(f"{path} is empty: copy or record the video again.")
    return state


def open_container(path: str) -> InputContainer:
    """Open the local file `path` for demuxing; a `VideoError` says why it cannot be."""
    check_file(path)
    try:
        container: InputContainer = av.open(f"file:{path}", "r", options=dict(_OPTIONS), **_METADATA)
        return container
    except (av.FFmpegError, ValueError):
        raise VideoError(_unreadable(path)) from None


def _unreadable(path: str) -> str:
    with open(path, "rb") as file:
        start = file.read(12)
    if start[4:8] in _FIRST_BOXES:
        return (
            f"{path} is cut off or damaged, its table of frames is missing: copy or record the video again."
        )
    return f"{path} is not a video that can be read: give an {', '.join(s[1:] for s in VIDEO_SUFFIXES)} file."


def declared_size(path: str) -> int:
    """Return how many bytes the outer boxes of an mp4, mkv or avi file say it has; 0 where they do not."""
    with open(path, "rb") as file:
        start = file.read(64)
        if start[:4] == b"RIFF":
            size = int.from_bytes(start[4:8], "little")
            return size + 8 if size < 0xFFFFFF00 else 0
        if start[:4] == b"\x1a\x45\xdf\xa3":
            return _ebml_end(file)
        return _last_box_end(file) if start[4:8] in _FIRST_BOXES else 0


def _last_box_end(file: BinaryIO) -> int:
    place = 0
    for _ in range(_MOST_BOXES):
        file.seek(place)
        header = file.read(16)
        size = int.from_bytes(header[:4], "big")
        if size == 1:
            size = int.from_bytes(header[8:16], "big")
        if size < 8 or header[4:8] not in _FIRST_BOXES:
            break
        place += size
    return place


def _ebml_end(file: BinaryIO) -> int:
    # An EBML header, then one segment: each an identifier of 4 bytes and a length of 1 to 8 bytes.
    place = 0
    for _ in range(2):
        file.seek(place)
        header = file.read(12)
        if len(header) < 12 or header[4] == 0:
            return 0
        width = 9 - header[4].bit_length()
        length = int.from_bytes(header[4 : 4 + width], "big") & ((1 << 7 * width) - 1)
        if length == (1 << 7 * width) - 1:  # a length that was not known when the file was written
            return 0
        place += 4 + width + length
    return place


def video_stream(container: InputContainer, path: str) -> VideoStream:
    """Return the stream to read, with its decoder set up.

    Cover pictures and thumbnails do not count. Of several videos it is the one marked as default, else the
    largest.
    """
    films = [stream for stream in container.streams.video if not _is_secondary(stream)]
    if not films:
        if container.streams.audio:
            raise VideoError(f"{path} holds sound but no pictures: give a file with a video track.")
        raise VideoError(f"{path} holds no video track: give another file.")
    chosen = [stream for stream in films if _is_default(stream)] or films
    stream = max(chosen, key=_area)
    codec: Any = stream.codec_context
    if codec is None:
        raise VideoError(f"{path} is coded in a way that cannot be decoded here: convert it to H.264 in mp4.")
    if stream.width * stream.height > _MOST_PIXELS:
        raise VideoError(
            f"{path} has frames of {stream.width} x {stream.height} px: give a video of at most 8192 x 8192."
        )
    codec.options = {"max_pixels": str(_MOST_PIXELS)}  # also for frames that are larger than the file says
    codec.thread_type = "AUTO"
    codec.thread_count = thread_count()
    return stream


def _is_secondary(stream: VideoStream) -> bool:
    return any(getattr(type(stream.disposition), name, 0) & stream.disposition for name in _SECONDARY)


def _area(stream: VideoStream) -> int:
    return int(getattr(stream, "width", 0) * getattr(stream, "height", 0))  # a damaged stream has no size


def _is_default(stream: VideoStream) -> bool:
    return bool(getattr(type(stream.disposition), "default", 0) & stream.disposition)


def other_streams(container: InputContainer, chosen: VideoStream) -> list[str]:
    """Return the sizes of the videos in a file besides the one that is read, such as ``"96 x 96"``."""
    films = [stream for stream in container.streams.video if not _is_secondary(stream)]
    return [f"{s.width} x {s.height}" for s in films if s.index != chosen.index and _area(s)]


def pixel_aspect(stream: VideoStream) -> float:
    """Return how much wider than high a pixel is shown; 1 where the file does not say."""
    ratio = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
    return float(ratio) if ratio else 1.0


def limit_threads(count: int) -> None:
    """Have `thread_count` give no more than `count` from now on; for processes side by side."""
    global _most_threads
    _most_threads = max(1, min(count, _MOST_THREADS))


def thread_count() -> int:
    """Return how many threads work on one video: as many as there are processors for us, at most 4."""
    try:
        processors = len(os.sched_getaffinity(0))
    except AttributeError:  # not every system has it
        processors = os.cpu_count() or 1
    return max(1, min(_most_threads, processors))


def geometry_of(frame: VideoFrame) -> FrameGeometry:
    """Return the layout of a file's frames from its first one, turned upright as its display matrix says."""
    a, b, c, d = _display_matrix(frame)
    whole = max(abs(a) + abs(d), abs(b) + abs(c))
    slack = 0.02 * whole
    if min(abs(a) + abs(d), abs(b) + abs(c)) > slack or whole == 0:
        return FrameGeometry(frame.height, frame.width)  # not a multiple of 90 degrees
    if abs(b) + abs(c) > abs(a) + abs(d):
        return FrameGeometry(frame.height, frame.width, True, mirrored=c < 0, upside_down=b < 0)
    return FrameGeometry(frame.height, frame.width, False, mirrored=a < 0, upside_down=d < 0)


def _display_matrix(frame: VideoFrame) -> tuple[int, int, int, int]:
    # Display x = a x + c y, display y = b x + d y, of nine native 32-bit integers a b u, c d v, x y w.
    side_data: Any = frame.side_data.get("DISPLAYMATRIX")
    if side_data is None:
        return 1, 0, 0, 1
    matrix = np.frombuffer(bytes(side_data), dtype=np.int32, count=9)
    return int(matrix[0]), int(matrix[1]), int(matrix[3]), int(matrix[4])


def is_self_contained(frame: VideoFrame) -> bool:
    """Return whether the frame owes nothing to other frames, so that decoding may begin with it.

    A damaged frame is mended from the one before.
    """
    return frame.pict_type not in _PREDICTED and not frame.is_corrupt


def to_rgb(
    frame: VideoFrame, geometry: FrameGeometry, reformatter: VideoReformatter
) -> npt.NDArray[np.uint8]:
    """Convert a decoded frame to upright RGB.

    The conversion is that of OpenCV's ``VideoCapture`` (libswscale, bicubic), so the pixels are the same.

    Parameters
    ----------
    frame : av.VideoFrame
        Any pixel format; grey is repeated, alpha dropped, more than 8 bits are rounded.
    geometry : FrameGeometry
        Size and orientation.
    reformatter : av.video.reformatter.VideoReformatter
        Keeps the conversion's tables from frame to frame; not for two threads at once.

    Returns
    -------
    ndarray, (H, W, 3), uint8
        C-contiguous and the caller's own.
    """
    converted = reformatter.reformat(
        frame,
        width=geometry.width,
        height=geometry.height,
        format="rgb24",
        interpolation=Interpolation.BICUBIC,
        threads=1,  # starting a pool for each conversion costs more than it saves
    )
    rgb: Any = converted.to_ndarray()
    if geometry.transposed:
        rgb = rgb.transpose(1, 0, 2)
    if geometry.mirrored or geometry.upside_down:
        rgb = rgb[:: -1 if geometry.upside_down else 1, :: -1 if geometry.mirrored else 1]
    return np.ascontiguousarray(rgb, dtype=np.uint8)  # PyAV may leave room between rows
