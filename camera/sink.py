"""Where safe pictures go. Every sink takes `SafeFrame` only; a failed output leaves no file behind.

window        a window on the screen        virtual       a virtual camera (v4l2loopback)
file:PATH     H.264 clip, or one picture    png:DIR       numbered pictures
web[:PORT]    MJPEG stream                   rtsp[:PORT]   H.264 stream; both: `sink_served`
null          nowhere
"""

import os
import sys
from typing import Protocol, runtime_checkable

import cv2
import numpy as np

from veilcam.camera.errors import SinkError
from veilcam.camera.sandbox import loopback_devices
from veilcam.camera.sink_file import PICTURE_SUFFIXES, ClipSink, PictureSink, PngFolderSink
from veilcam.camera.types import SafeFrame


@runtime_checkable
class Sink(Protocol):
    """A place safe pictures go to. `write` in order, then exactly one of `close` and `abort`.

    Attributes:
        is_done: True once the viewer wants no more (window closed).
    """

    is_done: bool

    def write(self, frame: SafeFrame) -> None:
        """Takes one picture of the agreed size. Raises SinkError where it cannot be kept."""

    def close(self) -> None:
        """Finishes the output; only now does a file appear under its final name."""

    def abort(self) -> None:
        """Drops the output; what stood under the final name before stays as it was."""


class NullSink:
    """Takes and forgets, for measuring."""

    is_done = False

    def write(self, frame: SafeFrame) -> None:
        """Forgets the picture."""
        require_safe(frame)

    def close(self) -> None:
        """Nothing to finish."""

    def abort(self) -> None:
        """Nothing to drop."""


class MemorySink:
    """Keeps every picture in `frames`, for tests."""

    is_done = False

    def __init__(self) -> None:
        self.frames: list[SafeFrame] = []
        self.is_closed = False
        self.is_aborted = False

    def write(self, frame: SafeFrame) -> None:
        """Keeps the picture."""
        self.frames.append(require_safe(frame))

    def close(self) -> None:
        """Notes that it was closed."""
        self.is_closed = True

    def abort(self) -> None:
        """Notes that it was aborted."""
        self.is_aborted = True


class WindowSink:
    """Shows the pictures in a window; Esc, q or the window's own button end it."""

    _title = "Veilcam"

    def __init__(self) -> None:
        if not has_display():
            raise SinkError(
                "no display for a window (DISPLAY and WAYLAND_DISPLAY are not set); use "
                "--sink file:out.mp4 or --sink virtual"
            )
        if not has_window_support():
            raise SinkError(
                "this OpenCV is built without windows; run VEILCAM_WINDOW=1 ./scripts/setup, or "
                "use --sink file:out.mp4"
            )
        self.is_done = False
        cv2.namedWindow(self._title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)

    def write(self, frame: SafeFrame) -> None:
        """Shows the picture and looks for the end key."""
        cv2.imshow(self._title, require_safe(frame).bgr)
        is_gone = cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) < 1
        self.is_done = is_gone or cv2.waitKey(1) & 0xFF in (27, ord("q"))

    def close(self) -> None:
        """Closes the window."""
        cv2.destroyAllWindows()

    abort = close


class VirtualSink:
    """Feeds a virtual camera that other programs open like any webcam."""

    is_done = False

    def __init__(self, size_hw: tuple[int, int], fps: float) -> None:
        try:
            import pyvirtualcam  # optional: extra `virtual`
        except ImportError as error:
            raise SinkError("--sink virtual needs pyvirtualcam: ./scripts/setup virtual") from error
        height, width = size_hw
        try:
            bgr = pyvirtualcam.PixelFormat.BGR
            # Named, because looking through every device would touch cameras as well.
            device = str(loopback[0]) if (loopback := loopback_devices()) else None
            self._camera = pyvirtualcam.Camera(
                width=width, height=height, fps=fps, fmt=bgr, device=device
            )
        except (RuntimeError, OSError, ValueError) as error:
            raise SinkError(
                "no virtual camera can be opened; run `sudo apt install v4l2loopback-dkms && sudo "
                "modprobe v4l2loopback exclusive_caps=1 card_label=Veilcam`, and close programs "
                "that write to it"
            ) from error

    def write(self, frame: SafeFrame) -> None:
        """Sends the picture."""
        self._camera.send(np.ascontiguousarray(require_safe(frame).bgr))

    def close(self) -> None:
        """Gives the virtual camera back."""
        self._camera.close()

    abort = close


def require_safe(frame: SafeFrame) -> SafeFrame:
    """The same frame. Raises TypeError for anything else, where mypy did not look."""
    if not isinstance(frame, SafeFrame):
        raise TypeError(f"a sink takes SafeFrame only, got {type(frame).__name__}")
    return frame


def has_display() -> bool:
    """True where a window could appear. Without one OpenCV ends the whole process."""
    if not sys.platform.startswith("linux"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def has_window_support() -> bool:
    """True where this OpenCV wheel was built with a window toolkit."""
    lines = cv2.getBuildInformation().splitlines()
    return any(line.strip().startswith("GUI:") and "NONE" not in line for line in lines)


def open_sink(spec: str, *, size_hw: tuple[int, int], fps: float) -> Sink:
    """Opens what `spec` names.

    Args:
        spec: window, virtual, file:PATH, png:DIR or null.
        size_hw: Height and width of every picture in pixels.
        fps: Nominal frames per second.

    Raises:
        SinkError: Unknown, not available here, or not writable.
    """
    kind, _, target = spec.partition(":")
    if kind in ("file", "png") and not target:
        raise SinkError(f"sink {spec!r} names no path; wanted file:out.mp4 or png:folder")
    if kind == "file":
        is_picture = os.path.splitext(target)[1].lower() in PICTURE_SUFFIXES  # noqa: PTH122
        return PictureSink(target) if is_picture else ClipSink(target, size_hw=size_hw, fps=fps)
    if kind == "png":
        return PngFolderSink(target)
    if spec == "window":
        return WindowSink()
    if spec == "virtual":
        return VirtualSink(size_hw, fps)
    if spec == "null":
        return NullSink()
    if kind in ("web", "rtsp"):
        raise SinkError(f"sink {kind} needs two processes, which this system does not have")
    wanted = "window, virtual, file:PATH, png:DIR, web[:PORT], rtsp[:PORT] or null"
    raise SinkError(f"unknown sink {spec!r}; wanted {wanted}")
