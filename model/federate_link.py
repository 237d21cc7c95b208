"""Flower's processes and connections: SuperLink, registered nodes, the run, a node's connection.

The SuperLink carries messages; it is `flower-superlink` with TLS and registered node keys. From
other machines only its part for nodes can be reached: its control part would let anybody start
code on the server. A node does not use `flower-supernode`, which runs whatever application the
server sends it: it opens the same authenticated connection and answers by the code installed on
it. Flower's telemetry and update check are off.

Pinned to flwr 1.42: the connection and the object store are not part of its stable interface.
"""

import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from veilcam.camera.errors import InputError, VeilcamError
from veilcam.model.federate_keys import Roster, make_certificates, read_key
from veilcam.model.federate_wire import Payload

_log = logging.getLogger(__name__)
NODES, PID, CONNECTION = "nodes.json", "app.pid", "veilcam"
_START_S, _CLI_S = 90.0, 120.0
_LINGER_S = 30.0
_APP = """\
from veilcam.model.federate_flower import server_app as server
from veilcam.model.federate_flower import no_client as client
__all__ = ["client", "server"]
"""
_PROJECT = """\
[project]
name = "veilcam-federation"
version = "0.1.0"
description = "Federated training; the code is the installed veilcam"
license = "Apache-2.0"
dependencies = []
[tool.flwr.app]
publisher = "veilcam"
[tool.flwr.app.components]
serverapp = "veilcam_federation.app:server"
clientapp = "veilcam_federation.app:client"
[tool.flwr.app.config]
folder = ""
timeout-s = 60.0
"""


class LinkError(VeilcamError):
    """The SuperLink can't be started or reached."""

    exit_code = 1


QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def quiet_environment(home: Path) -> dict[str, str]:
    """Environment in which Flower reports nothing and keeps its files in `home`."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return os.environ | threads | QUIET | {"FLWR_HOME": str(home), "PATH": path}


class SuperLink:
    """A SuperLink process with its nodes registered; use `with`.

    Args:
        folder: Certificates, database and logs; kept between starts.
        roster: Whose keys are registered.
        port: TCP port.
        host: Address to listen at.
        names: Host names and addresses that the certificate is good for.

    Raises:
        LinkError: It does not come up; its log says why.
    """

    def __init__(
        self,
        folder: Path,
        roster: Roster,
        *,
        port: int,
        host: str = "127.0.0.1",
        names: tuple[str, ...] = ("localhost", "127.0.0.1"),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.port = folder, port
        self.root = make_certificates(folder, tuple(dict.fromkeys((*names, "127.0.0.1"))))
        self._environment = quiet_environment(folder / "flower")
        os.environ |= QUIET
        (folder / "flower").mkdir(exist_ok=True)
        (folder / "flower" / "config.toml").write_text(
            f'[superlink]\ndefault = "{CONNECTION}"\n[superlink.{CONNECTION}]\n'
            f'address = "127.0.0.1:{port}"\nroot-certificates = "{self.root.resolve()}"\n'
        )
        command = [
            sys.executable, "-m", "veilcam.model.federate_superlink",
            "--ssl-ca-certfile", str(self.root), "--ssl-certfile", str(folder / "server.crt"),
            "--ssl-keyfile", str(folder / "server.key"), "--enable-supernode-auth",
            "--database", str(folder / "link.db"), "--host", host, "--port", str(port),
            "--disable-runtime-dependency-installation",
        ]  # fmt: skip
        self._stream = (folder / "superlink.log").open("ab")
        self._process = subprocess.Popen(
            command, env=self._environment, stdout=self._stream, stderr=self._stream,
            start_new_session=True,
        )  # fmt: skip
        try:
            self._wait()
            self.node_ids = self._register(roster)
        except BaseException:
            self.close()
            raise

    def _wait(self) -> None:
        end = time.monotonic() + _START_S
        while time.monotonic() < end:
            if self._process.poll() is not None:
                break
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                time.sleep(0.2)
        raise LinkError(f"the SuperLink did not start; see {self.folder / 'superlink.log'}")

    def _register(self, roster: Roster) -> dict[str, int]:
        """Node ids by name; those of an earlier start are known to the database."""
        from veilcam.model.federate_flower import register

        path = self.folder / NODES
        known: dict[str, dict[str, str]] = json.loads(path.read_text()) if path.exists() else {}
        new = {n: k for n, k in roster.lines.items() if known.get(n, {}).get("key") != k}
        for name, number in register(f"127.0.0.1:{self.port}", self.root, new):
            known[name] = {"key": new[name], "id": str(number)}
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps(known, indent=1) + "\n")
            partial.replace(path)
        return {name: int(known[name]["id"]) for name in roster.lines}

    def run(self, folder: Path, timeout_s: float, tick: Callable[[], None]) -> None:
        """Starts the federation of `folder` and waits for its end, calling `tick` meanwhile.

        Raises:
            LinkError: It did not start or ended with a fault.
        """
        for name in ("done.json", PID):
            (folder / name).unlink(missing_ok=True)
        app = self.folder / "flower" / "app"
        (app / "veilcam_federation").mkdir(parents=True, exist_ok=True)
        (app / "veilcam_federation" / "__init__.py").touch()
        (app / "veilcam_federation" / "app.py").write_text(_APP)
        (app / "pyproject.toml").write_text(_PROJECT)
        settings = f'folder="{folder.resolve()}" timeout-s={float(timeout_s)}'
        told = self._flwr("run", str(app), "--run-config", settings, "--format", "json")
        found = re.search(r'"run-id":\s*"?(\d+)', told)
        if not found:
            raise LinkError(f"the run could not be started: {told.strip()[:300]}")
        _log.info("run %s started", found[1])
        self._until_done(folder, tick)
        tick()

    def _until_done(self, folder: Path, tick: Callable[[], None]) -> None:
        done, log = folder / "done.json", self.folder / "superlink.log"
        start = time.monotonic()
        while not done.exists():
            if self._process.poll() is not None:
                raise LinkError(f"the SuperLink ended; see {log}")
            pid = read_pid(folder)
            is_gone = pid is None if time.monotonic() > start + _START_S else False
            if (is_gone or (pid and not is_running(pid))) and not done.exists():
                raise LinkError(f"the server's application ended; see {log}; start again to go on")
            tick()
            time.sleep(0.3)
        told = json.loads(done.read_text())
        if told["error"]:
            raise LinkError(told["error"])

    def _flwr(self, *args: str) -> str:
        done = subprocess.run(
            [str(Path(sys.executable).parent / "flwr"), *args], env=self._environment,
            capture_output=True, text=True, timeout=_CLI_S, check=False,
        )  # fmt: skip
        return done.stdout + done.stderr

    def close(self) -> None:
        """Ends the SuperLink and what it started."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self._process.pid, number)
                self._process.wait(10)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue
        self._stream.close()

    def __enter__(self) -> "SuperLink":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_pid(folder: Path) -> int | None:
    """Process of the server's application, while it runs the federation of `folder`."""
    try:
        return int((folder / PID).read_text())
    except (OSError, ValueError):
        return None


def is_running(pid: int) -> bool:
    """Whether it is still Flower's process for the server's application."""
    try:
        return b"flwr-serverapp" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def end_leftover(folder: Path) -> None:
    """Ends the application of a server that was killed: it would hold the ledger."""
    pid = read_pid(folder)
    if pid is None or not is_running(pid):
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.kill(pid, number)
        end = time.monotonic() + 10
        while is_running(pid) and time.monotonic() < end:
            time.sleep(0.1)


def serve_node(
    answer: Callable[[Mapping[str, object]], Payload],
    *,
    server: str,
    root: Path,
    key: Path,
    poll_s: float = 0.3,
    is_over: Callable[[], bool] = lambda: False,
) -> None:
    """Answers the server's messages until `is_over`; waits for a server that is away.

    Then it stays a while: the SuperLink throws away a reply that was not fetched before its node
    signed off, and without the last one the last round is lost.

    Raises:
        InputError: The certificate or key is no such file.
        LinkError: The server refuses this node.
    """
    os.environ |= QUIET
    from veilcam.model.federate_flower import connected, receive_one

    if not root.is_file():
        raise InputError(f"{root}: no certificate of the server; it is ca.crt beside its log")
    private = read_key(key)
    while not is_over():
        try:
            with connected(server, root, private) as link:
                _log.info("connected to %s as node %d", server, link.node_id)
                while not is_over():
                    if not receive_one(link, answer):
                        time.sleep(poll_s)
                time.sleep(_LINGER_S)
        except ConnectionError as error:
            _log.warning("%s; trying again", error)
            time.sleep(3.0)
