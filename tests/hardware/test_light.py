"""The device's light: what it shows, and that it makes nothing that is not there."""

import json
import os
from pathlib import Path

import pytest

from veilcam.hardware import light
from veilcam.hardware.light import Light, State, Watch


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def beat(folder: Path, fps: float, *, stamp: int) -> None:
    path = folder / "pulse-7.json"
    path.write_text(json.dumps({"fps": fps}))
    os.utime(path, ns=(stamp, stamp))


def test_it_follows_the_pulse_whatever_the_wall_clock_says(tmp_path: Path) -> None:
    clock = Clock()
    watch = Watch(tmp_path, clock)
    assert watch.look() is State.OFF
    beat(tmp_path, 0.0, stamp=50)
    assert watch.look() is State.BLINKING
    beat(tmp_path, 24.0, stamp=9 * 10**18)  # the clock was set, years ahead
    assert watch.look() is State.ON
    clock.now_s += 4
    beat(tmp_path, 24.0, stamp=60)  # and back
    assert watch.look() is State.ON
    clock.now_s += 6  # nobody writes any more
    assert watch.look() is State.OFF
    (tmp_path / "pulse-8.json").write_text("{")
    (tmp_path / "pulse-9.json").write_text("[]")
    assert watch.look() is State.OFF


def led(folder: Path) -> Path:
    folder.mkdir()
    for name, text in (("trigger", "none"), ("brightness", "0"), ("max_brightness", "255\n"),
                       ("delay_on", ""), ("delay_off", "")):  # fmt: skip
        (folder / name).write_text(text)
    return folder


def test_each_state_is_written_once(tmp_path: Path) -> None:
    folder = led(tmp_path / "ACT")
    shown = Light(folder)
    shown.show(State.ON)
    assert (folder / "brightness").read_text() == "255"
    (folder / "brightness").write_text("")
    shown.show(State.ON)
    assert (folder / "brightness").read_text() == ""
    shown.show(State.BLINKING)
    assert (folder / "trigger").read_text().startswith("timer")
    assert (folder / "delay_on").read_text() == (folder / "delay_off").read_text() == "500"


def test_a_light_that_is_not_there_is_told_with_those_that_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    led(tmp_path / "ACT")
    monkeypatch.setattr(light, "LEDS", tmp_path)
    assert light.main(["PWR", str(tmp_path)]) == 2
    assert (
        "light 'PWR': No such file or directory; this machine has: ACT" in capsys.readouterr().err
    )
    assert not (tmp_path / "PWR").exists()
