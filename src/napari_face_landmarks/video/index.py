"""Which packet of a video file shows which frame, and when: the table behind exact seeking.

The counts and rates in a container's header are estimates, and some containers lie. The index is built from
the packets themselves, read once without decoding; the start and the end of the film are then decoded to see
whether the frames that come out are the ones expected. Where the packets carry no usable time stamps, or
decoding disagrees, the whole film is decoded once: what is decoded is the truth.

Frames are told apart by the number of the packet they came from, in the order of the file (which is the order
of decoding, not of display): the decoder hands that number through, whatever the container's time stamps are
worth.
"""

from __future__ import annotations

import dataclasses
import itertools
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
    geometry_of,
    is_self_contained,
    open_container,
    other_streams,
    pixel_aspect,
    video_stream,
)

_HEAD_FRAMES = 8
_TAIL_PIXELS = (
    300_000_000  # how much is decoded to check the end: 1000 frames of 640 x 480, a third of a second
)
_FURTHEST_REORDER = 64  # no codec shows a picture later or earlier than 16 places from where it is decoded
_NO_STAMP = np.iinfo(np.int64).min
_NO_TABLE = ("mpeg", "mpegts", "mpegvideo", "m4v")  # containers whose times depend on where reading begins
_LEAD_SECONDS = 1
_CHECKED_BYTES = 4096
SMALLEST_ASPECT = 0.005
"""Pixels whose sides differ by less count as square."""


@dataclass(frozen=True)
class VideoInfo:
    """What a video file holds.

    Parameters
    ----------
    path : str
        The file, absolute.
    n_frames : int
        How many frames can be read; not what the header says.
    height, width : int
        Size of a frame as it is read, upright, in px.
    fps : float
        Mean frames per second.
    timestamps : ndarray, (n_frames,), float64
        Seconds of each frame as the file says, ascending; the first need not be 0.
    warnings : tuple of str
        A sentence for each thing found wrong with the file, such as a missing end.
    pixel_aspect : float
        How much wider than high a pixel is shown. Frames are read as they are coded, not stretched.
    """

    path: str
    n_frames: int
    height: int
    width: int
    fps: float
    timestamps: npt.NDArray[np.float64]
    warnings: tuple[str, ...] = ()
    pixel_aspect: float = 1.0


@dataclass(frozen=True)
class FrameIndex:
    """The packets of a film and the frames they show.

    Parameters
    ----------
    order : ndarray, (T,), int64
        The packet that shows each frame.
    position : ndarray, (P,), int64
        The frame that each packet shows, -1 for none.
    keys : ndarray, (K,), int64
        The packets that decoding may begin with, ascending.
    size : ndarray, (P,), int64
        Bytes of each packet.
    stamp : ndarray, (P,), int64
        What tells key packets of the same size apart wherever reading begins: the time stamp, or a checksum
        where time stamps depend on where reading began.
    stamp_is_time : bool
        Whether `stamp` holds time stamps.
    seek : ndarray, (P,), int64
        The time to ask the container for to come to the packet, in units of the stream.
    """

    order: npt.NDArray[np.int64]
    position: npt.NDArray[np.int64]
    keys: npt.NDArray[np.int64]
    size: npt.NDArray[np.int64]
    stamp: npt.NDArray[np.int64]
    stamp_is_time: bool
    seek: npt.NDArray[np.int64]

    def key_before(self, frame: int, back: int = 0) -> int:
        """Return the key packet that decoding reaches `frame` from soonest, or one `back` places before."""
        row = int(np.searchsorted(self.keys, self.order[frame], side="right")) - 1
        while row > 0 and self.position[self.keys[row]] > frame:
            row -= 1  # frames shown before their key frame need the one before (open groups of pictures)
        return int(self.keys[max(row - back, 0)])

    def without_key(self, key: int) -> FrameIndex:
        """Return the index without a packet that turned out not to be one that decoding may begin with."""
        return dataclasses.replace(self, keys=self.keys[(self.keys != key) | (self.keys == 0)])


@dataclass(frozen=True)
class Film:
    """All that is known of an opened file."""

    info: VideoInfo
    index: FrameIndex
    geometry: FrameGeometry
    state: tuple[int, int]  # size in bytes and time of change (ns) of the file, to notice when it is replaced


class PacketLost(Exception):
    """Decoding could not begin at a key packet: begin at an earlier one.

    Parameters
    ----------
    key : int
        The packet.
    """

    def __init__(self, key: int) -> None:
        super().__init__(key)
        self.key = key


class Packets(NamedTuple):
    """Columns of what was read from each packet of the stream; _NO_STAMP where a value is absent."""

    pts: npt.NDArray[np.int64]
    dts: npt.NDArray[np.int64]
    size: npt.NDArray[np.int64]
    key: npt.NDArray[np.bool_]
    hidden: npt.NDArray[np.bool_]
    checksum: npt.NDArray[np.int64]  # of the first bytes of key packets, 0 for the others
    complete: bool  # whether the file could be read to its end
    times_show: bool  # whether `pts` are times of display
    times_last: bool  # whether a packet has the same time stamps wherever reading begins
    lead: int  # how much earlier than a packet the container is asked to go, in units of the stream


def read_film(path: str) -> Film:
    """Build the index of the file `path`.

    Raises
    ------
    VideoError
        If the file cannot be read, is no video, or no frame of it can be decoded.
    """
    status = check_file(path)
    container = open_container(path)
    try:
        stream = video_stream(container, path)
        packets = _read_packets(container, stream)
        if packets.size.size == 0:
            raise VideoError(
                f"{path} holds no frames: it is cut off or was never finished, so record it again."
            )
        index = _index_by_stamps(packets)
        warning = _what_is_missing(path, status.st_size, packets)
        notes = _notes(path, container, stream)
        aspect = pixel_aspect(stream)
        unit = float(stream.time_base or 1)
        rate = float(stream.average_rate or stream.guessed_rate or 25)
    finally:
        container.close()
    checked, geometry = _check_by_decoding(path, packets, index)
    if checked is None:
        checked, geometry = _index_by_decoding(path, packets)
    if geometry is None or checked.order.size == 0:
        raise VideoError(f"No frame of {path} can be decoded: convert it to H.264 in an mp4 file.")
    times = _timestamps(packets, checked, unit, rate)
    if warning:
        warning = f"{warning} the {times.size} frames that are there are used."
    height, width, _ = geometry.shape
    warnings = (*((warning,) if warning else ()), *notes)
    if geometry.transposed:
        aspect = 1 / aspect
    if abs(aspect - 1) < SMALLEST_ASPECT:
        aspect = 1.0
    info = VideoInfo(path, times.size, height, width, _fps(times, rate), times, warnings, aspect)
    return Film(info, checked, geometry, (status.st_size, status.st_mtime_ns))


def _notes(path: str, container: InputContainer, stream: VideoStream) -> list[str]:
    """Return sentences about what a user should know of a file that can be read."""
    notes = []
    others = other_streams(container, stream)
    if others:
        notes.append(
            f"{path} holds {len(others) + 1} videos: the one of {stream.width} x {stream.height} is read, "
            f"not {', '.join(others)}."
        )
    return notes


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
    while corrupt and corrupt[-1]:  # a last packet that is only half there
        corrupt.pop()
        rows.pop()
        complete = False
    table = np.array(rows, dtype=np.int64).reshape(-1, 6)
    pts, dts, size, key, hidden_, checksum = (np.ascontiguousarray(column) for column in table.T)
    show = not (name == "avi" and stream.codec_context.has_b_frames)  # avi counts frames as they are decoded
    lead = round(_LEAD_SECONDS / (stream.time_base or 1)) if name in _NO_TABLE else 0
    last = show and name not in _NO_TABLE
    return Packets(
        pts, dts, size, key.astype(bool), hidden_.astype(bool), checksum, complete, show, last, lead
    )


def _checksum(packet: Packet[VideoStream]) -> int:
    return zlib.crc32(memoryview(packet)[:_CHECKED_BYTES])


def _index_by_stamps(packets: Packets) -> FrameIndex | None:
    """Return the index that the time stamps imply, or None where they are no guide."""
    shown = np.flatnonzero(~packets.hidden)
    stamps = packets.pts[shown]
    if not packets.times_show or np.any(stamps == _NO_STAMP):
        return None
    places = np.argsort(stamps, kind="stable")
    if np.any(np.diff(stamps[places]) <= 0):
        return None
    if np.any(
        np.abs(places - np.arange(places.size)) > _FURTHEST_REORDER
    ):  # the clock was set back on the way
        return None
    return _make_index(packets, shown[places], times_are_good=packets.times_last)


def _make_index(packets: Packets, order: npt.NDArray[np.int64], *, times_are_good: bool) -> FrameIndex:
    position = np.full(packets.size.size, -1, dtype=np.int64)
    position[order] = np.arange(order.size)
    stamp = packets.pts if times_are_good else packets.checksum
    keys = np.flatnonzero(packets.key & (position >= 0))
    marks = np.stack([packets.size[keys], stamp[keys]], axis=1)
    _, first, count = np.unique(marks, axis=0, return_index=True, return_counts=True)
    keys = np.union1d(keys[first[count == 1]], [0])  # only those that can be told from all others
    seek = packets.pts if times_are_good else np.where(packets.dts == _NO_STAMP, packets.pts, packets.dts)
    seek = np.where(seek == _NO_STAMP, 0, seek - packets.lead)
    return FrameIndex(order, position, keys.astype(np.int64), packets.size, stamp, times_are_good, seek)


def _check_by_decoding(
    path: str, packets: Packets, index: FrameIndex | None
) -> tuple[FrameIndex | None, FrameGeometry | None]:
    """Decode the start and the end; cut off what does not come out there; None if more than that is wrong."""
    if index is None or index.order.size == 0:
        return None, None
    with DecodingRun(path, index) as run:
        head = list(itertools.islice(run.decode_from(None), _HEAD_FRAMES))
        if not head:
            return None, None
        geometry = geometry_of(head[0][1])
        head_places = index.position[np.array([number for number, _ in head], dtype=np.int64)]
        del head
        tail_places = _decode_tail(run, index, _TAIL_PIXELS // (geometry.height * geometry.width))
        damaged = run.damaged
    first, last = int(head_places[0]), index.order.size - 1
    if tail_places.size:
        last = int(tail_places[-1])
    for places in (head_places, tail_places):
        steps = np.diff(places)
        if np.any(steps <= 0) or (np.any(steps > 1) and not damaged):
            return None, None
    if last - first + 1 < index.order.size:
        index = _make_index(packets, index.order[first : last + 1], times_are_good=index.stamp_is_time)
    return index, geometry


def _decode_tail(run: DecodingRun, index: FrameIndex, most_frames: int) -> npt.NDArray[np.int64]:
    """Decode from the last key packet that allows it; return which frames came out, if it is not too much."""
    for key in (*index.keys[:-4:-1].tolist(), 0):
        first = max(0, int(index.position[key]))
        if index.order.size - first > most_frames:
            break
        try:
            numbers = [number for number, _ in run.decode_from(key or None)]
        except PacketLost:
            continue
        places = index.position[np.array(numbers, dtype=np.int64)]
        return np.asarray(places[places >= first])
    return np.zeros(0, dtype=np.int64)


def _index_by_decoding(path: str, packets: Packets) -> tuple[FrameIndex, FrameGeometry | None]:
    """Decode the whole film to learn which packet shows which frame."""
    provisional = _make_index(packets, np.arange(packets.size.size), times_are_good=False)
    geometry: FrameGeometry | None = None
    seen: dict[int, None] = {}  # ordered, each packet once
    with DecodingRun(path, provisional) as run:
        for number, frame in run.decode_from(None):
            geometry = geometry or geometry_of(frame)
            seen[number] = None
    order = np.fromiter(seen, dtype=np.int64, count=len(seen))
    return _make_index(packets, order, times_are_good=False), geometry


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


def _what_is_missing(path: str, bytes_there: int, packets: Packets) -> str:
    """Return the start of a sentence that says how the file is incomplete, or nothing."""
    missing = declared_size(path) - bytes_there
    if missing > 0:
        return f"{path} is cut off ({missing} bytes of it are missing):"
    if not packets.complete:
        return f"{path} is cut off or damaged at its end:"
    return ""


class DecodingRun:
    """An open file and its decoder.

    Parameters
    ----------
    path : str
        The file.
    index : FrameIndex
        Its index.

    Attributes
    ----------
    damaged : bool
        Whether a packet could not be decoded.
    """

    def __init__(self, path: str, index: FrameIndex) -> None:
        self._path = path
        self._index = index
        self._known = {(int(index.size[key]), int(index.stamp[key])): int(key) for key in index.keys}
        self.damaged = False
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
        """Yield the number of the packet and the frame, as they come out of the decoder.

        Parameters
        ----------
        key : int or None
            Key packet to begin with, or an earlier one; None opens the file anew and reads from its start.

        Raises
        ------
        PacketLost
            If what the container gives after seeking is not what the index says.
        """
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
                continue  # a damaged packet: its frame is missing, the next ones may be whole
            for frame in frames:
                number = frame.pts
                if number is None or not 0 <= number < position.size or position[number] < 0:
                    continue
                if not started:
                    if begin and position[number] < position[begin]:
                        continue  # shown before the key frame, and coded from what came before it
                    if begin and (number != begin or not is_self_contained(frame)):
                        raise PacketLost(begin)
                    started = True
                yield number, frame
        if not started and begin:
            raise PacketLost(begin)

    def _open(self) -> None:
        self.close()
        self._container = open_container(self._path)
        self._stream = video_stream(self._container, self._path)

    def _seek(
        self, container: InputContainer, stream: VideoStream, key: int
    ) -> tuple[int, Iterator[Packet[VideoStream]]]:
        """Return the key packet that was found, `key` or one before, and the packets from it on."""
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
        """Give each packet its number as its time stamp, which the decoder hands on to the frame."""
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
        return  # the end of what can be read
