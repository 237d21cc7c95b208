"""A node's side of a federation, whatever carries the messages.

`Node.handle` answers one message with one reply. A node never runs code from the server, spends
from its own ledger before it computes, stops at its owner's cap, and refuses what does not fit with
a reason. A payload is a flat dictionary of numbers, strings, bytes and lists of them.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from veilcam.camera.errors import VeilcamError
from veilcam.model.federate import PROTOCOL, Federation
from veilcam.model.federate_keys import Identity, Roster
from veilcam.model.federate_secagg import STAGES, AggregationError, Keys, Member
from veilcam.model.federate_share import Share
from veilcam.model.federate_task import Task
from veilcam.model.federate_wire import Payload
from veilcam.model.ledger import NAME, Ledger
from veilcam.model.private_data import PrivacyError, PrivateSet

_log = logging.getLogger(__name__)


class Node:
    """One camera in a federation. Close it, or use `with`.

    Args:
        federation: What its owner agreed to.
        task: What is learned.
        identity: Name and key.
        roster: The pinned register of all nodes.
        people: Features of its people; None where it saw nobody.
        folder: Of the node's ledger.
        max_epsilon: Owner's cap against the server; default: all rounds.
        duty: Says why now is no time to train, or None; see `camera/duty.py`.
    """

    def __init__(
        self,
        federation: Federation,
        task: Task,
        identity: Identity,
        roster: Roster,
        *,
        people: PrivateSet | None,
        folder: Path,
        max_epsilon: float | None = None,
        duty: Callable[[], str | None] = lambda: None,
    ) -> None:
        self.federation = federation
        self.identity = identity
        self._size = task.size
        self._roster = roster
        self._duty = duty
        self._contribution = Share(federation, task, people)
        plan = federation.node_plan(max_epsilon)
        self._stage = plan.stages[0]
        self.ledger = Ledger(folder / NAME, plan)
        self._member: Member | None = None
        self._context = b""

    def handle(self, message: Mapping[str, Any]) -> Payload:
        """The reply: `status` ok with the stage's fields, or refused with a `reason`."""
        try:
            stage = message.get("stage")
            if stage not in STAGES:
                raise AggregationError(f"unknown stage {stage!r}; this node knows {STAGES}")
            reply: Payload = getattr(self, f"_{stage}")(message)
        except VeilcamError as error:
            _log.warning("refused: %s", error)
            return {"status": "refused", "reason": str(error), "name": self.identity.name}
        except (KeyError, TypeError, ValueError) as error:
            _log.warning("refused a malformed message: %s", type(error).__name__)
            reason = f"malformed message ({type(error).__name__})"
            return {"status": "refused", "reason": reason, "name": self.identity.name}
        return {"status": "ok", "name": self.identity.name, **reply}

    def warm_up(self) -> None:
        """Compiles before the first round comes."""
        self._contribution.warm_up()

    @property
    def rounds_left(self) -> int:
        """Rounds that the owner's cap still allows."""
        return self._stage.iterations - self.ledger.spent(self._stage)

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to spend and the last round is unmasked."""
        return self.rounds_left < 1 and (self._member is None or self._member.is_done)

    def _announce(self, message: Mapping[str, Any]) -> Payload:
        check_version(message, self.federation)
        if reason := self._duty():
            raise AggregationError(f"off duty: {reason}")
        if self.rounds_left < 1:
            raise PrivacyError(
                f"the owner's cap of epsilon {self.ledger.plan.epsilon:.4g} is spent "
                f"({self._stage.iterations} rounds); raise --max-epsilon to go on"
            )
        self._context = bytes(message["context"])
        self._member = Member(self.identity.name, self._context)
        keys = self._member.announce()
        signature = self.identity.sign(self.federation.fingerprint, self._context, keys)
        return {"mask": keys.mask, "seal": keys.seal, "signature": signature}

    def _share(self, message: Mapping[str, Any]) -> Payload:
        member = self._current(message)
        partners = {}
        for name, (keys, signature) in keys_from(message).items():
            if not self._roster.is_signed(
                name, self.federation.fingerprint, self._context, keys, signature
            ):
                raise AggregationError(f"the keys of {name!r} are not signed by a registered node")
            partners[name] = keys
        sealed = member.share(partners)
        return {"names": list(sealed), "boxes": list(sealed.values())}

    def _mask(self, message: Mapping[str, Any]) -> Payload:
        member = self._current(message)
        boxes = dict(zip(message["names"], message["boxes"], strict=True))
        params = np.frombuffer(message["params"], "<f4").astype(np.float64)
        if len(params) != self._size or not np.isfinite(params).all():
            raise AggregationError("the model on offer has another size or is not finite")
        if reason := self._duty():  # somebody came in since it announced: nothing is spent yet
            raise AggregationError(f"off duty: {reason}")
        permit = self.ledger.spend(self._stage)
        vector = self._contribution(params, self._stage, permit)
        masked = member.mask(vector, boxes)
        return {"vector": masked.astype("<u4").tobytes()}

    def _unmask(self, message: Mapping[str, Any]) -> Payload:
        member = self._current(message)
        if message["num_alive"] < self.federation.min_nodes:
            raise AggregationError(
                f"only {message['num_alive']} of at least {self.federation.min_nodes} nodes are in "
                "the sum: their noise would be too little; the masks stay on"
            )
        shares = member.unmask(message["alive"], message["dead"])
        return {"names": list(shares), "shares": list(shares.values())}

    def _current(self, message: Mapping[str, Any]) -> Member:
        if self._member is None or bytes(message["context"]) != self._context:
            raise AggregationError("this node is not in that round (late, or it started anew)")
        return self._member

    def close(self) -> None:
        """Lets go of the ledger."""
        self.ledger.close()

    def __enter__(self) -> "Node":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def check_version(message: Mapping[str, Any], federation: Federation) -> None:
    """Refuses another protocol or other settings than the owner agreed to."""
    if message["protocol"] != PROTOCOL:
        raise AggregationError(
            f"the server speaks protocol {message['protocol']} and this node {PROTOCOL}; bring "
            "both to the same version of Veilcam"
        )
    if message["fingerprint"] != federation.fingerprint:
        raise AggregationError(
            f"the server's settings ({message['fingerprint']}) are not those this node's owner "
            f"agreed to ({federation.fingerprint}); give both the same federation.toml and version"
        )


def keys_from(message: Mapping[str, Any]) -> dict[str, tuple[Keys, bytes]]:
    """Names with their keys and signatures, as a server lists them."""
    lists = [message[key] for key in ("names", "masks", "seals", "signatures")]
    return {
        name: (Keys(bytes(mask), bytes(seal)), bytes(signature))
        for name, mask, seal, signature in zip(*lists, strict=True)
    }
