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
from flax import nnx

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
        graph, params, rest = nnx.split(model, self._wrt, ...)
        if self._release is None or graph != self._graph:
            self._graph, self._release = graph, self._compiled(graph)
        total = self._release((params, rest, shared), batch, permit, key=key)
        scale = 1.0 / self.mechanism.expected_batch_size
        return jax.tree.map(lambda g: g * scale, total)

    def _compiled(self, graph: Any) -> Release:
        def person_gradient(shared: Any, person: Any, key: jax.Array) -> Any:
            params, rest, public = shared

            def loss(params: Any) -> jax.Array:
                return self._loss(nnx.merge(graph, params, rest), person, public, key)

            return jax.grad(loss)(params)

        return Release(self.mechanism, person_gradient, micro_batch=self._micro_batch)
