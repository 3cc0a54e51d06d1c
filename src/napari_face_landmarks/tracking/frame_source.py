"""Frames of a video file, a `Video` or an array, read one by one; errors take the place of frames."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_face_landmarks.data.stats import RunStats
from napari_face_landmarks.data.tracks import Tracks
from napari_face_landmarks.errors import FaceLandmarksError, ImageError, VideoError, in_one_line
from napari_face_landmarks.tracking.frame_view import FrameView
from napari_face_landmarks.tracking.regions import Region, Regions
from napari_face_landmarks.video import FrameStream, Video, as_frames, open_video, read_frame, read_frames
from napari_face_landmarks.video.arrays import ENDLESS
from napari_face_landmarks.video.images import ImageSequence
from napari_face_landmarks.video.pixels import PixelRange, pixel_range_of, range_of_type, to_rgb8

Frame = npt.NDArray[np.uint8] | FaceLandmarksError
"""An RGB frame, (H, W, 3), or the error raised while reading it."""
EVERY = "every"
"""Entry of `Tracks.meta`: only every n-th frame was tracked."""
STREAM = "stream"
"""Entry of `Tracks.meta`: index of the file's video stream that was tracked, if not the first."""
PIXEL_RANGE = "pixel_range"
"""Entry of `Tracks.meta`: the pixel values of an array that were scaled to black and white."""
Times = npt.NDArray[np.float64] | list[float]
DEFAULT_RATE = 25.0  # frames per second assumed for sources without a frame rate
MAX_CUT_GAP = 0.25  # seconds between frames up to which scene cuts are detected
BLOCK = 16
"""Number of frames decoded at a time when reading backwards."""


@dataclass(frozen=True)
class FrameSource:
    """The frames to track, opened and validated."""

    frames: Any  # read by ``frames[int(t)]`` only
    start: int
    stop: int  # frame after the last
    timestamps: Times | None  # (T,), seconds; a list grows while a stream is read
    size: tuple[int, int]  # height and width
    view: FrameView  # conversion of frames for tracking; results are in source pixels
    fps: float | None  # frame rate of the source, if known
    opened: bool  # whether this run opened the video and has to close it
    warnings: tuple[str, ...] = ()  # about damage of the file, one sentence each
    backwards: bool = False  # whether the frames are read from the last to the first
    pixel_range: PixelRange | None = None  # black and white of an array's pixels; None for videos
    # track only every n-th frame. The tracker numbers these consecutively from `start`, so that its intervals
    # and predictions are in tracked frames; `number` converts back
    every: int = 1

    @property
    def n_frames(self) -> int:
        """Number of tracked frames."""
        return len(range(self.start, self.stop, self.every))

    @property
    def rate(self) -> float | None:
        """Tracked frames per second, or None if the frame rate is not known."""
        return None if self.fps is None else self.fps / self.every

    @property
    def has_scenes(self) -> bool:
        """Whether scene cuts can be detected: not in image sequences or at low frame rates."""
        gap = self.every / DEFAULT_RATE if self.rate is None else 1 / self.rate
        images = isinstance(self.frames, ImageSequence) or getattr(self.frames, "independent", False)
        return not images and gap <= MAX_CUT_GAP

    def number(self, tracked_index: int) -> int:
        """Convert a frame number of the tracker to the frame number of the source."""
        return self.start + (tracked_index - self.start) * self.every

    def regions(self, regions: Regions, back: bool = False) -> Regions:
        """Convert regions to the coordinates and frame numbers of the tracker, or `back`."""
        converted = self.view.regions(regions, back)
        if self.every == 1:
            return converted

        def convert(frame: int | None, round_up: int) -> int | None:
            if frame is None or back:
                return None if frame is None else self.number(frame)
            return self.start + (frame - self.start + round_up * (self.every - 1)) // self.every

        def renumbered(regions: tuple[Region, ...]) -> tuple[Region, ...]:
            ranges = [(region.box, convert(region.first, 1), convert(region.last, 0)) for region in regions]
            return tuple(
                Region(box, first, last)
                for box, first, last in ranges
                if first is None or last is None or first <= last  # else between two tracked frames
            )

        return Regions(renumbered(converted.look), renumbered(converted.ignore))

    @property
    def concealed(self) -> set[int]:
        """Frames read so far with errors that the decoder concealed."""
        video = video_of(self.frames)
        return set() if video is None else video.concealed.copy()

    @property
    def meta(self) -> dict[str, Any]:
        """Entries of `Tracks.meta` about how the frames were read."""
        known, video = self.pixel_range, video_of(self.frames)
        entries: dict[str, Any] = {} if known is None else {PIXEL_RANGE: [known.black, known.white]}
        if video is not None and video.info.stream:
            entries[STREAM] = video.info.stream
        if self.every != 1:
            entries[EVERY] = self.every
        return {**entries, **self.view.meta}

    def close(self) -> None:
        """Close the video if it was opened for this run."""
        if self.opened:
            self.frames.close()


def open_source(
    frames: Any,
    start: int = 0,
    stop: int | None = None,
    fps: float | None = None,
    every: int = 1,
    stream: int | None = None,
) -> FrameSource:
    """Open the frames to track; parameters as for `FaceTracker.track`."""
    opened = isinstance(frames, (str, Path))
    step: object = every  # scripts may pass any type
    if not isinstance(step, (int, np.integer)) or step < 1:
        raise ImageError(f"every is {every!r}: give a whole number of frames, 1 or more.")
    source = open_video(frames, stream) if opened else as_frames(frames)
    rate: object = fps
    if rate is not None and not (isinstance(rate, (int, float, np.number)) and 0 < rate < np.inf):
        raise ImageError(f"fps is {fps!r}: give the number of frames per second.")
    shape = getattr(source, "shape", None)
    if shape is None:
        raise ImageError(
            f"Frames of the type {type(frames).__name__} cannot be tracked: give the path of a video or an "
            "array of the shape (T, Y, X) or (T, Y, X, 3)."
        )
    if any(n != n for n in shape):
        raise ImageError(
            f"The frames have the shape {tuple(shape)} of unknown length: compute it first, in Dask by "
            "compute_chunk_sizes()."
        )
    shape = tuple(int(n) for n in shape)
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3, 4)):
        channels_first = len(shape) == 4 and shape[1] in (3, 4)
        hint = "; move the channels to the end by np.moveaxis(frames, 1, -1)" if channels_first else ""
        raise ImageError(
            f"The frames have the shape {shape}: give greyscale (T, Y, X) or colour (T, Y, X, 3 or 4) frames"
            f"{hint}."
        )
    first = max(0, int(start))
    last = shape[0] if stop is None else min(shape[0], int(stop))
    if first >= last:
        raise ImageError(
            f"There are no frames from {first} to {last} in {shape[0]} frames: choose another range."
        )
    video, size = video_of(source), (shape[1], shape[2])
    info = None if video is None else video.info
    turn = getattr(source, "turn", (False, False, False))
    pixel_range, warning = (info.pixel_range, None) if info is not None else _pixel_range(source, shape[0])
    warnings = (warning,) if warning else () if info is None else tuple(info.warnings)
    return FrameSource(
        frames=source,
        start=first,
        stop=last,
        timestamps=info.timestamps if info is not None else _times(source, shape[0], fps),
        size=size,
        view=FrameView(size, 1.0 if info is None else info.pixel_aspect, turn),
        fps=fps if info is None else float(info.fps),
        opened=opened,
        warnings=warnings,
        pixel_range=pixel_range,
        every=int(every),
    )


def _times(frames: Any, n_frames: int, fps: float | None) -> Times | None:
    """Return the time stamps of a stream or of frames at a rate; None if that or their number is unknown."""
    if isinstance(frames, FrameStream) and frames.times is not None:
        return frames.times
    return None if fps is None or n_frames == ENDLESS else np.arange(n_frames) / fps


def video_of(frames: Any) -> Video | None:
    """Return the video from which frames are read, or None for other sources."""
    return frames if isinstance(frames, Video) else getattr(frames, "video", None)


def _pixel_range(frames: Any, n_frames: int) -> tuple[PixelRange, str | None]:
    """Return the pixel range of a whole array, by its first, middle and last frame, and a warning or None."""
    try:
        kind = np.dtype(getattr(frames, "dtype", np.uint8))
    except TypeError:  # a dtype of another library
        kind = read_frame(frames, 0).dtype
    if kind.itemsize == 1:
        return range_of_type(kind), None
    samples = []
    for index in sorted({0, n_frames // 2, n_frames - 1}):
        with suppress(Exception):  # reported when that frame is tracked
            samples.append(read_frame(frames, index))
    return pixel_range_of(samples)


def check_length(n_frames: int, last: int) -> None:
    """Raise an `ImageError` if the video ends before frame `last` of its tracks."""
    if last >= n_frames:
        raise ImageError(
            f"The video has {n_frames} frames and ends before frame {last} of the tracks, counted from 0: "
            "give the video that was tracked."
        )


def check_size(size: tuple[int, ...], tracks: Tracks) -> None:
    """Raise an `ImageError` if the frame size differs from the one recorded in tracks."""
    wanted = (tracks.meta.get("height"), tracks.meta.get("width"))
    known = all(isinstance(side, (int, np.integer)) for side in wanted)
    if known and tuple(size) != wanted:
        raise ImageError(
            f"The frames are {size[1]} x {size[0]} px, but those tracked were {wanted[1]} x {wanted[0]} px: "
            "give the video that was tracked."
        )


def recorded_stream(tracks: Tracks) -> int | None:
    """Return the index of the video stream that was tracked; None, for the default stream, if unknown."""
    stream = tracks.meta.get(STREAM, 0 if "code_sha256" in tracks.meta else None)  # stream 0 is not recorded
    return stream if isinstance(stream, int) else None


def recorded_pixel_range(tracks: Tracks) -> PixelRange | None:
    """Return the pixel values of black and white recorded in tracks, or None."""
    known = tracks.meta.get(PIXEL_RANGE)
    if not isinstance(known, (list, tuple)) or len(known) != 2:
        return None
    black, white = (float(value) if isinstance(value, (int, float)) else np.nan for value in known)
    return PixelRange(black, white) if np.isfinite(black) and np.isfinite(white) and white > black else None


def rgb_frames(
    source: FrameSource, stats: RunStats, begin: int | None = None
) -> Generator[tuple[int, Frame], None, None]:
    """Yield the index, and the RGB image or the error, of each frame to track, from `begin` on.

    An `ImageError` concerns one frame only; a `VideoError` is the last item.
    """
    video = video_of(source.frames)
    damaged = () if video is None else video.damaged
    tracked_indices = range(source.start if begin is None else begin, source.start + source.n_frames)
    first = source.number(tracked_indices.start)
    reader = (
        _backwards(source)
        if source.backwards
        else read_frames(source.frames, first, source.stop, source.every)
    )
    with closing(reader):
        for tracked_index in reversed(tracked_indices) if source.backwards else tracked_indices:
            index = source.number(tracked_index)
            began = time.perf_counter()
            rgb: Frame
            try:
                frame = next(reader)
                if index in damaged:
                    raise ImageError(f"Frame {index} is damaged: it has no landmarks, and the run continues.")
                rgb = to_rgb8(frame, f"Frame {index}", source.pixel_range)
                if rgb.shape[:2] != source.size:
                    raise ImageError(
                        f"Frame {index} has {rgb.shape[1]} x {rgb.shape[0]} px, the first "
                        f"{source.size[1]} x {source.size[0]} px: track frames of another size separately."
                    )
                rgb = source.view.frame(rgb)
            except StopIteration:
                if isinstance(source.frames, FrameStream):
                    return
                ended = VideoError(f"The frames end before frame {index}: the frames before it are kept.")
                yield tracked_index, ended
                return
            except ImageError as error:
                rgb = error
            except VideoError as error:
                yield tracked_index, error
                return
            except Exception as error:
                reason = in_one_line(error)
                yield (
                    tracked_index,
                    VideoError(f"Frame {index} cannot be read ({reason}): the frames before it are kept."),
                )
                return
            stats.add_time("decode", time.perf_counter() - began)
            yield tracked_index, rgb


def _backwards(source: FrameSource) -> Generator[npt.NDArray[Any], None, None]:
    """Yield the frames of a source from the last to the first, decoded in blocks."""
    for stop in range(source.stop, source.start, -BLOCK):
        yield from reversed(list(read_frames(source.frames, max(source.start, stop - BLOCK), stop)))
