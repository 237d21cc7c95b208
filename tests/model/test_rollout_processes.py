"""Real devices and a real server on loopback: a stage goes out, the server is killed, it ends."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

pytest.importorskip("Crypto", reason="./scripts/setup federate")

from tests.model.rollout_rig import halves, write_bundle
from veilcam.camera.cli import cli
from veilcam.camera.manifest import default_bundle_path, load_bundle
from veilcam.model.cli_federate import federate
from veilcam.model.federate_keys import Roster, make_certificates, make_identity
from veilcam.model.rollout_offer import make_key
from veilcam.model.rollout_state import Rollout, Rules, begin

_WAIT_S = 60.0
NUM = 8


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Fleet:
    """Processes of a server and of devices; a thread stands in for every device's loop."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.old, self.new = (write_bundle(folder / f"{n}.veil", n) for n in ("old", "new"))
        self.names = halves(self.new, NUM)
        lines = {name: make_identity(folder / "keys" / name) for name in self.names}
        self.roster = Roster(lines)
        self.roster.write(folder / "roster.json")
        self.root = make_certificates(folder / "link")
        self.public = make_key(folder / "update.key")
        rules = Rules(stages=(50.0, 100.0), min_reports=2, quorum=1.0)
        begin(
            folder / "rollout", folder / "new.veil", self.old, folder / "update.key", self.roster,
            rules, local_epsilon=15.0, min_samples=3, patience_s=1e4,
        )  # fmt: skip
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.is_counting, self.bad, self._is_over = False, "", False
        self._loops = threading.Thread(target=self._run_loops, daemon=True)
        self._loops.start()

    def start(self, name: str, *args: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            command = [sys.executable, "-m", "veilcam.camera.cli", "federate", *args]
            self.processes[name] = subprocess.Popen(command, stdout=log, stderr=log)

    def start_server(self) -> None:
        self.start("server", "rollout", "serve", str(self.folder), "--port", str(self.port))

    def start_device(self, name: str) -> None:
        place = self.folder / "devices" / name
        place.mkdir(parents=True, exist_ok=True)
        self.start(
            name, "device", str(place), "--name", name, "--key", str(self.folder / "keys" / name),
            "--trust", self.public, "--pulse", str(place / "pulse.json"), "--root",
            str(self.root), "--server", f"127.0.0.1:{self.port}", "--every", "0.3",
            "--bundle", str(self.folder / "old.veil"), "--max-epsilon", "50",
        )  # fmt: skip

    def kill(self, name: str) -> None:
        process = self.processes.pop(name)
        process.send_signal(signal.SIGKILL)
        assert process.wait(10) == -signal.SIGKILL

    def _run_loops(self) -> None:
        samples: dict[tuple[str, str], int] = {}
        while not self._is_over:
            for name in self.names:
                place = self.folder / "devices" / name
                if (place / "current.veil").exists():
                    sha256 = self.runs(name)
                    key = (name, sha256)
                    samples[key] = samples.get(key, 0) + self.is_counting
                    audit = {
                        "samples": samples[key],
                        "alarms": int(sha256 == self.bad),
                    }  # from its first moment on
                    partial = place / "pulse.partial"
                    partial.write_text(json.dumps({"bundle_sha256": sha256, "audit": audit}))
                    partial.replace(place / "pulse.json")
            time.sleep(0.1)

    def runs(self, name: str) -> str:
        return (self.folder / "devices" / name / "current.veil").readlink().stem

    def state(self) -> Any:
        return Rollout(self.folder / "rollout", self.roster).state

    def until(self, what: str, is_so: Any) -> None:
        end = time.monotonic() + _WAIT_S
        while time.monotonic() < end:
            if is_so():
                return
            for name, process in self.processes.items():
                assert process.poll() is None, (self.folder / f"{name}.log").read_text()
            time.sleep(0.2)
        logs = [(self.folder / f"{name}.log").read_text() for name in self.processes]
        raise AssertionError(f"{what}: {self.state()} {logs}")

    def close(self) -> None:
        self._is_over = True
        self._loops.join(10)
        for name in list(self.processes):
            self.kill(name)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(tmp_path)
    try:
        made.start_server()
        for name in made.names:
            made.start_device(name)
        yield made
    finally:
        made.close()


def test_a_stage_survives_the_death_of_server_and_device_and_the_fleet_ends_new(
    fleet: Fleet,
) -> None:
    fleet.until("first stage", lambda: len(fleet.state().taken) == NUM // 2)
    inside, outside = fleet.names[: NUM // 2], fleet.names[NUM // 2 :]
    assert [fleet.runs(name) for name in inside] == [fleet.new] * 4
    assert [fleet.runs(name) for name in outside] == [fleet.old] * 4
    fleet.kill("server")
    fleet.kill(inside[0])
    fleet.is_counting = True  # verdicts are drawn while nobody can be told
    fleet.start_server()
    fleet.start_device(inside[0])
    fleet.until("done", lambda: fleet.state().status == "done")
    state = fleet.state()
    assert [d["outcome"] for d in state.decisions] == ["widened to 100 %", "done"]
    assert {name: sorted(told) for name, told in state.answers.items()} == {
        **{name: ["new"] for name in inside},
        **{name: ["former", "new"] for name in outside},
    }
    for name in fleet.names:
        path = fleet.folder / "devices" / name / "current.veil"
        assert load_bundle(path).sha256 == fleet.new


def test_a_worse_bundle_comes_back_from_every_device(fleet: Fleet) -> None:
    fleet.bad, fleet.is_counting = fleet.new, True
    fleet.until("rolled back", lambda: fleet.state().status == "rolled_back")
    fleet.until("all went back", lambda: all(fleet.runs(n) == fleet.old for n in fleet.names))
    (decision,) = fleet.state().decisions
    assert decision["outcome"] == "rolled back"
    assert decision["new"]["noisy_fails"] == 4
    assert decision["former"]["noisy_fails"] == 0


@pytest.mark.slow
def test_the_real_audit_decides_whether_a_bundle_goes_out(tmp_path: Path) -> None:
    """Two minutes. Where no second recognizer is installed, the audit is broken: it stays here."""
    sha256 = load_bundle(None).sha256
    names = halves(sha256, NUM)
    Roster({n: make_identity(tmp_path / n) for n in names}).write(tmp_path / "roster.json")
    make_key(tmp_path / "update.key")
    bundle = str(default_bundle_path())
    audit = CliRunner().invoke(cli, ["audit", bundle, "--quick", "--json"])
    report = tmp_path / "audit.json"
    report.write_text(audit.stdout)
    verdict = json.loads(audit.stdout)["verdict"]
    begun = CliRunner().invoke(
        federate,
        ["rollout", "begin", str(tmp_path), bundle, "--former", bundle, "--key",
         str(tmp_path / "update.key"), "--audit", str(report), "--stage", "50", "--stage", "100",
         "--min-reports", "2", "--json"],
    )  # fmt: skip
    if verdict == "pass":
        assert json.loads(begun.stdout)["audit"]["verdict"] == "pass"
    else:
        assert f"verdict is {verdict!r}" in str(begun.exception)
        assert not (tmp_path / "rollout").exists()
