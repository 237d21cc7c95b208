"""The retrained attacker: two small nets, taught on protected pictures of other people.

One adapts what leaves, one adapts originals; they are trained so that both vectors of one person
meet and those of different people part (InfoNCE), until people held out for validation are found
no better. They begin as the identity, so the attacker is never worse than the guess it is given.
Nets see vectors, never pixels, and never a person who is attacked later.

Source: van den Oord, Li, Vinyals: Representation learning with contrastive predictive coding,
2018, equation 4.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax  # type: ignore[import-untyped]
from jaxtyping import Array, Float

Params = dict[str, jax.Array]
Rows = Callable[[np.ndarray], np.ndarray]
TOWERS = ("seen", "known")


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackConfig:
    """Size and schooling of the adapters."""

    width: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    batch_size: int = 128
    max_epochs: int = 200
    patience: int = 20
    noise: float = 0.02
    temperature: float = 0.1


def train_attacker(
    seen: Float[np.ndarray, "n d"], known: Float[np.ndarray, "n d"], *,
    config: AttackConfig | None = None, seed: int = 0,
) -> tuple[Rows, Rows, int]:  # fmt: skip
    """Maps for what the attacker sees and for originals, and the number of epochs trained.

    Args:
        seen: What is seen of protected pictures, one row a person, as a guess of `known`.
        known: Vectors of the same people's originals, rows in the same order.
        config: Sizes.
        seed: Of initialization and batches; an attack is no mechanism, so it may be fixed.
    """
    config = config or AttackConfig()
    left, right = jnp.asarray(seen, jnp.float32), jnp.asarray(known, jnp.float32)
    cut = max(int(0.8 * len(left)), 2)
    params = _init(left.shape[1], config, jax.random.key(seed))
    state = _optimizer(config).init(params)
    best, best_loss = params, float(_check(params, left[cut:], right[cut:], config))
    random, key = np.random.default_rng(seed), jax.random.key(seed + 1)
    size, best_epoch, epoch = min(config.batch_size, cut), 0, 0
    for epoch in range(1, config.max_epochs + 1):
        order = random.permutation(cut)
        for start in range(0, cut - size + 1, size):
            rows = order[start : start + size]
            key, noise_key = jax.random.split(key)
            params, state = _step(params, state, left[rows], right[rows], noise_key, config)
        loss = float(_check(params, left[cut:], right[cut:], config))
        if loss < best_loss - 1e-4:
            best, best_loss, best_epoch = params, loss, epoch
        elif epoch - best_epoch >= config.patience:
            break
    return (
        lambda rows: np.asarray(_embed(best, "seen", jnp.asarray(rows, jnp.float32))),
        lambda rows: np.asarray(_embed(best, "known", jnp.asarray(rows, jnp.float32))),
        epoch,
    )


def _init(size: int, config: AttackConfig, key: Array) -> Params:
    params: Params = {}
    for name, tower_key in zip(TOWERS, jax.random.split(key), strict=True):
        params[f"{name}_first"] = jax.random.normal(tower_key, (size, config.width))
        params[f"{name}_second"] = jnp.zeros((config.width, size))
        params[f"{name}_skip"] = jnp.eye(size)
    return params


def _embed(params: Params, name: str, rows: Array) -> Array:
    hidden = jax.nn.gelu(rows @ params[f"{name}_first"])
    out = rows @ params[f"{name}_skip"] + hidden @ params[f"{name}_second"]
    return jnp.asarray(out / (jnp.linalg.norm(out, axis=1, keepdims=True) + 1e-6))


def _loss(params: Params, left: Array, right: Array, temperature: float) -> Array:
    a, b = _embed(params, "seen", left), _embed(params, "known", right)
    logits = a @ b.T / temperature
    labels = jnp.arange(logits.shape[0])
    both = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    back = optax.softmax_cross_entropy_with_integer_labels(logits.T, labels)
    return jnp.asarray((both.mean() + back.mean()) / 2)


def _optimizer(config: AttackConfig) -> optax.GradientTransformation:
    return optax.adamw(config.learning_rate, weight_decay=config.weight_decay)


@partial(jax.jit, static_argnames="config")
def _check(params: Params, left: Array, right: Array, config: AttackConfig) -> Array:
    return _loss(params, left, right, config.temperature)


@partial(jax.jit, static_argnames="config")
def _step(
    params: Params, state: Any, left: Array, right: Array, key: Array, config: AttackConfig
) -> tuple[Params, Any]:
    """One update; compiled once for all attackers of a size."""
    keys = jax.random.split(key)
    left = left + config.noise * jax.random.normal(keys[0], left.shape)
    right = right + config.noise * jax.random.normal(keys[1], right.shape)
    grads = jax.grad(_loss)(params, left, right, config.temperature)
    updates, state = _optimizer(config).update(grads, state, params)
    return optax.apply_updates(params, updates), state
