"""The private stage of the head generator: who is drawn moves toward private people.

What is trained is the *prior* w of the latents: a shift of the mean and a scale, each in the
latents' own standard deviations; the network's weights stay. Biases of the network, trained in the
same way, came nearer in the features that they were trained by and painted broken faces.

All routes first move the latents' distribution by one noisy release (`model.private_latents`).
With u(x) the whitened components of a picture (`model.private_space`), G the generator and m(w)
the mean of u(G(code, z)) over public codes and latents z drawn from the prior w:

    latents        no more than that release
    statistics     min over w of |m(w) - t|^2,   t = (sum over people of clip_C(u) + noise) / n
    discriminator  a critic D learns by noisy gradients (`model.dp_sgd`) to tell u of people from u
                   of painted heads; w follows its score, which is public once D was released
    adapters       w by noisy gradients of |u(G(code of x, w(latent of x))) - u(x)|^2
    public         as statistics, with t and the latents of the public portraits: the twin

People reach w through `privacy.Release` alone; what follows a release is post-processing.

Sources: Harder et al. 2023 (DP-MEPF); Bie et al. 2023, Private GANs, revisited.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from veilcam.model import private_latents as pl
from veilcam.model.dp_sgd import PrivateGradient
from veilcam.model.feature_net import Weights
from veilcam.model.ledger import Ledger
from veilcam.model.loss import through
from veilcam.model.plan import Plan
from veilcam.model.private_config import ADAPTERS, DISCRIMINATOR, PrivateConfig
from veilcam.model.private_data import PrivateSet
from veilcam.model.private_space import Space, squared_distance

_TRUNCATION = 0.75  # as stand-ins are drawn
_GREY = 127.0 / 255
_ADAM = optax.scale_by_adam(b1=0.9, b2=0.99)
_CRITIC_WIDTH, _CRITIC_RATE = 16, 2e-2
Params = Any


class Prior(nnx.Module):
    """White noise -> whitened latents."""

    def __init__(self, size: int) -> None:
        self.mean = nnx.Param(jnp.zeros(size))
        self.log_scale = nnx.Param(jnp.zeros(size))

    def __call__(self, noise: jax.Array) -> jax.Array:
        """(..., z) -> (..., z)."""
        return self.mean[...] + jnp.exp(self.log_scale[...]) * noise


class Critic(nnx.Module):
    """Score of components: high for private people's, low for painted heads'."""

    def __init__(self, num_components: int, *, rngs: nnx.Rngs) -> None:
        self.hidden = nnx.Linear(num_components, _CRITIC_WIDTH, rngs=rngs)
        self.out = nnx.Linear(_CRITIC_WIDTH, 1, use_bias=False, rngs=rngs)

    def __call__(self, u: jax.Array) -> jax.Array:
        """(..., k) -> (...)."""
        return self.out(nnx.tanh(self.hidden(u)))[..., 0]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Public:
    """All that is known without private people.

    Attributes:
        generator: Of the public run, with a method `paint_linear`.
        meta: Facts of that run.
        mean, chol: Of its latents.
        values: Code values of public portraits.
        target: Mean of their components.
        weights: Of the feature net.
        space: Of components.
        encoder: Picture -> latent.
    """

    generator: Any
    meta: dict[str, Any]
    mean: np.ndarray
    chol: np.ndarray
    values: np.ndarray
    target: np.ndarray
    weights: Weights
    space: Space
    encoder: pl.Encoder


class Adapting:
    """Trains the prior; `state` is all that changes, a tree of arrays.

    Args:
        config: Settings.
        public: What is public.
        mean, chol: The latents' distribution, moved already.
    """

    def __init__(
        self, config: PrivateConfig, public: Public, mean: np.ndarray, chol: np.ndarray
    ) -> None:
        self._config, self._public = config, public
        self._mean, self._chol = jnp.asarray(mean), jnp.asarray(chol)
        prior, critic = (
            Prior(len(mean)),
            Critic(public.space.components.shape[1], rngs=nnx.Rngs(config.seed)),
        )
        self._graphs, self._templates, params = {}, {}, {}
        for name, module in (("prior", prior), ("critic", critic)):
            self._graphs[name], self._templates[name] = nnx.split(module)
            params[name] = nnx.to_pure_dict(self._templates[name])
        self.state: dict[str, Any] = {
            **params,
            "opt_prior": _ADAM.init(params["prior"]),
            "opt_critic": _ADAM.init(params["critic"]),
            "step": jnp.zeros((), jnp.int32),
            "private_steps": jnp.zeros((), jnp.int32),
        }
        self._toward = jax.jit(self._step_toward)
        self._fool = jax.jit(self._step_fooling)
        self._judge = jax.jit(self._step_critic)

    def build(self, name: str, params: Params) -> Any:
        """The prior or the critic with these parameters."""
        state = jax.tree.map(lambda x: x, self._templates[name])
        nnx.replace_by_pure_dict(state, params)
        return nnx.merge(self._graphs[name], state)

    def latent_distribution(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and Cholesky factor as the prior has moved them."""
        prior = self.state["prior"]
        mean = self._mean + self._chol @ prior["mean"]
        return np.asarray(mean), np.asarray(self._chol * jnp.exp(prior["log_scale"]))

    def _latents(self, prior: Prior, noise: jax.Array) -> jax.Array:
        return self._mean + prior(noise) @ self._chol.T

    def _paint(self, params: Params, step: jax.Array) -> jax.Array:
        """Components of a batch of painted heads, over grey."""
        key = jax.random.fold_in(jax.random.key(self._config.seed), step)
        rows, noise = jax.random.split(key)
        count = self._config.batch
        values = jnp.asarray(self._public.values)
        values = values[jax.random.randint(rows, (count,), 0, len(values))]
        z = _TRUNCATION * jax.random.normal(noise, (count, len(self._mean)))
        return self._components(values, self._latents(self.build("prior", params), z))

    def _components(self, values: jax.Array, latent: jax.Array) -> jax.Array:
        patch = jax.vmap(self._public.generator.paint_linear)(values, latent)
        patch = through(patch)
        seen = patch[..., :3] * patch[..., 3:] + _GREY * (1 - patch[..., 3:])
        return self._public.space(pl.described(self._public.weights, seen[..., ::-1] * 2 - 1))

    def _moved(self, state: Any, gradient: Params) -> Any:
        update, opt = _ADAM.update(gradient, state["opt_prior"])
        fall = jnp.cos(jnp.minimum(state["step"] / self._config.steps, 1.0) * jnp.pi / 2)
        rate = self._config.learning_rate * fall
        prior = jax.tree.map(lambda w, u: w - rate * u, state["prior"], update)
        return state | {"prior": prior, "opt_prior": opt, "step": state["step"] + 1}

    def _stay(self, params: Params) -> jax.Array:
        return self._config.stay_weight * sum(jnp.square(p).mean() for p in jax.tree.leaves(params))

    def _step_toward(self, state: Any, target: jax.Array) -> tuple[Any, jax.Array]:
        def loss(params: Params) -> tuple[jax.Array, jax.Array]:
            distance = squared_distance(self._paint(params, state["step"]), target)
            return distance + self._stay(params), distance

        gradient, distance = jax.grad(loss, has_aux=True)(state["prior"])
        return self._moved(state, gradient), distance

    def _step_fooling(self, state: Any) -> tuple[Any, jax.Array, jax.Array]:
        critic = self.build("critic", state["critic"])

        def loss(params: Params) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
            painted = self._paint(params, state["step"])
            score = -critic(painted).mean()
            return score + self._stay(params), (score, painted)

        gradient, (score, painted) = jax.grad(loss, has_aux=True)(state["prior"])
        return self._moved(state, gradient), score, painted

    def _step_critic(self, state: Any, private: Any, painted: jax.Array) -> Any:
        def loss(params: Any) -> jax.Array:
            return jax.nn.softplus(self.build("critic", params)(painted)).mean()

        gradient = jax.tree.map(jnp.add, jax.grad(loss)(state["critic"]), private)
        update, opt = _ADAM.update(gradient, state["opt_critic"])
        critic = jax.tree.map(lambda w, u: w - _CRITIC_RATE * u, state["critic"], update)
        done = state["private_steps"] + 1
        return state | {"critic": critic, "opt_critic": opt, "private_steps": done}

    def toward(self, target: np.ndarray) -> Iterator[float]:
        """Steps toward a mean of components; yields the squared distance."""
        while int(self.state["step"]) < self._config.steps:
            self.state, value = self._toward(self.state, jnp.asarray(target))
            yield float(value)

    def play(self, people: PrivateSet, plan: Plan, ledger: Ledger) -> Iterator[float]:
        """The critic's private steps spread over the prior's steps; yields the critic's score."""
        stage = plan.stage(DISCRIMINATOR)

        def loss(critic: Critic, person: Any, shared: Any, key: jax.Array) -> jax.Array:
            return jax.nn.softplus(-critic(person["components"])).mean()

        gradient = PrivateGradient(stage, loss)
        batches = stage.batches(people)
        pool = jnp.concatenate(
            [self._fool(self.state | {"step": jnp.asarray(-1 - i)})[2] for i in range(4)]
        )
        while int(self.state["step"]) < self._config.steps:
            due = stage.iterations * (int(self.state["step"]) + 1) / self._config.steps
            while int(self.state["private_steps"]) < min(due, stage.iterations):
                critic = self.build("critic", self.state["critic"])
                private = gradient(critic, next(batches), ledger.spend(stage))
                self.state = self._judge(self.state, nnx.to_pure_dict(private), pool)
            self.state, value, painted = self._fool(self.state)
            pool = jnp.concatenate([pool[len(painted) :], painted])
            yield float(value)

    def follow(self, people: PrivateSet, plan: Plan, ledger: Ledger) -> Iterator[float]:
        """The prior by noisy gradients of people; yields the gradient's norm."""
        stage = plan.stage(ADAPTERS)

        def loss(prior: Prior, person: Any, shared: Any, key: jax.Array) -> jax.Array:
            painted = self._components(person["values"], self._latents(prior, person["latent"]))
            return jnp.square(painted - person["components"]).mean()

        gradient = PrivateGradient(stage, loss, micro_batch=self._config.batch)
        batches = stage.batches(people)
        while int(self.state["private_steps"]) < stage.iterations:
            prior = self.build("prior", self.state["prior"])
            noisy = nnx.to_pure_dict(gradient(prior, next(batches), ledger.spend(stage)))
            self.state = self._moved(self.state, noisy)
            self.state |= {"private_steps": self.state["private_steps"] + 1}
            yield float(optax.tree.norm(noisy))
