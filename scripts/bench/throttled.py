"""A web server on 127.0.0.0/8 that delays requests, limits rates, and breaks as asked."""

from __future__ import annotations

import socket
import struct
import threading
import time
from pathlib import Path

FAULTS = ["status", "page", "wrong", "short", "stall", "reset", "circle", "absurd"]
PIECE = 64 * 1024


class Server:
    """Serves `files`. 127.0.0.3 is a broken mirror. `delay` is in seconds, for a connection and for
    a request; `rate` (of a connection) and `link` (of all together) are in bytes a second."""

    def __init__(self, files: Path, delay: float, rate: float = 0, link: float = 0) -> None:
        self.files, self.delay, self.rate, self.link = files, delay, rate, link
        self.fault = ""
        self.requests = self.sent = 0
        self.free_at = 0.0
        self.lock = threading.Lock()
        self.socket = socket.create_server(("0.0.0.0", 0), backlog=256)
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            connection, _ = self.socket.accept()
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A new connection costs a round trip too.
        time.sleep(self.delay)
        broken = connection.getsockname()[0] == "127.0.0.3"
        try:
            waiting = b""
            while True:
                while b"\r\n\r\n" not in waiting:
                    got = connection.recv(65536)
                    if not got:
                        return
                    waiting += got
                head, waiting = waiting.split(b"\r\n\r\n", 1)
                self.requests += 1
                time.sleep(self.delay)
                if not self.answer(connection, head.decode(), self.fault if broken else ""):
                    return
        except OSError:
            pass
        finally:
            connection.close()

    def answer(self, out: socket.socket, head: str, fault: str) -> bool:
        target = head.split()[1]
        name = target.rsplit("/", 1)[1]
        if not name:
            # A listing, which rclone needs.
            page = "".join(f'<a href="{path.name}">{path.name}</a>\n' for path in self.files.iterdir()).encode()
            fields = f"Content-Type: text/html\r\nContent-Length: {len(page)}\r\n"
            out.sendall(f"HTTP/1.1 200 OK\r\n{fields}\r\n".encode() + (b"" if head.startswith("HEAD ") else page))
            return True
        path = self.files / name
        length = path.stat().st_size
        first, last, ranged = 0, length - 1, False
        for line in head.splitlines():
            if line.lower().startswith("range: bytes="):
                start, _, end = line.split("=")[1].partition("-")
                first, last, ranged = int(start), min(int(end or last), last), True

        def say(status: str, body: bytes = b"", fields: str = "") -> bool:
            out.sendall(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{fields}\r\n".encode() + body)
            return True

        if fault == "status":
            return say("503 Service Unavailable")
        if fault == "page":
            return say("200 OK", b"<!DOCTYPE html><html>Parked</html>")
        if fault == "circle":
            return say("302 Found", fields=f"Location: {target}\r\n")
        if fault == "reset":
            out.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        if fault == "absurd":
            out.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9223372036854775808\r\n\r\n")
            return False
        if ranged:
            status, range_ = "206 Partial Content", f"Content-Range: bytes {first}-{last}/{length}\r\n"
        else:
            status, range_ = "200 OK", ""
        left = last - first + 1
        fields = f"Content-Length: {left}\r\nAccept-Ranges: bytes\r\n{range_}"
        out.sendall(f"HTTP/1.1 {status}\r\n{fields}\r\n".encode())
        if head.startswith("HEAD "):
            return True
        began, sent = time.monotonic(), 0
        with open(path, "rb") as file:
            file.seek(first)
            while piece := file.read(min(PIECE, left)):
                left -= len(piece)
                self.wait_for_the_link(len(piece))
                if fault == "wrong":
                    piece = bytes(len(piece))
                out.sendall(piece)
                sent += len(piece)
                if fault == "short" and sent > length // 2:
                    return False
                if fault == "stall" and sent > length // 2:
                    time.sleep(600)
                    return False
                ahead = sent / self.rate - (time.monotonic() - began) if self.rate else 0
                if ahead > 0:
                    time.sleep(ahead)
        return True

    def wait_for_the_link(self, length: int) -> None:
        """Waits until the line that all connections share has sent this many bytes."""
        with self.lock:
            self.sent += length
            if not self.link:
                return
            self.free_at = max(self.free_at, time.monotonic()) + length / self.link
            wait = self.free_at - time.monotonic()
        if wait > 0:
            time.sleep(wait)
