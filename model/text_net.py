"""Text -> code tokens: a small encoder of words and a decoder that writes one token after another.

DALL-E mini's half: there words become image tokens, here they become the code's tokens. Everything
is a matrix product over one-hot rows, which exports to plain ONNX.

Source: Vaswani et al. 2017, Attention is all you need; pre-norm as in Xiong et al. 2020.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from veilcam.camera.text_tokens import MAX_SIZE, MAX_WORDS, NUM_TOKENS, SIZES

WIDTH = 64
NUM_HEADS = 4
_FAR = -1e4  # a score that softmax turns into nothing


class TextNet(nnx.Module):
    """Log-odds of every token, given the words and the tokens before it.

    Args:
        num_words: Ids of the vocabulary, with padding and unknown.
        rngs: Keys of the initial weights.
    """

    def __init__(self, num_words: int, *, rngs: nnx.Rngs) -> None:
        init = nnx.initializers.normal(0.08)
        key = rngs.params
        self.words = nnx.Param(init(key(), (num_words, WIDTH)))
        self.places = nnx.Param(init(key(), (MAX_WORDS, WIDTH)))
        self.tokens = nnx.Param(init(key(), (NUM_TOKENS, MAX_SIZE, WIDTH)))
        self.slots = nnx.Param(init(key(), (NUM_TOKENS, WIDTH)))
        self.reader = nnx.List([Layer(has_source=False, rngs=rngs) for _ in range(2)])
        self.writer = nnx.List([Layer(has_source=True, rngs=rngs)])
        self.end = Norm(rngs=rngs)
        self.bias = nnx.Param(jnp.zeros((NUM_TOKENS, MAX_SIZE)))

    def __call__(
        self, words: Float[Array, "w v"], tokens: Float[Array, "t k"]
    ) -> Float[Array, "t k"]:
        """Log-odds (NUM_TOKENS, MAX_SIZE); entries beyond a token's size are far below all others.

        Args:
            words: One-hot rows, zero rows where there is no word.
            tokens: One-hot rows, zero rows where a token is not known; row t is seen from t + 1 on.
        """
        is_word = words.sum(-1)
        text = words @ self.words[...] + self.places[...]
        text_mask = (is_word - 1)[None, :] * -_FAR
        for layer in self.reader:
            text = layer(text, text_mask, None, None)
        given = jnp.einsum("tk,tkd->td", tokens, self.tokens[...])
        before = jnp.concatenate([jnp.zeros((1, WIDTH)), given[:-1]])
        x = before + self.slots[...]
        for layer in self.writer:
            x = layer(x, jnp.asarray(_CAUSAL), text, text_mask)
        odds = jnp.einsum("td,tkd->tk", self.end(x), self.tokens[...])
        return odds + self.bias[...] + jnp.asarray(_SIZED)


_CAUSAL = np.where(np.tri(NUM_TOKENS, dtype=bool), 0.0, _FAR).astype(np.float32)
_SIZED = np.where(np.arange(MAX_SIZE)[None] < np.array(SIZES)[:, None], 0.0, _FAR)
_SIZED = _SIZED.astype(np.float32)


class Norm(nnx.Module):
    """Root-mean-square norm. Source: Zhang and Sennrich 2019."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.scale = nnx.Param(jnp.ones(WIDTH))

    def __call__(self, x: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """Rows of about unit size."""
        return x / jnp.sqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6) * self.scale[...]


class Attention(nnx.Module):
    """Multi-head attention; weights are plain matrices."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        init = nnx.initializers.variance_scaling(1.0, "fan_in", "normal")
        shape = (WIDTH, WIDTH)
        self.query, self.key, self.value, self.out = (
            nnx.Param(init(rngs.params(), shape)) for _ in range(4)
        )

    def __call__(
        self, x: Float[Array, "n d"], source: Float[Array, "m d"], mask: Float[Array, "... m"]
    ) -> Float[Array, "n d"]:
        """Rows of `source` mixed for each row of `x`; `mask` is added to the scores."""
        size = WIDTH // NUM_HEADS
        query, key, value = (
            (a @ w[...]).reshape(-1, NUM_HEADS, size).transpose(1, 0, 2)
            for a, w in ((x, self.query), (source, self.key), (source, self.value))
        )
        scores = query @ key.transpose(0, 2, 1) / np.float32(np.sqrt(size)) + mask[None]
        mixed = jax.nn.softmax(scores, axis=-1) @ value
        return mixed.transpose(1, 0, 2).reshape(-1, WIDTH) @ self.out[...]


class Layer(nnx.Module):
    """Attention to itself, to a source where there is one, and two dense layers."""

    def __init__(self, *, has_source: bool, rngs: nnx.Rngs) -> None:
        self.itself, self.norm1 = Attention(rngs=rngs), Norm(rngs=rngs)
        self.other = Attention(rngs=rngs) if has_source else None
        self.norm2, self.norm3 = Norm(rngs=rngs), Norm(rngs=rngs)
        self.wide = nnx.Linear(WIDTH, 2 * WIDTH, rngs=rngs)
        self.narrow = nnx.Linear(2 * WIDTH, WIDTH, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "n d"],
        mask: Float[Array, "... n"],
        source: Float[Array, "m d"] | None,
        source_mask: Float[Array, "... m"] | None,
    ) -> Float[Array, "n d"]:
        """Rows of the same shape."""
        normal = self.norm1(x)
        x = x + self.itself(normal, normal, mask)
        if self.other is not None and source is not None and source_mask is not None:
            x = x + self.other(self.norm2(x), source, source_mask)
        return x + self.narrow(jax.nn.relu(self.wide(self.norm3(x))))
