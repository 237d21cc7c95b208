"""Throws seeded faults at every hop of the two real processes and looks for raw pixels at the sink.

    .venv/bin/python scripts/fault_storm.py --faults 10000 --mode scene --json storm.json

A fault is counted where it was carried out. Recovery is the time from a fault that ends or hangs a
process to the next good picture at the sink. A planted leak has to be found first.
"""

import argparse
import importlib.util
import itertools
import json
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import Any

from veilcam.camera.errors import VeilcamError
from veilcam.camera.notes import Limits
from veilcam.camera.settings import Settings
from veilcam.camera.supervise import Supervisor

_LIMITS = Limits(start_s=20.0)
_STORM = (signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM,
          signal.SIGWINCH, signal.SIGPIPE, signal.SIGTSTP)  # fmt: skip
MAX_RECOVERY_S = 2.0
_CALM_S = 3.0


def load_storm() -> ModuleType:
    """The test code with the failing parts."""
    path = Path(__file__).parents[1] / "tests" / "camera" / "storm.py"
    spec = importlib.util.spec_from_file_location("storm", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Killer:
    """Faults from outside: kills, stops and signal storms, one at a time."""

    def __init__(self, seed: int, every_s: float) -> None:
        self._random = random.Random(seed)
        self._every_s = every_s
        self._due_s = time.monotonic() + 2 * every_s
        self._restarts = 0
        self.injected: Counter[str] = Counter()
        self.deaths: list[tuple[float, str]] = []

    def __call__(self, supervisor: Supervisor) -> None:
        """Called at every tick of the supervisor."""
        now_s = time.monotonic()
        restarts = sum(supervisor.notes.restarts.values())
        if restarts != self._restarts:  # the next one when this has passed over
            self._restarts = restarts
            self._due_s = max(self._due_s, now_s + _CALM_S)
        if now_s < self._due_s or len(supervisor.pids) < 2 or self._every_s <= 0:
            return
        self._due_s = now_s + self._every_s * self._random.uniform(0.7, 1.3)
        role = self._random.choice(("capture", "capture", "publish"))
        kind = self._random.choice(("kill", "term", "stop", "signals", "signals"))
        pid = supervisor.pids[role]
        self.injected[f"{role}.{kind}"] += 1
        self.deaths += [] if kind == "signals" else [(now_s, f"{role}.{kind}")]
        if kind == "signals":
            for _ in range(50):
                os.kill(pid, self._random.choice(_STORM))
            return
        number = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "stop": signal.SIGSTOP}[kind]
        os.kill(pid, number)


def run_live(
    seed: int, num_faults: int, *, life_rate: float = 0.004, sink_rate: float = 0.00006,
    kill_every_s: float = 5.0, max_s: float = 900.0, mode: str = "face",
) -> dict[str, Any]:  # fmt: skip
    """One long live session under faults of every kind.

    Returns:
        `injected` by kind, `hits` and `checks` by how they were looked for, `recovery_s` and
        `still_s` (longest times without a good picture, and without any), `report`.
    """
    storm = load_storm()
    options = {
        "seed": seed, "life_rate": life_rate, "sink_rate": sink_rate, "truncated_rate": 0.1,
        "mode": mode,
    }  # fmt: skip
    killer = Killer(seed, kill_every_s)
    deadline_s = time.monotonic() + max_s
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(
            source="storm",
            sink="null",
            bundle=_truncated_bundle(Path(folder)),
            live_limit_s=0.3,
            source_limit_s=0.8,
        )
        supervisor = _supervisor(storm, settings, options)
        supervisor.on_tick = killer

        def is_over() -> bool:
            done = sum(_injected(supervisor).values()) + sum(killer.injected.values())
            return done >= num_faults or time.monotonic() > deadline_s

        report = supervisor.run(is_over)
    return summarize(
        supervisor, report, _injected(supervisor) + killer.injected, tuple(killer.deaths)
    )


def run_planted_leak(seed: int, mode: str = "face") -> dict[str, Any]:
    """A compose that lets the raw picture through: everyone who looks must find it."""
    storm = load_storm()
    settings = Settings(source="storm", sink="null", max_frames=400)
    supervisor = _supervisor(
        storm, settings, {"seed": seed, "leak": True, "frame_rate": 0.0, "mode": mode}
    )
    return summarize(supervisor, supervisor.run(lambda: False), Counter())


def run_full_disks(seed: int, count: int) -> Counter[str]:
    """Files on a disk that fills up: an error, no file, and what was there stays.

    Returns:
        How many runs ended like that (`sink.full_disk`), and how many did not (`wrong`).
    """
    storm, found = load_storm(), Counter[str]()
    for number in range(count):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / ("out.mp4" if number % 2 else "out.mkv")
            out.write_bytes(b"earlier")
            settings = Settings(source="storm", sink=f"file:{out}")
            options = {"seed": seed + number, "frame_rate": 0.0, "clip": 80, "full_disk": True}
            try:
                _supervisor(storm, settings, options).run(lambda: False)
                is_right = False
            except VeilcamError as error:
                is_right = "disk full" in str(error)
            is_right &= [p.name for p in Path(folder).iterdir()] == [out.name]
            is_right &= out.read_bytes() == b"earlier"
            found["sink.full_disk" if is_right else "wrong"] += 1
    return found


def _supervisor(storm: ModuleType, settings: Settings, options: dict[str, Any]) -> Supervisor:
    return Supervisor(
        settings,
        capture_command=storm.command("capture", **options),
        publish_command=storm.command("publish", **options),
        limits=_LIMITS,
    )


def _truncated_bundle(folder: Path) -> str:
    """A copy of the shipped bundle with half of its graph cut off."""
    target = folder / "cut.veil"
    shutil.copytree(str(files("veilcam.camera.assets") / "face.veil"), target)
    graph = target / "int8.onnx"
    graph.write_bytes(graph.read_bytes()[:1000])
    return str(target)


def _injected(supervisor: Supervisor) -> Counter[str]:
    total: Counter[str] = Counter()
    for values in supervisor.notes.capture_values.values():
        total.update(values.get("injected", {}))
    return total


def summarize(
    supervisor: Supervisor, report: dict[str, Any], injected: Counter[str],
    deaths: tuple[tuple[float, str], ...] = (),
) -> dict[str, Any]:  # fmt: skip
    """The figures of a run out of what every publish process reported."""
    lives = list(supervisor.notes.publish_values.values())
    sums = {"hits": Counter[str](), "checks": Counter[str]()}
    for life in lives:
        for name, counter in sums.items():
            counter.update(life.get(name, {}))
    recoveries = _recoveries(supervisor, lives, deaths)
    still = max((life.get("longest_still_s", 0.0) for life in lives), default=0.0)
    return {
        "injected": dict(sorted(injected.items())),
        "faults": sum(injected.values()),
        "hits": dict(sums["hits"]),
        "checks": dict(sums["checks"]),
        "deadly": len(recoveries),
        "recovery_s": {
            "p50": round(recoveries[len(recoveries) // 2][0], 3) if recoveries else 0.0,
            "max": max((s for s, kind in recoveries if not kind.endswith("+")), default=0.0),
            "max_of_two": max((s for s, kind in recoveries if kind.endswith("+")), default=0.0),
            "longest": dict((kind, seconds) for seconds, kind in recoveries[-8:]),
        },
        "still_s": round(still, 3),
        "pictures": sum(int(life.get("frames_out", 0)) for life in lives),
        "good": sum(int(life.get("good", 0)) for life in lives),
        "report": {k: v for k, v in report.items() if k not in ("latency_ms", "injected")},
    }


def _recoveries(
    supervisor: Supervisor, lives: list[dict[str, Any]], deaths: tuple[tuple[float, str], ...]
) -> list[tuple[float, str]]:
    """Seconds from each deadly fault to the next good picture, and its kind; longest last.

    Where another deadly fault came before the picture was back, the kind says so (`+`).
    """
    gaps = [(float(start), end) for life in lives for start, end in life.get("gaps", {}).items()]
    seen = sorted(
        (life["first_good_s"], life["last_good_s"]) for life in lives if life.get("first_good_s")
    )
    gaps += [(before[1], after[0]) for before, after in itertools.pairwise(seen)]
    faults = list(deaths)
    for values in supervisor.notes.capture_values.values():
        faults += [(at_s, kind) for kind, at_s in values.get("died", {}).items()]
    found = []
    for at_s, kind in faults:
        ends = [end for start, end in gaps if start - 0.2 <= at_s <= end]
        if ends:  # the last one has none: the storm was over
            is_chain = any(at_s < other_s < max(ends) for other_s, _ in faults)
            found.append((round(max(ends) - at_s, 3), kind + "+" * is_chain))
    return sorted(found)


def main(argv: list[str], out: Callable[[str], object] = print) -> int:
    """Runs all parts; exit code 1 where something leaked, stayed away or was not found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mode", choices=("face", "scene", "frame"), default="face")
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.ERROR)
    start_s = time.monotonic()
    control = run_planted_leak(options.seed, options.mode)
    disks = run_full_disks(options.seed, 6)
    result = run_live(options.seed, options.faults - disks["sink.full_disk"], mode=options.mode)
    result["injected"] |= disks
    result["faults"] += disks["sink.full_disk"]
    result["positive_control"] = {"hits": control["hits"], "checks": control["checks"]}
    result["mode"] = options.mode
    result["wall_s"] = round(time.monotonic() - start_s, 1)
    is_found = all(control["hits"].get(how, 0) > 0 for how in ("pixels", "jpeg", "h264"))
    is_clean = not any(result["hits"].values()) and not disks["wrong"]
    is_quick = result["recovery_s"]["max"] <= MAX_RECOVERY_S
    result["verdict"] = "pass" if is_found and is_clean and is_quick else "fail"
    text = json.dumps(result, indent=1)
    if options.json is not None:
        options.json.write_text(text + "\n")
    out(text)
    return 0 if result["verdict"] == "pass" else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
