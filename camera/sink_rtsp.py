"""H.264 over RTSP for players and recorders.

Publish encodes and writes access units into a pipe; GStreamer's RTSP server reads them in a process
of its own, under the system's Python, for which Debian packages it. A pipe that is full loses
pictures up to the next key frame: no reader slows the loop.
"""

import fcntl
import json
import logging
import os
import select
import shutil
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from jaxtyping import UInt8

from veilcam.camera.errors import SinkError
from veilcam.camera.types import SafeFrame

_log = logging.getLogger(__name__)
HEAD = struct.Struct("<IQ?")  # bytes of the access unit, its time in ns, key frame
KEY_EVERY_S = 1.0
_PIPE_BYTES = 1 << 20
_WAIT_S = 5.0
_FLUSH_S = 0.02  # a key frame may be larger than what a pipe holds
_START_S = 20.0
_PATH = "/veilcam"
_CURE = (
    "run `sudo apt install python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-good "
    "gstreamer1.0-plugins-bad`, or use --sink web"
)


class RtspSink:
    """Encodes pictures and hands them to the server; the newest picture wins.

    Args:
        pipe: Descriptor of the server's pipe.
        size_hw: Height and width of every picture.
        fps: Nominal frames per second.
    """

    is_done = False

    def __init__(self, pipe: int, *, size_hw: tuple[int, int], fps: float) -> None:
        self._pipe = pipe
        os.set_blocking(pipe, False)
        self._encoder = _Encoder(size_hw, fps)
        self._changed = threading.Condition()
        self._newest: tuple[UInt8[np.ndarray, "h w 3"], float] | None = None
        self._is_closed = self._is_broken = False
        self._rest = memoryview(b"")
        self.num_sent = self.num_lost = 0
        self._thread = threading.Thread(target=self._work, name="veilcam-h264", daemon=True)
        self._thread.start()

    @property
    def counters(self) -> dict[str, Any]:
        """Pictures that went to the server, and those that it did not take in time."""
        return {"stream_sent": self.num_sent, "stream_lost": self.num_lost}

    def write(self, frame: SafeFrame) -> None:
        """Takes a copy of the picture. Raises SinkError where the server ended."""
        if not isinstance(frame, SafeFrame):
            raise TypeError(f"a sink takes SafeFrame only, got {type(frame).__name__}")
        if self._is_broken:
            raise SinkError("the RTSP server ended; start again")
        with self._changed:
            self._newest = (frame.bgr.copy(), time.monotonic())
            self._changed.notify()

    def _work(self) -> None:
        must_be_key = False
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._newest is not None or self._is_closed)
                if self._newest is None:
                    return
                (bgr, time_s), self._newest = self._newest, None
            for data, is_key, unit_s in self._encoder.encode(bgr, time_s, must_be_key=must_be_key):
                must_be_key = not self._put(data, is_key, unit_s)

    def _put(self, data: bytes, is_key: bool, time_s: float) -> bool:
        """Writes one access unit, or nothing of it; False where a reader must start anew."""
        if not self._flush(0.0):
            self.num_lost += 1
            return False
        self._rest = memoryview(HEAD.pack(len(data), int(time_s * 1e9), is_key) + data)
        self.num_sent += 1
        self._flush(_FLUSH_S)
        return True

    def _flush(self, wait_s: float) -> bool:
        """Writes what the pipe had no room for; True once nothing is left."""
        deadline_s = time.monotonic() + wait_s
        while self._rest:
            try:
                self._rest = self._rest[os.write(self._pipe, self._rest) :]
            except BlockingIOError:
                left_s = deadline_s - time.monotonic()
                if left_s <= 0:
                    return False
                select.select([], [self._pipe], [], left_s)
            except OSError:
                self._is_broken, self._rest = True, memoryview(b"")
        return True

    def close(self) -> None:
        """Ends the stream."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join(_WAIT_S)

    abort = close


class _Encoder:
    """Pictures -> H.264 access units without delay."""

    def __init__(self, size_hw: tuple[int, int], fps: float) -> None:
        height, width = (side & ~1 for side in size_hw)  # 4:2:0 wants even sides
        self._size_hw = (height, width)
        codec: Any = av.CodecContext.create("libx264", "w")
        codec.width, codec.height, codec.pix_fmt = width, height, "yuv420p"
        codec.time_base, codec.framerate = Fraction(1, 90_000), Fraction(max(round(fps), 1))
        codec.gop_size = max(round(fps * KEY_EVERY_S), 1)
        codec.options = {
            "preset": "veryfast", "tune": "zerolatency", "profile": "baseline", "crf": "23",
            "maxrate": "6M", "bufsize": "3M", "forced-idr": "1",
        }  # fmt: skip
        self._codec = codec
        self._start_s: float | None = None
        self._last, self._key_due_s = -1, 0.0

    def encode(
        self, bgr: UInt8[np.ndarray, "h w 3"], time_s: float, *, must_be_key: bool
    ) -> list[tuple[bytes, bool, float]]:
        """Access units of one picture: bytes, whether one can start there, and time in seconds."""
        height, width = self._size_hw
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(bgr[:height, :width]), "bgr24")
        picture = picture.reformat(format="yuv420p")
        if self._start_s is None:
            self._start_s = time_s
        self._last = max(self._last + 1, round((time_s - self._start_s) * 90_000))
        picture.pts, picture.time_base = self._last, Fraction(1, 90_000)
        if must_be_key or time_s >= self._key_due_s:  # by the clock: a camera may be slow
            picture.pict_type = av.video.frame.PictureType.I
            self._key_due_s = time_s + KEY_EVERY_S
        units = self._codec.encode(picture)
        return [(bytes(unit), bool(unit.is_keyframe), self._last / 90_000) for unit in units]


@contextmanager
def open_helper(host: str, port: int, password: str) -> Iterator[int]:
    """GStreamer's server on that address; gives the pipe it reads.

    Raises:
        SinkError: It is not installed, or the port is taken.
    """
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin:/bin")
    if python is None:
        raise SinkError(f"--sink rtsp needs the system's python3; {_CURE}")
    helper = Path(__file__).with_name("sink_rtsp_helper.py")
    theirs, ours = os.pipe()
    process = subprocess.Popen(
        [python, "-I", str(helper)], stdin=theirs, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, start_new_session=True,
        env={"PATH": "/usr/bin:/bin", "HOME": os.environ.get("HOME", "/")},
    )  # fmt: skip
    os.close(theirs)
    try:
        _grow(ours)
        first = {"host": host, "port": port, "path": _PATH, "password": password}
        line = json.dumps(first).encode() + b"\n"
        with suppress(BrokenPipeError):
            os.write(ours, line)
        told = _first_line(process)
        if told.get("problem") or "port" not in told:
            raise SinkError(_explained(str(told.get("problem", "it ended")), host, port))
        who = ", user veilcam" if password else ""
        _log.info("stream: rtsp://%s:%d%s%s", host, told["port"], _PATH, who)
        if told.get("missing"):
            _log.warning("RTSP server: these barriers are not up: %s", told["missing"])
        yield ours
    finally:
        os.close(ours)
        try:
            process.wait(2.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _grow(pipe: int) -> None:
    with suppress(OSError):
        fcntl.fcntl(pipe, getattr(fcntl, "F_SETPIPE_SZ", 1031), _PIPE_BYTES)


def _first_line(process: "subprocess.Popen[bytes]") -> dict[str, Any]:
    """What the helper says once it serves."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], _START_S)
    line = process.stdout.readline() if ready else b""
    try:
        value: dict[str, Any] = json.loads(line)
    except ValueError:
        return {"problem": "it does not start"}
    return value


def _explained(problem: str, host: str, port: int) -> str:
    if problem == "not installed":
        return f"--sink rtsp needs GStreamer's RTSP server, which is not installed; {_CURE}"
    return f"cannot serve RTSP on {host} port {port}: {problem}; give another port"
