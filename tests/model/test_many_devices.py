"""Two processes on one problem give the numbers of one, and share one draw of noise."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

WORKER = Path(__file__).with_name("many_devices_worker.py")


def run(processes: int, folder: Path) -> list[dict[str, np.ndarray]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    outs = [folder / f"{processes}-{index}.npz" for index in range(processes)]
    started = [
        subprocess.Popen(
            [sys.executable, str(WORKER), address, str(processes), str(index), str(out)],
            stderr=subprocess.PIPE, env=os.environ | {"XLA_FLAGS": ""},
        )
        for index, out in enumerate(outs)
    ]  # fmt: skip
    for process in started:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors.decode()[-2000:]
    return [dict(np.load(out)) for out in outs]


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(tmp_path: Path) -> None:
    (alone,), (left, right) = run(1, tmp_path), run(2, tmp_path)
    rows = np.random.default_rng(0).normal(0, 1, (12, 5)).astype(np.float32)
    rows = rows * np.linspace(0.2, 2.0, 5).astype(np.float32)
    by_hand = (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1)).sum(0)
    for made in (alone, left, right):
        assert np.abs(made["total"] - by_hand).max() < 1e-5
        noises = [made[name] - made["total"] for name in ("first", "second")]
        assert not np.array_equal(*noises)
        assert all(0.05 < np.abs(noise).max() < 6 for noise in noises)
    for name in ("total", "first", "second"):
        assert np.array_equal(left[name], right[name])  # one draw of noise, not two
