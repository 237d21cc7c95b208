"""The carrier: records, the guard before the SuperLink, keys, and the real processes."""

import asyncio
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("Crypto", reason="./scripts/setup federate")

from veilcam.camera.errors import ConfigError, InputError
from veilcam.model import federate_link, private_latents
from veilcam.model.cli_federate import federate
from veilcam.model.federate import Federation, read_federation, write_federation
from veilcam.model.federate_data import Basis, deal, load_features, write_public, write_rows
from veilcam.model.federate_keys import Identity, Roster, make_identity, read_key
from veilcam.model.federate_secagg import Keys
from veilcam.model.federate_setup import read_kit, serve, spent, with_public
from veilcam.model.federate_superlink import only_fleet_from_afar

FED = Federation(
    name="tiny", num_nodes=2, epsilon=30.0, delta=1e-3, rounds=3, feature_size=2, max_nodes=2,
)  # fmt: skip


def make_kit(folder: Path) -> Federation:
    """Two cameras of six people each."""
    folder.mkdir()
    random = np.random.default_rng(0)
    write_public(folder / "public.npz", random.normal(0, 1, (50, 6)), 2)
    digest = hashlib.sha256((folder / "public.npz").read_bytes()).hexdigest()
    federation = replace(FED, public_sha256=digest)
    write_federation(folder / "federation.toml", federation)
    Roster({n: make_identity(folder / n) for n in "ab"}).write(folder / "roster.json")
    for name in "ab":
        rows = random.normal(1, 1, (6, 2)).astype(np.float32)
        write_rows(folder / f"{name}.npz", rows, np.array([f"{name}{i}" for i in range(6)]))
    return federation


# the guard


@pytest.mark.parametrize(
    ("path", "client", "passes"),
    [
        ("/v1/fleet/pull-messages", "10.0.0.9", True),
        ("/v1/control/start-run", "10.0.0.9", False),
        ("/v1/runtime/pull-task-input", "2001:db8::1", False),
        ("/v1/fleet/../control/start-run", "10.0.0.9", False),
        ("/docs", "10.0.0.9", False),
        ("/v1/control/start-run", "127.0.0.1", True),
        ("/v1/control/start-run", "::1", True),
        ("/v1/control/start-run", "nonsense", False),
    ],
)
def test_other_machines_reach_the_nodes_part_only(path: str, client: str, passes: bool) -> None:
    reached, sent = [], []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope["path"])

    async def send(event: Any) -> None:
        sent.append(event)

    scope = {"type": "http", "path": path, "client": (client, 1)}
    asyncio.run(only_fleet_from_afar(app)(scope, None, send))
    assert bool(reached) == passes
    assert [e["status"] for e in sent if "status" in e] == ([] if passes else [403])


# keys and kits


def test_a_signature_is_good_for_its_name_round_and_keys_only(tmp_path: Path) -> None:
    roster = Roster({n: make_identity(tmp_path / n) for n in "ab"})
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600
    assert make_identity(tmp_path / "a") == roster.lines["a"]  # kept, not made anew
    who, keys = Identity("a", read_key(tmp_path / "a")), Keys(b"1" * 32, b"2" * 32)
    signed = who.sign("fp", b"round", keys)
    assert roster.is_signed("a", "fp", b"round", keys, signed)
    for wrong in (
        ("b", "fp", b"round", keys), ("a", "other", b"round", keys), ("c", "fp", b"round", keys),
        ("a", "fp", b"round2", keys), ("a", "fp", b"round", Keys(b"1" * 32, b"3" * 32)),
    ):  # fmt: skip
        assert not roster.is_signed(*wrong, signed)


@pytest.mark.parametrize("text", ["[]", "{", '{"a": 1}', '{"a": "ssh-ed25519 AAAA"}'])
def test_a_roster_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "roster.json").write_text(text)
    with pytest.raises(InputError, match="roster"):
        Roster.read(tmp_path / "roster.json")
    with pytest.raises(InputError, match="no readable node key"):
        read_key(tmp_path / "roster.json")


def test_a_kit_whose_parts_do_not_fit_is_refused(tmp_path: Path) -> None:
    federation = make_kit(tmp_path / "kit")
    assert read_kit(tmp_path / "kit")[0] == federation
    assert read_federation(tmp_path / "kit" / "federation.toml") == federation
    write_federation(tmp_path / "kit" / "federation.toml", replace(federation, num_nodes=3))
    with pytest.raises(ConfigError, match=r"roster.json has 2 nodes .* num_nodes = 3"):
        serve(tmp_path / "kit", port=1, host="127.0.0.1", names=(), timeout_s=1.0)
    with (tmp_path / "kit" / "public.npz").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(InputError, match="public_sha256"):
        read_kit(tmp_path / "kit")


def test_features_are_bounded_private_and_dealt_by_person(tmp_path: Path) -> None:
    vectors = np.random.default_rng(1).normal(0, 1, (100, 6))
    basis = Basis.fit(vectors, 3)
    rows = basis(np.concatenate([vectors, np.full((1, 6), 1e9)]))
    assert np.abs(rows).max() <= 4.0
    assert rows[:100].std(0) == pytest.approx(np.ones(3), rel=0.05)
    people = np.array([f"p{i // 2}" for i in range(101)])
    write_rows(tmp_path / "p.npz", rows, people)
    assert (tmp_path / "p.npz").stat().st_mode & 0o777 == 0o600
    back, names = load_features(tmp_path / "p.npz", 3)
    assert np.array_equal(back, rows)
    dealt = deal(back, names, 7)
    assert sum(camera.num_persons for camera in dealt if camera) == 51  # nobody is on two
    assert any(camera is None for camera in deal(back[:2], names[:2], 7))
    with pytest.raises(InputError, match="wanted \\(101, 4\\)"):
        load_features(tmp_path / "p.npz", 4)


def test_the_plan_says_both_costs_and_the_cap(tmp_path: Path) -> None:
    make_kit(tmp_path / "kit")
    done = CliRunner().invoke(
        federate, ["plan", str(tmp_path / "kit"), "--max-epsilon", "20", "--json"]
    )
    told = json.loads(done.output)
    assert told["released_models"]["unit"] == told["server_sees"]["unit"] == "camera"
    assert (
        told["with_cap"]["stages"][0]["iterations"] < told["server_sees"]["stages"][0]["iterations"]
    )
    text = CliRunner().invoke(federate, ["plan", str(tmp_path / "kit")]).output
    assert "whoever sees the released models: epsilon" in text
    assert told["fingerprint"] in text


# Flower


def test_records_come_back_as_they_went() -> None:
    pytest.importorskip("flwr", reason="./scripts/setup federate")
    from veilcam.model.federate_flower import from_record, to_record

    payload = {"a": b"\x00\xff", "b": ["x"], "c": [], "d": 3, "e": [b"", b"1"], "f": "text"}
    assert from_record(to_record(payload)) == payload


def test_a_node_stays_until_its_last_reply_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("flwr", reason="./scripts/setup federate")
    from veilcam.model import federate_flower

    told: list[str] = []

    @contextmanager
    def connected(*_: Any) -> Iterator[Any]:
        yield SimpleNamespace(node_id=1)
        told.append("signed off")

    monkeypatch.setattr(federate_flower, "connected", connected)
    monkeypatch.setattr(federate_flower, "receive_one", lambda *_: not told.append("answered"))
    monkeypatch.setattr(federate_link.time, "sleep", lambda s: told.append(f"waited {s:.0f} s"))
    (tmp_path / "ca.crt").touch()
    make_identity(tmp_path / "key")
    federate_link.serve_node(
        lambda _: {}, server="s:1", root=tmp_path / "ca.crt", key=tmp_path / "key",
        is_over=lambda: told.count("answered") == 2,
    )  # fmt: skip
    assert told == ["answered", "answered", "waited 30 s", "signed off"]


def wait(is_true: Any, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.2)


class Processes:
    """Commands of `veilcam federate` on a kit, over TLS on loopback; use `with`."""

    def __init__(self, kit: Path) -> None:
        pytest.importorskip("flwr", reason="./scripts/setup federate")
        self.kit = kit
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = str(probe.getsockname()[1])
        self._started: list[subprocess.Popen[str]] = []

    def start(self, *args: str) -> subprocess.Popen[str]:
        self._started.append(
            subprocess.Popen(
                [sys.executable, "-m", "veilcam.camera.cli", "federate", *args], text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
        )  # fmt: skip
        return self._started[-1]

    def server(self, timeout_s: str = "60") -> subprocess.Popen[str]:
        made = self.start(
            "server", str(self.kit), "--port", self.port, "--timeout", timeout_s, "--json"
        )
        wait(lambda: (self.kit / "link" / "nodes.json").exists(), 180)
        return made

    def node(self, name: str, key: str) -> subprocess.Popen[str]:
        return self.start(
            "node", str(self.kit), "--name", name, "--key", str(self.kit / key), "--people",
            str(self.kit / f"{name}.npz"), "--server", f"127.0.0.1:{self.port}", "--root",
            str(self.kit / "link" / "ca.crt"), "--state", str(self.kit.parent / key), "--no-duty",
            "--json",
        )  # fmt: skip

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._started:
            process.kill()


@pytest.mark.slow
def test_real_processes_train_and_a_stranger_is_refused(tmp_path: Path) -> None:
    """A SuperLink, two cameras and one that nobody registered."""
    make_kit(tmp_path / "kit")
    make_identity(tmp_path / "kit" / "stranger")
    with Processes(tmp_path / "kit") as run:
        server = run.server()
        stranger, nodes = run.node("a", "stranger"), [run.node(n, n) for n in "ab"]
        told = json.loads(server.communicate(timeout=400)[0].splitlines()[-1])
        assert told["rounds"] == 3
        assert told["applied"] >= 1  # a busy machine may be late, and late rounds are dropped
        assert told["training"]["unit"] == "camera"
        for name, process in zip("ab", nodes, strict=True):
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
            assert 1 <= spent(tmp_path / name)["rounds"] <= 3
        stranger.send_signal(signal.SIGTERM)
        assert "refuses this node" in stranger.communicate(timeout=60)[0]
        assert not (tmp_path / "stranger" / "ledger.json").exists()


@pytest.mark.slow
def test_latents_of_a_face_bundle_cross_a_real_superlink(tmp_path: Path) -> None:
    """One round of two cameras, whose noise is as wide as eps 30 wants; then the run is moved."""
    kit, out = tmp_path / "kit", tmp_path / "out"
    make_kit(kit)
    random = np.random.default_rng(0)
    white = random.standard_normal((300, 2))
    x = white.astype(np.float32)
    private_latents.fit(x, white, np.arange(300) % 5 == 0, x[::5]).save(kit / "public.npz")
    federation = replace(FED, task="latents", rounds=1, delta=1e-2)
    write_federation(kit / "federation.toml", with_public(federation, kit / "public.npz"))
    with Processes(kit) as run:
        server, nodes = run.server("300"), [run.node(n, n) for n in "ab"]  # one round: none is lost
        told = json.loads(server.communicate(timeout=400)[0].splitlines()[-1])
        for process in nodes:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
    assert (told["rounds"], told["applied"]) == (1, 1), told
    public = tmp_path / "public"
    public.mkdir()
    facts = {"step": 1, "data": []}
    np.savez(
        public / "state.npz", meta=np.array(json.dumps(facts)),
        latent_mean=np.zeros(2, np.float32), latent_chol=np.eye(2, dtype=np.float32),
    )  # fmt: skip
    (public / "meta.json").write_text(json.dumps(facts))
    moved = CliRunner().invoke(federate, ["move", str(kit), str(public), "-o", str(out), "--json"])
    assert moved.exit_code == 0, moved.output
    training = json.loads((out / "meta.json").read_text())["training"]
    assert training["unit"] == "camera"
    assert training["epsilon"] == pytest.approx(told["training"]["epsilon"])
    for name in "ab":  # against the server it is one round of everybody: the same
        assert spent(tmp_path / name)["epsilon"] == pytest.approx(training["epsilon"], rel=1e-3)
