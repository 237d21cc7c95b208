"""The cost of the second process is measurable, and growth in a soak is noticed."""

import importlib.util
import sys
from pathlib import Path

import pytest

if not sys.platform.startswith("linux"):
    pytest.skip("two processes need Linux", allow_module_level=True)

from veilcam.camera.crossing import measure_crossing

_SPEC = importlib.util.spec_from_file_location(
    "soak", Path(__file__).parents[2] / "scripts" / "soak.py"
)
assert _SPEC is not None
assert _SPEC.loader is not None
soak = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(soak)


def test_the_crossing_is_measured_with_a_real_publish_process() -> None:
    folder = Path("/proc/self/fd")
    before = sorted(folder.iterdir())
    found = measure_crossing((48, 64), num_frames=12, fps=500.0)
    assert set(found) == {"cross", "copy"}
    for values in found.values():
        assert 0 < values["p50"] <= values["p95"] <= values["p99"] <= values["max"]
    assert sorted(folder.iterdir()) == before


def samples(rss_mb_per_s: float, fds_per_s: float) -> list[dict]:
    return [
        {
            "time_s": second, "role": "capture", "pid": 1, "frames": 0, "threads": 9.0,
            "rss_mb": 100 + rss_mb_per_s * second, "fds": 20 + fds_per_s * second,
        }
        for second in range(100)
    ]  # fmt: skip


def test_growth_is_the_late_less_the_early() -> None:
    flat = soak.growth(samples(0, 0))["capture"]
    assert [flat[f"{name}_growth"] for name in ("rss_mb", "fds", "threads")] == [0, 0, 0]
    leaky = soak.growth(samples(1, 0.2))["capture"]
    assert (leaky["rss_mb_growth"], leaky["fds_growth"]) == (50, 10)


def test_a_process_is_measured() -> None:
    found = soak.measure("self")
    assert found["rss_mb"] > 1
    assert found["fds"] > 2
    assert found["threads"] >= 1
