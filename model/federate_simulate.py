"""Virtual cameras on one machine: what N of them reach, at what epsilon, for how many bytes.

Everything but the network is the real thing: keys, signatures, masks, ledgers, noise. Engine `ray`
runs the same through Flower's simulation (its Ray engine), one message for each stage and node.
"""

import logging
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from veilcam.model.federate import Federation
from veilcam.model.federate_data import camera_of, deal, load_features
from veilcam.model.federate_fleet import LocalFleet, auc, likeness, train_plain
from veilcam.model.federate_rounds import Conductor
from veilcam.model.federate_task import Head
from veilcam.model.federate_wire import Round
from veilcam.model.privacy import epsilon_of
from veilcam.model.private_latents import is_held_out

_log = logging.getLogger(__name__)
_SETTINGS: dict[str, Any] = {  # chosen on public faces alone, see docs/federated.md
    "l2_clip_norm": 0.3, "local_steps": 5, "learning_rate": 0.5, "weight_decay": 0.01,
}  # fmt: skip


def settings_for(
    num_cameras: int, per_round: int, size: int, *, rounds: int, epsilon: float, delta: float
) -> Federation:
    """A federation of so many cameras, about `per_round` of them in a round."""
    prob = min(per_round / num_cameras, 1.0)
    mean, spread = num_cameras * prob, (num_cameras * prob * (1 - prob)) ** 0.5
    return Federation(
        name=f"sim{num_cameras}", num_nodes=num_cameras, epsilon=epsilon, delta=delta,
        rounds=rounds, sampling_prob=prob, feature_size=size,
        min_nodes=max(2, int(0.8 * mean - 2 * spread)), max_nodes=int(mean + 7 * spread) + 1,
        **_SETTINGS,
    )  # fmt: skip


def simulate(
    people_path: Path, public_path: Path, cameras: tuple[int, ...], *, per_round: int, rounds: int,
    epsilon: float, delta: float, engine: str, repeats: int,
) -> dict[str, Any]:  # fmt: skip
    """One row for each number of cameras."""
    with np.load(public_path) as file:
        public, held_public = file["x"].astype(np.float32), file["held"].astype(np.float32)
    size = public.shape[1]
    rows, people = load_features(people_path, size)
    held = np.array([is_held_out(str(person)) for person in people])
    told = []
    for count in cameras:
        federation = settings_for(
            count, per_round, size, rounds=rounds, epsilon=epsilon, delta=delta
        )
        judge = Judge(Head(federation, public), rows[held], held_public)
        for _ in range(repeats):
            train = rows[~held], people[~held]
            told.append(_row(federation, public, *train, judge, engine, people_path, public_path))
            _log.info("%s", told[-1])
    one = one_machine(federation, public, rows[~held], people[~held], judge)
    return {"engine": engine, "rows": told, "one_machine": one}


def one_machine(
    like: Federation, public: np.ndarray, rows: np.ndarray, people: np.ndarray, judge: "Judge"
) -> dict[str, Any]:
    """Everybody's features on one trusted machine, every person a unit, at the same epsilon."""
    names = np.unique(people)
    federation = settings_for(
        len(names), min(100, len(names)), rows.shape[1], rounds=like.rounds,
        epsilon=like.epsilon, delta=like.delta,
    )  # fmt: skip
    persons = [rows[people == name] for name in names]
    made = train_plain(
        federation, Head(federation, public), persons, noise_stddev=federation.noise_stddev,
        random=np.random.default_rng(),
    )  # fmt: skip
    return {
        "unit": "person", "people": len(names), "epsilon": federation.plan.as_dict()["epsilon"],
        "delta": federation.delta, "auc": round(judge.auc(made), 4),
        "likeness": round(judge.likeness(made), 4), "bytes_total": 0,
    }  # fmt: skip


class Judge:
    """Figures of a head on people and public faces that nobody trained on."""

    def __init__(self, head: Head, people: np.ndarray, public: np.ndarray) -> None:
        self._head, self._people, self._public = head, people, public

    def auc(self, params: np.ndarray) -> float:
        """Held-out people against held-out public faces."""
        scores = [self._head.scores(params, x) for x in (self._people, self._public)]
        return auc(*scores)

    def likeness(self, params: np.ndarray) -> float:
        """See `federate_fleet.likeness`."""
        return likeness(self._head, params, self._people, self._public)


def _row(
    federation: Federation, public: np.ndarray, rows: np.ndarray, people: np.ndarray, judge: Judge,
    engine: str, people_path: Path, public_path: Path,
) -> dict[str, Any]:  # fmt: skip
    count, start = federation.num_nodes, time.monotonic()
    if engine == "ray":
        from veilcam.model.federate_ray import run_ray

        params, reports = run_ray(federation, people_path, public_path)
    else:
        params, reports = run_local(federation, public, rows, people)
    seconds = time.monotonic() - start
    home = np.array([camera_of(str(person), count) for person in people])
    dealt = [rows[home == index] for index in range(count)]
    random = np.random.default_rng()
    head = Head(federation, public)

    def plain(cameras: list[np.ndarray], noise: float) -> float:
        made = train_plain(federation, head, cameras, noise_stddev=noise, random=random)
        return round(judge.auc(made), 4)

    applied = sum(report.outcome == "applied" for report in reports)
    taken = sum(report.asked for report in reports)
    moved = sum(report.bytes_up + report.bytes_down for report in reports)
    some = [camera for camera in dealt if len(camera)][:5]
    alone = [_alone(federation, public, camera, judge) for camera in some]
    return {
        "cameras": count, "cameras_with_people": sum(len(camera) > 0 for camera in dealt),
        "rounds": len(reports), "applied": applied, "epsilon": federation.plan.as_dict()["epsilon"],
        "delta": federation.delta, "unit": "camera",
        "epsilon_against_server": _server_epsilon(federation, taken / count),
        "auc": round(judge.auc(params), 4), "likeness": round(judge.likeness(params), 4),
        "auc_central": plain(dealt, federation.noise_stddev), "auc_no_noise": plain(dealt, 0.0),
        "auc_alone": round(float(np.mean(alone)), 4),
        "bytes_per_camera_round": round(moved / max(taken, 1)), "bytes_total": moved,
        "seconds": round(seconds, 1),
    }  # fmt: skip


def _alone(federation: Federation, public: np.ndarray, rows: np.ndarray, judge: Judge) -> float:
    """A camera that trains for itself and shares nothing needs no noise: the fair rival."""
    made = train_plain(
        federation, Head(federation, public), [rows], noise_stddev=0.0,
        random=np.random.default_rng(0), is_alone=True,
    )  # fmt: skip
    return judge.auc(made)


def _server_epsilon(federation: Federation, rounds_taken: float) -> float:
    """Against the server, for a camera that was in an average number of rounds."""
    event = federation.node_plan().stages[0].dp_event(max(1, round(rounds_taken)))
    return round(epsilon_of(event, federation.delta), 3)


def run_local(
    federation: Federation, public: np.ndarray, rows: np.ndarray, people: np.ndarray
) -> tuple[np.ndarray, list[Round]]:
    """All rounds with every node in this process."""
    allow_files(2 * federation.num_nodes + 200)
    head = Head(federation, public)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        cameras = deal(rows, people, federation.num_nodes)
        with (
            LocalFleet(federation, head, cameras, place / "nodes") as fleet,
            Conductor(federation, head, fleet.roster, place / "s", fleet.exchange) as conductor,
        ):
            reports = list(conductor.run())
            return conductor.result, reports


def allow_files(wanted: int) -> None:
    """Lets this process have so many files open, as far as it may: every ledger is locked."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))


_COLUMNS = (
    ("cameras", "cameras"), ("applied", "rounds"), ("epsilon", "epsilon"),
    ("epsilon_against_server", "vs server"), ("auc", "AUC"), ("auc_central", "central"),
    ("auc_no_noise", "no noise"), ("auc_alone", "alone"), ("likeness", "likeness"),
    ("bytes_per_camera_round", "bytes/round"), ("bytes_total", "bytes"), ("seconds", "s"),
)  # fmt: skip


def as_table(value: dict[str, Any]) -> str:
    """For people."""
    lines = ["".join(f"{name:>12}" for _, name in _COLUMNS)]
    lines += ["".join(f"{row[key]:>12}" for key, _ in _COLUMNS) for row in value["rows"]]
    one = value["one_machine"]
    lines.append(
        f"one machine, {one['people']} people, unit person: epsilon {one['epsilon']}, AUC "
        f"{one['auc']}, likeness {one['likeness']}"
    )
    return "\n".join(lines)
