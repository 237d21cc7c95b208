"""Routes by which private people move the adapters: each gets nearer, pays, and can go on."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from veilcam.camera.errors import ConfigError
from veilcam.model import private_adapt as pa
from veilcam.model import private_prior as pp
from veilcam.model.ledger import NAME, BudgetExceededError, Ledger
from veilcam.model.plan import Plan
from veilcam.model.privacy import Mechanism
from veilcam.model.private_config import STAGES, PrivateConfig, load_private_config
from veilcam.model.private_data import PrivacyError, PrivateSet
from veilcam.model.private_latents import Encoder
from veilcam.model.private_space import Space, fit_space, squared_distance

SIZE, PEOPLE = 6, 2000
SHIFT = np.array([1, -1, 0.5, 0, 0, 0], np.float32)


class Adapting(pp.Adapting):
    """As the real one, but latents are what is painted and seen."""

    def _components(self, values: jax.Array, latent: jax.Array) -> jax.Array:
        return latent


def config(**more: Any) -> PrivateConfig:
    paths = dict.fromkeys(("start", "pack", "features", "models", "private", "encoder"), "none")
    settings: dict[str, Any] = {
        "route": "statistics",
        "steps": 60,
        "learning_rate": 5e-2,
        "stay_weight": 0.0,
    } | more
    return PrivateConfig(**paths, **settings)


def public() -> pp.Public:
    zero, one = np.zeros(SIZE, np.float32), np.eye(SIZE, dtype=np.float32)
    return pp.Public(
        generator=None,
        meta={},
        mean=zero,
        chol=one,
        values=np.zeros((10, 3), np.float32),
        target=zero,
        weights={},
        space=Space(mean=zero, scale=zero + 1, components=one, radius=1.0, share=1.0),
        encoder=Encoder(
            feature_mean=zero, feature_scale=zero + 1, weight=one, mean=zero, covariance=one,
            gain=one, radius=4.0, r2=1.0, r2_grey=1.0, ridge=1.0,
        ),
    )  # fmt: skip


def adapting(settings: PrivateConfig) -> Adapting:
    known = public()
    return Adapting(settings, known, known.mean, known.chol)


def plan(name: str, **more: Any) -> Plan:
    stage = Mechanism(
        stage=name, num_persons=PEOPLE, l2_clip_norm=1.0, noise_multiplier=1.0, **more
    )
    return Plan.calibrated([stage], epsilon=8.0, delta=1e-5)


@pytest.fixture(scope="module")
def people() -> PrivateSet:
    random = np.random.default_rng(0)
    latent = random.standard_normal((PEOPLE, SIZE)).astype(np.float32)
    arrays = {
        "latent": latent,
        "components": 0.75 * latent + SHIFT,
        "values": np.zeros((PEOPLE, 3), np.float32),
    }
    return PrivateSet(arrays, np.arange(PEOPLE))


def distance(of: Adapting) -> float:
    """Of what is painted on average from the people's mean."""
    return float(np.linalg.norm(of.latent_distribution()[0] - SHIFT))


def exhaust(steps: Iterator[float]) -> int:
    return sum(1 for _ in steps)


def test_toward_a_target(people: PrivateSet) -> None:
    run = adapting(config())
    before = distance(run)
    assert exhaust(run.toward(SHIFT)) == 60
    assert distance(run) < 0.3 * before


def test_a_critic_leads_to_the_people(people: PrivateSet, tmp_path: Path) -> None:
    chosen = plan("discriminator", sampling_prob=0.2, iterations=120)
    run = adapting(config(route="discriminator", steps=80))
    before = distance(run)
    with Ledger(tmp_path / NAME, chosen) as ledger:
        exhaust(run.play(people, chosen, ledger))
        assert ledger.spent(chosen.stages[0]) == 120
    assert distance(run) < 0.7 * before


def test_noisy_gradients_of_the_prior_lead_there(people: PrivateSet, tmp_path: Path) -> None:
    chosen = plan("adapters", sampling_prob=0.2, iterations=30)
    run = adapting(config(route="adapters", steps=30))
    before = distance(run)
    with Ledger(tmp_path / NAME, chosen) as ledger:
        exhaust(run.follow(people, chosen, ledger))
        with pytest.raises(BudgetExceededError):
            ledger.spend(chosen.stages[0])
    assert distance(run) < 0.7 * before


def test_a_checkpoint_ahead_of_its_ledger_is_refused(people: PrivateSet, tmp_path: Path) -> None:
    chosen = plan("adapters", sampling_prob=0.2, iterations=4)
    settings = config(route="adapters", steps=4)
    run = adapting(settings)
    with Ledger(tmp_path / "a" / NAME, chosen) as ledger:
        pa._run(run, run.follow(people, chosen, ledger), settings, tmp_path, 1e18, resume=False)
    again = adapting(settings)
    with Ledger(tmp_path / "b" / NAME, chosen) as empty, pytest.raises(PrivacyError, match="older"):
        pa._run(again, again.follow(people, chosen, empty), settings, tmp_path, 1e18, resume=True,
                check=lambda: empty.check_covers(
                    {"adapters": int(again.state["private_steps"])}))  # fmt: skip
    assert int(again.state["private_steps"]) == 4


def test_a_released_statistic_is_read_again_not_paid_again(
    people: PrivateSet, tmp_path: Path
) -> None:
    stages = [
        Mechanism(stage=name, num_persons=PEOPLE, l2_clip_norm=clip, noise_multiplier=1.0)
        for name, clip in (("latents", 1.0), ("embedding", 4.0))
    ]
    chosen = Plan.calibrated(stages, epsilon=8.0, delta=1e-5)
    with Ledger(tmp_path / NAME, chosen) as ledger:
        moments, target = pa.release(people, chosen, ledger, public(), tmp_path / "r.npz")
        again, same = pa.release(people, chosen, ledger, public(), tmp_path / "r.npz")
    assert target is not None
    assert same is not None
    np.testing.assert_allclose(target, SHIFT, atol=0.1)
    np.testing.assert_array_equal(target, same)
    np.testing.assert_array_equal(moments.covariance, again.covariance)


def test_the_space_is_white_and_its_distance_unbiased() -> None:
    random = np.random.default_rng(0)
    x = (random.standard_normal((500, 12)) @ random.standard_normal((12, 12))).astype(np.float32)
    space = fit_space(x, size=5)
    u = np.asarray(space(jnp.asarray(x)))
    np.testing.assert_allclose(u.T @ u / len(u), np.eye(5), atol=0.05)
    draws = [
        float(squared_distance(jnp.asarray(u[random.integers(0, 500, 8)]), jnp.ones(5)))
        for _ in range(2000)
    ]
    assert np.mean(draws) == pytest.approx(1.0, abs=0.05)  # not 1 + 1/8


BASE = "\n".join(
    f'{k} = "x"' for k in ("start", "pack", "features", "models", "private", "encoder")
)
PRIVACY = "[privacy]\nepsilon = 2.0\ndelta = 1e-5\nnum_persons = 900\n"


def stage_table(name: str) -> str:
    return f'[[privacy.stages]]\nstage = "{name}"\nl2_clip_norm = 1.0\n'


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f'{BASE}\nroute = "magic"', "allowed: public"),
        (f'{BASE}\nroute = "public"\nsteps = 0', "steps=0"),
        (f'{BASE}\nroute = "public"\nbatch = 5', "batch=5"),
        (f'{BASE}\nroute = "public"\nstep = 5', "unknown key 'step'"),
        (f'{BASE}\nroute = "public"\nsteps = "5"', "must be of type int"),
        ('route = "public"', "key 'start' is missing"),
        (f'{BASE}\nroute = "statistics"', r"needs a \[privacy\] table"),
        (f'{BASE}\nroute = "public"\n{PRIVACY}{stage_table("latents")}', "spends nothing"),
        (f'{BASE}\nroute = "statistics"\n{PRIVACY}{stage_table("latents")}', "wants the stages"),
    ],
)
def test_bad_settings_are_told(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(ConfigError, match=told):
        load_private_config(tmp_path / "c.toml")


@pytest.mark.parametrize("route", list(STAGES))
def test_each_route_reads_its_plan(route: str, tmp_path: Path) -> None:
    stages = "".join(stage_table(name) for name in STAGES[route])
    text = f'{BASE}\nroute = "{route}"\n' + (PRIVACY + stages if stages else "")
    (tmp_path / "c.toml").write_text(text)
    settings, chosen = load_private_config(tmp_path / "c.toml")
    assert settings.route == route
    assert (chosen is None) == (route == "public")
    if chosen is not None:
        assert 1.9 < chosen.composed_epsilon <= 2.0


def test_a_folder_keeps_to_its_settings(tmp_path: Path) -> None:
    pa._check_run(tmp_path, config(), resume=False)
    with pytest.raises(ConfigError, match="--resume"):
        pa._check_run(tmp_path, config(), resume=False)
    pa._check_run(tmp_path, dataclasses.replace(config(), checkpoint_every=7), resume=True)
    with pytest.raises(ConfigError, match="another configuration"):
        pa._check_run(tmp_path, config(seed=2), resume=True)
