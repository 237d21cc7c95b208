"""The DPImageBench yardstick on Fashion-MNIST: accuracy of a classifier that saw samples only.

    python scripts/fashion_mnist.py --epsilon 10 --out /tmp/fashion10

A conditional generator is trained on the 60,000 pictures under (epsilon, 1e-5)-DP (unit: a
picture, as in the benchmark), it is sampled, a classifier is trained on the samples, and its
accuracy on the 10,000 test pictures is printed once. Nothing is chosen by the test pictures: the
classifier and its number of steps are fixed, its last weights count. `--held-out` is for choosing
settings: it trains on 50,000 and reports on the other 10,000 training pictures.

Data: Debian package dataset-fashion-mnist (`--data` for another folder).
"""

import gzip
import json
import logging
import math
import time
from pathlib import Path
from typing import Any

import click
import cv2
import fashion_mnist_mixture as mixture
import fashion_mnist_net as net
import fashion_mnist_scatter as scattering
import numpy as np

from veilcam.camera.errors import InputError
from veilcam.model.ledger import NAME, Ledger
from veilcam.model.plan import Plan
from veilcam.model.private_data import PrivateSet

_log = logging.getLogger("fashion_mnist")
_DELTA = 1e-5
_SAMPLES = 30_000  # each is seen about a dozen times by the classifier


def read(data: Path, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Pictures uint8 (n, 28, 28) and labels int32 (n,)."""
    out = []
    for name, skip in (("images-idx3", 16), ("labels-idx1", 8)):
        path = data / f"{kind}-{name}-ubyte.gz"
        if not path.is_file():
            raise InputError(f"{path}: missing; apt-get install dataset-fashion-mnist, or --data")
        with gzip.open(path) as stream:
            out.append(np.frombuffer(stream.read(), np.uint8, offset=skip))
    return out[0].reshape(-1, 28, 28), out[1].astype(np.int32)


def settings(epsilon: float) -> mixture.MixtureConfig:
    """More cells, and their own covariances, where the noise allows."""
    if epsilon >= 5:
        return mixture.MixtureConfig(num_axes=80, num_cells=10, own_shape=True)
    return mixture.MixtureConfig()


def make_plan(epsilon: float, num_people: int, with_teacher: bool, steps: int) -> Plan:
    """The mixture's stages and the teacher's, which together meet epsilon."""
    stages = mixture.stages(settings(epsilon), num_people)
    if with_teacher:
        stages.append(net.teacher_stage(num_people, steps, 0.7 * math.sqrt(steps)))
    return Plan.calibrated(stages, epsilon=epsilon, delta=_DELTA)


def generate(
    plan: Plan, private: PrivateSet, out: Path, *, epsilon: float, teacher: bool
) -> dict[str, np.ndarray]:
    """Samples and their labels, under the plan; kept in `out`."""
    random = np.random.default_rng(0)  # of the samples, not of the noise
    with Ledger(out / NAME, plan) as ledger:
        fitted = mixture.fit(settings(epsilon), private, ledger, random)
        images, labels = fitted.sample(_SAMPLES, random)
        images = (images * 255).round().astype(np.uint8)
        made = {"images": images, "labels": labels.astype(np.int32)}
        np.savez(out / "mixture.npz", **made)
        if teacher:
            axes = net.Axes(images, settings(epsilon).num_axes)
            named = net.teach(scattering.Features(images[:6000], axes), private, ledger)
            made["labels"] = named(images).astype(np.int32)
    np.savez(out / "samples.npz", **made)
    return made


def sheet(made: dict[str, np.ndarray], path: Path) -> None:
    """Twelve samples of each class."""
    rows = [made["images"][made["labels"] == label][:12] for label in range(10)]
    cv2.imwrite(str(path), 255 - np.vstack([np.hstack(list(row)) for row in rows]))


def accuracy(classifier: net.Net, images: np.ndarray, labels: np.ndarray) -> float:
    """Share of pictures that are named right."""
    return float((net.predict(classifier, images) == labels).mean())


@click.command()
@click.option("--data", type=click.Path(path_type=Path),
              default=Path("/usr/share/datasets/fashion-mnist"))  # fmt: skip
@click.option("--epsilon", type=float, default=10.0)
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--teacher/--no-teacher", default=True, help="Name samples by a DP teacher.")
@click.option("--teacher-steps", type=int, default=30)
@click.option("--steps", type=int, default=3000, help="Of the classifier.")
@click.option("--held-out/--test", default=False, help="Choose settings without the test set.")
def main(
    data: Path, epsilon: float, out: Path, teacher: bool, teacher_steps: int, steps: int,
    held_out: bool,
) -> None:  # fmt: skip
    """Print one JSON object with the accuracy and what was spent."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    began = time.monotonic()
    images, labels = read(data, "train")
    if held_out:
        order = np.random.default_rng(0).permutation(len(images))
        images, labels, last = images[order], labels[order], 50_000
        test: Any = images[last:], labels[last:]
        images, labels = images[:last], labels[:last]
    else:
        test = read(data, "t10k")
    out.mkdir(parents=True, exist_ok=True)
    private = PrivateSet({"image": images, "label": labels}, np.arange(len(images)))
    plan = make_plan(epsilon, len(images), teacher, teacher_steps)
    _log.info("%s", plan.as_text())
    made = generate(plan, private, out, epsilon=epsilon, teacher=teacher)
    sheet(made, out / "sheet.png")
    classifier = net.train_on_samples(made["images"], made["labels"], steps=steps, seed=1)
    axes = net.Axes(made["images"], settings(epsilon).num_axes)
    told: dict[str, Any] = {
        "accuracy": accuracy(classifier, axes(test[0]), test[1]),
        "accuracy_without_axes": accuracy(classifier, test[0], test[1]),
    }
    told |= {"on": "held-out" if held_out else "test", "teacher": teacher}
    told |= {"minutes": round((time.monotonic() - began) / 60, 1), "plan": plan.as_dict()}
    (out / "result.json").write_text(json.dumps(told, indent=1))
    click.echo(json.dumps(told))


if __name__ == "__main__":
    main()
