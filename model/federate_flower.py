"""Between payloads and Flower: messages, the server's application, a node's connection.

Every payload is one `ConfigRecord` of a Flower message of type train. The server's application
runs in Flower's own process for it and drives a `Conductor`; nodes answer over the same HTTPS
interface as `flower-supernode`, with the same signed requests.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives import serialization as forms
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp
from flwr.proto.control_pb2 import RegisterNodeRequest
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectPushError,
    pull_and_inflate_object_from_tree,
)
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.run import RunNotRunningException
from flwr.supernode.fleet_http_connection import http_request_response

from veilcam.camera.errors import ConfigError, VeilcamError
from veilcam.model.federate import read_federation
from veilcam.model.federate_keys import Roster
from veilcam.model.federate_rounds import Conductor
from veilcam.model.federate_task import read_task
from veilcam.model.federate_wire import Exchange, Payload, one_line

_log = logging.getLogger(__name__)
RECORD = "veilcam"
_POLL_S = 0.2
Answer = Callable[[Mapping[str, object]], Payload]


def to_record(payload: Payload) -> RecordDict:
    """One record; Flower knows no empty list, so those are left out and come back by default."""
    kept = {key: value for key, value in payload.items() if value != []}
    empty = [key for key, value in payload.items() if value == []]
    return RecordDict({RECORD: ConfigRecord(kept | ({"_empty": empty} if empty else {}))})


def from_record(content: RecordDict) -> Payload:
    """The payload of `to_record`."""
    payload = dict(content.config_records[RECORD])
    return payload | {key: [] for key in payload.pop("_empty", [])}


def grid_exchange(grid: Grid, node_ids: Mapping[str, int]) -> Exchange:
    """Sends through Flower's grid to the nodes that are online; others don't answer."""
    names = {number: name for name, number in node_ids.items()}

    def exchange(messages: Mapping[str, Payload], timeout_s: float) -> dict[str, Payload]:
        online = set(grid.get_node_ids())
        out = [
            Message(to_record(payload), dst_node_id=node_ids[name], message_type=MessageType.TRAIN,
                    group_id=str(payload["stage"]), ttl=timeout_s + 60)
            for name, payload in messages.items() if node_ids[name] in online
        ]  # fmt: skip
        waiting = {number for number in grid.push_messages(out) if number} if out else set()
        replies: dict[str, Payload] = {}
        end = time.monotonic() + timeout_s
        while waiting and time.monotonic() < end:
            for reply in grid.pull_messages(waiting):
                waiting.discard(reply.metadata.reply_to_message_id)
                if reply.has_content():
                    replies[names[reply.metadata.src_node_id]] = from_record(reply.content)
            if waiting:
                time.sleep(_POLL_S)
        return replies

    return exchange


def serve(grid: Grid, context: Context) -> None:
    """Conducts the federation of the folder that the run names."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    folder, timeout_s = Path(str(context.run_config["folder"])), context.run_config["timeout-s"]
    told: dict[str, Any] = {"error": None}
    (folder / "app.pid").write_text(str(os.getpid()))
    try:
        conduct(grid, folder, float(timeout_s))
    except VeilcamError as error:
        told = {"error": str(error)}
        raise
    except Exception as error:
        told = {"error": f"unexpected {type(error).__name__}"}
        raise
    finally:
        (folder / "done.json").write_text(json.dumps(told))


server_app = ServerApp()
server_app.main()(serve)
no_client = ClientApp()  # nodes answer by their installed code, never by an application sent


def conduct(grid: Grid, folder: Path, timeout_s: float) -> None:
    """All rounds that are still to be paid, once enough nodes are online."""
    federation = read_federation(folder / "federation.toml")
    task = read_task(folder / "public.npz", federation)
    known = json.loads((folder / "link" / "nodes.json").read_text())
    node_ids = {name: int(entry["id"]) for name, entry in known.items()}
    roster = Roster.read(folder / "roster.json")
    exchange = grid_exchange(grid, node_ids)
    with Conductor(
        federation, task, roster, folder / "state", exchange, timeout_s=timeout_s
    ) as conductor:
        while len(set(grid.get_node_ids()) & set(node_ids.values())) < federation.min_nodes:
            time.sleep(1.0)
        for report in conductor.run():
            _log.info("%s", one_line(report, federation.rounds))


def register(address: str, root: Path, lines: Mapping[str, str]) -> Iterator[tuple[str, int]]:
    """Registers nodes' public keys with the SuperLink; yields names and node ids.

    Raises:
        ConfigError: The SuperLink refused a key.
    """
    with ControlHttpClient.from_server_address(
        address, False, root.read_bytes(),
        [RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
    ) as client:  # fmt: skip
        for name, line in lines.items():
            key = public_key_to_bytes(forms.load_ssh_public_key(line.encode()))
            try:
                reply = client.RegisterNode(RegisterNodeRequest(public_key=key))
            except httpx.HTTPStatusError as error:
                raise ConfigError(
                    f"node {name!r} could not be registered: {error.response.text[:200]}"
                ) from error
            yield name, int(reply.node_id)


@dataclass(frozen=True)
class Link:
    """An open connection of a node."""

    node_id: int
    receive: Callable[[], Any]
    send: Callable[..., Any]
    pull: Callable[[int, str], bytes]
    push: Callable[..., None]
    confirm: Callable[[int, str], None]


@contextmanager
def connected(server: str, root: Path, key: ec.EllipticCurvePrivateKey) -> Iterator[Link]:
    """A connection as `flower-supernode` makes it: TLS, and requests signed by the node's key.

    Raises:
        ConnectionError: The server went away or refuses this node.
    """
    try:
        with http_request_response(server, False, str(root), (key, key.public_key())) as parts:
            node_id, receive, send, _get_run, _get_fab, pull, push, confirm = parts
            yield Link(node_id, receive, send, pull, push, confirm)
    except SystemExit as stop:  # Flower's way to say that it was refused
        raise ConnectionError(
            f"{server} refuses this node: is its key on the server's roster?"
        ) from stop


def receive_one(link: Link, answer: Answer) -> bool:
    """Answers one message; false where there is none.

    Raises:
        ConnectionError: The server no longer knows this node.
    """
    try:
        got = link.receive()
        if got is None:
            return False
        head, tree = got
        run_id = head.metadata.run_id
        message = pull_and_inflate_object_from_tree(
            tree,
            lambda object_id: link.pull(run_id, object_id),
            lambda object_id: link.confirm(run_id, object_id),
            return_type=Message,
        )
        message.metadata.__dict__["_message_id"] = tree.object_id
        start = time.monotonic()
        payload = answer(from_record(message.content))
        _send(link, Message(to_record(payload), reply_to=message), time.monotonic() - start)
    except (RunNotRunningException, ObjectPullError, ObjectPushError) as error:
        _log.info("a message of a run that is over: %s", type(error).__name__)
    except httpx.HTTPStatusError as error:
        if error.response.status_code in (401, 403):
            raise ConnectionError("the server no longer knows this node") from error
        _log.warning("the server answered %d", error.response.status_code)
    return True


def _send(link: Link, reply: Message, seconds: float) -> None:
    reply.metadata.__dict__["_message_id"] = reply.object_id
    with no_object_id_recompute():
        tree, objects = get_object_tree(reply), get_all_nested_objects(reply)
        wanted, session = link.send(reply, tree, seconds)
        for object_id in wanted:
            link.push(reply.metadata.run_id, session, object_id, objects[object_id].deflate())
