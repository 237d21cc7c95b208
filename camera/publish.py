"""The publish process: virtual camera, window, files; no camera, and no raw frame ever in reach.

Started by `supervise`, never by a user. It outlives capture: while no frame comes it shows a blank
that says why, and goes on where capture comes back.
"""

import math
import os
import signal
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from veilcam.camera import control
from veilcam.camera.link import wait_any
from veilcam.camera.sandbox import LIVE_SINKS, publish_plan
from veilcam.camera.settings import Settings
from veilcam.camera.timeline import Timeline
from veilcam.camera.worker import Worker, failure, start_worker, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from veilcam.camera.ring import RingReader
    from veilcam.camera.sink import Sink
    from veilcam.camera.types import SafeFrame

_BLANK_EVERY_S = 0.5
_REPORT_S = 0.1  # also a sign of life: `notes.Limits.silence_s`
_LATENCY_EVERY = 10
_MAX_TIMINGS = 5000


class Publisher:
    """Takes frames off the ring and hands each to the sink; fills in when none comes.

    Args:
        worker: What the process was born with.
        open_sink: `sink.open_sink`, or a test's own.
    """

    def __init__(self, worker: Worker, open_sink: "Callable[..., Sink]") -> None:
        self._worker, self._open_sink = worker, open_sink
        self._settings: Settings = worker.settings
        self._sink: Sink | None = None
        self._reader: RingReader | None = None
        self._ready = control.Ready(0, 0, 0, 0.0, False)
        self._epoch = 1
        self._is_streaming = self._was_started = self._is_lossless = self._is_over = False
        self._deadline_s = self._report_due_s = 0.0
        self._blank_due_s = math.inf
        self._outage_since_s: float | None = None
        self._timeline = Timeline()
        self._num_taken = self._num_pictures = 0
        self._crossing_ms: list[float] = []
        self._latency_ms: dict[str, dict[str, float]] = {}
        self._num_reports = 0
        self.counts = dict.fromkeys(
            ("frames_out", "frames_blank", "frames_skipped", "frames_torn", "outages"), 0
        )
        self._longest_outage_s = 0.0

    def run(self) -> None:
        """Until the source ended and the output stands, or the supervisor is gone."""
        try:
            while not self._is_over:
                heard = wait_any([self._worker.peer, self._worker.supervisor], self._patience_s())
                if self._worker.supervisor in heard:
                    self._hear_supervisor()
                if self._worker.peer in heard and not self._is_over:
                    self._hear_capture()
                self._watch()
                self._tell()
        except BaseException:
            if self._sink is not None:
                self._sink.abort()
            raise

    def _patience_s(self) -> float:
        wake_s = min(self._report_due_s, self._deadline_s if self._is_streaming else math.inf)
        if self._sink is not None and self._ready.is_live:
            wake_s = min(wake_s, self._blank_due_s)
        return min(max(wake_s - time.monotonic(), 0.0), _REPORT_S)

    def _hear_supervisor(self) -> None:
        self._obey(self._worker.supervisor.receive())

    def _obey(self, message: control.Message | None) -> None:
        if isinstance(message, control.Lost) and message.epoch == self._epoch:
            self._is_streaming = False
            if self._ready.is_live or self._was_started:  # in a clip, one blank for the lost frame
                self._outage("capture hung" if message.was_hung else "capture process lost")
            self._was_started = False
            self._epoch += 1  # nothing the dead one still said counts
            self._worker.supervisor.send(control.Resume(message.epoch, self._num_pictures))
        elif isinstance(message, control.Stop):
            self._finish(is_by_viewer=False)

    def _hear_capture(self) -> None:
        try:
            wrote: list[control.Wrote] = []
            while (message := self._worker.peer.receive()) is not None:
                if getattr(message, "epoch", -1) < self._epoch:
                    continue
                if isinstance(message, control.Wrote):
                    wrote.append(message)
                    if self._is_lossless:
                        break
                else:
                    self._show(wrote)
                    wrote = []
                    self._follow(message)
            self._show(wrote)
        except (control.ProtocolError, EOFError):
            self._stall("capture said nonsense")

    def _follow(self, message: control.Message) -> None:
        if isinstance(message, control.Ready):
            self._meet(message)
        elif isinstance(message, control.Started) and self._sink is not None:
            self._is_streaming = self._was_started = True
            self._expect()
        elif isinstance(message, control.Ended):
            self._finish(is_by_viewer=False)
        elif not isinstance(message, control.Started):
            raise control.ProtocolError("not capture's to say")

    def _meet(self, ready: control.Ready) -> None:
        """A capture process has opened its source."""
        from veilcam.camera.ring import Geometry, RingReader

        self._epoch, self._is_streaming, self._num_taken = ready.epoch, False, 0
        size_hw = (ready.height, ready.width)
        if self._sink is not None and size_hw != (self._ready.height, self._ready.width):
            self._stall("the picture's size changed")
            return
        if self._reader is None:
            try:
                geometry = Geometry(ready.height, ready.width)
                self._reader = RingReader(self._worker.ring, self._worker.hold, geometry)
            except (OSError, ValueError) as error:
                raise control.ProtocolError("no ring of that size") from error
        if self._sink is None:
            self._sink = self._open_sink(self._settings.sink, size_hw=size_hw, fps=ready.fps)
        self._ready = ready
        self._timeline.start_life(ready.fps)
        is_live_sink = self._settings.sink.partition(":")[0] in LIVE_SINKS
        self._is_lossless = not (ready.is_live and is_live_sink)
        self._worker.peer.send(control.Go(ready.epoch, self._is_lossless))

    def _show(self, wrote: "list[control.Wrote]") -> None:
        """Hands the newest of some frames to the sink (one, where none may be lost)."""
        if not wrote or self._reader is None or self._sink is None or not self._is_streaming:
            return
        newest = wrote[-1]
        self.counts["frames_skipped"] += len(wrote) - 1
        self._num_taken += len(wrote)
        from veilcam.camera.ring import TornFrameError

        try:
            frame = self._reader.hold(newest.slot, newest.seq, epoch=newest.epoch)
        except TornFrameError:
            self.counts["frames_torn"] += 1
            if self._is_lossless:
                self._stall("a frame was torn")
            return
        self._write(frame, self._reader.handed_ns)
        if not self._reader.release():
            self.counts["frames_torn"] += 1
        self._worker.peer.send(control.Taken(newest.epoch, self._num_taken))
        self._expect()

    def _write(self, frame: "SafeFrame", handed_ns: int | None) -> None:
        assert self._sink is not None
        time_s = None if handed_ns is None else frame.time_s
        frame = replace(frame, time_s=self._timeline.follow(time_s, is_live=self._ready.is_live))
        if handed_ns is not None:
            self._crossing_ms.append((time.perf_counter_ns() - handed_ns) / 1e6)
            del self._crossing_ms[:-_MAX_TIMINGS]
        if not frame.reason and self._outage_since_s is not None:
            outage_s = time.monotonic() - self._outage_since_s
            self._longest_outage_s = max(self._longest_outage_s, outage_s)
            self._outage_since_s = None
        self._sink.write(frame)
        self.counts["frames_out"] += 1
        self.counts["frames_blank"] += bool(frame.reason)
        self._num_pictures += handed_ns is not None or not self._ready.is_live
        self._blank_due_s = time.monotonic() + _BLANK_EVERY_S
        if self._sink.is_done:
            self._finish(is_by_viewer=True)

    def _expect(self) -> None:
        live_s = max(self._settings.live_limit_s, 4.0 / self._ready.fps)
        limit_s = live_s if self._ready.is_live else self._settings.clip_limit_s
        self._deadline_s = time.monotonic() + limit_s

    def _watch(self) -> None:
        """A frame that is late, or a time without capture, gives a blank."""
        if self._sink is None or self._is_over:
            return
        now_s = time.monotonic()
        if self._is_streaming and now_s > self._deadline_s:
            if not wait_any([self._worker.peer], 0.0):  # not we were the late one
                self._stall("capture does not answer")
        elif self._ready.is_live and now_s > self._blank_due_s:
            self._blank("no picture from capture")

    def _stall(self, reason: str) -> None:
        """Capture is to be ended; what it still says does not count."""
        self._is_streaming = False
        if self._sink is not None and self._ready.is_live:
            self._outage(reason)
        self._worker.supervisor.send(control.Stalled(self._epoch))

    def _outage(self, reason: str) -> None:
        if self._outage_since_s is None:
            self._outage_since_s = time.monotonic()
            self.counts["outages"] += 1
        if self._sink is not None:
            self._blank(reason)

    def _blank(self, reason: str) -> None:
        from veilcam.camera.types import SafeFrame

        size_hw = (self._ready.height, self._ready.width)
        index = self._num_pictures
        self._write(SafeFrame.blank(size_hw, index=index, time_s=0.0, reason=reason), None)

    def _tell(self, *, is_last: bool = False) -> None:
        now_s = time.monotonic()
        if is_last or now_s >= self._report_due_s:
            self._report_due_s = now_s + _REPORT_S
            self._num_reports += 1
            if self._crossing_ms and (is_last or self._num_reports % _LATENCY_EVERY == 0):
                from veilcam.camera.report import percentiles

                self._latency_ms = {"cross": percentiles(self._crossing_ms)}
            self._worker.supervisor.send(control.Report(self._epoch, self._values()))

    def _values(self) -> dict[str, Any]:
        values: dict[str, Any] = {
            **self.counts,
            "num_pictures": self._num_pictures,
            "longest_outage_s": round(self._longest_outage_s, 3),
            **getattr(self._sink, "counters", {}),  # a sink may have numbers of its own
        }
        return values | {"latency_ms": self._latency_ms} if self._latency_ms else values

    def _finish(self, *, is_by_viewer: bool) -> None:
        if self._is_over:
            return
        self._is_over = True
        if self._sink is not None:
            self._sink.close()
        self._tell(is_last=True)
        self._worker.supervisor.send(control.Done(is_by_viewer))


def _opener(worker: Worker) -> "Callable[..., Sink] | None":
    """What opens a sink that serves, with what the supervisor opened for it."""
    if not worker.handed:
        return None
    from veilcam.camera.sink_served import opener_of

    return opener_of(worker.settings.sink.partition(":")[0], worker.handed)


def _leave(_number: int, _frame: "FrameType | None") -> None:
    raise SystemExit(1)  # so that an unfinished file is removed


def main(argv: list[str], open_sink: "Callable[..., Sink] | None" = None) -> int:
    """Runs the process; exit code 0 where it ended as planned."""
    worker = start_worker(argv, publish_plan, 0)  # a dead supervisor is seen at its channel
    signal.signal(signal.SIGTERM, _leave)
    try:
        os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
        from veilcam.camera import ring, sink  # noqa: F401  loaded before the first frame

        if wait_for(worker.supervisor, control.Begin) is not None:  # until then this is a spare
            Publisher(worker, open_sink or _opener(worker) or sink.open_sink).run()
    except EOFError:
        return 1
    except BaseException as error:  # told by type and place: a message could hold anything
        worker.supervisor.send(failure(error, 0))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
