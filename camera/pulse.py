"""A running loop's pulse: is it late, was somebody there, what does its audit say; once a second.

The supervisor writes it, from counters that both processes send anyway: capture still writes no
file. Who asks (`camera.duty` before a camera trains, `federate device` before it answers) reads a
folder that only its owner may read, and that a restart of the machine empties. Ages are by a clock
that nobody sets, and are told with the time they were written at: a file that is no longer written
speaks against its loop, one whose process is gone is of no loop.
"""

import json
import logging
import math
import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from veilcam.camera.totals import total

if TYPE_CHECKING:
    from veilcam.camera.notes import Notes

_log = logging.getLogger(__name__)
_EVERY_S = 1.0
_OVER_S = 5.0  # the picture rate is taken over so long
_SILENT_S = 2.0  # without a picture; with a sink that takes one picture a second it is not late
_HUNG_S = 10.0  # an older file is no longer written
_LATE = (
    "frames_dropped", "frames_skipped", "frames_blank", "frames_torn", "outages", "faults",
)  # fmt: skip
_PERSON = ("people_seen", "heads_replaced")


def folder() -> Path | None:
    """Where pulses of this user's loops are; None where the system names no such place.

    `VEILCAM_PULSE` comes first (empty: nowhere), then systemd's RUNTIME_DIRECTORY, then the user's.
    """
    if (named := os.environ.get("VEILCAM_PULSE")) is not None:
        return Path(named) if named else None
    if given := os.environ.get("RUNTIME_DIRECTORY"):
        return Path(given.partition(":")[0])
    user = os.environ.get("XDG_RUNTIME_DIR")
    return Path(user) / "veilcam" if user else None


def running() -> Path | None:
    """The folder, once a loop has made it; None before."""
    place = folder()
    return place if place is not None and place.is_dir() else None


class Pulse:
    """Keeps one loop's file; close it.

    A loop that has just begun counts as late and as having seen somebody: nobody knows better.

    Args:
        place: Its folder; None writes nothing.
        clock: Seconds that only go forward.
    """

    def __init__(self, place: Path | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = None if place is None else place / f"pulse-{os.getpid()}.json"
        self._clock = clock
        self._late_s = self._person_s = self._moved_s = clock()
        self._due_s = -math.inf
        self._counts = {"late": 0, "person": 0, "out": 0}
        self._rate: deque[tuple[float, int]] = deque()
        self._is_told = False

    def beat(self, notes: "Notes") -> None:
        """Writes what is new, once a second at most; a disk that refuses is said once."""
        now_s = self._clock()
        if self._path is None or now_s < self._due_s:
            return
        self._due_s = now_s + _EVERY_S
        value = self._look(notes, now_s)
        try:
            _write(self._path, value | {"time": time.time(), "pid": os.getpid()})
        except OSError as error:
            if not self._is_told:
                _log.warning("the pulse is not written (%s)", type(error).__name__)
            self._is_told = True

    def _look(self, notes: "Notes", now_s: float) -> dict[str, Any]:
        captures, outs = list(notes.capture_values.values()), list(notes.publish_values.values())
        last: Mapping[str, Any] = captures[-1] if captures else {}
        both = [*captures, *outs]
        counts = {
            "late": sum(total(both, name) for name in _LATE)
            + sum(notes.faults.values()) + sum(notes.restarts.values()),
            "person": sum(total(captures, name) for name in _PERSON),
            "out": total(outs, "frames_out"),
        }  # fmt: skip
        risen = {name: counts[name] > self._counts[name] for name in counts}
        self._counts = counts
        if risen["out"]:
            self._moved_s = now_s
        if risen["person"]:
            self._person_s = now_s
        fps = self._fps(now_s, counts["out"])
        p95_ms = float(last.get("latency_ms", {}).get("total", {}).get("p95", 0.0))
        is_late = risen["late"] or now_s - self._moved_s > _SILENT_S or p95_ms * fps > 1000.0
        if is_late:
            self._late_s = now_s
        value = {
            "mode": last.get("mode", ""), "fps": round(fps, 1), "p95_ms": round(p95_ms, 2),
            "is_late": is_late, "since_late_s": round(now_s - self._late_s, 1),
            "since_person_s": round(now_s - self._person_s, 1),
            "bundle_sha256": last.get("bundle_sha256", ""),
        }  # fmt: skip
        audits = [v["audit"] for v in captures if v.get("audit")]
        return value | ({"audit": _audit(audits)} if audits else {})

    def _fps(self, now_s: float, num_out: int) -> float:
        self._rate.append((now_s, num_out))
        while now_s - self._rate[0][0] > _OVER_S:
            self._rate.popleft()
        began_s, before = self._rate[0]
        return (num_out - before) / (now_s - began_s) if now_s > began_s else 0.0

    def close(self) -> None:
        """The loop has ended: no pulse."""
        if self._path is not None:
            with suppress(OSError):
                self._path.unlink()


def since(path: Path) -> tuple[float | None, float | None]:
    """Seconds since a loop was late and since it saw somebody.

    Args:
        path: A loop's file, or the folder of all loops here: then the most recent of all.

    Returns:
        Both infinite where the folder holds no loop; both None where a file can't be read or is no
        longer written though its process lives: what isn't known speaks against.
    """
    if not path.is_dir():
        return _since(path, is_alone=True)
    late_s = person_s = math.inf
    for file in sorted(path.glob("pulse-*.json")):
        late, person = _since(file, is_alone=False)
        if late is None or person is None:
            return None, None
        late_s, person_s = min(late_s, late), min(person_s, person)
    return late_s, person_s


def newest(path: Path) -> dict[str, Any]:
    """What the last loop to write says; `path` as in `since`.

    Raises:
        OSError, ValueError, TypeError: No loop writes, or not such a file.
    """
    files = sorted(path.glob("pulse-*.json")) if path.is_dir() else [path]
    told = [dict(json.loads(file.read_text())) for file in files]
    return max(told, key=lambda value: float(value.get("time", 0.0)))


def _since(file: Path, *, is_alone: bool) -> tuple[float | None, float | None]:
    try:
        told = json.loads(file.read_text())
        age_s = time.time() - float(told["time"])
        late, person = float(told["since_late_s"]), float(told["since_person_s"])
        pid = int(told.get("pid", os.getpid()))
    except FileNotFoundError:
        return (None, None) if is_alone else (math.inf, math.inf)  # its loop ended just now
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None, None
    if not abs(age_s) <= _HUNG_S:
        is_gone = not is_alone and not _is_alive(pid)
        return (math.inf, math.inf) if is_gone else (None, None)
    if not (late >= 0 and person >= 0):
        return None, None
    return late + max(age_s, 0.0), person + max(age_s, 0.0)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _audit(audits: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts over all lives of capture, and the state of the newest."""
    return {
        "samples": total(audits, "samples"), "alarms": total(audits, "alarms"),
        "state": audits[-1].get("state", ""),
    }  # fmt: skip


def _write(path: Path, value: Mapping[str, Any]) -> None:
    """For its owner only; whole or not at all. What is in memory only needs no fsync."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    with os.fdopen(os.open(partial, flags, 0o600), "w") as stream:
        json.dump(value, stream)
    partial.replace(path)
