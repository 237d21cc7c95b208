"""Starts capture and publish, lets them talk to each other, brings back the one that dies.

The supervisor opens no camera, no model, no output and maps no frame: it holds the descriptors of
the shared memory only to hand them on. Three processes, so that a new capture process does not
inherit what publish gave up, nor the other way round.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from veilcam.camera import barriers, control
from veilcam.camera.crew import Crew
from veilcam.camera.errors import ConfigError, InputError
from veilcam.camera.notes import Limits, Notes, WorkerError
from veilcam.camera.process import Process, python_command
from veilcam.camera.pulse import Pulse, folder
from veilcam.camera.sandbox import LIVE_SINKS
from veilcam.camera.service import service_manager
from veilcam.camera.settings import Settings
from veilcam.camera.totals import merge
from veilcam.camera.unfinished import remove_unfinished

_log = logging.getLogger(__name__)
_TICK_S = 0.05
_FIRST_BACKOFF_S, _LAST_BACKOFF_S = 0.05, 5.0
_STEADY_S = 1.0  # a life this long counts as a recovery
_SPARE_AFTER_S = 0.5  # once the run is up, so that its start is not slowed
_MAX_FAILURES = 5  # in a row and without a frame, for what does not come back by waiting
_BLANK_FRAMES = 5  # a new life of capture knows no tracks yet
_QUICK_SINKS = ("virtual", "null")


class Supervisor:
    """Runs one session in two processes.

    Args:
        settings: The run.
        require_barriers: Refuse where a required barrier is not up.
        capture_command, publish_command: Other programs for the two roles.
        handed: Further descriptors for a role, such as a socket to answer on.
        waits: A source that is not there is waited for, for ever.
        limits: Patience.

    Attributes:
        notes: What happened so far.
        on_tick: Called now and then; a test's storm.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        require_barriers: bool = False,
        capture_command: Sequence[str] = (),
        publish_command: Sequence[str] = (),
        handed: Mapping[str, Sequence[int]] | None = None,
        waits: bool = False,
        limits: Limits | None = None,
    ) -> None:
        self._settings, self._is_strict, self._waits = settings, require_barriers, waits
        self._limits = limits or Limits.of_this_machine()
        commands = {
            "capture": capture_command or python_command("veilcam.camera.capture"),
            "publish": publish_command or python_command("veilcam.camera.publish"),
        }
        self._crew = Crew(settings, commands, handed or {})
        self._begin_at: tuple[float, int] | None = (0.0, 0)  # when, and at which frame
        self._is_first = True
        self._told = ""
        self._stop_due_s = self._heard_publish_s = self._up_since_s = 0.0
        self.notes = Notes()
        self.on_tick: Callable[[Supervisor], None] | None = None

    @property
    def pids(self) -> dict[str, int]:
        """Process ids of those at work, by role."""
        return {role: process.pid for role, process in self._crew.active.items()}

    def run(self, is_stopped: Callable[[], bool]) -> dict[str, Any]:
        """Until the source ends, the viewer ends it, or `is_stopped`; the run's report.

        Raises:
            VeilcamError: It cannot go on; the output is dropped.
        """
        pulse = Pulse(folder())
        try:
            self._heard_publish_s = time.monotonic()
            self._crew.put("publish")
            self._crew.put("capture")
            service = service_manager()
            while not self.notes.is_done and self.notes.error is None:
                self._crew.wait(_TICK_S)
                self._tick(is_stopped())
                service.tell(self.notes.publish_values)
                pulse.beat(self.notes)
                if self.on_tick is not None:
                    self.on_tick(self)
            self._last_words()
        finally:
            self._crew.close()
            pulse.close()
        if self.notes.error is not None:
            raise self.notes.error
        return merge(self.notes, self._settings)

    def _tick(self, is_stopped: bool) -> None:
        for crew in (self._crew.active, self._crew.spare):
            for role, process in list(crew.items()):
                self._hear(role, process)
        if self.notes.error is not None or self.notes.is_done:
            return
        publish, capture = (self._crew.active.get(role) for role in ("publish", "capture"))
        if publish is not None and not publish.is_alive():
            self._lost_publish(publish)
        elif capture is not None and not capture.is_alive():
            self._lost_capture(capture)
        self._begin()
        self._watch()
        if is_stopped and not self.notes.is_stopping:
            self._stop()

    def _hear(self, role: str, process: Process) -> None:
        for message in process.messages():
            if isinstance(message, control.Barriers):
                self._note_barriers(role, message)
            elif isinstance(message, control.Log):
                _log.log(message.level, "%s", message.text)
            elif role == "capture":
                self._hear_capture(process, message)
            else:
                self._heard_publish_s = time.monotonic()
                self._hear_publish(process, message)

    def _hear_capture(self, process: Process, message: control.Message) -> None:
        if isinstance(message, control.Ready):
            self.notes.is_live = message.is_live
        elif isinstance(message, control.Report):
            self.notes.capture_values[process.pid] = message.values
            if not self.notes.was_up:
                self.notes.was_up, self._up_since_s = True, time.monotonic()
            if time.monotonic() - process.started_s > _STEADY_S:
                self.notes.failures = 0
        elif isinstance(message, control.Failed):
            self._failed_capture(message)
        elif isinstance(message, control.Ended):
            self.notes.is_stopping = self.notes.has_ended = True  # publish closes the output
            self._stop_due_s = time.monotonic() + 60.0 + self._limits.ending_s

    @property
    def _may_come_back(self) -> bool:
        """Whether a source that is gone is waited for."""
        return self._waits or (self.notes.is_live and self.notes.was_up)

    def _failed_capture(self, message: control.Failed) -> None:
        """It says why it ends: bad input and a first start that fails end the run."""
        if message.is_input and not self._may_come_back:
            self.notes.fail(InputError(message.text))
        elif not message.is_input and not self.notes.was_up:
            self.notes.fail(WorkerError(f"{message.text}; please report it"))
        elif message.text != self._told:  # once: who waits for a camera hears it every few seconds
            self._told = message.text
            _log.warning("capture: %s", message.text)

    def _hear_publish(self, process: Process, message: control.Message) -> None:
        if isinstance(message, control.Report):
            self.notes.publish_values[process.pid] = message.values
        elif isinstance(message, control.Resume):
            self._plan_begin(message.index)
        elif isinstance(message, control.Stalled):
            capture = self._crew.active.get("capture")
            if capture is not None and capture.epoch == message.epoch:
                capture.is_hung = True
                capture.kill()
        elif isinstance(message, control.Done):
            self.notes.is_done = True
        elif isinstance(message, control.Failed):
            if message.is_input:
                self.notes.fail(InputError(message.text))
            elif not self._is_sink_live():
                self.notes.fail(WorkerError(f"{message.text}; please report it"))
            else:
                _log.warning("publish: %s", message.text)

    def _note_barriers(self, role: str, message: control.Barriers) -> None:
        self.notes.barriers[role] = message.state
        down = barriers.missing(message.state, role)
        if down and self._is_strict:
            told = "; ".join(f"{name}: {message.state.get(name, 'down')}" for name in down)
            text = f"--require-barriers: {role} has not all of them ({told}); see `veilcam doctor`"
            self.notes.fail(ConfigError(text))

    def _begin(self) -> None:
        """Lets the waiting capture process begin when its time has come and both are fenced."""
        capture = self._crew.active.get("capture")
        if self._begin_at is None or capture is None or len(self.notes.barriers) < 2:
            return
        due_s, resume_at = self._begin_at
        if time.monotonic() < due_s or self.notes.is_stopping:
            return
        self._begin_at = None
        self.notes.epoch += 1
        capture.epoch, capture.started_s = self.notes.epoch, time.monotonic()
        blank_frames = 0 if self._is_first else _BLANK_FRAMES
        self._is_first = False
        capture.link.send(control.Begin(self.notes.epoch, resume_at, blank_frames))

    def _plan_begin(self, resume_at: int) -> None:
        wait_s = min(_LAST_BACKOFF_S, _FIRST_BACKOFF_S * 2 ** min(self.notes.failures, 10))
        self._begin_at = (time.monotonic() + wait_s, resume_at)

    def _lost_capture(self, process: Process) -> None:
        self._hear("capture", process)  # its last words
        self._crew.dismiss("capture")
        if self.notes.error is not None or self.notes.has_ended:
            return
        publish = self._crew.active["publish"]
        if self.notes.is_stopping:
            publish.link.send(control.Stop())
            return
        self.notes.faults["capture_hung" if process.is_hung else "capture_lost"] += 1
        self._count_restart("capture", process)
        may_come_back = process.epoch and self._may_come_back
        if self.notes.failures > _MAX_FAILURES and not may_come_back:
            text = f"capture ended {self.notes.failures} times in a row ({process.how_it_ended()})"
            self.notes.fail(WorkerError(text))
            return
        self._crew.put("capture")
        if process.epoch:
            publish.link.send(control.Lost(process.epoch, process.is_hung))

    def _lost_publish(self, process: Process) -> None:
        """A live sink gets a new pair; a file that was not finished is a failed run."""
        self._hear("publish", process)
        if self.notes.error is not None or self.notes.is_done:
            return
        self.notes.faults["publish_hung" if process.is_hung else "publish_lost"] += 1
        if self._is_sink_live() and self.notes.is_stopping:
            self.notes.is_done = True  # nothing to keep
            return
        if not self._is_sink_live():
            remove_unfinished(self._settings.sink, process.pid)
            text = f"the publish process ended ({process.how_it_ended()}); the output was dropped"
            self.notes.fail(WorkerError(text))
            return
        self._count_restart("publish", process)
        if self.notes.failures > _MAX_FAILURES and not self.notes.was_up:
            self.notes.fail(WorkerError(f"publish does not start ({process.how_it_ended()})"))
            return
        done = sum(v.get("num_pictures", 0) for v in self.notes.publish_values.values())
        self._crew.dismiss("publish")
        self._crew.dismiss("capture")
        self._crew.forget_words()
        self.notes.epoch = 0  # publish counts the lives of its own capture from 1
        self._heard_publish_s = time.monotonic()
        self._crew.put("publish")
        self._crew.put("capture")
        self._plan_begin(int(done))

    def _count_restart(self, role: str, process: Process) -> None:
        self.notes.restarts[role] += 1
        self.notes.failures += 1
        if self.notes.restarts[role] == 1:
            _log.warning("%s ended (%s) and is started again", role, process.how_it_ended())

    def _watch(self) -> None:
        """Ends who does not come up, is silent, or does not end; keeps spares."""
        now_s = time.monotonic()
        capture, publish = (self._crew.active.get(role) for role in ("capture", "publish"))
        if capture is not None and capture.pid not in self.notes.capture_values:
            if now_s - capture.started_s > self._limits.start_s:
                capture.is_hung = True
                capture.kill()
        elif capture is not None and now_s - self._up_since_s > _SPARE_AFTER_S:
            for role in ("capture", "publish") if self._is_sink_live() else ("capture",):
                self._crew.keep_spare(role)
        is_silent = now_s - self._heard_publish_s > self._publish_patience_s()
        if publish is not None and is_silent and not self.notes.is_stopping:
            publish.is_hung = True
            publish.kill()
        if self.notes.is_stopping and now_s > self._stop_due_s:
            self._force_end()

    def _publish_patience_s(self) -> float:
        if self.pids.get("publish") not in self.notes.publish_values:
            return self._limits.start_s
        is_quick = self.notes.is_live and self._settings.sink in _QUICK_SINKS
        return self._limits.silence_s if is_quick else self._limits.long_silence_s

    def _stop(self) -> None:
        self.notes.is_stopping = True
        self._stop_due_s = time.monotonic() + self._limits.ending_s
        receiver = self._crew.active.get("capture" if self._begin_at is None else "publish")
        if receiver is not None:
            receiver.link.send(control.Stop())

    def _force_end(self) -> None:
        """Capture did not end when asked: publish closes the output without it."""
        self._stop_due_s = time.monotonic() + self._limits.ending_s
        late = self._crew.active.get("capture") or self._crew.active.get("publish")
        if late is not None:
            late.kill()

    def _is_sink_live(self) -> bool:
        return self._settings.sink.partition(":")[0] in LIVE_SINKS

    def _last_words(self) -> None:
        """After the viewer's end, capture's counters up to here."""
        capture = self._crew.active.get("capture")
        if capture is not None and self.notes.error is None and not self.notes.has_ended:
            capture.link.send(control.Stop())
            capture.wait(2.0)
            self._hear("capture", capture)
