"""Live sources: one thread reads the device as fast as it gives, the newest frame wins."""

import logging
import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import av
import cv2
import numpy as np
from av.error import FFmpegError

from veilcam.camera.asked import MAX_FPS, USUAL, Asked
from veilcam.camera.errors import SourceError
from veilcam.camera.patience import patience
from veilcam.camera.types import Frame

_log = logging.getLogger(__name__)
_TIMEOUT_S = 5.0
_SILENCE_S = 0.5  # after this the loop shows a blank instead of a picture that stands still
_REOPEN_S = 10.0


@runtime_checkable
class Grabber(Protocol):
    """A device that blocks until it has a picture; used by one thread only.

    Attributes:
        fps: Frames per second the device says it gives.
        name: What to call it in a message, without login data.
    """

    fps: float
    name: str

    def grab(self) -> np.ndarray | None:
        """Next picture, uint8 BGR (h, w, 3), or None where the device gave none."""

    def close(self) -> None:
        """Gives the device back."""


class LiveSource:
    """The newest frame of a device; older ones nobody read are counted in `frames_dropped`.

    Args:
        open_grabber: Opens the device; called again after it was lost.
        reopen_s: How long a lost device may stay away before `read` raises SourceError.

    Raises:
        SourceError: The device cannot be opened or gives no first picture.
    """

    is_live = True

    def __init__(self, open_grabber: Callable[[], Grabber], *, reopen_s: float = _REOPEN_S) -> None:
        self._open = open_grabber
        self._reopen_s = reopen_s
        self._grabber = open_grabber()
        self.fps = self._grabber.fps
        self._wait_s = max(_SILENCE_S, 3.0 / self.fps) * patience()
        first = self._grabber.grab()
        if first is None:
            self._grabber.close()
            raise SourceError(
                f"{self._grabber.name} opened but gave no picture: is another program using it? "
                "Close that program (fuser -v /dev/video*) and try again"
            )
        self.size_hw = (first.shape[0], first.shape[1])
        self.frames_dropped = 0
        self._start_ns = time.perf_counter_ns()
        self._slot: Frame | None = Frame(first, 0, 0.0)
        self._index = 1
        self._error: SourceError | None = None
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="veilcam-capture", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            while not self._stop.is_set():
                bgr = self._grabber.grab()
                if bgr is None or (bgr.shape[0], bgr.shape[1]) != self.size_hw:
                    self._reopen()
                else:
                    self._put(bgr)
        except SourceError as error:
            self._fail(error)
        except Exception as error:  # carried to the owner; the text could hold device data
            self._fail(SourceError(f"{self._grabber.name} failed: {type(error).__name__}"))
        finally:
            self._grabber.close()

    def _put(self, bgr: np.ndarray) -> None:
        time_s = (time.perf_counter_ns() - self._start_ns) / 1e9
        with self._changed:
            self.frames_dropped += self._slot is not None
            self._slot = Frame(bgr, self._index, time_s)
            self._index += 1
            self._changed.notify()

    def _fail(self, error: SourceError) -> None:
        with self._changed:
            self._error = error
            self._changed.notify()

    def _reopen(self) -> None:
        """Tries to get a lost device back until `reopen_s` are over."""
        _log.warning("%s stopped giving pictures; trying to get it back", self._grabber.name)
        deadline_ns = time.perf_counter_ns() + int(self._reopen_s * 1e9)
        self._grabber.close()
        while not self._stop.is_set():
            try:
                self._grabber = self._open()
                return
            except SourceError:
                if time.perf_counter_ns() > deadline_ns:
                    raise
                self._stop.wait(0.5)

    def read(self) -> Frame | None:
        """Newest frame not read yet; waits for one.

        Raises:
            SourceError: None came for a while (reading again may work), or the device is lost.
        """
        wait_s = self._wait_s
        with self._changed:
            self._changed.wait_for(lambda: self._slot or self._error or self._stop.is_set(), wait_s)
            frame, self._slot = self._slot, None
            if frame is None and not self._stop.is_set():
                raise self._error or SourceError(
                    f"{self._grabber.name} gave no picture for {wait_s:.1f} s; check the cable"
                )
            return frame

    def close(self) -> None:
        """Stops the thread and gives the device back."""
        self._stop.set()
        with self._changed:
            self._changed.notify()
        self._thread.join(_TIMEOUT_S)


class _Webcam:
    def __init__(self, number: int, capture: Any, asked: Asked) -> None:  # cv2's, or a fake
        self.name = f"camera {number}"
        self._capture = capture
        # MJPG first: uncompressed 720p does not fit USB 2 at 30 fps, and size follows format.
        capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, asked.width)
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, asked.height)
        capture.set(cv2.CAP_PROP_FPS, asked.fps)
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        fps = capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if 1 <= fps <= MAX_FPS else float(asked.fps)

    def grab(self) -> np.ndarray | None:
        has_picture, bgr = self._capture.read()
        return bgr if has_picture and bgr is not None and bgr.ndim == 3 else None

    def close(self) -> None:
        self._capture.release()


def open_webcam_grabber(
    number: int, *, asked: Asked = USUAL, device_folder: Path = Path("/dev")
) -> Callable[[], Grabber]:
    """An opener for V4L2 camera `number`: MJPG, what is `asked`, a buffer of one."""

    def open_() -> Grabber:
        device = device_folder / f"video{number}"
        if not device.exists():
            there = ", ".join(sorted(str(path) for path in device_folder.glob("video*"))) or "none"
            raise SourceError(
                f"no camera {number}: {device} does not exist (cameras here: {there}); plug one "
                "in, or try `veilcam run demo`"
            )
        if not os.access(device, os.R_OK | os.W_OK):
            raise SourceError(
                f"{device}: permission denied; run `sudo usermod -aG video $USER` and log in again"
            )
        capture = cv2.VideoCapture(number, cv2.CAP_V4L2)
        if not capture.isOpened():
            capture.release()
            raise SourceError(
                f"{device} cannot be opened: another program may be using it, or it is no capture "
                f"device; close that program (fuser -v {device}) or try another number"
            )
        return _Webcam(number, capture, asked)

    return open_


def without_login(address: str) -> str:
    """The address without user, password and query, fit for a message.

    >>> without_login("rtsp://me:secret@cam.local/live?key=1")
    'rtsp://cam.local/live'
    """
    return re.sub(r"//[^/@]*@", "//", address).split("?")[0]


class _Stream:
    def __init__(self, address: str) -> None:
        self.name = without_login(address)
        options = {"fflags": "nobuffer", "flags": "low_delay"}
        if address.startswith("rtsp"):
            options["rtsp_transport"] = "tcp"
        try:
            self._container = av.open(address, options=options, timeout=_TIMEOUT_S)
        except (FFmpegError, OSError, ValueError) as error:
            raise SourceError(
                f"cannot open stream {self.name} ({type(error).__name__}); check address, login "
                "and network"
            ) from None  # the cause's text would hold the login
        if not self._container.streams.video:
            self._container.close()
            raise SourceError(f"stream {self.name} has no video; check the address")
        stream = self._container.streams.video[0]
        self.fps = float(stream.average_rate or 30)
        self._frames = self._container.decode(stream)

    def grab(self) -> np.ndarray | None:
        try:
            frame = next(self._frames, None)
        except (FFmpegError, OSError):
            return None
        return None if frame is None else frame.to_ndarray(format="bgr24")

    def close(self) -> None:
        self._container.close()


def open_stream_grabber(address: str) -> Callable[[], Grabber]:
    """An opener for an RTSP or HTTP stream, read over TCP."""
    return lambda: _Stream(address)
