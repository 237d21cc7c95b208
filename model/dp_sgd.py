"""Noisy gradients of any NNX module with respect to private people.

    gradient = PrivateGradient(mechanism, loss)
    for batch in mechanism.batches(private):
        grads = gradient(model, batch, ledger.spend(mechanism), shared=public_things)
        optimizer.update(model, grads)

With L(w; x) the loss of one person's pictures, C = `l2_clip_norm`, B_t the Poisson batch, q n its
expected size, and z drawn from N(0, (noise_multiplier C)^2 I):

    g_t = (sum over x in B_t of clip_C(grad L(w; x)) + z) / (q n)

The divisor is q n, not the size of the batch: that is private. Whatever is done with g_t, and any
gradient of public data added to it, costs no more privacy.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from veilcam.model.privacy import Mechanism, Permit, Release
from veilcam.model.private_data import PrivateBatch

PersonLoss = Callable[[Any, dict[str, jax.Array], Any, jax.Array], jax.Array]


class PrivateGradient:
    """Mean clipped gradient with noise.

    Args:
        mechanism: The stage; its clip norm bounds the gradient of one person.
        loss: `(model, person, shared, key) -> scalar` of one person: `person` holds arrays
            (k, ...) of k pictures. No batch norm or other mixing of people can creep in, as the
            loss never sees two of them.
        micro_batch: People whose gradients are in memory at once.
        wrt: Filter of the parameters to differentiate; the rest is left alone (adapters).
    """

    def __init__(
        self,
        mechanism: Mechanism,
        loss: PersonLoss,
        *,
        micro_batch: int = 64,
        wrt: Any = nnx.Param,
    ) -> None:
        self.mechanism = mechanism
        self._loss = loss
        self._wrt = wrt
        self._micro_batch = micro_batch
        self._graph: Any = None
        self._release: Release | None = None

    def __call__(
        self,
        model: Any,
        batch: PrivateBatch,
        permit: Permit,
        *,
        shared: Any = None,
        key: jax.Array | None = None,
    ) -> Any:
        """Noisy gradient (sum over people / expected batch size), as `optimizer.update` wants it.

        Args:
            model: Its parameters are read, not changed.
            batch: People of this step.
            permit: From `ledger.spend(mechanism)`, before.
            shared: Public arrays the loss may use (fakes, landmarks).
            key: Seeds the loss's own randomness, not the noise.
        """
        graph, params, *others = nnx.split(model, self._wrt, ...)
        if self._release is None or graph != self._graph:
            self._graph, self._release = graph, self._compiled(graph)
        total = self._release((params, others, shared), batch, permit, key=key)
        scale = 1.0 / self.mechanism.expected_batch_size
        return jax.tree.map(lambda g: g * scale, total)

    def _compiled(self, graph: Any) -> Release:
        def person_gradient(shared: Any, person: Any, key: jax.Array) -> Any:
            params, others, public = shared

            def loss(params: Any) -> jax.Array:
                model = nnx.merge(graph, params, *others)
                use_patches(model)
                return self._loss(model, person, public, key)

            return jax.grad(loss)(params)

        return Release(self.mechanism, person_gradient, micro_batch=self._micro_batch)


def use_patches(model: Any) -> None:
    """Lets the plain 2-D convolutions of a model take their kernel's gradient by patches.

    A kernel gradient for each person is a grouped convolution to XLA, many times slower on a CPU
    than the one for a batch. As a product of patches and output gradients it is a batch of matrix
    products.
    """
    for _, module in nnx.iter_graph(model):
        if isinstance(module, nnx.Conv) and module.conv_general_dilated is lax.conv_general_dilated:
            module.conv_general_dilated = patch_conv


def patch_conv(
    inputs: jax.Array, kernel: jax.Array, strides: Any, padding: Any, **options: Any
) -> jax.Array:
    """`lax.conv_general_dilated`, with another way to the kernel's gradient where it can be."""
    ones = (None, 1, (1, 1), [1, 1])
    is_plain = (
        kernel.ndim == 4
        and options.get("lhs_dilation") in ones
        and options.get("rhs_dilation") in ones
        and options.get("feature_group_count", 1) == 1
        and options.get("dimension_numbers") == _NHWC
        and inputs.dtype == kernel.dtype
    )
    if not is_plain:
        return lax.conv_general_dilated(inputs, kernel, strides, padding, **options)
    pads = padding
    if isinstance(padding, str):
        pads = lax.padtype_to_pads(inputs.shape[1:3], kernel.shape[:2], strides, padding)
    return _conv(inputs, kernel, tuple(strides), tuple(tuple(pair) for pair in pads))


_NHWC = lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))


def _plain(inputs: jax.Array, kernel: jax.Array, strides: Any, pads: Any) -> jax.Array:
    return lax.conv_general_dilated(inputs, kernel, strides, pads, dimension_numbers=_NHWC)


_conv = jax.custom_vjp(_plain, nondiff_argnums=(2, 3))


def _conv_forward(inputs: jax.Array, kernel: jax.Array, strides: Any, pads: Any) -> Any:
    return _conv(inputs, kernel, strides, pads), (inputs, kernel)


def _conv_backward(strides: Any, pads: Any, kept: Any, out: jax.Array) -> Any:
    inputs, kernel = kept
    (to_inputs,) = jax.vjp(lambda x: _plain(x, kernel, strides, pads), inputs)[1](out)
    padded = jnp.pad(inputs, ((0, 0), *pads, (0, 0)))
    stops = [(n - 1) * s + 1 for n, s in zip(out.shape[1:3], strides, strict=True)]
    patches = jnp.concatenate(
        [
            padded[:, y : y + stops[0] : strides[0], x : x + stops[1] : strides[1]]
            for y in range(kernel.shape[0])
            for x in range(kernel.shape[1])
        ],
        axis=-1,
    )
    to_kernel = jnp.einsum("bhwp,bhwo->po", patches, out).reshape(kernel.shape)
    return to_inputs, to_kernel


_conv.defvjp(_conv_forward, _conv_backward)
