"""The shipped face bundle's promise is what its ledger says, recomputed by the accountant."""

from pathlib import Path

import dp_accounting
import pytest
from dp_accounting.pld import PLDAccountant

from veilcam.camera.manifest import load_bundle
from veilcam.model.ledger import NAME, promise, read_entries

STATE = Path(__file__).parents[2] / "scripts" / "state" / "face_private"


def test_epsilon_is_that_of_the_ledger_and_below_four() -> None:
    told = load_bundle().manifest["training"]
    assert told == promise(STATE / NAME)
    assert told["unit"] == "person"
    assert 0 < told["epsilon"] <= 4
    assert told["delta"] == 1e-5
    # again from the raw numbers, by a finer accountant than the product's
    accountant = PLDAccountant(dp_accounting.NeighboringRelation.REPLACE_SPECIAL, 1e-4)
    for entry in read_entries(STATE / NAME):
        mechanism = entry["mechanism"]
        step: dp_accounting.DpEvent = dp_accounting.GaussianDpEvent(mechanism["noise_multiplier"])
        if mechanism["sampling_prob"] < 1:
            step = dp_accounting.PoissonSampledDpEvent(mechanism["sampling_prob"], step)
        accountant.compose(dp_accounting.SelfComposedDpEvent(step, entry["spent"]))
    epsilon = accountant.get_epsilon(told["delta"])
    assert told["epsilon"] == pytest.approx(epsilon, rel=2e-3)
    assert told["epsilon"] >= epsilon


def test_private_people_are_named_as_such() -> None:
    data = load_bundle().manifest["data"]
    private = [entry for entry in data if entry["is_private"]]
    assert [entry["name"] for entry in private] == ["private"]
    assert private[0]["people"] == load_bundle().manifest["training"]["stages"][0]["num_persons"]
