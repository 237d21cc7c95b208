"""The mechanism: clipping, sampling of people, noise and accounting as one frozen object.

Nothing here is home-made where jax_privacy or dp-accounting have it: clipping is
`jax_privacy.clipping`, noise `jax_privacy.noise_addition`, sampling `jax_privacy.batch_selection`,
accounting `dp_accounting.pld`. What this module adds is that they can't drift apart: the noise is
scaled by the sensitivity that the clipped function itself states under `RELATION`, the sampler and
the accountant read the same fields, and the un-noised sum never leaves `Release`.

Unit: the person, or in a federation the camera with all its people. Relation: REPLACE_SPECIAL,
i.e. all pictures of one unit are replaced by nothing; how many units there are is public. The
sensitivity of a clipped sum is its clip norm.
"""

import hashlib
import json
import math
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import optax
from dp_accounting.pld import PLDAccountant
from jax_privacy import batch_selection, clipping, noise_addition

from veilcam.camera.errors import ConfigError
from veilcam.model.private_data import PrivacyError, PrivateBatch, PrivateSet, reveal

RELATION = dp_accounting.NeighboringRelation.REPLACE_SPECIAL
UNIT = "person"
UNITS = (UNIT, "camera")
ACCOUNTANT = "PLD"
_GRID = 1e-3  # of the privacy loss: rounds epsilon up by about 1e-5, ten times faster than 1e-4
PersonFunction = Callable[[Any, dict[str, jax.Array], jax.Array], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mechanism:
    """A Poisson-subsampled Gaussian mechanism over people, used `iterations` times.

    Attributes:
        stage: Its name in plan, ledger and manifest.
        num_persons: Units in the private set (public): people, or cameras.
        sampling_prob: Chance of each person to be in a step; 1 takes everybody.
        iterations: Steps that are accounted.
        l2_clip_norm: Bound of the L2 norm of what one person adds to the sum of a step.
        noise_multiplier: Standard deviation of the noise on the sum / sensitivity.
        pictures_per_person: Pictures of a person that a step looks at; more are drawn in turns,
            fewer are repeated. A person's contribution is bounded whatever the number.
        unit: Whose data are protected together: `person`, or `camera` with all its people.
    """

    stage: str
    num_persons: int
    l2_clip_norm: float
    noise_multiplier: float
    sampling_prob: float = 1.0
    iterations: int = 1
    pictures_per_person: int = 1
    unit: str = UNIT

    def __post_init__(self) -> None:
        for name in ("num_persons", "iterations", "pictures_per_person"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be >= 1 in {self.stage!r}")
        for name in ("l2_clip_norm", "noise_multiplier"):
            value = getattr(self, name)
            if not (0 < value < float("inf")):
                raise ConfigError(f"{name}={value} must be > 0 and finite in {self.stage!r}")
        if not 0 < self.sampling_prob <= 1:
            raise ConfigError(f"sampling_prob={self.sampling_prob} must be in (0, 1]")
        if self.unit not in UNITS:
            raise ConfigError(f"unit={self.unit!r} in {self.stage!r}; allowed: {', '.join(UNITS)}")

    @property
    def expected_batch_size(self) -> float:
        """People in a step on average: the divisor of a mean (the true number is private)."""
        return self.num_persons * self.sampling_prob

    def clipped(self, function: PersonFunction) -> clipping.BoundedSensitivityCallable:
        """`function(shared, person, key)`, clipped for each person and summed over people.

        The sum is a product with ones: `jax_privacy.clipping.clipped_fun` adds up along the first
        axis, which XLA does several times slower on a CPU. Clipping is its `clip_pytree`.
        """

        def clipped_sum(
            shared: Any, people: Any, key: jax.Array, is_padding: jax.Array | None = None
        ) -> Any:
            count = len(jax.tree.leaves(people)[0])
            is_padding = jnp.zeros(count, bool) if is_padding is None else is_padding

            def clip_one(person: Any, key: jax.Array, is_nobody: jax.Array) -> Any:
                # in single precision: half would lose or overflow in norm and sum
                value = optax.tree.cast(function(shared, person, key), jnp.float32)
                return clipping.clip_pytree(value, self.l2_clip_norm, return_zero=is_nobody)[0]

            each = jax.vmap(clip_one)(people, jax.random.split(key, count), is_padding)
            ones = jnp.ones(count)
            return jax.tree.map(
                lambda leaf: jnp.tensordot(ones, leaf, 1, precision=jax.lax.Precision.HIGHEST), each
            )

        return clipping.BoundedSensitivityCallable(clipped_sum, self.l2_clip_norm, False)

    @property
    def sensitivity(self) -> float:
        """L2 sensitivity of the clipped sum, as the clipped function states it."""
        return float(self.clipped(lambda shared, person, key: shared).sensitivity(RELATION))

    @property
    def noise_stddev(self) -> float:
        """Standard deviation of the noise on each number of the *summed* output."""
        return self.noise_multiplier * self.sensitivity

    @property
    def sampler(self) -> batch_selection.CyclicPoissonSampling:
        """What draws people; `dp_event` is read from it, so that they can't differ."""
        return batch_selection.CyclicPoissonSampling(
            sampling_prob=self.sampling_prob, iterations=self.iterations
        )

    def dp_event(self, iterations: int | None = None) -> dp_accounting.DpEvent:
        """What `iterations` steps spend; default: all."""
        step: dp_accounting.DpEvent = dp_accounting.GaussianDpEvent(self.noise_multiplier)
        if self.sampler.sampling_prob < 1:
            step = dp_accounting.PoissonSampledDpEvent(self.sampler.sampling_prob, step)
        count = self.sampler.iterations if iterations is None else iterations
        return dp_accounting.SelfComposedDpEvent(step, count) if count else _NOTHING

    def batches(self, private: PrivateSet) -> Iterator[PrivateBatch]:
        """Draws the people of each step, by fresh randomness from the operating system.

        Raises:
            PrivacyError: The set has another number of people than was accounted.
        """
        if private.num_persons != self.num_persons:
            raise PrivacyError(
                f"stage {self.stage!r} is accounted for {self.num_persons} people and the set has "
                f"{private.num_persons}; make the plan from the same manifest"
            )
        random = np.random.default_rng(secrets.randbits(256))
        if private.num_pictures == private.num_persons:
            order = np.argsort(private.person_index)[:, None]
            for people in self.sampler.batch_iterator(self.num_persons, random):
                yield private.select(order[people].repeat(self.pictures_per_person, axis=1))
            return
        users = batch_selection.UserSelectionStrategy(
            self.sampler, self.pictures_per_person, shuffle_per_user=True
        )
        for rows in users.batch_iterator(private.person_index, random):
            yield private.select(rows.astype(np.int64).reshape(-1, self.pictures_per_person))

    @property
    def fingerprint(self) -> str:
        """Changes whenever anything that is accounted changes."""
        text = json.dumps(asdict(self) | {"relation": RELATION.name}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


_NOTHING = dp_accounting.NoOpDpEvent()


class Permit:
    """Proof that the ledger holds this spend; good for one step. Only a `Ledger` makes them."""

    __slots__ = ("_is_used", "mechanism")

    def __init__(self, mechanism: Mechanism) -> None:
        self.mechanism = mechanism
        self._is_used = False

    def use(self, mechanism: Mechanism) -> None:
        """Spends the permit."""
        if self.mechanism != mechanism:
            raise PrivacyError(
                f"the permit is for stage {self.mechanism.stage!r}, not {mechanism.stage!r}"
            )
        if self._is_used:
            raise PrivacyError(f"a permit of stage {mechanism.stage!r} was used twice")
        self._is_used = True


class Release:
    """The only way from a private batch to a number: clipped, summed, noised.

    Args:
        mechanism: What was accounted.
        function: `(shared, person, key) -> pytree` for one person; `person` holds arrays
            (k, ...), `shared` anything public (parameters, fakes), `key` is the person's own.
        micro_batch: People whose outputs are in memory at once.
    """

    def __init__(
        self, mechanism: Mechanism, function: PersonFunction, *, micro_batch: int = 64
    ) -> None:
        self.mechanism = mechanism
        self._function = function
        self._micro_batch = micro_batch
        clipped = mechanism.clipped(function)

        def add_into(total: Any, shared: Any, person: Any, is_padding: Any, key: Any) -> Any:
            part = clipped(shared, person, key, is_padding)
            return jax.tree.map(jnp.add, total, part)

        self._add_into = jax.jit(add_into, donate_argnums=0)
        self._add_noise = jax.jit(lambda total, key: noisy(mechanism, total, key))

    def __call__(
        self, shared: Any, batch: PrivateBatch, permit: Permit, *, key: jax.Array | None = None
    ) -> Any:
        """Noisy sum over people; its noise has `mechanism.noise_stddev` and an unknown key.

        `key` seeds what `function` does at random (augmentation, ...), not the noise.
        """
        permit.use(self.mechanism)
        arrays, is_padding = reveal(batch)
        key = secret_key() if key is None else key
        total = self._zeros(shared, arrays, key)
        for start in range(0, len(is_padding), self._micro_batch):
            stop = start + self._micro_batch
            people = {name: _padded(a[start:stop], self._micro_batch) for name, a in arrays.items()}
            nobody = np.ones(self._micro_batch, bool)
            nobody[: len(is_padding) - start] = is_padding[start:stop]
            total = self._add_into(total, shared, people, nobody, jax.random.fold_in(key, start))
        return self._add_noise(total, secret_key())

    def _zeros(self, shared: Any, arrays: dict[str, np.ndarray], key: jax.Array) -> Any:
        person = {name: np.zeros(a.shape[1:], a.dtype) for name, a in arrays.items()}
        shapes = jax.eval_shape(self._function, shared, person, key)
        return jax.tree.map(lambda s: jnp.zeros(s.shape, jnp.float32), shapes)


def noisy(mechanism: Mechanism, total: Any, key: jax.Array) -> Any:
    """A clipped sum plus the mechanism's noise."""
    privatizer = noise_addition.gaussian_privatizer(stddev=mechanism.noise_stddev, prng_key=key)
    return privatizer.update(total, privatizer.init(total))[0]


def secret_key() -> jax.Array:
    """A JAX key of 64 bits from the operating system (`jax.random.key(int)` keeps only 32)."""
    data = np.frombuffer(secrets.token_bytes(8), np.uint32)
    key: jax.Array = jax.random.wrap_key_data(jnp.asarray(data), impl="threefry2x32")
    return key


def compose(mechanisms: Sequence[Mechanism]) -> dp_accounting.DpEvent:
    """What all of them spend together."""
    return dp_accounting.ComposedDpEvent([mechanism.dp_event() for mechanism in mechanisms])


def epsilon_of(event: dp_accounting.DpEvent, delta: float) -> float:
    """Epsilon of an event by the PLD accountant under `RELATION`."""
    return float(PLDAccountant(RELATION, _GRID).compose(event).get_epsilon(delta))


def check_target(epsilon: float, delta: float, num_persons: int) -> None:
    """Refuses budgets that promise nothing."""
    if not 0 < epsilon < float("inf"):
        raise ConfigError(f"epsilon={epsilon} must be > 0 and finite; set [privacy] epsilon")
    if not 0 < delta < 1 / num_persons:
        raise ConfigError(
            f"delta={delta} must be > 0 and below 1/{num_persons} (1 / people); a larger one would "
            "allow to publish somebody outright; set [privacy] delta"
        )


def calibrate(
    mechanisms: Sequence[Mechanism], *, epsilon: float, delta: float
) -> tuple[Mechanism, ...]:
    """The same mechanisms with their noise multipliers scaled by one factor to meet `epsilon`.

    Their ratios say how the budget is shared: twice the noise multiplier, a quarter of the spend.

    Guarantees: the composed epsilon at `delta` is at most `epsilon` and close to it.
    """
    check_target(epsilon, delta, max(mechanism.num_persons for mechanism in mechanisms))

    def scaled(factor: float) -> tuple[Mechanism, ...]:
        return tuple(replace(m, noise_multiplier=m.noise_multiplier * factor) for m in mechanisms)

    # enough noise without amplification; a search from near zero would take gigabytes
    root = (2 * math.log(1 / delta)) ** 0.5
    largest_mu = (root**2 + 2 * epsilon) ** 0.5 - root
    high = sum(m.iterations / m.noise_multiplier**2 for m in mechanisms) ** 0.5 / largest_mu
    low = high / 2
    while epsilon_of(compose(scaled(low)), delta) <= epsilon:
        high, low = low, low / 2
    factor = dp_accounting.calibrate_dp_mechanism(
        make_fresh_accountant=lambda: PLDAccountant(RELATION, _GRID),
        make_event_from_param=lambda factor: compose(scaled(factor)),
        target_epsilon=epsilon,
        target_delta=delta,
        bracket_interval=dp_accounting.ExplicitBracketInterval(low, high),
        tol=1e-4 * high,
    )
    return scaled(factor)


def _padded(array: np.ndarray, size: int) -> np.ndarray:
    """The array with rows of zeros up to `size`."""
    return np.concatenate([array, np.zeros((size - len(array), *array.shape[1:]), array.dtype)])
