"""The private gradient is the clipped, noised, rightly scaled one, and training by it works."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from veilcam.model.dp_sgd import PrivateGradient, patch_conv, use_patches
from veilcam.model.ledger import Ledger
from veilcam.model.plan import Plan
from veilcam.model.privacy import Mechanism, Permit
from veilcam.model.private_data import PrivacyError, PrivateSet


class Net(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(1, 4, (3, 3), rngs=rngs)
        self.head = nnx.Linear(4 * 36, 2, rngs=rngs)
        self.seen = nnx.Cache(jnp.zeros(()))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(jax.nn.relu(self.conv(x)).reshape(x.shape[0], -1))


def loss(model: Net, person: dict[str, jax.Array], shared: Any, key: jax.Array) -> jax.Array:
    logits = model(person["x"])
    return optax.softmax_cross_entropy_with_integer_labels(logits, person["y"]).mean()


def mechanism(**changes: Any) -> Mechanism:
    base = {"stage": "game", "num_persons": 48, "l2_clip_norm": 0.4, "noise_multiplier": 1e-6}
    return Mechanism(**(base | changes))


@pytest.fixture(scope="module")
def people() -> PrivateSet:
    random = np.random.default_rng(0)
    y = random.integers(0, 2, 48).astype(np.int32)
    x = random.normal(size=(48, 6, 6, 1)).astype(np.float32)
    x[:, :3] += 2 * y[:, None, None, None] - 1
    return PrivateSet({"x": x, "y": y}, np.arange(48))


def flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


@pytest.mark.parametrize("micro_batch", [5, 48])
def test_gradient_is_the_mean_of_clipped_ones(micro_batch: int, people: PrivateSet) -> None:
    from veilcam.model.private_data import reveal

    model, m = Net(nnx.Rngs(0)), mechanism()
    (batch,) = m.batches(people)
    arrays, _ = reveal(batch)
    each = [
        flat(nnx.grad(lambda model, i=i: loss(model, {k: v[i] for k, v in arrays.items()}, None,
                                              jax.random.key(0)))(model))
        for i in range(48)
    ]  # fmt: skip
    wanted = sum(g * min(1, 0.4 / np.linalg.norm(g)) for g in each) / 48
    gradient = PrivateGradient(m, loss, micro_batch=micro_batch)
    got = gradient(model, batch, Permit(m))
    np.testing.assert_allclose(flat(got), wanted, atol=2e-6)
    assert np.linalg.norm(wanted - sum(each) / 48) > 1e-3  # clipping did something


def test_noise_on_the_gradient_is_that_of_the_sum_over_the_expected_batch(
    people: PrivateSet,
) -> None:
    m = mechanism(noise_multiplier=3.0, sampling_prob=0.25, iterations=4, l2_clip_norm=2.0)
    zero = PrivateGradient(m, lambda model, person, shared, key: 0.0 * model.head.bias[...].sum())
    got = flat(zero(Net(nnx.Rngs(0)), next(m.batches(people)), Permit(m)))
    wanted = 3.0 * 2.0 / (48 * 0.25)
    assert got.std() == pytest.approx(wanted, rel=0.15)
    assert got.std() != pytest.approx(wanted * 2 / 3, rel=0.15)
    assert got.std() != pytest.approx(wanted * 3 / 2, rel=0.15)


def test_training_learns_under_noise_and_spends_what_was_planned(
    people: PrivateSet, tmp_path: Path
) -> None:
    m = mechanism(noise_multiplier=0.8, sampling_prob=0.5, iterations=30, l2_clip_norm=1.0)
    plan = Plan.calibrated([m], epsilon=60.0, delta=1e-3)
    (m,) = plan.stages
    model = Net(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(3e-2), wrt=nnx.Param)
    gradient = PrivateGradient(m, loss, micro_batch=16)
    before = public_accuracy(model)
    with Ledger(tmp_path / "ledger.json", plan) as ledger:
        for batch in m.batches(people):
            optimizer.update(model, gradient(model, batch, ledger.spend(m)))
        assert ledger.spent(m) == 30
        assert ledger.promise()["epsilon"] <= 60.0
    assert public_accuracy(model) > max(0.8, before)


def public_accuracy(model: Net) -> float:
    """On pictures of the same kind that nobody owns."""
    random = np.random.default_rng(5)
    y = random.integers(0, 2, 200)
    x = random.normal(size=(200, 6, 6, 1)).astype(np.float32)
    x[:, :3] += 2 * y[:, None, None, None] - 1
    return float((np.asarray(model(jnp.asarray(x))).argmax(1) == y).mean())


def test_adapters_alone_can_be_trained_and_shared_things_reach_the_loss(
    people: PrivateSet,
) -> None:
    model, m = Net(nnx.Rngs(0)), mechanism()
    head = nnx.All(nnx.Param, nnx.PathContains("head"))

    def pulled(model: Net, person: dict, shared: jax.Array, key: jax.Array) -> jax.Array:
        return (model.head.bias[...] * shared).sum()

    gradient = PrivateGradient(m, pulled, wrt=head)
    got = gradient(model, next(m.batches(people)), Permit(m), shared=jnp.array([0.1, -0.2]))
    assert len(jax.tree.leaves(got)) == 2
    np.testing.assert_allclose(got["head"]["bias"][...], [0.1, -0.2], atol=1e-5)
    optimizer = nnx.Optimizer(model, optax.sgd(1.0), wrt=head)
    kernel = np.asarray(model.conv.kernel[...])
    optimizer.update(model, got)
    np.testing.assert_array_equal(kernel, model.conv.kernel[...])


def test_memory_is_that_of_the_micro_batch(people: PrivateSet) -> None:
    seen: list[int] = []

    def counting(model: Net, person: dict, shared: Any, key: jax.Array) -> jax.Array:
        seen.append(1)  # traced for one person, never for the batch
        assert person["x"].shape == (1, 6, 6, 1)
        return loss(model, person, shared, key)

    m = mechanism()
    gradient = PrivateGradient(m, counting, micro_batch=4)
    model = Net(nnx.Rngs(0))
    for _ in range(2):
        gradient(model, next(m.batches(people)), Permit(m))
    assert len(seen) <= 4  # one compilation whatever the batch: shapes are fixed


@pytest.mark.parametrize(
    "leak",
    [
        lambda m, model, batch: PrivateGradient(m, loss)(model, batch, None),
        lambda m, model, batch: nnx.grad(lambda n: loss(n, batch, None, None))(model),
        lambda m, model, batch: jax.vmap(lambda b: b)(batch),
    ],
)
def test_a_private_batch_reaches_parameters_only_by_the_mechanism(
    leak: Callable[..., Any], people: PrivateSet
) -> None:
    m = mechanism()
    with pytest.raises((PrivacyError, TypeError, ValueError, AttributeError)):
        leak(m, Net(nnx.Rngs(0)), next(m.batches(people)))


def test_a_bad_person_cannot_break_the_sum() -> None:
    x = np.zeros((48, 6, 6, 1), np.float32)
    x[3], x[4] = np.nan, np.inf
    bad = PrivateSet({"x": x, "y": np.zeros(48, np.int32)}, np.arange(48))
    m = mechanism()
    got = flat(PrivateGradient(m, loss)(Net(nnx.Rngs(0)), next(m.batches(bad)), Permit(m)))
    assert np.isfinite(got).all()
    assert np.linalg.norm(got) <= 0.4 + 1e-4


@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (2, 1)])
@pytest.mark.parametrize("padding", ["SAME", "VALID", ((0, 2), (1, 0))])
@pytest.mark.parametrize("size", [(3, 3), (1, 1), (4, 2)])
def test_kernel_gradients_by_patches_are_the_same(
    strides: tuple[int, int], padding: Any, size: tuple[int, int]
) -> None:
    conv = nnx.Conv(2, 3, size, strides=strides, padding=padding, rngs=nnx.Rngs(0))
    other = nnx.clone(conv)
    use_patches(other)
    assert other.conv_general_dilated is patch_conv
    x = jax.random.normal(jax.random.key(1), (2, 7, 6, 2))
    value = [
        nnx.value_and_grad(lambda c, x: jnp.sin(c(x)).sum(), argnums=(0, 1))(c, x)
        for c in (conv, other)
    ]
    for plain, patched in zip(*map(jax.tree.leaves, value), strict=True):
        np.testing.assert_allclose(plain, patched, atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"feature_group_count": 2},
        {"kernel_dilation": 2},
        {"input_dilation": 2, "padding": ((1, 1), (1, 1))},
    ],
)
def test_other_convolutions_are_left_as_they_are(options: dict[str, int]) -> None:
    conv = nnx.Conv(2, 4, (3, 3), rngs=nnx.Rngs(0), **options)
    x = jax.random.normal(jax.random.key(1), (2, 7, 6, 2))
    wanted = conv(x)
    use_patches(conv)
    np.testing.assert_allclose(conv(x), wanted, atol=1e-5)
