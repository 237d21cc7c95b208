"""A simulated fleet through Flower's Ray engine: every message goes through Flower and an actor.

One actor answers for all cameras, since a camera's secrets of a round live in its process. On more
machines Ray starts one for each `client_resources`; cameras must then stay with an actor.
"""

import importlib.util
import logging
import os
import tempfile
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from veilcam.camera.errors import ConfigError
from veilcam.model.federate import Federation, read_federation, write_federation
from veilcam.model.federate_data import camera_of, load_features
from veilcam.model.federate_keys import Identity, Roster, make_identity, read_key
from veilcam.model.federate_node import Node
from veilcam.model.federate_rounds import Conductor
from veilcam.model.federate_simulate import allow_files
from veilcam.model.federate_task import read_task
from veilcam.model.federate_wire import Round
from veilcam.model.private_data import PrivateSet
from veilcam.model.private_latents import is_held_out

_log = logging.getLogger(__name__)
_TIMEOUT_S = 600.0


def run_ray(
    federation: Federation, people_path: Path, public_path: Path
) -> tuple[np.ndarray, list[Round]]:
    """All rounds; people who are held out take no part.

    Raises:
        ConfigError: Ray is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise ConfigError(
            "--engine ray needs Ray, which is not installed: run ./scripts/setup simulation, "
            "or use --engine local"
        )
    os.environ |= {
        "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    from flwr.app import Context, Message, MessageType, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp
    from flwr.simulation import run_simulation

    from veilcam.model.federate_flower import from_record, grid_exchange, to_record

    results: list[tuple[np.ndarray, list[Round]]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _write(folder, federation, people_path, public_path)
        client, server = ClientApp(), ServerApp()

        def train(message: Message, context: Context) -> Message:
            node = cameras(str(folder))(int(context.node_config["partition-id"]))
            return Message(to_record(node.handle(from_record(message.content))), reply_to=message)

        def who(message: Message, context: Context) -> Message:
            index = int(context.node_config["partition-id"])
            return Message(to_record({"index": index}), reply_to=message)

        def main(grid: Grid, context: Context) -> None:
            while len(list(grid.get_node_ids())) < federation.num_nodes:
                time.sleep(0.2)
            asked = [
                Message(RecordDict(), dst_node_id=number, message_type=MessageType.QUERY)
                for number in grid.get_node_ids()
            ]
            told = list(grid.send_and_receive(asked))
            ids = {
                _name(int(from_record(m.content)["index"])): m.metadata.src_node_id for m in told
            }
            task = read_task(folder / "public.npz", federation)
            roster = Roster.read(folder / "roster.json")
            with Conductor(
                federation, task, roster, folder / "state",
                grid_exchange(grid, ids), timeout_s=_TIMEOUT_S,
            ) as conductor:  # fmt: skip
                reports = list(conductor.run())
                results.append((conductor.result, reports))

        client.train()(train)
        client.query()(who)
        server.main()(main)
        whole: Any = {"num_cpus": os.cpu_count() or 1}
        run_simulation(
            server, client, federation.num_nodes,
            backend_config={"init_args": whole, "client_resources": whole},
        )  # fmt: skip
    return results[0]


def _name(index: int) -> str:
    return f"camera{index:06d}"


def _write(folder: Path, federation: Federation, people_path: Path, public_path: Path) -> None:
    write_federation(folder / "federation.toml", federation)
    (folder / "public.npz").write_bytes(public_path.read_bytes())
    (folder / "people.npz").write_bytes(people_path.read_bytes())
    names = [_name(index) for index in range(federation.num_nodes)]
    lines = {name: make_identity(folder / "keys" / name) for name in names}
    Roster(lines).write(folder / "roster.json")


class Cameras:
    """In the actor: nodes by index, made when they are first asked."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._federation = read_federation(folder / "federation.toml")
        self._task = read_task(folder / "public.npz", self._federation)
        self._roster = Roster.read(folder / "roster.json")
        rows, people = load_features(folder / "people.npz", self._federation.feature_size)
        kept = np.array([not is_held_out(str(person)) for person in people])
        self._rows, self._people = rows[kept], people[kept]
        count = self._federation.num_nodes
        self._home = np.array([camera_of(str(person), count) for person in self._people])
        self._nodes: dict[int, Node] = {}
        allow_files(2 * count + 500)

    def __call__(self, index: int) -> Node:
        """The camera of that index."""
        if index not in self._nodes:
            mine = self._home == index
            people = PrivateSet({"x": self._rows[mine]}, self._people[mine]) if mine.any() else None
            identity = Identity(_name(index), read_key(self._folder / "keys" / _name(index)))
            self._nodes[index] = Node(
                self._federation, self._task, identity, self._roster, people=people,
                folder=self._folder / "nodes" / identity.name,
            )  # fmt: skip
        return self._nodes[index]


@lru_cache(maxsize=1)
def cameras(folder: str) -> Cameras:
    """Those of a folder, once for each process."""
    return Cameras(Path(folder))
