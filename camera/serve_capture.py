"""The capture process of `veilcam serve`: as `run`, but a clip plays on and on, at its pace."""

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from veilcam.camera.capture import Build, load_parts
from veilcam.camera.capture import main as capture_main
from veilcam.camera.settings import Settings

if TYPE_CHECKING:
    import numpy as np

    from veilcam.camera.source import Source

__all__ = ["main"]


class ClipGrabber:
    """A clip or picture as a device that gives it again and again, in real time.

    Args:
        spec: What `source.open_source` opens.
        open_source: That function.
    """

    def __init__(self, spec: str, open_source: "Callable[[str], Source]") -> None:
        self._spec, self._open = spec, open_source
        self._source = open_source(spec)
        self.fps = min(self._source.fps, 60.0)
        self.name = "the clip"
        self._due_s = time.monotonic()

    def grab(self) -> "np.ndarray | None":
        """Next picture when its time has come; after the last comes the first."""
        frame = self._source.read()
        if frame is None:
            self._source.close()
            self._source = self._open(self._spec)
            frame = self._source.read()
        self._due_s = max(self._due_s + 1.0 / self.fps, time.monotonic() - 0.5)
        time.sleep(max(0.0, self._due_s - time.monotonic()))
        return None if frame is None else frame.bgr

    def close(self) -> None:
        """Closes the clip."""
        self._source.close()


def load_endless(settings: Settings) -> "tuple[Build, Callable[[str], Source]]":
    """As `capture.load_parts`, but every source is live."""
    build, open_source = load_parts(settings)
    from veilcam.camera.live import LiveSource

    def open_endless(spec: str) -> "Source":
        source = open_source(spec)
        if source.is_live:
            return source
        source.close()
        return LiveSource(lambda: ClipGrabber(spec, open_source))

    return build, open_endless


def main(argv: list[str]) -> int:
    """Runs the process."""
    return capture_main(argv, load_endless)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
