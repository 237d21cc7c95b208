"""Three cameras and a server as real processes: kill, delay, restart, listen in, attack.

Usage: python scripts/federate_demo.py --people people.npz --public public.npz -o RUN
(features by `veilcam federate features`). About 6 minutes on 2 cores.

Nodes speak to the server through a tap that ends their TLS with the server's own key, so it sees
all that the server sees. One camera is killed and comes back, one is stopped for a whole round, the
server is killed in mid-round and started again. Then: is the result better than a camera's alone,
how far is it from central training at the same epsilon, and can the tap's recording be inverted?
"""

import json
import logging
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from veilcam.model.federate import Federation, write_federation
from veilcam.model.federate_attack import cosines, inverted, ranks
from veilcam.model.federate_data import camera_of, load_features, write_rows
from veilcam.model.federate_fleet import train_plain, updates_of
from veilcam.model.federate_keys import Roster, make_identity
from veilcam.model.federate_rounds import LOG, STATE
from veilcam.model.federate_setup import spent, with_public
from veilcam.model.federate_simulate import Judge
from veilcam.model.federate_task import Head
from veilcam.model.private_latents import is_held_out

_log = logging.getLogger("federate_demo")
NAMES = ("attic", "barn", "cellar")
ROUNDS, TIMEOUT_S = 20, 15.0
KILL_AT, BACK_AT, LATE_AT, CRASH_AT = 4, 7, 10, 14


class Tap:
    """Ends TLS with the server's key, records, and goes on by TLS to the server."""

    def __init__(self, link: Path, server_port: int) -> None:
        self.sent = {"up": bytearray(), "down": bytearray()}
        self.wire_bytes = 0
        self._server_port = server_port
        self._inside = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._inside.load_cert_chain(link / "server.crt", link / "server.key")
        self._outside = ssl.create_default_context(cafile=str(link / "ca.crt"))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            raw, _ = self._listener.accept()
            threading.Thread(target=self._carry, args=(raw,), daemon=True).start()

    def _carry(self, raw: socket.socket) -> None:
        try:
            near = self._inside.wrap_socket(raw, server_side=True)
            far_raw = socket.create_connection(("127.0.0.1", self._server_port))
            far = self._outside.wrap_socket(far_raw, server_hostname="127.0.0.1")
        except OSError:
            raw.close()
            return
        for source, sink, way in ((near, far, "up"), (far, near, "down")):
            threading.Thread(target=self._pump, args=(source, sink, way), daemon=True).start()

    def _pump(self, source: ssl.SSLSocket, sink: ssl.SSLSocket, way: str) -> None:
        try:
            while data := source.recv(65536):
                self.sent[way] += data
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            end.close()


class Fleet:
    """The processes."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *args: str) -> None:
        """Starts `veilcam federate` with these arguments; its words go to NAME.log."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "veilcam.camera.cli", "federate", *args],
                stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"},
            )  # fmt: skip

    def server(self) -> None:
        """Starts the server."""
        self.start(
            "server", "server", str(self.folder), "--port", str(self.port),
            "--timeout", str(TIMEOUT_S), "--json",
        )  # fmt: skip

    def node(self, name: str, tap: Tap) -> None:
        """Starts a camera that speaks through the tap."""
        self.start(
            name, "node", str(self.folder), "--name", name, "--key", str(self.folder / name),
            "--people", str(self.folder / f"{name}.npz"), "--server", f"127.0.0.1:{tap.port}",
            "--root", str(self.folder / "link" / "ca.crt"),
            "--state", str(self.folder / "nodes" / name), "--no-duty",
        )  # fmt: skip

    def kill_server(self) -> None:
        """The command, the SuperLink and all that it started, at once."""
        for process in _children(self.processes["server"].pid):
            os.kill(process, signal.SIGKILL)
        self.processes["server"].wait()

    def close(self) -> None:
        """Ends all of them."""
        for process in self.processes.values():
            process.send_signal(signal.SIGCONT)
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def _children(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for parent in found:
        path = Path(f"/proc/{parent}/task/{parent}/children")
        found += [int(child) for child in path.read_text().split()] if path.exists() else []
    return found


def rounds_of(folder: Path) -> list[dict[str, Any]]:
    """Rounds that are over."""
    path = folder / "state" / LOG
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def prepare(folder: Path, people_path: Path, public_path: Path) -> Federation:
    """Writes the kit and deals the people who are not held out."""
    folder.mkdir(parents=True)
    (folder / "public.npz").write_bytes(public_path.read_bytes())
    with np.load(public_path) as file:
        size = file["x"].shape[1]
    federation = with_public(
        Federation(
            name="demo", num_nodes=3, epsilon=8.0, delta=1e-5, rounds=ROUNDS, feature_size=size,
            min_nodes=2, max_nodes=3, l2_clip_norm=0.1, local_steps=1, learning_rate=0.3,
            server_rate=0.5, weight_decay=0.3,  # chosen on public faces: docs/federated.md
        ),
        folder / "public.npz",
    )  # fmt: skip
    write_federation(folder / "federation.toml", federation)
    Roster({name: make_identity(folder / name) for name in NAMES}).write(folder / "roster.json")
    rows, people = load_features(people_path, size)
    for index, name in enumerate(NAMES):
        here = [not is_held_out(p) and camera_of(p, 3) == index for p in map(str, people)]
        write_rows(folder / f"{name}.npz", rows[here], people[here])
    return federation


def drive(folder: Path, fleet: Fleet) -> Tap:
    """Runs it all, with the faults; returns what was heard."""
    fleet.server()
    _wait(lambda: (folder / "link" / "nodes.json").exists(), 120, "the server's start")
    tap = Tap(folder / "link", fleet.port)
    for name in NAMES:
        fleet.node(name, tap)
    done: set[str] = set()

    def once(what: str, after: int) -> bool:
        due = len(rounds_of(folder)) >= after and what not in done
        if due:
            _log.info("after round %d: %s", len(rounds_of(folder)), what)
            done.add(what)
        return due

    end = time.monotonic() + 1500
    while time.monotonic() < end and not (folder / "done.json").exists():
        if once("kill -9 attic", KILL_AT):
            fleet.processes["attic"].kill()
            fleet.processes["attic"].wait()
        if once("attic comes back", BACK_AT):
            fleet.node("attic", tap)
        if once("barn is stopped for longer than a stage may take", LATE_AT):
            fleet.processes["barn"].send_signal(signal.SIGSTOP)
        if once("barn goes on", LATE_AT + 1):
            fleet.processes["barn"].send_signal(signal.SIGCONT)
        if once("kill -9 the server in mid-round", CRASH_AT):
            time.sleep(1.0)
            fleet.kill_server()
            fleet.server()
            _log.info("the server is started again")
        time.sleep(0.2)
    _wait(lambda: fleet.processes["server"].poll() is not None, 60, "the server's end")
    return tap


def _wait(is_true: Any, seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not is_true():
        if time.monotonic() > end:
            raise click.ClickException(f"waited {seconds:g} s for {what}; see the logs")
        time.sleep(0.2)


def compare(federation: Federation, folder: Path, people_path: Path) -> dict[str, Any]:
    """The result against cameras alone and against one machine that holds everything."""
    with np.load(folder / "public.npz") as file:
        public, held_public = file["x"], file["held"]
    rows, people = load_features(people_path, federation.feature_size)
    held = np.array([is_held_out(str(p)) for p in people])
    head = Head(federation, public)
    judge = Judge(head, rows[held], held_public)
    dealt = [load_features(folder / f"{n}.npz", federation.feature_size)[0] for n in NAMES]
    random = np.random.default_rng()

    def trained(cameras: list[np.ndarray], stddev: float, repeats: int) -> list[float]:
        return [
            judge.auc(train_plain(federation, head, cameras, noise_stddev=stddev, random=random))
            for _ in range(repeats)
        ]

    with np.load(folder / "state" / STATE) as file:
        result = file["average"]
    central = trained(dealt, federation.noise_stddev, 20)
    alone = [np.mean(trained([own], federation.noise_stddev, 20)) for own in dealt]
    return {
        "auc": judge.auc(result), "likeness": judge.likeness(result),
        "auc_central_same_epsilon": [float(np.mean(central)), float(np.std(central))],
        "auc_alone_same_epsilon": [float(value) for value in alone],
        "auc_no_noise": trained(dealt, 0.0, 1)[0],
        "auc_alone_no_noise": [trained([own], 0.0, 1)[0] for own in dealt],
    }  # fmt: skip


def overhear(federation: Federation, folder: Path, tap: Tap) -> dict[str, Any]:
    """What the recording holds: pictures, features, updates; and an attack on each vector."""
    up, down = bytes(tap.sent["up"]), bytes(tap.sent["down"])
    (folder / "up.bin").write_bytes(up)
    with np.load(folder / "public.npz") as file:
        head = Head(federation, file["x"])
    dealt = [load_features(folder / f"{n}.npz", federation.feature_size)[0] for n in NAMES]
    vectors = _arrays(up, b"vector", head.size, "<i4")
    params = {p.tobytes(): p for p in _arrays(down, b"params", head.size, "<f4")}
    # candidates: the three cameras' own updates among those of 297 random other groups
    random = np.random.default_rng(0)
    everybody = np.concatenate(dealt)
    groups = [random.choice(len(everybody), len(dealt[0]), replace=False) for _ in range(297)]
    cameras = [*dealt, *(everybody[group] for group in groups)]
    places, control, leaks = [], [], 0
    for model in params.values():
        updates = updates_of(federation, head, model, cameras)
        leaks += sum(up.count(u.astype(kind).tobytes()) for u in updates[:3] for kind in "fd")
        control.append(ranks(updates[:3], updates, np.arange(3)))
        seen = np.stack(vectors) * federation.ring.step
        places.append([ranks(seen, updates, np.full(len(seen), i)) for i in range(3)])
    features = sum(up.count(row.tobytes()) for rows in dealt for row in rows)
    magic = sum(
        up.count(m) for m in (b"\xff\xd8\xff\xe0", b"\xff\xd8\xff\xe1", b"\x89PNG", b"RIFF")
    )
    counts = np.bincount(np.concatenate(vectors).view(np.uint32) >> 24, minlength=256)
    expected = counts.sum() / 256
    place = np.array(places)
    return {
        "bytes_up": len(up), "bytes_down": len(down), "masked_vectors": len(vectors),
        "models": len(params), "pictures": magic, "features": features, "plain_updates": leaks,
        "control_found": float(np.mean(np.array(control) == 1)),
        "attack_found": float((place.min(axis=1) == 1).mean()),
        "attack_found_by_chance": 3 / 300,
        "attack_mean_place": float((place - 0.5).mean() / 300),
        "mean_place_by_chance": 0.5,
        "uniform_chi2_255": float(((counts - expected) ** 2 / expected).sum()),
        "control_search": int((up + dealt[0][0].tobytes()).count(dealt[0][0].tobytes())),
        **invert(federation, head, everybody, vectors),
    }  # fmt: skip


def invert(
    federation: Federation, head: Head, people: np.ndarray, vectors: list[np.ndarray]
) -> dict[str, float]:
    """Features painted from updates of 20 single people, the control, and from masked vectors."""
    start, alone = head.initial(), people[:: len(people) // 20][:20]
    plain = updates_of(federation, head, start, list(alone[:, None]))
    found = inverted(head, start, plain, federation.feature_size)
    seen = np.stack(vectors[:20]) * federation.ring.step
    behind = inverted(head, start, seen, federation.feature_size)
    strangers = cosines(np.roll(alone, 1, axis=0), alone)
    return {
        "inverted_control_cosine": float(np.median(cosines(found, alone))),
        "inverted_masked_cosine": float(np.median(cosines(behind, alone[: len(behind)]))),
        "cosine_of_strangers": float(np.median(strangers)),
    }


def _arrays(data: bytes, key: bytes, size: int, kind: str) -> list[np.ndarray]:
    """Values of a field of `size` four-byte numbers in Flower's records."""
    length = 4 * size
    lead = re.escape(key) + rb"[\x12].{1,3}?.%b" % re.escape(_varint(length))
    found = re.finditer(lead + b"(.{%d})" % length, data, re.DOTALL)
    return [np.frombuffer(match[1], kind) for match in found]


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


@click.command()
@click.option("--people", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--public", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="New folder.")
def main(people: Path, public: Path, out: Path) -> None:
    """Run the demonstration; results go to OUT/demo.json and stdout."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    federation = prepare(out, people, public)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        fleet = Fleet(out, probe.getsockname()[1])
    start = time.monotonic()
    try:
        tap = drive(out, fleet)
    finally:
        fleet.close()
    rounds = rounds_of(out)
    told = {
        "seconds": round(time.monotonic() - start),
        "rounds": [f"{r['index']}: {r['summed']} of 3, {r['outcome'][:60]}" for r in rounds],
        "nodes": {name: spent(out / "nodes" / name) for name in NAMES},
        "server": json.loads((out / "server.log").read_text().splitlines()[-1]),
        "compared": compare(federation, out, people),
        "overheard": overhear(federation, out, tap),
    }
    (out / "demo.json").write_text(json.dumps(told, indent=1) + "\n")
    click.echo(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
