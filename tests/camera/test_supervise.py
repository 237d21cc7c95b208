"""Two real processes: what comes out when one of them fails, is killed or hangs."""

import importlib.util
import os
import signal
import sys
from pathlib import Path
from types import ModuleType

import av
import numpy as np
import pytest

if not sys.platform.startswith("linux"):
    pytest.skip("two processes need Linux", allow_module_level=True)

from veilcam.camera.errors import InputError
from veilcam.camera.notes import Limits, WorkerError
from veilcam.camera.process import Process
from veilcam.camera.settings import Settings
from veilcam.camera.supervise import Supervisor


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


storm = load("storm")


def supervisor(sink: str = "null", *, max_frames: int = 0, **options) -> Supervisor:
    return Supervisor(
        Settings(source="storm", sink=sink, max_frames=max_frames, live_limit_s=0.5),
        capture_command=storm.command("capture", frame_rate=0.0, **options),
        publish_command=storm.command("publish", **options),
        limits=Limits(start_s=30.0),
    )


def pictures(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]


def is_blank(picture: np.ndarray) -> bool:
    return bool(np.ptp(picture) < 12)


class Once:
    """Sends a signal to a role when so many pictures are out."""

    def __init__(self, role: str, number: int, after: int) -> None:
        self.role, self.number, self.after, self.is_done = role, number, after, False

    def __call__(self, watched: Supervisor) -> None:
        out = sum(v.get("frames_out", 0) for v in watched.notes.publish_values.values())
        if not self.is_done and out >= self.after and self.role in watched.pids:
            self.is_done = True
            os.kill(watched.pids[self.role], self.number)


def good(watched: Supervisor) -> int:
    return sum(int(v.get("good", 0)) for v in watched.notes.publish_values.values())


def hits(watched: Supervisor) -> int:
    return sum(sum(v.get("hits", {}).values()) for v in watched.notes.publish_values.values())


def test_every_picture_of_a_clip_arrives_once(tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    report = supervisor(f"file:{out}", clip=40).run(lambda: False)
    assert len(pictures(out)) == 40
    assert not any(is_blank(p) for p in pictures(out))
    assert (report["frames_in"], report["frames_out"], report["frames_blank"]) == (40, 40, 0)
    assert report["restarts"] == {"capture": 0, "publish": 0}
    assert report["barriers"]["processes"] == "two"
    assert set(report["latency_ms"]["cross"]) == {"p50", "p95", "p99", "max"}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_clip_survives_the_death_of_capture_with_one_blank_for_the_lost_frame(
    tmp_path: Path, number: int
) -> None:
    out = tmp_path / "out.mp4"
    run = supervisor(f"file:{out}", clip=400)
    run.on_tick = Once("capture", number, 20)
    report = run.run(lambda: False)
    found = [is_blank(p) for p in pictures(out)]
    assert len(found) == report["frames_out"] == 400
    first = found.index(True)
    assert found[first : first + 6] == [True] * 6  # the lost one and those without tracks
    assert sum(found) == 6 == report["frames_blank"]
    assert report["faults_by_stage"]["capture_lost"] == report["restarts"]["capture"] == 1
    assert hits(run) == 0


@pytest.mark.parametrize(
    ("role", "number", "fault"),
    [
        ("capture", signal.SIGKILL, "capture_lost"),
        ("capture", signal.SIGSTOP, "capture_hung"),
        ("publish", signal.SIGKILL, "publish_lost"),
        ("publish", signal.SIGSTOP, "publish_hung"),
    ],
)
def test_a_live_picture_comes_back(role: str, number: int, fault: str) -> None:
    run = supervisor()
    run.on_tick = Once(role, number, 30)
    before: list[int] = []

    def is_over() -> bool:
        if run.notes.restarts[role] and not before:
            before.append(good(run))
        return bool(before) and good(run) > before[0] + 20

    report = run.run(is_over)
    assert report["faults_by_stage"][fault] == report["restarts"][role] == 1
    assert hits(run) == 0
    if role == "capture":
        assert report["frames_blank"] >= 1
        assert report["outages"] == 1


def test_signals_that_are_no_death_change_nothing() -> None:
    run = supervisor(max_frames=300)

    def storm_of_signals(watched: Supervisor) -> None:
        for pid in watched.pids.values():
            for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGALRM):
                if watched.notes.was_up:
                    os.kill(pid, number)

    run.on_tick = storm_of_signals
    report = run.run(lambda: False)
    assert (report["frames_in"], report["faults"]) == (300, 0)


def test_a_file_is_dropped_when_publish_dies(tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    out.write_bytes(b"earlier")
    run = supervisor(f"file:{out}", clip=4000)
    run.on_tick = Once("publish", signal.SIGKILL, 5)
    with pytest.raises(WorkerError, match=r"publish process ended .signal 9.; the output was"):
        run.run(lambda: False)
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
    assert out.read_bytes() == b"earlier"


def test_a_stop_ends_with_a_playable_clip(tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    run = supervisor(f"file:{out}", clip=10**6)
    report = run.run(lambda: any(v.get("frames_out") for v in run.notes.publish_values.values()))
    assert 0 < len(pictures(out)) == report["frames_out"] < 10**6


def test_a_full_disk_is_one_error_and_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out.mkv"
    with pytest.raises(InputError, match="disk full"):
        supervisor(f"file:{out}", clip=80, full_disk=True).run(lambda: False)
    assert not list(tmp_path.iterdir())


def test_an_unknown_sink_and_a_missing_source_are_input_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown sink 'hologram'"):
        supervisor("hologram", clip=3).run(lambda: False)
    settings = Settings(source=str(tmp_path / "none.mp4"), sink="null")
    with pytest.raises(InputError, match="no such source"):
        Supervisor(settings).run(lambda: False)


def test_a_process_that_cannot_start_ends_the_run() -> None:
    broken = (sys.executable, "-c", "raise SystemExit(3)")
    run = Supervisor(
        Settings(source="storm", sink="null"),
        capture_command=broken,
        publish_command=storm.command("publish"),
    )
    with pytest.raises(WorkerError, match=r"capture ended 6 times in a row .exit code 3."):
        run.run(lambda: False)


def test_no_process_and_no_descriptor_stays_behind() -> None:
    folder = Path("/proc/self/fd")
    before = sorted(folder.iterdir())
    run = supervisor(max_frames=50)
    seen: set[int] = set()
    run.on_tick = lambda watched: seen.update(watched.pids.values())
    run.run(lambda: False)
    assert len(seen) == 2
    assert not any(Path(f"/proc/{pid}").exists() for pid in seen)
    assert sorted(folder.iterdir()) == before


def test_a_dead_supervisor_takes_capture_along(tmp_path: Path) -> None:
    code = (
        "import sys, importlib.util as u\n"
        f"s = u.spec_from_file_location('t', {__file__!r}); m = u.module_from_spec(s)\n"
        "s.loader.exec_module(m); r = m.supervisor()\n"
        f"r.on_tick = lambda w: open({str(tmp_path / 'pids')!r}, 'w').write(' '.join(map(str, "
        "w.pids.values()))) if w.notes.was_up else None\n"
        "r.run(lambda: False)\n"
    )
    parent = Process((sys.executable, "-c", code), ())
    pids: list[int] = []
    while not pids and parent.is_alive():
        parent.link.wait(0.1)
        if (tmp_path / "pids").is_file():
            pids = [int(word) for word in (tmp_path / "pids").read_text().split()]
    parent.kill()
    parent.close()
    watched = [os.pidfd_open(pid) for pid in pids if Path(f"/proc/{pid}").exists()]
    import select

    for descriptor in watched:
        assert select.select([descriptor], [], [], 20)[0], "it lives on"
        os.close(descriptor)


def test_a_spare_that_waited_long_is_not_taken_for_one_that_hangs() -> None:
    run = supervisor()
    ages: list[float] = []

    def age(watched: Supervisor) -> None:
        for process in watched._crew.spare.values():
            process.started_s = -1e6
            ages.append(process.started_s)
        if ages:
            kill(watched)

    kill = Once("capture", signal.SIGKILL, 30)
    run.on_tick = age
    report = run.run(lambda: run.notes.restarts["capture"] > 0 and good(run) > 60)
    assert ages
    assert report["restarts"]["capture"] == 1
    assert report["faults_by_stage"] == {"capture_lost": 1}
