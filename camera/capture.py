"""The capture process: camera, models, raw frames; no network, nothing to write but the ring.

Started by `supervise`, never by a user. Its loop is the product's own; its sink is the ring.
"""

import importlib
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from veilcam.camera import control
from veilcam.camera.asked import Asked
from veilcam.camera.errors import ConfigError, InputError, SourceError
from veilcam.camera.sandbox import capture_plan
from veilcam.camera.settings import Settings
from veilcam.camera.worker import Worker, failure, start_worker, wait_for

if TYPE_CHECKING:
    from veilcam.camera.loop import Loop
    from veilcam.camera.ring import RingWriter
    from veilcam.camera.source import Source
    from veilcam.camera.types import Frame, SafeFrame

BUILDERS = {  # `--mode` -> who builds its loop
    "face": "veilcam.camera.loop:build_loop",
    "scene": "veilcam.camera.scene_loop:build_loop",
    "frame": "veilcam.camera.frame_loop:build_loop",
}
_REPORT_S = 0.5
_LOSSLESS_AHEAD = 2
_REFUSED_S, _MAX_REFUSED = 0.05, 5  # a source that fails at once, so often, is gone
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
        self._reported_s = self._heard_s = time.monotonic()
        self._num_refused = 0

    @property
    def frames_dropped(self) -> int:
        """Frames a live source dropped because a newer one was there."""
        return int(getattr(self._source, "frames_dropped", 0))

    def read(self) -> "Frame | None":
        """Next frame, or None at the end or once stopped."""
        self.listen()
        self.tell()
        if self.is_stopped:
            return None
        asked_s = time.monotonic()
        try:
            frame = self._source.read()
        except SourceError as error:
            now_s = time.monotonic()
            self._num_refused += now_s - asked_s < _REFUSED_S
            is_late = now_s - self._heard_s > self._worker.settings.source_limit_s
            if self.is_live and (is_late or self._num_refused >= _MAX_REFUSED):
                raise InputError(f"{error}; opening it anew") from error  # ends this life
            raise
        self._heard_s, self._num_refused = time.monotonic(), 0
        return frame

    def skip(self) -> None:
        """Leaves out the frames of a clip that are published already."""
        while self._skip and not self.is_live and not self.is_stopped:
            self._skip -= 1
            self.listen()
            self.tell()
            if self._source.read() is None:
                return

    def listen(self) -> None:
        """Looks for Stop. Raises _Gone where the supervisor is dead."""
        try:
            while (message := self._worker.supervisor.receive()) is not None:
                self.is_stopped |= isinstance(message, control.Stop)
        except EOFError as error:
            raise _Gone from error

    def tell(self, *, is_due: bool = False) -> None:
        """Sends the counters now and then."""
        now_s = time.monotonic()
        if self.report is not None and (is_due or now_s - self._reported_s > _REPORT_S):
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
            frame = self._filler(frame.index, frame.time_s, "starting again")
        self._hear()
        while self._is_lossless and self._num_written - self._num_taken >= _LOSSLESS_AHEAD:
            if self._source.is_stopped and self._worker.peer.wait(2.0) is False:
                raise _Gone
            self._worker.peer.wait(0.1)
            self._hear()
        try:
            slot, seq = self._ring.write(frame)
        except ValueError:  # not the picture that was agreed on: nobody can vouch for it
            slot, seq = self._ring.write(self._filler(frame.index, frame.time_s, "wrong size"))
        if self._worker.peer.send(control.Wrote(self._epoch, slot, seq)):
            self._num_written += 1

    def _filler(self, index: int, time_s: float, reason: str) -> "SafeFrame":
        from veilcam.camera.types import SafeFrame

        return SafeFrame.blank(self._source.size_hw, index=index, time_s=time_s, reason=reason)

    def _hear(self) -> None:
        self._source.listen()
        try:
            while (message := self._worker.peer.receive()) is not None:
                if isinstance(message, control.Taken) and message.epoch == self._epoch:
                    self._num_taken = message.count
        except EOFError as error:
            raise _Gone from error


def load_builder(mode: str) -> Build:
    """The function that builds the loop of a mode, with `loop.build_loop`'s signature."""
    if mode not in BUILDERS:
        raise ConfigError(f"mode {mode!r} does not exist yet; wanted {', '.join(BUILDERS)}")
    module, _, name = BUILDERS[mode].partition(":")
    build: Build = getattr(importlib.import_module(module), name)
    return build


def run_capture(
    worker: Worker, begin: control.Begin, build: Build, open_source: "Callable[[str], Source]"
) -> None:
    """One life: open the source, agree on the size, run the loop until the source ends."""
    from veilcam.camera.ring import Geometry, RingWriter

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
            blank_first=begin.blank_frames,
        )  # fmt: skip
        bundle = Path(settings.bundle) if settings.bundle else None
        loop = build(
            source, sink, bundle=bundle, delay_frames=settings.delay_frames,
            profile=settings.profile,
        )  # fmt: skip
        source.report = lambda: counters(loop) | {"frames_dropped": source.frames_dropped}
        source.tell(is_due=True)  # it is up: from now on its end is a loss, not a failed start
        source.skip()
        worker.peer.send(control.Started(epoch))
        left = settings.max_frames - begin.resume_at if settings.max_frames else None
        loop.run(left if left is None else max(0, left))
        source.tell(is_due=True)
    finally:
        source.close()
    worker.peer.send(control.Ended(epoch))
    worker.supervisor.send(control.Ended(epoch))


def counters(loop: Any) -> dict[str, Any]:
    """The loop's report with its latencies so far."""
    from veilcam.camera.report import percentiles

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


def load_parts(settings: Settings) -> tuple[Build, "Callable[[str], Source]"]:
    """The mode's builder and the opener of sources, with all they need imported."""
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    onnxruntime = importlib.import_module("onnxruntime")
    onnxruntime.set_default_logger_severity(3)
    onnxruntime.disable_telemetry_events()  # its reports to its maker could not leave anyway
    for name in ("ring", "analysis", "generator", "compose"):
        importlib.import_module(f"veilcam.camera.{name}")
    open_source = importlib.import_module("veilcam.camera.source").open_source
    return load_builder(settings.mode), partial(open_source, asked=Asked(**settings.asked))


def main(argv: list[str], load: Callable[[Settings], tuple[Build, Any]] = load_parts) -> int:
    """Runs the process; exit code 0 where it ended as planned.

    Args:
        argv: See `worker.start_worker`.
        load: Gives builder and opener once the barriers are up; tests put theirs here.
    """
    with suppress(OSError):  # where memory runs out the kernel is to take this one, not publish
        Path("/proc/self/oom_score_adj").write_text("500")
    worker = start_worker(argv, capture_plan, signal.SIGKILL)
    epoch = 0
    try:
        build, open_source = load(worker.settings)
        begin = wait_for(worker.supervisor, control.Begin)  # until then this is a spare
        if begin is None:
            return 0
        epoch = begin.epoch
        run_capture(worker, begin, build, open_source)
    except _Gone:
        return 1
    except BaseException as error:  # told by type and place: a message could hold anything
        worker.supervisor.send(failure(error, epoch))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
