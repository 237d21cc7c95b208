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
import json
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from veilcam.camera.errors import ConfigError
from veilcam.model import checkpoint, report
from veilcam.model import private_latents as pl
from veilcam.model.data import SIMULATED, Pack
from veilcam.model.dp_sgd import PrivateGradient
from veilcam.model.feature_net import Weights, load_features
from veilcam.model.ledger import NAME, Ledger
from veilcam.model.loss import through
from veilcam.model.plan import Plan
from veilcam.model.prepare import over_grey
from veilcam.model.private_config import (
    ADAPTERS,
    DISCRIMINATOR,
    EMBEDDING,
    PrivateConfig,
    load_private_config,
)
from veilcam.model.private_data import PrivateSet
from veilcam.model.private_space import Space, fit_space, squared_distance
from veilcam.model.provenance import PRIVATE
from veilcam.model.statistics import Moments, noisy_embedding

_log = logging.getLogger(__name__)
_TRUNCATION = 0.75  # as stand-ins are drawn
_GREY = 127.0 / 255
_ADAM = optax.scale_by_adam(b1=0.9, b2=0.99)
_CRITIC_WIDTH, _CRITIC_RATE = 16, 2e-2
_PROGRESS, _RELEASED = "prior.npz", "released.npz"
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


def load_public(config: PrivateConfig) -> Public:
    """Reads run, pack and nets; describes the public portraits (a minute or two)."""
    start, pack = Path(config.start), Pack.load(Path(config.pack))
    weights = load_features(Path(config.features))
    describe = pl.describer(weights)
    generator, meta, latents = checkpoint.load_generator(start)
    if meta.get("training"):
        raise ConfigError(f"{start} has spent epsilon already; start from a public run")
    rows = np.flatnonzero(pack.domain != SIMULATED)
    described = describe(np.stack([over_grey(bgra) for bgra in pack.bgra[rows]]))
    space = fit_space(described)
    _log.info("space: %d components, %.2f of the variance", space.components.shape[1], space.share)
    return Public(
        generator=generator,
        meta=meta,
        mean=latents["mean"],
        chol=latents["chol"],
        values=pack.values[rows],
        target=np.asarray(space(jnp.asarray(described))).mean(0),
        weights=weights,
        space=space,
        encoder=pl.encoder_for(start, Path(config.pack), describe, Path(config.encoder)),
    )


def encode_people(config: PrivateConfig, public: Public) -> PrivateSet:
    """Arrays `latent` (whitened), `components` and `values` of each private picture.

    A picture without a face counts as the public mean.
    """
    cut = pl.cutter_with_values(Path(config.models))
    describe = pl.describer(public.weights)

    def encode(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        made = [cut(bgr) for bgr in rows["bgr"]]
        blank = np.zeros((128, 128, 3), np.uint8), public.values.mean(0)
        heads, values = zip(*(blank if m is None else m for m in made), strict=True)
        described = describe(np.stack(heads))
        nobody = np.array([m is None for m in made])
        latent = public.encoder(described)
        components = np.array(public.space(jnp.asarray(described)))
        latent[nobody], components[nobody] = public.encoder.mean, public.target
        return {"latent": latent, "components": components, "values": np.stack(values)}

    return pl.load_people(Path(config.private)).map_pictures(encode)


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


def release(
    people: PrivateSet, plan: Plan, ledger: Ledger, public: Public, path: Path
) -> tuple[Moments, np.ndarray | None]:
    """What the one-shot stages give, kept in `path`: noisy already, so it may be read again."""
    if path.is_file():
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
    else:
        moments = pl.release(people, plan, ledger, public.encoder)
        arrays = {k: np.asarray(v) for k, v in dataclasses.asdict(moments).items()}
        if any(stage.stage == EMBEDDING for stage in plan.stages):
            stage = plan.stage(EMBEDDING)
            target = public.target
            offset = noisy_embedding(
                stage, people, ledger.spend(stage), lambda person: person["components"] - target
            )[0]
            arrays["target"] = offset + target
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, **arrays)
        partial.rename(path)
    target = arrays.pop("target", None)
    return Moments(**{k: v if v.ndim else float(v) for k, v in arrays.items()}), target


def train(
    config_path: Path, *, resume: bool, run_dir: Path, max_minutes: float | None = None
) -> dict[str, Any]:
    """Runs a private stage; returns its promise, or for the twin that there is none.

    Raises:
        ConfigError: Bad settings, or `run_dir` holds a run of others.
        BudgetExceededError: The ledger of `run_dir` holds this plan's spends.
    """
    config, plan = load_private_config(config_path)
    end = time.monotonic() + 60 * max_minutes if max_minutes else float("inf")
    run_dir.mkdir(parents=True, exist_ok=True)
    _check_run(run_dir, config, resume=resume)
    public = load_public(config)
    facts: dict[str, Any] = dict(config.told)
    if plan is None:
        adapting = Adapting(config, public, public.mean, public.chol)
        steps = adapting.toward(public.target)
        _run(adapting, steps, config, run_dir, end, resume=resume)
        return _write(adapting, public, config, run_dir, {"private_stage": facts})
    people = encode_people(config, public)
    with Ledger(run_dir / NAME, plan) as ledger:
        moments, target = release(people, plan, ledger, public, run_dir / _RELEASED)
        mean, chol = pl.moved(public.mean, public.chol, public.encoder, moments)
        adapting = Adapting(config, public, mean, chol)
        steps = {
            "latents": lambda: iter(()),
            "statistics": lambda: adapting.toward(_given(target)),
            "discriminator": lambda: adapting.play(people, plan, ledger),
            "adapters": lambda: adapting.follow(people, plan, ledger),
        }[config.route]
        covers: Callable[[], None] = lambda: ledger.check_covers(  # noqa: E731
            {plan.stages[-1].stage: int(adapting.state["private_steps"])}
        )
        _run(adapting, steps(), config, run_dir, end, resume=resume, check=covers)
        promise = ledger.promise()
    facts |= {"encoder_r2": public.encoder.r2, "num_persons": people.num_persons}
    return _write(adapting, public, config, run_dir, {"training": promise, "private_stage": facts})


def _given(target: np.ndarray | None) -> np.ndarray:
    assert target is not None  # the configuration names the stage that makes it
    return target


def _check_run(run_dir: Path, config: PrivateConfig, *, resume: bool) -> None:
    """A folder belongs to one configuration."""
    path = run_dir / "settings.json"
    if not path.exists():
        path.write_text(json.dumps({"fingerprint": config.fingerprint}) + "\n")
    elif json.loads(path.read_text())["fingerprint"] != config.fingerprint:
        raise ConfigError(f"{run_dir} holds a run of another configuration; choose another folder")
    elif not resume:
        raise ConfigError(f"{run_dir} holds a run; go on with --resume, or choose another folder")


def _run(
    adapting: Adapting,
    steps: Iterator[float],
    config: PrivateConfig,
    run_dir: Path,
    end: float,
    *,
    resume: bool,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Takes the steps, keeping the state now and then."""
    path = run_dir / _PROGRESS
    if resume and path.is_file():
        leaves, definition = jax.tree.flatten(adapting.state)
        with np.load(path) as file:
            leaves = [jnp.asarray(file[f"arr_{i}"]) for i in range(len(leaves))]
        adapting.state = jax.tree.unflatten(definition, leaves)
    check()
    history = report.History(run_dir / "log.csv", keep=resume)
    for value in steps:
        done = int(adapting.state["step"])
        history.add(done, {"loss": value})
        _log.info("step %d of %d: %.4f", done, config.steps, value)
        if done % config.checkpoint_every == 0:
            _keep(adapting, path)
        if time.monotonic() > end:
            break
    _keep(adapting, path)
    history.plot(run_dir / "loss.png")


def _keep(adapting: Adapting, path: Path) -> None:
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, *(np.asarray(leaf) for leaf in jax.tree.leaves(adapting.state)))
    partial.rename(path)


def _write(
    adapting: Adapting, public: Public, config: PrivateConfig, run_dir: Path, more: dict[str, Any]
) -> dict[str, Any]:
    """The run as `veilcam export` reads it."""
    meta = public.meta | more
    if "training" in more:
        entry = PRIVATE | {"people": more["private_stage"]["num_persons"]}
        meta |= {"data": [*public.meta.get("data", []), entry]}
    checkpoint.save_average(
        public.generator,
        Path(config.start),
        run_dir,
        meta,
        latents=adapting.latent_distribution(),
    )
    told = more.get("training")
    return {"done": True, "epsilon": 0.0} if told is None else told
