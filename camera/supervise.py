"""Starts capture and publish, lets them talk to each other, brings back the one that dies.

The supervisor opens no camera, no model, no output and maps no frame: it holds the descriptors of
the shared memory only to hand them on. Three processes, so that a new capture process does not
inherit what publish gave up, nor the other way round.
"""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from veilcam.camera import barriers, control
from veilcam.camera.errors import ConfigError, InputError, VeilcamError
from veilcam.camera.link import wait_any
from veilcam.camera.notes import Limits, Notes, WorkerError, open_shared
from veilcam.camera.process import Process, python_command
from veilcam.camera.sandbox import LIVE_SINKS
from veilcam.camera.settings import Settings
from veilcam.camera.sink_file import remove_unfinished
from veilcam.camera.totals import merge

_log = logging.getLogger(__name__)
_TICK_S = 0.2
_FIRST_BACKOFF_S, _LAST_BACKOFF_S = 0.05, 5.0
_STEADY_S = 1.0  # a life this long counts as a recovery
_MAX_FAILURES = 5  # in a row and without a frame, for what does not come back by waiting


class Supervisor:
    """Runs one session in two processes.

    Args:
        settings: The run.
        require_barriers: Refuse where a required barrier is not up.
        capture_command, publish_command: Other programs for the two roles; tests use them.
        limits: Patience.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        require_barriers: bool = False,
        capture_command: Sequence[str] = (),
        publish_command: Sequence[str] = (),
        limits: Limits | None = None,
    ) -> None:
        self._settings, self._is_strict = settings, require_barriers
        self._capture_command = capture_command or python_command("veilcam.camera.capture")
        self._publish_command = publish_command or python_command("veilcam.camera.publish")
        self._limits = limits or Limits()
        self._pair = open_shared()
        self._capture: Process | None = None
        self._publish: Process | None = None
        self._begin_at: tuple[float, int] | None = (0.0, 0)  # when, and at which frame
        self._stop_due_s = 0.0
        self._heard_publish_s = 0.0
        self.notes = Notes()
        self.on_tick: Callable[[Supervisor], None] | None = None

    @property
    def pids(self) -> dict[str, int]:
        """Process ids of those that run, by role."""
        both = {"capture": self._capture, "publish": self._publish}
        return {name: child.pid for name, child in both.items() if child is not None}

    def run(self, is_stopped: Callable[[], bool]) -> dict[str, Any]:
        """Until the source ends, the viewer ends it, or `is_stopped`; the run's report.

        Raises:
            VeilcamError: It cannot go on; the output is dropped.
        """
        try:
            self._spawn_publish()
            self._spawn_capture()
            while not self.notes.is_done and self.notes.error is None:
                self._wait()
                self._tick(is_stopped())
                if self.on_tick is not None:
                    self.on_tick(self)
            self._last_words()
        finally:
            self._end_both()
        if self.notes.error is not None:
            raise self.notes.error
        return merge(self.notes, self._settings)

    def _spawn_capture(self) -> None:
        pair = self._pair
        inherited = (pair.capture_end, pair.ring, pair.hold_read_only)
        self._capture = Process(self._capture_command, inherited)
        self._capture.link.send(control.Setup(self._settings.to_values()))

    def _spawn_publish(self) -> None:
        pair = self._pair
        inherited = (pair.publish_end, pair.ring_read_only, pair.hold)
        self._publish = Process(self._publish_command, inherited)
        self._publish.link.send(control.Setup(self._settings.to_values()))
        self._heard_publish_s = time.monotonic()

    def _wait(self) -> None:
        watched: list[Any] = []
        for child in (self._capture, self._publish):
            if child is not None:
                watched += [child.link, child.exit_fd]
        wait_any(watched, _TICK_S)

    def _tick(self, is_stopped: bool) -> None:
        if self._publish is not None:
            self._hear_publish(self._publish)
        if self._capture is not None:
            self._hear_capture(self._capture)
        if self.notes.error is not None or self.notes.is_done:
            return
        if self._publish is not None and not self._publish.is_alive():
            self._lost_publish(self._publish)
        elif self._capture is not None and not self._capture.is_alive():
            self._lost_capture(self._capture)
        self._begin()
        self._watch()
        if is_stopped and not self.notes.is_stopping:
            self._stop()

    def _hear_capture(self, child: Process) -> None:
        for message in child.messages():
            if isinstance(message, control.Barriers):
                self._note_barriers("capture", message)
            elif isinstance(message, control.Ready):
                self.notes.is_live = message.is_live
            elif isinstance(message, control.Report):
                self.notes.capture_values[child.pid] = message.values
                self.notes.was_up = True
                if time.monotonic() - child.started_s > _STEADY_S:
                    self.notes.failures = 0
            elif isinstance(message, control.Failed):
                self._failed_capture(message)
            elif isinstance(message, control.Log):
                _log.log(message.level, "%s", message.text)
            elif isinstance(message, control.Ended):
                self.notes.is_stopping = self.notes.has_ended = True  # publish closes the output
                self._stop_due_s = time.monotonic() + 60.0 + self._limits.ending_s

    def _failed_capture(self, message: control.Failed) -> None:
        """It says why it ends: bad input and a first start that fails end the run."""
        may_come_back = self.notes.is_live and self.notes.was_up
        if message.is_input and not may_come_back:
            self.notes.error = InputError(message.text)
        elif not message.is_input and not self.notes.was_up:
            self.notes.error = WorkerError(f"{message.text}; please report it")
        else:
            _log.warning("capture: %s", message.text)

    def _hear_publish(self, child: Process) -> None:
        for message in child.messages():
            self._heard_publish_s = time.monotonic()
            if isinstance(message, control.Barriers):
                self._note_barriers("publish", message)
            elif isinstance(message, control.Report):
                self.notes.publish_values[child.pid] = message.values
            elif isinstance(message, control.Resume):
                self._plan_begin(message.index)
            elif isinstance(message, control.Stalled):
                self._stalled(message)
            elif isinstance(message, control.Done):
                self.notes.is_done = True
            elif isinstance(message, control.Failed):
                self._failed_publish(message)
            elif isinstance(message, control.Log):
                _log.log(message.level, "%s", message.text)

    def _failed_publish(self, message: control.Failed) -> None:
        if message.is_input:
            self.notes.error = InputError(message.text)
        elif not self._is_sink_live():
            self.notes.error = WorkerError(f"{message.text}; please report it")
        else:
            _log.warning("publish: %s", message.text)

    def _stalled(self, message: control.Stalled) -> None:
        child = self._capture
        if child is not None and child.epoch == message.epoch:
            child.is_hung = True
            child.kill()

    def _note_barriers(self, role: str, message: control.Barriers) -> None:
        self.notes.barriers[role] = message.state
        down = barriers.missing(message.state)
        if down and self._is_strict:
            told = "; ".join(f"{name}: {message.state.get(name, 'down')}" for name in down)
            self.notes.error = ConfigError(
                f"--require-barriers: {role} has not all of them ({told}); see `veilcam doctor`"
            )

    def _begin(self) -> None:
        """Lets the waiting capture process begin when its time has come and both are fenced."""
        if self._begin_at is None or self._capture is None or len(self.notes.barriers) < 2:
            return
        due_s, resume_at = self._begin_at
        if time.monotonic() < due_s or self.notes.is_stopping:
            return
        self._begin_at = None
        self.notes.epoch += 1
        self._capture.epoch, self._capture.started_s = self.notes.epoch, time.monotonic()
        self._capture.link.send(control.Begin(self.notes.epoch, resume_at))

    def _plan_begin(self, resume_at: int) -> None:
        wait_s = min(_LAST_BACKOFF_S, _FIRST_BACKOFF_S * 2 ** min(self.notes.failures, 10))
        self._begin_at = (time.monotonic() + wait_s, resume_at)

    def _lost_capture(self, child: Process) -> None:
        self._hear_capture(child)  # its last words
        self._capture = None
        child.close(0)
        if self.notes.error is not None or self.notes.has_ended:
            return
        if self.notes.is_stopping:
            if self._publish is not None:
                self._publish.link.send(control.Stop())
            return
        self.notes.faults["capture_hung" if child.is_hung else "capture_lost"] += 1
        self.notes.restarts["capture"] += 1
        self.notes.failures += 1
        if self.notes.restarts["capture"] == 1:
            _log.warning("capture ended (%s) and is started again", child.how_it_ended())
        may_come_back = self.notes.is_live and self.notes.was_up and child.epoch
        if self.notes.failures > _MAX_FAILURES and not may_come_back:
            self.notes.error = WorkerError(
                f"capture ended {self.notes.failures} times in a row ({child.how_it_ended()})"
            )
            return
        self._spawn_capture()
        if child.epoch and self._publish is not None:
            self._publish.link.send(control.Lost(child.epoch, child.is_hung))

    def _lost_publish(self, child: Process) -> None:
        """A live sink gets a new pair; a file that was not finished is a failed run."""
        self._publish = None
        child.close(0)
        self.notes.faults["publish_lost"] += 1
        if not self._is_sink_live() or self.notes.is_stopping:
            remove_unfinished(self._settings.sink, child.pid)
            self.notes.error = WorkerError(
                f"the publish process ended ({child.how_it_ended()}); the output was dropped"
            )
            return
        self.notes.restarts["publish"] += 1
        self.notes.failures += 1
        done = sum(v.get("num_pictures", 0) for v in self.notes.publish_values.values())
        if self._capture is not None:
            self._capture.kill()
            self._capture.close(0)
        self._pair.close()
        self._pair = open_shared()
        self.notes.barriers.clear()
        self.notes.epoch = 0  # publish counts lives of its own capture from 1
        self._spawn_publish()
        self._spawn_capture()
        self._plan_begin(int(done))

    def _watch(self) -> None:
        """Ends who does not come up, is silent, or does not end."""
        now_s = time.monotonic()
        child = self._capture
        is_late = child is not None and now_s - child.started_s > self._limits.start_s
        if child is not None and is_late and child.pid not in self.notes.capture_values:
            child.is_hung = True
            child.kill()
        is_silent = now_s - self._heard_publish_s > self._limits.publish_silence_s
        if self._publish is not None and is_silent and not self.notes.is_stopping:
            self.notes.faults["publish_hung"] += 1
            self._publish.kill()
        if self.notes.is_stopping and now_s > self._stop_due_s:
            self._force_end()

    def _stop(self) -> None:
        self.notes.is_stopping = True
        self._stop_due_s = time.monotonic() + self._limits.ending_s
        receiver = self._capture if self._begin_at is None else self._publish
        if receiver is not None:
            receiver.link.send(control.Stop())

    def _force_end(self) -> None:
        """Capture did not end when asked: publish closes the output without it."""
        self._stop_due_s = time.monotonic() + self._limits.ending_s
        if self._capture is not None:
            self._capture.kill()
        elif self._publish is not None:
            self._publish.kill()

    def _is_sink_live(self) -> bool:
        return self._settings.sink.partition(":")[0] in LIVE_SINKS

    def _last_words(self) -> None:
        """After the viewer's end, capture's counters up to here."""
        child = self._capture
        if child is not None and self.notes.error is None and not self.notes.has_ended:
            child.link.send(control.Stop())
            child.wait(2.0)
            self._hear_capture(child)

    def _end_both(self) -> None:
        for child in (self._publish, self._capture):
            if child is not None:
                child.close()
        self._capture = self._publish = None
        self._pair.close()


def probe_barriers(timeout_s: float = 20.0) -> dict[str, dict[str, str]]:
    """Starts both processes, lets them raise and try their barriers, and ends them again."""
    probe = Supervisor(Settings(source="demo", sink="null"))
    deadline_s = time.monotonic() + timeout_s
    with suppress(VeilcamError):
        probe.run(lambda: len(probe.notes.barriers) == 2 or time.monotonic() > deadline_s)
    return probe.notes.barriers
