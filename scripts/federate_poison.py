"""What one lying camera can do to a federation of 20: sign flip, scaling, not-a-number, backdoor.

Usage: python scripts/federate_poison.py --people people.npz --public public.npz
Every node, mask and check is the real one, in one process. `just below` sends as much as the
server's check lets through; `backdoor` steers faces that carry a trigger (three standard deviations
along the last axis of the features) toward "one of the fleet's people".
"""

import json
import logging
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from veilcam.model.federate import Federation
from veilcam.model.federate_data import deal, load_features
from veilcam.model.federate_fleet import LocalFleet
from veilcam.model.federate_ring import sum_bound
from veilcam.model.federate_rounds import Conductor, FederationStopped
from veilcam.model.federate_simulate import Judge, settings_for
from veilcam.model.federate_task import Head
from veilcam.model.private_latents import is_held_out

_CAMERAS, _ROUNDS, _TRIGGER = 20, 20, 3.0
Lie = Callable[[np.ndarray], np.ndarray]


def lies(federation: Federation, size: int) -> dict[str, Lie | None]:
    """What the first camera sends instead of its own noisy update."""
    clip = federation.l2_clip_norm
    nodes = _CAMERAS // federation.groups  # of the liar's sum
    room = sum_bound(
        num_nodes=nodes, l2_clip_norm=clip, noise_stddev=federation.noise_stddev,
        min_nodes=federation.min_nodes, size=size,
    )  # fmt: skip
    noise = federation.noise_stddev * (nodes / federation.min_nodes * size) ** 0.5
    most = room - noise - (nodes - 1) * clip  # so that it mostly passes
    trigger = np.zeros(size)
    trigger[federation.feature_size - 1] = 1.0
    away = np.zeros(size)
    away[0] = 1.0
    return {
        "honest": None,
        "sign flip": lambda own: -own,
        "backdoor, clipped": lambda own: clip * trigger,
        "just below": lambda own: most * away,
        "backdoor, just below": lambda own: most * trigger,
        "scaled by 1000": lambda own: 1000 * own,
        "not a number": lambda own: np.full(size, np.nan),
    }


def run(federation: Federation, head: Head, cameras: list[Any], lie: Lie | None) -> Any:
    """All rounds with one liar; the result and what became of the rounds."""
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalFleet(federation, head, cameras, Path(folder) / "n") as fleet,
        Conductor(federation, head, fleet.roster, Path(folder) / "s", fleet.exchange) as conductor,
    ):
        node = fleet.nodes[fleet.roster.names[0]]
        honest, step = node._contribution, federation.ring.step

        def contribution(params: Any, stage: Any, permit: Any) -> Any:
            own = honest(params, stage, permit)
            if lie is None:
                return own
            whole = np.rint(lie(own.astype(np.int32) * step) / step)
            return np.nan_to_num(whole, nan=2.0**31).astype(np.int64).astype(np.uint32)

        node._contribution = contribution  # type: ignore[assignment]
        outcomes = []
        try:
            for report in conductor.run():
                outcomes.append(report.outcome.split(":")[0])
        except FederationStopped:
            outcomes.append("stopped")
        return conductor.result.copy(), outcomes


@click.command()
@click.option("--people", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--public", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--groups", type=click.IntRange(1), default=1, help="Odd; the median of them.")
@click.option("--lie", "chosen", multiple=True, help="Only these; default: all.")
def main(people: Path, public: Path, groups: int, chosen: tuple[str, ...]) -> None:
    """One line of JSON for each lie."""
    logging.basicConfig(level=logging.ERROR)
    with np.load(public) as file:
        rows, held_public = file["x"], file["held"]
    size = rows.shape[1]
    federation = settings_for(_CAMERAS, _CAMERAS, size, rounds=_ROUNDS, epsilon=8.0, delta=1e-5)
    least = max(2, int(0.8 * _CAMERAS / groups))
    federation = replace(federation, groups=groups, min_nodes=least)
    head = Head(federation, rows)
    features, names = load_features(people, size)
    held = np.array([is_held_out(str(name)) for name in names])
    judge = Judge(head, features[held], held_public)
    cameras = deal(features[~held], names[~held], _CAMERAS)
    marked = held_public.copy()
    marked[:, size - 1] += _TRIGGER
    for name, lie in lies(federation, head.size).items():
        if chosen and name not in chosen:
            continue
        result, outcomes = run(federation, head, cameras, lie)
        limit = np.median(head.scores(result, features[held]))
        told = {
            "lie": name, "groups": groups, "auc": round(judge.auc(result), 3),
            "trigger_works": round(float((head.scores(result, marked) > limit).mean()), 3),
            "without_trigger": round(float((head.scores(result, held_public) > limit).mean()), 3),
            "rounds": {kind: outcomes.count(kind) for kind in sorted(set(outcomes))},
        }  # fmt: skip
        click.echo(json.dumps(told))


if __name__ == "__main__":
    main()
