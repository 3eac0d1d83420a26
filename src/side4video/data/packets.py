"""The packet table of a video: which packet holds which frame, in the order of display, and where decoding can start.

A container stores packets in the order of decoding, and B-frames make that differ from the order of display. One pass
over the packets (no decoding) gives the table. It rests on time stamps, so they are checked first: where they are
missing, repeated, or not stored by the format at all (avi), the order comes from the codec's rules, and where no rule
is certain, from decoding the stream once. Nothing is guessed.

A packet's *ordinal* is its place in the order of decoding.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import av
import av.error
import numpy as np
from av.bitstream import BitStreamFilterContext

from side4video.data.containers import AVI, MATROSKA, MP4, MPEG_TS, format_name, open_container, video_stream
from side4video.data.truncation import ends_inside_packet
from side4video.errors import VideoError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.codeccontext import VideoCodecContext
    from av.video.stream import VideoStream

# formats that store a presentation time with every frame
_STORES_PTS = frozenset({MP4, MATROSKA, MPEG_TS, "flv"})
_SEEKABLE = frozenset({MP4, MATROSKA, AVI})
# codecs whose packets are always in the order of display
_NEVER_REORDERS = frozenset(
    {
        *("vp8", "vp9", "av1", "mjpeg", "png", "gif", "ffv1", "huffyuv", "ffvhuff", "utvideo", "rawvideo", "h263"),
        *("flv1", "prores", "dnxhd", "dvvideo", "qtrle", "cinepak", "svq1", "theora", "wmv1", "wmv2"),
        *("msmpeg4v1", "msmpeg4v2", "msmpeg4v3"),
    }
)
# codecs whose decoders show frames before the first key frame that lack what they are predicted from
NEEDS_KEY_SHOWN_FIRST = frozenset({"mpeg1video", "mpeg2video", "mpeg4"})
# H.264 and HEVC hold back at most 16 pictures, or 32 fields
_FARTHEST_MOVE = 32
_VOP_START = b"\x00\x00\x01\xb6"
_VOP_I, _VOP_B = 0, 2
# what a packet takes in memory beside its content
_PACKET_BYTES = 512
# an MPEG-4 packet this small may be a placeholder for "no new picture"
_SMALLEST_VOP_BYTES = 20


@dataclass
class PacketTable:
    """What one pass over the packets found; lists are in the order of decoding unless they say otherwise."""

    pts: list[int | None] = field(default_factory=list)
    dts: list[int | None] = field(default_factory=list)
    durations: list[int] = field(default_factory=list)
    keys: list[bool] = field(default_factory=list)
    discards: list[bool] = field(default_factory=list)
    damaged: list[bool] = field(default_factory=list)
    """Packets of which, as the container says, a part is missing, or one before them."""
    places: list[tuple[int | None, int]] = field(default_factory=list)
    """Byte position and size, to recognise a packet after a seek."""
    ordinals: dict[tuple[int | None, int], int] = field(default_factory=dict)
    """The packet at each place; made when it is first needed."""
    held: list[Packet[VideoStream]] | None = None
    """The packets themselves, when they are few enough to keep; their own pts is overwritten by the ordinal."""
    frames: list[int] = field(default_factory=list)
    """Ordinals of the shown frames, in the order of display."""
    ranks: list[float | None] = field(default_factory=list)
    """Place of each packet in the order of display; None: it is not shown, and decoding must not start there."""
    starts: list[int] = field(default_factory=list)
    """Ordinals where decoding can start, ascending."""

    def start_for(self, ordinal: int) -> int:
        """Where decoding must start so that the frame comes out right: the last key frame before it in both orders.

        A frame that is decoded after a key frame but shown before it (open GOP) also needs the GOP before.
        """
        rank = self.ranks[ordinal]
        place = bisect_right(self.starts, ordinal) - 1
        while place > 0 and rank is not None and (self.ranks[self.starts[place]] or 0) > rank:
            place -= 1
        return self.starts[max(place, 0)]

    def forget_start(self, ordinal: int) -> bool:
        """Never start there again, because the frame did not come out; False when it is the only one left."""
        if ordinal not in self.starts or self.starts[0] == ordinal:
            return False
        self.starts.remove(ordinal)
        return True


def codec_name(stream: VideoStream) -> str:
    """The codec's own name, such as ``"av1"``, not its decoder's."""
    return stream.codec_context.codec.canonical_name


def is_progressive(context: VideoCodecContext) -> bool:
    """Whether each packet is a whole picture, and not perhaps one field of it.

    PyAV before 18.1 does not tell: False, which costs time (order found by decoding, nothing skipped) and no exactness.
    """
    return getattr(context, "field_order", None) in (0, 1)


def demux(container: InputContainer, stream: VideoStream, path: str | Path) -> Iterator[Packet[VideoStream]]:
    """The stream's packets in the order of decoding; packed MPEG-4 B-frames come apart, empty packets are left out.

    Raises:
        VideoError: a stream that begins in the middle of the file, which PyAV cannot pass over.
    """
    unpack = BitStreamFilterContext("mpeg4_unpack_bframes", stream) if codec_name(stream) == "mpeg4" else None
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except IndexError as error:
            raise VideoError(path, "damaged: a stream begins in the middle of it") from error
        if packet is None:
            return
        if packet.size == 0:
            continue
        if unpack is None:
            yield packet
        else:
            yield from (part for part in unpack.filter(packet) if part.size)


def read_table(
    container: InputContainer,
    stream: VideoStream,
    path: str | Path,
    *,
    max_held_bytes: int,
    max_packets: int = 2_500_000,
) -> PacketTable:
    """Read all packets of the stream and find the order of display.

    Raises:
        VideoError: no frame in it, more than `max_packets`, or an order that cannot be found.
    """
    table = PacketTable(held=[])
    codec, name = codec_name(stream), format_name(container)
    vop_types: list[int] = []
    held_bytes, smallest = 0, 1 << 62
    for packet in demux(container, stream, path):
        hidden = _is_hidden(codec, packet)
        ordinal = len(table.pts)
        table.pts.append(packet.pts)
        table.dts.append(packet.dts)
        table.durations.append(packet.duration or 0)
        table.keys.append(packet.is_keyframe)
        table.discards.append(packet.is_discard or hidden)
        table.places.append((packet.pos, packet.size))
        if codec == "mpeg4" and name not in _STORES_PTS:
            vop_types.append(_vop_type(packet))
        smallest = min(smallest, packet.size)
        table.damaged.append(packet.is_corrupt)
        if ordinal == max_packets:
            raise VideoError(path, f"more than {max_packets} frames; SIDE4VIDEO_MAX_FRAMES allows more")
        held_bytes += packet.size + _PACKET_BYTES
        if held_bytes > max_held_bytes:
            table.held = None
        if table.held is not None:
            packet.pts = packet.dts = ordinal
            table.held.append(packet)
    if table.keys and (table.damaged[-1] or (name == MPEG_TS and ends_inside_packet(Path(path)))):
        table.discards[-1] = True  # the last packet was cut off: it is no frame
    if name == MPEG_TS:
        table.damaged = _damaged_in_transport(table.damaged, table.keys)
    if not any(table.keys):
        raise VideoError(path, "no frames" if not table.keys else "no key frame to start from")
    if codec in _NEVER_REORDERS:
        order = list(range(len(table.pts)))
    elif vop_types and smallest >= _SMALLEST_VOP_BYTES:
        order = _vop_order(vop_types)
        table.keys = [kind == _VOP_I for kind in vop_types]
    elif name in _STORES_PTS and _pts_can_be_trusted(table, stream, name):
        order = sorted(range(len(table.pts)), key=lambda i: table.pts[i] or 0)
    else:
        order = _order_by_decoding(table, path)
    _set_order(table, order, codec)
    if not table.frames:
        raise VideoError(path, "no frames")
    return table


def _damaged_in_transport(flags: list[bool], keys: list[bool]) -> list[bool]:
    """Packets that lost a part on the way: a gap in MPEG-TS's counters shows in the flag of the packet before.

    Where recordings were joined the counters jump too, between a last frame and a key frame: that is no damage.
    """
    return [
        number > 0 and flags[number - 1] and number + 1 < len(flags) and not keys[number + 1]
        for number in range(len(flags))
    ]


def timestamps(table: PacketTable, name: str) -> np.ndarray:
    """Time of each frame in the stream's time base, in the order of display, ascending.

    Where only times of decoding are stored (avi), the n-th frame is shown at the n-th of them. Where the clock jumps
    back (recordings joined end to end), time goes on from the last frame.
    """
    stamps = [table.pts[i] for i in table.frames]
    decoding = [table.dts[i] for i in table.frames]
    durations = [table.durations[i] for i in table.frames]
    usual = max(1, int(np.median(durations)))
    if None in stamps or name == AVI:
        known = sorted(d for d in decoding if d is not None)
        stamps = known if len(known) == len(stamps) else [usual * i for i in range(len(stamps))]
    times: list[int] = []
    shift = 0
    for stamp, duration in zip(stamps, durations, strict=True):
        assert stamp is not None
        if times and stamp + shift < times[-1]:
            shift = times[-1] + (duration or usual) - stamp
        times.append(stamp + shift)
    return np.asarray(times, dtype=np.int64)


def packets_from(
    table: PacketTable, container: InputContainer, stream: VideoStream, path: str | Path, start: int
) -> Iterator[tuple[int, Packet[VideoStream]]]:
    """Ordinal and packet from `start` on: from memory, else after a seek where that is safe, else from the beginning.

    Raises:
        VideoError: the file no longer holds the packets that it held when it was opened.
    """
    if table.held is not None:
        yield from ((i, table.held[i]) for i in range(start, len(table.held)))
        return
    if start and (source := _after_seek(table, container, stream, path, start)) is not None:
        yield from source
        return
    with open_container(path) as again:
        for ordinal, packet in enumerate(demux(again, video_stream(again, path), path)):
            if ordinal >= len(table.places) or table.places[ordinal][1] != packet.size:
                raise VideoError(path, "changed while it was read")
            if ordinal >= start:
                packet.pts = packet.dts = ordinal
                yield ordinal, packet


def _after_seek(
    table: PacketTable, container: InputContainer, stream: VideoStream, path: str | Path, start: int
) -> Iterator[tuple[int, Packet[VideoStream]]] | None:
    # a packet is recognised by its place in the file; where that is ambiguous there is no seeking
    when = table.dts[start] if table.dts[start] is not None else table.pts[start]
    if not table.ordinals:
        table.ordinals = {place: i for i, place in enumerate(table.places)}
    ordinals = table.ordinals
    unique = len(ordinals) == len(table.places) and all(pos is not None and pos >= 0 for pos, _ in table.places)
    if format_name(container) not in _SEEKABLE or codec_name(stream) == "mpeg4" or when is None or not unique:
        return None
    container.seek(when, stream=stream)
    source = demux(container, stream, path)
    first = next(source, None)
    ordinal = None if first is None else ordinals.get((first.pos, first.size))
    if first is None or ordinal is None or ordinal > start:
        return None

    def rest() -> Iterator[tuple[int, Packet[VideoStream]]]:
        expected = ordinal
        for packet in (first, *()):
            yield from _numbered(packet, expected, start)
        for packet in source:
            expected += 1
            if ordinals.get((packet.pos, packet.size)) != expected:
                return
            yield from _numbered(packet, expected, start)

    return rest()


def _numbered(packet: Packet[VideoStream], ordinal: int, start: int) -> Iterator[tuple[int, Packet[VideoStream]]]:
    if ordinal >= start:
        packet.pts = packet.dts = ordinal
        yield ordinal, packet


def _set_order(table: PacketTable, order: list[int], codec: str) -> None:
    ranks: list[float | None] = [None] * len(table.pts)
    for rank, ordinal in enumerate(order):
        ranks[ordinal] = rank
    table.ranks = ranks
    table.starts = [i for i, key in enumerate(table.keys) if key and ranks[i] is not None]
    if not table.starts:
        return
    first = table.starts[0]
    # before the first key frame: decoded before it, never readable; shown before it, only where the codec says so
    first_rank = order.index(first) if codec in NEEDS_KEY_SHOWN_FIRST else 0
    table.frames = [i for i in order[first_rank:] if i >= first and not table.discards[i]]


def _pts_can_be_trusted(table: PacketTable, stream: VideoStream, name: str) -> bool:
    shown = [p for p, discard in zip(table.pts, table.discards, strict=True) if not discard]
    known = [d for d in table.dts if d is not None]
    first_shown = table.pts[table.keys.index(True)]
    return (
        None not in table.pts
        and len(set(shown)) == len(shown)
        and all(a < b for a, b in pairwise(known))
        # what is shown before the first key frame is perhaps not decodable
        and first_shown == min(p for p in table.pts if p is not None)
        # two fields may come in two packets, and make one frame
        and (name == MP4 or is_progressive(stream.codec_context))
        and not _moves_far(table.pts)
    )


def _moves_far(pts: list[int | None]) -> bool:
    """Whether the times would move a picture further than any codec may: then one of them is wrong."""
    order = sorted(range(len(pts)), key=lambda i: pts[i] or 0)
    return any(abs(rank - ordinal) > _FARTHEST_MOVE for rank, ordinal in enumerate(order))


def _is_hidden(codec: str, packet: Packet[VideoStream]) -> bool:
    """Whether a VP8 or VP9 packet only refreshes references and shows nothing."""
    if codec not in ("vp8", "vp9"):
        return False
    data = memoryview(packet)
    first = data[0]
    if codec == "vp8":
        return not first & 0x10
    # VP9, uncompressed header: marker 10, two profile bits, (reserved bit in profile 3), show existing, type, show;
    # a superframe (its last byte is a marker) always ends in a shown frame
    if data[-1] & 0xE0 == 0xC0 or first >> 6 != 2:
        return False
    shift = 1 if first & 0x30 == 0x30 else 0
    shows_existing = first >> (3 - shift) & 1
    return not shows_existing and not first >> (1 - shift) & 1


def _vop_type(packet: Packet[VideoStream]) -> int:
    data = bytes(packet)
    at = data.find(_VOP_START)
    return data[at + 4] >> 6 if 0 <= at < len(data) - 4 else -1


def _vop_order(types: list[int]) -> list[int]:
    """MPEG-4's own rule: a B-frame is shown at once, any other frame after the B-frames that follow it."""
    order: list[int] = []
    waiting: int | None = None
    for ordinal, kind in enumerate(types):
        if kind == _VOP_B:
            order.append(ordinal)
        else:
            order.extend([] if waiting is None else [waiting])
            waiting = ordinal
    return order if waiting is None else [*order, waiting]


def _order_by_decoding(table: PacketTable, path: str | Path) -> list[int]:
    """What comes out of the decoder, in order. A packet that is an error keeps its place, so that no later frame moves
    up: by its time among its neighbours where it has one; reading it is an error."""
    order: list[int] = []
    lost: list[tuple[int, int]] = []
    with open_container(path) as container:
        stream = video_stream(container, path)
        context = stream.codec_context
        first = table.keys.index(True)
        for ordinal, packet in enumerate(demux(container, stream, path)):
            if ordinal < first or table.discards[ordinal]:
                continue
            packet.pts = packet.dts = ordinal
            try:
                order.extend(frame.pts for frame in context.decode(packet) if frame.pts is not None)
            except av.error.FFmpegError:
                lost.append((len(order), ordinal))
        with contextlib.suppress(av.error.FFmpegError):
            order.extend(frame.pts for frame in context.decode(None) if frame.pts is not None)
    shown, kept = set(order), dict[int, list[int]]()
    for place, ordinal in lost:
        if ordinal not in shown:
            kept.setdefault(_place_by_time(table, order, place, ordinal), []).append(ordinal)
    if not kept:
        return order
    return [number for place in range(len(order) + 1) for number in (*kept.get(place, ()), *order[place : place + 1])]


def _place_by_time(table: PacketTable, order: list[int], place: int, ordinal: int) -> int:
    time = table.pts[ordinal]
    while time is not None and place < len(order) and (table.pts[order[place]] or time) < time:
        place += 1
    return place
