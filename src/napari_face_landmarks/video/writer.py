"""Writing video files."""

from __future__ import annotations

import io
import math
import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from fractions import Fraction
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.stream import VideoStream

from napari_face_landmarks.errors import VideoError
from napari_face_landmarks.files.atomic import sync_folder
from napari_face_landmarks.video.container import open_container
from napari_face_landmarks.video.pixels import to_rgb8
from napari_face_landmarks.video.reader import VideoWarning

_TICKS = 90_000  # per second, if time stamps are given
_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".avi")


def write_video(
    path: str | os.PathLike[str],
    frames: Iterable[npt.ArrayLike],
    fps: float,
    timestamps: Iterable[float] | None = None,
    *,
    sound: str | os.PathLike[str] | None = None,
    pixel_aspect: float = 1.0,
) -> int:
    """Write frames to a video file that common players can play.

    The codec is H.264 if PyAV has an encoder for it, otherwise MPEG-4. The file is written atomically.

    Parameters
    ----------
    path : str or os.PathLike
        The file to write, ending in .mp4, .m4v, .mov, .mkv or .avi; replaced if it exists.
    frames : iterable of (H, W), (H, W, 3) or (H, W, 4) images
        All of the same size. Odd sizes are padded by repeating a row or column, as the codec requires.
    fps : float
        Frames per second.
    timestamps : iterable of float, optional
        Time of each frame in seconds, ascending. By default the frames are evenly spaced.
    sound : path, optional
        A video whose audio is copied, from the time of the first frame to that of the last, if it has any. If
        a file of this suffix cannot contain it, it is left out with a `VideoWarning`.
    pixel_aspect : float
        Pixel aspect ratio (width divided by height), written to the file.

    Returns
    -------
    int
        Number of frames written.

    Raises
    ------
    VideoError
        If there are no frames, their sizes differ, or the file cannot be written.
    ImageError
        If a frame is not a valid image.
    """
    target = os.path.abspath(os.fsdecode(path))
    folder, name = os.path.split(target)
    stem, suffix = os.path.splitext(name)
    if suffix.lower() not in _SUFFIXES:
        raise VideoError(
            f"{target} cannot be written: give a name that ends in one of {', '.join(_SUFFIXES)}."
        )
    if not os.path.isdir(folder):
        raise VideoError(f"{target} cannot be written: there is no folder {folder}; create it.")
    if not (math.isfinite(fps) and 0 < fps <= 1000):
        raise VideoError(
            f"{target} cannot be written at {fps} frames per second: give more than 0 and at most 1000."
        )
    unfinished = os.path.join(folder, f".{stem}.{os.getpid()}.unfinished{suffix}")
    try:
        with ExitStack() as opened:
            audio = None if sound is None else _open_audio(opened, os.path.abspath(os.fsdecode(sound)))
            count = _encode(unfinished, target, iter(frames), fps, timestamps, audio, pixel_aspect)
        with open(unfinished, "rb+") as stream:  # flushed to the disk before it is renamed
            os.fsync(stream.fileno())
        os.replace(unfinished, target)
        sync_folder(folder)
    except (av.FFmpegError, OSError) as error:
        if isinstance(error, VideoError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise VideoError(
            f"{target} cannot be written ({reason}): choose another folder or free some space."
        ) from None
    finally:
        if os.path.exists(unfinished):
            os.remove(unfinished)
    return count


def _open_audio(opened: ExitStack, path: str) -> AudioStream | None:
    """Open a video, which `opened` closes, and return its audio stream, or None if it has none."""
    container = opened.enter_context(open_container(path))
    return container.streams.audio[0] if container.streams.audio else None


class _AudioCopy:
    """Copies the packets of an audio stream to a container, up to the time of each frame."""

    def __init__(self, audio: AudioStream | None, container: OutputContainer, start: float) -> None:
        self._packets: Iterator[Any] = iter(())
        self._container, self._start = container, start
        if audio is not None and _supports(container, audio):
            source: Any = audio.container
            self._packets = (packet for packet in source.demux(audio) if packet.pts is not None)
            self._stream = container.add_stream_from_template(audio)
        self._next = self._read()

    def _read(self) -> Any:
        with suppress(av.FFmpegError):  # the stream is damaged from here on
            return next(self._packets, None)
        return None

    def copy_until(self, seconds: float) -> None:
        """Copy the packets before a time, in seconds after the first frame."""
        while (packet := self._next) is not None:
            offset = round(self._start / packet.time_base)
            if (packet.pts - offset) * packet.time_base >= seconds:
                return
            self._next = self._read()
            if packet.pts >= offset:
                packet.pts, packet.dts = packet.pts - offset, packet.dts - offset
                packet.stream = self._stream
                self._container.mux(packet)


def _supports(container: OutputContainer, audio: AudioStream) -> bool:
    """Return whether a container supports an audio stream (some codecs fail at the header); warn if not."""
    with suppress(av.FFmpegError, ValueError):
        with av.open(io.BytesIO(), "w", format=container.format.name) as trial:
            trial.add_stream_from_template(audio)
            trial.start_encoding()
        return True
    warnings.warn(
        f"The audio of {audio.container.name.removeprefix('file:')} ({audio.codec_context.name}) cannot be "
        f"copied to {container.format.name.partition(',')[0]}: the video has no sound; give a name that ends "
        "in .mkv.",
        VideoWarning,
        stacklevel=6,
    )
    return False


def _encode(
    path: str,
    target: str,
    frames: Iterator[npt.ArrayLike],
    fps: float,
    timestamps: Iterable[float] | None,
    audio: AudioStream | None,
    pixel_aspect: float,
) -> int:
    times = None if timestamps is None else iter(timestamps)
    first = next(frames, None)
    if first is None:
        raise VideoError(f"There are no frames to write to {target}: give at least one.")
    rate = Fraction(fps).limit_denominator(1001)
    step = 1 / rate if times is None else Fraction(1, _TICKS)
    rgb = to_rgb8(first, "Frame 0")
    size = rgb.shape[:2]
    count = 0
    start: float | None = None
    with av.open(path, "w") as container:
        stream = _add_stream(container, size, rate, step)
        stream.codec_context.sample_aspect_ratio = Fraction(pixel_aspect).limit_denominator(1000)
        audio_copy: _AudioCopy | None = None
        while True:
            frame = av.VideoFrame.from_ndarray(_even(rgb), format="rgb24")
            frame.time_base = step
            if times is None:
                frame.pts = count
            else:
                time = next(times, None)
                if time is None:
                    raise VideoError(
                        f"{target} cannot be written: there are only {count} time stamps; give one per frame."
                    )
                start = time if start is None else start
                frame.pts = round((time - start) * _TICKS)
            if audio_copy is None:  # it begins at the time of the first frame
                audio_copy = _AudioCopy(audio, container, start or 0.0)
            audio_copy.copy_until(float(frame.pts * step))
            container.mux(stream.encode(frame))
            count += 1
            image = next(frames, None)
            if image is None:
                break
            rgb = to_rgb8(image, f"Frame {count}")
            if rgb.shape[:2] != size:
                raise VideoError(
                    f"{target} cannot be written: frame {count} has {rgb.shape[1]} x {rgb.shape[0]} px, "
                    f"the first {size[1]} x {size[0]}; give frames of one size."
                )
        assert audio_copy is not None
        audio_copy.copy_until(float(frame.pts * step) + 1 / fps)
        container.mux(stream.encode(None))
    return count


def _add_stream(
    container: OutputContainer, size: tuple[int, int], rate: Fraction, step: Fraction
) -> VideoStream:
    codec, options = "mpeg4", {"qscale": "3"}
    if "libx264" in av.codecs_available:
        codec, options = "libx264", {"crf": "18", "preset": "veryfast"}
    stream: Any = container.add_stream(codec, rate=rate, options=options)
    stream.height, stream.width = (side + side % 2 for side in size)
    stream.pix_fmt = "yuv420p"
    stream.codec_context.time_base = step
    return stream  # type: ignore[no-any-return]


def _even(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Pad odd sides by one pixel."""
    height, width = rgb.shape[:2]
    odd = height % 2 or width % 2
    return np.pad(rgb, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge") if odd else rgb
