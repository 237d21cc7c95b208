"""The supervisor of `veilcam serve`: grants wishes of the page, and keeps its picture process.

It maps no frame and reads no picture: of the pictures' socket pair it only looks whether something
waits, so that the process is there when it is needed and gone when it is not.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from veilcam.camera import barriers, control
from veilcam.camera.capture import BUILDERS
from veilcam.camera.process import Process, python_command
from veilcam.camera.serve_wire import has_mail, say_lost
from veilcam.camera.serve_words import with_prompt
from veilcam.camera.settings import Settings
from veilcam.camera.strength import CHOICES, choose
from veilcam.camera.supervise import Supervisor
from veilcam.camera.totals import merge

_log = logging.getLogger(__name__)
_TELL_S = 0.5
_WISH_EVERY_S = 1.0
_MAX_LOST = 20  # lives of the picture process that end badly, within an hour
_HOUR_S = 3600.0


class StillKeeper:
    """Starts the picture process when something waits for it, and says so when it died.

    Args:
        settings: The run.
        descriptor: Its end of the pictures' socket pair; stays the owner's.
    """

    def __init__(self, settings: Settings, descriptor: int) -> None:
        self._settings, self._descriptor = settings, descriptor
        self._process: Process | None = None
        self._lost_s: list[float] = []
        self.state: dict[str, str] = {}

    def tick(self) -> None:
        """Looks after it; often."""
        if self._process is None:
            if has_mail(self._descriptor) and self._may_start():
                command = python_command("veilcam.camera.serve_still")
                self._process = Process(command, (self._descriptor,))
                self._process.link.send(control.Setup(self._settings.to_values()))
            return
        for message in self._process.messages():
            if isinstance(message, control.Barriers):
                self.state = message.state
                if down := barriers.missing(message.state):
                    _log.warning("pictures: these barriers are not up: %s", ", ".join(down))
        if not self._process.is_alive():
            how = self._process.how_it_ended()
            self._process.close(0.0)
            self._process = None
            if how != "exit code 0":
                self._lost_s.append(time.monotonic())
                say_lost(self._descriptor)
                _log.warning("the picture process ended (%s); its picture is not made", how)

    def _may_start(self) -> bool:
        now_s = time.monotonic()
        self._lost_s = [lost_s for lost_s in self._lost_s if now_s - lost_s < _HOUR_S]
        return len(self._lost_s) < _MAX_LOST

    def close(self) -> None:
        """Ends it."""
        if self._process is not None:
            self._process.kill()
            self._process.close()
            self._process = None


class ServeSupervisor(Supervisor):
    """Runs the page.

    Args:
        settings: The run; its sink is `web`.
        keeper: Of the picture process.
        options: As `Supervisor`.
    """

    def __init__(self, settings: Settings, keeper: StillKeeper, **options: Any) -> None:
        super().__init__(settings, **options)
        self._keeper = keeper
        self._tell_due_s = self._wish_due_s = 0.0
        self._wish: control.Wish | None = None
        self._problem = ""

    def run(self, is_stopped: Callable[[], bool]) -> dict[str, Any]:
        """As `Supervisor.run`."""
        try:
            return super().run(is_stopped)
        finally:
            self._keeper.close()

    def _tick(self, is_stopped: bool) -> None:
        super()._tick(is_stopped)
        self._keeper.tick()
        now_s = time.monotonic()
        if self._wish is not None and now_s >= self._wish_due_s and not self.notes.is_stopping:
            self._wish_due_s = now_s + _WISH_EVERY_S
            wish, self._wish = self._wish, None
            self._grant(wish)
        if now_s >= self._tell_due_s:
            self._tell_due_s = now_s + _TELL_S
            publish = self._crew.active.get("publish")
            if publish is not None:
                publish.link.send(control.Report(0, self._status()))

    def _hear_capture(self, process: Process, message: control.Message) -> None:
        super()._hear_capture(process, message)
        if isinstance(message, control.Report) and message.values.get("frames_out", 0) > 0:
            self._problem = ""

    def _hear_publish(self, process: Process, message: control.Message) -> None:
        if isinstance(message, control.Wish):
            self._wish = message
        else:
            super()._hear_publish(process, message)

    def _failed_capture(self, message: control.Failed) -> None:
        super()._failed_capture(message)
        self._problem = message.text  # for the page: the picture is blank because of it

    def _grant(self, wish: control.Wish) -> None:
        """A new capture process with other settings; nothing but these can be wished for."""
        if wish.mode not in BUILDERS or wish.strength not in CHOICES:
            return
        settings = replace(self._settings, mode=wish.mode, strength=wish.strength)
        settings = with_prompt(settings, wish.text)
        if settings == self._settings:
            return
        choose(settings.strength)
        self._settings = settings
        self._crew.use(settings)
        _log.info("mode %s, strength %s", settings.mode, settings.strength)
        capture, publish = (self._crew.active.get(role) for role in ("capture", "publish"))
        if capture is None or publish is None:
            return
        self._hear("capture", capture)  # its last counters
        self._crew.dismiss("capture")
        self._crew.put("capture")
        if capture.epoch:
            publish.link.send(control.Lost(capture.epoch, False))

    def _status(self) -> dict[str, Any]:
        """The run's report, in what a control message may hold."""
        value = merge(self.notes, self._settings)
        found = dict(self.notes.barriers)
        if self._keeper.state:
            found["pictures"] = self._keeper.state
        return value | {
            "strength": self._settings.strength,
            "prompt": getattr(self._settings, "cast", {}).get("others", ""),
            "problem": self._problem,
            "barriers": found,
            "missing": ", ".join(barriers.all_missing(found)),
            "is_live": self.notes.was_up,
        }
