"""`veilcam explain` lists and counts everything that is sent."""

import json

import pytest

from veilcam.camera.cli import call
from veilcam.camera.code import BITS_PER_FRAME, HEAD_FIELDS
from veilcam.camera.explain import FPS, explain, format_text
from veilcam.camera.strength import CHOICES

PLACED = {"center_x", "center_y", "size", "roll", "skin_light", "skin_class", "looks"}


@pytest.mark.parametrize("strength", CHOICES)
def test_every_field_is_listed_and_counted(strength: str) -> None:
    value = explain()["strengths"][strength]
    fields = value["fields"]
    assert {f["name"] for f in fields} == {f.name for f in HEAD_FIELDS} | PLACED
    assert value["bits_per_frame"] == sum(f["bits"] for f in fields if f["kind"] == "dynamic")
    assert value["bits_per_second"] == FPS * value["bits_per_frame"]
    assert value["epsilon_per_track"] == sum(f["epsilon"] or 0 for f in fields)
    assert all(f["carries"] for f in fields)


def test_stricter_sends_less() -> None:
    values = [explain()["strengths"][s] for s in ("strict", "balanced", "faithful")]
    bits = [v["bits_per_frame"] for v in values]
    assert bits == sorted(set(bits))
    assert [v["epsilon_per_track"] for v in values] == [0.0, 2.0, 4.0]


def test_faithful_has_the_bits_of_the_manifest() -> None:
    fields = explain()["strengths"]["faithful"]["fields"]
    names = {f.name for f in HEAD_FIELDS}
    assert sum(f["bits"] for f in fields if f["name"] in names) == BITS_PER_FRAME


def test_the_command_prints_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["explain", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["default"] == "balanced"
    assert call(["explain"]) == 0
    text = capsys.readouterr().out
    assert "skin_class" in text
    assert text.strip() == format_text(explain()).strip()


def test_scene_mode_is_told_too() -> None:
    value = explain()["scene"]
    scene = [value["strengths"][s] for s in ("strict", "balanced", "faithful")]
    assert [v["epsilon_per_track"] for v in scene] == [0.0, 4.0, 16.0]
    assert all(v["epsilon_per_track"] == sum(f["epsilon"] for f in v["static"]) for v in scene)
    assert [v["key_points_bits"] for v in scene] == [17 * 8, 17 * 10, 17 * 10]
    bits = [v["bits_per_frame"] for v in scene]
    assert bits == sorted(set(bits))
    assert value["plate_refresh"]["epsilon"] > 0
