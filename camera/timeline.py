"""One clock for all pictures of a run, over every life of capture; it never stands still."""

import math
import time

_MAX_GAP_S = 3600.0
_MAX_JUMP_S = 5.0


class Timeline:
    """Gives each picture its time: that of its frame, where that can be.

    A live source starts at 0 in each life of capture, so its times are moved on to the time since
    the run's first picture. Fillers, and frames whose clock jumped, get a time of our own.
    """

    def __init__(self) -> None:
        self._step_s = 1.0 / 30
        self._start_s: float | None = None
        self._last_s = 0.0
        self._offset_s: float | None = 0.0

    def start_life(self, fps: float) -> None:
        """A new life of capture: its clock starts anew."""
        self._step_s = 1.0 / fps
        if self._start_s is not None:
            self._offset_s = None

    def follow(self, time_s: float | None, *, is_live: bool) -> float:
        """The time of the next picture in seconds, later than the one before.

        Args:
            time_s: Its frame's own time, None for a filler.
            is_live: False for a clip, whose times go on from life to life.
        """
        now_s = time.monotonic()
        if self._start_s is None:
            self._start_s = now_s
            self._last_s = sane_time(time_s or 0.0, -self._step_s, self._step_s)
            return self._last_s
        elapsed_s = now_s - self._start_s
        if time_s is None:
            time_s = elapsed_s if is_live else self._last_s + self._step_s
        else:
            if self._offset_s is None:
                self._offset_s = elapsed_s - time_s if is_live else 0.0
            time_s += self._offset_s
            if is_live and not abs(time_s - elapsed_s) < _MAX_JUMP_S:
                time_s = elapsed_s
        self._last_s = sane_time(time_s, self._last_s, self._step_s)
        return self._last_s


def sane_time(time_s: float, last_s: float, step_s: float) -> float:
    """A picture's time that can follow `last_s`: itself, or one step on where a clock jumped.

    >>> sane_time(1.5, 1.0, 0.1), sane_time(float("nan"), 1.0, 0.1), sane_time(0.2, 1.0, 0.1)
    (1.5, 1.1, 1.1)
    """
    is_sane = math.isfinite(time_s) and last_s < time_s <= last_s + _MAX_GAP_S
    return time_s if is_sane else last_s + step_s
