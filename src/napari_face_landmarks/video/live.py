"""Live frames from a camera or a pipe; outdated frames are dropped to keep the latency low."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from typing import IO, Any

import av
import numpy as np
import numpy.typing as npt

from napari_face_landmarks.errors import VideoError
from napari_face_landmarks.video.container import geometry_of, pixel_aspect, to_rgb
from napari_face_landmarks.video.index import ASPECT_TOLERANCE

_DEMUXERS = "yuv4mpegpipe,matroska,webm,mpegts,nut,avi,mjpeg,mpjpeg,h264,hevc,mpegvideo,m4v,flv,ogg"
_OPTIONS = {"format_whitelist": _DEMUXERS}
Frame = npt.NDArray[np.uint8]


class LiveFrames:
    """Iterator over the newest frames of a live source, without those that a busy consumer missed.

    `frames` is an iterator over frames, (H, W, 3) uint8, that blocks until the next frame arrives; it is read
    in a thread. Iterate over this object only once, as `FaceTracker.track_frames` does, and `close` it. With
    `keep_all`, the source waits for the consumer and no frame is dropped. The source appends the time stamp
    of each frame in seconds, or NaN, to `stamps` before it yields the frame; with `keep_all` these become the
    `times`, because the arrival of a frame then depends on the consumer.

    `arrivals` (by `time.monotonic`), `times` (seconds after the first frame) and `numbers` (frame numbers of
    the source) have one entry per returned frame. `dropped` counts dropped frames, `warnings` are sentences
    about problems of the source, and `failure` is the error of the source, raised after the last frame.
    """

    def __init__(
        self, frames: Iterator[Frame], keep_all: bool = False, stamps: list[float] | None = None
    ) -> None:
        self.times: list[float] = []
        self.arrivals: list[float] = []
        self.warnings: list[str] = []
        self.numbers: list[int] = []
        self.dropped = 0
        self._frames, self._keep_all = frames, keep_all
        self._changed = threading.Condition()
        self._newest: tuple[int, float, Frame] | None = None
        self._ended = self._closed = False
        self.failure: BaseException | None = None
        self._stamps = stamps if keep_all else None
        self._thread = threading.Thread(target=self._read, name="live", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Frame]:
        return self

    def __next__(self) -> Frame:
        """Return the newest frame that has not been returned yet; wait for it if necessary."""
        with self._changed:
            self._changed.wait_for(lambda: self._newest is not None or self._ended)
            if self._newest is None:
                if self.failure is not None and not self._closed:
                    raise self.failure
                raise StopIteration
            number, arrival, frame = self._newest
            self._newest = None
            self._changed.notify_all()
        self.arrivals.append(arrival)
        self.times.append(self._seconds(number, arrival))
        self.numbers.append(number)
        return frame

    def _seconds(self, number: int, arrival: float) -> float:
        """Return the time of a frame after the first one."""
        if self._stamps is None or not math.isfinite(self._stamps[0]):
            return arrival - self.arrivals[0]
        seconds = self._stamps[number] - self._stamps[0]
        return seconds if math.isfinite(seconds) else self.times[-1]

    def close(self) -> None:
        """End the iteration; the source is released when its next frame arrives."""
        with self._changed:
            self._ended = self._closed = True
            self._newest = None
            self._changed.notify_all()

    def _read(self) -> None:
        try:
            for number, frame in enumerate(self._frames):
                with self._changed:
                    if self._keep_all:
                        self._changed.wait_for(lambda: self._newest is None or self._ended)
                    if self._ended:
                        return
                    self.dropped += self._newest is not None
                    self._newest = number, time.monotonic(), frame
                    self._changed.notify_all()
        except BaseException as error:
            self.failure = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()


def open_live(source: int | IO[bytes], keep_all: bool = False) -> LiveFrames:
    """Open a camera or a pipe."""
    if isinstance(source, int):
        return LiveFrames(_camera_frames(source), keep_all)
    stamps: list[float] = []
    warnings: list[str] = []
    live = LiveFrames(_pipe_frames(source, stamps, warnings), keep_all, stamps)
    live.warnings = warnings
    return live


def _camera_frames(number: int) -> Iterator[Frame]:
    from napari_face_landmarks.opencv import cv2  # imported only for cameras: it takes 26 MB

    camera = cv2.VideoCapture(number)
    if not camera.isOpened():
        raise VideoError(f"Camera {number} cannot be opened: connect it, or give another number.")

    def frames() -> Iterator[Frame]:
        try:
            while True:
                success, bgr = camera.read()
                if not success:
                    raise VideoError(f"Camera {number} stopped sending frames: check that it is connected.")
                yield np.ascontiguousarray(bgr[:, :, ::-1])
        finally:
            camera.release()

    return frames()


def _pipe_frames(stream: IO[bytes], stamps: list[float], warnings: list[str]) -> Iterator[Frame]:
    reformatter = av.video.reformatter.VideoReformatter()
    try:
        container: Any = av.open(stream, "r", options=dict(_OPTIONS))
        with container:
            if not container.streams.video:
                raise VideoError("The pipe has no video: give a stream of y4m, Matroska, MPEG-TS or MJPEG.")
            geometry, resized = None, False
            for frame in container.decode(video=0):
                if geometry is None:
                    geometry = geometry_of(frame)
                    warnings += _pipe_warnings(container.streams.video[0], frame.interlaced_frame)
                elif not resized and (frame.height, frame.width) != (geometry.height, geometry.width):
                    resized = True
                    warnings.append(
                        f"The frames of the pipe change size, from {geometry.width} x {geometry.height} to "
                        f"{frame.width} x {frame.height}: all are scaled to the first size."
                    )
                stamps.append(math.nan if frame.time is None else frame.time)
                yield to_rgb(frame, geometry, reformatter)
    except (av.FFmpegError, ValueError):
        if stamps:
            raise VideoError(
                f"The pipe is damaged after frame {len(stamps) - 1}: the frames before it are kept."
            ) from None
        raise VideoError(
            "The pipe is not a readable video: give a stream of y4m, Matroska, MPEG-TS or MJPEG."
        ) from None


def _pipe_warnings(stream: Any, interlaced: bool) -> list[str]:
    warnings, aspect = [], pixel_aspect(stream)
    if abs(aspect - 1) >= ASPECT_TOLERANCE:
        warnings.append(
            f"The pixels of the pipe are {aspect:.3g} times as wide as high, and landmarks are located as if "
            "they were square: scale it first, for example with ffmpeg -vf scale=iw*sar:ih,setsar=1."
        )
    if interlaced:
        warnings.append("The pipe is interlaced: deinterlace it first, for example with ffmpeg -vf bwdif.")
    return warnings


def write_y4m(stream: IO[bytes], frames: Iterator[Frame], fps: float) -> None:
    """Write frames to a pipe as y4m, which media players read."""
    for number, rgb in enumerate(frames):
        if number == 0:
            height, width = rgb.shape[:2]
            stream.write(f"YUV4MPEG2 W{width} H{height} F{round(1000 * fps)}:1000 Ip A1:1 C444\n".encode())
        planes = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format="yuv444p").to_ndarray()
        stream.write(b"FRAME\n" + planes.tobytes())
        stream.flush()
