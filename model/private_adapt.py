"""A private stage from its configuration to a run that can be exported.

The routes and their formulas are in `model.private_prior`; what a release needs of public pictures
is read and fitted here, and kept.
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

from veilcam.camera.errors import ConfigError
from veilcam.model import checkpoint, report
from veilcam.model import private_latents as pl
from veilcam.model.data import SIMULATED, Pack
from veilcam.model.feature_net import load_features
from veilcam.model.ledger import NAME, Ledger
from veilcam.model.plan import Plan
from veilcam.model.prepare import over_grey
from veilcam.model.private_config import (
    EMBEDDING,
    PrivateConfig,
    load_private_config,
)
from veilcam.model.private_data import PrivateSet
from veilcam.model.private_prior import Adapting, Public
from veilcam.model.private_space import fit_space
from veilcam.model.provenance import PRIVATE
from veilcam.model.statistics import Moments, noisy_embedding

_log = logging.getLogger(__name__)
_PROGRESS, _RELEASED = "prior.npz", "released.npz"


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
        checkpoint.write_arrays(path, arrays)
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
    leaves = jax.tree.leaves(adapting.state)
    checkpoint.write_arrays(path, {f"arr_{i}": np.asarray(leaf) for i, leaf in enumerate(leaves)})


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
