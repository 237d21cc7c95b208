"""One child process of ours: started clean, talked to over a channel, ended for certain."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

from veilcam.camera.control import Message, ProtocolError
from veilcam.camera.link import Link, open_pair

_ENDING_S = 5.0


class Process:
    """A started capture or publish process.

    Args:
        command: Program and arguments; process id of the supervisor and descriptors are appended.
        descriptors: What it inherits besides its channel: peer, ring, hold.

    Attributes:
        link: Our end of its channel.
        exit_fd: Becomes readable when it has ended.
        epoch: Set by the supervisor.
    """

    def __init__(self, command: Sequence[str], descriptors: Sequence[int]) -> None:
        ours, theirs = open_pair()
        inherited = (theirs, *descriptors)
        try:
            # A new interpreter: nothing of this process's memory, threads or files goes along.
            self._popen = subprocess.Popen(
                [*command, str(os.getpid()), *(str(number) for number in inherited)],
                pass_fds=inherited,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C comes to us alone
            )
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        self.link = Link(ours)
        self.exit_fd = os.pidfd_open(self._popen.pid)
        self.epoch = 0
        self.is_hung = False
        self.started_s = time.monotonic()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._popen.pid

    def messages(self) -> list[Message]:
        """What it said since; garbage ends it and the list."""
        found: list[Message] = []
        try:
            while (message := self.link.receive()) is not None:
                found.append(message)
        except EOFError:
            pass
        except ProtocolError:
            self.kill()
        return found

    def is_alive(self) -> bool:
        """False once it has ended."""
        return self._popen.poll() is None

    def how_it_ended(self) -> str:
        """For a message: `signal 9` or `exit code 1`."""
        code = self._popen.poll() or 0
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    def kill(self) -> None:
        """Ends it at once."""
        with suppress(ProcessLookupError):
            self._popen.kill()

    def wait(self, timeout_s: float = _ENDING_S) -> None:
        """Waits until it has ended; after the time it is killed."""
        try:
            self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            self._popen.wait()

    def close(self, timeout_s: float = _ENDING_S) -> None:
        """Hangs up, waits for its end and gives everything back."""
        self.link.close()
        self.wait(timeout_s)
        if self.exit_fd >= 0:
            os.close(self.exit_fd)
            self.exit_fd = -1


def python_command(module: str) -> tuple[str, ...]:
    """Runs a module of ours; `-P`: nothing is imported from the folder the user is in."""
    return (sys.executable, "-P", "-m", module)
