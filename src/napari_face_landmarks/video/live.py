"""Live frames of a camera or a pipe; outdated frames are dropped, for a low latency."""

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
from napari_face_landmarks.video.index import SMALLEST_ASPECT

_DEMUXERS = "yuv4mpegpipe,matroska,webm,mpegts,nut,avi,mjpeg,mpjpeg,h264,hevc,mpegvideo,m4v,flv,ogg"
_OPTIONS = {"format_whitelist": _DEMUXERS}
Frame = npt.NDArray[np.uint8]


class LiveFrames:
    """An iterator over the frames of a live source; what comes while the consumer is busy is dropped.

    `frames`, (H, W, 3) uint8 each, is an iterator that blocks until the next frame has come; it is read in a
    thread. Iterate this one once, as `FaceTracker.track_frames` does, and `close` it. With `keep_all` the
    source waits instead of losing frames. `stamps` grows by the source's own time stamp of each frame, in
    seconds, before the frame is given, NaN where it has none; with `keep_all` these are the times, as frames
    that wait come when they are asked for.

    Of the frames that were taken, `came` is when they came, by `time.monotonic`, `times` the seconds after
    the first one, and `numbers` their numbers in the source, where what is missing was among the `dropped`.
    `warnings` are sentences about what is doubtful, and `failure`, raised after the last frame, is why the
    source broke off.
    """

    def __init__(
        self, frames: Iterator[Frame], keep_all: bool = False, stamps: list[float] | None = None
    ) -> None:
        self.times: list[float] = []
        self.came: list[float] = []
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
        """Return the newest frame; wait for one that was not returned yet."""
        with self._changed:
            self._changed.wait_for(lambda: self._newest is not None or self._ended)
            if self._newest is None:
                if self.failure is not None and not self._closed:
                    raise self.failure
                raise StopIteration
            number, seconds, frame = self._newest
            self._newest = None
            self._changed.notify_all()
        self.came.append(seconds)
        self.times.append(self._seconds(number, seconds))
        self.numbers.append(number)
        return frame

    def _seconds(self, number: int, came: float) -> float:
        """Return the time of a frame after the first one."""
        if self._stamps is None or not math.isfinite(self._stamps[0]):
            return came - self.came[0]
        seconds = self._stamps[number] - self._stamps[0]
        return seconds if math.isfinite(seconds) else self.times[-1]

    def close(self) -> None:
        """End the iteration; the source is released with its next frame."""
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
        return LiveFrames(_of_camera(source), keep_all)
    stamps: list[float] = []
    notes: list[str] = []
    live = LiveFrames(_of_pipe(source, stamps, notes), keep_all, stamps)
    live.warnings = notes
    return live


def _of_camera(number: int) -> Iterator[Frame]:
    from napari_face_landmarks.opencv import cv2  # only for cameras: 26 MB

    camera = cv2.VideoCapture(number)
    if not camera.isOpened():
        raise VideoError(
            f"There is no camera {number} that can be opened: connect it, or give another number."
        )

    def frames() -> Iterator[Frame]:
        try:
            while True:
                done, bgr = camera.read()
                if not done:
                    raise VideoError(f"Camera {number} gives no more frames: check that it is connected.")
                yield np.ascontiguousarray(bgr[:, :, ::-1])
        finally:
            camera.release()

    return frames()


def _of_pipe(stream: IO[bytes], stamps: list[float], notes: list[str]) -> Iterator[Frame]:
    reformatter = av.video.reformatter.VideoReformatter()
    try:
        container: Any = av.open(stream, "r", options=dict(_OPTIONS))
        with container:
            if not container.streams.video:
                raise VideoError("The pipe has no video: give a stream of y4m, Matroska, MPEG-TS or MJPEG.")
            geometry, doubts = None, 0
            for frame in container.decode(video=0):
                if geometry is None:
                    geometry = geometry_of(frame)
                    notes += _doubts(container.streams.video[0], frame.interlaced_frame)
                    doubts = len(notes)
                elif len(notes) == doubts and (frame.height, frame.width) != (
                    geometry.height,
                    geometry.width,
                ):
                    notes.append(
                        "The frames of the pipe change their size, from "
                        f"{geometry.width} x {geometry.height} to {frame.width} x {frame.height}: all are "
                        "scaled to the first one."
                    )
                stamps.append(math.nan if frame.time is None else frame.time)
                yield to_rgb(frame, geometry, reformatter)
    except (av.FFmpegError, ValueError):
        if stamps:
            raise VideoError(
                f"The pipe is damaged after frame {len(stamps) - 1}: the frames before it are kept."
            ) from None
        raise VideoError(
            "The pipe is not a video that can be read: give a stream of y4m, Matroska, MPEG-TS or MJPEG."
        ) from None


def _doubts(stream: Any, interlaced: bool) -> list[str]:
    doubts, aspect = [], pixel_aspect(stream)
    if abs(aspect - 1) >= SMALLEST_ASPECT:
        doubts.append(
            f"The pixels of the pipe are {aspect:.3g} times as wide as high, and landmarks are found as if "
            "they were square: scale it first, for example by ffmpeg -vf scale=iw*sar:ih,setsar=1."
        )
    if interlaced:
        doubts.append("The pipe is interlaced: deinterlace it first, for example by ffmpeg -vf bwdif.")
    return doubts


def write_y4m(stream: IO[bytes], frames: Iterator[Frame], fps: float) -> None:
    """Write frames to a pipe as y4m, for a player."""
    for number, rgb in enumerate(frames):
        if number == 0:
            height, width = rgb.shape[:2]
            stream.write(f"YUV4MPEG2 W{width} H{height} F{round(1000 * fps)}:1000 Ip A1:1 C444\n".encode())
        planes = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format="yuv444p").to_ndarray()
        stream.write(b"FRAME\n" + planes.tobytes())
        stream.flush()
