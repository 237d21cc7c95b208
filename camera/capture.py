"""The capture process: camera, models, raw frames; no network, nothing to write but the ring.

Started by `supervise`, never by a user. Its loop is the product's own; its sink is the ring.
"""

import importlib
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from veilcam.camera import control
from veilcam.camera.errors import ConfigError, SourceError
from veilcam.camera.sandbox import capture_plan
from veilcam.camera.settings import Settings
from veilcam.camera.worker import Worker, failure, start_worker

if TYPE_CHECKING:
    from veilcam.camera.loop import Loop
    from veilcam.camera.ring import RingWriter
    from veilcam.camera.source import Source
    from veilcam.camera.types import Frame, SafeFrame

BUILDERS = {"face": "veilcam.camera.loop:build_loop"}  # `--mode` -> who builds its loop
WARM_FRAMES = 5  # a new life has no tracks yet: its first frames stay blank
_REPORT_S = 0.5
_LOSSLESS_AHEAD = 2
Build = Callable[..., "Loop"]


class _Gone(Exception):
    """The supervisor or publish is not there any more."""


class Steered:
    """The source, steered from outside: ends on Stop, leaves out what was published before."""

    def __init__(self, worker: Worker, source: "Source", *, skip: int, epoch: int) -> None:
        self._worker, self._source, self._skip, self._epoch = worker, source, skip, epoch
        self.fps, self.size_hw, self.is_live = source.fps, source.size_hw, source.is_live
        self.is_stopped = False
        self.report: Callable[[], dict[str, Any]] | None = None
        self._reported_s = time.monotonic()

    @property
    def frames_dropped(self) -> int:
        """Frames a live source dropped because a newer one was there."""
        return int(getattr(self._source, "frames_dropped", 0))

    def read(self) -> "Frame | None":
        """Next frame, or None at the end or once stopped."""
        self.listen()
        self.tell()
        return None if self.is_stopped else self._source.read()

    def skip(self) -> None:
        """Leaves out the frames of a clip that are published already."""
        while self._skip and not self.is_live and not self.is_stopped:
            self._skip -= 1
            self.listen()
            if self._source.read() is None:
                return

    def listen(self) -> None:
        """Looks for Stop. Raises _Gone where the supervisor is dead."""
        try:
            while (message := self._worker.supervisor.receive()) is not None:
                self.is_stopped |= isinstance(message, control.Stop)
        except EOFError as error:
            raise _Gone from error

    def tell(self, *, is_last: bool = False) -> None:
        """Sends the counters now and then."""
        now_s = time.monotonic()
        if self.report is not None and (is_last or now_s - self._reported_s > _REPORT_S):
            self._reported_s = now_s
            self._worker.supervisor.send(control.Report(self._epoch, self.report()))

    def close(self) -> None:
        """Closes the source."""
        self._source.close()


class RingSink:
    """The loop's sink: writes into the ring and tells publish; waits where nothing may be lost.

    Args:
        blank_first: So many frames are replaced by a blank before they are written.
    """

    def __init__(
        self, worker: Worker, ring: "RingWriter", source: Steered, *, epoch: int,
        is_lossless: bool, blank_first: int,
    ) -> None:  # fmt: skip
        self._worker, self._ring, self._source, self._epoch = worker, ring, source, epoch
        self._is_lossless, self._blank_first = is_lossless, blank_first
        self._num_written = self._num_taken = 0

    def write(self, frame: "SafeFrame") -> None:
        """Hands the picture over."""
        if self._blank_first > 0:
            self._blank_first -= 1
            frame = _blanked(frame)
        self._hear()
        while self._is_lossless and self._num_written - self._num_taken >= _LOSSLESS_AHEAD:
            if self._source.is_stopped and self._worker.peer.wait(2.0) is False:
                raise _Gone
            self._worker.peer.wait(0.1)
            self._hear()
        slot, seq = self._ring.write(frame)
        if self._worker.peer.send(control.Wrote(self._epoch, slot, seq)):
            self._num_written += 1

    def _hear(self) -> None:
        self._source.listen()
        try:
            while (message := self._worker.peer.receive()) is not None:
                if isinstance(message, control.Taken) and message.epoch == self._epoch:
                    self._num_taken = message.count
        except EOFError as error:
            raise _Gone from error


def _blanked(frame: "SafeFrame") -> "SafeFrame":
    size_hw = (frame.bgr.shape[0], frame.bgr.shape[1])
    kind = type(frame)
    return kind.blank(size_hw, index=frame.index, time_s=frame.time_s, reason="starting again")


def load_builder(mode: str) -> Build:
    """The function that builds the loop of a mode, with `loop.build_loop`'s signature."""
    if mode not in BUILDERS:
        raise ConfigError(f"mode {mode!r} does not exist yet; wanted {', '.join(BUILDERS)}")
    module, _, name = BUILDERS[mode].partition(":")
    build: Build = getattr(importlib.import_module(module), name)
    return build


def run_capture(worker: Worker, begin: control.Begin, build: Build) -> None:
    """One life: open the source, agree on the size, run the loop until the source ends."""
    from veilcam.camera.ring import Geometry, RingWriter
    from veilcam.camera.source import open_source

    settings, epoch = worker.settings, begin.epoch
    source = Steered(worker, open_source(settings.source), skip=begin.resume_at, epoch=epoch)
    try:
        height, width = source.size_hw
        try:
            ring = RingWriter(worker.ring, worker.hold, Geometry(height, width), epoch=epoch)
        except ValueError as error:
            raise SourceError("the picture's size changed; start again") from error
        ready = control.Ready(epoch, height, width, float(source.fps), bool(source.is_live))
        worker.supervisor.send(ready)
        worker.peer.send(ready)
        go = _wait_go(worker, source, epoch)
        sink = RingSink(
            worker, ring, source, epoch=epoch, is_lossless=go.is_lossless,
            blank_first=WARM_FRAMES if begin.epoch > 1 else 0,
        )  # fmt: skip
        bundle = Path(settings.bundle) if settings.bundle else None
        loop = build(
            source, sink, bundle=bundle, delay_frames=settings.delay_frames,
            profile=settings.profile,
        )  # fmt: skip
        source.skip()
        worker.peer.send(control.Started(epoch))
        source.report = lambda: counters(loop)
        left = settings.max_frames - begin.resume_at if settings.max_frames else None
        loop.run(left if left is None else max(0, left))
        source.tell(is_last=True)
    finally:
        source.close()
    worker.peer.send(control.Ended(epoch))
    worker.supervisor.send(control.Ended(epoch))


def counters(loop: Any) -> dict[str, Any]:
    """The loop's report with its latencies so far."""
    from veilcam.camera.loop import percentiles

    values: dict[str, Any] = loop.report.to_json()
    recent = {name: times[-2000:] for name, times in loop.timings.items() if times}
    values["latency_ms"] = {name: percentiles(times) for name, times in recent.items()}
    values.pop("barriers", None)
    return values


def _wait_go(worker: Worker, source: Steered, epoch: int) -> control.Go:
    while True:
        worker.peer.wait(0.2)
        source.listen()
        try:
            message = worker.peer.receive()
        except EOFError as error:
            raise _Gone from error
        if isinstance(message, control.Go) and message.epoch == epoch:
            return message


def _wait_begin(worker: Worker) -> control.Begin | None:
    """The order to begin; until then this process is a spare. None where none will come."""
    while True:
        worker.supervisor.wait(1.0)
        try:
            message = worker.supervisor.receive()
        except EOFError:
            return None
        if isinstance(message, control.Stop):
            return None
        if isinstance(message, control.Begin):
            return message


def main(argv: list[str], load: Callable[[Settings], Build] | None = None) -> int:
    """Runs the process; exit code 0 where it ended as planned."""
    worker = start_worker(argv, capture_plan, signal.SIGKILL)
    epoch = 0
    try:
        _quiet_libraries()
        build = load(worker.settings) if load else load_builder(worker.settings.mode)
        begin = _wait_begin(worker)
        if begin is None:
            return 0
        epoch = begin.epoch
        run_capture(worker, begin, build)
    except _Gone:
        return 1
    except BaseException as error:  # told by type and place: a message could hold anything
        worker.supervisor.send(failure(error, epoch))
        return 1
    return 0


def _quiet_libraries() -> None:
    """Their lines go nowhere here, and ONNX Runtime's reports to its maker are not wanted."""
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    onnxruntime = importlib.import_module("onnxruntime")
    onnxruntime.set_default_logger_severity(3)
    onnxruntime.disable_telemetry_events()
    for name in ("source", "ring", "analysis", "generator", "compose"):
        importlib.import_module(f"veilcam.camera.{name}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
