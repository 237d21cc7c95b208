"""Time of a private step over that of the same step without privacy, on the classifier's network.

    python scripts/fashion_mnist_step_time.py

Both see the same batch; runs alternate so that other load on the machine meets both.
"""

import json
import time
from typing import Any

import click
import fashion_mnist_net as net
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from veilcam.model.dp_sgd import PrivateGradient
from veilcam.model.privacy import Mechanism, Permit
from veilcam.model.private_data import PrivateSet


def loss(model: Any, person: dict[str, jax.Array], _: Any, key: jax.Array) -> jax.Array:
    """Cross-entropy of one person's pictures."""
    logits = model(person["image"])
    return optax.softmax_cross_entropy_with_integer_labels(logits, person["label"]).mean()


@nnx.jit
def plain_gradient(model: Any, image: jax.Array, label: jax.Array) -> Any:
    """The same without clipping and noise, on the whole batch at once."""
    return nnx.grad(lambda model: loss(model, {"image": image, "label": label}, None, None))(model)


@click.command()
@click.option("--batch", type=int, default=256)
@click.option("--micro-batch", type=int, default=64)
@click.option("--repeats", type=int, default=15)
def main(batch: int, micro_batch: int, repeats: int) -> None:
    """Print one JSON object with both times (medians) and their ratio."""
    random = np.random.default_rng(0)
    image = random.random((batch, 28, 28)).astype(np.float32)
    label = random.integers(0, 10, batch).astype(np.int32)
    mechanism = Mechanism(stage="t", num_persons=batch, l2_clip_norm=1.0, noise_multiplier=1.0)
    people = PrivateSet({"image": image, "label": label}, np.arange(batch))
    model = net.Net(rngs=nnx.Rngs(0))
    model.eval()
    gradient = PrivateGradient(mechanism, loss, micro_batch=micro_batch)
    times: dict[str, list[float]] = {"plain": [], "private": []}
    for _ in range(repeats + 1):
        began = time.perf_counter()
        jax.block_until_ready(plain_gradient(model, jnp.asarray(image), jnp.asarray(label)))
        between = time.perf_counter()
        (drawn,) = mechanism.batches(people)
        jax.block_until_ready(gradient(model, drawn, Permit(mechanism)))
        times["plain"].append(between - began)
        times["private"].append(time.perf_counter() - between)
    median = {name: float(np.median(taken[1:])) for name, taken in times.items()}
    best = {name: float(np.min(taken[1:])) for name, taken in times.items()}
    told = {f"{name}_ms": round(1e3 * t, 1) for name, t in median.items()}
    told |= {"ratio_of_medians": round(median["private"] / median["plain"], 2)}
    told |= {"ratio_of_minima": round(best["private"] / best["plain"], 2)}
    told |= {"batch": batch, "micro_batch": micro_batch, "device": jax.devices()[0].device_kind}
    click.echo(json.dumps(told))


if __name__ == "__main__":
    main()
