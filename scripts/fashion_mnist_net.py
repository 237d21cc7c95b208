"""The learners of the Fashion-MNIST yardstick: a small classifier and a private teacher.

The classifier only ever sees sampled pictures. The teacher is a linear layer on data-independent
features, learned by DP gradients; it names the classes of the samples.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from veilcam.model.dp_sgd import PrivateGradient
from veilcam.model.ledger import Ledger
from veilcam.model.privacy import Mechanism
from veilcam.model.private_data import PrivateSet

NUM_CLASSES = 10


class Net(nnx.Module):
    """Three convolutions and two linear layers."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.conv1 = nnx.Conv(1, 32, (3, 3), strides=2, rngs=rngs)
        self.conv2 = nnx.Conv(32, 64, (3, 3), strides=2, rngs=rngs)
        self.conv3 = nnx.Conv(64, 64, (3, 3), rngs=rngs)
        self.hidden = nnx.Linear(49 * 64, 128, rngs=rngs)
        self.dropout = nnx.Dropout(0.3, rngs=rngs)
        self.last = nnx.Linear(128, NUM_CLASSES, rngs=rngs)

    def features(self, image: jax.Array) -> jax.Array:
        """(b, 28, 28) in [0, 1] -> (b, 128)."""
        x = image[..., None] - 0.3
        for conv in (self.conv1, self.conv2, self.conv3):
            x = jax.nn.relu(conv(x))
        return jax.nn.relu(self.hidden(x.reshape(x.shape[0], -1)))

    def __call__(self, image: jax.Array) -> jax.Array:
        """Logits (b, 10)."""
        return self.last(self.dropout(self.features(image)))


class Axes:
    """Pictures seen through the principal axes of samples: what samples lack is not seen.

    Samples of a low-dimensional generator lack detail that pictures have; a learner that meets
    both sees them alike.
    """

    def __init__(self, samples: np.ndarray, size: int) -> None:
        flat = samples.reshape(len(samples), -1).astype(np.float32) / 255
        self._mean = flat.mean(0)
        _, vectors = np.linalg.eigh(np.cov(flat.T))
        self._basis = vectors[:, -size:].astype(np.float32)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """uint8 (b, 28, 28) -> the same, projected."""
        # in double precision: rounding must not depend on the other pictures of a chunk
        flat = images.reshape(len(images), -1).astype(np.float64) / 255 - self._mean
        seen = (self._mean + flat @ self._basis @ self._basis.T).clip(0, 1)
        return (seen * 255).round().astype(np.uint8).reshape(images.shape)


def train_on_samples(
    images: np.ndarray, labels: np.ndarray, *, steps: int, seed: int, batch: int = 128
) -> Net:
    """A classifier of sampled pictures; weights of the last step: nothing is selected."""
    random = np.random.default_rng(seed)
    net = Net(rngs=nnx.Rngs(seed))
    rate = optax.cosine_decay_schedule(1e-3, steps)
    optimizer = nnx.Optimizer(net, optax.adamw(rate, weight_decay=1e-3), wrt=nnx.Param)

    @nnx.jit
    def step(net: Net, optimizer: nnx.Optimizer, image: jax.Array, label: jax.Array) -> None:
        def loss(net: Net) -> jax.Array:
            soft = optax.smooth_labels(jax.nn.one_hot(label, NUM_CLASSES), 0.05)
            return optax.softmax_cross_entropy(net(image), soft).mean()

        optimizer.update(net, nnx.grad(loss)(net))

    for _ in range(steps):
        rows = random.integers(0, len(images), batch)
        shift = random.integers(-1, 2, 2)
        image = np.roll(images[rows], shift, (1, 2)).astype(np.float32) / 255
        step(net, optimizer, image, labels[rows])
    net.eval()
    return net


def each_chunk(function: Any, images: np.ndarray, chunk: int = 1000) -> np.ndarray:
    """`function` of uint8 pictures as floats, in chunks."""
    return np.concatenate(
        [
            np.asarray(function(jnp.asarray(images[s : s + chunk], jnp.float32) / 255))
            for s in range(0, len(images), chunk)
        ]
    )


def predict(net: Any, images: np.ndarray) -> np.ndarray:
    """Class of each picture."""
    run = nnx.jit(lambda net, image: net(image).argmax(-1))
    return each_chunk(lambda image: run(net, image), images)


def teacher_stage(num_people: int, iterations: int, noise: float) -> Mechanism:
    """Full batches: the strongest signal for the noise."""
    return Mechanism(
        stage="teacher",
        num_persons=num_people,
        l2_clip_norm=0.5,
        noise_multiplier=noise,
        iterations=iterations,
    )


def teacher_loss(model: Any, person: dict[str, jax.Array], _: Any, key: jax.Array) -> jax.Array:
    """Cross-entropy of one person."""
    logits = model(person["feature"])
    return optax.softmax_cross_entropy_with_integer_labels(logits, person["label"]).mean()


def teach(features: Any, private: PrivateSet, ledger: Ledger, *, rate: float = 100.0) -> Any:
    """A linear layer on the features, learned by DP gradients from zero.

    Args:
        features: uint8 pictures -> (b, features.size) of norm 1; no private data in it.
        private: People with `image` and `label`.
        ledger: Its plan has a stage `teacher`.
        rate: Step size; gradients of whitened unit features are small.

    Returns:
        uint8 pictures -> their classes.
    """
    stage = ledger.plan.stage("teacher")
    layer = nnx.Linear(
        features.size, NUM_CLASSES, kernel_init=nnx.initializers.zeros, rngs=nnx.Rngs(0)
    )
    people = private.map_pictures(
        lambda rows: {"feature": features(rows["image"]), "label": rows["label"]}, chunk=1000
    )
    optimizer = nnx.Optimizer(layer, optax.sgd(rate, momentum=0.8), wrt=nnx.Param)
    gradient = PrivateGradient(stage, teacher_loss, micro_batch=2000)
    for batch in stage.batches(people):
        optimizer.update(layer, gradient(layer, batch, ledger.spend(stage)))
    return lambda images: np.asarray(layer(jnp.asarray(features(images)))).argmax(1)
