"""A camera with RTSP over TCP: a small server, and a publisher that sends a recording to it at its own speed.

    python rtsp_camera.py RECORDING ADDRESS FPS

The server takes one stream by ANNOUNCE and RECORD and hands it on to whoever asks by DESCRIBE and PLAY, in the frames
that interleave RTP with the requests (RFC 2326, section 10.12). FFmpeg makes and reads the RTP packets.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import av

PATH = "live"


class RtspServer:
    """On a free port of 127.0.0.1; `cut` ends the connections of all who watch."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"rtsp://127.0.0.1:{self._socket.getsockname()[1]}/{PATH}"
        self.requests: list[str] = []
        self._description = b""
        self._lock = threading.Lock()
        self._players: list[socket.socket] = []
        self._thread("accept", self._accept)

    def cut(self) -> int:
        """How many watched."""
        with self._lock:
            players, self._players = self._players, []
        for player in players:
            with contextlib.suppress(OSError):
                player.shutdown(socket.SHUT_RDWR)
        return len(players)

    def close(self) -> None:
        """Nobody is served any more."""
        with contextlib.suppress(OSError):
            # without this, a thread that waits in accept takes one more
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self.cut()

    @property
    def num_players(self) -> int:
        """Who watches now."""
        return len(self._players)

    @staticmethod
    def _thread(name: str, target, *args: object) -> None:
        threading.Thread(target=target, args=args, name=f"rtsp {name}", daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self._thread("serve", self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), connection, connection.makefile("rb") as reader:
            while first := reader.read(1):
                if first == b"$":
                    head = reader.read(3)
                    self._hand_on(b"$" + head + reader.read(int.from_bytes(head[1:], "big")))
                else:
                    self._answer(connection, first + reader.readline(), reader)

    def _answer(self, connection: socket.socket, line: bytes, reader) -> None:
        method = line.split()[0].decode()
        headers = dict(self._headers(reader))
        body = reader.read(int(headers.get("content-length", 0)))
        self.requests.append(method)
        more, content = [f"CSeq: {headers['cseq']}", "Session: 1"], b""
        if method == "OPTIONS":
            more.append("Public: OPTIONS, ANNOUNCE, DESCRIBE, SETUP, RECORD, PLAY, TEARDOWN")
        elif method == "ANNOUNCE":
            self._description = body
        elif method == "DESCRIBE":
            content = self._description
            more += [f"Content-Base: {self.address}/", "Content-Type: application/sdp"]
        elif method == "SETUP":
            more.append(f"Transport: {headers['transport']}")
        more.append(f"Content-Length: {len(content)}")
        connection.sendall("\r\n".join(["RTSP/1.0 200 OK", *more, "", ""]).encode() + content)
        if method == "PLAY":
            with self._lock:
                self._players.append(connection)

    @staticmethod
    def _headers(reader):
        while (line := reader.readline().decode().strip()) != "":
            name, _, value = line.partition(":")
            yield name.lower(), value.strip()

    def _hand_on(self, packet: bytes) -> None:
        with self._lock:
            for player in list(self._players):
                try:
                    player.sendall(packet)
                except OSError:
                    self._players.remove(player)


def start_camera(recording: Path, address: str, *, fps: float) -> subprocess.Popen[bytes]:
    """Send a recording again and again, `fps` frames a second, until it is ended.

    In a process of its own: PyAV holds Python's lock while it writes, and the server must answer meanwhile.
    """
    return subprocess.Popen([sys.executable, __file__, str(recording), address, str(fps)])


def publish(recording: str, address: str, fps: float) -> None:
    """What that process does."""
    with av.open(recording) as source:
        packets = [bytes(packet) for packet in source.demux(video=0) if packet.size]
        stream = source.streams.video[0]
        with av.open(address, "w", format="rtsp", options={"rtsp_transport": "tcp"}) as camera:
            sent = camera.add_stream_from_template(stream)
            begun = time.monotonic()
            for count, content in enumerate(itertools.cycle(packets)):
                packet = av.Packet(content)
                packet.stream, packet.time_base = sent, stream.time_base
                packet.pts = packet.dts = round(count / fps / float(stream.time_base))
                packet.is_keyframe = count % len(packets) == 0
                camera.mux(packet)
                time.sleep(max(0.0, begun + count / fps - time.monotonic()))


if __name__ == "__main__":
    publish(sys.argv[1], sys.argv[2], float(sys.argv[3]))
