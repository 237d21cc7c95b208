"""When a camera may do other work, such as training: only when nobody needs the machine.

`why_not` is asked before a camera takes part in a round and says what speaks against it. The work
itself runs at the lowest priority (`step_back`), so the loop comes first in any case. What should
be known and cannot be read speaks against; a machine without a battery is on mains, and one
without a heat sensor is not judged by heat.
"""

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from veilcam.camera.errors import ConfigError
from veilcam.camera.pulse import since


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What must hold.

    Attributes:
        from_hour, to_hour: Local hours of duty, from one to before the other, over midnight too;
            equal hours mean any time.
        idle_s: Nobody was seen for so long.
        calm_s: The loop was not late for so long.
        max_load: Load average of the last minute over the number of cores.
        max_celsius: Hottest sensor.
        needs_power: Not on battery.
    """

    from_hour: int = 22
    to_hour: int = 6
    idle_s: float = 300.0
    calm_s: float = 600.0
    max_load: float = 0.5
    max_celsius: float = 70.0
    needs_power: bool = True

    def __post_init__(self) -> None:
        for name in ("from_hour", "to_hour"):
            if not 0 <= getattr(self, name) <= 23:
                raise ConfigError(f"{name}={getattr(self, name)} must be from 0 to 23")
        for name in ("idle_s", "calm_s", "max_load", "max_celsius"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{name}={getattr(self, name)} must be >= 0 and finite")


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """What the machine says; None is "can't be read".

    Attributes:
        hour: Local, 0-23.
        load: Load average of the last minute over the number of cores.
        has_power: On mains.
        celsius: Hottest sensor; None where there is none.
        since_person_s, since_late_s: Seconds since somebody was seen, since a frame was late;
            infinite where no loop runs here.
    """

    hour: int
    load: float
    has_power: bool | None
    celsius: float | None
    since_person_s: float | None
    since_late_s: float | None


def why_not(readings: Readings, rules: Rules) -> str | None:
    """What speaks against work now, the first of: lateness, people, power, heat, load, hour."""
    if readings.since_late_s is None or readings.since_person_s is None:
        return "the loop's pulse can't be read"
    if readings.since_late_s < rules.calm_s:
        return f"the loop was late {readings.since_late_s:.0f} s ago"
    if readings.since_person_s < rules.idle_s:
        return f"somebody was seen {readings.since_person_s:.0f} s ago"
    if rules.needs_power and not readings.has_power:
        return "on battery" if readings.has_power is False else "the power supply can't be read"
    if readings.celsius is not None and readings.celsius > rules.max_celsius:
        return f"{readings.celsius:.0f} degrees C, above {rules.max_celsius:.0f}"
    if readings.load > rules.max_load:
        return f"load {readings.load:.2f} a core, above {rules.max_load:.2f}"
    if not is_within(readings.hour, rules.from_hour, rules.to_hour):
        return f"{readings.hour} h is outside {rules.from_hour}-{rules.to_hour} h"
    return None


def is_within(hour: int, from_hour: int, to_hour: int) -> bool:
    """Whether an hour lies in a window that may go over midnight."""
    if from_hour == to_hour:
        return True
    if from_hour < to_hour:
        return from_hour <= hour < to_hour
    return hour >= from_hour or hour < to_hour


def read_machine(pulse: Path | None = None, *, sys: Path = Path("/sys")) -> Readings:
    """Reads the machine.

    Args:
        pulse: A loop's file, or the folder that loops on this machine keep: see `camera.pulse`.
            Default: no loop runs here.
        sys: Root of the kernel's files.
    """
    late_s, person_s = since(pulse) if pulse else (float("inf"), float("inf"))
    return Readings(
        hour=time.localtime().tm_hour,
        load=os.getloadavg()[0] / (os.cpu_count() or 1),
        has_power=_has_power(sys / "class" / "power_supply"),
        celsius=_hottest(sys / "class" / "thermal"),
        since_late_s=late_s,
        since_person_s=person_s,
    )


def step_back() -> None:
    """Gives this process the lowest priority: it runs when nothing else wants to."""
    os.nice(19)
    with suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def _has_power(folder: Path) -> bool | None:
    """On mains; a machine without a battery is."""
    has_battery = False
    for supply in sorted(folder.glob("*")):
        try:
            kind = (supply / "type").read_text().strip()
            if kind == "Battery":
                scope = supply / "scope"  # a wireless mouse has a battery too
                is_device = scope.exists() and scope.read_text().strip() == "Device"
                has_battery = has_battery or not is_device
            elif (supply / "online").read_text().strip() == "1":
                return True
        except OSError:
            return None
    return not has_battery


def _hottest(folder: Path) -> float | None:
    values = []
    for sensor in folder.glob("thermal_zone*/temp"):
        with suppress(OSError, ValueError):  # a sensor that sleeps answers with an error
            values.append(int(sensor.read_text()) / 1000)
    return max(values, default=None)
