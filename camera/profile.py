"""The device profile: which provider, precision and threads paint fastest here, by measurement."""

import json
import os
import platform
import resource
import sys
import time
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
import onnxruntime as ort

from veilcam.camera.code import HEAD_FIELDS, dequantize_levels
from veilcam.camera.errors import SinkError, VeilcamError
from veilcam.camera.generator import Generator, premultiply
from veilcam.camera.manifest import Bundle, Precision
from veilcam.camera.session import profile_path

MAX_THREADS = 4
_SETTINGS = ("execution_provider", "precision", "threads")
NUM_RUNS = 40
_WARMUP_RUNS = 5
_NUM_PARITY_CODES = 32
_TRUNCATION = 0.8  # as the encoder draws latents
_NOT_LOCAL = {"AzureExecutionProvider"}  # sends data to a server: never


def time_generators(generators: list[Generator], num_runs: int = NUM_RUNS) -> list[float]:
    """Median milliseconds of each generator for one head, runs taken in turns.

    Turns spread what else the machine does over all of them.
    """
    random = np.random.default_rng(0)
    times: list[list[float]] = [[] for _ in generators]
    for run in range(num_runs + _WARMUP_RUNS):
        values = dequantize_levels(random.integers(0, 4, len(HEAD_FIELDS)))
        for generator, taken_ms in zip(generators, times, strict=True):
            start_ns = time.perf_counter_ns()
            generator.paint(values, generator.bundle.mean)
            if run >= _WARMUP_RUNS:
                taken_ms.append((time.perf_counter_ns() - start_ns) / 1e6)
    return [float(np.median(taken_ms)) for taken_ms in times]


def measure_generators(bundle: Bundle, *, threads: int = 2) -> dict[str, float]:
    """`int8_ms`, `fp32_ms` for one head, runs in turns, and the PSNR between them in dB."""
    int8, fp32 = (Generator(bundle, precision=name, threads=threads) for name in ("int8", "fp32"))
    int8_ms, fp32_ms = time_generators([int8, fp32])
    random = np.random.default_rng()
    errors = []
    for _ in range(_NUM_PARITY_CODES):
        values = dequantize_levels(random.integers([2**field.bits for field in HEAD_FIELDS]))
        noise = random.standard_normal(bundle.mean.shape, np.float32)
        latent = bundle.mean + _TRUNCATION * (bundle.chol @ noise)
        pair = [premultiply(g.paint(values, latent)) for g in (int8, fp32)]
        errors.append(float(np.mean(np.square(pair[0] - pair[1]))))
    psnr_db = 10 * np.log10(255.0**2 / max(float(np.mean(errors)), 1e-6))
    return {
        "int8_ms": round(int8_ms, 3),
        "fp32_ms": round(fp32_ms, 3),
        "psnr_db": round(float(psnr_db), 2),
    }


def tune(bundle: Bundle) -> dict[str, Any]:
    """Measure every provider x precision x threads here and return the fastest, with the rest.

    Returns:
        `execution_provider`, `precision`, `threads`, `generate_ms`, `bundle_sha256`, and
        `candidates`: one entry each, with `ms` or with `error` where it does not run.
    """
    cores = os.cpu_count() or 1
    candidates: list[dict[str, Any]] = []
    generators: list[Generator] = []
    for provider in ort.get_available_providers():
        for precision in get_args(Precision):
            for threads in range(1, min(cores, MAX_THREADS) + 1):
                if provider in _NOT_LOCAL or (provider != "CPUExecutionProvider" and threads > 1):
                    continue
                entry: dict[str, Any] = {
                    "execution_provider": provider,
                    "precision": precision,
                    "threads": threads,
                }
                try:
                    generators.append(Generator(bundle, **entry))
                    candidates.append(entry)
                except VeilcamError as error:
                    candidates.append(entry | {"error": str(error)})
    working = [entry for entry in candidates if "error" not in entry]
    for entry, ms in zip(working, time_generators(generators), strict=True):
        entry["ms"] = round(ms, 3)
    best = min(working, key=lambda entry: entry["ms"])
    return {
        "execution_provider": best["execution_provider"],
        "precision": best["precision"],
        "threads": best["threads"],
        "generate_ms": best["ms"],
        "bundle_sha256": bundle.sha256,
        "candidates": candidates,
    }


def save_profile(profile: dict[str, Any]) -> Path:
    """Write the device profile where `veilcam run` looks for it, and return the path."""
    path = profile_path()
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(profile, indent=1) + "\n")
        temporary.replace(path)
    except OSError as error:
        raise SinkError(
            f"device profile {path} cannot be written ({error.strerror}); set XDG_CONFIG_HOME to a"
            " folder that can"
        ) from error
    return path


def peak_rss_mb() -> float:
    """Most resident memory this process ever had, MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def describe_device(profile: dict[str, Any] | None) -> dict[str, Any]:
    """Processor and settings: figures mean nothing without them."""
    model, flags = platform.processor() or platform.machine(), ""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines: dict[str, str] = {}
        for line in cpuinfo.read_text().splitlines():
            key, _, value = line.partition(":")
            lines[key.strip()] = value.strip()
        model, flags = lines.get("model name", model), lines.get("flags", "")
    settings = {
        "execution_provider": "CPUExecutionProvider",
        "precision": "int8",
        "threads": 2,
    } | {k: v for k, v in (profile or {}).items() if k in _SETTINGS}
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "has_vnni": "vnni" in flags,
        "load_average": round(os.getloadavg()[0], 2),
        "onnxruntime": ort.__version__,
        "opencv": cv2.__version__,
        **settings,
    }
