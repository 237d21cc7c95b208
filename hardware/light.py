"""A device's light: on while pictures flow, blinking while none do, off when nothing runs.

Whoever stands before the camera sees that it runs, and its owner from afar that it works. It is one
of the kernel's LED class (`/sys/class/leds`), whatever drives it: a board's own or one on a GPIO.
What it follows is the loop's pulse (`camera.pulse`).
"""

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from pathlib import Path

LEDS = Path("/sys/class/leds")
_LOOK_EVERY_S = 1.0
_SILENT_S = 5.0  # a pulse that was not written for so long is of no running loop
_BLINK_MS = 500


class State(Enum):
    """What the light tells."""

    OFF = "nothing runs"
    BLINKING = "no pictures"
    ON = "pictures flow"


class Watch:
    """Looks at the pulses of a folder.

    Args:
        folder: Where they lie.
        clock: Seconds that only go forward: the wall clock is set while a device starts.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._clock = folder, clock
        self._written: dict[str, tuple[int, float]] = {}

    def look(self) -> State:
        """What to show now."""
        state = State.OFF
        now_s = self._clock()
        for path in sorted(self._folder.glob("pulse-*.json")):
            with suppress(OSError, ValueError, AttributeError):  # it is gone, or not yet whole
                stamp = path.stat().st_mtime_ns
                known, since_s = self._written.get(path.name, (0, now_s))
                if stamp != known:
                    self._written[path.name] = (stamp, since_s := now_s)
                if now_s - since_s > _SILENT_S:
                    continue
                if json.loads(path.read_text()).get("fps", 0) > 0:
                    return State.ON
                state = State.BLINKING
        return state


class Light:
    """One LED of the kernel's.

    Args:
        folder: Its own, below `LEDS`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._shown: State | None = None

    def show(self, state: State) -> None:
        """Writes what is new. Raises OSError where there is no such light."""
        if state is self._shown:
            return
        if state is State.BLINKING:
            self._write("trigger", "timer")  # the kernel blinks by itself
            for name in ("delay_on", "delay_off"):
                self._write(name, str(_BLINK_MS))
        else:
            self._write("trigger", "none")
            full = (self._folder / "max_brightness").read_text().strip()
            self._write("brightness", full if state is State.ON else "0")
        self._shown = state

    def _write(self, name: str, text: str) -> None:
        # opened as it is: what is not there must not be made
        descriptor = os.open(self._folder / name, os.O_WRONLY)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)


def main(argv: list[str]) -> int:
    """`python -m veilcam.hardware.light NAME FOLDER`: follows the pulses in FOLDER for ever."""
    name, folder = argv
    light, watch = Light(LEDS / name), Watch(Path(folder))
    while True:
        try:
            light.show(watch.look())
        except OSError as error:
            known = ", ".join(sorted(path.name for path in LEDS.glob("*"))) or "none"
            sys.stderr.write(f"light {name!r}: {error.strerror}; this machine has: {known}\n")
            return 2
        time.sleep(_LOOK_EVERY_S)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
