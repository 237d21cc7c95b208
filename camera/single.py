"""One process for everything, for systems without the means for two."""

from pathlib import Path
from typing import Any

from veilcam.camera.asked import Asked
from veilcam.camera.sink import Sink, open_sink
from veilcam.camera.source import Source, open_source
from veilcam.camera.types import Frame


class StoppableSource:
    """A source that ends when it is told to, or when the sink's viewer has seen enough.

    Ctrl-C then ends the loop between two frames, never inside an encoder.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self.fps = source.fps
        self.size_hw = source.size_hw
        self.is_live = source.is_live
        self.is_stopped = False
        self.sink: Sink | None = None

    @property
    def frames_dropped(self) -> int:
        """Frames a live source dropped because a newer one was there."""
        return int(getattr(self._source, "frames_dropped", 0))

    def read(self) -> Frame | None:
        """Next frame, or None at the end or once stopped."""
        if self.is_stopped or (self.sink is not None and self.sink.is_done):
            return None
        return self._source.read()

    def stop(self) -> None:
        """Ends it before the next frame."""
        self.is_stopped = True

    def close(self) -> None:
        """Closes the source."""
        self._source.close()


def run_in_one(
    source_spec: str, sink_spec: str, bundle: Path | None, delay_frames: int,
    max_frames: int | None, profile: dict[str, Any] | None, asked: dict[str, int],
) -> tuple[dict[str, Any], bool]:  # fmt: skip
    """Runs from source to sink; see `session.run_session`."""
    from veilcam.camera.loop import build_loop
    from veilcam.camera.session import interrupt_stops

    source = StoppableSource(open_source(source_spec, Asked(**asked)))
    try:
        with interrupt_stops(lambda: source.is_stopped, source.stop):
            sink = open_sink(sink_spec, size_hw=source.size_hw, fps=source.fps)
            source.sink = sink
            try:
                loop = build_loop(
                    source, sink, bundle=bundle, delay_frames=delay_frames, profile=profile
                )
                report = loop.run(max_frames)
                sink.close()
            except BaseException:
                sink.abort()
                raise
    finally:
        source.close()
    value: dict[str, Any] = report.to_json()
    return value, source.is_stopped
