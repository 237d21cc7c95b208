"""Made-up people: vectors with and without a leak; the attacks must tell which is which."""

import importlib.util
from functools import cache

import numpy as np
import pytest

from veilcam.camera.audit_attacks import CODE, PLANTED_CODE, build_trial, raw_limits, reid_figures
from veilcam.camera.audit_learn import Target, fit_ridge, learn_code
from veilcam.camera.audit_rows import identity_findings
from veilcam.camera.audit_shots import COPY, ORIGINAL, OURS, PIXELS, PLANTED, VIEWS, Shot
from veilcam.camera.audit_traits import local_dp_bound, trait_rows
from veilcam.camera.audit_verdict import check_controls, judge

DIM, NUM_PIXELS = 24, 10
RECOGNIZERS = ("one", "two")


def people(num: int, first: int, *, leak: float, pictures: int = 2) -> list[Shot]:
    """Shots whose stand-ins share a part `leak` with the person, and whose peers share much."""
    random = np.random.default_rng(first)
    # what a leak looks like is turned, so that only an attacker who learns reads it
    turn = np.linalg.qr(np.random.default_rng(7).standard_normal((DIM, DIM)))[0]
    shots = []
    for index in range(num):
        identity = {r: random.standard_normal(DIM) for r in RECOGNIZERS}
        for number in range(pictures):
            shot = Shot(f"p{first + index}", number)
            shot.code = random.random(12).astype(np.float32)
            both = np.concatenate([identity[r][:12] for r in RECOGNIZERS])
            shot.planted = (both + 0.3 * random.standard_normal(24)).astype(np.float32)
            shot.traits = {
                "sex": float(identity["one"][0] > 0),
                "age": float(identity["one"][1]),
                "skin": float(identity["two"][0]),
            }
            for name in RECOGNIZERS:
                here = identity[name] + 0.35 * random.standard_normal(DIM)
                for view, share in (
                    (ORIGINAL, None), (COPY, None), (OURS, leak), (PLANTED, 0.8), ("blur", 0.6),
                    ("pixelate", 0.6), ("solid", 0.0),
                ):  # fmt: skip
                    noise = random.standard_normal(DIM)
                    vector = here + 0.02 * noise
                    if share is not None:
                        vector = share * here @ turn + (1 - share) * noise
                    shot.vectors[view, name] = (vector / np.linalg.norm(vector)).astype(np.float32)
            for view in VIEWS:
                shot.vectors[view, PIXELS] = random.standard_normal(NUM_PIXELS).astype(np.float32)
            shots.append(shot)
    return shots


@pytest.fixture
def no_jax(monkeypatch: pytest.MonkeyPatch) -> None:
    """A camera without the training extra: faster, too."""
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "jax" else real(name)
    )


@cache
def audit(leak: float) -> tuple[str, list[str], list[dict]]:
    attacked, others = people(50, 0, leak=leak), people(200, 1000, leak=leak, pictures=1)
    findings = identity_findings(attacked, others, RECOGNIZERS, lambda _: None)
    rows = findings.rows + trait_rows(attacked, others)
    verdict, reasons = judge(rows, check_controls(rows, 2))
    return verdict, reasons, rows


@pytest.mark.usefixtures("no_jax")
def test_no_leak_passes_and_every_control_fires() -> None:
    verdict, reasons, rows = audit(0.0)
    assert verdict == "pass", reasons
    for row in rows:
        assert {"name", "recognizer", "metric", "value", "low", "high", "control_positive",
                "control_negative"} <= set(row)  # fmt: skip
        assert row["low"] <= row["value"] <= row["high"]


def test_a_leak_that_no_recognizer_sees_is_found_by_the_attackers_that_learn() -> None:
    verdict, reasons, rows = audit(0.5)
    assert verdict == "fail"
    assert any("deanonymize_picture" in reason for reason in reasons)
    naive = [r for r in rows if r["name"] == "reid" and r["protection"] == OURS]
    assert all(r["value"] < 0.2 for r in naive if r["metric"] == "rank1")


@pytest.mark.usefixtures("no_jax")
def test_a_blind_recognizer_makes_the_audit_broken() -> None:
    attacked, others = people(60, 0, leak=0.0), people(100, 1000, leak=0.0, pictures=1)
    random = np.random.default_rng(5)
    for shot in attacked:
        shot.vectors[COPY, "one"] = random.standard_normal(DIM).astype(np.float32)
    rows = identity_findings(attacked, others, RECOGNIZERS, lambda _: None).rows
    verdict, reasons = judge(rows, check_controls(rows, 2))
    assert verdict == "broken"
    assert any("unprotected copy" in reason for reason in reasons)


@pytest.mark.usefixtures("no_jax")
def test_one_recognizer_alone_is_broken() -> None:
    _, _, rows = audit(0.0)
    assert judge(rows, check_controls(rows, 1))[0] == "broken"


def test_nothing_measured_is_broken() -> None:
    assert judge([], check_controls([], 2))[0] == "broken"


def test_other_people_are_at_chance_in_every_row() -> None:
    _, _, rows = audit(0.5)
    for row in rows:
        if row["metric"] == "rank1":
            assert row["p_value_negative"] > 1e-5


@pytest.mark.usefixtures("no_jax")
def test_missing_jax_is_said() -> None:
    attacked, others = people(30, 0, leak=0.0), people(60, 1000, leak=0.0, pictures=1)
    findings = identity_findings(attacked, others, ("one",), lambda _: None)
    assert any("retrained_net: needs jax" in text for text in findings.skipped)
    assert not any(row["name"] == "retrained_net" for row in findings.rows)


@pytest.mark.usefixtures("no_jax")
def test_too_few_probes_are_said_not_measured() -> None:
    attacked = people(30, 0, leak=0.0, pictures=1)
    findings = identity_findings(attacked, people(60, 1000, leak=0.0), ("one",), lambda _: None)
    assert any("gallery other" in text for text in findings.skipped)
    assert {row["gallery"] for row in findings.rows} == {"same"}


def test_a_code_that_carries_a_thumbnail_is_caught_and_a_random_one_is_not() -> None:
    attacked, others = people(60, 0, leak=0.0), people(200, 1000, leak=0.0, pictures=1)
    target = Target.of(np.stack([s.vectors[ORIGINAL, "one"] for s in others]))
    rank1 = {}
    for view in (CODE, PLANTED_CODE):
        learned = learn_code(others, "one", target, is_planted=view == PLANTED_CODE)
        trial = build_trial(attacked, view, "one", gallery="other", learned=learned)
        rank1[view] = reid_figures(trial, raw_limits={})["rank1"].value
    assert rank1[CODE] < 0.12
    assert rank1[PLANTED_CODE] > 0.4


def test_raw_limits_are_reached_by_few_strangers() -> None:
    shots = people(80, 0, leak=0.0, pictures=1)
    limits = raw_limits(shots, "one")
    assert limits["1e-2"] <= limits["1e-3"]


def test_ridge_learns_a_linear_map_and_bears_constant_columns() -> None:
    random = np.random.default_rng(0)
    x = np.concatenate([random.standard_normal((200, 8)), np.ones((200, 1))], axis=1)
    weights = random.standard_normal((9, 4))
    learned = fit_ridge(x, x @ weights)
    fresh = np.concatenate([random.standard_normal((50, 8)), np.ones((50, 1))], axis=1)
    wanted = fresh @ weights - (x @ weights).mean(0)  # maps are around the mean
    assert np.abs(learned(fresh) - wanted).mean() < 0.2


def test_traits_in_the_code_are_guessed_and_random_codes_tell_nothing() -> None:
    attacked, others = people(120, 0, leak=0.0, pictures=1), people(300, 1000, leak=0.0, pictures=1)
    blind = {r["name"]: r["value"] for r in trait_rows(attacked, others)}
    assert all(abs(value - 0.5) < 0.2 for value in blind.values())
    for shot in attacked + others:
        assert shot.code is not None
        shot.code[0] = shot.traits["sex"]
    told = {r["name"]: r for r in trait_rows(attacked, others)}
    assert told["trait_sex_from_code"]["value"] > 0.95
    assert abs(told["trait_sex_from_code"]["control_negative"] - 0.5) < 0.1


@pytest.mark.parametrize(("epsilon", "bound"), [(0.0, 0.5), (1.0, 0.7311), (50.0, 1.0)])
def test_local_dp_bounds_the_guess(epsilon: float, bound: float) -> None:
    assert local_dp_bound(epsilon) == pytest.approx(bound, abs=1e-4)


def test_shots_keep_their_people_to_themselves() -> None:
    assert repr(people(1, 0, leak=0.0)[0]) == "Shot(withheld)"
