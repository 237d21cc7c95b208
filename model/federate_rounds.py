"""The server's side of a federation, whatever carries the messages.

A round: draw nodes, collect keys, pay, collect sealed shares, masked vectors and what unmasks their
sum, check that the sum can come from honest nodes, take the step. The ledger is written before the
nodes are asked for vectors and the state after the step, both by rename: a server that dies in
between has paid for a round it did not take, and goes on with the next.

What vanishes or is late costs the round only where fewer than `min_nodes` are left.
"""

import json
import logging
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
from jaxtyping import Float

from veilcam.model.federate import PROTOCOL, Federation
from veilcam.model.federate_keys import Roster
from veilcam.model.federate_ring import RangeError, sum_bound
from veilcam.model.federate_secagg import AggregationError, Assembly, Keys
from veilcam.model.federate_task import Task
from veilcam.model.federate_wire import Exchange, Payload, Round, blame, payload_bytes
from veilcam.model.ledger import NAME, Ledger
from veilcam.model.private_data import PrivacyError

_log = logging.getLogger(__name__)
STATE, LOG = "federation.npz", "rounds.jsonl"
_MOST_REFUSED = 5  # sums in a row, before an operator has to look


class FederationStopped(PrivacyError):
    """Going on would only burn the budget; an operator has to look."""


class Conductor:
    """Runs the rounds. Close it, or use `with`.

    Args:
        federation: What was agreed.
        task: What is learned.
        roster: Registered nodes; as many as the federation says.
        folder: Of state, ledger and log; what lies there is gone on with.
        exchange: Sends a payload to each named node and returns the replies that came in time.
        timeout_s: How long a stage waits.
    """

    def __init__(
        self,
        federation: Federation,
        task: Task,
        roster: Roster,
        folder: Path,
        exchange: Exchange,
        *,
        timeout_s: float = 60.0,
    ) -> None:
        if len(roster.names) != federation.num_nodes:
            raise PrivacyError(
                f"the roster has {len(roster.names)} nodes and the federation is accounted for "
                f"{federation.num_nodes}; make both agree"
            )
        self.federation, self.task, self.roster = federation, task, roster
        self.folder = folder
        self._exchange, self._timeout_s = exchange, timeout_s
        self._bytes = [0, 0]
        self._refused_in_a_row = 0
        folder.mkdir(parents=True, exist_ok=True)
        self.ledger = Ledger(folder / NAME, federation.plan)
        try:
            self._load()
        except BaseException:
            self.close()
            raise

    def _load(self) -> None:
        start = self.task.initial()
        self.params, self.velocity = start, np.zeros_like(start)
        self.average, self.num_averaged, self.applied = np.zeros_like(start), 0, 0
        path = self.folder / STATE
        if not path.exists():
            return
        with np.load(path) as file:
            if str(file["fingerprint"]) != self.federation.fingerprint:
                raise PrivacyError(
                    f"{path}: of a federation with other settings; use another folder for these"
                )
            self.params, self.velocity = file["params"], file["velocity"]
            self.average, self.num_averaged = file["average"], int(file["num_averaged"])
            self.applied = int(file["applied"])
        self.ledger.check_covers({self.federation.mechanism.stage: self.applied})
        _log.info("resumed: %d rounds applied, %d paid", self.applied, self.paid)

    @property
    def paid(self) -> int:
        """Rounds that the ledger holds."""
        return self.ledger.spent(self.federation.mechanism)

    @property
    def result(self) -> Float[np.ndarray, " p"]:
        """Average of the second half of the rounds: less noise, at no cost."""
        return self.average if self.num_averaged else self.params

    def run(self) -> Iterator[Round]:
        """All rounds that are still to be paid.

        Raises:
            FederationStopped: Too many sums in a row were refused.
        """
        sampler = self.federation.mechanism.sampler
        random = np.random.default_rng(secrets.randbits(256))
        for drawn in sampler.batch_iterator(self.federation.num_nodes, random):
            if self.paid >= self.federation.rounds:
                return
            report = self.round([self.roster.names[index] for index in drawn])
            with (self.folder / LOG).open("a") as stream:
                stream.write(json.dumps(asdict(report)) + "\n")
            yield report

    def round(self, drawn: list[str]) -> Round:
        """One round with these nodes."""
        start, self._bytes = time.monotonic(), [0, 0]
        counts, refusals, norm = [len(drawn), 0, 0, 0], dict[str, str](), 0.0
        permit = self.ledger.spend(self.federation.mechanism)
        try:
            mean, norm = self._middle(drawn, counts, refusals)
            permit.use(self.federation.mechanism)
            self._apply(mean)
            self._refused_in_a_row, outcome = 0, "applied"
        except RangeError as error:
            self._refused_in_a_row, outcome = self._refused_in_a_row + 1, f"refused: {error}"
        except AggregationError as error:
            outcome = f"dropped: {error}"
        report = Round(
            index=self.paid, outcome=outcome, asked=counts[0], announced=counts[1],
            shared=counts[2], summed=counts[3], bytes_down=self._bytes[0], bytes_up=self._bytes[1],
            norm=norm, seconds=round(time.monotonic() - start, 3), refusals=refusals,
        )  # fmt: skip
        if self._refused_in_a_row >= _MOST_REFUSED:
            raise FederationStopped(
                f"{_MOST_REFUSED} sums in a row were not those of honest nodes ({outcome}); nodes "
                f"of the last round: {', '.join(drawn[:20])}; find the broken one, take it off the "
                "roster"
            )
        return report

    def _middle(
        self, drawn: list[str], counts: list[int], refusals: dict[str, str]
    ) -> tuple[Float[np.ndarray, " p"], float]:
        """The median of the groups' means and the largest norm of a sum.

        Raises:
            RangeError: Half of the groups or more were not those of honest nodes.
            AggregationError: Half of them or more are lost.
        """
        made: list[tuple[Float[np.ndarray, " p"], float]] = []
        lost: list[PrivacyError] = []
        groups = self.federation.grouped(self.roster.names, drawn, self.paid)
        for index, members in enumerate(groups):
            try:
                made.append(self._sum(members, counts, refusals))
            except (RangeError, AggregationError) as error:
                lost.append(error)
                if len(groups) > 1:
                    refusals[f"group {index}"] = f"{error}; in it: {', '.join(members[:20])}"[:300]
        if len(made) <= len(groups) // 2:
            raise next((error for error in lost if isinstance(error, RangeError)), lost[0])
        middle = np.median([mean for mean, _ in made], axis=0)
        return np.asarray(middle), max(norm for _, norm in made)

    def _sum(
        self, drawn: list[str], counts: list[int], refusals: dict[str, str]
    ) -> tuple[Float[np.ndarray, " p"], float]:
        """Mean noisy update of a group over its expected number, and the norm of its sum."""
        f = self.federation
        if not f.min_nodes <= len(drawn) <= f.max_nodes:
            raise AggregationError(
                f"{len(drawn)} nodes were drawn; {f.min_nodes}-{f.max_nodes} fit"
            )
        context = f"{f.fingerprint}/{self.paid}/".encode() + secrets.token_bytes(16)
        keys, signatures = self._announce(drawn, context, refusals)
        counts[1] += len(keys)
        self._enough(len(keys), refusals)
        assembly = Assembly(context, keys, f.degree)
        self._share(assembly, signatures, refusals)
        counts[2] += len(assembly.sharers)
        self._enough(len(assembly.sharers), refusals)
        self._mask(assembly, refusals)
        counts[3] += len(assembly.alive)
        self._enough(len(assembly.alive), refusals)
        total = self._unmask(assembly, refusals)
        real = f.ring.decode(total, len(assembly.alive))
        norm = float(np.linalg.norm(real))
        bound = sum_bound(
            num_nodes=len(assembly.alive), l2_clip_norm=f.l2_clip_norm,
            noise_stddev=f.noise_stddev, min_nodes=f.min_nodes, size=len(real),
        )  # fmt: skip
        if norm > bound:
            raise RangeError(
                f"the sum's norm {norm:.4g} is above the {bound:.4g} that {len(assembly.alive)} "
                "honest nodes can make: one of them did not clip"
            )
        return real / f.expected_nodes, norm

    def _announce(
        self, drawn: list[str], context: bytes, refusals: dict[str, str]
    ) -> tuple[dict[str, Keys], dict[str, bytes]]:
        f = self.federation
        hello = {"fingerprint": f.fingerprint, "protocol": PROTOCOL}
        replies = self._ask("announce", dict.fromkeys(drawn, hello), context, refusals)
        keys, signatures = {}, {}
        for name, reply in replies.items():
            with blame(name, refusals):
                mine = Keys(reply["mask"], reply["seal"])
                if not self.roster.is_signed(
                    name, f.fingerprint, context, mine, reply["signature"]
                ):
                    raise AggregationError("its keys are not signed by the registered node")
                keys[name], signatures[name] = mine, reply["signature"]
        return keys, signatures

    def _share(
        self, assembly: Assembly, signatures: dict[str, bytes], refusals: dict[str, str]
    ) -> None:
        messages = {}
        for name in assembly.keys:
            partners = assembly.partners(name)
            messages[name] = {
                "names": list(partners),
                "masks": [keys.mask for keys in partners.values()],
                "seals": [keys.seal for keys in partners.values()],
                "signatures": [signatures[other] for other in partners],
            }
        for name, reply in self._ask("share", messages, assembly.context, refusals).items():
            with blame(name, refusals):
                boxes = dict(zip(reply["names"], reply["boxes"], strict=True))
                assembly.take_shares(name, boxes)

    def _mask(self, assembly: Assembly, refusals: dict[str, str]) -> None:
        params = self.params.astype("<f4").tobytes()
        messages = {}
        for name in assembly.sharers:
            boxes = assembly.sealed_for(name)
            messages[name] = {
                "params": params, "names": list(boxes), "boxes": list(boxes.values()),
            }  # fmt: skip
        for name, reply in self._ask("mask", messages, assembly.context, refusals).items():
            with blame(name, refusals):
                vector = np.frombuffer(reply["vector"], "<u4").astype(np.uint32)
                if len(vector) != self.task.size:
                    raise AggregationError(f"{len(vector)} numbers; wanted {self.task.size}")
                assembly.take_masked(name, vector)

    def _unmask(self, assembly: Assembly, refusals: dict[str, str]) -> np.ndarray:
        messages = {}
        for name in assembly.alive:
            alive, dead = assembly.fates(name)
            messages[name] = {"alive": alive, "dead": dead, "num_alive": len(assembly.alive)}
        replies = self._ask("unmask", messages, assembly.context, refusals)
        shares = {}
        for name, reply in replies.items():
            with blame(name, refusals):
                shares[name] = dict(zip(reply["names"], reply["shares"], strict=True))
        return assembly.unmask(shares)

    def _ask(
        self,
        stage: str,
        messages: Mapping[str, Payload],
        context: bytes,
        refusals: dict[str, str],
    ) -> dict[str, Payload]:
        """Replies that are ok; the others' reasons are noted."""
        full = {name: {"stage": stage, "context": context, **m} for name, m in messages.items()}
        self._bytes[0] += sum(payload_bytes(message) for message in full.values())
        replies = self._exchange(full, self._timeout_s)
        self._bytes[1] += sum(payload_bytes(reply) for reply in replies.values())
        for name in full:
            reply = replies.get(name)
            if reply is None:
                refusals[name] = f"no reply to {stage} in {self._timeout_s:g} s"
            elif reply.get("status") != "ok":
                refusals[name] = str(reply.get("reason", "no reason"))[:300]
        return {n: r for n, r in replies.items() if n in full and r.get("status") == "ok"}

    def _enough(self, left: int, refusals: Mapping[str, str]) -> None:
        if left < self.federation.min_nodes:
            why = "; ".join(f"{name}: {reason}" for name, reason in list(refusals.items())[:3])
            raise AggregationError(
                f"{left} nodes are left, {self.federation.min_nodes} are needed for the noise "
                f"({why})"
            )

    def _apply(self, mean: Float[np.ndarray, " p"]) -> None:
        self.params, self.velocity = self.task.step(self.params, self.velocity, mean)
        self.applied += 1
        if self.paid * 2 > self.federation.rounds:
            self.num_averaged += 1
            self.average = self.average + (self.params - self.average) / self.num_averaged
        partial = self.folder / f".{STATE}.partial"
        with partial.open("wb") as stream:
            np.savez(
                stream, params=self.params, velocity=self.velocity, average=self.average,
                num_averaged=self.num_averaged, applied=self.applied,
                fingerprint=self.federation.fingerprint,
            )  # fmt: skip
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(self.folder / STATE)

    def close(self) -> None:
        """Lets go of the ledger."""
        self.ledger.close()

    def __enter__(self) -> "Conductor":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
