"""A camera works for others only when nobody needs it."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from veilcam.camera.duty import Readings, Rules, is_within, read_machine, why_not
from veilcam.camera.errors import ConfigError

RULES = Rules()
FINE = Readings(
    hour=23, load=0.1, has_power=True, celsius=50.0, since_person_s=9e9, since_late_s=9e9
)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"since_late_s": 599.0}, "the loop was late 599 s ago"),
        ({"since_late_s": 0.0, "since_person_s": 0.0, "load": 9.0}, "the loop was late"),
        ({"since_late_s": None}, "pulse can't be read"),
        ({"since_person_s": None}, "pulse can't be read"),
        ({"since_person_s": 10.0}, "somebody was seen 10 s ago"),
        ({"has_power": False}, "on battery"),
        ({"has_power": None}, "power supply can't be read"),
        ({"celsius": 70.1}, "70 degrees C, above 70"),
        ({"celsius": None}, None),
        ({"load": 0.51}, "load 0.51 a core, above 0.50"),
        ({"hour": 12}, "12 h is outside 22-6 h"),
        ({"hour": 5}, None),
        ({"hour": 6}, "6 h is outside"),
    ],
)
def test_each_rule_speaks_against(change: dict[str, float], reason: str | None) -> None:
    told = why_not(replace(FINE, **change), RULES)  # type: ignore[arg-type]
    assert (told is None) if reason is None else reason in str(told)


@given(st.integers(0, 23), st.integers(0, 23), st.integers(0, 23))
def test_a_window_and_the_rest_of_the_day_are_opposite(hour: int, start: int, end: int) -> None:
    if start != end:
        assert is_within(hour, start, end) != is_within(hour, end, start)
    else:
        assert is_within(hour, start, end)


def supply(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text + "\n")


@pytest.mark.parametrize(
    ("supplies", "expected"),
    [
        ([], True),
        ([{"type": "Battery"}], False),
        ([{"type": "Battery"}, {"type": "Mains", "online": "0"}], False),
        ([{"type": "Battery"}, {"type": "Mains", "online": "1"}], True),
        ([{"type": "Battery"}, {"type": "USB", "online": "1"}], True),
        ([{"type": "Battery", "scope": "Device"}], True),
        ([{"type": "Mains"}], None),
    ],
)
def test_power_is_read_from_the_kernel(
    tmp_path: Path, supplies: list[dict[str, str]], expected: bool | None
) -> None:
    for index, files in enumerate(supplies):
        supply(tmp_path / "class" / "power_supply" / f"s{index}", **files)
    assert read_machine(sys=tmp_path).has_power is expected


def test_heat_is_the_hottest_sensor_that_answers(tmp_path: Path) -> None:
    assert read_machine(sys=tmp_path).celsius is None
    for index, text in enumerate(["41000", "67500", "asleep"]):
        supply(tmp_path / "class" / "thermal" / f"thermal_zone{index}", temp=text)
    assert read_machine(sys=tmp_path).celsius == 67.5


def test_a_pulse_that_is_torn_or_gone_speaks_against(tmp_path: Path) -> None:
    pulse = tmp_path / "pulse.json"
    assert read_machine(pulse, sys=tmp_path).since_late_s is None
    for text in ("", "{", '{"time": 1}', '{"time": "x", "since_late_s": 0}', "[]"):
        pulse.write_text(text)
        assert "pulse" in str(why_not(read_machine(pulse, sys=tmp_path), RULES))
    pulse.write_text(
        json.dumps({"time": time.time(), "since_late_s": 4000.0, "since_person_s": 20.0})
    )
    told = str(why_not(read_machine(pulse, sys=tmp_path), RULES))
    assert "somebody was seen 20 s ago" in told


@pytest.mark.parametrize("wrong", [{"from_hour": 24}, {"to_hour": -1}, {"max_load": -0.1}])
def test_rules_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Rules(**wrong)  # type: ignore[arg-type]
