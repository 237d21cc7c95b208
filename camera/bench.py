"""Added latency, stage by stage, of the product's own loop; memory, CPU share, peers, tuning."""

import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from veilcam.camera.crossing import measure_crossing
from veilcam.camera.errors import InputError, VeilcamError
from veilcam.camera.loop import Loop, build_loop, percentiles
from veilcam.camera.manifest import load_bundle
from veilcam.camera.peers import load_peers, peer_backend
from veilcam.camera.plot import draw_latency
from veilcam.camera.profile import describe_device, measure_generators, peak_rss_mb, save_profile
from veilcam.camera.profile import tune as tune_profile
from veilcam.camera.session import has_two_processes, load_profile
from veilcam.camera.sink import open_sink
from veilcam.camera.source import Source, open_source
from veilcam.camera.types import Frame

_log = logging.getLogger(__name__)
WARMUP_FRAMES = 10
DEFAULT_FRAMES = 150
MAX_COMPARE_FRAMES = 40
MAX_CROSS_FRAMES = 90  # they come 30 a second
DEMO_SIZE_HW = (720, 1280)


class BenchSource:
    """A source that starts over at its end, counts on, and scales the demo clip to 720p.

    Attributes:
        last: The frame handed out last, so that peers can be given a copy.
    """

    def __init__(self, spec: str) -> None:
        self._spec = spec
        self._source: Source = open_source(spec)
        self._scaled_hw = DEMO_SIZE_HW if spec == "demo" else None
        self.size_hw = self._scaled_hw or self._source.size_hw
        self.fps = self._source.fps
        self.is_live = self._source.is_live
        self.last: Frame | None = None
        self._index = 0

    def read(self) -> Frame | None:
        """The next frame; after a clip's last one its first again."""
        frame = self._source.read()
        if frame is None and not self.is_live and self._index:
            self._source.close()
            self._source = open_source(self._spec)
            frame = self._source.read()
        if frame is None:
            return None
        bgr = _fit(frame.bgr, self._scaled_hw) if self._scaled_hw else frame.bgr
        time_s = frame.time_s if self.is_live else self._index / self.fps
        self.last = Frame(bgr, self._index, time_s)
        self._index += 1
        return self.last

    def close(self) -> None:
        """Close the source below."""
        self.last = None
        self._source.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pass:
    """One pass over the frames: per-stage timings and what the process used."""

    timings: dict[str, list[float]]
    num_frames: int
    wall_s: float
    cpu_s: float
    startup_s: float
    size_hw: tuple[int, int]
    peer_ms: dict[str, list[float]]
    report: dict[str, Any]


def run_bench(
    source_spec: str,
    *,
    compare: bool = False,
    tune: bool = False,
    frames: int | None = None,
    bundle: Path | None = None,
    plot: Path | None = None,
) -> dict[str, Any]:
    """Measure and return what `veilcam bench --json` prints (design, section 10).

    Latency runs from the frame in memory to the safe frame handed to the sink; reading, scaling
    and the sink are not in it. The first frames are warm-up and left out. The loop runs in this
    process; `cross` is what the second one adds to `total`: from the safe picture handed to the
    ring to the same picture handed to the sink of a real publish process.

    Args:
        source_spec: As for `veilcam run`; the demo clip is scaled to 1280x720.
        compare: Run the peers on the same frames in turns with ours.
        tune: Measure provider x precision x threads first, save and use the fastest.
        frames: Frames to measure, 150 by default; a clip starts over when it is too short.
        bundle: Bundle folder, the package's own by default.
        plot: Where to write the latency plot (PNG).
    """
    loaded = load_bundle(bundle)
    tuned = tune_profile(loaded) if tune else None
    path = save_profile(tuned) if tuned else None
    profile = tuned or load_profile()
    num_frames = frames or DEFAULT_FRAMES
    main = _measure(source_spec, num_frames, bundle, profile, with_peers=False)
    rss_mb = peak_rss_mb()  # before peers and the other precision are loaded
    result = {
        "input": {
            "source": source_spec,
            "width": main.size_hw[1],
            "height": main.size_hw[0],
            "frames": main.num_frames,
        },
        "device": describe_device(profile),
        "latency_ms": _summary(main.timings) | _crossing(main.size_hw, num_frames),
        "fps_out": round(main.num_frames / main.wall_s, 2),
        "cpu_share": round(main.cpu_s / main.wall_s / (os.cpu_count() or 1), 3),
        "cpu_ms_per_frame": round(1e3 * main.cpu_s / main.num_frames, 2),
        "peak_rss_mb": round(rss_mb, 1),
        "startup_s": round(main.startup_s, 3),
        "generator": measure_generators(loaded, threads=_threads(profile)),
        "peers": {},
        "frames_blank": main.report["frames_blank"],
        "heads_replaced": main.report["heads_replaced"],
        "bundle_sha256": loaded.sha256,
    }
    if compare:
        result["peers"] = _compare(source_spec, num_frames, bundle, profile)
    if tuned and path:
        result["tuned"] = tuned | {"saved": str(path)}
    if plot is not None:
        _save_png(plot, draw_latency(main.timings, _title(result)))
    return result


def _measure(
    spec: str,
    num_frames: int,
    bundle: Path | None,
    profile: dict[str, Any] | None,
    *,
    with_peers: bool,
) -> _Pass:
    start_s = time.perf_counter()
    source = BenchSource(spec)
    try:
        sink = open_sink("null", size_hw=source.size_hw, fps=source.fps)
        loop = build_loop(source, sink, bundle=bundle, profile=profile)
        if not loop.step():
            raise InputError(f"{spec} has no frames, wanted at least one; choose another source")
        startup_s = time.perf_counter() - start_s
        for _ in range(WARMUP_FRAMES - 1):
            loop.step()
        peers = load_peers() if with_peers else {}
        for values in loop.timings.values():
            values.clear()
        peer_ms: dict[str, list[float]] = {name: [] for name in peers}
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        done = _run_frames(loop, source, num_frames, peers, peer_ms)
        wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
        sink.close()
    finally:
        source.close()
    if done == 0:
        raise InputError(
            f"{spec} ended in the warm-up, wanted > {WARMUP_FRAMES} frames; use a clip"
        )
    return _Pass(
        timings=loop.timings,
        num_frames=done,
        wall_s=wall_s,
        cpu_s=cpu_s,
        startup_s=startup_s,
        size_hw=source.size_hw,
        peer_ms=peer_ms,
        report=loop.report.to_json(),
    )


def _run_frames(
    loop: Loop,
    source: BenchSource,
    num_frames: int,
    peers: dict[str, Any],
    peer_ms: dict[str, list[float]],
) -> int:
    """Step through the frames; after each, every peer gets a copy of the same one."""
    for done in range(num_frames):
        if not loop.step():
            return done
        for name, peer in peers.items():
            assert source.last is not None
            copy = source.last.bgr.copy()
            start_ns = time.perf_counter_ns()
            peer(copy)
            peer_ms[name].append((time.perf_counter_ns() - start_ns) / 1e6)
    return num_frames


def _compare(
    spec: str, num_frames: int, bundle: Path | None, profile: dict[str, Any] | None
) -> dict[str, dict[str, Any]]:
    """p50 of each peer and how many times ours it is, both from one interleaved run."""
    num_frames = min(num_frames, MAX_COMPARE_FRAMES)
    run = _measure(spec, num_frames, bundle, profile, with_peers=True)
    ours = float(np.median(run.timings["total"]))
    peers: dict[str, dict[str, Any]] = {}
    for name, values in run.peer_ms.items():
        p50 = float(np.median(values))
        peers[name] = {
            "p50_ms": round(p50, 2),
            "ratio": round(p50 / ours, 2),
            "veilcam_p50_ms": round(ours, 2),
            "frames": len(values),
        }
    peers["deface"]["backend"] = peer_backend()
    return peers


def _summary(timings: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    names = ["total", *(name for name in timings if name != "total")]
    return {
        name: {key: round(value, 3) for key, value in percentiles(timings[name]).items()}
        for name in names
        if timings[name]
    }


def _crossing(size_hw: tuple[int, int], num_frames: int) -> dict[str, dict[str, float]]:
    """The stage `cross`, or nothing where one process does all."""
    if not has_two_processes():
        return {}
    try:
        measured = measure_crossing(size_hw, num_frames=min(num_frames, MAX_CROSS_FRAMES))
    except VeilcamError as error:
        _log.warning("the way to the second process was not measured: %s", error)
        return {}
    return {"cross": {key: round(value, 3) for key, value in measured["cross"].items()}}


def _fit(bgr: UInt8[np.ndarray, "h w 3"], size_hw: tuple[int, int]) -> UInt8[np.ndarray, "H W 3"]:
    """Scale to fit, with grey bars where the aspect differs."""
    height, width = bgr.shape[:2]
    scale = min(size_hw[0] / height, size_hw[1] / width)
    new_w, new_h = round(width * scale), round(height * scale)
    inner = cv2.resize(bgr, (new_w, new_h), interpolation=cv2.INTER_LINEAR)
    canvas = np.full((*size_hw, 3), 96, np.uint8)
    top, left = (size_hw[0] - new_h) // 2, (size_hw[1] - new_w) // 2
    canvas[top : top + new_h, left : left + new_w] = inner
    return canvas


def _threads(profile: dict[str, Any] | None) -> int:
    return int((profile or {}).get("threads", 2))


def _title(result: dict[str, Any]) -> str:
    size, total = result["input"], result["latency_ms"]["total"]
    return (
        f"{size['source']} {size['width']}x{size['height']}: added latency p50"
        f" {total['p50']:.1f} ms, p99 {total['p99']:.1f} ms"
    )


def _save_png(path: Path, bgr: UInt8[np.ndarray, "h w 3"]) -> None:
    temporary = path.with_name(f".{path.name}.tmp.png")
    try:
        temporary.write_bytes(cv2.imencode(".png", bgr)[1].tobytes())
        temporary.replace(path)
    except OSError as error:
        raise InputError(
            f"plot {path} cannot be written ({error.strerror}); choose another --plot"
        ) from error


def format_table(result: dict[str, Any]) -> str:
    """The result for people: one line per stage, then the rest."""
    size, generator = result["input"], result["generator"]
    lines = [
        f"{size['source']}  {size['width']}x{size['height']}  {size['frames']} frames",
        f"{'added latency, ms':20}{'p50':>9}{'p95':>9}{'p99':>9}{'max':>9}",
    ]
    for stage, values in result["latency_ms"].items():
        row = "".join(f"{values[key]:9.2f}" for key in ("p50", "p95", "p99", "max"))
        lines.append(f"{stage:20}{row}")
    lines += [
        f"frames per second   {result['fps_out']:9.1f}   (read, scale and sink included)",
        f"CPU share           {result['cpu_share']:9.2f}   of {result['device']['cores']} cores",
        f"peak memory, MB     {result['peak_rss_mb']:9.0f}",
        f"start-up, s         {result['startup_s']:9.2f}",
        f"generator, ms       {generator['int8_ms']:9.2f} int8  {generator['fp32_ms']:.2f} fp32 "
        f" PSNR {generator['psnr_db']:.1f} dB",
    ]
    for name, peer in result["peers"].items():
        lines.append(f"{name:20}{peer['p50_ms']:9.1f} ms p50, {peer['ratio']:.1f} times ours")
    if tuned := result.get("tuned"):
        lines.append(
            f"tuned: {tuned['precision']}, {tuned['threads']} threads,"
            f" {tuned['execution_provider']}; saved in {tuned['saved']}"
        )
    return "\n".join(lines)
