"""Sinks that write files: temporary name in the same folder, fsync, rename; or nothing at all."""

import errno
import io
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.error import FFmpegError
from jaxtyping import UInt8

from veilcam.camera.errors import SinkError
from veilcam.camera.types import SafeFrame
from veilcam.camera.unfinished import unfinished_path

_log = logging.getLogger(__name__)
PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})
_FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
_CLOCK_HZ = 90_000


def _sink_error(path: Path, error: BaseException) -> SinkError:
    """One clear message for what the operating system said."""
    code = getattr(error, "errno", None)
    if code in (errno.ENOSPC, errno.EDQUOT):
        return SinkError(f"disk full while writing {path}; free some space, nothing was kept")
    reason = os.strerror(code) if isinstance(code, int) and code > 0 else type(error).__name__
    return SinkError(f"cannot write {path}: {reason}; check that the folder exists and is writable")


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, FFmpegError, ValueError) as error:
        raise _sink_error(path, error) from error


def _check_target(path: Path) -> None:
    if path.is_dir():
        raise SinkError(f"cannot write {path}: it is a folder; wanted a file name")
    if not path.parent.is_dir():
        raise SinkError(f"cannot write {path}: no folder {path.parent}; make it first")


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # some file systems cannot sync folders; the file itself is synced
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _open_new(path: Path) -> io.BufferedIOBase:
    """A new file for writing; tests put a full disk here."""
    return path.open("xb")


class ClipSink:
    """An H.264 clip with the pictures' own time stamps and no sound.

    Args:
        path: Final name; .mp4, .m4v, .mov or .mkv.
        size_hw: Height and width of every picture; an odd side is padded by one pixel.
        fps: Nominal rate, for the encoder's rate control.
    """

    is_done = False

    def __init__(self, path: str | Path, *, size_hw: tuple[int, int], fps: float) -> None:
        self._path = Path(path)
        _check_target(self._path)
        if (name := _FORMATS.get(self._path.suffix.lower())) is None:
            raise SinkError(
                f"cannot write {self._path}: got suffix {self._path.suffix!r}, wanted one of "
                f"{', '.join((*_FORMATS, *sorted(PICTURE_SUFFIXES)))}"
            )
        self._size_hw = size_hw
        self._pad = (size_hw[0] % 2, size_hw[1] % 2)
        self._last_pts = -1
        self._part = unfinished_path(self._path)
        self._container: av.container.OutputContainer | None = None
        with _translated(self._path):
            self._part.unlink(missing_ok=True)
            self._file = _open_new(self._part)
        try:
            self._start(name, fps)
        except BaseException:
            self.abort()
            raise

    def _start(self, format_name: str, fps: float) -> None:
        with _translated(self._path):
            self._container = av.open(self._file, mode="w", format=format_name)
            rate = Fraction(fps).limit_denominator(1001)
            self._stream = self._container.add_stream("libx264", rate=rate)
            self._stream.height = self._size_hw[0] + self._pad[0]
            self._stream.width = self._size_hw[1] + self._pad[1]
            self._stream.pix_fmt = "yuv420p"
            self._stream.codec_context.time_base = Fraction(1, _CLOCK_HZ)
            self._stream.options = {"preset": "veryfast", "crf": "19"}

    def write(self, frame: SafeFrame) -> None:
        """Encodes one picture at its own time; times that stand still are moved on by a tick."""
        bgr = _pixels(frame)
        if bgr.shape[:2] != self._size_hw:
            raise SinkError(f"picture is {bgr.shape[:2]}, wanted {self._size_hw} as the first")
        if any(self._pad):
            bgr = np.pad(bgr, ((0, self._pad[0]), (0, self._pad[1]), (0, 0)), mode="edge")
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(bgr), format="bgr24")
        picture.time_base = Fraction(1, _CLOCK_HZ)
        picture.pts = max(self._last_pts + 1, round(frame.time_s * _CLOCK_HZ))
        self._last_pts = picture.pts
        self._mux(picture)

    def _mux(self, picture: av.VideoFrame | None) -> None:
        assert self._container is not None
        with _translated(self._path):
            for packet in self._stream.encode(picture):
                self._container.mux(packet)

    def close(self) -> None:
        """Finishes the clip and gives it its final name."""
        if self._container is None:
            return
        if self._last_pts < 0:
            _log.warning("no picture came, so %s was not written", self._path)
            self.abort()
            return
        try:
            self._mux(None)
            with _translated(self._path):
                self._container.close()
                self._container = None
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()
                self._part.replace(self._path)
        except BaseException:
            self.abort()
            raise
        _sync_folder(self._path.parent)

    def abort(self) -> None:
        """Removes the unfinished file."""
        container, self._container = self._container, None
        if container is not None:
            with suppress(OSError, FFmpegError, ValueError):
                container.close()
        with suppress(OSError, ValueError):
            self._file.close()
        self._part.unlink(missing_ok=True)


class PictureSink:
    """One PNG or JPEG, for a source that is one picture."""

    is_done = False

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        _check_target(self._path)
        self._part = unfinished_path(self._path)
        self._num_frames = 0
        with _translated(self._path):
            self._part.unlink(missing_ok=True)
            self._file = _open_new(self._part)

    def write(self, frame: SafeFrame) -> None:
        """Keeps the one picture. Raises SinkError for a second one."""
        if self._num_frames:
            raise SinkError(
                f"{self._path} takes one picture and the source has more; use file:out.mp4 or "
                "png:folder, or --frames 1"
            )
        self._num_frames += 1
        with _translated(self._path):
            self._file.write(_encoded(_pixels(frame), self._path.suffix.lower()))

    def close(self) -> None:
        """Gives the picture its final name."""
        if self._file.closed:
            return
        if not self._num_frames:
            self.abort()
            return
        try:
            with _translated(self._path):
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()
                self._part.replace(self._path)
        except BaseException:
            self.abort()
            raise
        _sync_folder(self._path.parent)

    def abort(self) -> None:
        """Removes the unfinished file."""
        with suppress(OSError, ValueError):
            self._file.close()
        self._part.unlink(missing_ok=True)


class PngFolderSink:
    """A folder of frame_000000.png, ...; it appears under its name when all are written."""

    is_done = False

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        if self._path.exists() and not (self._path.is_dir() and not any(self._path.iterdir())):
            raise SinkError(f"{self._path} exists already; give a new or an empty folder")
        if not self._path.absolute().parent.is_dir():
            raise SinkError(f"cannot write {self._path}: no folder {self._path.parent}; make it")
        self._part = unfinished_path(self._path.absolute())
        self._num_frames = 0
        self._is_open = True
        with _translated(self._path):
            shutil.rmtree(self._part, ignore_errors=True)
            self._part.mkdir()

    def write(self, frame: SafeFrame) -> None:
        """Writes the next picture."""
        data = _encoded(_pixels(frame), ".png")
        with _translated(self._path), _open_new(self._part / self._name()) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        self._num_frames += 1

    def _name(self) -> str:
        return f"frame_{self._num_frames:06d}.png"

    def close(self) -> None:
        """Gives the folder its final name."""
        if not self._is_open:
            return
        if not self._num_frames:
            self.abort()
            return
        self._is_open = False
        try:
            _sync_folder(self._part)
            with _translated(self._path):
                self._part.replace(self._path)
        except BaseException:
            self.abort()
            raise
        _sync_folder(self._path.absolute().parent)

    def abort(self) -> None:
        """Removes the unfinished folder."""
        self._is_open = False
        shutil.rmtree(self._part, ignore_errors=True)


def _encoded(bgr: UInt8[np.ndarray, "h w 3"], suffix: str) -> bytes:
    is_encoded, data = cv2.imencode(suffix, bgr)
    if not is_encoded:
        raise SinkError(f"the picture cannot be encoded as {suffix}")
    return bytes(data.tobytes())


def _pixels(frame: SafeFrame) -> UInt8[np.ndarray, "h w 3"]:
    if not isinstance(frame, SafeFrame):
        raise TypeError(f"a sink takes SafeFrame only, got {type(frame).__name__}")
    return frame.bgr
