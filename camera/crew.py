"""The processes of a run: one capture, one publish, and for each a spare that is ready to begin.

A spare has imported everything and raised its barriers; it waits for its order. So a process that
dies is replaced in the time its source or sink needs to open.
"""

import time
from collections.abc import Mapping, Sequence

from veilcam.camera import control
from veilcam.camera.link import drain, wait_any
from veilcam.camera.notes import open_shared
from veilcam.camera.process import Process
from veilcam.camera.run_noise import new_key
from veilcam.camera.settings import Settings


class Crew:
    """Starts, replaces and ends the processes; says nothing about when.

    Args:
        settings: The run; every process is told first of all.
        commands: Program of each role, `capture` and `publish`.
        handed: Further descriptors by role, for every process of it; they stay the owner's.

    Attributes:
        active: The processes at work, by role.
        spare: Those that wait, by role.
    """

    def __init__(
        self,
        settings: Settings,
        commands: dict[str, Sequence[str]],
        handed: Mapping[str, Sequence[int]],
    ) -> None:
        self._values, self._noise_key = settings.to_values(), new_key()
        self._commands, self._handed = commands, handed
        self._shared = open_shared()
        self.active: dict[str, Process] = {}
        self.spare: dict[str, Process] = {}

    def _start(self, role: str) -> Process:
        shared = self._shared
        inherited = {
            "capture": (shared.capture_end, shared.ring, shared.hold_read_only),
            "publish": (shared.publish_end, shared.ring_read_only, shared.hold),
        }[role]
        process = Process(self._commands[role], (*inherited, *self._handed.get(role, ())))
        key = self._noise_key if role == "capture" else ""  # publish could undo the noise with it
        process.link.send(control.Setup(self._values, key))
        return process

    def use(self, settings: Settings) -> None:
        """Processes from now on get these settings; spares that had others end."""
        self._values = settings.to_values()
        for process in self.spare.values():
            process.kill()
            process.close(0.0)
        self.spare.clear()

    def put(self, role: str) -> Process:
        """Puts a process to work: the spare where one waits, else a new one."""
        process = self.spare.pop(role, None)
        if process is None or not process.is_alive():
            if process is not None:
                process.close(0.0)
            process = self._start(role)
        self.active[role] = process
        process.started_s = time.monotonic()  # a spare may have waited for hours
        if role == "publish":  # capture begins when the supervisor says from where
            process.link.send(control.Begin(1, 0, 0))
        return process

    def keep_spare(self, role: str) -> None:
        """Starts a spare where there is none."""
        if role not in self.spare:
            self.spare[role] = self._start(role)

    def dismiss(self, role: str) -> None:
        """Ends the process at work now, and takes what it left in the channel away."""
        process = self.active.pop(role, None)
        if process is None:
            return
        process.kill()
        process.close(0.0)

    def forget_words(self) -> None:
        """Empties the channel between the two, when neither is at work."""
        assert not self.active
        drain(self._shared.capture_end)
        drain(self._shared.publish_end)

    def wait(self, timeout_s: float) -> None:
        """Until one of those at work says something or ends."""
        watched: list[object] = []
        for process in (*self.active.values(), *self.spare.values()):
            watched += [process.link, process.exit_fd]
        wait_any(watched, timeout_s)

    def close(self, timeout_s: float = 5.0) -> None:
        """Hangs up on all, waits for their end and gives the memory back."""
        for process in self.spare.values():
            process.kill()
        everyone = [*self.active.values(), *self.spare.values()]
        for process in everyone:
            process.link.close()
        deadline_s = time.monotonic() + timeout_s
        for process in everyone:
            process.close(max(0.0, deadline_s - time.monotonic()))
        self.active.clear()
        self.spare.clear()
        self._shared.close()
