"""Frames from a path, a video or an array, read one by one, each with its error."""

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
"""An RGB frame, (H, W, 3), or the error that came in its place."""
EVERY = "every"
"""Entry of `Tracks.meta`: only every n-th frame was tracked."""
STREAM = "stream"
"""Entry of `Tracks.meta`: which of a file's video streams was tracked, where it is not the first."""
PIXEL_RANGE = "pixel_range"
"""Entry of `Tracks.meta`: the pixel values of an array that were used as black and white."""
Times = npt.NDArray[np.float64] | list[float]
USUAL_RATE = 25.0
FARTHEST_SCENES = 0.25  # seconds between frames in which a face still looks alike
BLOCK = 16
"""Frames that are decoded at a time when reading backwards."""


@dataclass(frozen=True)
class FrameSource:
    """The frames to track, opened and checked."""

    frames: Any  # read as ``frames[int(t)]`` only
    # start, stop: first frame, and the one after the last
    start: int
    stop: int
    timestamps: Times | None  # (T,) or None; seconds; a list grows with the frames that are read
    size: tuple[int, int]  # height and width
    view: FrameView  # how the tracker sees the frames; landmarks are given in the pixels of the source
    fps: float | None  # the frame rate, where the source has one
    opened: bool  # whether this run opened the video and has to close it
    # what is wrong with the file, one sentence each; the rest of it can be read
    warnings: tuple[str, ...] = ()
    backwards: bool = False  # whether the frames are read from the last to the first
    pixel_range: PixelRange | None = None  # black and white of an array's pixels; None for videos
    # only every n-th frame is tracked; the tracker counts these in ones from `start` on, so that its periods
    # and predictions are in tracked frames; see `number`
    every: int = 1

    @property
    def n_frames(self) -> int:
        """How many frames are tracked."""
        return len(range(self.start, self.stop, self.every))

    @property
    def rate(self) -> float | None:
        """Tracked frames per second, where the source has a frame rate."""
        return None if self.fps is None else self.fps / self.every

    @property
    def has_scenes(self) -> bool:
        """Whether scene cuts are detected: not between images, or between frames too far apart in time."""
        apart = self.every / USUAL_RATE if self.rate is None else 1 / self.rate
        pictures = isinstance(self.frames, ImageSequence) or getattr(self.frames, "independent", False)
        return not pictures and apart <= FARTHEST_SCENES

    def number(self, place: int) -> int:
        """Return the number, in the source, of a frame as the tracker counts it."""
        return self.start + (place - self.start) * self.every

    def regions(self, regions: Regions, back: bool = False) -> Regions:
        """Convert regions to the coordinates and frame numbers of the tracker, or `back`."""
        seen = self.view.regions(regions, back)
        if self.every == 1:
            return seen

        def at(frame: int | None, late: int) -> int | None:
            if frame is None or back:
                return None if frame is None else self.number(frame)
            return self.start + (frame - self.start + late * (self.every - 1)) // self.every

        def moved(regions: tuple[Region, ...]) -> tuple[Region, ...]:
            times = [(region.box, at(region.first, 1), at(region.last, 0)) for region in regions]
            return tuple(
                Region(box, first, last)
                for box, first, last in times
                if first is None or last is None or first <= last  # else between two tracked frames
            )

        return Regions(moved(seen.look), moved(seen.ignore))

    @property
    def concealed(self) -> set[int]:
        """The frames whose errors the decoder concealed, of those read so far."""
        video = video_of(self.frames)
        return set() if video is None else video.concealed.copy()

    @property
    def meta(self) -> dict[str, Any]:
        """What results record of how the frames were read."""
        known, video = self.pixel_range, video_of(self.frames)
        found: dict[str, Any] = {} if known is None else {PIXEL_RANGE: [known.black, known.white]}
        if video is not None and video.info.stream:
            found[STREAM] = video.info.stream
        if self.every != 1:
            found[EVERY] = self.every
        return {**found, **self.view.meta}

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
    """Open the frames to track, given as for `FaceTracker.track`."""
    opened = isinstance(frames, (str, Path))
    step: object = every  # of scripts
    if not isinstance(step, (int, np.integer)) or step < 1:
        raise ImageError(f"every is {every!r}: give the number of frames from one to the next, 1 or more.")
    source = open_video(frames, stream) if opened else as_frames(frames)
    rate: object = fps  # of scripts
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
            f"The frames have the shape {tuple(shape)}, whose length is not known: compute it first, in Dask "
            "by compute_chunk_sizes()."
        )
    shape = tuple(int(n) for n in shape)
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3, 4)):
        before = len(shape) == 4 and shape[1] in (3, 4)
        hint = "; move the channels to the end, in NumPy by np.moveaxis(frames, 1, -1)" if before else ""
        raise ImageError(
            f"The frames have the shape {shape}: give grey frames (T, Y, X) or colour ones (T, Y, X, 3 or 4)"
            f"{hint}."
        )
    first = max(0, int(start))
    last = shape[0] if stop is None else min(shape[0], int(stop))
    if first >= last:
        raise ImageError(
            f"There are no frames to track from {first} to {last} of {shape[0]}: choose another range."
        )
    video, size = video_of(source), (shape[1], shape[2])
    info = None if video is None else video.info
    turn = getattr(source, "turn", (False, False, False))
    pixel_range, doubt = (info.pixel_range, None) if info is not None else _pixel_range(source, shape[0])
    warnings = (doubt,) if doubt else () if info is None else tuple(info.warnings)
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
    """Return the time stamps of frames at a rate; None where it or their number is not known."""
    if isinstance(frames, FrameStream) and frames.times is not None:
        return frames.times
    return None if fps is None or n_frames == ENDLESS else np.arange(n_frames) / fps


def video_of(frames: Any) -> Video | None:
    """Return the video from which frames are read, or None."""
    return frames if isinstance(frames, Video) else getattr(frames, "video", None)


def _pixel_range(frames: Any, n_frames: int) -> tuple[PixelRange, str | None]:
    """Find the range of an array's pixels from its first, middle and last frame, whatever part is tracked."""
    try:
        kind = np.dtype(getattr(frames, "dtype", np.uint8))
    except TypeError:  # of another library
        kind = read_frame(frames, 0).dtype
    if kind.itemsize == 1:
        return range_of_type(kind), None
    seen = []
    for index in sorted({0, n_frames // 2, n_frames - 1}):
        with suppress(Exception):  # reported when that frame's turn comes
            seen.append(read_frame(frames, index))
    return pixel_range_of(seen)


def check_length(n_frames: int, last: int) -> None:
    """Refuse a video that ends before a frame of its tracks."""
    if last >= n_frames:
        raise ImageError(
            f"The video has {n_frames} frames and ends before frame {last} of the tracks, counted from 0: "
            "give the video that they were made on."
        )


def check_size(size: tuple[int, ...], tracks: Tracks) -> None:
    """Refuse frames of another size than that recorded in tracks."""
    wanted = (tracks.meta.get("height"), tracks.meta.get("width"))
    known = all(isinstance(side, (int, np.integer)) for side in wanted)
    if known and tuple(size) != wanted:
        raise ImageError(
            f"The frames are {size[1]} x {size[0]} px, and those of the tracks {wanted[1]} x {wanted[0]} px: "
            "give the video that they were made on."
        )


def recorded_stream(tracks: Tracks) -> int | None:
    """Return the video stream of a file that tracks were made on; None, the default one, if not known."""
    stream = tracks.meta.get(STREAM, 0 if "code_sha256" in tracks.meta else None)  # the first is not recorded
    return stream if isinstance(stream, int) else None


def recorded_pixel_range(tracks: Tracks) -> PixelRange | None:
    """Return the pixel values of black and white that tracks record, or None."""
    known = tracks.meta.get(PIXEL_RANGE)
    if not isinstance(known, (list, tuple)) or len(known) != 2:
        return None
    black, white = (float(value) if isinstance(value, (int, float)) else np.nan for value in known)
    return PixelRange(black, white) if np.isfinite(black) and np.isfinite(white) and white > black else None


def rgb_frames(
    source: FrameSource, stats: RunStats, begin: int | None = None
) -> Generator[tuple[int, Frame], None, None]:
    """Yield index and RGB frame of each frame to track, from `begin` on, or its error.

    An `ImageError` concerns one frame; a `VideoError` is the last item.
    """
    video = video_of(source.frames)
    damaged = () if video is None else video.damaged
    places = range(source.start if begin is None else begin, source.start + source.n_frames)
    first = source.number(places.start)
    reader = (
        _backwards(source)
        if source.backwards
        else read_frames(source.frames, first, source.stop, source.every)
    )
    with closing(reader):
        for place in reversed(places) if source.backwards else places:
            index = source.number(place)
            began = time.perf_counter()
            found: Frame
            try:
                frame = next(reader)
                if index in damaged:
                    raise ImageError(f"Frame {index} is damaged: it has no landmarks, and the run continues.")
                found = to_rgb8(frame, f"Frame {index}", source.pixel_range)
                if found.shape[:2] != source.size:
                    raise ImageError(
                        f"Frame {index} has {found.shape[1]} x {found.shape[0]} px, the first "
                        f"{source.size[1]} x {source.size[0]}: frames have one size, track it on its own."
                    )
                found = source.view.frame(found)
            except StopIteration:
                if isinstance(source.frames, FrameStream):
                    return
                ended = VideoError(f"The frames end before frame {index}: the frames before it are kept.")
                yield place, ended
                return
            except ImageError as error:
                found = error
            except VideoError as error:
                yield place, error
                return
            except Exception as error:
                reason = in_one_line(error)
                yield (
                    place,
                    VideoError(f"Frame {index} cannot be read ({reason}): the frames before it are kept."),
                )
                return
            stats.add_time("decode", time.perf_counter() - began)
            yield place, found


def _backwards(source: FrameSource) -> Generator[npt.NDArray[Any], None, None]:
    """Yield the frames of a source from the last to the first, decoding them block by block."""
    for stop in range(source.stop, source.start, -BLOCK):
        yield from reversed(list(read_frames(source.frames, max(source.start, stop - BLOCK), stop)))
