"""A short storm, and proof that whoever looks for raw pixels would find them."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

if not sys.platform.startswith("linux"):
    pytest.skip("two processes need Linux", allow_module_level=True)


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


HERE = Path(__file__)
sentinel = load(HERE.with_name("sentinel.py"))
fault_storm = load(HERE.parents[2] / "scripts" / "fault_storm.py")


def hidden(index: int) -> np.ndarray:
    """What a raw picture looks like once its head is replaced."""
    bgr = sentinel.raw_picture(index)
    x, y = sentinel.head_corner(index)
    bgr[y : y + 32, x : x + 32] = (120, 130, 140)
    return bgr


def jpeg(bgr: np.ndarray, quality: int) -> np.ndarray:
    data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(data, cv2.IMREAD_COLOR)


@pytest.mark.parametrize("index", [0, 7, 31])
def test_a_raw_head_is_found_plain_and_coded_and_a_replaced_one_is_not(index: int) -> None:
    looker = sentinel.Looker()
    raw, safe = sentinel.raw_picture(index), hidden(index)
    assert looker.has_pixels(raw)
    assert not looker.has_pixels(safe)
    for quality in (95, 60, 30):
        assert looker.has_pattern(jpeg(raw, quality))
        assert not looker.has_pattern(jpeg(safe, quality))
    coded = sentinel.recoded([raw, safe] * 4)
    assert [looker.has_pattern(bgr) for bgr in coded] == [True, False] * 4


def test_a_part_of_a_head_and_a_dim_one_are_found() -> None:
    looker = sentinel.Looker()
    raw, part = sentinel.raw_picture(3), hidden(3)
    x, y = sentinel.head_corner(3)
    part[y : y + 4, x : x + 32] = raw[y : y + 4, x : x + 32]
    assert looker.has_pixels(part)
    assert looker.has_pattern(cv2.addWeighted(raw, 0.2, hidden(3), 0.8, 0))
    assert not looker.has_pattern(np.full_like(raw, 32))


@pytest.mark.parametrize("mode", ["face", "scene", "frame"])
def test_a_planted_leak_is_found_at_the_sink_in_every_way(mode: str) -> None:
    result = fault_storm.run_planted_leak(1, mode)
    assert all(result["hits"][how] > 0 for how in ("pixels", "jpeg", "h264")), result["hits"]


@pytest.mark.parametrize(("mode", "count"), [("face", 250), ("scene", 120), ("frame", 120)])
def test_a_storm_at_every_hop_shows_no_raw_pixel_and_passes_over(mode: str, count: int) -> None:
    result = fault_storm.run_live(5, count, life_rate=0.01, kill_every_s=1.5, max_s=60, mode=mode)
    assert result["faults"] >= count
    assert len(result["injected"]) >= 20
    assert sum(result["hits"].values()) == 0
    assert all(result["checks"][how] > 0 for how in ("pixels", "jpeg"))
    assert result["good"] > count / 3
    assert result["report"]["faults"] > count / 5
