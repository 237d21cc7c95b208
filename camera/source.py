"""Where raw frames come from: webcam, clip, picture, stream, the bundled demo clip.

Live sources keep one frame, the newest; clips are read frame by frame and lose none.
"""

import os
import re
from importlib.resources import files
from pathlib import Path
from typing import Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import UInt8

from veilcam.camera.asked import USUAL, Asked
from veilcam.camera.clip import ClipSource
from veilcam.camera.errors import SourceError
from veilcam.camera.live import LiveSource, open_stream_grabber, open_webcam_grabber, without_login
from veilcam.camera.types import Frame

PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})
MIN_SIDE_PX = 16
MAX_SIDE_PX = 8192


@runtime_checkable
class Source(Protocol):
    """A place raw frames come from.

    The source hands out each frame once and keeps none; the reader calls `close` exactly once.

    Attributes:
        fps: Nominal frames per second, > 0.
        size_hw: Height and width in pixels, the same for every frame.
        is_live: True where frames that nobody reads in time are dropped.
    """

    fps: float
    size_hw: tuple[int, int]
    is_live: bool

    def read(self) -> Frame | None:
        """Next frame, or None at the end. Raises SourceError where reading fails."""

    def close(self) -> None:
        """Gives the device or file back. May be called twice."""


class ArraySource:
    """Frames from memory: one picture, or a test's own.

    Args:
        pictures: uint8 BGR arrays (h, w, 3), all of one size, at least one.
        fps: Frames per second of the made-up clock.
    """

    is_live = False

    def __init__(self, pictures: list[UInt8[np.ndarray, "h w 3"]], *, fps: float = 30.0) -> None:
        height, width = pictures[0].shape[:2]
        self.size_hw = (height, width)
        self.fps = fps
        self._pictures = pictures
        self._index = 0

    def read(self) -> Frame | None:
        """Next picture as a frame, or None."""
        if self._index >= len(self._pictures):
            return None
        frame = Frame(self._pictures[self._index], self._index, self._index / self.fps)
        self._index += 1
        return frame

    def close(self) -> None:
        """Drops the pictures."""
        self._pictures = []


def demo_clip() -> Path:
    """Path of the bundled public clip (see its licence text beside it)."""
    path = Path(str(files("veilcam.camera.assets") / "demo.mkv"))
    if not path.is_file():
        raise SourceError(f"the bundled demo clip is missing: {path}; reinstall veilcam")
    return path


def check_size(size_hw: tuple[int, int], what: str) -> None:
    """Raises SourceError unless both sides are within what analysis can handle."""
    height, width = size_hw
    if min(size_hw) < MIN_SIDE_PX or max(size_hw) > MAX_SIDE_PX:
        raise SourceError(
            f"{what}: got {width}x{height} px, wanted sides of {MIN_SIDE_PX} to {MAX_SIDE_PX} px; "
            "scale it first"
        )


def _check_file(path: Path) -> None:
    if not path.exists():
        raise SourceError(
            f"no such source: {str(path)!r}; give a file, a webcam number, an rtsp:// address "
            "or `demo`"
        )
    if not path.is_file():
        raise SourceError(f"{path} is not a file; give one clip or picture")
    if not os.access(path, os.R_OK):
        raise SourceError(f"{path} cannot be read: permission denied; check its owner and mode")
    if path.stat().st_size == 0:
        raise SourceError(f"{path} is empty: got 0 bytes, wanted a clip or picture")


def _open_picture(path: Path) -> ArraySource:
    data = np.frombuffer(path.read_bytes(), np.uint8)
    try:
        picture = cv2.imdecode(data, cv2.IMREAD_COLOR)
    except cv2.error as error:  # larger than OpenCV's own pixel limit
        raise SourceError(
            f"{path} is too large: wanted at most {MAX_SIDE_PX} px a side; scale it first"
        ) from error
    if picture is None:
        raise SourceError(
            f"{path} is not a picture: got {data.size} bytes that no decoder reads, wanted "
            "PNG, JPEG, WebP, BMP or TIFF; check that the file is complete"
        )
    check_size(picture.shape[:2], str(path))
    return ArraySource([np.ascontiguousarray(picture, np.uint8)], fps=30.0)


def open_source(spec: str, asked: Asked = USUAL) -> Source:
    """Opens what `spec` names.

    Args:
        spec: `demo`, a webcam number or `/dev/videoN`, `rtsp://...`, or the path of a clip or
            picture.
        asked: What a webcam is asked for.

    Returns:
        The open source; its first frame is known to be readable.

    Raises:
        SourceError: Nothing there, nothing readable, in use, or of a size nobody can handle.
    """
    if spec == "demo":
        return _checked(ClipSource(demo_clip()), "demo")
    if device := re.fullmatch(r"(?:/dev/video)?(\d{1,3})", spec):
        opener = open_webcam_grabber(int(device[1]), asked=asked)
        return _checked(LiveSource(opener), f"camera {device[1]}")
    if re.match(r"(rtsps?|https?)://", spec):
        return _checked(LiveSource(open_stream_grabber(spec)), without_login(spec))
    path = Path(spec)
    _check_file(path)
    if path.suffix.lower() in PICTURE_SUFFIXES:
        return _open_picture(path)
    return _checked(ClipSource(path), spec)


def _checked(source: Source, what: str) -> Source:
    try:
        check_size(source.size_hw, what)
    except SourceError:
        source.close()
        raise
    return source
