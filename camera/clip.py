"""Reads a clip frame by frame through PyAV; a broken or truncated clip is an error, not an end."""

import re
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError

from veilcam.camera.errors import SourceError
from veilcam.camera.types import Frame

_TEXT_FORMATS = frozenset({"tty", "concat", "srt", "webvtt", "ass", "hls", "dash", "lrc", "sbg"})
_MISSING_S = 0.25  # a file that ends this much before its announced end is truncated


class ClipSource:
    """Every frame of a file, in order, with the file's own time stamps from 0.

    Args:
        path: A file that exists.

    Raises:
        SourceError: Not a clip, no picture in it, or (from `read`) broken or cut off.
    """

    is_live = False

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            # "file:" and the whitelist: a crafted playlist must not make us open something else.
            options = {"protocol_whitelist": "file,crypto,data"}
            self._container = av.open(f"file:{path.resolve()}", options=options)
        except (FFmpegError, OSError, ValueError) as error:
            raise self._not_a_clip(type(error).__name__) from error
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    def _prepare(self) -> None:
        name = self._container.format.name
        if name in _TEXT_FORMATS or not self._container.streams.video:
            raise self._not_a_clip(f"format {name}, no video in it")
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "AUTO"
        rate = self._stream.average_rate or self._stream.guessed_rate
        self.fps = float(rate) if rate else 30.0
        self._announced_s = self._announced_end()
        self._index = 0
        self._start_s: float | None = None
        self._last_s = 0.0
        self._frames = self._decode()
        self.size_hw = (0, 0)
        self._first = self._next()
        if self._first is None:
            raise SourceError(f"{self._path} holds no picture; check that the clip is complete")

    def _not_a_clip(self, got: str) -> SourceError:
        return SourceError(
            f"{self._path} is not a readable clip (got {got}); wanted MP4, MKV, MOV, WebM, AVI "
            "or GIF: check that the file is complete and what it says it is"
        )

    def _announced_end(self) -> float | None:
        """Length in seconds that a Matroska header promises; other formats report a cut on read."""
        if "matroska" not in self._container.format.name:
            return None
        tag = self._stream.metadata.get("DURATION", "")
        if clock := re.fullmatch(r"(\d+):(\d+):([\d.]+)", tag):
            return int(clock[1]) * 3600 + int(clock[2]) * 60 + float(clock[3])
        if len(self._container.streams) == 1 and self._container.duration:
            return self._container.duration / 1e6
        return None

    def _truncated(self, got: str) -> SourceError:
        return SourceError(
            f"{self._path} is truncated or damaged: {got}; get a complete copy, or cut it with "
            "ffmpeg -i IN -c copy OUT"
        )

    def _decode(self) -> Iterator[av.VideoFrame]:
        try:
            for packet in self._container.demux(self._stream):
                if packet.is_corrupt:
                    raise self._truncated(f"a broken packet after {self._last_s:.2f} s")
                yield from packet.decode()
        except (FFmpegError, EOFError) as error:
            raise self._truncated(f"{type(error).__name__} after {self._last_s:.2f} s") from error

    def _next(self) -> Frame | None:
        frame = next(self._frames, None)
        if frame is None:
            end_s = self._last_s + 1.0 / self.fps
            if self._announced_s is not None and end_s < self._announced_s - _MISSING_S:
                raise self._truncated(f"ends at {end_s:.2f} s of {self._announced_s:.2f} s")
            return None
        time_s = self._index / self.fps if frame.time is None else float(frame.time)
        self._start_s = time_s if self._start_s is None else self._start_s
        self._last_s = max(self._last_s, time_s - self._start_s)
        bgr = _upright_bgr(frame, self.size_hw)
        self.size_hw = (bgr.shape[0], bgr.shape[1])
        self._index += 1
        return Frame(bgr, self._index - 1, self._last_s)

    def read(self) -> Frame | None:
        """Next frame, or None at the end of a complete clip."""
        if self._first is not None:
            frame, self._first = self._first, None
            return frame
        return self._next()

    def close(self) -> None:
        """Closes the file."""
        self._first = None
        self._container.close()


def _upright_bgr(frame: av.VideoFrame, size_hw: tuple[int, int]) -> np.ndarray:
    """Pixels as a viewer would see them: turned as a phone noted, in the clip's first size."""
    turns = round(getattr(frame, "rotation", 0) / 90) % 4  # counter-clockwise
    if size_hw != (0, 0):
        height, width = size_hw if turns % 2 == 0 else size_hw[::-1]
        if (frame.height, frame.width) != (height, width):
            frame = frame.reformat(width=width, height=height)
    bgr = frame.to_ndarray(format="bgr24")
    return np.ascontiguousarray(np.rot90(bgr, turns)) if turns else bgr
