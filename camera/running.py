"""What every mode's loop does alike: reading, writing, counting faults and durations."""

import logging
import time
from collections.abc import Iterable

from veilcam.camera.errors import SourceError
from veilcam.camera.parts import SinkLike, SourceLike
from veilcam.camera.report import RunReport, percentiles
from veilcam.camera.types import Frame, SafeFrame

_log = logging.getLogger(__name__)
_MAX_TIMINGS = 20_000  # a day of camera must not fill the memory
_MAX_SOURCE_FAULTS = 90  # in a row: about three seconds of a camera that does not answer


class Running:
    """Frames from a source to a sink; a mode's `step` takes one in and hands one out.

    Args:
        source, sink: Both ends; the owner closes them.
        stages: Names of what is timed.
        report: Counters.

    Attributes:
        timings: Milliseconds of each stage and frame.
        report: Counters so far.
    """

    def __init__(
        self, source: SourceLike, sink: SinkLike, *, stages: Iterable[str], report: RunReport
    ) -> None:
        self._source, self._sink = source, sink
        self._source_faults = 0
        self._last_time_s, self._last_read_s = 0.0, time.perf_counter()
        self.timings: dict[str, list[float]] = {stage: [] for stage in stages}
        self.report = report

    def step(self) -> bool:
        """Take one frame in; False once the source is empty."""
        raise NotImplementedError

    def finish(self) -> None:
        """Hand out what is still on its way."""

    def run(self, max_frames: int | None = None) -> RunReport:
        """Step until the source is empty or `max_frames` were read; the owner closes both ends."""
        while max_frames is None or self.report.frames_in < max_frames:
            if not self.step():
                break
        self.finish()
        self.report.frames_dropped = int(getattr(self._source, "frames_dropped", 0))
        self.report.latency_ms = {k: percentiles(v) for k, v in self.timings.items() if v}
        return self.report

    def _read(self) -> Frame | None:
        """Next frame; a live source that fails gives blanks until it answers again."""
        while True:
            try:
                frame = self._source.read()
            except SourceError:
                self._source_faults += 1
                if not self._source.is_live or self._source_faults > _MAX_SOURCE_FAULTS:
                    raise
                self._fault("read", "the camera does not answer")
                safe = SafeFrame.blank(
                    self._source.size_hw, index=self.report.frames_in, time_s=self._source_now_s(),
                    reason="no picture",
                )  # fmt: skip
                self._write(safe)
                continue
            self._source_faults = 0
            if frame is not None:
                self.report.frames_in += 1
                self._last_time_s, self._last_read_s = frame.time_s, time.perf_counter()
            return frame

    def _source_now_s(self) -> float:
        """Now on the source's own clock, as far as its last frame tells; it starts at 0."""
        return self._last_time_s + time.perf_counter() - self._last_read_s

    def _write(self, safe: SafeFrame) -> None:
        self._sink.write(safe)
        self.report.frames_out += 1
        self.report.frames_blank += bool(safe.reason)

    def _fault(self, stage: str, what: str) -> str:
        """Count a fault; say so at its first time only, and never with what it was about."""
        self.report.faults[stage] += 1
        if self.report.faults[stage] == 1:
            _log.warning("%s failed (%s); its frames are blank", stage, what)
        return f"{stage} failed: {what}"

    def _note(self, stage: str, spent_ms: float) -> None:
        values = self.timings[stage]
        values.append(float(spent_ms))
        if len(values) > _MAX_TIMINGS:
            del values[: _MAX_TIMINGS // 2]
