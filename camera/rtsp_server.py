"""An RTSP server of one live H.264 track, over TCP alone, in a thread of its own.

One port to open, and no packets to an address that did not ask for them. Each reader has a queue of
its own; one that is full loses pictures up to the next key frame, and who takes nothing is let go:
no reader slows the loop or another reader. Source: RFC 2326 (RTSP 1.0), section 10.12 for packets
between the answers. Not there: UDP, pause, recording, HTTP tunnels.
"""

import asyncio
import os
import re
import secrets
import socket
import ssl
import struct
import threading
import time
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar
from urllib.parse import urlsplit

from veilcam.camera.rtsp_login import PATH, Login
from veilcam.camera.rtsp_packets import (
    CLOCK_HZ,
    description,
    nal_units,
    packets,
    parameter_sets,
    sender_report,
)
from veilcam.camera.serve_session import Tries

MAX_READERS = 16
_MAX_OPEN = 64  # connections, whatever they want
_TRACK = "track0"
_MAX_HEAD, _MAX_BODY = 8192, 65536
_MAX_WAITING = 2 << 20  # bytes on their way to one reader
_STUCK_S = 15.0
_IDLE_S = 30.0  # until a reader plays, and for the rest of a message that has begun
_FIRST_KEY_S = 10.0
_REPORT_EVERY_S = 2.0
_ENDING_S = 3.0
_METHODS = "OPTIONS, DESCRIBE, SETUP, PLAY, GET_PARAMETER, SET_PARAMETER, TEARDOWN"
_REASONS = {
    200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 405: "Method Not Allowed",
    454: "Session Not Found", 455: "Method Not Valid In This State", 461: "Unsupported Transport",
    503: "Service Unavailable",
}  # fmt: skip
_T = TypeVar("_T")


class BadRequest(Exception):
    """What came is no RTSP."""


class RtspServer:
    """Serves what `offer` brings.

    Args:
        listener: Descriptor of the bound socket; a copy is taken.
        known: What the server knows of the password, `rtsp_login.kept`; empty lets everybody in.
        tls: Chain and key; None serves without TLS.
    """

    def __init__(
        self, listener: int, *, known: str = "", tls: ssl.SSLContext | None = None
    ) -> None:
        self.known, self.tries = known, Tries()
        self.sets: tuple[bytes, bytes] | None = None
        self.has_sets = asyncio.Event()
        self.wants_key = threading.Event()
        self.readers: set[_Reader] = set()
        self.num_lost = self._num_open = 0
        self._tls = tls
        self._socket = socket.socket(fileno=os.dup(listener))
        self._socket.setblocking(False)
        self._loop = asyncio.SelectorEventLoop()
        self._ending = asyncio.Event()
        self._thread = threading.Thread(target=self._work, name="veilcam-rtsp", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """False once it has ended, whyever."""
        return self._thread.is_alive()

    @property
    def is_watched(self) -> bool:
        """True while somebody waits for pictures: nobody else needs them encoded."""
        return bool(self.readers)

    def offer(self, unit: bytes, *, is_key: bool, time_s: float) -> None:
        """Takes one access unit, Annex B; from any thread.

        Args:
            unit: With its parameter sets before a key frame.
            is_key: A reader can begin with it.
            time_s: Of the picture, `time.monotonic`.
        """
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._send, nal_units(unit), is_key, time_s)

    def close(self) -> None:
        """Ends server and readers."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join(_ENDING_S)

    def _work(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._main())

    async def _main(self) -> None:
        server = await asyncio.start_server(
            self._connected,
            sock=self._socket,
            limit=_MAX_HEAD,
            ssl=self._tls,
            ssl_handshake_timeout=_IDLE_S if self._tls else None,
        )
        try:
            await self._ending.wait()
        finally:
            server.close()
            for reader in list(self.readers):
                reader.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Reader(self, reader, writer)
        self._num_open += 1
        try:
            if self._num_open <= _MAX_OPEN:
                await connection.serve()
        except (OSError, EOFError, TimeoutError, BadRequest):
            pass  # it left, or says what we do not understand
        finally:
            self._num_open -= 1
            self.readers.discard(connection)
            connection.abort()

    def _send(self, nals: list[bytes], is_key: bool, time_s: float) -> None:
        if is_key and (sets := parameter_sets(nals)) is not None:
            self.sets = sets
            self.has_sets.set()
        for reader in list(self.readers):
            reader.put(nals, is_key, time_s)


class _Reader:
    """One connection, from its first request to its last packet."""

    def __init__(
        self, server: RtspServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._server, self._reader, self._writer = server, reader, writer
        self._login = Login(server.known)
        self._session, self._channel, self._is_playing = "", 0, False
        self._needs_key, self._stuck_since_s, self._report_due_s = True, 0.0, 0.0
        self._source = secrets.randbits(32)
        self._start, self._next = secrets.randbits(32), secrets.randbits(16)
        self._num_packets = self._num_bytes = 0

    def abort(self) -> None:
        """Lets go of it, whatever is still on its way."""
        self._writer.transport.abort()

    async def serve(self) -> None:
        """Answers until the reader leaves."""
        while True:
            first = await self._within(self._reader.readexactly(1), is_idle=True)
            if first == b"$":  # what the player reports of its reception: nothing we act upon
                _, size = struct.unpack(">BH", await self._within(self._reader.readexactly(3)))
                await self._within(self._reader.readexactly(size))
                continue
            if first in b"\r\n":
                continue
            method, url, headers = await self._request(first)
            is_last = await self._answer(method, url, headers)
            if is_last:
                return

    async def _within(self, coming: Coroutine[Any, Any, _T], *, is_idle: bool = False) -> _T:
        """What comes, or TimeoutError; a reader that plays may be silent as long as it likes."""
        return await asyncio.wait_for(coming, None if is_idle and self._is_playing else _IDLE_S)

    async def _request(self, first: bytes) -> tuple[str, str, dict[str, str]]:
        try:
            head = first + await self._within(self._reader.readuntil(b"\r\n\r\n"))
        except asyncio.LimitOverrunError as error:
            raise BadRequest from error
        lines = head.decode("utf-8", "replace").split("\r\n")
        found = re.fullmatch(r"([A-Z_]{1,20}) (\S{1,2000}) RTSP/1\.\d", lines[0])
        if found is None:
            raise BadRequest
        pairs = (line.partition(":") for line in lines[1:] if line)
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        size = headers.get("content-length", "0")
        if not re.fullmatch(r"\d{1,6}", size) or int(size) > _MAX_BODY:
            raise BadRequest
        await self._within(self._reader.readexactly(int(size)))  # no method of ours reads a body
        return found[1], found[2], headers

    async def _answer(self, method: str, url: str, headers: dict[str, str]) -> bool:
        """Answers one request; True for the last one."""
        number = re.sub(r"[^\x20-\x7e]", "", headers.get("cseq", ""))[:20]
        status, more, body = await self._result(method, url, headers)
        lines = [f"RTSP/1.0 {status} {_REASONS[status]}", f"CSeq: {number}", "Server: Veilcam"]
        lines += [f"{name}: {value}" for name, value in more.items()]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        self._writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        await self._writer.drain()
        if method == "PLAY" and status == 200:  # not before its answer
            self._is_playing = self._needs_key = True
            self._server.wants_key.set()
        return method == "TEARDOWN" and status == 200

    async def _result(
        self, method: str, url: str, headers: dict[str, str]
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the answer."""
        if method == "OPTIONS":
            return 200, {"Public": _METHODS}, b""
        if method not in _METHODS.split(", "):
            return 405, {"Allow": _METHODS}, b""
        if not self._login.is_in and (refused := self._refused(method, headers)):
            return *refused, b""
        path = urlsplit(url).path.rstrip("/")
        if path.removesuffix(f"/{_TRACK}") != PATH:
            return 404, {}, b""
        if method == "DESCRIBE":
            return await self._describe(url)
        if method == "SETUP":
            return *self._set_up(headers.get("transport", "")), b""
        if not self._session or headers.get("session", "").partition(";")[0] != self._session:
            return 454, {}, b""
        more = {"Session": self._session}
        if method == "PLAY":
            track = f"{url.rstrip('/').removesuffix(f'/{_TRACK}')}/{_TRACK}"
            now = (self._start + round(time.monotonic() * CLOCK_HZ)) & 0xFFFFFFFF
            told = f"url={track};seq={self._next};rtptime={now}"
            more |= {"Range": "npt=now-", "RTP-Info": told}
        return 200, more, b""

    def _refused(self, method: str, headers: dict[str, str]) -> tuple[int, dict[str, str]] | None:
        """None for who knows the password, else status and headers."""
        told = headers.get("authorization", "")
        if told:
            address = str((self._writer.get_extra_info("peername") or ("",))[0])
            if wait_s := self._server.tries.wait_s(address):
                return 503, {"Retry-After": str(int(wait_s) + 1)}
            if self._login.check(method, told):
                self._server.tries.forgive(address)
                return None
        return 401, {"WWW-Authenticate": self._login.challenge}

    async def _describe(self, url: str) -> tuple[int, dict[str, str], bytes]:
        server = self._server
        if self not in server.readers and len(server.readers) >= MAX_READERS:
            return 503, {}, b""
        server.readers.add(self)  # from here on pictures are encoded
        server.wants_key.set()
        with suppress(TimeoutError):  # without them players take what comes before a key frame
            await asyncio.wait_for(server.has_sets.wait(), _FIRST_KEY_S)
        base = url if url.endswith("/") else f"{url}/"
        more = {"Content-Base": base, "Content-Type": "application/sdp"}
        return 200, more, description(server.sets, track=_TRACK)

    def _set_up(self, transport: str) -> tuple[int, dict[str, str]]:
        server = self._server
        if self._is_playing:
            return 455, {"Allow": _METHODS}
        if self not in server.readers and len(server.readers) >= MAX_READERS:
            return 503, {}
        way = next((w for w in transport.split(",") if "RTP/AVP/TCP" in w.upper()), None)
        if way is None:
            return 461, {}
        found = re.search(r"interleaved=(\d{1,3})", way)
        channel = int(found[1]) if found else 0
        if channel > 254:
            return 461, {}
        server.readers.add(self)
        self._channel = channel
        self._session = self._session or secrets.token_hex(8)
        told = f"RTP/AVP/TCP;unicast;interleaved={channel}-{channel + 1};ssrc={self._source:08X}"
        return 200, {"Transport": told, "Session": self._session}

    def put(self, nals: list[bytes], is_key: bool, time_s: float) -> None:
        """Sends a picture, unless it has to wait for a key frame or its queue is full."""
        if not self._is_playing or (self._needs_key and not is_key):
            return
        now_s = time.monotonic()
        if self._writer.transport.get_write_buffer_size() > _MAX_WAITING:
            self._needs_key = True
            self._server.num_lost += 1
            self._stuck_since_s = self._stuck_since_s or now_s
            if now_s - self._stuck_since_s > _STUCK_S:
                self.abort()
            return
        self._needs_key, self._stuck_since_s = False, 0.0
        ticks = self._start + round(time_s * CLOCK_HZ)
        out = bytearray()
        if now_s >= self._report_due_s:
            self._report_due_s = now_s + _REPORT_EVERY_S
            report = sender_report(
                source=self._source, wall_s=time.time() - now_s + time_s, time=ticks,
                num_packets=self._num_packets, num_bytes=self._num_bytes,
            )  # fmt: skip
            out += struct.pack(">cBH", b"$", self._channel + 1, len(report)) + report
        for packet in packets(nals, first=self._next, time=ticks, source=self._source):
            out += struct.pack(">cBH", b"$", self._channel, len(packet)) + packet
            self._next = (self._next + 1) & 0xFFFF
            self._num_packets += 1
            self._num_bytes += len(packet) - 12
        self._writer.write(bytes(out))
