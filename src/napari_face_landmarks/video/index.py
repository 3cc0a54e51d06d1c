"""Frame index of a video file for exact seeking: the packet and the time stamp of each frame.

Frame counts and rates in container headers are estimates, and some are wrong. The index is built from the
packets, which are read once without decoding; the start and the end of the stream are then decoded to verify
it. If the packets have no usable time stamps, or decoding contradicts them, the whole stream is decoded once.

Frames are identified by the number of their packet in file order (decoding order, not display order). The
decoder passes this number through as a time stamp, so that the container's own time stamps do not matter.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from napari_face_landmarks.errors import VideoError
from napari_face_landmarks.video.container import (
    FrameGeometry,
    check_file,
    declared_size,
    geometry_of_all,
    is_self_contained,
    open_container,
    other_streams,
    pixel_aspect,
    video_stream,
)
from napari_face_landmarks.video.pixels import PixelRange

_HEAD_FRAMES = 8
_TAIL_PIXELS = 300_000_000  # decoded to verify the end: 1000 frames of 640 x 480, a third of a second
_MAX_REORDER = 64  # packets; codecs reorder by at most 16
_NO_STAMP = np.iinfo(np.int64).min
_NO_TABLE = ("mpeg", "mpegts", "mpegvideo", "m4v")  # their time stamps depend on where reading starts
_LEAD_SECONDS = 1
_CHECKSUM_BYTES = 4096
ASPECT_TOLERANCE = 0.005
"""Pixels whose aspect ratio differs from 1 by less count as square."""
_MAX_LOSS = 0.1  # share of the declared duration that may be missing at the end without a warning


@dataclass(frozen=True)
class VideoInfo:
    """Properties of a video file.

    Parameters
    ----------
    path : str
        The file, absolute.
    n_frames : int
        Number of frames that can be read, independent of the header.
    height, width : int
        Size of an upright frame in px.
    fps : float
        Mean frames per second.
    timestamps : ndarray, (n_frames,), float64
        Time of each frame in seconds, ascending; the first is not necessarily 0.
    warnings : tuple of str
        Problems of the file, such as a missing end, and assumptions made to read it.
    pixel_aspect : float
        Pixel aspect ratio (width divided by height). Frames are read as coded, without stretching.
    complete : bool
        Whether the file is neither truncated nor damaged at its end.
    stream : int
        Number of the video stream that is read, counted from 0.
    pixel_range : PixelRange, optional
        Black and white of 16-bit pixels that do not use their full range; they are converted to 8 bits.
    """

    path: str
    n_frames: int
    height: int
    width: int
    fps: float
    timestamps: npt.NDArray[np.float64]
    warnings: tuple[str, ...] = ()
    pixel_aspect: float = 1.0
    complete: bool = True
    stream: int = 0
    pixel_range: PixelRange | None = None


@dataclass(frozen=True)
class FrameIndex:
    """The packets of a video stream and their frames."""

    order: npt.NDArray[np.int64]  # (T,); the packet of each frame, in display order
    position: npt.NDArray[np.int64]  # (P,); the frame of each packet, -1 for none
    keys: npt.NDArray[np.int64]  # (K,); the packets at which decoding can start, ascending
    size: npt.NDArray[np.int64]  # (P,); bytes of each packet
    # (P,); distinguishes key packets of the same size: the time stamp, or a checksum if time stamps depend on
    # where reading starts
    stamp: npt.NDArray[np.int64]
    stamp_is_time: bool  # whether `stamp` contains time stamps
    seek: npt.NDArray[np.int64]  # (P,); seek target to reach the packet, in the stream's time base

    def key_before(self, frame: int, back: int = 0) -> int:
        """Return the last key packet from which `frame` can be decoded, or the `back`-th before it."""
        row = int(np.searchsorted(self.keys, self.order[frame], side="right")) - 1
        while row > 0 and self.position[self.keys[row]] > frame:
            row -= 1  # frames displayed before their key frame need the previous one (open GOP)
        return int(self.keys[max(row - back, 0)])

    def without_key(self, key: int) -> FrameIndex:
        """Return the index without a key packet at which decoding turned out to be impossible."""
        return dataclasses.replace(self, keys=self.keys[(self.keys != key) | (self.keys == 0)])


@dataclass(frozen=True)
class IndexedVideo:
    """An open file with its index and properties."""

    info: VideoInfo
    index: FrameIndex
    geometry: FrameGeometry
    state: tuple[int, int]  # size in bytes and modification time in ns, to detect that the file was replaced


class PacketLost(Exception):
    """Decoding could not start at the key packet `key`; an earlier one is needed."""

    def __init__(self, key: int) -> None:
        super().__init__(key)
        self.key = key


class Packets(NamedTuple):
    """Columns of the packets of a stream; missing time stamps are `_NO_STAMP`."""

    pts: npt.NDArray[np.int64]
    dts: npt.NDArray[np.int64]
    size: npt.NDArray[np.int64]
    key: npt.NDArray[np.bool_]
    hidden: npt.NDArray[np.bool_]
    checksum: npt.NDArray[np.int64]  # of the first bytes of key packets, otherwise 0
    complete: bool  # the file could be read to its end
    pts_are_presentation: bool  # not decoding times
    stamps_are_stable: bool  # independent of where reading starts
    lead: int  # margin before the seek target, in the stream's time base


def index_video(path: str, number: int | None = None) -> IndexedVideo:
    """Build the index of the file `path`."""
    status = check_file(path)
    container = open_container(path)
    try:
        stream = video_stream(container, path, number)
        number = container.streams.video.index(stream)
        packets = _read_packets(container, stream)
        if packets.size.size == 0:
            raise VideoError(
                f"{path} has no frames: it is truncated or its recording was not finished; record it again."
            )
        index = _index_by_stamps(packets)
        warning = _truncation(path, status.st_size, packets)
        notes = _stream_warnings(path, container, stream)
        aspect = pixel_aspect(stream)
        unit = float(stream.time_base or 1)
        rate = float(stream.average_rate or stream.guessed_rate or 25)
        declared = _declared_seconds(stream)
    finally:
        container.close()
    checked, geometry = _check_by_decoding(path, number, packets, index)
    if checked is None:
        checked, geometry = _index_by_decoding(path, number, packets)
    if geometry is None or checked.order.size == 0:
        raise VideoError(f"No frame of {path} can be decoded: convert it to H.264 in an mp4 file.")
    times = _timestamps(packets, checked, unit, rate)
    if warning:
        warning = f"{warning} the remaining {times.size} frames are used."
    height, width, _ = geometry.shape
    lost = declared - float(times[-1] - times[0])
    if not warning and lost > max(1.0, _MAX_LOSS * declared):
        notes.append(
            f"{path} declares {declared:.1f} s, of which {declared - lost:.1f} s can be read: it is damaged, "
            "or its last frame is long; check its end, or copy the video again."
        )
    warnings = (*((warning,) if warning else ()), *notes, *_pixel_warnings(path, geometry))
    if geometry.transposed:
        aspect = 1 / aspect
    if abs(aspect - 1) < ASPECT_TOLERANCE:
        aspect = 1.0
    fps = _fps(times, rate)
    complete, levels = not warning, geometry.levels
    info = VideoInfo(path, times.size, height, width, fps, times, warnings, aspect, complete, number, levels)
    return IndexedVideo(info, checked, geometry, (status.st_size, status.st_mtime_ns))


def _declared_seconds(stream: VideoStream) -> float:
    """Return the duration that a Matroska stream declares, in seconds; 0 if none.

    A damaged Matroska file can end without an error.
    """
    match = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    return 0.0 if match is None else 3600.0 * int(match[1]) + 60.0 * int(match[2]) + float(match[3])


def _stream_warnings(path: str, container: InputContainer, stream: VideoStream) -> list[str]:
    others = other_streams(container, stream)
    if not others:
        return []
    return [
        f"{path} has {len(others) + 1} video streams: the one of {stream.width} x {stream.height} is read, "
        f"not {', '.join(others)}; select another with --stream or open_video(path, stream)."
    ]


def _pixel_warnings(path: str, geometry: FrameGeometry) -> list[str]:
    warnings = []
    if geometry.levels is not None:
        warnings.append(
            f"The pixels of {path} have 16 bits, of which {geometry.levels.white:g} is used as white."
        )
    if len(geometry.sizes) > 1:
        first, *others = (f"{width} x {height}" for width, height in geometry.sizes)
        warnings.append(
            f"The frames of {path} change size, from {first} to {', '.join(others)}: all are scaled to the "
            "first size, and the decoder may lose a frame where the size changes; cut the video there if "
            "that matters."
        )
    if geometry.interlaced:
        warnings.append(
            f"{path} is interlaced: its two fields were recorded at different times, and landmarks of moving "
            "faces may be off; deinterlace it first, for example with ffmpeg -vf bwdif."
        )
    return warnings


def _read_packets(container: InputContainer, stream: VideoStream) -> Packets:
    name = container.format.name
    vp8 = stream.codec_context.name == "vp8"
    rows: list[tuple[int, int, int, bool, bool, int]] = []
    corrupt: list[bool] = []
    complete = True
    try:
        for packet in container.demux(stream):
            if packet.size == 0:
                continue
            hidden = packet.is_discard or (vp8 and not bytes(packet)[0] & 0x10)  # VP8's show_frame bit
            rows.append(
                (
                    _NO_STAMP if packet.pts is None else packet.pts,
                    _NO_STAMP if packet.dts is None else packet.dts,
                    packet.size,
                    packet.is_keyframe,
                    hidden,
                    _checksum(packet) if packet.is_keyframe else 0,
                )
            )
            corrupt.append(packet.is_corrupt)
    except (av.FFmpegError, OSError):
        complete = False
    while corrupt and corrupt[-1]:  # an incomplete last packet
        corrupt.pop()
        rows.pop()
        complete = False
    table = np.array(rows, dtype=np.int64).reshape(-1, 6)
    pts, dts, size, key, hidden_, checksum = (np.ascontiguousarray(column) for column in table.T)
    # avi numbers frames in decoding order
    presentation = not (name == "avi" and stream.codec_context.has_b_frames)
    lead = round(_LEAD_SECONDS / (stream.time_base or 1)) if name in _NO_TABLE else 0
    stable = presentation and name not in _NO_TABLE
    return Packets(
        pts, dts, size, key.astype(bool), hidden_.astype(bool), checksum, complete, presentation, stable, lead
    )


def _checksum(packet: Packet[VideoStream]) -> int:
    return zlib.crc32(memoryview(packet)[:_CHECKSUM_BYTES])


def _index_by_stamps(packets: Packets) -> FrameIndex | None:
    """Return the index that the time stamps imply, or None if they are unusable."""
    shown = np.flatnonzero(~packets.hidden)
    stamps = packets.pts[shown]
    if not packets.pts_are_presentation or np.any(stamps == _NO_STAMP):
        return None
    rows = np.argsort(stamps, kind="stable")
    if np.any(np.diff(stamps[rows]) <= 0):
        return None
    if np.any(np.abs(rows - np.arange(rows.size)) > _MAX_REORDER):  # the clock was set back
        return None
    return _make_index(packets, shown[rows], stamps_are_stable=packets.stamps_are_stable)


def _make_index(packets: Packets, order: npt.NDArray[np.int64], *, stamps_are_stable: bool) -> FrameIndex:
    position = np.full(packets.size.size, -1, dtype=np.int64)
    position[order] = np.arange(order.size)
    stamp = packets.pts if stamps_are_stable else packets.checksum
    keys = np.flatnonzero(packets.key & (position >= 0))
    identifiers = np.stack([packets.size[keys], stamp[keys]], axis=1)
    _, first, count = np.unique(identifiers, axis=0, return_index=True, return_counts=True)
    keys = np.union1d(keys[first[count == 1]], [0])  # ambiguous ones cannot be recognised after a seek
    seek = packets.pts if stamps_are_stable else np.where(packets.dts == _NO_STAMP, packets.pts, packets.dts)
    seek = np.where(seek == _NO_STAMP, 0, seek - packets.lead)
    return FrameIndex(order, position, keys.astype(np.int64), packets.size, stamp, stamps_are_stable, seek)


def _check_by_decoding(
    path: str, number: int, packets: Packets, index: FrameIndex | None
) -> tuple[FrameIndex | None, FrameGeometry | None]:
    """Decode the start and the end and drop frames missing there; return None if other frames differ."""
    if index is None or index.order.size == 0:
        return None, None
    with DecodingRun(path, index, number) as run:
        head = list(itertools.islice(run.decode_from(None), _HEAD_FRAMES))
        if not head:
            return None, None
        geometry = geometry_of_all([frame for _, frame in head])
        head_frames = index.position[np.array([number for number, _ in head], dtype=np.int64)]
        del head
        tail_frames = _decode_tail(run, index, _TAIL_PIXELS // (geometry.height * geometry.width))
        damaged = run.damaged
        geometry = dataclasses.replace(geometry, sizes=tuple(run.sizes))
    first, last = int(head_frames[0]), index.order.size - 1
    if tail_frames.size:
        last = int(tail_frames[-1])
    for frames in (head_frames, tail_frames):
        steps = np.diff(frames)
        if np.any(steps <= 0) or (np.any(steps > 1) and not damaged):
            return None, None
    if last - first + 1 < index.order.size:
        index = _make_index(packets, index.order[first : last + 1], stamps_are_stable=index.stamp_is_time)
    return index, geometry


def _decode_tail(run: DecodingRun, index: FrameIndex, max_frames: int) -> npt.NDArray[np.int64]:
    """Decode at most `max_frames` from the last usable key packet; return the numbers of the frames."""
    for key in (*index.keys[:-4:-1].tolist(), 0):
        first = max(0, int(index.position[key]))
        if index.order.size - first > max_frames:
            break
        try:
            decoded = [packet for packet, _ in run.decode_from(key or None)]
        except PacketLost:
            continue
        frames = index.position[np.array(decoded, dtype=np.int64)]
        return np.asarray(frames[frames >= first])
    return np.zeros(0, dtype=np.int64)


def _index_by_decoding(path: str, number: int, packets: Packets) -> tuple[FrameIndex, FrameGeometry | None]:
    """Decode the whole stream to find the packet of each frame."""
    provisional = _make_index(packets, np.arange(packets.size.size), stamps_are_stable=False)
    geometry: FrameGeometry | None = None
    decoded: dict[int, None] = {}  # an ordered set of packets
    with DecodingRun(path, provisional, number) as run:
        for packet, frame in run.decode_from(None):
            geometry = geometry or geometry_of_all([frame])
            decoded[packet] = None
        if geometry is not None:
            geometry = dataclasses.replace(geometry, sizes=tuple(run.sizes))
    order = np.fromiter(decoded, dtype=np.int64, count=len(decoded))
    return _make_index(packets, order, stamps_are_stable=False), geometry


def _timestamps(packets: Packets, index: FrameIndex, unit: float, rate: float) -> npt.NDArray[np.float64]:
    for stamps in (packets.pts[index.order], np.sort(packets.dts[index.order])):
        if not np.any(stamps == _NO_STAMP) and not np.any(np.diff(stamps) <= 0):
            return np.asarray(stamps * unit, dtype=np.float64)
    begin = packets.pts[index.order[0]]
    return (0.0 if begin == _NO_STAMP else begin * unit) + np.arange(
        index.order.size, dtype=np.float64
    ) / rate


def _fps(times: npt.NDArray[np.float64], stated: float) -> float:
    if times.size < 2:
        return stated
    measured = (times.size - 1) / float(times[-1] - times[0])
    return stated if abs(stated - measured) < 0.005 * measured else measured


def _truncation(path: str, n_bytes: int, packets: Packets) -> str:
    """Return the start of a warning if the file is incomplete, otherwise an empty string."""
    missing = declared_size(path) - n_bytes
    if missing > 0:
        return f"{path} is truncated ({missing} bytes are missing):"
    if not packets.complete:
        return f"{path} is truncated or damaged at its end:"
    return ""


class DecodingRun:
    """Decoder of video stream `number` of an indexed file.

    `damaged` is whether a packet could not be decoded; `sizes` are the (width, height) of the decoded frames.
    """

    def __init__(self, path: str, index: FrameIndex, number: int) -> None:
        self._path, self._number = path, number
        self._index = index
        self._known = {(int(index.size[key]), int(index.stamp[key])): int(key) for key in index.keys}
        self.damaged = False
        self.sizes: dict[tuple[int, int], None] = {}
        self._container: InputContainer | None = None
        self._stream: VideoStream | None = None

    def __enter__(self) -> DecodingRun:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        if self._container is not None:
            self._container.close()
        self._container = self._stream = None

    def decode_from(self, key: int | None) -> Iterator[tuple[int, VideoFrame]]:
        """Yield (packet number, frame) from key packet `key` (None: the start), in the decoder's order."""
        if key is None or self._container is None:
            self._open()
        container, stream = self._container, self._stream
        assert container is not None
        assert stream is not None
        begin, packets = (
            (0, _packets(container, stream)) if key is None else self._seek(container, stream, key)
        )
        position = self._index.position
        started = key is None
        for packet in itertools.chain(self._numbered(packets, begin, key), [None]):
            try:
                frames = stream.codec_context.decode(packet)
            except av.FFmpegError:
                self.damaged = True
                continue  # a damaged packet: its frame is missing, later ones may be intact
            for frame in frames:
                self.sizes[frame.width, frame.height] = None
                number = frame.pts
                if number is None or not 0 <= number < position.size or position[number] < 0:
                    continue
                if not started:
                    if begin and position[number] < position[begin]:
                        continue  # displayed before the key frame and coded from earlier frames
                    if begin and (number != begin or not is_self_contained(frame)):
                        raise PacketLost(begin)
                    started = True
                yield number, frame
        if not started and begin:
            raise PacketLost(begin)

    def _open(self) -> None:
        self.close()
        self._container = open_container(self._path)
        self._stream = video_stream(self._container, self._path, self._number)

    def _seek(
        self, container: InputContainer, stream: VideoStream, key: int
    ) -> tuple[int, Iterator[Packet[VideoStream]]]:
        """Return the key packet reached (`key` or an earlier one) and an iterator over packets from it on."""
        try:
            container.seek(int(self._index.seek[key]), stream=stream, backward=True)
        except av.FFmpegError:
            raise PacketLost(key) from None
        packets = _packets(container, stream)
        for packet in packets:
            number = self._recognise(packet)
            if number is not None and number <= key:
                return number, itertools.chain([packet], packets)
            if number is not None:
                break
        raise PacketLost(key)

    def _recognise(self, packet: Packet[VideoStream]) -> int | None:
        if not packet.is_keyframe:
            return None
        stamp = packet.pts if self._index.stamp_is_time else _checksum(packet)
        return None if stamp is None else self._known.get((packet.size, stamp))

    def _numbered(
        self, packets: Iterator[Packet[VideoStream]], number: int, key: int | None
    ) -> Iterator[Packet[VideoStream]]:
        """Set the time stamp of each packet to its number, which the decoder passes on to the frame."""
        size = self._index.size
        for packet in packets:
            if number >= size.size:
                return
            if key is not None and packet.size != size[number]:
                raise PacketLost(key)
            packet.pts = number
            packet.dts = None
            yield packet
            number += 1


def _packets(container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
    try:
        for packet in container.demux(stream):
            if packet.size > 0:
                yield packet
    except (av.FFmpegError, OSError):
        return  # end of the readable part
