"""The networks of the Fashion-MNIST yardstick: a small classifier and a privately refined teacher.

The classifier only ever sees sampled pictures. The teacher is the same network trained on samples;
its last layer is then refined on private features by DP-SGD and names the samples' classes anew.
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


class Features:
    """Whitened features of a net that was trained on samples; the basis is the samples' own."""

    def __init__(self, net: Net, samples: np.ndarray) -> None:
        self._net = net
        self._run = nnx.jit(lambda net, image: net.features(image))
        made = self._raw(samples)
        self._mean = made.mean(0)
        values, vectors = np.linalg.eigh(np.cov(made.T))
        # full whitening would lift directions in which samples hardly vary, and pictures may
        self._basis = vectors / np.sqrt(values + 0.01 * values.max())

    def _raw(self, images: np.ndarray) -> np.ndarray:
        return each_chunk(lambda image: self._run(self._net, image), images)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """uint8 (b, 28, 28) -> (b, 128), of norm about 1."""
        white = (self._raw(images) - self._mean) @ self._basis
        return (white / len(self._mean) ** 0.5).astype(np.float32)


def teacher_loss(model: Any, person: dict[str, jax.Array], _: Any, key: jax.Array) -> jax.Array:
    """Cross-entropy of one person."""
    logits = model(person["feature"])
    return optax.softmax_cross_entropy_with_integer_labels(logits, person["label"]).mean()


def refine(
    features: Features,
    private: PrivateSet,
    ledger: Ledger,
    samples: tuple[np.ndarray, np.ndarray],
    *,
    rate: float = 4.0,
) -> Any:
    """A linear layer on the features by DP gradients, from one fitted to samples.

    Returns:
        uint8 pictures -> their classes; the mean of the second half of the steps.
    """
    stage = ledger.plan.stage("teacher")
    layer = nnx.Linear(128, NUM_CLASSES, rngs=nnx.Rngs(0))
    made = features(samples[0])
    fit_linear(layer, made, samples[1])
    people = private.map_pictures(
        lambda rows: {"feature": features(rows["image"]), "label": rows["label"]}, chunk=1000
    )
    optimizer = nnx.Optimizer(layer, optax.sgd(rate, momentum=0.8), wrt=nnx.Param)
    gradient = PrivateGradient(stage, teacher_loss, micro_batch=2000)
    kept = []
    for index, batch in enumerate(stage.batches(people)):
        optimizer.update(layer, gradient(layer, batch, ledger.spend(stage)))
        if index >= stage.iterations // 2:
            kept.append(jax.tree.map(jnp.copy, nnx.state(layer)))
    nnx.update(layer, jax.tree.map(lambda *a: sum(a) / len(a), *kept))
    return lambda images: np.asarray(layer(jnp.asarray(features(images)))).argmax(1)


def fit_linear(layer: nnx.Linear, features: np.ndarray, labels: np.ndarray) -> None:
    """Logistic regression on samples, in place."""
    optimizer = nnx.Optimizer(layer, optax.adam(0.05), wrt=nnx.Param)

    @nnx.jit
    def step(layer: nnx.Linear, optimizer: nnx.Optimizer, x: jax.Array, y: jax.Array) -> None:
        def loss(layer: nnx.Linear) -> jax.Array:
            return optax.softmax_cross_entropy_with_integer_labels(layer(x), y).mean()

        optimizer.update(layer, nnx.grad(loss)(layer))

    for _ in range(100):
        step(layer, optimizer, jnp.asarray(features), jnp.asarray(labels))
