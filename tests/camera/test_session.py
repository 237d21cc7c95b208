"""`veilcam run` as a user starts it: the real models in the real processes."""

import json
import signal
import sys
from pathlib import Path

import av
import pytest

from veilcam.camera import barriers, cli, landlock, seccomp, session
from veilcam.camera.errors import ConfigError

LINUX = pytest.mark.skipif(not session.has_two_processes(), reason="two processes need Linux")


@LINUX
def test_run_writes_a_clip_from_two_processes(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.mp4"
    arguments = ["run", "demo", "--sink", f"file:{out}", "--frames", "6", "--json"]
    assert cli.call(arguments) == 0
    captured = capfd.readouterr()
    report = json.loads(captured.out)
    assert (report["frames_in"], report["frames_out"], report["faults"]) == (6, 6, 0)
    assert report["heads_replaced"] > 0
    assert report["barriers"]["processes"] == "two"
    assert {"total", "cross"} <= set(report["latency_ms"])
    with av.open(str(out)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 6
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


@LINUX
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/nonexistent.mp4"], "no such source"),
        (["demo", "--sink", "file:/nonexistent/a.mp4"], "no folder"),
        (["demo", "--bundle", "{0}"], "manifest.json"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    sink = [] if "--sink" in arguments else ["--sink", "null"]
    arguments = [text.format(tmp_path) for text in [*arguments, *sink]]
    assert cli.call(["run", *arguments, "--json"]) == 2
    captured = capfd.readouterr()
    assert message in captured.err
    assert len(captured.err.strip().splitlines()) == 1
    assert json.loads(captured.out)["exit_code"] == 2


@LINUX
def test_barriers_can_be_required(capfd: pytest.CaptureFixture[str]) -> None:
    if landlock.abi_version() < 1 or not seccomp.is_available():
        pytest.skip("this kernel has not all barriers, so the run is rightly refused")
    arguments = ["run", "demo", "--sink", "null", "--frames", "2", "--require-barriers", "--json"]
    assert cli.call(arguments) == 0
    found = json.loads(capfd.readouterr().out)["barriers"]
    assert found["missing"] == []
    assert all(found[role][name].startswith("up") for role in ("capture", "publish")
               for name in barriers.REQUIRED)  # fmt: skip


def test_one_process_cannot_promise_barriers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "has_two_processes", lambda: False)
    with pytest.raises(ConfigError, match=f"--require-barriers: {sys.platform} has none"):
        session.run_session(
            "demo", "null", bundle=None, delay_frames=0, max_frames=1, require_barriers=True
        )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_interrupt_asks_and_the_second_ends(number: int) -> None:
    before = signal.getsignal(number)
    with session._interrupts() as event:
        assert not event.is_set()
        signal.raise_signal(number)
        assert event.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) is before
