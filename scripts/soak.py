"""Frames as fast as they come for a long time: memory, descriptors and threads of every process.

    .venv/bin/python scripts/soak.py --minutes 60 --csv soak.csv --plot soak.png
    .venv/bin/python scripts/soak.py --minutes 5 --source demo       # the real models

Without --source the pictures and parts are the fault storm's, right ones only, so that many more
frames pass through loop, ring, control and sink. Exit code 1 where something grows: the last
quarter of the run is compared with the second.
"""

import argparse
import csv
import itertools
import json
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from veilcam.camera.settings import Settings
from veilcam.camera.supervise import Supervisor

_EVERY_S = 1.0
_MAX_GROWTH = {"rss_mb": 8.0, "fds": 2.0, "threads": 2.0}
_COLUMNS = ("time_s", "role", "pid", "rss_mb", "fds", "threads", "frames")


def measure(pid: int) -> dict[str, float]:
    """Resident memory that is the process's own (MB), open descriptors and threads."""
    folder = Path(f"/proc/{pid}")
    status = dict(
        line.split(":", 1) for line in (folder / "status").read_text().splitlines() if ":" in line
    )
    own_kb = int(status["RssAnon"].split()[0])
    return {
        "rss_mb": own_kb / 1024,
        "fds": float(len(list((folder / "fd").iterdir()))),
        "threads": float(status["Threads"]),
    }


class Watcher:
    """Takes a sample of each process every second."""

    def __init__(self) -> None:
        self.samples: list[dict[str, Any]] = []
        self._start_s = time.monotonic()
        self._due_s = 0.0

    def __call__(self, supervisor: Supervisor) -> None:
        """Called at every tick of the supervisor."""
        now_s = time.monotonic() - self._start_s
        if now_s < self._due_s or not supervisor.notes.was_up:
            return
        self._due_s = now_s + _EVERY_S
        frames = sum(int(v.get("frames_out", 0)) for v in supervisor.notes.publish_values.values())
        for role, pid in ({"supervisor": "self"} | supervisor.pids).items():
            try:
                values = measure(pid)  # type: ignore[arg-type]
            except (OSError, KeyError):
                continue
            row = {"time_s": round(now_s, 1), "role": role, "pid": pid, **values, "frames": frames}
            self.samples.append(row)


def growth(samples: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """For each role the last values, and medians of the last quarter less the second one's."""
    found: dict[str, dict[str, float]] = {}
    for role in sorted({row["role"] for row in samples}):
        rows = [row for row in samples if row["role"] == role]
        quarter = max(1, len(rows) // 4)
        early, late = rows[quarter : 2 * quarter] or rows, rows[-quarter:]
        found[role] = {name: round(rows[-1][name], 1) for name in _MAX_GROWTH}
        for name in _MAX_GROWTH:
            change = np.median([r[name] for r in late]) - np.median([r[name] for r in early])
            found[role][f"{name}_growth"] = round(float(change), 2)
    return found


def draw(samples: list[dict[str, Any]], path: Path) -> None:
    """Memory, descriptors and threads over time."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(3, 1, figsize=(8, 7), sharex=True)
    for axis, name in zip(axes, _MAX_GROWTH, strict=True):
        for role in sorted({row["role"] for row in samples}):
            rows = [row for row in samples if row["role"] == role]
            times_s, values = [row["time_s"] for row in rows], [row[name] for row in rows]
            axis.plot(times_s, values, label=role)
        axis.set_ylabel(name)
        axis.set_ylim(bottom=0)
    axes[0].legend()
    axes[-1].set_xlabel("seconds")
    figure.savefig(path, dpi=110)


def make_supervisor(source: str) -> Supervisor:
    """Real models on a source that is started over, or the storm's parts without faults."""
    sys.path.insert(0, str(Path(__file__).parent))
    from fault_storm import load_storm

    if source:
        return Supervisor(Settings(source=source, sink="null"))
    storm = load_storm()
    calm = {"frame_rate": 0.0, "clip": 10**9}
    return Supervisor(
        Settings(source="storm", sink="null"),
        capture_command=storm.command("capture", **calm),
        publish_command=storm.command("publish", **calm),
    )


def main(argv: list[str], out: Callable[[str], object] = print) -> int:
    """Runs the soak; 0 where nothing grew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--source", default="", help="a clip or `demo`: run over and over")
    parser.add_argument("--csv", type=Path, default=None)
    parser.add_argument("--plot", type=Path, default=None)
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.ERROR)
    watcher, start_s, reports = Watcher(), time.monotonic(), []
    for _ in itertools.count():
        supervisor = make_supervisor(options.source)
        supervisor.on_tick = watcher
        reports.append(supervisor.run(lambda: time.monotonic() - start_s > 60 * options.minutes))
        if time.monotonic() - start_s > 60 * options.minutes:
            break
    found = growth(watcher.samples)
    is_flat = all(
        values[f"{name}_growth"] <= limit
        for values in found.values()
        for name, limit in _MAX_GROWTH.items()
    )
    if options.csv is not None:
        with options.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, _COLUMNS)
            writer.writeheader()
            writer.writerows(watcher.samples)
    if options.plot is not None:
        draw(watcher.samples, options.plot)
    value = {
        "minutes": round((time.monotonic() - start_s) / 60, 1),
        "runs": len(reports),
        "frames_out": sum(report["frames_out"] for report in reports),
        "faults": sum(report["faults"] for report in reports),
        "processes": found,
        "verdict": "flat" if is_flat else "grows",
    }
    out(json.dumps(value, indent=1))
    return 0 if is_flat else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
