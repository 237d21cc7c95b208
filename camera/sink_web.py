"""Safe pictures for browsers: an MJPEG stream and a snapshot. The newest picture wins.

The loop hands over a picture and goes on; a thread of its own makes JPEGs, and only while somebody
waits for one. A reader that is slow or stands still misses pictures and holds nobody up.
"""

import asyncio
import os
import socket
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from veilcam.camera.errors import SinkError
from veilcam.camera.types import SafeFrame

BOUNDARY = "veilcam"
_QUALITY = 80
_WAIT_S = 5.0
_BACKLOG = 128


class Stream:
    """The newest safe picture as JPEG, for any number of readers.

    Thread-safe: `offer` and `close` belong to the thread of the loop, the rest to an event loop.

    Attributes:
        num_encoded, num_readers: For the counters.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._newest: UInt8[np.ndarray, "h w 3"] | None = None
        self._offered = self._encoded = self.num_encoded = self.num_readers = 0
        self._jpeg = b""
        self._waiting: dict[asyncio.Future[None], asyncio.AbstractEventLoop] = {}
        self.is_closed = False
        self._thread = threading.Thread(target=self._work, name="veilcam-jpeg", daemon=True)
        self._thread.start()

    def offer(self, frame: SafeFrame) -> None:
        """Takes a copy of a picture; what nobody encoded before is dropped."""
        if not isinstance(frame, SafeFrame):
            raise TypeError(f"a sink takes SafeFrame only, got {type(frame).__name__}")
        picture = frame.bgr.copy()  # the ring's slot is given back when this returns
        with self._changed:
            self._newest, self._offered = picture, self._offered + 1
            self._changed.notify()

    def close(self) -> None:
        """No more pictures: readers end."""
        with self._changed:
            self.is_closed = True
            self._changed.notify()
        self._thread.join(_WAIT_S)
        self._wake()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(self._is_due)
                if self.is_closed:
                    return
                picture, number = self._newest, self._offered
            assert picture is not None
            is_made, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
            if is_made:
                self._jpeg = data.tobytes()
            self._encoded = number
            self.num_encoded += 1
            self._wake()

    def _is_due(self) -> bool:
        return self.is_closed or (bool(self._waiting) and self._offered > self._encoded)

    def _wake(self) -> None:
        with self._changed:
            waiting, self._waiting = self._waiting, {}
        for future, loop in waiting.items():
            try:
                loop.call_soon_threadsafe(_finish, future)
            except RuntimeError:  # that loop has ended
                continue

    async def _next(self, after: int) -> bool:
        """Waits for a picture newer than `after`; False where none comes for a while."""
        loop = asyncio.get_running_loop()
        deadline_s = time.monotonic() + _WAIT_S
        while not self.is_closed and time.monotonic() < deadline_s:
            with self._changed:
                if self._encoded > after:
                    return True
                future = loop.create_future()
                self._waiting[future] = loop
                self._changed.notify()  # somebody looks: what came meanwhile is encoded now
            try:
                await asyncio.wait_for(future, deadline_s - time.monotonic())
            except TimeoutError:
                return False
            finally:
                with self._changed:
                    self._waiting.pop(future, None)
        return False

    async def snapshot(self) -> bytes | None:
        """The newest picture as JPEG, None where there is none."""
        with self._changed:
            newest = self._offered
        if self._encoded < newest and not await self._next(newest - 1):
            return None
        return self._jpeg or None

    async def pictures(self) -> AsyncIterator[bytes]:
        """JPEGs as they come; who is slow gets fewer, always the newest."""
        seen = 0
        self.num_readers += 1
        try:
            while not self.is_closed:
                if await self._next(seen):
                    seen, jpeg = self._encoded, self._jpeg
                    yield jpeg
        finally:
            self.num_readers -= 1


def _finish(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


class WebSink:
    """The sink before a stream.

    Args:
        stream: Where pictures go.
    """

    is_done = False

    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    @property
    def counters(self) -> dict[str, Any]:
        """How many look at it."""
        return {"readers": self.stream.num_readers}

    def write(self, frame: SafeFrame) -> None:
        """Offers the picture to whoever looks."""
        self.stream.offer(frame)

    def close(self) -> None:
        """Ends the stream."""
        self.stream.close()

    abort = close


def parse_address(spec: str, what: str, *, default: int) -> tuple[str, int]:
    """Address and port of `KIND`, `KIND:PORT` or `KIND:HOST:PORT`; this machine only by default.

    >>> parse_address("web", "web", default=8080), parse_address("web:[::1]:81", "web", default=80)
    (('127.0.0.1', 8080), ('::1', 81))
    >>> parse_address("rtsp:0.0.0.0:9000", "rtsp", default=8554)
    ('0.0.0.0', 9000)
    """
    rest = spec.partition(":")[2]
    host, _, port = rest.rpartition(":")
    host = host.strip("[]") or "127.0.0.1"
    if not rest:
        return host, default
    if not port.isdecimal() or not 0 <= int(port) <= 65535:
        raise SinkError(f"sink {spec!r}: got port {port!r}, wanted {what}:PORT or {what}:HOST:PORT")
    return host, int(port)


def listen(host: str, port: int) -> socket.socket:
    """A socket that is bound and listens.

    Raises:
        SinkError: The port is taken, not allowed, or the address is not of this machine.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise SinkError(f"{host!r} is no address; wanted 127.0.0.1, 0.0.0.0 or ::1") from error
    family, kind, _, _, address = found[0]
    server = socket.socket(family, kind)
    try:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(address)
        server.listen(_BACKLOG)
    except OSError as error:
        server.close()
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise SinkError(
            f"cannot serve on {host} port {port}: {reason}; give another port, or end the program "
            "that uses it"
        ) from error
    return server
