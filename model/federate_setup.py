"""What `veilcam federate` does: files in, processes started, what was spent told."""

import hashlib
import json
import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from veilcam.camera.duty import Rules, read_machine, step_back, why_not
from veilcam.camera.errors import ConfigError, InputError
from veilcam.camera.pulse import running
from veilcam.model.federate import Federation, read_federation
from veilcam.model.federate_data import (
    Basis,
    describe_folder,
    load_people,
    write_people,
    write_public,
)
from veilcam.model.federate_data import describer as face_describer
from veilcam.model.federate_keys import Identity, Roster, read_key
from veilcam.model.federate_link import SuperLink, end_leftover, serve_node
from veilcam.model.federate_node import Node
from veilcam.model.federate_rounds import LOG, STATE
from veilcam.model.federate_task import Task, read_task
from veilcam.model.federate_wire import Round, one_line
from veilcam.model.ledger import NAME, promise

_log = logging.getLogger(__name__)
_TICK = 500


def make_features(
    folders: tuple[Path, ...], out: Path, is_public: bool, basis: Path | None, size: int,
    models: Path | None,
) -> dict[str, Any]:  # fmt: skip
    """Writes features of faces; with `is_public` the basis too."""
    if is_public == (basis is not None):
        raise ConfigError("give either --public (fits the basis) or --basis FILE (private people)")
    describe, vectors, people = face_describer(models), [], list[str]()
    for folder in folders:
        rows, names = describe_folder(folder, describe, _tick)
        vectors.append(rows)
        people += names
    stacked = np.concatenate(vectors)
    told: dict[str, Any] = {"out": str(out), "faces": len(stacked), "people": len(set(people))}
    if basis is None:
        return told | {"public_sha256": write_public(out, stacked, size)}
    write_people(out, Basis.load(basis), stacked, people)
    return told


def encode(
    folders: tuple[Path, ...], kit: Path, out: Path, features: Path, models: Path
) -> dict[str, Any]:
    """Writes what the kit's public file makes of the people in `folders`; pictures are not kept.

    Raises:
        ConfigError: The kit learns from another kind of features.
    """
    from veilcam.model.feature_net import load_features
    from veilcam.model.federate_latents import encode_people
    from veilcam.model.private_latents import Encoder, cutter, describer

    federation, _, _ = read_kit(kit)
    public = kit / "public.npz"
    with np.load(public) as file:
        is_critic = federation.task == "head" and "values" in file.files
    if federation.task != "latents" and not is_critic:
        raise ConfigError(f"{kit}: task {federation.task!r} learns from `federate features`")
    made = Basis.load(public) if is_critic else Encoder.load(public)
    return encode_people(folders, out, made, describer(load_features(features)), cutter(models))


def move(folder: Path, run: Path, out: Path, net: Path | None) -> dict[str, Any]:
    """Moves a public run by what the federation of `folder` found: see both modules."""
    if read_federation(folder / "federation.toml").task == "latents":
        from veilcam.model.federate_latents import finish

        return finish(folder, run, out)
    from veilcam.model.federate_critic import finish as follow

    if net is None:
        raise ConfigError("a discriminator moves painted heads by what the net sees: --features")
    return follow(folder, run, net, out)


def _tick(count: int) -> None:
    if count % _TICK == 0:
        _log.info("%d pictures", count)


def read_kit(folder: Path) -> tuple[Federation, Roster, Task]:
    """Settings, roster and task of a federation, checked against each other.

    Raises:
        InputError: The public file is another than agreed.
    """
    federation = read_federation(folder / "federation.toml")
    roster = Roster.read(folder / "roster.json")
    path = folder / "public.npz"
    task = read_task(path, federation)
    got = hashlib.sha256(path.read_bytes()).hexdigest()
    if federation.public_sha256 != got:
        raise InputError(
            f"{path}: sha256 {got} and federation.toml agrees on public_sha256 = "
            f'"{federation.public_sha256}"; take the federation\'s own file'
        )
    return federation, roster, task


def show_plan(folder: Path, max_epsilon: float | None) -> dict[str, Any]:
    """Both views of the cost, and what a cap allows."""
    federation = read_federation(folder / "federation.toml")
    value = federation.as_dict()
    if max_epsilon is not None:
        value["with_cap"] = federation.node_plan(max_epsilon).as_dict()
    return value


def plan_text(value: dict[str, Any]) -> str:
    """The plan for people."""
    lines = []
    for key, who in (
        ("released_models", "whoever sees the released models"),
        ("server_sees", "the server, for a camera that is in every round"),
        ("with_cap", "the server, within the cap"),
    ):
        if key in value:
            plan = value[key]
            rounds = plan["stages"][0]["iterations"]
            lines.append(
                f"{who}: epsilon {plan['epsilon']:.3f} at delta {plan['delta']:g} per "
                f"{plan['unit']} in {rounds} rounds ({plan['relation']}, {plan['accountant']})"
            )
    return "\n".join([*lines, f"fingerprint {value['fingerprint']}"])


def serve(
    folder: Path, *, port: int, host: str, names: tuple[str, ...], timeout_s: float
) -> dict[str, Any]:
    """Runs the federation of `folder` to its end, or goes on with it."""
    federation, roster, _ = read_kit(folder)
    if len(roster.names) != federation.num_nodes:
        raise ConfigError(
            f"{folder}: roster.json has {len(roster.names)} nodes and federation.toml num_nodes = "
            f"{federation.num_nodes}"
        )
    end_leftover(folder)
    hosts = names or ("localhost", "127.0.0.1")
    with SuperLink(folder / "link", roster, port=port, host=host, names=hosts) as link:
        _log.info("listening at %s:%d; nodes need %s", host, port, link.root)
        link.run(folder, timeout_s, Follow(folder / "state" / LOG, federation.rounds).tick)
    return result(folder)


class Follow:
    """Logs each round as it is written."""

    def __init__(self, path: Path, rounds: int) -> None:
        self._path, self._rounds = path, rounds
        self._place = path.stat().st_size if path.exists() else 0

    def tick(self) -> None:
        """Tells what is new."""
        if not self._path.exists():
            return
        with self._path.open() as stream:
            stream.seek(self._place)
            for line in stream:
                if not line.endswith("\n"):
                    break
                self._place += len(line.encode())
                _log.info("%s", one_line(Round(**json.loads(line)), self._rounds))


def result(folder: Path) -> dict[str, Any]:
    """What a federation came to, from its files."""
    state = folder / "state"
    outcomes = [json.loads(line)["outcome"] for line in (state / LOG).read_text().splitlines()]
    applied = 0
    if (state / STATE).exists():
        with np.load(state / STATE) as file:
            applied = int(file["applied"])
    told = {"rounds": len(outcomes), "applied": applied, "training": promise(state / NAME)}
    return told | ({"result": str(state / STATE)} if applied else {"lost": outcomes[-1]})


def join(
    folder: Path, *, name: str, key: Path, people: Path | None, server: str, root: Path,
    state: Path, max_epsilon: float | None, has_duty: bool, pulse: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Answers the server until this camera's rounds are spent or it is interrupted."""
    federation, roster, task = read_kit(folder)
    if name not in roster.lines:
        raise ConfigError(f"{folder}: roster.json has no node {name!r}; it has {roster.names[:20]}")
    private = read_key(key)
    sealed = load_people(people, federation.feature_size) if people else None
    if sealed is None:
        _log.warning("no --people: this camera adds noise only")
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    rules = Rules()
    if has_duty:
        step_back()
    state.mkdir(parents=True, exist_ok=True)
    with Node(
        federation, task, Identity(name, private), roster, people=sealed, folder=state,
        max_epsilon=max_epsilon,
        duty=lambda: why_not(read_machine(pulse or running()), rules) if has_duty else None,
    ) as node:  # fmt: skip
        node.warm_up()
        _log.info("%s: %d rounds left within the cap", name, node.rounds_left)
        serve_node(node.handle, server=server, root=root, key=key, is_over=lambda: node.is_over)
    return spent(state)


def spent(state: Path) -> dict[str, Any]:
    """What a camera has spent against its federation's server."""
    path = state / NAME
    if not path.exists():
        return {"epsilon": 0.0, "rounds": 0}
    told = promise(path)
    header = json.loads(path.read_text())
    rounds = sum(stage["iterations"] for stage in told["stages"])
    return told | {"rounds": rounds, "cap_epsilon": header["budget_epsilon"]}


def with_public(federation: Federation, path: Path) -> Federation:
    """The federation, with the hash of its public features filled in."""
    return replace(federation, public_sha256=hashlib.sha256(path.read_bytes()).hexdigest())
