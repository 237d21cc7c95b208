"""A loop's pulse: what it says, what speaks against its loop, and a real run beside a query."""

import json
import math
import os
import stat
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from veilcam.camera import pulse as pulses
from veilcam.camera.duty import Rules, read_machine, why_not
from veilcam.camera.notes import Notes
from veilcam.camera.pulse import Pulse, folder, newest, since

ANY_TIME = Rules(
    from_hour=0, to_hour=0, max_load=1e6, max_celsius=1e6, needs_power=False, idle_s=5.0, calm_s=5.0
)


class Loop:
    """A supervisor's notes, second by second, with a clock of their own."""

    def __init__(self, place: Path) -> None:
        self.now_s, self.notes = 100.0, Notes()
        self.pulse = Pulse(place, clock=lambda: self.now_s)
        self.capture: dict[str, Any] = {
            "mode": "face", "bundle_sha256": "b", "frames_dropped": 0, "people_seen": 0,
            "heads_replaced": 0, "latency_ms": {"total": {"p95": 20.0}},
        }  # fmt: skip
        self.publish = {"frames_out": 0, "frames_blank": 0, "outages": 0}
        self.notes.capture_values[1], self.notes.publish_values[2] = self.capture, self.publish

    def seconds(self, count: int, *, fps: int = 30, **each: int) -> dict[str, Any]:
        for _ in range(count):
            self.now_s += 1
            self.publish["frames_out"] += fps
            for name, step in each.items():
                values = self.capture if name in self.capture else self.publish
                values[name] += step
            self.pulse.beat(self.notes)
        assert self.pulse._path is not None
        return dict(json.loads(self.pulse._path.read_text()))


def test_a_calm_loop_says_so_and_nobody_but_its_owner_reads_it(tmp_path: Path) -> None:
    loop = Loop(tmp_path / "run")
    told = loop.seconds(20)
    assert (told["mode"], told["bundle_sha256"], told["is_late"]) == ("face", "b", False)
    assert told["fps"] == pytest.approx(30.0)
    assert told["since_late_s"] == told["since_person_s"] == 20.0  # it began not knowing
    (file,) = (tmp_path / "run").iterdir()  # no partial file is left
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    loop.pulse.close()
    assert since(tmp_path / "run") == (math.inf, math.inf)


@pytest.mark.parametrize(
    "trouble",
    [
        {"frames_dropped": 1}, {"frames_blank": 1}, {"outages": 1},
        {"fps": 0}, {"fps": 60},  # no picture; 20 ms of work for a picture every 17
    ],
)  # fmt: skip
def test_each_sign_of_lateness_counts_and_passes(tmp_path: Path, trouble: dict[str, int]) -> None:
    loop = Loop(tmp_path)
    loop.seconds(20)
    assert loop.seconds(8, **trouble)["since_late_s"] == 0.0
    told = loop.seconds(30)
    assert not told["is_late"]
    assert 20.0 < told["since_late_s"] <= 30.0


def test_a_new_life_of_capture_is_late_and_a_person_is_seen_in_each(tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    loop.seconds(20)
    assert loop.seconds(1, heads_replaced=2)["since_person_s"] == 0.0
    loop.notes.restarts["capture"] += 1
    assert loop.seconds(1)["is_late"]
    loop.notes.capture_values[3] = loop.capture | {"heads_replaced": 0}
    assert loop.seconds(5)["since_person_s"] == 6.0
    loop.notes.capture_values[3]["heads_replaced"] = 1
    assert loop.seconds(1)["since_person_s"] == 0.0


def test_the_audit_is_counted_over_lives(tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    assert "audit" not in loop.seconds(1)
    loop.capture["audit"] = {"samples": 7, "alarms": 1, "state": "broken", "strength": "strict"}
    loop.notes.capture_values[3] = loop.capture | {"audit": {"samples": 2, "state": "watching"}}
    loop.seconds(1)
    assert newest(tmp_path)["audit"] == {"samples": 9, "alarms": 1, "state": "watching"}


def test_a_pulse_that_stopped_speaks_against_unless_its_process_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Loop(tmp_path).seconds(700)
    late, person = since(tmp_path)
    assert late == pytest.approx(700, abs=5)
    assert person == pytest.approx(700, abs=5)
    assert since(tmp_path / "none.json") == (None, None)
    now = time.time()
    for there in (now + 11, now - 11):  # a later look, and a clock that was set back
        monkeypatch.setattr(pulses.time, "time", lambda there=there: there)
        assert since(tmp_path) == (None, None)
    (file,) = tmp_path.iterdir()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    file.write_text(json.dumps(json.loads(file.read_text()) | {"pid": gone.pid}))
    assert since(tmp_path) == (math.inf, math.inf)
    assert since(file) == (None, None)  # who names the file means this loop


def test_the_most_recent_of_several_loops_counts(tmp_path: Path) -> None:
    Loop(tmp_path).seconds(500)
    other = {"time": time.time(), "since_late_s": 900.0, "since_person_s": 3.0}
    (tmp_path / "pulse-1.json").write_text(json.dumps(other))
    late, person = since(tmp_path)
    assert late == pytest.approx(500, abs=5)
    assert person == pytest.approx(3, abs=5)
    for wrong in ({"since_late_s": -1.0}, {"since_late_s": math.nan}, {"time": math.nan}):
        (tmp_path / "pulse-1.json").write_text(json.dumps(other | wrong))
        assert since(tmp_path) == (None, None)


def test_a_folder_that_refuses_is_said_once_and_the_loop_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    pulse = Pulse(tmp_path / "file" / "below", clock=iter([float(n) for n in range(100)]).__next__)
    for _ in range(3):
        pulse.beat(Notes())
    assert caplog.text.count("the pulse is not written") == 1


def test_the_place_is_the_users_or_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("VEILCAM_PULSE", "RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    assert folder() is None
    Pulse(folder()).beat(Notes())  # nowhere: nothing happens
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert folder() == tmp_path / "veilcam"
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/veilcam:/run/other")
    assert folder() == Path("/run/veilcam")
    monkeypatch.setenv("VEILCAM_PULSE", "")
    assert folder() is None


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="Linux only")
def test_a_real_run_has_a_pulse_that_keeps_a_node_off_duty(tmp_path: Path) -> None:
    """A clip as fast as it goes: the loop has no time to spare, and people are in it."""
    command = [sys.executable, "-m", "veilcam.camera.cli", "run", "demo", "--sink", "null"]
    env = os.environ | {"VEILCAM_PULSE": str(tmp_path)}
    with subprocess.Popen(
        command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as run:
        told: dict[str, Any] = {}
        reasons = []
        while run.poll() is None:
            with suppress(OSError, ValueError):
                told = newest(tmp_path) if not told.get("fps") else told
            if told.get("fps"):
                reasons.append(why_not(read_machine(tmp_path), ANY_TIME))
            time.sleep(0.05)
    assert run.returncode == 0
    assert told["mode"] == "face"
    assert len(told["bundle_sha256"]) == 64
    assert told["pid"] == run.pid  # the supervisor's: capture writes no file
    assert reasons
    assert str(reasons[0]).startswith("the loop was late")
    assert list(tmp_path.iterdir()) == []  # it has ended, so nothing speaks against any more
    assert why_not(read_machine(tmp_path), ANY_TIME) is None
