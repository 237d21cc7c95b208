"""Trains the text net: captions of public pictures in, their code tokens out."""

import logging
import random
from functools import partial
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx
from jaxtyping import Int64

from veilcam.camera.text_tokens import (
    MAX_SIZE,
    NUM_TOKENS,
    Vocabulary,
)
from veilcam.model.captions import caption, every_word, said_tokens
from veilcam.model.text_net import TextNet

_log = logging.getLogger(__name__)
_CAPTIONS = 12  # of each head
_HIDDEN = 0.1  # of the tokens before one, so that the words count more than what was written


def train_text(
    tokens: Int64[np.ndarray, "n t"],
    weight: np.ndarray,
    *,
    num_steps: int = 3000,
    batch_size: int = 128,
    learning_rate: float = 2e-3,
    seed: int = 0,
) -> tuple[TextNet, Vocabulary, list[float]]:
    """A text net that writes these heads' tokens from captions of them.

    Args:
        tokens: One row a head, -1 where a token is not known.
        weight: How often each head is drawn.
        num_steps: Steps.
        batch_size: Captions in each.
        learning_rate: Of Adam, falling to a twentieth.
        seed: Of weights and captions.
    """
    vocabulary = Vocabulary(every_word())
    dice = random.Random(seed)
    chance = np.random.default_rng(seed)
    captions = [(row, *caption(row, dice)) for row in tokens for _ in range(_CAPTIONS)]
    texts = np.stack([vocabulary.encode(text)[0] for _, text, _ in captions])
    targets = np.stack([said_tokens(row, said) for row, _, said in captions])
    net = TextNet(vocabulary.size, rngs=nnx.Rngs(seed))
    graph, params = nnx.split(net, nnx.Param)
    schedule = optax.cosine_decay_schedule(learning_rate, num_steps, 0.05)
    adam = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=0.02))

    def loss(params: Any, words: jax.Array, known: jax.Array, wanted: jax.Array) -> jax.Array:
        model = nnx.merge(graph, params)
        hot_words = jax.nn.one_hot(words, vocabulary.size) * (words > 0)[..., None]
        odds = jax.vmap(model)(hot_words, jax.nn.one_hot(known, MAX_SIZE))
        right = jax.nn.one_hot(wanted, MAX_SIZE)
        return -(jax.nn.log_softmax(odds) * right).sum((1, 2)).mean()

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, state: Any, *batch: jax.Array) -> tuple[Any, Any, jax.Array]:
        value, gradient = jax.value_and_grad(loss)(params, *batch)
        update, state = adam.update(gradient, state, params)
        return optax.apply_updates(params, update), state, value

    state = adam.init(params)
    share = weight / weight.sum()
    seen: list[float] = []
    for index in range(num_steps):
        rows = chance.choice(len(tokens), batch_size, p=share) * _CAPTIONS
        rows += chance.integers(_CAPTIONS, size=batch_size)
        is_hidden = chance.random((batch_size, NUM_TOKENS)) < _HIDDEN
        known = np.where(is_hidden, -1, targets[rows])
        params, state, value = step(params, state, texts[rows], known, targets[rows])
        seen.append(float(value))
        if (index + 1) % 500 == 0:
            _log.info("step %d of %d: %.3f nat", index + 1, num_steps, np.mean(seen[-500:]))
    return nnx.merge(graph, params), vocabulary, seen
