"""What a federation agrees on before anything is spent: one frozen object, the same at every node.

A federation trains by rounds (DP-FedAvg). In each, every registered camera takes part with
probability `sampling_prob`; the update w' - w of its own people is clipped to `l2_clip_norm`, gets
its share of the noise, and is only ever seen in the sum. Unit: the camera and all its people. There
are two views of what that costs, and both are kept:

    released models    Poisson-sampled Gaussian, `rounds` times (nobody knows who took part)
    the server, and    Gaussian without sampling, once for each round that the node took part in
    this node's owner  (the server knows who it asked); a node stops at its owner's cap

`Federation.fingerprint` is compared before a node does anything, so that versions can't mix.

Source: McMahan et al. 2018 (DP-FedAvg); Kairouz et al. 2021 (shares of noise in secure sums).
"""

import hashlib
import json
import math
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from veilcam.camera.errors import ConfigError
from veilcam.model.federate_ring import Ring
from veilcam.model.plan import Plan
from veilcam.model.privacy import Mechanism, epsilon_of

PROTOCOL = 1  # of messages and arithmetic; another number is refused
UNIT = "camera"
TASKS = ("head", "moments", "latents")
_ONE_ROUND = ("moments", "latents")
_TAIL = 12.0  # standard deviations of a share that fit into the ring: chance 1e-32 a number


@dataclass(frozen=True, kw_only=True)
class Federation:
    """Settings that privacy and protocol depend on.

    Attributes:
        name: Of the federation; the stage in ledgers.
        task: `head`: a small discriminator of the fleet's people against public faces.
            `moments`: mean and covariance of their features, in one round. `latents`: the same of
            the face bundle's latents, see `federate_latents`.
        num_nodes: Registered cameras (public).
        rounds: Rounds that are accounted.
        epsilon, delta: Budget per camera against everybody who sees the released models.
        l2_clip_norm: Bound of a camera's update.
        sampling_prob: Chance of a camera to be asked in a round.
        min_nodes: Survivors whose noise makes up the whole. A round with fewer is dropped.
        groups: Odd. A round's cameras are split into so many groups by their names and the round's
            number, each with a sum and a whole noise of its own; the step is the median of the
            groups, number by number. So fewer than half of the groups can't lead it anywhere, for
            sqrt(groups pi / 2) times the noise. `min_nodes` and `max_nodes` are of a group.
        max_nodes: Most cameras in a round; a larger draw is dropped (paid, not taken).
        degree: Neighbours of a node in secure aggregation.
        feature_size: Length of a feature vector.
        hidden: Width of the head's hidden layer.
        local_steps, learning_rate: Gradient steps of a node in a round.
        server_rate, momentum: Step of the server along the noisy mean update.
        weight_decay: Of the head.
        public_sha256: Of the public features that every node holds.
    """

    name: str
    num_nodes: int
    epsilon: float
    delta: float
    rounds: int = 20
    task: str = "head"
    l2_clip_norm: float = 1.0
    sampling_prob: float = 1.0
    min_nodes: int = 2
    groups: int = 1
    max_nodes: int = 1000
    degree: int = 12
    feature_size: int = 32
    hidden: int = 0
    local_steps: int = 5
    learning_rate: float = 1.0
    server_rate: float = 1.0
    momentum: float = 0.0
    weight_decay: float = 0.01
    public_sha256: str = ""

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ConfigError(f"task={self.task!r}; allowed: {', '.join(TASKS)}")
        if self.task in _ONE_ROUND and (self.rounds, self.sampling_prob) != (1, 1.0):
            raise ConfigError(
                f"task {self.task} is one round of everybody: rounds = 1, sampling_prob 1"
            )
        if not 2 <= self.min_nodes <= self.max_nodes:
            raise ConfigError(
                f"min_nodes={self.min_nodes} must be from 2 to max_nodes={self.max_nodes}: a sum "
                "of one node would show it"
            )
        if self.groups < 1 or self.groups % 2 == 0:
            raise ConfigError(f"groups={self.groups} must be odd, so that a median is one of them")
        average = self.num_nodes * self.sampling_prob / self.groups
        if self.min_nodes > average:
            raise ConfigError(
                f"min_nodes={self.min_nodes} is above the {average:g} nodes of an average round "
                "and group, so most rounds would be dropped"
            )
        for key in ("degree", "feature_size", "local_steps"):
            if getattr(self, key) < 1:
                raise ConfigError(f"{key}={getattr(self, key)} must be >= 1")
        for key in ("learning_rate", "server_rate"):
            if not 0 < getattr(self, key) < float("inf"):
                raise ConfigError(f"{key}={getattr(self, key)} must be > 0 and finite")
        if not 0 <= self.momentum < 1 or not self.weight_decay >= 0 or self.hidden < 0:
            raise ConfigError("momentum must be in [0, 1), weight_decay and hidden >= 0")
        _ = self.plan  # epsilon, delta, clip norm, sampling: refused now rather than in round one

    @cached_property
    def plan(self) -> Plan:
        """Against everybody who sees the released models."""
        return _calibrated(
            self.name, self.num_nodes, self.rounds, self.sampling_prob, self.l2_clip_norm,
            self.epsilon, self.delta,
        )  # fmt: skip

    @property
    def mechanism(self) -> Mechanism:
        """The plan's one stage."""
        return self.plan.stages[0]

    def node_plan(self, max_epsilon: float | None = None) -> Plan:
        """Against the server, for one node: as many rounds as its owner's cap allows.

        Raises:
            ConfigError: The cap does not even allow one round.
        """
        return _node_plan(self.name, self.mechanism, self.delta, max_epsilon)

    @property
    def noise_stddev(self) -> float:
        """Of the noise on each number of the sum, at least."""
        return self.mechanism.noise_stddev

    @property
    def expected_nodes(self) -> float:
        """Divisor of the mean update: cameras in a group on average."""
        return self.mechanism.expected_batch_size / self.groups

    @property
    def mean_stddev(self) -> float:
        """Of the noise on each number of a step, where all groups come in with `min_nodes`.

        For a median of several groups a bound: pi / (2 n) of the variance of one.
        """
        one = self.noise_stddev / self.expected_nodes
        return one if self.groups == 1 else one * (math.pi / 2 / self.groups) ** 0.5

    def grouped(self, roster: Sequence[str], drawn: Sequence[str], index: int) -> list[list[str]]:
        """The drawn nodes by group; where a node goes does not depend on who else was drawn."""

        def place(name: str) -> bytes:
            return hashlib.sha256(f"{self.fingerprint}/{index}/{name}".encode()).digest()

        order = sorted(roster, key=place)
        group = {name: position % self.groups for position, name in enumerate(order)}
        return [[name for name in drawn if group[name] == g] for g in range(self.groups)]

    @property
    def ring(self) -> Ring:
        """Range of what a node may send."""
        share = self.noise_stddev / self.min_nodes**0.5
        return Ring(limit=self.l2_clip_norm + _TAIL * share, max_nodes=self.max_nodes)

    @property
    def fingerprint(self) -> str:
        """Changes with any setting, with the protocol and with what is accounted."""
        told = asdict(self) | {"protocol": PROTOCOL, "stage": self.mechanism.fingerprint}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]

    def as_dict(self) -> dict[str, Any]:
        """Settings, fingerprint and both views of the cost."""
        worst = self.node_plan()
        return {
            "federation": asdict(self),
            "fingerprint": self.fingerprint,
            "released_models": self.plan.as_dict(),
            "server_sees": worst.as_dict(),
        }


@lru_cache(maxsize=64)
def _calibrated(
    name: str, num_nodes: int, rounds: int, sampling_prob: float, clip: float, epsilon: float,
    delta: float,
) -> Plan:  # fmt: skip
    stage = Mechanism(
        stage=name, num_persons=num_nodes, iterations=rounds, sampling_prob=sampling_prob,
        l2_clip_norm=clip, noise_multiplier=1.0, unit=UNIT,
    )  # fmt: skip
    return Plan.calibrated([stage], epsilon=epsilon, delta=delta)


@lru_cache(maxsize=64)
def _node_plan(name: str, fleet: Mechanism, delta: float, cap: float | None) -> Plan:
    def stage(rounds: int) -> Mechanism:
        return Mechanism(
            stage=f"{name}/node", num_persons=fleet.num_persons, iterations=rounds,
            l2_clip_norm=fleet.l2_clip_norm, noise_multiplier=fleet.noise_multiplier, unit=UNIT,
        )  # fmt: skip

    whole = stage(fleet.iterations)
    spent = epsilon_of(whole.dp_event(), delta)
    if cap is None or spent <= cap:
        return Plan(epsilon=spent if cap is None else cap, delta=delta, stages=(whole,))
    low, high = 0, fleet.iterations  # low is allowed, high is not
    while high - low > 1:
        middle = (low + high) // 2
        fits = epsilon_of(whole.dp_event(middle), delta) <= cap
        low, high = (middle, high) if fits else (low, middle)
    if low == 0:
        one = epsilon_of(whole.dp_event(1), delta)
        raise ConfigError(
            f"a cap of epsilon {cap:g} allows no round of {name!r}: one costs this node "
            f"{one:.4g} at delta {delta:g}; raise --max-epsilon or stay out"
        )
    return Plan(epsilon=cap, delta=delta, stages=(stage(low),))


def read_federation(path: Path) -> Federation:
    """The `[federation]` table of a TOML file.

    Raises:
        ConfigError: The file, a key, a type or a value is wrong.
    """
    try:
        table = tomllib.loads(path.read_text())["federation"]
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"{path}: cannot be read as TOML with a [federation] table: {error}"
        ) from error
    wanted = {field.name: field.type for field in fields(Federation)}
    for key, value in table.items():
        if key not in wanted:
            raise ConfigError(f"{path}: unknown key {key!r}; allowed: {', '.join(wanted)}")
        kinds = (int, float) if wanted[key] is float else wanted[key]
        if not isinstance(value, kinds) or isinstance(value, bool):  # type: ignore[arg-type]
            raise ConfigError(f"{path}: {key}={value!r} has the wrong type")
    if missing := {"name", "num_nodes", "epsilon", "delta"} - set(table):
        raise ConfigError(f"{path}: [federation] lacks {sorted(missing)}")
    given: dict[str, Any] = {k: float(v) if wanted[k] is float else v for k, v in table.items()}
    return Federation(**given)


def write_federation(path: Path, federation: Federation) -> None:
    """What `read_federation` reads."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in asdict(federation).items()]
    partial = path.with_name(path.name + ".partial")
    partial.write_text("\n".join(["[federation]", *lines, ""]))
    partial.replace(path)
