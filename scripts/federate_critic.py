"""Virtual cameras learn the face bundle's discriminator, and its prior follows: a run each.

Usage: python scripts/federate_critic.py RUN --people people.npz --public public.npz
       --features features.npz -o OUT
`public.npz` is from `veilcam federate critic`, `people.npz` from `veilcam federate encode`; who is
held out is left out by name. Keys, masks, ledgers and noise are the real ones. Prints one line of
JSON for each number of cameras; measure the runs by scripts/likeness.py.
"""

import json
import logging
import tempfile
import time
from pathlib import Path

import click
import numpy as np

from veilcam.model.federate import Federation, write_federation
from veilcam.model.federate_critic import finish
from veilcam.model.federate_data import camera_of, deal, load_features
from veilcam.model.federate_fleet import LocalFleet, train_plain
from veilcam.model.federate_rounds import Conductor
from veilcam.model.federate_setup import with_public
from veilcam.model.federate_simulate import Judge, settings_for
from veilcam.model.federate_task import Head, read_task
from veilcam.model.private_latents import is_held_out

_FILE = click.Path(exists=True, path_type=Path)


def settings(count: int, size: int, epsilon: float, delta: float, public: Path) -> Federation:
    """Of `federate simulate`: chosen on public faces."""
    made = settings_for(count, min(100, count), size, rounds=20, epsilon=epsilon, delta=delta)
    return with_public(made, public)


@click.command()
@click.argument("run", type=_FILE)
@click.option("--people", type=_FILE, required=True)
@click.option("--public", type=_FILE, required=True)
@click.option("--features", type=_FILE, required=True)
@click.option("--cameras", type=click.IntRange(3), multiple=True, default=(60,))
@click.option("--epsilon", default=2.0, show_default=True)
@click.option("--delta", default=1e-5, show_default=True)
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True)
def main(
    run: Path, people: Path, public: Path, features: Path, cameras: tuple[int, ...],
    epsilon: float, delta: float, out: Path,
) -> None:  # fmt: skip
    """One federation for each number of cameras."""
    logging.basicConfig(level=logging.ERROR)
    with np.load(public) as file:
        size, held_public = file["x"].shape[1], file["held"]
    rows, names = load_features(people, size)
    held = np.array([is_held_out(str(name)) for name in names])
    for count in cameras:
        start = time.monotonic()
        federation = settings(count, size, epsilon, delta, public)
        dealt = deal(rows[~held], names[~held], count)
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            write_federation(folder / "federation.toml", federation)
            (folder / "public.npz").write_bytes(public.read_bytes())
            task = read_task(folder / "public.npz", federation)
            assert isinstance(task, Head)
            with (
                LocalFleet(federation, task, dealt, folder / "nodes") as fleet,
                Conductor(
                    federation, task, fleet.roster, folder / "state", fleet.exchange
                ) as conductor,
            ):
                reports = list(conductor.run())
                result = conductor.result
            rounds_s = time.monotonic() - start
            told = finish(folder, run, features, out / f"critic{count}_eps{epsilon:g}")
        judge = Judge(task, rows[held], held_public)
        home = np.array([camera_of(str(name), count) for name in names[~held]])
        groups = [rows[~held][home == index] for index in range(count)]
        plain = train_plain(
            federation, task, groups, noise_stddev=0.0, random=np.random.default_rng()
        )
        sent = sum(report.bytes_up + report.bytes_down for report in reports)
        line = {
            "cameras": count, "people": int((~held).sum()),
            "applied": sum(report.outcome == "applied" for report in reports),
            "epsilon": round(told["training"]["epsilon"], 4), "delta": delta,
            "auc": round(judge.auc(result), 4), "auc_no_noise": round(judge.auc(plain), 4),
            **{key: told["federated_critic"][key] for key in ("slope", "moved", "explained")},
            "bytes_per_camera_round": round(sent / sum(report.asked for report in reports)),
            "rounds_s": round(rounds_s, 1), "seconds": round(time.monotonic() - start, 1),
        }  # fmt: skip
        click.echo(json.dumps(line))


if __name__ == "__main__":
    main()
