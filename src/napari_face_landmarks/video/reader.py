"""Video files as lazy arrays, and sequential reading of frames from videos and arrays."""

from __future__ import annotations

import operator
import threading
from collections import OrderedDict
from collections.abc import Generator, Iterator, Sequence
from types import EllipsisType
from typing import Any

import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from napari_face_landmarks.errors import ImageError, VideoError
from napari_face_landmarks.video.container import FramePool, check_file, to_rgb
from napari_face_landmarks.video.index import DecodingRun, IndexedVideo, PacketLost, index_video

Frame = npt.NDArray[np.uint8]

_CACHE_BYTES = 64_000_000
_SEEK_FRAMES = 8  # decoding this many frames is as fast as seeking
_LARGEST_ARRAY = 2_000_000_000  # bytes per request


class VideoWarning(UserWarning):
    """A video file is incomplete or unusual; the message says how it is read."""


class Video:
    """A video file as a lazy array of shape (T, H, W, 3), uint8.

    ``video[n]`` is the n-th frame in display order, also at variable frame rates. Thread-safe. Created by
    `open_video`.

    A frame that cannot be decoded is replaced by the last intact one, so that frame numbers and time stamps
    remain correct; the frames from there to the next key frame may depend on where reading started.

    Parameters
    ----------
    source : IndexedVideo
        From `index_video`.

    Attributes
    ----------
    info : VideoInfo
        Size, time stamps and warnings.
    damaged : set of int
        Frames read so far that could not be decoded and were replaced by the last intact frame.
    concealed : set of int
        Frames read so far in which the decoder concealed errors.
    keeps_frames : bool
        Whether frames that are read sequentially are cached for ``video[n]``; initially False. For viewers
        that display the frames of a run.
    """

    files: Sequence[str]

    def __init__(self, source: IndexedVideo) -> None:
        self.info = source.info
        self.files = getattr(self, "files", (source.info.path,))
        self._source = source
        self._lock = threading.RLock()
        self._reader: FrameReader | None = None
        self._cache = _FrameCache(_CACHE_BYTES)
        self._reformatter = VideoReformatter()
        self._closed = False
        self.damaged: set[int] = set()
        self.concealed: set[int] = set()
        self.keeps_frames = False

    @property
    def source(self) -> IndexedVideo:
        """The indexed file."""
        return self._source

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The shape (T, H, W, 3)."""
        return (self.info.n_frames, self.info.height, self.info.width, 3)

    @property
    def dtype(self) -> np.dtype[np.uint8]:
        """The dtype of the pixels, uint8."""
        return np.dtype(np.uint8)

    @property
    def ndim(self) -> int:
        """The number of dimensions, 4."""
        return 4

    @property
    def size(self) -> int:
        """The number of values, T * H * W * 3."""
        frames, height, width, channels = self.shape
        return frames * height * width * channels

    @property
    def nbytes(self) -> int:
        """Bytes of all frames in memory."""
        return self.size

    def __len__(self) -> int:
        return self.info.n_frames

    def __repr__(self) -> str:
        return f"<Video {self.info.path} {self.shape} at {self.info.fps:.4g} frames per second>"

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Frame]:
        return self.frames()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the path: the file is opened again."""
        self._check_open()
        return self._opened_again, (self.info.path, self.info.stream)

    @classmethod
    def _opened_again(cls, path: str, stream: int) -> Video:
        return cls(index_video(path, stream))

    def __getitem__(self, key: Any) -> npt.NDArray[np.uint8]:
        """Return frames or parts of them, with NumPy indexing.

        Parameters
        ----------
        key : int, slice, array of int or bool, Ellipsis, or a tuple of them
            The first entry selects frames; the others are applied to each frame. ``None`` is not supported.

        Returns
        -------
        ndarray, uint8
            ``video[n]`` is a C-contiguous copy, (H, W, 3).

        Raises
        ------
        IndexError
            If a frame does not exist or there are too many indices.
        VideoError
            If the file is closed, was changed, or more than 2 GB are requested at once.
        """
        frames, within = _split_key(key)
        if isinstance(frames, (int, np.integer)):
            frame = self._frame(_checked_index(frames, len(self)))
            return frame[within] if within else frame
        numbers = np.arange(len(self))[frames]
        if numbers.ndim != 1:
            raise IndexError(
                f"The frame index of a video must be 1-dimensional; its shape is {numbers.shape}."
            )
        if not isinstance(frames, slice) and any(
            not isinstance(entry, (int, np.integer, slice)) for entry in within
        ):
            raise IndexError(
                "A video supports one array as an index: select frames first, then index the result."
            )
        part = np.empty(self.shape[1:], dtype=np.bool_)[within].shape if within else self.shape[1:]
        self._refuse_if_large(numbers.size * int(np.prod(part)))
        out = np.empty((numbers.size, *part), dtype=np.uint8)
        for row, number in enumerate(numbers):
            frame = self._frame(int(number))
            out[row] = frame[within] if within else frame
        return out

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        if copy is False:
            raise ValueError(
                "A video is decoded from its file and cannot be converted to an array without a copy."
            )
        whole = self[:]
        return whole if dtype is None else whole.astype(dtype, copy=False)

    def _refuse_if_large(self, count: int) -> None:
        if count > _LARGEST_ARRAY:
            raise VideoError(
                f"{count / 1e9:.1f} GB of frames of {self.info.path} were requested at once: "
                f"request at most {_LARGEST_ARRAY / 1e9:.0f} GB, or read frame by frame."
            )

    def frames(self, start: int = 0, stop: int | None = None, every: int = 1) -> Generator[Frame, None, None]:
        """Read frames sequentially, which is fastest; the pixels are those of ``video[n]``.

        Parameters
        ----------
        start, stop : int
            First frame, and the one after the last; clipped to the existing frames.
        every : int
            Only every n-th of these frames.

        Yields
        ------
        ndarray, (H, W, 3), uint8
            C-contiguous copy.

        Raises
        ------
        VideoError
            If the file is closed or was changed.
        """
        first, last = frame_range(start, stop, len(self))
        if first >= last:
            return
        self._check_open()
        geometry, reformatter = self._source.geometry, VideoReformatter()
        pool = FramePool((geometry.height, geometry.width, 3))
        with FrameReader(self._source, self.damaged, self.concealed) as reader:
            for number, frame in reader.frames_from(first):
                if self._closed:
                    self._check_open()
                if (number - first) % every == 0:
                    if self.keeps_frames:
                        self._cache.put(number, frame)
                    yield to_rgb(frame, geometry, reformatter, pool)
                if number + 1 >= last:
                    return

    def keep(self, number: int, picture: Frame) -> None:
        """Cache a frame that was decoded elsewhere, for ``video[number]``.

        Parameters
        ----------
        number : int
            Frame number.
        picture : ndarray, (H, W, 3), uint8
            The frame, as ``video[number]`` returns it.

        Raises
        ------
        ImageError
            If its shape or dtype is not that of the video's frames.
        """
        if picture.shape != self.shape[1:] or picture.dtype != np.uint8:
            raise ImageError(
                f"A frame of {self.info.path} has the shape {self.shape[1:]} and dtype uint8, not "
                f"{picture.shape} and {picture.dtype}: give a frame of this video."
            )
        self._cache.put(_checked_index(number, len(self)), picture)

    def close(self) -> None:
        """Close the file; further reading raises a `VideoError`."""
        with self._lock:
            self._closed = True
            self._cache.clear()
            if self._reader is not None:
                self._reader.close()
                self._reader = None

    def _check_open(self) -> None:
        if self._closed:
            raise VideoError(f"The video {self.info.path} is closed: open it again.")

    def _frame(self, number: int) -> Frame:
        with self._lock:
            self._check_open()
            frame: VideoFrame | Frame | None = self._cache.get(number)
            if frame is None:
                frame = self._decode(number)
            if isinstance(frame, np.ndarray):
                return frame.copy()
            return to_rgb(frame, self._source.geometry, self._reformatter)

    def _decode(self, number: int) -> VideoFrame:
        if self._reader is None:
            self._reader = FrameReader(self._source, self.damaged, self.concealed)
        for passed, frame in self._reader.approach(number):
            self._cache.put(passed, frame)
            if passed == number:
                return frame
        raise VideoError(
            f"Frame {number} of {self.info.path} cannot be decoded: convert the video to H.264 in mp4."
        )


class FrameReader:
    """Decodes the frames of an open file, sequentially or after seeking.

    Frames that were replaced are added to `damaged`, those with concealed errors to `concealed`.
    """

    def __init__(self, source: IndexedVideo, damaged: set[int], concealed: set[int]) -> None:
        self._source = source
        self._damaged, self._concealed = damaged, concealed
        self._index = source.index
        self._run = DecodingRun(source.info.path, source.index, source.info.stream)
        self._current: Iterator[tuple[int, VideoFrame]] | None = None
        self._next = 0

    def __enter__(self) -> FrameReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._current = None
        self._run.close()

    def frames_from(self, number: int) -> Iterator[tuple[int, VideoFrame]]:
        """Yield (n, frame) for `number` and all frames after it."""
        expected = number
        for passed, frame in self._from_key(number):
            if passed == expected:
                yield passed, frame
                expected += 1

    def approach(self, number: int) -> Iterator[tuple[int, VideoFrame]]:
        """Yield (n, frame) of the frames decoded to reach `number`; the caller stops at `number`."""
        key_frame = int(self._index.position[self._index.key_before(number)])
        if self._current is None or number < self._next or key_frame > self._next + _SEEK_FRAMES:
            self._current = self._from_key(number)
        for passed, frame in self._current:
            self._next = passed + 1
            yield passed, frame

    def _from_key(self, number: int) -> Iterator[tuple[int, VideoFrame]]:
        """Yield (n, frame) from the key frame before `number`, or an earlier one, without gaps."""
        self._refuse_if_changed()
        back = 0
        while True:
            key = self._index.key_before(number, back) or None
            try:
                for passed, frame in self._without_gaps(key):
                    yield passed, frame
                    number = min(max(number, passed + 1), len(self._index.order) - 1)
                return
            except PacketLost as lost:
                if key is None:
                    path = self._source.info.path
                    raise VideoError(
                        f"{path} cannot be read from frame {number} on: convert it to H.264 in mp4."
                    ) from None
                self._index = self._index.without_key(lost.key)
                back = 2 * back + 1

    def _without_gaps(self, key: int | None) -> Iterator[tuple[int, VideoFrame]]:
        """Yield (n, frame) from a key packet; frames that cannot be decoded repeat the last intact one."""
        position = self._index.position
        expected = 0
        last: VideoFrame | None = None
        for packet, frame in self._run.decode_from(key):
            number = int(position[packet])
            if last is None and key is not None:
                if number > position[key]:
                    raise PacketLost(key)
                expected = number
            while expected < number:
                self._damaged.add(expected)
                yield expected, frame if last is None else last
                expected += 1
            if number == expected:
                self._damaged.discard(number)
                if frame.is_corrupt:
                    self._concealed.add(number)
                yield number, frame
                last = frame
                expected += 1
        if last is None:
            raise PacketLost(key or 0)
        while expected < len(self._index.order):
            self._damaged.add(expected)
            yield expected, last
            expected += 1

    def _refuse_if_changed(self) -> None:
        path = self._source.info.path
        state = check_file(path)
        if (state.st_size, state.st_mtime_ns) != self._source.state:
            raise VideoError(f"{path} has changed since it was opened: open it again.")


class _FrameCache:
    """Thread-safe least-recently-used cache of decoded frames."""

    def __init__(self, max_bytes: int) -> None:
        self._max = max_bytes
        self._bytes = 0
        self._frames: OrderedDict[int, VideoFrame | Frame] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, number: int) -> VideoFrame | Frame | None:
        with self._lock:
            frame = self._frames.get(number)
            if frame is not None:
                self._frames.move_to_end(number)
            return frame

    def put(self, number: int, frame: VideoFrame | Frame) -> None:
        with self._lock:
            if number in self._frames:
                self._bytes -= _frame_bytes(self._frames.pop(number))
            self._frames[number] = frame
            self._bytes += _frame_bytes(frame)
            while self._bytes > self._max and len(self._frames) > 1:
                self._bytes -= _frame_bytes(self._frames.popitem(last=False)[1])

    def clear(self) -> None:
        with self._lock:
            self._frames.clear()
            self._bytes = 0


def _frame_bytes(frame: VideoFrame | Frame) -> int:
    if isinstance(frame, np.ndarray):
        return int(frame.nbytes)
    return sum(plane.buffer_size for plane in frame.planes)


def _split_key(key: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return the index of frames and the indices within each frame."""
    entries = list(key) if isinstance(key, tuple) else [key]
    if any(entry is None for entry in entries):
        raise IndexError("A video cannot be indexed with None: add the axis to the frame afterwards.")
    dots = [i for i, entry in enumerate(entries) if isinstance(entry, EllipsisType)]
    if len(dots) > 1:
        raise IndexError("A video can be indexed with one Ellipsis only.")
    if dots:
        entries[dots[0] : dots[0] + 1] = [slice(None)] * (5 - len(entries))
    if len(entries) > 4:
        raise IndexError(f"A video has 4 axes (frame, y, x, channel), and {len(entries)} indices were given.")
    within = tuple(entries[1:])
    if all(isinstance(entry, slice) and entry == slice(None) for entry in within):
        within = ()
    return (entries[0] if entries else slice(None)), within


def _checked_index(index: int | np.integer[Any], count: int) -> int:
    number = operator.index(index)
    if not -count <= number < count:
        raise IndexError(f"There is no frame {number}: the video has {count} frames, 0 to {count - 1}.")
    return number % count


def frame_range(start: int, stop: int | None, count: int) -> tuple[int, int]:
    """Return the first frame and the one after the last, clipped to the existing frames."""
    first = operator.index(start)
    last = count if stop is None else operator.index(stop)
    return max(0, first), min(count, last)
