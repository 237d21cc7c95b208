"""Bundles, devices and a loop's pulse for tests of the rollout."""

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec

from veilcam.camera.manifest import SCHEMA_VERSION, code_spec, io_spec, load_bundle
from veilcam.model.federate_keys import Identity, Roster, public_line
from veilcam.model.rollout_ballot import is_in_stage
from veilcam.model.rollout_device import Audit, Device
from veilcam.model.rollout_offer import make_key, trusted_key
from veilcam.model.rollout_state import Rollout, Rules, begin
from veilcam.model.rollout_web import open_report, sign_report

_KEYS: list[ec.EllipticCurvePrivateKey] = []


def write_bundle(folder: Path, mark: str) -> str:
    """A bundle that loads; returns its sha256."""
    folder.mkdir(parents=True)
    stream = io.BytesIO()
    np.savez(stream, mean=np.zeros(2), chol=np.eye(2), skin=np.zeros((3, 3)))
    files = {"fp32.onnx": b"32" + mark.encode(), "int8.onnx": b"8", "model_card.md": b"card"}
    files["latents.npz"] = stream.getvalue()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    manifest = {
        "schema_version": SCHEMA_VERSION, "name": mark, "mode": "face", "code": code_spec(),
        "training": None, "data": [], **io_spec(2),
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return load_bundle(folder).sha256


def halves(sha256: str, num: int) -> list[str]:
    """Names of which the first half is in the stage of 50 %, the others are not."""
    names = [f"cam{index}" for index in range(200)]
    inside = [name for name in names if is_in_stage(name, sha256, 50.0)]
    outside = [name for name in names if name not in inside]
    return inside[: num // 2] + outside[: num // 2]


class DirectLink:
    """A device's end without a network; a report is signed and opened as on the wire."""

    def __init__(self, identity: Identity, server: "Rig") -> None:
        self._identity, self._server = identity, server

    def offer(self) -> dict[str, Any]:
        return json.loads(json.dumps(self._server.rollout.told(self._identity.name)))  # type: ignore

    def file(self, sha256: str) -> bytes:
        path = self._server.rollout.file(sha256)
        assert path is not None
        return path.read_bytes()

    def report(self, told: Mapping[str, Any]) -> None:
        body = sign_report(self._identity, told)
        name, content = open_report(self._server.rollout.roster, body)
        self._server.sent.append((name, content))
        self._server.rollout.report(name, content)


class Rig:
    """A server and its devices in one process, with a clock of their own."""

    def __init__(
        self, folder: Path, num: int = 8, *, rules: Rules | None = None, **settings: Any
    ) -> None:
        self.folder, self.now_s = folder, 1000.0
        self.old = write_bundle(folder / "old.veil", "old")
        self.new = write_bundle(folder / "new.veil", "new")
        self.names = halves(self.new, num)
        while len(_KEYS) < num:
            _KEYS.append(ec.generate_private_key(ec.SECP384R1()))
        self.identities = [Identity(n, k) for n, k in zip(self.names, _KEYS, strict=False)]
        self.roster = Roster({who.name: public_line(who.key) for who in self.identities})
        self.public = make_key(folder / "update.key")
        rules = rules or Rules(stages=(50.0, 100.0), min_reports=2, quorum=1.0)
        self.settings = {"local_epsilon": 15.0, "min_samples": 10, "patience_s": 50.0} | settings
        self.begin("new.veil", self.old, rules)
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.audits: dict[str, Audit | None] = dict.fromkeys(self.names)
        self.devices = {who.name: self.device(who) for who in self.identities}

    def begin(self, bundle: str, former: str, rules: Rules) -> None:
        begin(
            self.folder / "rollout", self.folder / bundle, former, self.folder / "update.key",
            self.roster, rules, **self.settings,
        )  # fmt: skip
        self.restart_server()

    def restart_server(self) -> None:
        self.rollout = Rollout(self.folder / "rollout", self.roster, now=lambda: self.now_s)

    def device(self, who: Identity, **more: Any) -> Device:
        return Device(
            self.folder / "devices" / who.name, DirectLink(who, self),
            more.pop("trusted", trusted_key(self.public)), bundle=self.folder / "old.veil",
            read_audit=lambda: self.audits[who.name], now=lambda: self.now_s,
            **({"max_epsilon": 100.0} | more),
        )  # fmt: skip

    def loops_say(self, samples: int, *, bad: str = "") -> None:
        """Every loop runs the bundle its device points at; one named `bad` raises alarms."""
        for name, device in self.devices.items():
            sha256 = device.state.current
            alarms = int(sha256 == bad and samples > 0)
            self.audits[name] = Audit(bundle_sha256=sha256, samples=samples, alarms=alarms)

    def step(self) -> dict[str, str]:
        return {name: device.step() for name, device in self.devices.items()}

    @property
    def running(self) -> list[str]:
        return [device.state.current for device in self.devices.values()]
