"""How capture and publish come up: channels first, then barriers, and only then real imports."""

import ctypes
import logging
import math
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from veilcam.camera import control
from veilcam.camera.barriers import Plan, raise_barriers
from veilcam.camera.errors import VeilcamError
from veilcam.camera.link import Link
from veilcam.camera.run_noise import choose_key
from veilcam.camera.settings import Settings, from_values

_Kind = TypeVar("_Kind", control.Setup, control.Begin)
_PR_SET_PDEATHSIG = 1
_SETUP_S = 30.0
_MAX_LOG_LINES = 200
_STORM = ("SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGPIPE", "SIGALRM", "SIGWINCH", "SIGCONT",
          "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGVTALRM", "SIGPROF", "SIGIO")  # fmt: skip


@dataclass(slots=True)
class Worker:
    """What a process was born with.

    Attributes:
        settings: The run.
        supervisor: Channel to the supervisor.
        peer: Channel to the other process.
        ring, hold: Descriptors of the shared frames and of the reader's page.
        handed: Further descriptors that the role was given, see `crew.Crew`.
    """

    settings: Settings
    supervisor: Link
    peer: Link
    ring: int
    hold: int
    handed: tuple[int, ...] = ()


def start_worker(argv: list[str], plan_for: Callable[[Settings], Plan], die_with: int) -> Worker:
    """Opens the channels, raises the barriers of `plan_for`, tells the supervisor what holds.

    Args:
        argv: Process id of the supervisor, then the descriptors: supervisor, peer, ring, hold,
            and what the role was handed.
        plan_for: `sandbox.capture_plan` or `publish_plan`.
        die_with: Signal this process gets when the supervisor dies, 0 for none.
    """
    parent, *descriptors = (int(text) for text in argv)
    for name in _STORM:  # our end is decided by the supervisor, and by SIGTERM and SIGKILL
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    supervisor, peer = Link(descriptors[0]), Link(descriptors[1])
    setup = wait_for(supervisor, control.Setup, _SETUP_S)
    if setup is None:
        raise SystemExit(1)
    settings = from_values(setup.values)
    choose_key(setup.noise_key)
    supervisor.send(control.Barriers(raise_barriers(plan_for(settings))))
    if die_with:  # after the barriers: a new user name space forgets it
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, die_with, 0, 0, 0)
    if os.getppid() != parent:
        raise SystemExit(1)
    _log_to(supervisor)
    ring, hold, *handed = descriptors[2:]
    return Worker(settings, supervisor, peer, ring, hold, tuple(handed))


def wait_for(link: Link, kind: type[_Kind], timeout_s: float = math.inf) -> _Kind | None:
    """The first message of a channel, which must be of that kind; None where Stop or its end comes.

    Raises:
        ProtocolError: It is another one.
    """
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        link.wait(0.5)
        try:
            message = link.receive()
        except EOFError:
            return None
        if isinstance(message, control.Stop):
            return None
        if isinstance(message, kind):
            return message
        if message is not None:
            raise control.ProtocolError(f"wanted {kind.__name__}")
    return None


class _LinkHandler(logging.Handler):
    """Log lines go to the supervisor: these processes have no output of their own."""

    def __init__(self, link: Link) -> None:
        super().__init__()
        self._link, self._left = link, _MAX_LOG_LINES

    def emit(self, record: logging.LogRecord) -> None:
        if self._left > 0:
            self._left -= 1
            self._link.send(control.Log(record.levelno, record.getMessage()))


def _log_to(link: Link) -> None:
    logging.basicConfig(handlers=[_LinkHandler(link)], level=logging.WARNING)
    logging.getLogger("veilcam").setLevel(logging.INFO)


def failure(error: BaseException, epoch: int) -> control.Failed:
    """What the supervisor is told: our own message, or type and place of anything else."""
    if isinstance(error, VeilcamError):
        return control.Failed(epoch, True, " ".join(str(error).split()))
    trace, place = error.__traceback__, "outside the package"
    while trace is not None:
        path = Path(trace.tb_frame.f_code.co_filename)
        if path.parent.name == "camera":
            place = f"at {path.parent.name}/{path.name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return control.Failed(epoch, False, f"unexpected {type(error).__name__} {place}")
