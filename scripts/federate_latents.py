"""Virtual cameras move a face bundle's prior: the whole federation in one process, a run each.

Usage: python scripts/federate_latents.py RUN --people people.npz --encoder public.npz -o OUT
`people.npz` is from `veilcam federate encode`; held-out people are left out by their names. Keys,
masks, ledgers and noise are the real ones. Prints one line of JSON for each number of cameras;
measure the runs by scripts/likeness.py and export one by `veilcam export`.
"""

import json
import logging
import tempfile
import time
from pathlib import Path

import click
import numpy as np

from veilcam.model.federate import Federation, write_federation
from veilcam.model.federate_data import deal, load_features
from veilcam.model.federate_fleet import LocalFleet
from veilcam.model.federate_latents import finish, load_task
from veilcam.model.federate_rounds import Conductor
from veilcam.model.private_latents import is_held_out

_FILE = click.Path(exists=True, path_type=Path)


@click.command()
@click.argument("run", type=_FILE)
@click.option("--people", type=_FILE, required=True)
@click.option("--encoder", type=_FILE, required=True)
@click.option("--cameras", type=click.IntRange(3), multiple=True, default=(20, 40, 60))
@click.option("--epsilon", default=2.0, show_default=True)
@click.option("--delta", default=1e-5, show_default=True)
@click.option("--clip", default=0.375, show_default=True, help="Chosen on public portraits.")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True)
def main(
    run: Path, people: Path, encoder: Path, cameras: tuple[int, ...], epsilon: float, delta: float,
    clip: float, out: Path,
) -> None:  # fmt: skip
    """One federation for each number of cameras."""
    logging.basicConfig(level=logging.ERROR)
    with np.load(encoder) as file:
        size = len(file["mean"])
    rows, names = load_features(people, size)
    mine = np.array([not is_held_out(str(name)) for name in names])
    for count in cameras:
        start = time.monotonic()
        federation = Federation(
            name=f"latents{count}", num_nodes=count, epsilon=epsilon, delta=delta, rounds=1,
            task="latents", feature_size=size, l2_clip_norm=clip, min_nodes=int(0.9 * count),
            max_nodes=count,
        )  # fmt: skip
        dealt = deal(rows[mine], names[mine], count)
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            write_federation(folder / "federation.toml", federation)
            (folder / "public.npz").write_bytes(encoder.read_bytes())
            task = load_task(folder / "public.npz", federation)
            with (
                LocalFleet(federation, task, dealt, folder / "nodes") as fleet,
                Conductor(
                    federation, task, fleet.roster, folder / "state", fleet.exchange
                ) as conductor,
            ):
                (report,) = conductor.run()
            told = finish(folder, run, out / f"cameras{count}_eps{epsilon:g}")
        moved = told["federated_latents"]
        line = {
            "cameras": count, "people": int(mine.sum()), "outcome": report.outcome,
            "epsilon": round(told["training"]["epsilon"], 4), "delta": delta,
            "noise_multiplier": round(federation.mechanism.noise_multiplier, 4),
            "weight": moved["weight"], "moved": moved["moved"],
            "noise_norm": round(moved["mean_stddev"] * size**0.5, 4),
            "bytes_per_camera": round((report.bytes_up + report.bytes_down) / count),
            "seconds": round(time.monotonic() - start, 1),
        }  # fmt: skip
        click.echo(json.dumps(line))


if __name__ == "__main__":
    main()
