"""What the supervisor keeps: shared memory and channel of a pair, patience, notes of the run."""

import os
from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any

from veilcam.camera import memory
from veilcam.camera.errors import VeilcamError
from veilcam.camera.link import open_pair
from veilcam.camera.patience import patience


class WorkerError(VeilcamError):
    """A process of ours cannot be kept running."""

    exit_code = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Patience, in seconds.

    Attributes:
        start_s: For either process to come up.
        silence_s: For a live one with a sink that takes a picture at once (virtual, null).
        long_silence_s: For one whose disk or window may keep it busy.
        ending_s: For capture to end when asked.
    """

    start_s: float = 60.0
    silence_s: float = 0.8
    long_silence_s: float = 20.0
    ending_s: float = 10.0

    @classmethod
    def of_this_machine(cls) -> "Limits":
        """The usual ones times `patience`."""
        factor = patience()
        usual = cls()
        return cls(**{f.name: getattr(usual, f.name) * factor for f in fields(cls)})


@dataclass(slots=True)
class Pair:
    """The shared memory and channel of one publish process and its capture processes."""

    capture_end: int
    publish_end: int
    ring: int
    ring_read_only: int
    hold: int
    hold_read_only: int

    def close(self) -> None:
        """Closes every descriptor."""
        for name in self.__slots__:
            os.close(getattr(self, name))


def open_shared() -> Pair:
    """Fresh memory and a fresh channel: nothing of an earlier pair can reach into it."""
    frames, hold = memory.create_memory()
    return Pair(*open_pair(), frames, memory.read_only(frames), hold, memory.read_only(hold))


@dataclass(slots=True)
class Notes:
    """What the supervisor knows of the run.

    Attributes:
        epoch: Lives of capture with the publish process of now.
        is_live, was_up: What capture said of its source; whether it ever delivered.
        is_stopping, has_ended, is_done: Asked to end; source at its end; output stands.
        faults, restarts: Counters by what and by role.
        failures: Of either process, since the last life that was long enough.
        error: Why the run ends without an output.
        capture_values, publish_values: Last report of every process, by process id.
        barriers: By role.
    """

    epoch: int = 0
    is_live: bool = False
    was_up: bool = False
    is_stopping: bool = False
    has_ended: bool = False
    is_done: bool = False
    faults: Counter[str] = field(default_factory=Counter)
    restarts: Counter[str] = field(default_factory=Counter)
    failures: int = 0
    error: VeilcamError | None = None
    capture_values: dict[int, dict[str, Any]] = field(default_factory=dict)
    publish_values: dict[int, dict[str, Any]] = field(default_factory=dict)
    barriers: dict[str, dict[str, str]] = field(default_factory=dict)

    def fail(self, error: VeilcamError) -> None:
        """The run ends with the first of its errors: later ones follow from it."""
        self.error = self.error or error
