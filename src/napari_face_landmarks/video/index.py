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

import itertools
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
    Picture,
    check_file,
    declared_size,
    is_predicted,
    open_container,
    picture_of,
    video_stream,
)

_HEAD_FRAMES = 8
_TAIL_PIXELS = (
    300_000_000  # how much is decoded to check the end: 1000 frames of 640 x 480, a third of a second
)
_FURTHEST_REORDER = 64  # no codec shows a picture later or earlier than 16 places from where it is decoded
_NO_STAMP = np.iinfo(np.int64).min


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
    """

    path: str
    n_frames: int
    height: int
    width: int
    fps: float
    timestamps: npt.NDArray[np.float64]
    warnings: tuple[str, ...] = ()


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
        What tells packets of the same size apart wherever reading begins: the time stamp or the place in the
        file.
    seek : ndarray, (P,), int64
        The time to ask the container for to come to the packet, in units of the stream.
    stamp_is_time : bool
        Whether `stamp` holds time stamps.
    """

    order: npt.NDArray[np.int64]
    position: npt.NDArray[np.int64]
    keys: npt.NDArray[np.int64]
    size: npt.NDArray[np.int64]
    stamp: npt.NDArray[np.int64]
    seek: npt.NDArray[np.int64]
    stamp_is_time: bool

    def key_before(self, frame: int) -> int:
        """Return the row of `keys` from which decoding reaches `frame` soonest."""
        row = int(np.searchsorted(self.keys, self.order[frame], side="right")) - 1
        while row > 0 and self.position[self.keys[row]] > frame:
            row -= 1  # frames shown before their key frame need the one before (open groups of pictures)
        return max(row, 0)


@dataclass(frozen=True)
class Film:
    """All that is known of an opened file."""

    info: VideoInfo
    index: FrameIndex
    picture: Picture
    state: tuple[int, int]  # size in bytes and time of change (ns) of the file, to notice when it is replaced


class PacketLost(Exception):
    """After seeking, the packets were not those of the index: begin at an earlier key frame."""


class Packets(NamedTuple):
    """Columns of what was read from each packet of the stream; _NO_STAMP where a value is absent."""

    pts: npt.NDArray[np.int64]
    dts: npt.NDArray[np.int64]
    pos: npt.NDArray[np.int64]
    size: npt.NDArray[np.int64]
    key: npt.NDArray[np.bool_]
    hidden: npt.NDArray[np.bool_]
    complete: bool  # whether the file could be read to its end


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
        index = _index_by_stamps(packets, container.format.name, bool(stream.codec_context.has_b_frames))
        warning = _what_is_missing(path, status.st_size, packets)
        unit = float(stream.time_base or 1)
        rate = float(stream.average_rate or stream.guessed_rate or 25)
    finally:
        container.close()
    checked, picture = _check_by_decoding(path, packets, index)
    if checked is None:
        checked, picture = _index_by_decoding(path, packets)
    if picture is None or checked.order.size == 0:
        raise VideoError(f"No frame of {path} can be decoded: convert it to H.264 in an mp4 file.")
    times = _timestamps(packets, checked, unit, rate)
    if warning:
        warning = f"{warning} the {times.size} frames that are there are used."
    height, width, _ = picture.shape
    info = VideoInfo(path, times.size, height, width, _fps(times, rate), times, (warning,) if warning else ())
    return Film(info, checked, picture, (status.st_size, status.st_mtime_ns))


def _read_packets(container: InputContainer, stream: VideoStream) -> Packets:
    vp8 = stream.codec_context.name == "vp8"
    rows: list[tuple[int, int, int, int, bool, bool]] = []
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
                    _NO_STAMP if packet.pos is None else packet.pos,
                    packet.size,
                    packet.is_keyframe,
                    hidden,
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
    pts, dts, pos, size, key, hidden_ = (np.ascontiguousarray(column) for column in table.T)
    return Packets(pts, dts, pos, size, key.astype(bool), hidden_.astype(bool), complete)


def _index_by_stamps(packets: Packets, container: str, reordered: bool) -> FrameIndex | None:
    """Return the index that the time stamps imply, or None where they are no guide."""
    shown = np.flatnonzero(~packets.hidden)
    stamps = packets.pts[shown]
    if np.any(stamps == _NO_STAMP) or (container == "avi" and reordered):  # avi has no time stamps of display
        return None
    places = np.argsort(stamps, kind="stable")
    if np.any(np.diff(stamps[places]) <= 0):
        return None
    if np.any(
        np.abs(places - np.arange(places.size)) > _FURTHEST_REORDER
    ):  # the clock was set back on the way
        return None
    return _make_index(packets, shown[places], stamps_are_good=True)


def _make_index(packets: Packets, order: npt.NDArray[np.int64], *, stamps_are_good: bool) -> FrameIndex:
    position = np.full(packets.size.size, -1, dtype=np.int64)
    position[order] = np.arange(order.size)
    keys = np.flatnonzero(packets.key & (position >= 0))
    if keys.size == 0 or keys[0] != 0:
        keys = np.concatenate([[0], keys])
    seek = packets.pts if stamps_are_good else np.where(packets.dts == _NO_STAMP, packets.pts, packets.dts)
    stamp = packets.pts if stamps_are_good else packets.pos
    return FrameIndex(order, position, keys.astype(np.int64), packets.size, stamp, seek, stamps_are_good)


def _check_by_decoding(
    path: str, packets: Packets, index: FrameIndex | None
) -> tuple[FrameIndex | None, Picture | None]:
    """Decode the start and the end; drop frames that do not come out; None if the order differs."""
    if index is None or index.order.size == 0:
        return None, None
    picture: Picture | None = None
    head: list[int] = []
    with DecodingRun(path, index) as run:
        for number, frame in itertools.islice(run.decode_from(0), _HEAD_FRAMES):
            picture = picture or picture_of(frame)
            head.append(number)
    found = index.position[np.array(head, dtype=np.int64)]
    if picture is None or np.any(found < 0) or np.any(np.diff(found) <= 0):
        return None, None
    gone = set(range(found[-1])) - set(found.tolist())
    tail_key = int(index.keys[-1])
    tail = index.order.size - int(index.position[tail_key])
    if tail * picture.height * picture.width <= _TAIL_PIXELS:
        came = _tail_positions(path, index, index.keys.size - 1)
        if came is None:
            return None, None
        gone |= set(range(max(int(index.position[tail_key]), 0), index.order.size)) - set(came)
    if gone:
        kept = np.setdiff1d(np.arange(index.order.size), np.array(sorted(gone), dtype=np.int64))
        index = _make_index(packets, index.order[kept], stamps_are_good=True)
    return index, picture


def _tail_positions(path: str, index: FrameIndex, row: int) -> list[int] | None:
    with DecodingRun(path, index) as run:
        try:
            numbers = [number for number, _ in run.decode_from(row)]
        except PacketLost:
            numbers = []
    if not numbers:
        return None
    positions = index.position[np.array(numbers, dtype=np.int64)]
    positions = positions[positions >= index.position[index.keys[row]]]
    if np.any(np.diff(positions) <= 0):
        return None
    return [int(position) for position in positions]


def _index_by_decoding(path: str, packets: Packets) -> tuple[FrameIndex, Picture | None]:
    """Decode the whole film to learn which packet shows which frame."""
    provisional = _make_index(packets, np.arange(packets.size.size), stamps_are_good=False)
    picture: Picture | None = None
    seen: dict[int, None] = {}  # ordered, each packet once
    with DecodingRun(path, provisional) as run:
        for number, frame in run.decode_from(0):
            picture = picture or picture_of(frame)
            seen[number] = None
    order = np.fromiter(seen, dtype=np.int64, count=len(seen))
    return _make_index(packets, order, stamps_are_good=False), picture


def _timestamps(packets: Packets, index: FrameIndex, unit: float, rate: float) -> npt.NDArray[np.float64]:
    for stamps in (packets.pts[index.order], np.sort(packets.dts[index.order])):
        if not np.any(stamps == _NO_STAMP) and not np.any(np.diff(stamps) <= 0):
            return np.asarray(stamps * unit, dtype=np.float64)
    return np.arange(index.order.size, dtype=np.float64) / rate


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
    """

    def __init__(self, path: str, index: FrameIndex) -> None:
        self._path = path
        self._index = index
        self._rows = {
            (int(index.size[number]), int(index.stamp[number])): int(number) for number in index.keys
        }
        self._container: InputContainer | None = None
        self._stream: VideoStream | None = None
        self._fresh = False

    def __enter__(self) -> DecodingRun:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        if self._container is not None:
            self._container.close()
        self._container = self._stream = None

    def decode_from(self, row: int | None) -> Iterator[tuple[int, VideoFrame]]:
        """Yield the number of the packet and the frame, as they come out of the decoder.

        Parameters
        ----------
        row : int or None
            Row of the key packet in the index; None reopens the file and reads from its first packet,
            checking nothing.

        Raises
        ------
        PacketLost
            If what the container gives after seeking is not what the index says.
        """
        packets, key = self._packets_from(row)
        stream = self._stream
        assert stream is not None
        codec = stream.codec_context
        position = self._index.position
        first = True
        for packet in itertools.chain(packets, [None]):
            try:
                frames = codec.decode(packet)
            except av.FFmpegError:
                continue  # a damaged packet: its frame is missing, the next ones may be whole
            for frame in frames:
                number = frame.pts
                if number is None or not 0 <= number < position.size or position[number] < 0:
                    continue
                if key > 0 and position[number] < position[key]:
                    continue  # shown before the key frame and coded from what came before it
                if first and key > 0 and (number != key or is_predicted(frame)):
                    raise PacketLost
                first = False
                yield number, frame

    def _packets_from(self, row: int | None) -> tuple[Iterator[Packet[VideoStream]], int]:
        """Return the packets, numbered in their `pts`, from the key packet that was found, and its number."""
        if row is None or self._container is None:
            self.close()
            self._container = open_container(self._path)
            self._stream = video_stream(self._container, self._path)
            self._fresh = True
        container, stream = self._container, self._stream
        assert stream is not None
        wanted = 0 if row is None else int(self._index.keys[row])
        if not self._fresh or wanted > 0:
            seconds = int(self._index.seek[wanted])
            try:
                container.seek(seconds if seconds != _NO_STAMP else 0, stream=stream, backward=True)
            except av.FFmpegError:
                raise PacketLost from None
        whole = (packet for packet in _until_error(container.demux(stream)) if packet.size > 0)
        if self._fresh and wanted == 0:
            self._fresh = False
            return self._number(whole, 0, row is not None), 0
        self._fresh = False
        for packet in whole:
            number = self._rows.get((packet.size, self._stamp(packet))) if packet.is_keyframe else None
            if number is not None:
                if number > wanted:
                    break
                return self._number(itertools.chain([packet], whole), number, True), number
        raise PacketLost

    def _stamp(self, packet: Packet[VideoStream]) -> int:
        stamp = packet.pts if self._index.stamp_is_time else packet.pos
        return _NO_STAMP if stamp is None else stamp

    def _number(
        self, packets: Iterator[Packet[VideoStream]], number: int, check: bool
    ) -> Iterator[Packet[VideoStream]]:
        size = self._index.size
        for packet in packets:
            if number >= size.size:
                return
            if check and packet.size != size[number]:
                raise PacketLost
            packet.pts = number
            packet.dts = None
            yield packet
            number += 1


def _until_error(packets: Iterator[Packet[VideoStream]]) -> Iterator[Packet[VideoStream]]:
    try:
        yield from packets
    except (av.FFmpegError, OSError):
        return
