"""H.264 over RTSP for players and recorders. The newest picture wins, and nobody waits.

The loop hands over a picture and goes on; a thread of its own encodes, and only while somebody
looks.
"""

import threading
import time
from fractions import Fraction
from typing import Any

import av
import numpy as np
from jaxtyping import UInt8

from veilcam.camera.errors import SinkError
from veilcam.camera.handed import read_handed
from veilcam.camera.rtsp_server import RtspServer
from veilcam.camera.tls import context_of
from veilcam.camera.types import SafeFrame

KEY_EVERY_S = 1.0
_WAIT_S = 5.0


class RtspSink:
    """Encodes pictures for the server's readers.

    Args:
        handed: Descriptors of the bound socket, of the JSON and, with TLS, of chain and key.
        size_hw: Height and width of every picture.
        fps: Nominal frames per second.
    """

    is_done = False

    def __init__(self, handed: tuple[int, ...], *, size_hw: tuple[int, int], fps: float) -> None:
        listener, told, *tls = handed
        self._server = RtspServer(
            listener, known=read_handed(told)["known"], tls=context_of(tls[0]) if tls else None
        )
        self._encoder = Encoder(size_hw, fps)
        self._changed = threading.Condition()
        self._newest: tuple[UInt8[np.ndarray, "h w 3"], float] | None = None
        self._is_closed = False
        self.num_sent = 0
        self._thread = threading.Thread(target=self._work, name="veilcam-h264", daemon=True)
        self._thread.start()

    @property
    def counters(self) -> dict[str, Any]:
        """Pictures that were encoded, and those that a reader did not take in time."""
        return {"stream_sent": self.num_sent, "stream_lost": self._server.num_lost}

    def write(self, frame: SafeFrame) -> None:
        """Takes a copy of the picture. Raises SinkError where the server ended."""
        if not isinstance(frame, SafeFrame):
            raise TypeError(f"a sink takes SafeFrame only, got {type(frame).__name__}")
        if not self._server.is_alive or not self._thread.is_alive():
            raise SinkError("the RTSP server ended; start again")
        if not self._server.is_watched:
            return
        with self._changed:
            self._newest = (frame.bgr.copy(), time.monotonic())
            self._changed.notify()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._newest is not None or self._is_closed)
                if self._newest is None:
                    return
                (bgr, time_s), self._newest = self._newest, None
            must_be_key = self._server.wants_key.is_set()
            self._server.wants_key.clear()
            for data, is_key, unit_s in self._encoder.encode(bgr, time_s, must_be_key=must_be_key):
                self._server.offer(data, is_key=is_key, time_s=unit_s)
                self.num_sent += 1

    def close(self) -> None:
        """Ends the stream."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join(_WAIT_S)
        self._server.close()

    abort = close


class Encoder:
    """Pictures -> H.264 access units (Annex B) without delay.

    Args:
        size_hw: Height and width of every picture; an odd side is cut by one, for 4:2:0.
        fps: Nominal frames per second.
    """

    def __init__(self, size_hw: tuple[int, int], fps: float) -> None:
        height, width = (side & ~1 for side in size_hw)
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
        """Access units of one picture: bytes, whether one can start there, and its time."""
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
        unit_s = self._start_s + self._last / 90_000
        return [(bytes(unit), bool(unit.is_keyframe), unit_s) for unit in units]
